//! Messages that wait behind one to the same recipient that was answered "try again".
//!
//! A recipient that can't be reached now, since it is on its way to another server, say, is tried by one message: the oldest goes
//! *ahead*, the others wait *behind* it, in the order in which they were taken in. So what never left needs no retry, and order is kept.
//! As soon as one comes to its end they follow, twice as many at a time with each that is answered, as TCP begins: the recipient's
//! queue is bounded.
//!
//! What a device sends at first, before anything that it sent has come to an end here, begins in the same way with a few messages ahead:
//! a device that has just come sends again all that it has no report of, and its recipients may be on their way as well.
//!
//! ```text
//! tried again ──▶ behind ──the oldest, when nobody is ahead──▶ ahead ──tried again──▶ behind
//! taken in meanwhile ─▲ └──────── its turn in the window ───────▲ └──an end──▶ over
//! ```

use std::collections::VecDeque;

use super::UnresolvedRef;

/// How a message stands to others to its recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It went before there was anything to wait for.
    Alone,
    /// It is under way, or tried again by its own timer, and others may wait behind it, as long as this stall lasts.
    Ahead {
        /// [`Stall::serial`].
        stall: u32,
    },
    /// It waits for the end of one that is ahead.
    Behind,
}

/// The messages to one recipient that could not be reached.
#[derive(Debug)]
pub(super) struct Stall {
    /// Names it among all that there were.
    pub(super) serial: u32,
    /// Those that wait, oldest first; some may have ended.
    pub(super) behind: VecDeque<UnresolvedRef>,
    /// How many are ahead, and their bytes.
    pub(super) ahead: usize,
    pub(super) ahead_bytes: usize,
    /// Of these, those that have yet to be sent.
    pub(super) ready: usize,
    /// How many may be. 0: one was tried again, and none has been answered since.
    window: usize,
    /// One was answered, and none had to be tried again since.
    reached: bool,
}

/// Messages to one recipient under way at a time when nobody knows whether it can be reached.
const WINDOW_FIRST: usize = 4;

/// Messages to one recipient under way at a time when it is reached again.
const WINDOW_MAX: usize = 64;
/// And their bytes: a quarter of what may wait for a device.
const WINDOW_BYTES_MAX: usize = crate::constants::DEVICE_QUEUE_BYTES_MAX / 4;
/// So many go ahead of the others when nobody answers: the way may be open by now, and a message that is silent waits for long.
const SILENT_MAX: usize = 4;

impl Stall {
    pub(super) fn new(serial: u32) -> Stall {
        Stall {
            serial,
            behind: VecDeque::new(),
            ahead: 0,
            ahead_bytes: 0,
            ready: 0,
            window: 0,
            reached: false,
        }
    }

    /// Of messages of which none has been sent yet.
    pub(super) fn beginning(serial: u32) -> Stall {
        Stall {
            window: WINDOW_FIRST,
            ..Stall::new(serial)
        }
    }

    /// Whether one more may go ahead.
    pub(super) fn has_room(&self) -> bool {
        self.ahead == 0 || self.ahead < self.window && self.ahead_bytes < WINDOW_BYTES_MAX
    }

    /// Whether one more may go ahead of the others although none of those that did was answered.
    pub(super) fn may_ask_again(&self) -> bool {
        self.ahead < SILENT_MAX
    }

    /// The recipient's way is open.
    pub(super) fn widen(&mut self) {
        self.window = (2 * self.window.max(1)).min(WINDOW_MAX);
        self.reached = true;
    }

    /// It took something, and what went next was refused or not answered in its time: it may have been too much.
    pub(super) fn narrow(&mut self) {
        self.window = self.window.min(1);
    }

    /// The recipient can't be reached.
    pub(super) fn close(&mut self) {
        self.window = 0;
        self.reached = false;
    }

    /// Puts a message back among those that wait, by its age.
    pub(super) fn put_back(&mut self, place: UnresolvedRef) {
        let is_older = |other: &UnresolvedRef| (place.generation.wrapping_sub(other.generation) as i32) > 0;
        let at = self.behind.partition_point(is_older);
        self.behind.insert(at, place);
    }

    pub(super) fn went(&mut self, bytes: usize) {
        self.ahead += 1;
        self.ahead_bytes += bytes;
    }

    /// A message of this standing is ahead no more, if it was.
    pub(super) fn came_back(&mut self, standing: Standing, bytes: usize) {
        if standing == (Standing::Ahead { stall: self.serial }) {
            self.ahead -= 1;
            self.ahead_bytes -= bytes;
        }
    }

    /// Nobody waits, and whoever comes next may go at once.
    pub(super) fn is_over(&self) -> bool {
        self.behind.is_empty() && self.ready == 0 && (self.reached || self.ahead == 0)
    }
}
