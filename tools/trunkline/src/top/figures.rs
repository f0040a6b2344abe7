//! Rates and ratios of a node and its cores between two samples.

use serde::Serialize;

use super::sample::Sample;

/// What a node did between two samples, and how it is now.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its number in the cluster.
    pub node: Option<String>,
    /// For people.
    pub name: Option<String>,
    /// Messages a second that came in, from devices and from other nodes.
    pub messages_in: f64,
    /// Messages a second written to devices.
    pub messages_out: f64,
    /// Open device sessions.
    pub sessions: f64,
    /// Links to other nodes that are up.
    pub links: f64,
    /// Links beyond the required ones, and how many there may be.
    pub direct_links: f64,
    /// See above.
    pub direct_links_budget: f64,
    /// Of the messages for other nodes' devices, those that went straight to the recipient's node. `None` if there was none.
    pub hit_ratio: Option<f64>,
    /// Sessions that it knows as an instance of their regions.
    pub ldci: f64,
    /// The map's version.
    pub map_version: f64,
    /// Whether its regions could say that a device is offline.
    pub in_sync: bool,
    /// Whether it sends its devices elsewhere.
    pub draining: bool,
    /// Its shards.
    pub cores: Vec<Core>,
}

/// One shard, and so one core.
#[derive(Clone, Debug, Serialize)]
pub struct Core {
    /// Which shard.
    pub shard: u32,
    /// Which processor.
    pub core: Option<String>,
    /// `uring` or `epoll`.
    pub backend: Option<String>,
    /// See [`Node::messages_in`].
    pub messages_in: f64,
    /// See [`Node::messages_out`].
    pub messages_out: f64,
    /// Of a processor, in percent; `None` where the kernel doesn't account it so.
    pub cpu_percent: Option<f64>,
    /// Microseconds of processor time for each message that came in.
    pub cpu_us_per_message: Option<f64>,
    /// Batch sizes: frames for each receive, frames for each send, completions for each turn.
    pub frames_per_receive: Option<f64>,
    /// See above.
    pub frames_per_send: Option<f64>,
    /// See above.
    pub completions_per_turn: Option<f64>,
    /// Depths of queues: bytes at connections, bytes for other shards, confirmed messages without a report.
    pub queued_bytes: f64,
    /// See above.
    pub mesh_queued_bytes: f64,
    /// See above.
    pub unresolved: f64,
    /// System calls for each message that came in.
    pub calls_per_message: Option<f64>,
    /// Times a second that it went to sleep.
    pub sleeps: f64,
}

impl Node {
    /// What happened in the `seconds` from `before` to `after`.
    pub fn between(before: &Sample, after: &Sample, seconds: f64) -> Node {
        let cores: Vec<Core> = (0..after.shards())
            .map(|shard| Core::between(before, after, shard, seconds))
            .collect();
        let grown = |name: &str| (after.sum(name) - before.sum(name)).max(0.0);
        let direct = grown("forwards_direct_total");
        let missed = grown("direct_missed_location_total") + grown("direct_missed_link_total");
        let shards = f64::from(after.shards());
        Node {
            node: after.label("node_info", None, "node"),
            name: after.label("node_info", None, "name").filter(|name| !name.is_empty()),
            messages_in: cores.iter().map(|core| core.messages_in).sum(),
            messages_out: cores.iter().map(|core| core.messages_out).sum(),
            sessions: after.sum("sessions"),
            links: after.sum("links"),
            direct_links: after.sum("direct_links"),
            direct_links_budget: after.sum("direct_links_budget"),
            hit_ratio: ratio(direct, direct + missed),
            ldci: after.sum("presence"),
            map_version: after.of_shard("map_version", 0).unwrap_or(0.0),
            in_sync: after.sum("in_sync") >= shards,
            draining: after.sum("draining") > 0.0,
            cores,
        }
    }
}

impl Core {
    fn between(before: &Sample, after: &Sample, shard: u32, seconds: f64) -> Core {
        let now = |name: &str| after.of_shard(name, shard).unwrap_or(0.0);
        // A node that was started anew counts from nothing: no rate is negative.
        let grown = |name: &str| (now(name) - before.of_shard(name, shard).unwrap_or(0.0)).max(0.0);
        let all = |names: &[&str]| names.iter().map(|name| grown(name)).sum::<f64>();
        let (messages, calls) = (all(&MESSAGES_IN), all(&CALLS));
        let cpu = after
            .of_shard("cpu_seconds_total", shard)
            .map(|_| grown("cpu_seconds_total"));
        Core {
            shard,
            core: after.label("shard_info", Some(shard), "core"),
            backend: after.label("shard_info", Some(shard), "backend"),
            messages_in: messages / seconds,
            messages_out: grown("messages_delivered_total") / seconds,
            cpu_percent: cpu.map(|cpu| 100.0 * cpu / seconds),
            cpu_us_per_message: cpu.and_then(|cpu| ratio(1e6 * cpu, messages)),
            frames_per_receive: ratio(grown("frames_received_total"), grown("receives_total")),
            frames_per_send: ratio(grown("frames_sent_total"), grown("sends_total")),
            completions_per_turn: ratio(grown("completions_total"), grown("turns_total")),
            queued_bytes: now("queued_bytes"),
            mesh_queued_bytes: now("mesh_queued_bytes"),
            unresolved: now("unresolved"),
            calls_per_message: ratio(calls, messages),
            sleeps: grown("sleeps_total") / seconds,
        }
    }
}

fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// Messages that came in: from devices, from senders' nodes, from instances, and those that an instance sent on.
const MESSAGES_IN: [&str; 5] = [
    "messages_in_total",
    "way_direct_total",
    "way_region_total",
    "forwards_from_region_total",
    "forwards_not_here_total",
];
/// System calls on messages' ways.
const CALLS: [&str; 3] = ["enters_total", "reads_total", "writes_total"];

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(messages: u32, cpu: f64, direct: u32, missed: u32) -> Sample {
        Sample::parse(&format!(
            "trunkline_turns_total{{shard=\"0\"}} {messages}\ntrunkline_messages_in_total{{shard=\"0\"}} {messages}\n\
             trunkline_enters_total{{shard=\"0\"}} {}\ntrunkline_cpu_seconds_total{{shard=\"0\"}} {cpu}\n\
             trunkline_forwards_direct_total{{shard=\"0\"}} {direct}\n\
             trunkline_direct_missed_link_total{{shard=\"0\"}} {missed}\ntrunkline_presence{{shard=\"0\"}} 9\n\
             trunkline_shard_info{{shard=\"0\",core=\"3\",backend=\"uring\"}} 1\n",
            messages / 2
        ))
    }

    #[test]
    fn rates_are_over_the_time_between_and_ratios_over_what_happened_in_it() {
        let node = Node::between(&sample(1000, 1.0, 10, 10), &sample(3000, 2.0, 40, 20), 2.0);
        let core = &node.cores[0];
        assert_eq!((core.messages_in, core.cpu_percent), (1000.0, Some(50.0)));
        assert_eq!(
            (core.calls_per_message, core.cpu_us_per_message),
            (Some(0.5), Some(500.0))
        );
        assert_eq!(
            (core.core.as_deref(), core.backend.as_deref()),
            (Some("3"), Some("uring"))
        );
        assert_eq!((node.hit_ratio, node.ldci), (Some(0.75), 9.0));
    }

    #[test]
    fn without_messages_there_is_no_ratio_and_after_a_restart_no_negative_rate() {
        let node = Node::between(&sample(3000, 2.0, 40, 20), &sample(10, 0.1, 0, 0), 1.0);
        assert_eq!((node.messages_in, node.hit_ratio), (0.0, None));
        assert_eq!(node.cores[0].calls_per_message, None);
    }
}
