//! Who has which version of the map, and what each is sent next.
//!
//! A subscriber has at most one map on its way. Its answer decides: an ack moves it on, to the newest version and not to those
//! between; a nack of a difference is followed by all of the map, a nack of all of it by nothing until there is a newer version; a
//! request is followed by all of it. A subscriber that doesn't answer within [`ANSWER_TIMEOUT`] is to be closed: it will join again.
//!
//! What is published here is on disk already; see [`crate::store`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use trunkline_wire::id::NodeId;
use trunkline_wire::map::{Map, MapId};
use trunkline_wire::time::Instant;

use crate::history::History;
use crate::logic::ConnectionId;
use crate::state::State;

/// How long a node may take to receive, check and store a map: tens of megabytes over a slow link.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Maps kept whole, since most subscribers are a version or two behind at most.
const RECENT_MAX: usize = 4;

/// Below this a difference is sent without asking whether all of the map would be less.
const DELTA_BYTES_SMALL: usize = 64 * 1024;

/// The published map, and its subscribers.
#[derive(Debug, Default)]
pub struct Publication {
    current: Option<Arc<Map>>,
    /// Earlier versions, newest last.
    recent: VecDeque<Arc<Map>>,
    /// What leads to the current version, by what it starts from: version 0 for all of it.
    encoded: BTreeMap<(u64, [u8; 16]), Transfer>,
    subscribers: BTreeMap<ConnectionId, Subscriber>,
}

/// A map as it is sent.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// What the bytes make.
    pub map: MapId,
    /// What they are a difference to; version 0: they are all of it.
    pub base: MapId,
    /// The encoding.
    pub bytes: Arc<[u8]>,
    /// All of the hash of what the bytes make.
    #[cfg(feature = "next-version")]
    pub whole: [u8; 32],
}

/// One node's connection.
#[derive(Debug)]
struct Subscriber {
    node: NodeId,
    /// What it has, as far as is known.
    held: MapId,
    flight: Option<Flight>,
    /// It can't use a difference to what it has.
    whole: bool,
    /// It refused all of this version: not to be offered again.
    refused: u64,
}

/// A map on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    map: MapId,
    base: MapId,
    since: Instant,
}

/// What became of a nack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nack {
    /// All of the map follows.
    Whole,
    /// Nothing follows before a newer version.
    GivenUp,
    /// It names a map that isn't on its way: old, or wrong.
    Unexpected,
}

impl Publication {
    /// The map that is published.
    pub fn current(&self) -> Option<&Arc<Map>> {
        self.current.as_ref()
    }

    /// The published map's id; version 0 if there is none.
    pub fn id(&self) -> MapId {
        self.current.as_ref().map_or(MapId::default(), |map| map.id())
    }

    /// Makes `map` the current one. Subscribers get it by [`Publication::next`].
    pub fn publish(&mut self, map: Arc<Map>) {
        self.encoded.clear();
        if let Some(before) = self.current.replace(map) {
            self.recent.push_back(before);
            if self.recent.len() > RECENT_MAX {
                self.recent.pop_front();
            }
        }
    }

    /// A node has joined, and has the map `held` (version 0: none that is of use).
    pub fn subscribe(&mut self, connection: ConnectionId, node: NodeId, held: MapId) {
        let subscriber = Subscriber {
            node,
            held,
            flight: None,
            whole: false,
            refused: 0,
        };
        self.subscribers.insert(connection, subscriber);
    }

    /// A node's connection is gone.
    pub fn unsubscribe(&mut self, connection: ConnectionId) {
        self.subscribers.remove(&connection);
    }

    /// All connections with a subscriber.
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.subscribers.keys().copied().collect()
    }

    /// The map that a node has acknowledged, or came with.
    pub fn held(&self, connection: ConnectionId) -> Option<MapId> {
        self.subscribers.get(&connection).map(|subscriber| subscriber.held)
    }

    /// A node has taken a map. False if that wasn't on its way.
    pub fn ack(&mut self, connection: ConnectionId, map: MapId) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(&connection) else {
            return false;
        };
        match subscriber.flight {
            Some(flight) if flight.map == map => {
                subscriber.held = map;
                subscriber.flight = None;
                subscriber.whole = false;
                true
            }
            Some(_) | None => false,
        }
    }

    /// A node has refused a map.
    pub fn nack(&mut self, connection: ConnectionId, map: MapId) -> Nack {
        let Some(subscriber) = self.subscribers.get_mut(&connection) else {
            return Nack::Unexpected;
        };
        match subscriber.flight {
            Some(flight) if flight.map == map => {
                subscriber.flight = None;
                if flight.base.version != 0 {
                    subscriber.whole = true;
                    Nack::Whole
                } else {
                    subscriber.refused = map.version;
                    Nack::GivenUp
                }
            }
            Some(_) | None => Nack::Unexpected,
        }
    }

    /// A node wants all of the map, whatever was on its way.
    pub fn request(&mut self, connection: ConnectionId) {
        if let Some(subscriber) = self.subscribers.get_mut(&connection) {
            subscriber.flight = None;
            subscriber.whole = true;
            subscriber.refused = 0;
        }
    }

    /// What this subscriber is to be sent now, if anything. It's on its way then.
    pub fn next(
        &mut self,
        now: Instant,
        connection: ConnectionId,
        state: &State,
        history: &History,
    ) -> Option<Transfer> {
        let current = self.current.clone()?;
        let subscriber = self.subscribers.get(&connection)?;
        let up_to_date = subscriber.held == current.id() && !subscriber.whole;
        if subscriber.flight.is_some() || up_to_date || subscriber.refused == current.id().version {
            return None;
        }
        let base = if subscriber.whole {
            MapId::default()
        } else {
            subscriber.held
        };
        let transfer = self.transfer(&current, base, state, history);
        let subscriber = self.subscribers.get_mut(&connection).expect("found above");
        subscriber.flight = Some(Flight {
            map: transfer.map,
            base: transfer.base,
            since: now,
        });
        Some(transfer)
    }

    /// Nodes that owe an answer for too long.
    pub fn overdue(&self, now: Instant) -> Vec<(ConnectionId, NodeId)> {
        let late = |subscriber: &Subscriber| {
            subscriber
                .flight
                .is_some_and(|flight| now >= flight.since + ANSWER_TIMEOUT)
        };
        let overdue = self.subscribers.iter().filter(|(_, subscriber)| late(subscriber));
        overdue
            .map(|(connection, subscriber)| (*connection, subscriber.node))
            .collect()
    }

    /// When the next answer is overdue.
    pub fn deadline(&self) -> Instant {
        let flights = self.subscribers.values().filter_map(|subscriber| subscriber.flight);
        flights
            .map(|flight| flight.since + ANSWER_TIMEOUT)
            .min()
            .unwrap_or(Instant::NEVER)
    }

    /// The bytes from `base` to the current version: made once for all subscribers.
    fn transfer(&mut self, current: &Arc<Map>, base: MapId, state: &State, history: &History) -> Transfer {
        let key = (base.version, base.digest);
        if let Some(transfer) = self.encoded.get(&key) {
            return transfer.clone();
        }
        let delta = self.base(base, state, history).map(|map| Map::delta(&map, current));
        let transfer = match delta {
            Some(delta) if delta.len() < DELTA_BYTES_SMALL || delta.len() < self.whole(current).bytes.len() => {
                Transfer {
                    map: current.id(),
                    base,
                    bytes: delta.into(),
                    #[cfg(feature = "next-version")]
                    whole: current.whole(),
                }
            }
            Some(_) | None => self.whole(current),
        };
        self.encoded.insert(key, transfer.clone());
        transfer
    }

    fn whole(&mut self, current: &Map) -> Transfer {
        let none = MapId::default();
        let transfer = self
            .encoded
            .entry((none.version, none.digest))
            .or_insert_with(|| Transfer {
                map: current.id(),
                base: none,
                bytes: current.encode().into(),
                #[cfg(feature = "next-version")]
                whole: current.whole(),
            });
        transfer.clone()
    }

    fn base(&self, id: MapId, state: &State, history: &History) -> Option<Arc<Map>> {
        if id.version == 0 {
            return None;
        }
        let recent = self.recent.iter().find(|map| map.id() == id).cloned();
        recent.or_else(|| history.rewind(state, id).map(Arc::new))
    }
}
