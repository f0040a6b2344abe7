//! What came of a trace in a real cluster, with one policy.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use trunkline_client::Way;
use trunkline_replay::model::Readiness;
use trunkline_replay::schedule::After;

use crate::workload::Summary;

/// What the servers are asked for, before and after.
pub const COUNTED: [&str; 9] = [
    "links_dialled",
    "links_wasted",
    "links_evicted",
    "forwards_direct",
    "direct_missed_link",
    "direct_missed_location",
    "forwards_not_here",
    "hints_taken",
    "links_dial_failed",
];

/// See the module's text.
pub struct Figures {
    /// Its name.
    pub policy: &'static str,
    /// Of all messages.
    pub summary: Summary,
    /// By [`COUNTED`].
    counts: Option<Vec<u64>>,
    /// Messages between two servers.
    remote: u64,
    direct: Latencies,
    region: Latencies,
    /// Of these, the first after an idle spell.
    pub first: Firsts,
}

/// The first messages after an idle spell.
#[derive(Default)]
pub struct Firsts {
    messages: u64,
    direct: u64,
    /// Of which the model says that their link was ready, and which needed one: without those of `met`.
    hits: u64,
    /// Of those that the model calls hits, the ones whose sender and recipient were at one server: who comes back attaches earlier than in the
    /// model.
    met: u64,
    /// Of these, those that went direct.
    hits_direct: u64,
    /// Of the model's hits, those whose recipient's place was known there too.
    foreseen: u64,
    /// Of these, those that went direct.
    foreseen_direct: u64,
    latencies: Latencies,
}

/// In microseconds.
struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("valid bounds"))
    }
}

impl Latencies {
    fn add(&mut self, latency: Duration) {
        let us = (latency.as_micros() as u64).clamp(1, LATENCY_US_MAX);
        self.0.record(us).expect("within the bounds");
    }

    fn at(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }

    fn json(&self) -> Value {
        json!({
            "messages": self.0.len(),
            "p50_ms": self.at(0.5), "p90_ms": self.at(0.9), "p99_ms": self.at(0.99), "max_ms": self.at(1.0),
        })
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|quantile| self.at(quantile));
        write!(
            f,
            "{:>7} messages, ms: p50 {p50:.2}, p90 {p90:.2}, p99 {p99:.2}, max {max:.2}",
            self.0.len()
        )
    }
}

impl Firsts {
    /// The median of those that the model calls hits; nothing if there are none.
    pub fn hits_p50_ms(&self) -> Option<f64> {
        (!self.latencies.0.is_empty()).then(|| self.latencies.at(0.5))
    }
}

impl Figures {
    /// Nothing of a message yet.
    pub fn new(policy: &'static str, summary: Summary, counts: Option<Vec<u64>>) -> Figures {
        Figures {
            policy,
            summary,
            counts,
            remote: 0,
            direct: Latencies::default(),
            region: Latencies::default(),
            first: Firsts::default(),
        }
    }

    /// What became of a message between two servers: nothing, if it wasn't delivered. What the model says of it. Whether it was the
    /// first after an idle spell.
    pub fn remote(&mut self, delivery: Option<(Way, Duration)>, link: Readiness, known: bool, after: After) {
        self.remote += 1;
        let is_direct = matches!(delivery, Some((Way::Direct, _)));
        let have_met = matches!(delivery, Some((Way::Local, _)));
        if let Some((way, latency)) = delivery {
            match way {
                Way::Direct => self.direct.add(latency),
                Way::Region => self.region.add(latency),
                Way::Local | Way::Unknown => {}
            }
        }
        if after == After::Silence {
            self.first.messages += 1;
            self.first.direct += u64::from(is_direct);
            if link != Readiness::None && have_met {
                self.first.met += 1;
            } else if link != Readiness::None {
                self.first.hits += 1;
                self.first.hits_direct += u64::from(is_direct);
                if known {
                    self.first.foreseen += 1;
                    self.first.foreseen_direct += u64::from(is_direct);
                }
                if let Some((_, latency)) = delivery {
                    self.first.latencies.add(latency);
                }
            }
        }
    }

    /// The share of messages between two servers that went direct.
    fn hit(&self) -> f64 {
        share(self.direct.0.len(), self.remote)
    }

    fn count(&self, name: &str) -> Option<u64> {
        let at = COUNTED.iter().position(|counted| *counted == name)?;
        Some(self.counts.as_ref()?[at])
    }

    fn location_known(&self) -> Option<f64> {
        let known = self.count("forwards_direct")? + self.count("direct_missed_link")?;
        Some(share(known, known + self.count("direct_missed_location")?))
    }

    fn dials_per_message(&self) -> Option<f64> {
        Some(share(self.count("links_dialled")?, self.remote))
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let Firsts {
            messages,
            direct,
            hits,
            met,
            hits_direct,
            foreseen,
            foreseen_direct,
            latencies,
        } = &self.first;
        json!({
            "policy": self.policy,
            "messages": self.remote,
            "hit": self.hit(),
            "location_known": self.location_known(),
            "dials_per_message": self.dials_per_message(),
            "wasted_dials": self.count("links_wasted"),
            "evicted_links": self.count("links_evicted"),
            "failed_dials": self.count("links_dial_failed"),
            "missed_location": self.count("direct_missed_location"),
            "missed_link": self.count("direct_missed_link"),
            "stale_location": self.count("forwards_not_here"),
            "hints": self.count("hints_taken"),
            "direct": self.direct.json(),
            "region": self.region.json(),
            "first_after_idle": {
                "messages": messages,
                "direct": direct,
                "model_hits": hits,
                "model_hits_met": met,
                "model_hits_direct": hits_direct,
                "model_hits_known": foreseen,
                "model_hits_known_direct": foreseen_direct,
                "model_hits_latency": latencies.json(),
            },
            "all": self.summary.json(),
        })
    }
}

fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// For people.
impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes = self.summary.outcomes.iter();
        let outcomes: Vec<String> = outcomes.map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "policy        {}", self.policy)?;
        write!(
            f,
            "messages      {} sent, of these {} between two servers: hit {:.3}",
            self.summary.sent,
            self.remote,
            self.hit()
        )?;
        if let (Some(known), Some(dials)) = (self.location_known(), self.dials_per_message()) {
            write!(f, ", location known {known:.3}, dials/msg {dials:.3}")?;
        }
        if let [Some(location), Some(link), Some(stale)] =
            ["direct_missed_location", "direct_missed_link", "forwards_not_here"].map(|name| self.count(name))
        {
            write!(
                f,
                "\nmissed        {location} location not known, {link} no link, {stale} no longer there"
            )?;
        }
        writeln!(f, "\noutcomes      {}", outcomes.join(", "))?;
        writeln!(f, "direct       {}", self.direct)?;
        writeln!(f, "by region    {}", self.region)?;
        let first = &self.first;
        write!(
            f,
            "first         {} after an idle spell, {} direct; {} that the model calls hits were local; of {} others {} direct ({:.1} %), their \
             p50 {:.2} ms; of {} whose place it knew too {} ({:.1} %)",
            first.messages,
            first.direct,
            first.met,
            first.hits,
            first.hits_direct,
            100.0 * share(first.hits_direct, first.hits),
            first.latencies.at(0.5),
            first.foreseen,
            first.foreseen_direct,
            100.0 * share(first.foreseen_direct, first.foreseen),
        )
    }
}

/// Two minutes: longer than any message lives here.
const LATENCY_US_MAX: u64 = 120_000_000;
