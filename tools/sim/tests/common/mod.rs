//! What the scenarios share: a cluster at rest, and users who write to each other.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use trunkline_client::{Guarantee, Outcome, TtlMs};
use trunkline_sim::{Checked, Cluster, DeviceNo, MessageNo, NodeNo, Spec, Start};

pub const DELIVERED: Outcome = Outcome::Delivered { late: false };

pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cluster that has come to rest, without devices.
pub fn cluster(seed: u64, spec: Spec) -> Cluster {
    let mut cluster = Cluster::new(seed, spec);
    held(cluster.settle(secs(20)));
    cluster
}

/// As [`cluster`], with `devices` devices that are connected.
pub fn connected(seed: u64, devices: u32, start: &Start) -> Cluster {
    let mut cluster = cluster(
        seed,
        Spec {
            devices,
            ..Spec::default()
        },
    );
    for device in cluster.devices() {
        cluster.start_device(device, start);
    }
    held(cluster.settle(secs(10)));
    cluster
}

/// No promise was broken.
#[track_caller]
pub fn held<T>(checked: Checked<T>) -> T {
    checked.unwrap_or_else(|violation| panic!("{violation}"))
}

/// Sends one confirmed message.
#[track_caller]
pub fn send(cluster: &mut Cluster, from: DeviceNo, to: DeviceNo, ttl_ms: u32) -> MessageNo {
    let ttl = TtlMs::new(ttl_ms).expect("a test's time to live is allowed");
    let sent = cluster.send(from, to, 20, ttl, Guarantee::Confirmed);
    sent.expect("the library takes it")
}

/// Everybody writes to everybody in turn, a message every five milliseconds, for `span`.
pub fn talk(cluster: &mut Cluster, span: Duration, ttl_ms: u32) -> Vec<MessageNo> {
    let devices: Vec<DeviceNo> = cluster.devices().collect();
    let (end, mut sent) = (cluster.now() + span, Vec::new());
    for turn in 0.. {
        if cluster.now() >= end {
            break;
        }
        let from = devices[turn % devices.len()];
        let to = devices[(turn + 1 + turn / devices.len() % (devices.len() - 1)) % devices.len()];
        sent.push(send(cluster, from, to, ttl_ms));
        held(cluster.run_for(ms(5)));
    }
    sent
}

/// How a message ended.
pub fn outcome(cluster: &Cluster, message: MessageNo) -> Option<Outcome> {
    cluster.ledger().records()[message.0 as usize]
        .report
        .map(|(_, outcome, _)| outcome)
}

/// How many of these messages ended as `wanted` says.
pub fn count(cluster: &Cluster, messages: &[MessageNo], wanted: impl Fn(Outcome) -> bool) -> usize {
    let ends = messages.iter().filter_map(|message| outcome(cluster, *message));
    ends.filter(|outcome| wanted(*outcome)).count()
}

pub fn is_delivered(outcome: Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { .. })
}

/// A server that isn't `other`.
pub fn another_server(cluster: &Cluster, other: NodeNo) -> NodeNo {
    cluster
        .servers()
        .into_iter()
        .find(|server| *server != other)
        .expect("there are several")
}
