//! A node that is stormed: who is connected stays served, who comes too fast is told when to come back.

mod common;

use std::time::Duration;

use common::{ALL, Device, eventually, hello, plan};
use trunkline_node::run::Node;
use trunkline_wire::device::{GoAway, GoAwayReason, Welcome};
use trunkline_wire::frame::Encode;

fn node(set: impl Fn(&mut trunkline_node::config::AdmissionSection)) -> (Node, std::net::SocketAddr, common::Plan) {
    let plan = plan(&[ALL]).pop().unwrap();
    let mut config = plan.config();
    config.admission.loopback = true;
    config.admission.ramp_s = 0;
    set(&mut config.admission);
    let node = Node::start(config).unwrap();
    eventually("ready", || node.not_ready().is_empty());
    let address = plan.device;
    (node, address, plan)
}

/// What a device is told first: welcome, or to go away and for how long.
fn first_word(device: &mut Device) -> Option<GoAway> {
    let (ty, body) = device.next().expect("a word, not the end");
    match ty {
        GoAway::TYPE => Some(GoAway::decode_body(&body).unwrap()),
        Welcome::TYPE => None,
        other => panic!("a frame of type 0x{other:02x}"),
    }
}

#[test]
fn a_storm_is_paced_and_the_connected_stay_served() {
    let (node, address, _plan) = node(|admission| admission.rate = 20);
    let mut early = Device::welcomed(address, "early");
    let mut refused = Vec::new();
    let mut let_in = Vec::new();
    let began = std::time::Instant::now();
    for n in 0..200 {
        let mut device = Device::connect(address);
        device.raw(&hello(&format!("d{n}"), b""));
        match first_word(&mut device) {
            Some(go) => refused.push(go),
            None => let_in.push(device),
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    early.assert_served();
    let most = 20.0 * (seconds + 1.0) + 5.0;
    assert!((let_in.len() as f64) < most, "{} in {seconds} s", let_in.len());
    assert!(!refused.is_empty());
    assert!(
        refused
            .iter()
            .all(|go| go.reason == GoAwayReason::Full && go.retry_after_ms >= 1_000)
    );
    let (soonest, latest) = (
        refused.iter().map(|go| go.retry_after_ms).min().unwrap(),
        refused.iter().map(|go| go.retry_after_ms).max().unwrap(),
    );
    assert!(
        latest > 2 * soonest,
        "they don't come back together: {soonest} to {latest} ms"
    );
    eventually("all is counted", || {
        node.stats().sum("connections_refused_pace") == refused.len() as u64
    });
    node.shutdown(Duration::ZERO);
}

#[test]
fn an_address_has_so_many_connections_and_one_that_closes_makes_room() {
    let (node, address, _plan) = node(|admission| admission.connections_per_address = 3);
    let mut devices: Vec<Device> = (0..3).map(|n| Device::welcomed(address, &format!("d{n}"))).collect();
    let mut more = Device::connect(address);
    more.raw(&hello("more", b""));
    let go = first_word(&mut more).expect("there are too many");
    assert_eq!(go.reason, GoAwayReason::Full);
    devices.pop();
    eventually("one has gone", || {
        let mut more = Device::connect(address);
        more.raw(&hello("more", b""));
        first_word(&mut more).is_none()
    });
    for device in &mut devices {
        device.assert_served();
    }
    eventually("it is counted", || node.stats().sum("connections_refused_address") > 0);
    node.shutdown(Duration::ZERO);
}

#[test]
fn connections_from_this_host_are_exempt_unless_it_is_said_otherwise() {
    let (node, address, _plan) = node(|admission| {
        admission.loopback = false;
        admission.rate = 1;
        admission.connections_per_address = 1;
        admission.connects_per_address = 1;
    });
    let _devices: Vec<Device> = (0..20).map(|n| Device::welcomed(address, &format!("d{n}"))).collect();
    node.shutdown(Duration::ZERO);
}
