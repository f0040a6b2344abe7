//! Look-ups in the map and among sessions, and the way from one shard to another.
//!
//! Each look-up is of another device, so that what is measured is not one cache line.

use std::hint::black_box;

use trunkline_core::outbox::Conn;
use trunkline_core::session::{Opening, SessionRef, Sessions, State};
use trunkline_net::epoll::EpollDriver;
use trunkline_node::mesh::{MeshPort, mesh};
use trunkline_wire::common::Ping;
use trunkline_wire::device::Purpose;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, Epoch, Instance, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::time::Instant;

use super::{Entry, Step};
use crate::{BATCH, DEVICES, ORIGIN, PAYLOAD_BYTES, REGION, contents, device, keys};

pub(super) const ALL: &[Entry] = &[
    Entry::new("map", "device_key", device_key),
    Entry::new("map", "slot", || region_of(0, "unnamed")),
    Entry::new("map", "slot_beside_overrides", || region_of(OVERRIDES, "unnamed")),
    Entry::new("map", "override", || region_of(OVERRIDES, "named")),
    Entry::new("map", "instances", instances),
    Entry::new("session", "by_device", session_by_device),
    Entry::new("session", "by_reference", session_by_reference),
    Entry::turn("mesh", "push_and_pop", push_and_pop),
];

/// How many devices are assigned by name.
const OVERRIDES: usize = 100_000;

fn device_key() -> Box<dyn Step> {
    let (keys, name) = (keys(), device("named", 1));
    Box::new(move || {
        black_box(keys.device_key(black_box(name.borrow())));
    })
}

fn keys_of(stem: &str, count: usize) -> Vec<DeviceKey> {
    let keys = keys();
    (0..count)
        .map(|index| keys.device_key(device(stem, index).borrow()))
        .collect()
}

fn region_of(overrides: usize, stem: &str) -> Box<dyn Step> {
    let mut contents = contents();
    contents
        .overrides
        .extend(keys_of("named", overrides).into_iter().map(|key| (key, REGION)));
    let map = Map::build(1, 1, contents).expect("the map is whole");
    let devices = keys_of(stem, OVERRIDES);
    let mut next = 0;
    Box::new(move || {
        black_box(map.region_of(black_box(devices[next])));
        next = (next + 1) % OVERRIDES;
    })
}

fn instances() -> Box<dyn Step> {
    let map = Map::build(1, 1, contents()).expect("the map is whole");
    Box::new(move || {
        black_box(map.instances(black_box(REGION)).len());
    })
}

/// A shard's sessions, and how they are named.
fn sessions() -> (Sessions, Vec<DeviceKey>, Vec<SessionRef>) {
    let mut sessions = Sessions::default();
    let devices = keys_of("device", DEVICES);
    let open = |(index, &key): (usize, &DeviceKey)| {
        let opening = Opening {
            conn: Conn(index as u64),
            key,
            id: device("device", index),
            instance: Instance(1),
            version: 1,
            epoch: Epoch {
                clock: 1 << 56,
                node: ORIGIN,
            },
            purpose: Purpose::Full,
            idle_ms: 60_000,
            state: State::Open,
        };
        sessions.insert(Instant::from_micros(1), opening)
    };
    let references = devices.iter().enumerate().map(open).collect();
    (sessions, devices, references)
}

fn session_by_device() -> Box<dyn Step> {
    let (mut sessions, devices, _) = sessions();
    let mut next = 0;
    Box::new(move || {
        assert!(black_box(sessions.of_device(black_box(devices[next]))).is_some());
        next = (next + 1) % DEVICES;
    })
}

fn session_by_reference() -> Box<dyn Step> {
    let (mut sessions, _, references) = sessions();
    let mut next = 0;
    Box::new(move || {
        assert!(black_box(sessions.find(black_box(references[next]))).is_some());
        next = (next + 1) % DEVICES;
    })
}

/// A turn's messages to another shard that is awake, and that takes them in.
fn push_and_pop() -> Box<dyn Step> {
    let mut ports = mesh::<EpollDriver>(2).0.into_iter();
    let (from, to) = (ports.next().expect("one"), ports.next().expect("another"));
    // As many bytes as a message has; what they say isn't looked at.
    let frame = Ping { token: 1 }.to_vec().repeat((PAYLOAD_BYTES + 64) / 12);
    Box::new(Mesh { from, to, frame })
}

struct Mesh {
    from: MeshPort<EpollDriver>,
    to: MeshPort<EpollDriver>,
    frame: Vec<u8>,
}

impl Step for Mesh {
    fn run(&mut self) {
        for _ in 0..BATCH {
            self.from.frames(ShardId(1), ORIGIN, black_box(&self.frame));
        }
        assert!(!self.from.flush(|_| {}), "there is room");
        let taken = self.to.take_bytes(ShardId(0));
        assert_eq!(taken, Some(BATCH * self.frame.len()));
    }
}
