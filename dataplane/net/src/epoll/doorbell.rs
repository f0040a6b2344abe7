//! The wake-up of an `EpollDriver`, at the price of a system call only when its thread sleeps.
//!
//! ```text
//!          ┌────────────── answer ───────────────┐
//!          ▼                                     │
//! Awake ──sleep──▶ Asleep ──ring (eventfd)──▶ Rung
//!   │                                            ▲
//!   └────────────────── ring ────────────────────┘
//! ```
//!
//! No ring is lost: a thread that goes to sleep does so by an exchange that fails if a ring came first, and a ring that finds the
//! thread asleep writes to the eventfd. A ring that finds another one unanswered folds into it: what its caller did before is
//! seen by whoever answers, since both go through the same atomic.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::driver::Wake;

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

/// Shared between the driver and those who wake it.
#[derive(Debug)]
pub(crate) struct Doorbell {
    state: AtomicU8,
    waker: mio::Waker,
}

impl Doorbell {
    /// A doorbell that shows in `registry` as `token`.
    pub(crate) fn new(registry: &mio::Registry, token: mio::Token) -> io::Result<Doorbell> {
        Ok(Doorbell {
            state: AtomicU8::new(AWAKE),
            waker: mio::Waker::new(registry, token)?,
        })
    }

    /// Before the driver blocks; false if somebody rang, and it must not.
    pub(crate) fn sleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// After the driver blocked, or instead of it: whether somebody rang since the last answer.
    pub(crate) fn answer(&self) -> bool {
        // The load spares the exclusive access when nobody rang. Missing a ring that comes now is no loss: it is still there
        // for the next `sleep`.
        self.state.load(Ordering::Relaxed) != AWAKE && self.state.swap(AWAKE, Ordering::AcqRel) == RUNG
    }
}

impl Wake for Doorbell {
    fn wake(&self) {
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP {
            // Fails only if the eventfd is not ours any more, and then nobody sleeps on it.
            let _ = self.waker.wake();
        }
    }
}
