//! Receive buffers that the kernel picks from, and gets back through a ring that both see.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// How many buffers there are: a power of two.
const BUFFERS: u16 = 4096;
/// How long each is: a turn's frames of one of two hundred busy connections, 32 of 128 bytes each under way.
const BUFFER_BYTES: usize = 4096;
/// Rings are page-aligned.
const PAGE_BYTES: usize = 4096;

/// A ring of provided buffers. It must outlive the `IoUring` that it is registered with.
pub struct Buffers {
    ring: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// The tail that the kernel has seen, and the entries filled since.
    tail: u16,
    filled: u16,
}

impl Buffers {
    /// Registers all buffers as `group`.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn register(uring: &IoUring, group: u16) -> io::Result<Buffers> {
        let mut buffers = Buffers {
            ring: allocate(ring_layout()).cast(),
            memory: allocate(memory_layout()),
            tail: 0,
            filled: 0,
        };
        for index in 0..BUFFERS {
            buffers.give_back(index);
        }
        // SAFETY: the address is that of `BUFFERS` zeroed, page-aligned entries, which are freed when `buffers` is dropped. By the
        // contract of this type that is after the ring is gone.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(buffers.ring.as_ptr() as u64, BUFFERS, group, 0)?;
        }
        buffers.publish();
        Ok(buffers)
    }

    /// The bytes of a buffer that a completion named, until it is given back.
    pub fn bytes(&self, index: u16, length: usize) -> &[u8] {
        assert!(
            index < BUFFERS && length <= BUFFER_BYTES,
            "buffer {index}, {length} bytes"
        );
        // SAFETY: within the allocation, as was just checked, which was zeroed and so is initialised. The kernel has handed this
        // buffer over with the completion and doesn't write to it until it is published again, for which `&mut self` is needed.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().add(usize::from(index) * BUFFER_BYTES), length) }
    }

    /// Returns a buffer; the kernel sees it after [`Buffers::publish`].
    pub fn give_back(&mut self, index: u16) {
        assert!(index < BUFFERS);
        let entry = self.tail.wrapping_add(self.filled) & (BUFFERS - 1);
        // SAFETY: both offsets are within their allocations: they are masked, or were just checked. The entry is not published,
        // so that the kernel doesn't read it: there are as many entries as buffers, and each buffer is in at most one. Only the
        // three fields are written, never the fourth, which is the tail in the first entry.
        unsafe {
            let entry = &mut *self.ring.as_ptr().add(usize::from(entry));
            entry.set_addr(self.memory.as_ptr().add(usize::from(index) * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(index);
        }
        self.filled += 1;
    }

    /// Shows the kernel what was given back.
    pub fn publish(&mut self) {
        if self.filled == 0 {
            return;
        }
        self.tail = self.tail.wrapping_add(self.filled);
        self.filled = 0;
        // SAFETY: the tail is an aligned `u16` inside the first entry, which lives as long as `self`; we alone write it, and the
        // kernel reads it atomically. Release makes the entries visible before it.
        unsafe {
            let tail = BufRingEntry::tail(self.ring.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts, and the kernel's ring is gone by the contract of this type.
        unsafe {
            dealloc(self.ring.as_ptr().cast(), ring_layout());
            dealloc(self.memory.as_ptr(), memory_layout());
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: neither layout is empty.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}

fn ring_layout() -> Layout {
    let entries = Layout::array::<BufRingEntry>(usize::from(BUFFERS)).expect("64 KiB");
    entries.align_to(PAGE_BYTES).expect("a power of two")
}

fn memory_layout() -> Layout {
    Layout::from_size_align(usize::from(BUFFERS) * BUFFER_BYTES, PAGE_BYTES).expect("16 MiB")
}

const _: () = assert!(BUFFERS.is_power_of_two() && size_of::<BufRingEntry>() == 16);
