//! Whom a device writes to and hears from: the part of its history that outlives a session.
//!
//! Bounded: the partner that was longest without a message goes first. A session knows more of each partner, and of more of them, than
//! the [`AffinityList`] that its region keeps for the next one.

use trunkline_wire::affinity::{AFFINITY_ENTRIES_MAX, Acquaintance, AffinityEntry, AffinityList, AffinityWeight};
use trunkline_wire::id::PartnerKey;

/// How many partners are remembered. On mail with large groups 24 hit 0.05 more than 16, on other traffic as much; every decision looks
/// at all of them.
pub const PARTNERS_MAX: usize = 24;

/// One device that another writes to or hears from. Times are Unix seconds; 0 is never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partner {
    /// Who.
    pub device: PartnerKey,
    /// When it was last written to.
    pub sent_at: u32,
    /// And when the time before that.
    pub sent_before: u32,
    /// When it was last heard from.
    pub received_at: u32,
    /// How often it was written to, as far as that can be counted.
    pub sent: u8,
    /// How often it was heard from, as far as that can be counted.
    pub received: u8,
    /// Known from an earlier session, by way of the region; no message went either way in this one.
    pub recalled: bool,
}

impl Partner {
    fn new(device: PartnerKey) -> Partner {
        Partner {
            device,
            sent_at: 0,
            sent_before: 0,
            received_at: 0,
            sent: 0,
            received: 0,
            recalled: false,
        }
    }

    /// When a message last went either way.
    pub fn touched_at(&self) -> u32 {
        self.sent_at.max(self.received_at)
    }

    /// Whether its last message has no answer yet.
    pub fn is_unanswered(&self) -> bool {
        self.received_at > self.sent_at
    }
}

/// The partners of one device, the most recent first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    partners: Vec<Partner>,
    /// How much of what the device sends goes to devices that were not in the list: a moving average, in 256ths.
    novelty: u8,
}

impl Affinity {
    /// From what was stored or sent; what is beyond the bound is cut off, the order is restored.
    pub fn restore(mut partners: Vec<Partner>, novelty: u8) -> Affinity {
        partners.sort_by_key(|partner| (std::cmp::Reverse(partner.touched_at()), partner.device));
        partners.truncate(PARTNERS_MAX);
        Affinity { partners, novelty }
    }

    /// What the region has kept of it.
    pub fn recall(list: &AffinityList) -> Affinity {
        let mut at = list.at;
        let partner = |entry: &AffinityEntry| {
            let known = entry.weight.acquaintance();
            at = at.saturating_sub(known.earlier);
            let (sent_at, received_at) = if known.unanswered { (0, at) } else { (at, 0) };
            Partner {
                sent_at,
                received_at,
                sent: known.sent,
                received: known.received,
                recalled: true,
                ..Partner::new(entry.partner)
            }
        };
        let partners = list.entries().iter().map(partner).collect();
        Affinity::restore(partners, list.novelty)
    }

    /// What the region is to keep of it: the most recent ones.
    pub fn digest(&self) -> AffinityList {
        let first = self.partners.first().map_or(0, Partner::touched_at);
        let (mut list, mut at, mut before) = (AffinityList::new(first, self.novelty), first, first);
        for partner in self.partners.iter().take(AFFINITY_ENTRIES_MAX) {
            let touched_at = partner.touched_at();
            // A clock that went back leaves the latest one with an earlier time than the next: as near as can be.
            let earlier = match before.saturating_sub(touched_at) {
                // Recipients of one mail stay as near to each other as they were.
                near @ 0..=NEAR_SECONDS => near,
                // From where the reader will be, so that what is rounded doesn't add up.
                _ => at.saturating_sub(touched_at),
            };
            before = touched_at;
            let known = Acquaintance {
                unanswered: partner.is_unanswered(),
                sent: partner.sent,
                received: partner.received,
                earlier,
            };
            let weight = AffinityWeight::of(known);
            at = at.saturating_sub(weight.acquaintance().earlier);
            let partner = partner.device;
            list.push(AffinityEntry { partner, weight });
        }
        list
    }

    /// The most recent first.
    pub fn partners(&self) -> &[Partner] {
        &self.partners
    }

    /// How much of what the device sends goes to devices that were not in the list, in 256ths.
    pub fn novelty(&self) -> u8 {
        self.novelty
    }

    /// Becomes as the other one, in the memory that it has.
    pub(super) fn assign(&mut self, other: &Affinity) {
        let Affinity { partners, novelty } = other;
        self.partners.clone_from(partners);
        self.novelty = *novelty;
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.partners.is_empty()
    }

    /// The device has written to `to`. Returns when it had done so before (0: never, as far as known).
    pub fn sent(&mut self, now: u32, to: PartnerKey) -> u32 {
        let (partner, is_new) = self.touch(to);
        let before = partner.sent_at;
        partner.sent_before = before;
        partner.sent_at = now.max(before);
        partner.sent = partner.sent.saturating_add(1);
        let share = self.novelty - self.novelty / NOVELTY_SPAN;
        self.novelty = share + if is_new { u8::MAX / NOVELTY_SPAN } else { 0 };
        before
    }

    /// The device has heard from `from`.
    pub fn received(&mut self, now: u32, from: PartnerKey) {
        let (partner, _) = self.touch(from);
        partner.received_at = now.max(partner.received_at);
        partner.received = partner.received.saturating_add(1);
    }

    /// Takes over what another session of the same device has learnt: of each partner the later times and the higher counts.
    pub fn join(&mut self, other: &Affinity) {
        let mut all = std::mem::take(&mut self.partners);
        for theirs in &other.partners {
            match all.iter_mut().find(|ours| ours.device == theirs.device) {
                None => all.push(*theirs),
                Some(ours) => {
                    ours.sent_before = ours.sent_before.max(theirs.sent_before);
                    ours.sent_at = ours.sent_at.max(theirs.sent_at);
                    ours.received_at = ours.received_at.max(theirs.received_at);
                    ours.sent = ours.sent.max(theirs.sent);
                    ours.received = ours.received.max(theirs.received);
                    ours.recalled &= theirs.recalled;
                }
            }
        }
        *self = Affinity::restore(all, self.novelty.max(other.novelty));
    }

    /// Takes from an older list of the same device what this one doesn't know, and the higher counts. Times stay as they are: those of one
    /// list lie exactly so far apart as its messages did, which times of two that were rounded don't.
    pub fn complete(&mut self, older: &Affinity) {
        let mut all = std::mem::take(&mut self.partners);
        for theirs in &older.partners {
            match all.iter_mut().find(|ours| ours.device == theirs.device) {
                None => all.push(*theirs),
                Some(ours) => {
                    ours.sent = ours.sent.max(theirs.sent);
                    ours.received = ours.received.max(theirs.received);
                }
            }
        }
        *self = Affinity::restore(all, self.novelty);
    }

    /// Moves `device` to the front, or puts it there.
    fn touch(&mut self, device: PartnerKey) -> (&mut Partner, bool) {
        let known = self.partners.iter().position(|partner| partner.device == device);
        match known {
            Some(at) => self.partners[..=at].rotate_right(1),
            None => {
                self.partners.truncate(PARTNERS_MAX - 1);
                self.partners.insert(0, Partner::new(device));
            }
        }
        self.partners[0].recalled = false;
        (&mut self.partners[0], known.is_none())
    }
}

/// What is no further apart than this may have been of one piece; see `features`.
const NEAR_SECONDS: u32 = 60;

/// Over how many messages the novelty is averaged.
const NOVELTY_SPAN: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    const fn key(n: u64) -> PartnerKey {
        PartnerKey(n)
    }

    #[test]
    fn the_partner_that_was_longest_without_a_message_goes_first() {
        let mut list = Affinity::default();
        for n in 0..100 {
            list.sent(n + 1, key(u64::from(n)));
            // One that is heard from all the time.
            list.received(n + 1, key(1_000));
            assert!(list.partners().len() <= PARTNERS_MAX);
        }
        let kept: Vec<_> = list.partners().iter().map(|partner| partner.device).collect();
        assert_eq!(kept[0], key(1_000));
        assert_eq!(kept[1], key(99));
        assert_eq!(kept[PARTNERS_MAX - 1], key(100 - PARTNERS_MAX as u64 + 1));
    }

    #[test]
    fn a_message_is_unanswered_until_one_goes_back() {
        let mut list = Affinity::default();
        list.received(5, key(1));
        assert!(list.partners()[0].is_unanswered());
        assert_eq!(list.sent(6, key(1)), 0);
        assert!(!list.partners()[0].is_unanswered());
        assert_eq!(list.sent(8, key(1)), 6);
    }

    #[test]
    fn lists_join_whatever_the_order() {
        let (mut one, mut other) = (Affinity::default(), Affinity::default());
        one.sent(5, key(1));
        one.received(9, key(2));
        other.sent(7, key(1));
        other.sent(6, key(3));
        let mut ab = one.clone();
        ab.join(&other);
        let mut ba = other.clone();
        ba.join(&one);
        ba.join(&one);
        assert_eq!(ab, ba);
        assert_eq!(ab.partners().len(), 3);
        assert_eq!(ab.partners()[0].device, key(2));
    }

    #[test]
    fn what_the_region_keeps_tells_who_how_often_and_when() {
        let mut list = Affinity::default();
        let mut now = 1_700_000_000;
        for n in 0..40u8 {
            now += 3_000 * u32::from(n);
            list.sent(now, key(u64::from(n)));
            if n % 3 == 0 {
                list.received(now + 60, key(u64::from(n)));
            }
            for again in 0..n % 5 {
                list.sent(now + u32::from(again), key(u64::from(n)));
            }
        }
        let kept = list.digest();
        assert_eq!(kept.entries().len(), AFFINITY_ENTRIES_MAX);
        let recalled = Affinity::recall(&kept);
        assert_eq!(recalled.digest(), kept, "it comes back as it went, however often");
        assert_eq!(recalled.novelty(), list.novelty());
        for (was, is) in list.partners().iter().zip(recalled.partners()) {
            assert_eq!(
                (is.device, is.is_unanswered(), is.recalled),
                (was.device, was.is_unanswered(), true)
            );
            let age = |partner: &Partner| now - partner.touched_at().min(now);
            assert!(age(is).abs_diff(age(was)) <= age(was) / 16 + 1, "{was:?} {is:?}");
            assert_eq!((u32::from(is.sent) + 1).ilog2(), (u32::from(was.sent) + 1).ilog2());
        }
    }

    #[test]
    fn a_clock_that_goes_back_does_a_list_no_harm() {
        let mut list = Affinity::default();
        list.sent(1_000, key(1));
        list.sent(400, key(2));
        let kept: Vec<_> = list.digest().entries().iter().map(|entry| entry.partner).collect();
        assert_eq!(kept, [key(2), key(1)]);
        assert_eq!(Affinity::recall(&list.digest()).partners().len(), 2);
    }

    #[test]
    fn who_writes_to_new_devices_only_is_known_for_it() {
        let mut list = Affinity::default();
        for n in 0..100 {
            list.sent(n, key(u64::from(n)));
        }
        assert!(list.novelty() > 200, "{}", list.novelty());
        for n in 0..100 {
            list.sent(100 + n, key(1));
        }
        assert!(list.novelty() < 16, "{}", list.novelty());
    }
}
