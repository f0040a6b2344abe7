//! What was sent and what came, for each sender and recipient: nothing is lost, doubled or out of order unnoticed.

use std::collections::HashSet;

use ahash::RandomState;
use fastrand::Rng;

/// Who sends to whom: each to its next `per` neighbours in a circle, so that the pairs have places in a table.
#[derive(Clone, Copy, Debug)]
pub struct Peers {
    count: u32,
    per: u32,
    /// From one neighbour to the next.
    step: u32,
}

impl Peers {
    /// Among `count` connections: everybody, or as many as bound the table.
    pub fn new(count: u32) -> Peers {
        Peers {
            count,
            per: (count.saturating_sub(1)).clamp(1, PEERS_MAX),
            step: 1,
        }
    }

    /// Among `count` connections that are spread over so many servers in turn: those of the next server. All of them if `count` is a
    /// multiple of `servers`.
    pub fn across(count: u32, servers: u32) -> Peers {
        Peers {
            count,
            per: (count / servers).clamp(1, PEERS_MAX),
            step: servers,
        }
    }

    /// A random one of `from`'s. One who is alone sends to itself.
    pub fn pick(self, from: u32, random: &mut Rng) -> u32 {
        let to = from + 1 + self.step * random.u32(..self.per);
        if to >= self.count { to - self.count } else { to }
    }

    /// The pair's place in a table, if it is a pair.
    fn pair(self, from: u32, to: u32) -> Option<usize> {
        if from >= self.count || to >= self.count {
            return None;
        }
        let column = if to > from { to - from } else { to + self.count - from } - 1;
        let (column, rest) = (column / self.step, column % self.step);
        (rest == 0 && column < self.per).then_some((from * self.per + column) as usize)
    }

    fn pairs(self) -> usize {
        (self.count * self.per) as usize
    }
}

/// What an arrival says about its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was due.
    InOrder,
    /// So many before it have not come, and are taken for lost until they do.
    After {
        /// How many.
        missing: u32,
    },
    /// It was taken for lost: out of order.
    Late,
    /// It came before.
    Again,
    /// Nobody of this run sent it.
    Stray,
}

/// What went wrong, in messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Sent, and not delivered.
    pub lost: u64,
    /// Delivered after a later one.
    pub out_of_order: u64,
    /// Delivered more than once.
    pub doubled: u64,
    /// Delivered to whom they were not meant for, or never sent.
    pub stray: u64,
}

impl Faults {
    /// Adds another worker's.
    pub fn add(&mut self, other: Faults) {
        self.lost += other.lost;
        self.out_of_order += other.out_of_order;
        self.doubled += other.doubled;
        self.stray += other.stray;
    }

    /// Whether there are none.
    pub fn is_clean(&self) -> bool {
        *self == Faults::default()
    }
}

/// One sender and one recipient, in one place: the table is larger than the nearer caches.
#[derive(Clone, Copy, Debug, Default)]
struct Pair {
    /// The number of the next message.
    sent: u32,
    /// The number of the next arrival.
    due: u32,
}

/// The pairs of one worker.
#[derive(Debug)]
pub struct Ledger {
    peers: Peers,
    pairs: Vec<Pair>,
    /// Skipped, and not come yet. Small: it holds what was lost.
    missing: HashSet<(u32, u32), RandomState>,
    faults: Faults,
}

impl Ledger {
    /// Nothing sent yet.
    pub fn new(peers: Peers) -> Ledger {
        Ledger {
            peers,
            pairs: vec![Pair::default(); peers.pairs()],
            missing: HashSet::default(),
            faults: Faults::default(),
        }
    }

    /// The number of the message that is being sent.
    ///
    /// # Panics
    /// If `to` is not one of `from`'s peers.
    pub fn send(&mut self, from: u32, to: u32) -> u32 {
        let pair = self.peers.pair(from, to).expect("it was picked among the peers");
        let number = self.pairs[pair].sent;
        self.pairs[pair].sent += 1;
        number
    }

    /// A message arrived.
    pub fn arrive(&mut self, from: u32, to: u32, number: u32) -> Arrival {
        let known = self
            .peers
            .pair(from, to)
            .filter(|place| number < self.pairs[*place].sent);
        let Some(place) = known else {
            self.faults.stray += 1;
            return Arrival::Stray;
        };
        let due = self.pairs[place].due;
        if number == due {
            self.pairs[place].due += 1;
            return Arrival::InOrder;
        }
        if number < due {
            if self.missing.remove(&(place as u32, number)) {
                self.faults.out_of_order += 1;
                return Arrival::Late;
            }
            self.faults.doubled += 1;
            return Arrival::Again;
        }
        self.missing
            .extend((due..number).map(|missing| (place as u32, missing)));
        self.pairs[place].due = number + 1;
        Arrival::After { missing: number - due }
    }

    /// What went wrong, when nothing more is to come.
    pub fn faults(&self) -> Faults {
        let never: u64 = self.pairs.iter().map(|pair| u64::from(pair.sent - pair.due)).sum();
        Faults {
            lost: self.missing.len() as u64 + never,
            ..self.faults
        }
    }
}

/// A thousand connections then take four megabytes, twenty thousand eighty.
const PEERS_MAX: u32 = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sends_to_everybody_else_and_each_pair_has_a_place_of_its_own() {
        for count in [1, 2, 3, 50] {
            let peers = Peers::new(count);
            let mut random = Rng::with_seed(3);
            let mut places = HashSet::new();
            let mut pairs = HashSet::new();
            for _ in 0..20_000 {
                let from = random.u32(..count);
                let to = peers.pick(from, &mut random);
                assert!(count == 1 || to != from);
                places.insert(peers.pair(from, to).unwrap());
                pairs.insert((from, to));
            }
            assert_eq!(places.len(), peers.pairs());
            assert_eq!(pairs.len(), peers.pairs());
        }
        assert_eq!(Peers::new(1_000).pair(0, 600), None);
    }

    #[test]
    fn across_servers_everybody_sends_to_the_next_server() {
        for servers in [2, 3] {
            let peers = Peers::across(60, servers);
            let mut random = Rng::with_seed(4);
            let mut pairs = HashSet::new();
            for _ in 0..50_000 {
                let from = random.u32(..60);
                let to = peers.pick(from, &mut random);
                assert_eq!(to % servers, (from + 1) % servers);
                assert!(peers.pair(from, to).is_some());
                pairs.insert((from, to));
            }
            assert_eq!(pairs.len(), peers.pairs());
            assert_eq!(peers.pair(0, servers), None);
        }
    }

    #[test]
    fn a_swapped_pair_is_seen() {
        let mut ledger = Ledger::new(Peers::new(3));
        for _ in 0..3 {
            ledger.send(0, 1);
        }
        assert_eq!(ledger.arrive(0, 1, 0), Arrival::InOrder);
        assert_eq!(ledger.arrive(0, 1, 2), Arrival::After { missing: 1 });
        assert_eq!(ledger.faults().lost, 1);
        assert_eq!(ledger.arrive(0, 1, 1), Arrival::Late);
        let faults = ledger.faults();
        assert_eq!((faults.lost, faults.out_of_order), (0, 1));
    }

    #[test]
    fn what_never_comes_what_comes_twice_and_what_nobody_sent_is_counted() {
        let mut ledger = Ledger::new(Peers::new(3));
        for _ in 0..4 {
            ledger.send(2, 0);
        }
        ledger.arrive(2, 0, 0);
        assert_eq!(ledger.arrive(2, 0, 0), Arrival::Again);
        ledger.arrive(2, 0, 2);
        assert_eq!(ledger.arrive(2, 0, 9), Arrival::Stray);
        assert_eq!(ledger.arrive(2, 1, 0), Arrival::Stray);
        let faults = ledger.faults();
        let expected = Faults {
            lost: 2,
            out_of_order: 0,
            doubled: 1,
            stray: 2,
        };
        assert_eq!(faults, expected);
        assert!(!faults.is_clean());
    }
}
