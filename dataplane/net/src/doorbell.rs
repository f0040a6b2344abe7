//! The wake-up of a driver that faces the system, at the price of a system call only when its thread sleeps.
//!
//! ```text
//!          ┌────────────── answer ───────────────┐
//!          ▼                                     │
//! Awake ──sleep──▶ Asleep ──wake (the bell)──▶ Rung
//!   │                                            ▲
//!   └────────────────── wake ────────────────────┘
//! ```
//!
//! No wake is lost: a thread that goes to sleep does so by an exchange that fails if a wake came first, and a wake that finds the
//! thread asleep rings the bell. A wake that finds another one unanswered folds into it: what its caller did before is
//! seen by whoever answers, since both go through the same atomic.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::driver::Wake;

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

/// What ends the sleep of a driver's thread.
pub(crate) trait Bell: Send + Sync {
    /// Ends the current sleep, or the next.
    fn ring(&self);
}

impl Bell for mio::Waker {
    fn ring(&self) {
        // Fails only if the eventfd is not ours any more, and then nobody sleeps on it.
        let _ = self.wake();
    }
}

/// Shared between the driver and those who wake it.
#[derive(Debug)]
pub(crate) struct Doorbell<B> {
    state: AtomicU8,
    bell: B,
}

impl<B: Bell> Doorbell<B> {
    pub(crate) fn new(bell: B) -> Doorbell<B> {
        Doorbell {
            state: AtomicU8::new(AWAKE),
            bell,
        }
    }

    /// What the driver sleeps on.
    #[cfg(target_os = "linux")]
    pub(crate) fn bell(&self) -> &B {
        &self.bell
    }

    /// Before the driver blocks; false if somebody rang, and it must not.
    pub(crate) fn sleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// While the driver spins: whether somebody rang since the last answer.
    pub(crate) fn rung(&self) -> bool {
        self.state.load(Ordering::Acquire) == RUNG
    }

    /// Wakes by other means than the bell: `ring` is called if the driver sleeps, and must end that sleep.
    pub(crate) fn wake_by(&self, ring: impl FnOnce()) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            ring();
        }
    }

    /// After the driver blocked, or instead of it: whether somebody rang since the last answer.
    pub(crate) fn answer(&self) -> bool {
        // The load spares the exclusive access when nobody rang. Missing a ring that comes now is no loss: it is still there
        // for the next `sleep`.
        self.state.load(Ordering::Relaxed) != AWAKE && self.state.swap(AWAKE, Ordering::AcqRel) == RUNG
    }
}

impl<B: Bell> Wake for Doorbell<B> {
    fn wake(&self) {
        self.wake_by(|| self.bell.ring());
    }
}
