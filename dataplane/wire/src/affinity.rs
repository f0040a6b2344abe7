//! Whom a device writes to and hears from, as its region keeps it and hands it from one connection server to the next.

use crate::codec::{DecodeError, Field, Reader};
use crate::id::PartnerKey;

/// How many partners a region keeps of a device: what 256 bytes a device leave room for, beside where it is and who it is.
pub const AFFINITY_ENTRIES_MAX: usize = 16;

/// Which state of a device's list: later sessions' are later, and of one session's those that were told later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AffinityVersion {
    /// Of the session's epoch.
    pub clock: u64,
    /// How often that session had told its list before; counts no further than it can.
    pub counter: u16,
}

impl<'a> Field<'a> for AffinityVersion {
    fn put(&self, out: &mut Vec<u8>) {
        self.clock.put(out);
        self.counter.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (clock, counter) = (reader.u64()?, reader.u16()?);
        match clock {
            // Without a session nothing was told.
            0 => Err(DecodeError::Value("affinity version")),
            _ => Ok(AffinityVersion { clock, counter }),
        }
    }
}

/// What is known of one partner, in 16 bits.
///
/// ```text
/// 15           14    12 11    9 8                  0
/// ┌────────────┬───────┬───────┬────────────────────┐
/// │ unanswered │ sent  │ heard │ seconds            │
/// └────────────┴───────┴───────┴────────────────────┘
/// ```
/// `unanswered`: the last message came from the partner. `sent` and `heard`: how many messages went to it and came from it, as the
/// whole part of the binary logarithm of one more than that. `seconds`: how much earlier than with the entry before it the last message
/// was exchanged, or than the list's time for the first entry: below 16 as it is, else 5 significant bits (a value `c` from 16
/// up stands for `(16 + c % 16) << (c / 16 - 1)`).
///
/// Every value is one: what is beyond what can be said is the most that can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityWeight(pub u16);

/// What an [`AffinityWeight`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acquaintance {
    /// The last message came from the partner.
    pub unanswered: bool,
    /// Messages to it.
    pub sent: u8,
    /// Messages of it.
    pub received: u8,
    /// How much earlier than the entry before, in seconds.
    pub earlier: u32,
}

impl AffinityWeight {
    /// As near as 16 bits come.
    pub fn of(acquaintance: Acquaintance) -> AffinityWeight {
        let Acquaintance {
            unanswered,
            sent,
            received,
            earlier,
        } = acquaintance;
        let count = |messages: u8| (u16::from(messages) + 1).ilog2().min(7) as u16;
        let seconds = match earlier {
            0..16 => earlier,
            _ => {
                let shift = earlier.ilog2() - 4;
                (shift + 1) * 16 + (earlier >> shift) % 16
            }
        };
        AffinityWeight(u16::from(unanswered) << 15 | count(sent) << 12 | count(received) << 9 | seconds as u16)
    }

    /// The least that it may stand for.
    pub fn acquaintance(self) -> Acquaintance {
        let count = |shift: u32| ((1u16 << (self.0 >> shift & 7)) - 1) as u8;
        let seconds = u32::from(self.0 & 0x1ff);
        let earlier = match seconds {
            0..16 => seconds,
            // From 464 up nothing has that many bits.
            _ => (16 + seconds % 16)
                .checked_shl(seconds / 16 - 1)
                .filter(|_| seconds < 464)
                .unwrap_or(u32::MAX),
        };
        Acquaintance {
            unanswered: self.0 >> 15 == 1,
            sent: count(12),
            received: count(9),
            earlier,
        }
    }
}

/// One partner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityEntry {
    /// Who.
    pub partner: PartnerKey,
    /// What is known of it.
    pub weight: AffinityWeight,
}

/// A device's partners, the most recent first, none twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityList {
    /// When the last message was exchanged, in seconds since the Unix epoch.
    pub at: u32,
    /// How much of what the device sends goes to devices that it had not to do with before, in 256ths.
    pub novelty: u8,
    length: u8,
    entries: [AffinityEntry; AFFINITY_ENTRIES_MAX],
}

impl AffinityList {
    /// A list without partners.
    pub fn new(at: u32, novelty: u8) -> AffinityList {
        AffinityList {
            at,
            novelty,
            ..AffinityList::default()
        }
    }

    /// Appends a partner. Returns whether there was room, and it was not in the list.
    pub fn push(&mut self, entry: AffinityEntry) -> bool {
        let known = self.entries().iter().any(|known| known.partner == entry.partner);
        let length = usize::from(self.length);
        if known || length == AFFINITY_ENTRIES_MAX {
            return false;
        }
        self.entries[length] = entry;
        self.length += 1;
        true
    }

    /// The most recent first.
    pub fn entries(&self) -> &[AffinityEntry] {
        &self.entries[..usize::from(self.length)]
    }
}

impl<'a> Field<'a> for AffinityList {
    fn put(&self, out: &mut Vec<u8>) {
        self.at.put(out);
        self.novelty.put(out);
        self.length.put(out);
        for entry in self.entries() {
            entry.partner.put(out);
            entry.weight.0.put(out);
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut list = AffinityList::new(reader.u32()?, reader.u8()?);
        let length = reader.u8()?;
        for _ in 0..length {
            let entry = AffinityEntry {
                partner: PartnerKey::take(reader)?,
                weight: AffinityWeight(reader.u16()?),
            };
            if !list.push(entry) {
                return Err(DecodeError::Value("affinity"));
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn earlier(seconds: u32) -> u32 {
        let weight = AffinityWeight::of(Acquaintance {
            unanswered: false,
            sent: 0,
            received: 0,
            earlier: seconds,
        });
        weight.acquaintance().earlier
    }

    #[test]
    fn seconds_are_kept_within_a_sixteenth_and_few_exactly() {
        for seconds in 0..32 {
            assert_eq!(earlier(seconds), seconds);
        }
        for shift in 0..32 {
            for seconds in [1u32 << shift, (1u32 << shift) + (1 << shift) / 3, u32::MAX >> shift] {
                let kept = earlier(seconds);
                assert!(kept <= seconds && seconds - kept <= seconds / 16, "{seconds}: {kept}");
                assert_eq!(earlier(kept), kept);
            }
        }
    }

    #[test]
    fn counts_are_kept_as_powers_of_two_and_every_weight_says_something() {
        for (messages, kept) in [(0, 0), (1, 1), (2, 1), (3, 3), (6, 3), (7, 7), (200, 127), (255, 127)] {
            let weight = AffinityWeight::of(Acquaintance {
                unanswered: true,
                sent: messages,
                received: 0,
                earlier: 5,
            });
            let acquaintance = weight.acquaintance();
            assert_eq!((acquaintance.sent, acquaintance.received), (kept, 0));
            assert!(acquaintance.unanswered);
        }
        for weight in 0..=u16::MAX {
            AffinityWeight(weight).acquaintance();
        }
    }
}
