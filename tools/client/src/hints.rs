//! Whom the user is about to write to, as far as the server is told.
//!
//! One hint at a time: who opens another chat has left the one before. A hint that has to wait, for a connection or for its turn, gives
//! way to a newer one; it ends when a message to its recipient is taken in, which says the same, or when nothing has followed for
//! [`HINT_KEPT`]. Until then it is said again after a reconnect, since the new server knows nothing of it.
//!
//! The rate is the one that servers listen to; what they would ignore isn't said.

use std::collections::VecDeque;
use std::time::Duration;

use trunkline_core::predictor::HINTS_A_SECOND;
use trunkline_wire::device::Intend;
use trunkline_wire::frame::{Encode, HEADER_BYTES};
use trunkline_wire::id::{DeviceId, IdRef};
use trunkline_wire::time::Instant;

#[derive(Debug)]
pub(crate) struct Hints {
    last: Option<Hint>,
    /// When the last [`HINTS_A_SECOND`] were said, the oldest first.
    said: VecDeque<Instant>,
    /// When the one that waits for its turn has it.
    due: Instant,
}

#[derive(Debug)]
struct Hint {
    recipient: DeviceId,
    since: Instant,
    /// On the present connection.
    said: bool,
}

impl Hints {
    pub(crate) fn new() -> Hints {
        Hints {
            last: None,
            said: VecDeque::new(),
            due: Instant::NEVER,
        }
    }

    /// The user is about to write to `recipient`. Returns whether an earlier hint gave way before it was said.
    pub(crate) fn take(&mut self, now: Instant, recipient: IdRef<'_>) -> bool {
        self.lapse(now);
        match &mut self.last {
            Some(hint) if hint.recipient.borrow() == recipient => {
                if !hint.said {
                    hint.since = now;
                }
                false
            }
            last => {
                let before = last.replace(Hint {
                    recipient: recipient.to_owned(),
                    since: now,
                    said: false,
                });
                before.is_some_and(|hint| !hint.said)
            }
        }
    }

    /// A message to `recipient` was taken in.
    pub(crate) fn follow(&mut self, recipient: IdRef<'_>) {
        self.last.take_if(|hint| hint.recipient.borrow() == recipient);
    }

    /// Appends what is to be said, if it has its turn and `room` bytes are enough. Returns whether it was.
    pub(crate) fn write(&mut self, now: Instant, room: usize, out: &mut Vec<u8>) -> bool {
        self.due = Instant::NEVER;
        self.lapse(now);
        let Some(hint) = self.last.as_mut().filter(|hint| !hint.said) else {
            return false;
        };
        let spent = self.said.len() >= usize::from(HINTS_A_SECOND);
        if let Some(&first) = self.said.front().filter(|_| spent)
            && now < first + SECOND
        {
            self.due = first + SECOND;
            return false;
        }
        let recipient = hint.recipient.borrow();
        if HEADER_BYTES + 1 + recipient.as_str().len() > room {
            // Comes back when there is room.
            return false;
        }
        Intend { recipient }.encode(out);
        hint.said = true;
        if spent {
            self.said.pop_front();
        }
        self.said.push_back(now);
        true
    }

    /// When [`Hints::write`] has something to say that it had not when it was last called; [`Instant::NEVER`] if that is no matter of
    /// time.
    pub(crate) fn deadline(&self) -> Instant {
        self.due
    }

    /// What was said is to be said again to the next server.
    pub(crate) fn connection_lost(&mut self) {
        self.due = Instant::NEVER;
        if let Some(hint) = &mut self.last {
            hint.said = false;
        }
    }

    fn lapse(&mut self, now: Instant) {
        self.last.take_if(|hint| now >= hint.since + HINT_KEPT);
    }
}

/// A message that takes longer to write was no plan.
const HINT_KEPT: Duration = Duration::from_secs(30);
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1_000)
    }

    /// Takes the hint, and tries to say it.
    fn hint(hints: &mut Hints, ms: u64, to: &str) -> bool {
        hints.take(at(ms), IdRef::new(to).unwrap());
        say(hints, ms)
    }

    fn say(hints: &mut Hints, ms: u64) -> bool {
        let mut out = Vec::new();
        let said = hints.write(at(ms), usize::MAX, &mut out);
        assert_eq!(said, !out.is_empty());
        said
    }

    #[test]
    fn of_a_flood_four_a_second_are_said_and_then_the_last() {
        let mut hints = Hints::new();
        let mut said = Vec::new();
        for ms in 0..3_000 {
            if hint(&mut hints, ms, &format!("chat-{ms}")) {
                said.push(ms);
            }
        }
        assert_eq!(
            said,
            [0, 1, 2, 3, 1_000, 1_001, 1_002, 1_003, 2_000, 2_001, 2_002, 2_003]
        );
        assert_eq!(hints.deadline(), at(3_000));
        let mut out = Vec::new();
        assert!(hints.write(hints.deadline(), usize::MAX, &mut out));
        assert!(out.ends_with(b"chat-2999"));
        assert_eq!(hints.deadline(), Instant::NEVER);
    }

    #[test]
    fn the_same_is_said_once_until_it_is_half_a_minute_old() {
        let mut hints = Hints::new();
        assert!(hint(&mut hints, 0, "bob"));
        for second in 1..30 {
            assert!(!hint(&mut hints, second * 1_000, "bob"));
        }
        assert!(hint(&mut hints, 30_000, "bob"));
    }

    #[test]
    fn a_new_server_is_told_unless_a_message_has_followed_or_it_is_old() {
        let mut hints = Hints::new();
        assert!(hint(&mut hints, 0, "bob"));
        hints.connection_lost();
        assert!(say(&mut hints, 5_000));
        hints.connection_lost();
        assert!(!say(&mut hints, 30_000), "nobody plans for that long");
        assert!(hint(&mut hints, 31_000, "bob"));
        hints.follow(IdRef::new("cy").unwrap());
        hints.connection_lost();
        assert!(say(&mut hints, 32_000), "a message to somebody else says nothing");
        hints.follow(IdRef::new("bob").unwrap());
        hints.connection_lost();
        assert!(!say(&mut hints, 33_000));
    }

    #[test]
    fn without_room_it_waits_and_is_not_due() {
        let mut hints = Hints::new();
        hints.take(at(0), IdRef::new("bob").unwrap());
        let mut out = Vec::new();
        assert!(!hints.write(at(0), 4, &mut out) && out.is_empty());
        assert_eq!(hints.deadline(), Instant::NEVER);
        assert!(say(&mut hints, 1));
    }
}
