//! The confirmed messages that this shard took in and that have not ended yet: kept for retries, each until its one report.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use slab::Slab;
use trunkline_wire::codec::Tail;
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Instance};
use trunkline_wire::peer::{Forward, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};
use trunkline_wire::time::Instant;

use crate::constants::{ANSWER_WAIT_MAX, ANSWER_WAIT_MIN, RETRY_WAIT_MAX, RETRY_WAIT_MIN};
use crate::session::SessionRef;

/// What names a message everywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId {
    /// From which device.
    pub sender_key: DeviceKey,
    /// Which start of its library.
    pub instance: Instance,
    /// To which device.
    pub recipient: DeviceKey,
    /// Which of its messages to that device.
    pub number: u64,
}

/// A message without its end.
#[derive(Debug)]
pub struct Unresolved {
    generation: u32,
    /// Its name.
    pub id: MessageId,
    /// Who is told how it ends; `None` once that session has gone.
    pub session: Option<SessionRef>,
    /// When its time to live ends.
    pub expires: Instant,
    /// A copy may have reached the device.
    pub maybe_delivered: bool,
    lowest: u64,
    /// When something is due for it; entries of the queues with another time are left over from before.
    due: Instant,
    /// An attempt is under way, and nobody has answered it yet.
    unanswered: bool,
    /// A copy may have left this node; otherwise there was no way yet, and sending it is no retry.
    left: bool,
    attempts: u32,
    /// Sender id, recipient id and payload, one behind the other.
    texts: Box<[u8]>,
    sender_bytes: u8,
    recipient_bytes: u8,
}

impl Unresolved {
    fn text(&self, from: usize, bytes: usize) -> IdRef<'_> {
        let text = std::str::from_utf8(&self.texts[from..from + bytes]).expect("it was an id when it was stored");
        IdRef::new(text).expect("it was an id when it was stored")
    }

    /// To whom, as the sender named it.
    pub fn recipient(&self) -> IdRef<'_> {
        self.text(self.sender_bytes.into(), self.recipient_bytes.into())
    }

    /// How many bytes it holds.
    pub fn bytes(&self) -> usize {
        self.texts.len()
    }

    /// Whether a copy may have left this node. An attempt that found no way is answered here, and at once: one that nobody has
    /// answered has left.
    pub fn has_left(&self) -> bool {
        self.left || self.unanswered
    }

    /// The message as it leaves, with what is left of its time; `None` if nothing is.
    pub fn forward(&self, now: Instant) -> Option<Forward<'_>> {
        let left = self
            .expires
            .since(now)
            .as_millis()
            .try_into()
            .ok()
            .and_then(TtlMs::new)?;
        Some(Forward {
            recipient: self.id.recipient,
            target: Target::Region { gone: Epoch::NONE },
            trail: Trail::default(),
            sender_key: self.id.sender_key,
            sender: self.text(0, self.sender_bytes.into()),
            instance: self.id.instance,
            number: Number {
                number: self.id.number,
                confirmed: Some(self.lowest),
            },
            ttl: left,
            payload: Tail(&self.texts[usize::from(self.sender_bytes) + usize::from(self.recipient_bytes)..]),
        })
    }
}

/// Whether a message can leave this node now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// There is a link that leads on.
    Open,
    /// There is none: at most it can be delivered here.
    None,
}

/// What is due for a message.
#[derive(Debug)]
pub enum Due {
    /// Its time to live is over: it is taken out.
    Expired(Unresolved),
    /// It is to be tried again: call [`Table::retried`] or [`Table::postpone`].
    Retry(UnresolvedRef),
}

/// A message's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnresolvedRef {
    index: u32,
    generation: u32,
}

/// The unresolved messages of one shard.
#[derive(Debug)]
pub struct Table {
    slab: Slab<Unresolved>,
    by_id: HashMap<MessageId, u32, ahash::RandomState>,
    generation: u32,
    bytes: usize,
    /// Messages in the order in which they were first sent: all of these wait equally long for their first answer.
    first: VecDeque<(Instant, UnresolvedRef)>,
    later: BinaryHeap<Reverse<(Instant, UnresolvedRef)>>,
}

impl Table {
    /// An empty table; `seed` keys its hash.
    pub fn new(seed: u64) -> Table {
        Table {
            slab: Slab::new(),
            by_id: HashMap::with_hasher(ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(32), 1)),
            generation: 0,
            bytes: 0,
            first: VecDeque::new(),
            later: BinaryHeap::new(),
        }
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many bytes they hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The earliest end of a time to live.
    pub fn expires_first(&self) -> Option<Instant> {
        self.slab.iter().map(|(_, message)| message.expires).min()
    }

    /// The message of this name.
    pub fn find(&mut self, id: &MessageId) -> Option<&mut Unresolved> {
        self.by_id.get(id).map(|&index| &mut self.slab[index as usize])
    }

    /// The message at this place, unless it has ended.
    pub fn at(&self, place: UnresolvedRef) -> Option<&Unresolved> {
        self.slab
            .get(place.index as usize)
            .filter(|m| m.generation == place.generation)
    }

    /// Adds a message that is being sent for the first time; `way`: it can leave this node.
    ///
    /// # Panics
    /// If it is there already.
    pub fn insert(&mut self, now: Instant, session: SessionRef, forward: &Forward<'_>, recipient: IdRef<'_>, way: Way) {
        let sender = forward.sender.as_str();
        let mut texts = Vec::with_capacity(sender.len() + recipient.as_str().len() + forward.payload.0.len());
        texts.extend_from_slice(sender.as_bytes());
        texts.extend_from_slice(recipient.as_str().as_bytes());
        texts.extend_from_slice(forward.payload.0);
        let id = MessageId {
            sender_key: forward.sender_key,
            instance: forward.instance,
            recipient: forward.recipient,
            number: forward.number.number,
        };
        let expires = now + Duration::from_millis(forward.ttl.ms().into());
        let due = (now + ANSWER_WAIT_MIN).min(expires);
        self.generation = self.generation.wrapping_add(1);
        self.bytes += texts.len();
        let index = self.slab.insert(Unresolved {
            generation: self.generation,
            id,
            session: Some(session),
            expires,
            maybe_delivered: false,
            lowest: forward.number.confirmed.unwrap_or(id.number),
            due,
            unanswered: true,
            left: way == Way::Open,
            attempts: 1,
            sender_bytes: sender.len() as u8,
            recipient_bytes: recipient.as_str().len() as u8,
            texts: texts.into(),
        }) as u32;
        let before = self.by_id.insert(id, index);
        assert!(before.is_none(), "a message is unresolved once");
        let place = UnresolvedRef {
            index,
            generation: self.generation,
        };
        if due < expires {
            self.first.push_back((due, place));
        } else {
            self.later.push(Reverse((due, place)));
        }
    }

    /// Takes out the message of this name: it has ended.
    pub fn remove(&mut self, id: &MessageId) -> Option<Unresolved> {
        let index = self.by_id.remove(id)?;
        let ended = self.slab.remove(index as usize);
        self.bytes -= ended.bytes();
        Some(ended)
    }

    /// Somebody answered "try again": it is due after a wait that grows. `left` is whether it was another node, which a copy has
    /// reached. `jitter` is any number.
    pub fn answered(&mut self, now: Instant, id: &MessageId, maybe_delivered: bool, left: bool, jitter: u64) {
        let Some(&index) = self.by_id.get(id) else { return };
        let message = &mut self.slab[index as usize];
        message.maybe_delivered |= maybe_delivered && !trunkline_wire::planted!(AnswerIsNoCopy);
        message.left |= left || maybe_delivered;
        if !message.unanswered {
            // A second answer to the same attempt, by a copy of it: the retry is scheduled already.
            return;
        }
        message.unanswered = false;
        let wait = RETRY_WAIT_MIN
            .saturating_mul(1 << message.attempts.saturating_sub(1).min(10))
            .min(RETRY_WAIT_MAX);
        message.due = (now + jittered(wait, jitter)).min(message.expires);
        let place = UnresolvedRef {
            index,
            generation: message.generation,
        };
        self.later.push(Reverse((message.due, place)));
    }

    /// It was sent again, or for the first time.
    pub fn retried(&mut self, now: Instant, place: UnresolvedRef, way: Way) {
        let Some(message) = self.slab.get_mut(place.index as usize) else {
            return;
        };
        message.attempts = message.attempts.saturating_add(1);
        message.left |= message.unanswered || way == Way::Open;
        message.unanswered = !trunkline_wire::planted!(RetryForgetsCopy);
        let wait = ANSWER_WAIT_MIN
            .saturating_mul(1 << (message.attempts - 1).min(10))
            .min(ANSWER_WAIT_MAX);
        message.due = (now + wait).min(message.expires);
        self.later.push(Reverse((message.due, place)));
    }

    /// It may not be sent again yet.
    pub fn postpone(&mut self, until: Instant, place: UnresolvedRef) {
        let Some(message) = self.slab.get_mut(place.index as usize) else {
            return;
        };
        // Whether somebody still answers the last attempt no longer matters: the next one is what is waited for.
        message.left |= message.unanswered;
        message.unanswered = false;
        message.due = until.min(message.expires);
        self.later.push(Reverse((message.due, place)));
    }

    /// The next message for which something is due.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        loop {
            let (at, place) = self.earliest()?;
            if at > now {
                return None;
            }
            self.drop_earliest();
            let Some(message) = self
                .slab
                .get_mut(place.index as usize)
                .filter(|m| m.generation == place.generation && m.due == at)
            else {
                continue;
            };
            if message.unanswered {
                // It left here, and nobody knows what became of it.
                message.maybe_delivered |= !trunkline_wire::planted!(SilenceIsNoCopy);
            }
            if message.expires <= now {
                let id = message.id;
                return self.remove(&id).map(Due::Expired);
            }
            return Some(Due::Retry(place));
        }
    }

    /// When [`Table::due`] is to be asked again, at the latest.
    pub fn deadline(&mut self) -> Instant {
        while let Some((at, place)) = self.earliest() {
            if self.at(place).is_some_and(|message| message.due == at) {
                return at;
            }
            self.drop_earliest();
        }
        Instant::NEVER
    }

    fn earliest(&self) -> Option<(Instant, UnresolvedRef)> {
        let first = self.first.front().copied();
        let later = self.later.peek().map(|Reverse(entry)| *entry);
        match (first, later) {
            (Some(first), Some(later)) => Some(first.min(later)),
            (first, later) => first.or(later),
        }
    }

    fn drop_earliest(&mut self) {
        let first = self.first.front().copied();
        let later = self.later.peek().map(|Reverse(entry)| *entry);
        match (first, later) {
            (Some(first), Some(later)) if first <= later => drop(self.first.pop_front()),
            (Some(_), None) => drop(self.first.pop_front()),
            _ => drop(self.later.pop()),
        }
    }
}

/// Between nothing and half of `wait`, in whole numbers: floats have no place where a trace must be the same everywhere.
fn jittered(wait: Duration, jitter: u64) -> Duration {
    wait + Duration::from_micros(jitter % (wait.as_micros() as u64 / 2).max(1))
}
