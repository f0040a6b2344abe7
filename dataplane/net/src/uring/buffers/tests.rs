//! The boundary with the kernel, with a real ring: who owns a buffer, and what the tail does after 65,535.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fd;

use super::*;
use crate::uring::probe;
use crate::uring::ring::Outcome;

/// A ring, its pools, and two ends of a stream. `None`, with a word why, where there is no io_uring.
struct Bench {
    ring: Ring,
    pools: Pools,
    near: UnixStream,
    far: UnixStream,
}

impl Bench {
    fn new(count: u32) -> Option<Bench> {
        if let Err(why) = probe() {
            println!("skipped: {why}");
            return None;
        }
        let ring = Ring::new(8, 16).unwrap();
        let pools = Pools::new(&ring, (count, 64), (1, 64)).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        Some(Bench { ring, pools, near, far })
    }

    fn pool(&mut self) -> &mut Pool {
        self.pools.of_mut(BufferGroup::Device)
    }

    /// One receive that ends at once.
    fn receive(&mut self) -> Outcome {
        let entry = opcode::Recv::new(Fd(self.far.as_raw_fd()), std::ptr::null_mut(), 0)
            .buf_group(BufferGroup::Device as u16)
            .build()
            .flags(Flags::BUFFER_SELECT)
            .user_data(1);
        // SAFETY: it writes to a buffer of the pool, and is over before this returns.
        unsafe { self.ring.push(entry) };
        let mut outcomes = Vec::new();
        while outcomes.is_empty() {
            self.ring.enter(None).unwrap();
            self.ring.take(&mut outcomes);
        }
        assert_eq!(outcomes.len(), 1);
        outcomes[0]
    }

    fn lend(&mut self, bytes: &[u8]) -> Buffer {
        self.near.write_all(bytes).unwrap();
        let outcome = self.receive();
        let buffer = self
            .pool()
            .lend(outcome.buffer.unwrap(), outcome.result as u32, outcome.followed);
        assert_eq!(self.pool().bytes(&buffer), bytes);
        buffer
    }
}

#[test]
fn the_tail_wraps_around_and_every_buffer_keeps_its_one_owner() {
    // Three buffers in a ring of four entries: entries and buffers don't keep step.
    let Some(mut bench) = Bench::new(3) else { return };
    let mut held: Option<Buffer> = None;
    let mut seen = BTreeSet::new();
    for turn in 0..70_000u32 {
        let bytes = turn.to_le_bytes();
        let buffer = bench.lend(&bytes);
        seen.insert(buffer.index);
        if let Some(before) = held.replace(buffer) {
            assert_eq!(
                bench.pool().bytes(&before),
                (turn - 1).to_le_bytes(),
                "written to while it was lent"
            );
            bench.pool().give_back(before);
        }
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
    assert_eq!(bench.pool().tail, (3 + 69_999u32) as u16, "it went past 65,535");
    assert_eq!(bench.pool().free(), 2);
}

#[test]
fn the_kernel_has_exactly_the_buffers_that_nobody_was_lent() {
    let Some(mut bench) = Bench::new(3) else { return };
    let lent: Vec<Buffer> = (0..3).map(|n| bench.lend(&[n])).collect();
    assert_eq!(bench.pool().free(), 0);
    bench.near.write_all(b"waits").unwrap();
    assert_eq!(bench.receive().error(), Some(nix::errno::Errno::ENOBUFS));
    for (n, buffer) in (0..).zip(lent) {
        assert_eq!(bench.pool().bytes(&buffer), [n]);
        bench.pool().give_back(buffer);
    }
    let outcome = bench.receive();
    assert_eq!(outcome.result, 5, "nothing was lost while there was no buffer");
    let index = outcome.buffer.unwrap();
    bench.pool().recycle(index);
    let indices: BTreeSet<u32> = (0..3).map(|n| bench.lend(&[n]).index).collect();
    assert_eq!(indices.len(), 3);
}

#[test]
#[cfg(debug_assertions)]
#[should_panic(expected = "came back twice")]
fn giving_back_twice_panics_in_debug() {
    let Some(mut bench) = Bench::new(2) else {
        panic!("came back twice: skipped")
    };
    let buffer = bench.lend(b"a");
    let forged = Buffer {
        group: buffer.group,
        index: buffer.index,
        length: buffer.length,
        followed: buffer.followed,
    };
    bench.pool().give_back(buffer);
    bench.pool().give_back(forged);
}
