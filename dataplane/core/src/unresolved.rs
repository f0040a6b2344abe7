//! The confirmed messages that this shard took in and that have not ended yet: kept for retries, each until its one report.

mod stalls;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use slab::Slab;
use trunkline_wire::codec::Tail;
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Instance};
use trunkline_wire::peer::{Forward, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};
use trunkline_wire::time::Instant;

use self::stalls::{Stall, Standing};
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
    standing: Standing,
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

/// What is known of whether a sender's recipients can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acquaintance {
    /// Nothing that it sent has come to an end here.
    New,
    /// Something has.
    Known,
}

/// Whether a message that was taken in goes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send it.
    Now,
    /// It waits for another one to its recipient, and will be due.
    Later,
}

/// What a message's end says of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its recipient was found, or is known to be nowhere: the others may follow.
    Answered,
    /// It was refused, or its time was over.
    Failed,
}

/// What is due for a message.
#[derive(Debug)]
pub enum Due {
    /// Its time to live is over: it is taken out.
    Expired(Unresolved),
    /// It is to be tried, mostly again: call [`Table::retried`] or [`Table::postpone`].
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
    /// Recipients that could not be reached.
    stalls: HashMap<DeviceKey, Stall, ahash::RandomState>,
    stalls_serial: u32,
    /// Those that waited behind others and follow now, and their recipients.
    ready: VecDeque<(DeviceKey, UnresolvedRef)>,
}

impl Table {
    /// An empty table; `seed` keys its hash.
    pub fn new(seed: u64) -> Table {
        let hash = |second| ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(32), second);
        Table {
            slab: Slab::new(),
            by_id: HashMap::with_hasher(hash(1)),
            stalls: HashMap::with_hasher(hash(2)),
            stalls_serial: 0,
            ready: VecDeque::new(),
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

    /// Entries of all tables and queues, those left over from before included.
    pub fn entries(&self) -> usize {
        self.slab.len() + self.by_id.len() + self.first.len() + self.later.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }

    /// How many bytes they hold.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many have left this node, as far as is known.
    pub fn left(&self) -> usize {
        self.slab.iter().filter(|(_, message)| message.has_left()).count()
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

    /// Adds a message that is to be sent for the first time; `way`: it can leave this node; `acquaintance`: of its sender.
    ///
    /// # Panics
    /// If it is there already.
    pub fn insert(
        &mut self,
        now: Instant,
        session: SessionRef,
        forward: &Forward<'_>,
        recipient: IdRef<'_>,
        way: Way,
        acquaintance: Acquaintance,
    ) -> Turn {
        let (sender, recipient) = (forward.sender.as_bytes(), recipient.as_bytes());
        let mut texts = Vec::with_capacity(sender.len() + recipient.len() + forward.payload.0.len());
        texts.extend_from_slice(sender);
        texts.extend_from_slice(recipient);
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
            standing: Standing::Alone,
            sender_bytes: sender.len() as u8,
            recipient_bytes: recipient.len() as u8,
            texts: texts.into(),
        }) as u32;
        let before = self.by_id.insert(id, index);
        assert!(before.is_none(), "a message is unresolved once");
        let place = UnresolvedRef {
            index,
            generation: self.generation,
        };
        if !self.stalls.is_empty() && self.stalls.contains_key(&id.recipient) {
            let message = &mut self.slab[index as usize];
            (message.left, message.unanswered, message.attempts) = (false, false, 0);
            self.wait_behind(now, place);
            self.release(id.recipient);
            return Turn::Later;
        }
        if acquaintance == Acquaintance::New {
            self.begin(place);
        }
        if due < expires {
            self.first.push_back((due, place));
        } else {
            self.later.push(Reverse((due, place)));
        }
        Turn::Now
    }

    /// Takes out the message of this name: it has ended.
    pub fn remove(&mut self, id: &MessageId, end: End) -> Option<Unresolved> {
        let index = self.by_id.remove(id)?;
        let ended = self.slab.remove(index as usize);
        self.bytes -= ended.bytes();
        if !self.stalls.is_empty()
            && let Some(stall) = self.stalls.get_mut(&id.recipient)
        {
            stall.came_back(ended.standing, ended.bytes());
            match (end, ended.standing) {
                (End::Answered, _) => stall.widen(),
                // It never went, which says nothing of its recipient: only that its turn was too far off.
                (End::Failed, Standing::Behind) => {}
                (End::Failed, Standing::Alone | Standing::Ahead { .. }) => stall.narrow(),
            }
            if !trunkline_wire::planted!(BehindForever) {
                self.release(id.recipient);
            }
        }
        Some(ended)
    }

    /// Somebody answered "try again": it waits behind what is ahead of it to its recipient, or, the oldest, is due after a wait that
    /// grows. `left` is whether it was another node, which a copy has reached. `jitter` is any number.
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
        let place = UnresolvedRef {
            index,
            generation: message.generation,
        };
        self.wait_behind(now, place);
        let recipient = id.recipient;
        let stall = self.stalls.get_mut(&recipient).expect("it waits there");
        stall.close();
        if stall.ahead > 0 {
            return;
        }
        let Some(place) = self.send_ahead(recipient) else {
            return;
        };
        let message = &mut self.slab[place.index as usize];
        let wait = RETRY_WAIT_MIN
            .saturating_mul(1 << message.attempts.saturating_sub(1).min(10))
            .min(RETRY_WAIT_MAX);
        message.due = (now + jittered(wait, jitter)).min(message.expires);
        self.later.push(Reverse((message.due, place)));
    }

    /// A message is the first to its recipient: others will wait behind it once there are a few.
    fn begin(&mut self, place: UnresolvedRef) {
        let message = &mut self.slab[place.index as usize];
        self.stalls_serial = self.stalls_serial.wrapping_add(1);
        let mut stall = Stall::beginning(self.stalls_serial);
        message.standing = Standing::Ahead { stall: stall.serial };
        stall.went(message.bytes());
        self.stalls.insert(message.id.recipient, stall);
    }

    /// A message waits behind others to its recipient from now on.
    fn wait_behind(&mut self, now: Instant, place: UnresolvedRef) {
        let message = &mut self.slab[place.index as usize];
        let serial = &mut self.stalls_serial;
        let stall = self.stalls.entry(message.id.recipient).or_insert_with(|| {
            *serial = serial.wrapping_add(1);
            Stall::new(*serial)
        });
        stall.came_back(message.standing, message.bytes());
        message.standing = Standing::Behind;
        stall.put_back(place);
        self.watch(now, place);
    }

    /// Its end may come while it waits. Looked at again now and then, so that nothing is kept of it for long if it ends otherwise.
    fn watch(&mut self, now: Instant, place: UnresolvedRef) {
        let message = &mut self.slab[place.index as usize];
        message.due = (now + ANSWER_WAIT_MAX).min(message.expires);
        self.later.push(Reverse((message.due, place)));
    }

    /// The oldest that waits goes ahead, if there is one.
    fn send_ahead(&mut self, recipient: DeviceKey) -> Option<UnresolvedRef> {
        let stall = self.stalls.get_mut(&recipient)?;
        while let Some(place) = stall.behind.pop_front() {
            let message = self.slab.get_mut(place.index as usize);
            if let Some(message) = message.filter(|message| message.generation == place.generation) {
                message.standing = Standing::Ahead { stall: stall.serial };
                stall.went(message.bytes());
                return Some(place);
            }
        }
        None
    }

    /// As many as may follow are due.
    fn release(&mut self, recipient: DeviceKey) {
        while self.stalls.get(&recipient).is_some_and(Stall::has_room) {
            let Some(place) = self.send_ahead(recipient) else { break };
            self.make_ready(recipient, place);
        }
        if self.stalls.get(&recipient).is_some_and(Stall::is_over) {
            self.stalls.remove(&recipient);
        }
    }

    fn make_ready(&mut self, recipient: DeviceKey, place: UnresolvedRef) {
        // No entry of the queues is for it any more.
        self.slab[place.index as usize].due = Instant::NEVER;
        if trunkline_wire::planted!(NeverFollows) {
            return;
        }
        self.ready.push_back((recipient, place));
        if let Some(stall) = self.stalls.get_mut(&recipient) {
            stall.ready += 1;
        }
    }

    fn take_ready(&mut self) -> Option<UnresolvedRef> {
        let (recipient, place) = self.ready.pop_front()?;
        let stall = self.stalls.get_mut(&recipient).expect("it lasts while one is ready");
        stall.ready -= 1;
        if stall.is_over() {
            self.stalls.remove(&recipient);
        }
        Some(place)
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
            let (at, place) = match self.take_ready() {
                Some(place) => (Instant::NEVER, place),
                None => {
                    let (at, place) = self.earliest()?;
                    if at > now {
                        return None;
                    }
                    self.drop_earliest();
                    (at, place)
                }
            };
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
            let (id, standing, unanswered) = (message.id, message.standing, message.unanswered);
            if message.expires <= now {
                return self.remove(&id, End::Failed).map(Due::Expired);
            }
            match standing {
                Standing::Alone => {}
                Standing::Behind => {
                    self.watch(now, place);
                    continue;
                }
                Standing::Ahead { .. } if unanswered => self.ask_again(id.recipient),
                Standing::Ahead { .. } => {}
            }
            return Some(Due::Retry(place));
        }
    }

    /// Nobody answers one that is ahead: the next may find another way.
    fn ask_again(&mut self, recipient: DeviceKey) {
        if self.stalls.get(&recipient).is_some_and(Stall::may_ask_again)
            && let Some(place) = self.send_ahead(recipient)
        {
            self.make_ready(recipient, place);
        }
    }

    /// When [`Table::due`] is to be asked again, at the latest.
    pub fn deadline(&mut self) -> Instant {
        if !self.ready.is_empty() {
            return Instant::ZERO;
        }
        while let Some((at, place)) = self.earliest() {
            if self.at(place).is_some_and(|message| message.due == at) {
                return at;
            }
            self.drop_earliest();
        }
        Instant::NEVER
    }

    /// Whether stalls and messages say the same of who is ahead and who waits, and nobody waits behind nobody. Looks at all.
    ///
    /// # Errors
    /// What isn't so.
    pub fn check(&self) -> Result<(), String> {
        let mut found: BTreeMap<DeviceKey, (usize, usize, usize)> = BTreeMap::new();
        for (_, message) in &self.slab {
            let stall = self.stalls.get(&message.id.recipient);
            match (message.standing, stall) {
                (Standing::Behind, None) => return Err("a message waits behind nobody".into()),
                (Standing::Behind, Some(_)) => found.entry(message.id.recipient).or_default().2 += 1,
                (Standing::Ahead { stall: serial }, Some(stall)) if stall.serial == serial => {
                    let (ahead, bytes, _) = found.entry(message.id.recipient).or_default();
                    (*ahead, *bytes) = (*ahead + 1, *bytes + message.bytes());
                }
                (Standing::Ahead { .. }, Some(_) | None) | (Standing::Alone, _) => {}
            }
        }
        for (recipient, stall) in &self.stalls {
            let (ahead, bytes, behind) = found.get(recipient).copied().unwrap_or_default();
            let listed = stall.behind.iter().filter(|place| self.at(**place).is_some()).count();
            let right = (ahead, bytes, behind) == (stall.ahead, stall.ahead_bytes, listed);
            if !right || behind > 0 && ahead == 0 {
                return Err(format!(
                    "{behind} messages to one recipient wait behind {ahead} of {bytes} bytes: {stall:?}"
                ));
            }
        }
        Ok(())
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
