//! One idea alone, over the same link cache: what the predictor is measured against. These histories are as long as the trace, which no
//! node could keep.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_core::predictor::Worth;

use super::linked::Caches;
use crate::model::{Setup, World};

/// An idea of whom a device writes to next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scorer {
    /// Whom it had to do with last: the n-th last with a likelihood of 1 / (n + 1).
    Recency,
    /// Whom it wrote to most, its messages losing half their weight every three days.
    Frequency,
    /// Who waits for an answer of it: the n-th last with a likelihood of 1 / (n + 1).
    Reply,
    /// Whom it wrote to within a minute of writing to whom it wrote to just now.
    Together,
    /// Whom it wrote to most at this time of day, in slots of three hours.
    Hour,
}

impl Scorer {
    /// All of them.
    pub const ALL: [Scorer; 5] = [
        Scorer::Recency,
        Scorer::Frequency,
        Scorer::Reply,
        Scorer::Together,
        Scorer::Hour,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Scorer::Recency => "recency",
            Scorer::Frequency => "frequency",
            Scorer::Reply => "reply",
            Scorer::Together => "together",
            Scorer::Hour => "hour",
        }
    }
}

pub(crate) struct Histories {
    scorer: Scorer,
    caches: Caches,
    devices: Vec<History>,
}

#[derive(Clone, Default)]
struct History {
    partners: BTreeMap<usize, Partner>,
    /// Whom it wrote to last, and when.
    last: Option<(usize, u64)>,
    /// After whom it wrote to whom within a minute, how often.
    together: BTreeMap<(usize, usize), u32>,
}

#[derive(Clone, Copy, Default)]
struct Partner {
    sent_at: Option<u64>,
    received_at: Option<u64>,
    /// Messages to it, decayed until `sent_at`.
    weight: f64,
    by_slot: [u32; 8],
}

impl Histories {
    pub(super) fn new(setup: &Setup, scorer: Scorer, devices: usize) -> Histories {
        Histories {
            scorer,
            caches: Caches::new(setup),
            devices: vec![History::default(); devices],
        }
    }

    pub(super) fn message(&mut self, now: u64, sender: usize, recipient: usize, world: &mut World) {
        self.devices[sender].sent(now, recipient);
        self.devices[recipient].partners.entry(sender).or_default().received_at = Some(now);
        self.decide(now, sender, world);
        self.decide(now, recipient, world);
    }

    pub(super) fn decide(&mut self, now: u64, device: usize, world: &mut World) {
        let node = world.places[device].expect("it has appeared");
        let mut scores = self.devices[device].scores(self.scorer, now);
        scores.sort_by(|one, other| other.1.total_cmp(&one.1));
        for (partner, score) in scores.into_iter().take(CANDIDATES_MAX) {
            let worth = Worth((score.clamp(0.0, 1.0) * f64::from(u16::MAX)) as u16);
            if score >= THRESHOLD
                && let Some(place) = world.places[partner]
                && place != node
            {
                self.caches.wish(now, (node, place), worth, HALF_LIFE, None, world);
            }
        }
    }
}

impl History {
    fn sent(&mut self, now: u64, to: usize) {
        if let Some((last, at)) = self.last
            && now - at <= 60
        {
            *self.together.entry((last, to)).or_default() += 1;
        }
        self.last = Some((to, now));
        let partner = self.partners.entry(to).or_default();
        partner.weight = partner.weight_at(now) + 1.0;
        partner.sent_at = Some(now);
        partner.by_slot[slot(now)] += 1;
    }

    /// How likely each partner is written to next, as the scorer sees it.
    fn scores(&self, scorer: Scorer, now: u64) -> Vec<(usize, f64)> {
        match scorer {
            Scorer::Recency => self.by_rank(|partner| partner.sent_at.max(partner.received_at)),
            Scorer::Reply => {
                self.by_rank(|partner| partner.received_at.filter(|_| partner.received_at > partner.sent_at))
            }
            Scorer::Frequency => self.by_share(|partner| partner.weight_at(now)),
            Scorer::Hour => self.by_share(|partner| f64::from(partner.by_slot[slot(now)])),
            Scorer::Together => {
                let Some((last, _)) = self.last else {
                    return Vec::new();
                };
                let after = self.together.range((last, 0)..=(last, usize::MAX));
                let sum: u32 = after.clone().map(|(_, &count)| count).sum();
                after
                    .map(|(&(_, to), &count)| (to, f64::from(count) / f64::from(sum.max(1))))
                    .collect()
            }
        }
    }

    fn by_rank(&self, time: impl Fn(&Partner) -> Option<u64>) -> Vec<(usize, f64)> {
        let timed = self
            .partners
            .iter()
            .filter_map(|(&to, partner)| Some((time(partner)?, to)));
        let mut timed: Vec<(u64, usize)> = timed.collect();
        timed.sort_unstable_by(|one, other| other.cmp(one));
        let ranked = timed.into_iter().enumerate();
        ranked.map(|(rank, (_, to))| (to, 1.0 / (rank as f64 + 2.0))).collect()
    }

    fn by_share(&self, weight: impl Fn(&Partner) -> f64) -> Vec<(usize, f64)> {
        let sum: f64 = self.partners.values().map(&weight).sum();
        let shares = self.partners.iter().filter(|_| sum > 0.0);
        shares.map(|(&to, partner)| (to, weight(partner) / sum)).collect()
    }
}

impl Partner {
    fn weight_at(&self, now: u64) -> f64 {
        let days = self.sent_at.map_or(0.0, |at| (now - at) as f64 / 86_400.0);
        self.weight * 0.5f64.powf(days / 3.0)
    }
}

fn slot(now: u64) -> usize {
    (now / (3 * 3_600) % 8) as usize
}

/// As many candidates as the predictor has partners.
const CANDIDATES_MAX: usize = 16;
/// What is less likely is not dialled. Of 0.05, 0.1, 0.15 and 0.2 the one that costs these policies least.
const THRESHOLD: f64 = 0.1;
/// In which time a link loses half its worth.
const HALF_LIFE: Duration = Duration::from_secs(600);
