//! Sockets on their way from one ring to another.
//!
//! A message between rings puts a descriptor into a free place of the target's table and tells the *sender* which: from then on the socket
//! is the target's kernel side, and whoever has the [`Socket`] value may adopt it there. The target's loop must run for it to
//! complete. A value that is dropped instead leaves its place with the target, to be closed.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::types::Fixed;

use super::EventBell;
use crate::doorbell::Doorbell;
use crate::driver::Wake;

/// A driver as others see it.
#[derive(Debug)]
pub(super) struct Berth {
    doorbell: Arc<Doorbell<EventBell>>,
    /// The ring. A descriptor of its own, so that a message that is yet to be submitted can't reach whatever file has the number of
    /// a ring that was closed meanwhile.
    ring: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The driver was dropped.
    left: bool,
    /// Places whose sockets nobody adopted.
    abandoned: Vec<Fixed>,
}

impl Berth {
    pub(super) fn new(ring: OwnedFd, doorbell: Arc<Doorbell<EventBell>>) -> Arc<Berth> {
        let state = State {
            left: false,
            abandoned: Vec::new(),
        };
        Arc::new(Berth {
            doorbell,
            ring,
            state: Mutex::new(state),
        })
    }

    /// Lets `send` start a message to the ring, if there still is one; it's not closed meanwhile.
    pub(super) fn with_ring<T>(&self, send: impl FnOnce(RawFd) -> T) -> Option<T> {
        let state = self.state();
        (!state.left).then(|| send(self.ring()))
    }

    /// The ring, which this keeps from being closed.
    pub(super) fn ring(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn doorbell(&self) -> &Doorbell<EventBell> {
        &self.doorbell
    }

    /// The driver is going; nothing reaches it any more.
    pub(super) fn leave(&self) {
        let mut state = self.state();
        state.left = true;
        state.abandoned.clear();
    }

    /// Takes out the places to close.
    pub(super) fn take_abandoned(&self) -> Vec<Fixed> {
        std::mem::take(&mut self.state().abandoned)
    }

    fn abandon(&self, place: Fixed) {
        let mut state = self.state();
        if !state.left {
            state.abandoned.push(place);
            drop(state);
            self.doorbell.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked held plain data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where hand-overs and wake-ups go: a ring of this process.
#[derive(Clone, Debug)]
pub struct Address(pub(super) Arc<Berth>);

/// A socket on its way between two rings: a place in the table of the ring that it goes to.
#[derive(Debug)]
pub struct Socket {
    berth: Arc<Berth>,
    /// Present until it's adopted.
    place: Option<Fixed>,
}

impl Socket {
    pub(super) fn new(berth: Arc<Berth>, place: Fixed) -> Socket {
        Socket {
            berth,
            place: Some(place),
        }
    }

    /// Whether it's in the table behind `berth`.
    pub(super) fn is_at(&self, berth: &Arc<Berth>) -> bool {
        Arc::ptr_eq(&self.berth, berth)
    }

    /// Its place, which is the caller's to close from now on.
    pub(super) fn adopt(mut self) -> Fixed {
        self.place.take().expect("only adoption takes it, and that once")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.berth.abandon(place);
        }
    }
}
