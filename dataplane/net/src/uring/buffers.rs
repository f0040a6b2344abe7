//! Receive buffers that the kernel picks from: a ring of free ones, shared with it.
//!
//! A buffer is the kernel's while it stands in the ring, and the caller's from the completion that names it until it's given back.
//! Builds with debug assertions keep a bit for each and check that it has exactly one owner at each step.
//!
//! The ring is a power of two of 16-byte entries, which the kernel consumes in order; the tail, 16 bits that wrap around, lies in the
//! first entry's last two bytes. There are never more buffers than entries, so that the tail can't overtake what the kernel
//! hasn't consumed.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::mapping::Mapping;
use super::ring::Ring;
use crate::driver::{Buffer, BufferGroup};

/// The buffers of one [`BufferGroup`].
#[derive(Debug)]
pub(super) struct Pool {
    group: BufferGroup,
    /// The entries.
    ring: Mapping,
    storage: Mapping,
    count: u32,
    bytes_each: u32,
    /// Entries less one.
    mask: u16,
    /// What the ring's tail says.
    tail: u16,
    /// Buffers that the caller has.
    lent: u32,
    #[cfg(debug_assertions)]
    is_lent: Vec<bool>,
}

impl Pool {
    /// Makes `count` buffers of `bytes_each` and registers them with `ring`, which they must outlive or [quiet](Ring::quiet).
    ///
    /// # Errors
    /// No memory, or what the kernel said to the registration.
    fn new(ring: &Ring, group: BufferGroup, count: u32, bytes_each: u32) -> io::Result<Pool> {
        assert!(count > 0 && bytes_each > 0, "a pool without a byte can't receive");
        assert!(count <= COUNT_MAX, "a ring of buffers has 32,768 entries at most");
        let entries = count.next_power_of_two() as u16;
        let mut pool = Pool {
            group,
            ring: Mapping::new(usize::from(entries) * size_of::<BufRingEntry>())?,
            storage: Mapping::new(count as usize * bytes_each as usize)?,
            count,
            bytes_each,
            mask: entries - 1,
            tail: 0,
            lent: 0,
            #[cfg(debug_assertions)]
            is_lent: vec![false; count as usize],
        };
        let address = pool.ring.start().as_ptr() as u64;
        // SAFETY: the mapping is page-aligned, holds `entries` entries, and outlives the registration by `new`'s contract.
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, entries, group as u16, 0)?;
        }
        for index in 0..count {
            pool.publish(index as u16);
        }
        Ok(pool)
    }

    /// How many the kernel has, or will have when all completions were taken out.
    pub(super) fn free(&self) -> u32 {
        self.count - self.lent
    }

    /// The buffer `index`, which a completion named, with the bytes in it.
    pub(super) fn lend(&mut self, index: u16, length: u32, followed: bool) -> Buffer {
        assert!(
            u32::from(index) < self.count && 0 < length && length <= self.bytes_each,
            "the kernel named buffer {index} with {length} bytes"
        );
        #[cfg(debug_assertions)]
        {
            let lent = &mut self.is_lent[usize::from(index)];
            assert!(!*lent, "buffer {index} was lent twice");
            *lent = true;
        }
        self.lent += 1;
        Buffer {
            group: self.group,
            index: index.into(),
            length,
            followed,
        }
    }

    /// The bytes of a lent buffer.
    pub(super) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        #[cfg(debug_assertions)]
        assert!(
            self.is_lent[buffer.index as usize],
            "buffer {} is not lent",
            buffer.index
        );
        let start = buffer.index as usize * self.bytes_each as usize;
        let length = buffer.length as usize;
        assert!(start + length <= self.storage.length(), "a buffer of another pool");
        // SAFETY: the range lies in the mapping, whose pages are initialised. A lent buffer doesn't stand in the ring, so the kernel
        // doesn't write to it, and it comes back into the ring only through `give_back`, which takes `&mut self` and the `Buffer`
        // that this borrow keeps.
        unsafe { std::slice::from_raw_parts(self.storage.start().as_ptr().add(start), length) }
    }

    /// Takes a lent buffer back.
    pub(super) fn give_back(&mut self, buffer: Buffer) {
        #[cfg(debug_assertions)]
        {
            let lent = &mut self.is_lent[buffer.index as usize];
            assert!(*lent, "buffer {} came back twice", buffer.index);
            *lent = false;
        }
        self.lent -= 1;
        self.publish(buffer.index as u16);
    }

    /// Returns a buffer that a completion named and nobody is told of.
    pub(super) fn recycle(&mut self, index: u16) {
        assert!(u32::from(index) < self.count, "the kernel named buffer {index}");
        #[cfg(debug_assertions)]
        assert!(!self.is_lent[usize::from(index)], "buffer {index} is lent");
        self.publish(index);
    }

    /// Puts a buffer into the ring. It must not stand in it.
    fn publish(&mut self, index: u16) {
        let at = usize::from(self.tail & self.mask);
        let base = self.ring.start().cast::<BufRingEntry>();
        let offset = usize::from(index) * self.bytes_each as usize;
        // SAFETY: `at` is below the number of entries that the mapping holds, and the kernel has consumed what was there: with this
        // buffer outside, fewer stand in the ring than it has entries. Each of the setters writes one field of this entry; the
        // tail, which lies in entry 0's last field, is none of them. `offset` lies in the storage, `index` being below `count`.
        unsafe {
            let mut entry = base.add(at);
            let entry = entry.as_mut();
            entry.set_addr(self.storage.start().add(offset).as_ptr() as u64);
            entry.set_len(self.bytes_each);
            entry.set_bid(index);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` is the first entry, aligned, in a live mapping; its tail field is aligned to 2 and written by nobody else. The
        // store is a release, so that the kernel sees the entry before the tail that covers it.
        unsafe {
            let tail = BufRingEntry::tail(base.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

/// The pools of a driver, one for each group.
#[derive(Debug)]
pub(super) struct Pools([Pool; 2]);

impl Pools {
    /// See [`Pool::new`].
    pub(super) fn new(ring: &Ring, device: (u32, u32), link: (u32, u32)) -> io::Result<Pools> {
        Ok(Pools([
            Pool::new(ring, BufferGroup::Device, device.0, device.1)?,
            Pool::new(ring, BufferGroup::Link, link.0, link.1)?,
        ]))
    }

    pub(super) fn of(&self, group: BufferGroup) -> &Pool {
        &self.0[group as usize]
    }

    pub(super) fn of_mut(&mut self, group: BufferGroup) -> &mut Pool {
        &mut self.0[group as usize]
    }

    /// Leaves the memory to a kernel that may still write to it.
    pub(super) fn keep(&mut self) {
        for pool in &mut self.0 {
            pool.ring.keep();
            pool.storage.keep();
        }
    }
}

/// By the kernel's own check.
pub(super) const COUNT_MAX: u32 = 32_768;

const _: () = assert!(size_of::<BufRingEntry>() == 16, "as the kernel lays it out");

#[cfg(test)]
mod tests;
