//! Nodes over real sockets do what they are for.

mod common;

use std::time::Duration;

use common::{ALL, Device, eventually, expect_count, get, plan, single};
use trunkline_node::config::Mode;
use trunkline_node::run::Node;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{GoAway, GoAwayReason, Intend};
use trunkline_wire::id::IdRef;

const CONNECTION: Roles = Roles { region: false, ..ALL };
const INSTANCE: Roles = Roles {
    connection: false,
    messaging: false,
    region: true,
};

#[test]
fn a_message_is_delivered_and_reported_whichever_shards_own_the_devices() {
    let (node, plan) = single();
    // Enough devices to meet every pair of shards, and to need hand-overs.
    let mut devices: Vec<Device> = (0..8)
        .map(|n| Device::welcomed(plan.device, &format!("d{n}")))
        .collect();
    for from in 0..8 {
        let to = (from + 3) % 8;
        devices[from].message(&format!("d{to}"), 0, format!("from {from}").as_bytes());
        assert_eq!(devices[to].take(), format!("from {from}").as_bytes());
        assert!(devices[from].expect_report().contains("Delivered"));
    }
    expect_count(&node, "reports_delivered", 8);
    let handed_over = node.stats().sum("connections_handed_over");
    assert_eq!(handed_over, node.stats().sum("connections_adopted"));
    node.shutdown(Duration::from_secs(1));
}

#[test]
fn a_message_finds_a_device_at_another_node_and_the_next_goes_direct() {
    let plans = plan(&[CONNECTION, CONNECTION, INSTANCE, INSTANCE]);
    let nodes: Vec<_> = plans.iter().map(|plan| plan.start()).collect();
    for node in &nodes {
        eventually("ready", || node.not_ready().is_empty());
    }
    let mut anna = Device::welcomed(plans[0].device, "anna");
    let mut bert = Device::welcomed(plans[1].device, "bert");
    for number in 0..50 {
        anna.message("bert", number, b"hello");
        assert_eq!(bert.take(), b"hello");
        assert!(anna.expect_report().contains("Delivered"));
        if number > 0 && nodes[0].stats().sum("forwards_direct") > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(nodes[0].stats().sum("forwards_region") > 0);
    assert!(
        nodes[0].stats().sum("forwards_direct") > 0,
        "the hint made a wish, the wish a link"
    );
    anna.message("nobody", 100, b"hello");
    assert!(anna.expect_report().contains("Offline"));
    for node in nodes {
        node.shutdown(Duration::from_secs(1));
    }
}

#[test]
fn after_a_hint_the_first_message_goes_direct_and_a_hint_of_nobody_is_no_matter() {
    let plans = plan(&[CONNECTION, CONNECTION, INSTANCE]);
    let nodes: Vec<_> = plans.iter().map(|plan| plan.start()).collect();
    for node in &nodes {
        eventually("ready", || node.not_ready().is_empty());
    }
    let mut anna = Device::welcomed(plans[0].device, "anna");
    let mut bert = Device::welcomed(plans[1].device, "bert");
    for recipient in ["nobody", "bert"] {
        let recipient = IdRef::new(recipient).unwrap();
        anna.send(&Intend { recipient });
    }
    let place = |device: &str| {
        let (_, text) = get(nodes[0].http_address(), &format!("/explain?device={device}"));
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["location"].take()
    };
    eventually("the way is ready", || place("bert")["ready"] == true);
    anna.message("bert", 0, b"hello");
    assert_eq!(bert.take(), b"hello");
    assert!(anna.expect_report().contains("Delivered"));
    expect_count(&nodes[0], "forwards_direct", 1);
    expect_count(&nodes[0], "forwards_region", 0);
    assert_eq!(place("nobody"), serde_json::Value::Null);
    anna.message("nobody", 0, b"hello");
    assert!(anna.expect_report().contains("Offline"), "a hint makes nobody exist");
    for node in nodes {
        node.shutdown(Duration::from_secs(1));
    }
}

#[test]
fn without_a_predictor_nothing_is_dialled_for_messages_whoever_hints() {
    let plans = plan(&[CONNECTION, CONNECTION, INSTANCE]);
    let nodes = plans.iter().map(|plan| {
        let mut config = plan.config();
        config.node.predictor = Mode::Off;
        Node::start(config).unwrap()
    });
    let nodes: Vec<_> = nodes.collect();
    for node in &nodes {
        eventually("ready", || node.not_ready().is_empty());
    }
    let mut anna = Device::welcomed(plans[0].device, "anna");
    let mut bert = Device::welcomed(plans[1].device, "bert");
    let recipient = IdRef::new("bert").unwrap();
    anna.send(&Intend { recipient });
    for number in 0..20 {
        anna.message("bert", number, b"hello");
        assert_eq!(bert.take(), b"hello");
        assert!(anna.expect_report().contains("Delivered"));
    }
    expect_count(&nodes[0], "forwards_region", 20);
    expect_count(&nodes[0], "hints_refused", 1);
    for node in &nodes[..2] {
        // An instance dials no connection server.
        assert_eq!(node.stats().sum("links_accepted"), 0);
        assert_eq!(node.stats().sum("locations_asked") + node.stats().sum("predictions"), 0);
    }
    for node in nodes {
        node.shutdown(Duration::from_secs(1));
    }
}

#[test]
fn a_lost_node_s_links_come_back_when_it_does() {
    let plans = plan(&[CONNECTION, INSTANCE]);
    let first = plans[0].start();
    eventually("the instance is missed", || {
        first.not_ready().iter().any(|why| why.contains("required links"))
    });
    let instance = plans[1].start();
    eventually("ready", || first.not_ready().is_empty());
    instance.shutdown(Duration::ZERO);
    eventually("the loss is seen", || !first.not_ready().is_empty());
    let (status, why) = get(first.http_address(), "/readyz");
    assert_eq!(
        (status, why.trim()),
        (503, "1 required links to other nodes are missing")
    );
    let instance = plans[1].start();
    eventually("ready again", || first.not_ready().is_empty());
    let mut anna = Device::welcomed(plans[0].device, "anna");
    anna.message("anna", 0, b"to myself");
    assert_eq!(anna.take(), b"to myself");
    first.shutdown(Duration::ZERO);
    instance.shutdown(Duration::ZERO);
}

#[test]
fn a_shutdown_tells_devices_when_to_come_back() {
    let (node, plan) = single();
    let mut anna = Device::welcomed(plan.device, "anna");
    let thread = std::thread::spawn(move || node.shutdown(Duration::from_millis(1234)));
    let go = anna.expect::<GoAway, _>(|body| GoAway::decode_body(body).unwrap());
    assert_eq!((go.retry_after_ms, go.reason), (1234, GoAwayReason::Shutdown));
    drop(anna);
    thread.join().unwrap();
    // The ports, the directory and the lock are free again.
    plan.start().shutdown(Duration::ZERO);
}

#[test]
fn metrics_health_and_explanations() {
    let (node, plan) = single();
    let _anna = Device::welcomed(plan.device, "anna");
    expect_count(&node, "sessions_opened", 1);
    let http = node.http_address();
    let (status, text) = get(http, "/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("trunkline_sessions_opened_total{shard=\"0\"}"), "{text}");
    assert!(text.contains("trunkline_map_version{shard=\"0\"} 1"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    assert_eq!(get(http, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(http, "/readyz"), (200, "ok\n".to_owned()));
    let (_, status) = get(http, "/status");
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["node"], 1);
    assert_eq!(status["map"]["version"], 1);
    assert_eq!(status["sessions"], 1);
    assert_eq!(status["member"], false);
    let (code, explained) = get(http, "/explain?device=anna");
    assert_eq!(code, 200, "{explained}");
    let explained: serde_json::Value = serde_json::from_str(&explained).unwrap();
    assert_eq!(explained["region"]["name"], "one");
    assert_eq!(explained["session"]["node"], 1);
    assert_eq!(explained["presence"]["node"], 1);
    assert_eq!(explained["instances"][0]["this"], true);
    let (code, why) = get(http, "/explain?device=");
    assert_eq!(code, 400);
    assert!(why.contains("1 to 64 bytes"));
    node.shutdown(Duration::ZERO);
}
