//! How a shard goes to sleep without missing what others leave for it.
//!
//! ```text
//! the sleeper: say so │ fence │ look whether something is there; if not, sleep
//! who leaves:  leave  │ fence │ look whether the shard sleeps;   if so, wake it
//! ```
//! Whichever fence comes first in their total order, the side of the other one sees what was written before it. Both sides may see
//! each other, which costs one wake-up too many; that neither does can't be.
//!
//! What is left, and how one sleeps and wakes, are the caller's. So are the atomics, which are named by `super`: `tests/loom_mesh.rs`
//! compiles this very file against loom's, and tries all interleavings.

use super::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

/// One shard's; the others knock at it.
///
/// The flag is only ever swapped, by all sides, so that everybody sees its values in one order: a bell that is late, and takes back
/// an earlier flag, is seen before the next flag. Plain stores would do as the language's memory model has it, but loom doesn't order
/// them after another thread's swap; and a turn has few of them.
#[derive(Default)]
pub(crate) struct Door {
    sleeping: AtomicBool,
    /// Orders announced and not taken yet.
    mail: AtomicUsize,
}

impl Door {
    /// After something was left for the shard: calls `wake` if it sleeps, and nobody else has woken it.
    pub(crate) fn ring(&self, wake: impl FnOnce()) {
        // Pairs with the fence in `about_to_sleep`.
        fence(Ordering::SeqCst);
        // The swap acquires what the sleeper did before it said so: its waker is in place.
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            wake();
        }
    }

    /// Before sleeping; false if there is something to do first. `is_idle` says whether all that others may leave is empty. After it
    /// and the sleep, [`Door::awake`].
    pub(crate) fn about_to_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool {
        // Release, for the waker: see `ring`.
        self.sleeping.swap(true, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let idle = !self.has_mail() && is_idle();
        if !idle {
            self.awake();
        }
        idle
    }

    /// After sleeping.
    pub(crate) fn awake(&self) {
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Before an order is left. Between this and the leaving, the shard takes turns without finding it.
    pub(crate) fn announce(&self) {
        self.mail.fetch_add(1, Ordering::Release);
    }

    /// Whether an order was announced and not taken.
    pub(crate) fn has_mail(&self) -> bool {
        self.mail.load(Ordering::Acquire) != 0
    }

    /// After an order was taken.
    pub(crate) fn taken(&self) {
        self.mail.fetch_sub(1, Ordering::AcqRel);
    }
}
