//! How much may wait for a link: the less, the slower it goes.
//!
//! So many bytes are a moment's work of one link and many seconds' of another. Messages that wait for longer than they are worth reach
//! nobody in time, and hold up those behind them: after there was too much to do for a while, a queue would stay as long as it is, and all
//! in it too late. So where a link's queue doesn't empty, no more may wait than it carries in [`WAIT_MAX`].
//!
//! Nothing is learnt from a link that stands still: when the other side goes on, it does so at once.

use std::time::Duration;

use trunkline_wire::time::Instant;

/// How much may wait for one link.
#[derive(Debug)]
pub(crate) struct QueueBound {
    bytes: usize,
    window: Option<Window>,
}

/// A time in which something waited without a break.
#[derive(Clone, Copy, Debug)]
struct Window {
    since: Instant,
    /// When something was carried last.
    last: Instant,
    carried: usize,
}

impl Default for QueueBound {
    fn default() -> QueueBound {
        QueueBound {
            bytes: QUEUE_BYTES_MAX,
            window: None,
        }
    }
}

impl QueueBound {
    /// So many bytes may wait, those in flight included.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The link has carried `length` bytes, and `waiting` are behind them.
    pub(crate) fn carried(&mut self, now: Instant, length: usize, waiting: usize) {
        if waiting == 0 {
            *self = QueueBound::default();
            return;
        }
        let begun = Window {
            since: now,
            last: now,
            carried: 0,
        };
        let Some(window) = self.window.filter(|window| now - window.last <= STILL_AFTER) else {
            self.window = Some(begun);
            return;
        };
        let carried = window.carried + length;
        let span = now - window.since;
        if span < WAIT_MAX {
            let last = now;
            self.window = Some(Window {
                last,
                carried,
                ..window
            });
            return;
        }
        let in_time = carried as u128 * WAIT_MAX.as_micros() / span.as_micros();
        self.bytes = (in_time as usize).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX);
        self.window = Some(begun);
    }
}

/// How long what is queued for a link may wait, about: short against what messages live, long against the hiccups of a network.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// A link that has carried nothing for so long stood still.
const STILL_AFTER: Duration = Duration::from_millis(250);
/// May wait on the slowest link: a few of the largest messages.
const QUEUE_BYTES_MIN: usize = 256 << 10;
/// May wait on any.
pub(crate) const QUEUE_BYTES_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 10_000;
    const WAITING: usize = 1_000_000;

    /// A chunk every `step` milliseconds, from `start` on, for `count` times. Returns when the last was carried.
    fn carry(bound: &mut QueueBound, start: u64, step: u64, count: u64, waiting: usize) -> u64 {
        for index in 0..count {
            bound.carried(Instant::from_micros((start + index * step) * 1_000), CHUNK, waiting);
        }
        start + (count - 1) * step
    }

    #[test]
    fn a_link_whose_queue_does_not_empty_takes_what_it_carries_in_half_a_second() {
        let mut bound = QueueBound::default();
        // A hundred chunks a second.
        let at = carry(&mut bound, 0, 10, 50, WAITING);
        assert_eq!(bound.bytes(), QUEUE_BYTES_MAX, "it isn't over");
        let at = carry(&mut bound, at + 10, 10, 1, WAITING);
        assert_eq!(bound.bytes(), 50 * CHUNK);
        // Then seventy.
        let at = carry(&mut bound, at + 14, 14, 37, WAITING);
        assert_eq!(bound.bytes(), 36 * CHUNK * 500 / (36 * 14));
        carry(&mut bound, at + 14, 14, 1, 0);
        assert_eq!(bound.bytes(), QUEUE_BYTES_MAX, "it is through with all");
    }

    #[test]
    fn few_bytes_may_always_wait_and_never_too_many() {
        let mut bound = QueueBound::default();
        carry(&mut bound, 0, 200, 20, WAITING);
        assert_eq!(bound.bytes(), QUEUE_BYTES_MIN);
        let mut bound = QueueBound::default();
        for index in 0..2_000 {
            bound.carried(Instant::from_micros(index * 1_000), 1 << 20, WAITING);
        }
        assert_eq!(bound.bytes(), QUEUE_BYTES_MAX);
    }

    #[test]
    fn a_link_that_stood_still_is_not_taken_for_a_slow_one() {
        let mut bound = QueueBound::default();
        let at = carry(&mut bound, 0, 10, 30, WAITING);
        // Three seconds later it goes on as before.
        let at = carry(&mut bound, at + 3_000, 10, 50, WAITING);
        assert_eq!(bound.bytes(), QUEUE_BYTES_MAX);
        carry(&mut bound, at + 10, 10, 1, WAITING);
        assert_eq!(bound.bytes(), 50 * CHUNK);
    }
}
