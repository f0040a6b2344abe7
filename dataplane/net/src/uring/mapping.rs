//! Anonymous memory that the kernel may write to behind the compiler's back: reached by raw pointers only.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Zeroed pages of one's own, aligned to a page, at one address until dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<c_void>,
    length: NonZeroUsize,
    kept: bool,
}

impl Mapping {
    /// At least `length` bytes.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn new(length: usize) -> io::Result<Mapping> {
        let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice overlaps nothing.
        let start = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE)? };
        Ok(Mapping {
            start,
            length,
            kept: false,
        })
    }

    /// The first byte.
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start.cast()
    }

    pub(super) fn length(&self) -> usize {
        self.length.get()
    }

    /// Leaves the pages where they are, for good.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // SAFETY: the mapping is this value's own and whole; who holds pointers into it has promised to be gone.
        let unmapped = unsafe { munmap(self.start, self.length.get()) };
        debug_assert!(unmapped.is_ok(), "our own mapping");
    }
}
