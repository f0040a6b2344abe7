//! The messages that the user has sent and that are not at their end yet.
//!
//! A message gets its number when it is taken in, and keeps it: written again after a reconnect it is the same message. They are
//! written in the order in which they were taken in, so that after a reconnect the unresolved ones come first, in the order of
//! their numbers, and new ones behind them. A fire-and-forget message is forgotten once it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use trunkline_wire::codec::Tail;
use trunkline_wire::device::Send;
use trunkline_wire::frame::{Encode, HEADER_BYTES};
use trunkline_wire::id::IdRef;
use trunkline_wire::report::{Number, TtlMs};
use trunkline_wire::time::Instant;

use crate::event::{Guarantee, SendError};

/// How much a device may have waiting.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingBounds {
    /// Messages that wait to be written or reported.
    pub messages_max: usize,
    /// Bytes of their payloads, and [`MESSAGE_OVERHEAD_BYTES`] each.
    pub bytes_max: usize,
    /// Recipients whose numbers are remembered. When there are more, those with nothing unresolved are forgotten, and new ones start
    /// at a number that no forgotten one had reached.
    pub recipients_max: usize,
}

impl Default for OutgoingBounds {
    /// 16 MiB of messages, and 65,536 recipients of about 150 bytes: 26 MiB for a device that uses it all.
    fn default() -> OutgoingBounds {
        OutgoingBounds {
            messages_max: 65_536,
            bytes_max: 16 * 1024 * 1024,
            recipients_max: 65_536,
        }
    }
}

/// What a waiting message costs beside its payload: its entries in the tables.
pub const MESSAGE_OVERHEAD_BYTES: usize = 256;

/// How long after a message's time to live its server's report is waited for, while the connection holds: the server knows more.
const REPORT_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Outgoing {
    bounds: OutgoingBounds,
    /// In the order in which they were taken in.
    messages: BTreeMap<u64, Kept>,
    taken: u64,
    recipients: BTreeMap<Arc<str>, Recipient>,
    /// Where recipients start that are not in the table.
    number_first: u64,
    bytes: usize,
    /// By the end of their time to live.
    expiring: BTreeSet<(Instant, u64)>,
    /// Past it, but written to the present connection: by the end of the grace.
    overdue: BTreeSet<(Instant, u64)>,
    /// Everything below was written to the present connection.
    cursor: u64,
    /// How many of these are unresolved.
    unresolved: usize,
}

#[derive(Debug)]
struct Kept {
    recipient: Arc<str>,
    number: u64,
    guarantee: Guarantee,
    payload: Vec<u8>,
    taken: Instant,
    expires: Instant,
    /// To how many connections it was written.
    written: u32,
}

#[derive(Debug)]
struct Recipient {
    number_next: u64,
    /// Confirmed messages without an end, and where they are in `messages`.
    unresolved: BTreeMap<u64, u64>,
}

/// A confirmed message at its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) recipient: Arc<str>,
    pub(crate) number: u64,
    pub(crate) taken: Instant,
    /// To how many connections it was written.
    pub(crate) written: u32,
}

/// What one call of [`Outgoing::write`] wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    First,
    Again,
}

impl Outgoing {
    pub(crate) fn new(bounds: OutgoingBounds) -> Outgoing {
        Outgoing {
            bounds,
            messages: BTreeMap::new(),
            taken: 0,
            recipients: BTreeMap::new(),
            number_first: 0,
            bytes: 0,
            expiring: BTreeSet::new(),
            overdue: BTreeSet::new(),
            cursor: 0,
            unresolved: 0,
        }
    }

    /// Messages that wait to be written or reported.
    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Messages that were never written.
    pub(crate) fn unwritten(&self) -> usize {
        self.messages
            .range(self.cursor..)
            .filter(|(_, kept)| kept.written == 0)
            .count()
    }

    pub(crate) fn busy(&self) -> SendError {
        SendError::Busy {
            messages: self.messages.len(),
            bytes: self.bytes,
        }
    }

    /// Takes a message in and numbers it.
    pub(crate) fn take(
        &mut self,
        now: Instant,
        recipient: IdRef<'_>,
        payload: Vec<u8>,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) -> Result<u64, SendError> {
        let cost = payload.len() + MESSAGE_OVERHEAD_BYTES;
        if self.messages.len() >= self.bounds.messages_max || self.bytes + cost > self.bounds.bytes_max {
            return Err(self.busy());
        }
        let name = self.recipient(recipient).ok_or_else(|| self.busy())?;
        let entry = self.recipients.get_mut(&name).expect("it was just made sure of");
        let number = entry.number_next;
        entry.number_next += 1;
        let serial = self.taken;
        self.taken += 1;
        if guarantee == Guarantee::Confirmed {
            entry.unresolved.insert(number, serial);
        }
        let expires = now + Duration::from_millis(u64::from(ttl.ms()));
        self.expiring.insert((expires, serial));
        self.bytes += cost;
        self.messages.insert(
            serial,
            Kept {
                recipient: name,
                number,
                guarantee,
                payload,
                taken: now,
                expires,
                written: 0,
            },
        );
        Ok(number)
    }

    /// Appends the next message's frame, if there is one that may be written: at most `unresolved_max` confirmed ones at a time, and
    /// at most `room` bytes.
    pub(crate) fn write(
        &mut self,
        now: Instant,
        unresolved_max: usize,
        room: usize,
        out: &mut Vec<u8>,
    ) -> Option<Written> {
        let (&serial, kept) = self.messages.range_mut(self.cursor..).next()?;
        if kept.expires <= now {
            // Its end is `expire`'s to tell, which is due.
            return None;
        }
        let bytes = frame_bytes(&kept.recipient, &kept.payload);
        let confirmed = match kept.guarantee {
            Guarantee::Confirmed if self.unresolved >= unresolved_max => return None,
            Guarantee::Confirmed => {
                let recipient = &self.recipients[&kept.recipient];
                recipient.unresolved.first_key_value().map(|(&lowest, _)| lowest)
            }
            Guarantee::FireAndForget => None,
        };
        if bytes > room {
            return None;
        }
        let left_ms = kept.expires.since(now).as_millis().max(1) as u32;
        let frame = Send {
            recipient: IdRef::new(&kept.recipient).expect("it was an id when it was taken in"),
            number: Number {
                number: kept.number,
                confirmed,
            },
            ttl: TtlMs::new(left_ms).expect("at most what the user gave"),
            payload: Tail(&kept.payload),
        };
        frame.encode(out);
        let written = if kept.written == 0 {
            Written::First
        } else {
            Written::Again
        };
        kept.written = kept.written.saturating_add(1);
        self.cursor = serial + 1;
        match kept.guarantee {
            Guarantee::Confirmed => self.unresolved += 1,
            Guarantee::FireAndForget => drop(self.remove(serial)),
        }
        Some(written)
    }

    /// A confirmed message has come to its end. `None` if it had before, or never was.
    pub(crate) fn resolve(&mut self, recipient: IdRef<'_>, number: u64) -> Option<Resolved> {
        let entry = self.recipients.get(recipient.as_str())?;
        let serial = *entry.unresolved.get(&number)?;
        self.remove(serial).map(Resolved::from)
    }

    /// The connection is gone: what is unresolved is to be written again, and what only waited for its report has expired.
    pub(crate) fn connection_lost(&mut self, expired: &mut Vec<Resolved>) {
        if !trunkline_wire::planted!(NoResend) {
            self.cursor = 0;
            self.unresolved = 0;
        }
        while let Some((_, serial)) = self.overdue.pop_first() {
            expired.extend(self.remove(serial).map(Resolved::from));
        }
    }

    /// Ends what has outlived its time. Returns how many fire-and-forget messages there were among it.
    pub(crate) fn expire(&mut self, now: Instant, expired: &mut Vec<Resolved>) -> u64 {
        let mut unconfirmed = 0;
        while let Some(&(expires, serial)) = self.expiring.first() {
            if expires > now {
                break;
            }
            self.expiring.pop_first();
            if serial < self.cursor {
                self.overdue.insert((expires + REPORT_GRACE, serial));
                continue;
            }
            match self.remove(serial) {
                Some(kept) if kept.guarantee == Guarantee::Confirmed => expired.push(kept.into()),
                Some(_) => unconfirmed += 1,
                None => {}
            }
        }
        while let Some(&(until, serial)) = self.overdue.first() {
            if until > now {
                break;
            }
            self.overdue.pop_first();
            expired.extend(self.remove(serial).map(Resolved::from));
        }
        unconfirmed
    }

    /// When something has to be ended.
    pub(crate) fn deadline(&self) -> Instant {
        let firsts = [self.expiring.first(), self.overdue.first()];
        let ends = firsts.into_iter().flatten().map(|&(end, _)| end);
        ends.min().unwrap_or(Instant::NEVER)
    }

    /// The name under which the recipient is known from now on; `None` if there are too many with something unresolved.
    fn recipient(&mut self, id: IdRef<'_>) -> Option<Arc<str>> {
        if let Some((name, _)) = self.recipients.get_key_value(id.as_str()) {
            return Some(name.clone());
        }
        if self.recipients.len() >= self.bounds.recipients_max {
            self.forget_idle_recipients();
        }
        if self.recipients.len() >= self.bounds.recipients_max {
            return None;
        }
        let name: Arc<str> = id.as_str().into();
        let recipient = Recipient {
            number_next: self.number_first,
            unresolved: BTreeMap::new(),
        };
        self.recipients.insert(name.clone(), recipient);
        Some(name)
    }

    /// No number may ever be used twice: what is forgotten raises the number at which others start.
    fn forget_idle_recipients(&mut self) {
        let number_first = &mut self.number_first;
        self.recipients.retain(|_, recipient| {
            let idle = recipient.unresolved.is_empty();
            if idle {
                *number_first = (*number_first).max(recipient.number_next);
            }
            !idle
        });
    }

    fn remove(&mut self, serial: u64) -> Option<Kept> {
        let kept = self.messages.remove(&serial)?;
        self.bytes -= kept.payload.len() + MESSAGE_OVERHEAD_BYTES;
        self.expiring.remove(&(kept.expires, serial));
        self.overdue.remove(&(kept.expires + REPORT_GRACE, serial));
        if kept.guarantee == Guarantee::Confirmed {
            if serial < self.cursor {
                self.unresolved -= 1;
            }
            if let Some(recipient) = self.recipients.get_mut(&kept.recipient) {
                recipient.unresolved.remove(&kept.number);
            }
        }
        Some(kept)
    }
}

impl From<Kept> for Resolved {
    fn from(kept: Kept) -> Resolved {
        Resolved {
            recipient: kept.recipient,
            number: kept.number,
            taken: kept.taken,
            written: kept.written,
        }
    }
}

/// The length of a [`Send`] frame, confirmed or not (at most 8 bytes too many).
fn frame_bytes(recipient: &str, payload: &[u8]) -> usize {
    HEADER_BYTES + 1 + recipient.len() + 17 + 4 + payload.len()
}
