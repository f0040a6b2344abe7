//! The node's numbers as OpenMetrics text. Read when asked for: nothing is kept twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use trunkline_core::link::Reason;

use crate::agent::AgentCounters;
use crate::run::{Shared, lock};
use crate::stats::{ShardStats, names};

/// All metrics of the node.
pub(super) fn encode(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("trunkline");
    registry.register_collector(Box::new(Numbers(Arc::clone(shared))));
    let mut text = String::new();
    encode_text(&mut text, &registry)?;
    Ok(text)
}

struct Numbers(Arc<Shared>);

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Numbers")
    }
}

/// A gauge of a shard: its name, its help text, where it is.
type Gauge = (&'static str, &'static str, fn(&ShardStats) -> &AtomicU64);

const GAUGES: &[Gauge] = &[
    ("sessions", "Open device sessions", |shard| &shard.sessions),
    ("sockets", "Open sockets", |shard| &shard.sockets),
    ("links", "Links to other nodes that are up", |shard| &shard.links_up),
    (
        "direct_links",
        "Places for links beyond the required ones that are taken, dials included",
        |shard| &shard.direct_links,
    ),
    (
        "direct_links_budget",
        "Places for links beyond the required ones",
        |shard| &shard.direct_links_max,
    ),
    (
        "affinities",
        "Devices of which this instance remembers whom they have to do with",
        |shard| &shard.affinities,
    ),
    ("affinities_max", "Devices of which it may", |shard| {
        &shard.affinities_max
    }),
    ("links_missing", "Required links that are not up", |shard| {
        &shard.links_missing
    }),
    ("unresolved", "Confirmed messages without a report", |shard| {
        &shard.unresolved
    }),
    (
        "queued_bytes",
        "Bytes that wait at connections, those in flight included",
        |shard| &shard.queued_bytes,
    ),
    (
        "mesh_queued_bytes",
        "Bytes that found no room on the way to other shards",
        |shard| &shard.mesh_queued_bytes,
    ),
    ("presence", "Sessions known as an instance of their regions", |shard| {
        &shard.presence
    }),
    ("map_version", "The version of the map in use; 0 is none", |shard| {
        &shard.map_version
    }),
    (
        "map_settled",
        "The version of the map of which all that it asks of this shard is done",
        |shard| &shard.map_settled,
    ),
];

/// What the kernel accounts to the thread of this number; read here, so that the thread itself has no work with it.
fn processor_seconds(thread: u64) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let ns: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(ns as f64 / 1e9)
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let shards = self.0.stats.shards();
        let values: Vec<Vec<u64>> = shards.iter().map(|shard| shard.values().collect()).collect();
        for (at, (name, help)) in names().enumerate() {
            // The encoder ends the help text itself.
            let help = help.trim_end_matches('.');
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (index, values) in values.iter().enumerate() {
                let labels = [("shard", index.to_string())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&values[at], None)?;
            }
        }
        for (name, help, gauge) in GAUGES {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (index, shard) in shards.iter().enumerate() {
                let labels = [("shard", index.to_string())];
                let value = gauge(shard).load(Ordering::Relaxed) as i64;
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let help = "Places for links beyond the required ones that are taken, by what they are taken for";
        let mut metric = encoder.encode_descriptor("direct_links_taken", help, None, MetricType::Gauge)?;
        for (index, shard) in shards.iter().enumerate() {
            for (reason, taken) in Reason::ALL.iter().zip(&shard.direct_links_for) {
                let labels = [("shard", index.to_string()), ("reason", reason.name().to_owned())];
                let value = taken.load(Ordering::Relaxed) as i64;
                metric.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        let help = "Processor time of the shard's thread";
        let mut metric = encoder.encode_descriptor("cpu_seconds", help, None, MetricType::Counter)?;
        for (index, shard) in shards.iter().enumerate() {
            // A system that doesn't account it so has no such line.
            if let Some(seconds) = processor_seconds(shard.thread.load(Ordering::Relaxed)) {
                let labels = [("shard", index.to_string())];
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, f64, u64>(&seconds, None)?;
            }
        }
        let help = "Where the shard runs, and how it reaches the kernel";
        let mut metric = encoder.encode_descriptor("shard", help, None, MetricType::Info)?;
        for (index, core) in self.0.cores.iter().enumerate() {
            let labels = [
                ("shard", index.to_string()),
                ("core", core.to_string()),
                ("backend", self.0.backend.to_string()),
            ];
            metric.encode_info(&labels)?;
        }
        let help = "The node, by its number and its name";
        let mut metric = encoder.encode_descriptor("node", help, None, MetricType::Info)?;
        let labels = [("node", self.0.node.0.to_string()), ("name", self.0.name.clone())];
        metric.encode_info(&labels)?;
        let help = "Whether the regions that the node serves could say that a device is offline";
        let mut metric = encoder.encode_descriptor("in_sync", help, None, MetricType::Gauge)?;
        for (index, shard) in shards.iter().enumerate() {
            let labels = [("shard", index.to_string())];
            let value = i64::from(shard.in_sync.load(Ordering::Relaxed));
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        let help = "Whether devices are being sent elsewhere, and none is let in";
        let mut metric = encoder.encode_descriptor("draining", help, None, MetricType::Gauge)?;
        metric.encode_gauge(&i64::from(self.0.stats.draining()))?;
        let agent = lock(&self.0.agent.counters).clone();
        for ((name, help), value) in AgentCounters::NAMES.iter().zip(agent.values()) {
            let help = help.trim_end_matches('.');
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
        }
        let member = i64::from(self.0.agent.member.load(Ordering::Relaxed));
        let help = "Whether the control plane knows the node now";
        let mut metric = encoder.encode_descriptor("member", help, None, MetricType::Gauge)?;
        metric.encode_gauge(&member)
    }
}
