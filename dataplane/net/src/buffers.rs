//! Pools of receive buffers: one allocation each, lent out by index, so that an idle connection holds none.
//!
//! Every buffer is either free or lent, never both; builds with debug assertions check it at each step.

use crate::driver::{Buffer, BufferGroup};

/// The buffers of one [`BufferGroup`].
#[derive(Debug)]
pub(crate) struct Pool {
    group: BufferGroup,
    storage: Vec<u8>,
    bytes_each: usize,
    /// Last in, first out: the buffer that came back last is the one still in cache.
    free: Vec<u32>,
    #[cfg(debug_assertions)]
    lent: Vec<bool>,
}

impl Pool {
    /// `count` buffers of `bytes_each`. The memory is zero pages until it is first used.
    pub(crate) fn new(group: BufferGroup, count: u32, bytes_each: u32) -> Pool {
        assert!(count > 0 && bytes_each > 0, "a pool without a byte can't receive");
        Pool {
            group,
            storage: vec![0; count as usize * bytes_each as usize],
            bytes_each: bytes_each as usize,
            free: (0..count).rev().collect(),
            #[cfg(debug_assertions)]
            lent: vec![false; count as usize],
        }
    }

    /// Whether every buffer is out.
    pub(crate) fn exhausted(&self) -> bool {
        self.free.is_empty()
    }

    /// Bytes that fit into one buffer.
    pub(crate) fn bytes_each(&self) -> usize {
        self.bytes_each
    }

    /// Lends the buffer that `fill` has put at least one byte into; without a byte it stays free.
    ///
    /// `None` if every buffer is out.
    pub(crate) fn lend<E>(
        &mut self,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Option<Result<Option<Buffer>, E>> {
        let index = *self.free.last()?;
        let start = index as usize * self.bytes_each;
        let length = match fill(&mut self.storage[start..start + self.bytes_each]) {
            Ok(0) => return Some(Ok(None)),
            Ok(length) => length,
            Err(error) => return Some(Err(error)),
        };
        self.free.pop();
        #[cfg(debug_assertions)]
        {
            assert!(!self.lent[index as usize], "buffer {index} was lent twice");
            self.lent[index as usize] = true;
        }
        Some(Ok(Some(Buffer {
            group: self.group,
            index,
            length: length as u32,
            followed: false,
        })))
    }

    /// The bytes of a lent buffer.
    pub(crate) fn bytes(&self, buffer: &Buffer) -> &[u8] {
        #[cfg(debug_assertions)]
        assert!(self.lent[buffer.index as usize], "buffer {} is not lent", buffer.index);
        let start = buffer.index as usize * self.bytes_each;
        &self.storage[start..start + buffer.length as usize]
    }

    /// Takes a lent buffer back.
    pub(crate) fn give_back(&mut self, buffer: Buffer) {
        #[cfg(debug_assertions)]
        {
            let lent = &mut self.lent[buffer.index as usize];
            assert!(*lent, "buffer {} came back twice", buffer.index);
            *lent = false;
        }
        self.free.push(buffer.index);
    }
}

/// The pools of a driver, one for each group.
#[derive(Debug)]
pub(crate) struct Pools([Pool; 2]);

impl Pools {
    pub(crate) fn new(device: (u32, u32), link: (u32, u32)) -> Pools {
        Pools([
            Pool::new(BufferGroup::Device, device.0, device.1),
            Pool::new(BufferGroup::Link, link.0, link.1),
        ])
    }

    pub(crate) fn of(&self, group: BufferGroup) -> &Pool {
        &self.0[group as usize]
    }

    pub(crate) fn of_mut(&mut self, group: BufferGroup) -> &mut Pool {
        &mut self.0[group as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lend(pool: &mut Pool, bytes: &[u8]) -> Option<Buffer> {
        pool.lend(|room| {
            room[..bytes.len()].copy_from_slice(bytes);
            Ok::<usize, ()>(bytes.len())
        })?
        .unwrap()
    }

    #[test]
    fn a_lent_buffer_keeps_its_bytes_until_it_comes_back() {
        let mut pool = Pool::new(BufferGroup::Device, 2, 4);
        let a = lend(&mut pool, b"aaaa").unwrap();
        let b = lend(&mut pool, b"bb").unwrap();
        assert!(pool.exhausted());
        assert_eq!(lend(&mut pool, b"c"), None);
        assert_eq!((pool.bytes(&a), pool.bytes(&b)), (&b"aaaa"[..], &b"bb"[..]));
        pool.give_back(a);
        assert!(lend(&mut pool, b"cccc").is_some());
        assert_eq!(pool.bytes(&b), b"bb");
    }

    #[test]
    fn a_read_without_bytes_lends_nothing() {
        let mut pool = Pool::new(BufferGroup::Link, 1, 4);
        assert_eq!(pool.lend(|_| Ok::<usize, ()>(0)), Some(Ok(None)));
        assert_eq!(pool.lend(|_| Err("reset")), Some(Err("reset")));
        assert!(!pool.exhausted());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "came back twice")]
    fn giving_back_twice_panics_in_debug() {
        let mut pool = Pool::new(BufferGroup::Device, 2, 4);
        let a = lend(&mut pool, b"a").unwrap();
        let forged = Buffer {
            group: a.group,
            index: a.index,
            length: a.length,
            followed: a.followed,
        };
        pool.give_back(a);
        pool.give_back(forged);
    }
}
