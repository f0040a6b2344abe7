//! When each driver is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use trunkline_net::sim::DriverId;
use trunkline_wire::time::Instant;

/// A deadline mostly moves away with each turn, long before it has come. So a driver's place in the queue is moved only when it is due
/// earlier than it stands there, or when its place has come.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    queue: BinaryHeap<Reverse<(Instant, DriverId)>>,
    /// By driver.
    drivers: Vec<Timer>,
}

#[derive(Clone, Copy, Debug)]
struct Timer {
    due: Instant,
    /// Its first place in the queue, no later than it is due. Others are left over.
    queued: Instant,
}

impl Timers {
    /// From now on `id` is due at `due`.
    pub(crate) fn set(&mut self, id: DriverId, due: Instant) {
        let at = id.0 as usize;
        if at >= self.drivers.len() {
            let never = Timer {
                due: Instant::NEVER,
                queued: Instant::NEVER,
            };
            self.drivers.resize(at + 1, never);
        }
        let timer = &mut self.drivers[at];
        timer.due = due;
        if due < timer.queued {
            timer.queued = due;
            self.queue.push(Reverse((due, id)));
        }
    }

    /// Who is due first, and when.
    pub(crate) fn first(&mut self) -> Option<(Instant, DriverId)> {
        loop {
            let &Reverse((at, id)) = self.queue.peek()?;
            let timer = &mut self.drivers[id.0 as usize];
            if at == timer.queued && at == timer.due {
                return Some((at, id));
            }
            self.queue.pop();
            if at == timer.queued {
                timer.queued = timer.due;
                if timer.due != Instant::NEVER {
                    self.queue.push(Reverse((timer.due, id)));
                }
            }
        }
    }

    /// The first of those that are due at `now`: it is due no more.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<DriverId> {
        let (at, id) = self.first()?;
        if at > now {
            return None;
        }
        self.set(id, Instant::NEVER);
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn each_is_due_once_when_it_was_last_said_to_be() {
        let (a, b, c) = (DriverId(0), DriverId(1), DriverId(2));
        let mut timers = Timers::default();
        timers.set(a, at(10));
        timers.set(b, at(5));
        timers.set(c, at(7));
        // Later, earlier, and never.
        timers.set(b, at(20));
        timers.set(a, at(3));
        timers.set(c, Instant::NEVER);
        assert_eq!(timers.first(), Some((at(3), a)));
        assert_eq!(timers.take_due(at(2)), None);
        assert_eq!(timers.take_due(at(30)), Some(a));
        // Back to where it stood before.
        timers.set(a, at(10));
        assert_eq!(timers.take_due(at(15)), Some(a));
        assert_eq!(timers.take_due(at(15)), None);
        assert_eq!(timers.take_due(at(20)), Some(b));
        assert_eq!(timers.take_due(at(99)), None);
        assert_eq!(timers.first(), None);
    }

    #[test]
    fn the_queue_does_not_grow_with_deadlines_that_move_away() {
        let mut timers = Timers::default();
        for now in 0..1_000 {
            timers.set(DriverId(0), at(now + 10));
            assert_eq!(timers.take_due(at(now)), None);
        }
        assert_eq!(timers.queue.len(), 1);
    }
}
