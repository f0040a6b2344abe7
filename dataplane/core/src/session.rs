//! One device's session at the shard that owns it, and the table of them.
//!
//! ```text
//! Registering ──all reachable instances have taken it, or one has and 250 ms are over, or 3 s more──▶ Open ──▶ gone
//!     └───────── closed, superseded, out of turn ────────────────────────────────────────────────────────────▲
//! ```

use std::collections::VecDeque;

use slab::Slab;
use trunkline_wire::device::Purpose;
use trunkline_wire::id::{DeviceId, DeviceKey, Epoch, Instance, NodeId, PartnerKey, RegionId};
use trunkline_wire::report::{Trail, Way};
use trunkline_wire::time::Instant;

use crate::outbox::Conn;
use crate::predictor::Habits;
use trunkline_wire::keyed::KeyMap;

/// A session's place in its table: an index, and which of the sessions that had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionRef {
    index: u32,
    generation: u32,
}

/// What a session is waiting for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its region is being told; the device has not been welcomed.
    Registering {
        /// The instances that haven't answered, each for its region. Empty with `until` in the future: none was reachable.
        waiting: Vec<(RegionId, NodeId)>,
        /// When it is welcomed all the same.
        until: Instant,
        /// Its epoch was raised once already.
        raised: bool,
        /// Whether anybody can find it yet.
        found: Found,
    },
    /// The device was welcomed.
    Open,
}

/// Whether a session that is being registered is known to an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// None that is asked for the device has answered yet.
    NotYet,
    /// One has taken it, at least.
    Somewhere,
    /// None has answered in time: the first that does is enough.
    Nowhere,
}

/// A confirmed message that was written to the device and not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub struct Unacknowledged {
    /// Whose it is.
    pub sender_key: DeviceKey,
    /// Which start of the sender's library.
    pub instance: Instance,
    /// The message's number.
    pub number: u64,
    /// Which nodes it passed: the way back for its reply.
    pub trail: Trail,
    /// Which way it took.
    pub way: Way,
}

/// How far a session's region knows whom its device has to do with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How often it was told.
    pub counter: u16,
    /// Something is to be told, and a timer will see to it.
    pub due: bool,
}

/// A device's session.
#[derive(Debug)]
pub struct Session {
    generation: u32,
    /// Its connection.
    pub conn: Conn,
    /// Its device inside the cluster.
    pub key: DeviceKey,
    /// Its device; `None` only while a message of its own is being routed.
    pub id: Option<DeviceId>,
    /// Which start of the device's library.
    pub instance: Instance,
    /// The protocol version that was negotiated.
    pub version: u8,
    /// Which of the device's sessions it is; none if it only sends.
    pub epoch: Epoch,
    /// Whether it receives.
    pub purpose: Purpose,
    /// Where it is in its life.
    pub state: State,
    /// Regions that it belonged to by older maps. Nodes that still have one of those find it there, until it ends.
    pub regions_before: Vec<RegionId>,
    /// When it is closed unless something is heard, in milliseconds.
    pub idle_ms: u32,
    /// When something was last heard.
    pub heard: Instant,
    /// Bytes that were sent to it and that the kernel hasn't taken.
    pub queued: usize,
    /// Since when the kernel has taken none of them.
    pub stalled: Instant,
    /// A timer watches whether it reads.
    pub slow_watched: bool,
    /// How many of its confirmed messages are unresolved.
    pub unresolved: u32,
    /// A message of its own has come to its end: it was delivered, or its recipient is offline.
    pub answered: bool,
    /// It is about to be sent elsewhere: it is given no new message.
    pub finishing: bool,
    /// Another device of this node was expected to write to it.
    pub awaited: bool,
    /// Which way the last message to it took, for `explain`.
    pub last_way: Option<Way>,
    /// The nodes that this message passed. On its own: put together with the way at each message, the two cost a stall for each store that is
    /// read wider than it was written.
    pub last_trail: Trail,
    /// Whom it writes to and hears from; none before its first message.
    pub habits: Option<Box<Habits>>,
    /// What of that its region has been told.
    pub told: Told,
    delivery_next: u64,
    unacknowledged: VecDeque<Option<Unacknowledged>>,
    open_deliveries: usize,
}

impl Session {
    /// How many deliveries wait for an acknowledgement.
    pub fn open_deliveries(&self) -> usize {
        self.open_deliveries
    }

    /// Whether nothing is open: neither written to it and not acknowledged, nor sent by it and not reported.
    pub fn is_finished(&self) -> bool {
        self.open_deliveries == 0 && self.unresolved == 0 && self.queued == 0
    }

    /// The number of the next confirmed delivery.
    pub fn delivery(&mut self, message: Unacknowledged) -> u64 {
        let number = self.delivery_next;
        self.delivery_next += 1;
        self.unacknowledged.push_back(Some(message));
        self.open_deliveries += 1;
        number
    }

    /// Takes the delivery that is being acknowledged; `None` if it isn't open.
    pub fn acknowledge(&mut self, delivery: u64) -> Option<Unacknowledged> {
        let index = self.index_of(delivery)? + usize::from(trunkline_wire::planted!(AckNextDelivery));
        let message = self.unacknowledged.get_mut(index)?.take()?;
        self.open_deliveries -= 1;
        while let Some(None) = self.unacknowledged.front() {
            self.unacknowledged.pop_front();
        }
        if self.unacknowledged.is_empty() {
            // An idle session holds no memory for deliveries.
            self.unacknowledged = VecDeque::new();
        }
        Some(message)
    }

    /// Takes all open deliveries, in order.
    pub fn abandon(&mut self) -> impl Iterator<Item = Unacknowledged> + use<> {
        self.open_deliveries = 0;
        std::mem::take(&mut self.unacknowledged).into_iter().flatten()
    }

    /// An open delivery.
    pub fn open_delivery(&mut self, delivery: u64) -> Option<&mut Unacknowledged> {
        let index = self.index_of(delivery)?;
        self.unacknowledged.get_mut(index)?.as_mut()
    }

    fn index_of(&self, delivery: u64) -> Option<usize> {
        let first = self.delivery_next - self.unacknowledged.len() as u64;
        usize::try_from(delivery.checked_sub(first)?).ok()
    }
}

/// What is known of a session when it starts.
#[derive(Debug)]
pub struct Opening {
    /// Its connection.
    pub conn: Conn,
    /// Its device inside the cluster.
    pub key: DeviceKey,
    /// Its device.
    pub id: DeviceId,
    /// Which start of the device's library.
    pub instance: Instance,
    /// The negotiated version.
    pub version: u8,
    /// Which of the device's sessions.
    pub epoch: Epoch,
    /// Whether it receives.
    pub purpose: Purpose,
    /// When it is closed unless something is heard, in milliseconds.
    pub idle_ms: u32,
    /// Where it starts.
    pub state: State,
}

/// The sessions of one shard.
#[derive(Debug, Default)]
pub struct Sessions {
    slab: Slab<Session>,
    generation: u32,
    by_key: KeyMap<u32>,
}

impl Sessions {
    /// Adds a session. One that receives becomes its device's session; the caller has ended the one before.
    pub fn insert(&mut self, now: Instant, opening: Opening) -> SessionRef {
        self.generation = self.generation.wrapping_add(1);
        let Opening {
            conn,
            key,
            id,
            instance,
            version,
            epoch,
            purpose,
            idle_ms,
            state,
        } = opening;
        let index = self.slab.insert(Session {
            generation: self.generation,
            conn,
            key,
            id: Some(id),
            instance,
            version,
            epoch,
            purpose,
            state,
            regions_before: Vec::new(),
            idle_ms,
            heard: now,
            queued: 0,
            stalled: now,
            slow_watched: false,
            unresolved: 0,
            answered: false,
            finishing: false,
            awaited: false,
            last_way: None,
            last_trail: Trail::default(),
            habits: None,
            told: Told::default(),
            delivery_next: 1,
            unacknowledged: VecDeque::new(),
            open_deliveries: 0,
        }) as u32;
        match purpose {
            Purpose::Full => {
                let before = self.by_key.insert(key, index);
                debug_assert!(before.is_none(), "a device has one session that receives");
            }
            Purpose::SendOnly => {}
        }
        SessionRef {
            index,
            generation: self.generation,
        }
    }

    /// The session, unless it has ended.
    pub fn find(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.slab
            .get_mut(session.index as usize)
            .filter(|s| s.generation == session.generation)
    }

    /// As [`Sessions::find`], if it receives.
    pub fn receiving(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.find(session).filter(|session| session.purpose == Purpose::Full)
    }

    /// The session of a device that receives.
    pub fn of_device(&mut self, key: DeviceKey) -> Option<(SessionRef, &mut Session)> {
        let index = *self.by_key.get(&key)?;
        let session = &mut self.slab[index as usize];
        Some((
            SessionRef {
                index,
                generation: session.generation,
            },
            session,
        ))
    }

    /// As [`Sessions::of_device`], to look at.
    pub fn peek(&self, key: DeviceKey) -> Option<&Session> {
        self.by_key.get(&key).map(|&index| &self.slab[index as usize])
    }

    /// The session of a device that is known by a part of its key, if it receives here.
    pub fn of_partner(&mut self, device: PartnerKey) -> Option<&mut Session> {
        let index = *self.by_key.get(&device)?;
        Some(&mut self.slab[index as usize])
    }

    /// Removes a session, unless it has ended already.
    pub fn remove(&mut self, session: SessionRef) -> Option<Session> {
        self.find(session)?;
        let ended = self.slab.remove(session.index as usize);
        if ended.purpose == Purpose::Full {
            self.by_key.remove(&ended.key);
        }
        Some(ended)
    }

    /// All of them, in the order of their places.
    pub fn refs(&self) -> Vec<SessionRef> {
        self.slab
            .iter()
            .map(|(index, s)| SessionRef {
                index: index as u32,
                generation: s.generation,
            })
            .collect()
    }

    /// As [`Sessions::refs`], to look at.
    pub fn all(&self) -> impl Iterator<Item = &Session> {
        self.slab.iter().map(|(_, session)| session)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(key: u128, purpose: Purpose) -> Opening {
        Opening {
            conn: Conn(1),
            key: DeviceKey(key),
            id: DeviceId::new("alice").unwrap(),
            instance: Instance(1),
            version: 1,
            epoch: Epoch::NONE,
            purpose,
            idle_ms: 1_000,
            state: State::Open,
        }
    }

    #[test]
    fn what_is_meant_for_a_session_that_ended_does_not_reach_the_one_that_has_its_place() {
        let mut sessions = Sessions::default();
        let first = sessions.insert(Instant::ZERO, opening(1, Purpose::Full));
        assert!(sessions.remove(first).is_some());
        let second = sessions.insert(Instant::ZERO, opening(2, Purpose::Full));
        assert_eq!(second.index, first.index);
        assert!(sessions.find(first).is_none() && sessions.remove(first).is_none());
        assert_eq!(sessions.find(second).map(|session| session.key), Some(DeviceKey(2)));
    }
}
