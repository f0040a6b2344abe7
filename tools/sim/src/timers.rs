//! When each driver is due.

use trunkline_net::sim::DriverId;
use trunkline_wire::time::Instant;

/// A deadline moves with each turn, mostly away, long before it has come. So this is a tree in which each driver has its own place, rather
/// than a queue to which places are added: a change goes up no further than it decides what is due first.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// At 1 the earliest of all; at `n` the earlier of those at `2n` and `2n + 1`; the second half are the drivers, by their ids.
    earliest: Vec<Instant>,
}

impl Timers {
    /// From now on `id` is due at `due`.
    pub(crate) fn set(&mut self, id: DriverId, due: Instant) {
        if id.0 as usize >= self.width() {
            self.widen(id.0 as usize + 1);
        }
        let mut at = self.width() + id.0 as usize;
        let mut earliest = due;
        while self.earliest[at] != earliest {
            self.earliest[at] = earliest;
            earliest = earliest.min(self.earliest[at ^ 1]);
            at /= 2;
            if at == 0 {
                return;
            }
        }
    }

    /// When somebody is due; `NEVER` if nobody is.
    pub(crate) fn next(&self) -> Instant {
        self.earliest.get(1).copied().unwrap_or(Instant::NEVER)
    }

    /// Who is due first: the one with the lowest id, if there are several.
    pub(crate) fn first(&self) -> Option<DriverId> {
        let next = self.next();
        if next == Instant::NEVER {
            return None;
        }
        let mut at = 1;
        while at < self.width() {
            at = 2 * at + usize::from(self.earliest[2 * at] != next);
        }
        Some(DriverId((at - self.width()) as u32))
    }

    /// The first of those that are due at `now`: it is due no more.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<DriverId> {
        if self.next() > now {
            return None;
        }
        let id = self.first()?;
        self.set(id, Instant::NEVER);
        Some(id)
    }

    /// For how many drivers there is a place.
    fn width(&self) -> usize {
        self.earliest.len() / 2
    }

    fn widen(&mut self, drivers: usize) {
        let known = self.earliest.split_off(self.width());
        self.earliest = vec![Instant::NEVER; 2 * drivers.next_power_of_two()];
        for (id, due) in (0..).map(DriverId).zip(known) {
            self.set(id, due);
        }
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
        assert_eq!((timers.next(), timers.first()), (at(3), Some(a)));
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
    fn who_comes_later_takes_nobodys_place() {
        let mut timers = Timers::default();
        for id in (0..100).rev() {
            timers.set(DriverId(id), at(u64::from(id % 10)));
        }
        let due: Vec<u32> = std::iter::from_fn(|| timers.take_due(at(9))).map(|id| id.0).collect();
        let mut sorted: Vec<u32> = (0..100).collect();
        sorted.sort_by_key(|id| id % 10);
        assert_eq!(due, sorted);
        assert_eq!(timers.first(), None);
    }
}
