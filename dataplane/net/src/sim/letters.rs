//! What is left for a world from outside of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Left by whatever thread, and taken by the world's, which looks at every step: that nothing is there costs it no lock.
#[derive(Debug)]
pub(super) struct Letters<T> {
    /// Written under the lock only.
    any: AtomicBool,
    list: Mutex<Vec<T>>,
}

impl<T> Default for Letters<T> {
    fn default() -> Letters<T> {
        Letters {
            any: AtomicBool::new(false),
            list: Mutex::default(),
        }
    }
}

impl<T> Letters<T> {
    pub(super) fn put(&self, letter: T) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(letter);
        self.any.store(true, Ordering::Release);
    }

    /// The one that was left last, of those that are there.
    #[inline]
    pub(super) fn take(&self) -> Option<T> {
        match self.any.load(Ordering::Acquire) {
            true => self.take_one(),
            false => None,
        }
    }

    #[cold]
    fn take_one(&self) -> Option<T> {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        let letter = list.pop();
        self.any.store(!list.is_empty(), Ordering::Release);
        letter
    }
}
