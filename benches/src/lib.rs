//! What the benchmarks share: a map of three nodes, and the router of any of them with devices at it. No sockets, no clock.
//!
//! ```text
//! ORIGIN, where senders are connected     INSTANCE of the one region     RECIPIENT, where recipients are connected
//! ```
//! Time is virtual and moves by [`TURN`] a turn, so that timers come due as they would under this load.
#![forbid(unsafe_code)]

pub mod steps;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use trunkline_core::constants::{WELCOME_ALONE, WELCOME_TIMEOUT};
use trunkline_core::link::Origin;
use trunkline_core::outbox::{Conn, Effect, Outbox, ShardEvent};
use trunkline_core::router::{Config, Now, Router, SessionRef};
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{
    Acknowledge, ClientFrame, Credentials, Deliver, Hello, PING_INTERVAL_MS_MAX, PingIntervalMs, Purpose, Send,
};
use trunkline_wire::frame::{Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceId, DeviceKey, Epoch, Incarnation, Instance, NodeId, RegionId, ShardId};
use trunkline_wire::map::{Contents, Map, Node, Region};
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::report::{Number, TtlMs};
use trunkline_wire::time::Instant;

/// The node at which the senders are connected.
pub const ORIGIN: NodeId = NodeId(1);
/// The one instance of the one region.
pub const INSTANCE: NodeId = NodeId(2);
/// The node at which the recipients are connected.
pub const RECIPIENT: NodeId = NodeId(3);

/// The one region.
pub const REGION: RegionId = RegionId(1);

/// How many senders there are, and as many recipients: enough that their tables don't fit the innermost cache.
pub const DEVICES: usize = 4096;

/// Messages a turn: what a busy shard finds when it comes back from the kernel.
pub const BATCH: usize = 64;

/// How far time moves a turn: 64 messages in it are 100,000 a second.
pub const TURN: Duration = Duration::from_micros(640);

/// A small message's payload, in bytes.
pub const PAYLOAD_BYTES: usize = 64;

const WALL_MS: u64 = 1_700_000_000_000;

/// The keys of the benchmarks' cluster.
pub fn keys() -> ClusterKeys {
    ClusterKeys::new(&Secret::new(b"a secret for the benchmarks").expect("it is long enough"))
}

/// The name of one of `count` devices.
pub fn device(stem: &str, index: usize) -> DeviceId {
    DeviceId::new(&format!("{stem}-{index:05}")).expect("it is short enough")
}

/// What the map of the benchmarks' cluster says: three nodes, one region, no overrides.
pub fn contents() -> Contents {
    let node = |id: NodeId, roles| {
        let address = |port: u32| Some(SocketAddr::from(([127, 0, 0, 1], (7000 + 10 * id.0 + port) as u16)));
        let node = Node {
            name: format!("node-{id}"),
            incarnation: Incarnation(1),
            roles,
            device_address: address(0),
            peer_address: address(1),
            http_address: None,
        };
        (id, node)
    };
    let server = Roles {
        connection: true,
        messaging: true,
        region: false,
    };
    let instance = Roles {
        connection: false,
        messaging: false,
        region: true,
    };
    let region = Region {
        name: "region".into(),
        instances: vec![INSTANCE],
    };
    let mut contents = Contents::default();
    contents.slots.fill(REGION);
    contents.regions.insert(REGION, region);
    contents
        .nodes
        .extend([node(ORIGIN, server), node(INSTANCE, instance), node(RECIPIENT, server)]);
    contents
}

/// One node's one router, its devices, and what it wants done.
pub struct Host {
    node: NodeId,
    router: Router,
    out: Outbox,
    now: Now,
    keys: ClusterKeys,
    /// By connection.
    sessions: Vec<SessionRef>,
    told: Vec<Told>,
}

/// What a device was sent: which session, how many bytes, and the delivery that it has to acknowledge (0 if there is none).
type Told = (SessionRef, usize, u64);

impl Host {
    /// A node without links and devices.
    pub fn new(node: NodeId) -> Host {
        let map = Arc::new(Map::build(1, 1, contents()).expect("the map is whole"));
        let now = Now {
            at: Instant::from_micros(1_000_000),
            wall_ms: WALL_MS,
        };
        let roles = map.node(node).expect("it is in the map").roles;
        let config = Config {
            node,
            shard: ShardId(0),
            shards: 1,
            roles,
            keys: keys(),
            predictor: Default::default(),
            affinity_lists_max: 1_000,
            seed: node.0.into(),
        };
        let router = Router::new(now, config, map);
        Host {
            node,
            router,
            out: Outbox::new(),
            now,
            keys: keys(),
            sessions: Vec::new(),
            told: Vec::new(),
        }
    }

    /// A link to `node` may be used.
    pub fn link(&mut self, node: NodeId) {
        self.router
            .event(self.now, ShardEvent::LinkUp { node, serial: 1 }, &mut self.out);
    }

    /// Connects [`DEVICES`] devices, and returns their sessions, which are welcomed. Before there are links: no region answers here.
    pub fn connect(&mut self, stem: &str) -> Vec<SessionRef> {
        let before = self.sessions.len();
        for index in 0..DEVICES {
            let device = device(stem, index);
            let hello = Hello {
                device: device.borrow(),
                instance: Instance(1),
                presented: Epoch::NONE,
                purpose: Purpose::Full,
                ping_interval: PingIntervalMs::new(PING_INTERVAL_MS_MAX).expect("the longest"),
                credentials: Credentials::default(),
            };
            let conn = Conn(self.sessions.len() as u64);
            self.sessions
                .push(self.router.attach(self.now, conn, 1, &hello, &mut self.out));
        }
        for wait in [WELCOME_TIMEOUT, WELCOME_ALONE] {
            self.now.at = self.now.at + wait;
            self.turn();
        }
        self.devices_read();
        self.clear();
        assert_eq!(
            self.counter("sessions_opened"),
            self.sessions.len() as u64,
            "all are welcomed"
        );
        self.sessions[before..].to_vec()
    }

    /// Forgets what it wanted done.
    pub fn clear(&mut self) {
        self.out.clear();
    }

    /// The next turn begins.
    pub fn turn(&mut self) {
        self.now.at = self.now.at + TURN;
        self.now.wall_ms = WALL_MS + self.now.at.micros() / 1_000;
        self.router.tick(self.now, &mut self.out);
    }

    /// A device sends.
    pub fn send(&mut self, session: SessionRef, recipient: &DeviceId, number: Number, payload: &[u8]) {
        let send = Send {
            recipient: recipient.borrow(),
            number,
            ttl: TtlMs::default(),
            payload: Tail(payload),
        };
        self.router
            .device_frame(self.now, session, &ClientFrame::Send(send), &mut self.out);
    }

    /// The kernel takes what is to be sent to devices, and they acknowledge what is to be acknowledged. What follows from that, reports
    /// to devices here, is taken too.
    pub fn devices_read(&mut self) {
        let mut done = 0;
        while done < self.out.effects().len() {
            let mut told = std::mem::take(&mut self.told);
            for effect in &self.out.effects()[done..] {
                if let Effect::Device { conn, bytes, .. } = effect {
                    told.push((
                        self.sessions[conn.0 as usize],
                        bytes.len(),
                        delivery(self.out.bytes(bytes)),
                    ));
                }
            }
            done = self.out.effects().len();
            for (session, bytes, delivery) in told.drain(..) {
                self.router.device_sent(self.now, session, bytes);
                if delivery != 0 {
                    let taken = ClientFrame::Acknowledge(Acknowledge { delivery, late: false });
                    self.router.device_frame(self.now, session, &taken, &mut self.out);
                }
            }
            self.told = told;
        }
    }

    /// Frames arrive on the link to `from`.
    pub fn receive(&mut self, from: NodeId, mut bytes: &[u8]) {
        while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
            let Header { ty, length } = Header::decode(*header);
            let (body, rest) = rest.split_at(length as usize);
            let origin = Origin {
                node: from,
                current: true,
                version: VERSION_MAX,
            };
            let read = self.router.link_frame(self.now, origin, ty, body, &mut self.out);
            read.expect("it was encoded by one of us");
            bytes = rest;
        }
    }

    /// A frame arrives on the link to `from`.
    pub fn told_by(&mut self, from: NodeId, frame: &impl Encode) {
        self.receive(from, &frame.to_vec());
    }

    /// Hands `other` what is to be sent to it.
    pub fn carry(&self, other: &mut Host) {
        for effect in self.out.effects() {
            match effect {
                Effect::Link { node, bytes, .. } if *node == other.node => {
                    other.receive(self.node, self.out.bytes(bytes))
                }
                _ => {}
            }
        }
    }

    /// Inside the cluster.
    pub fn key(&self, device: &DeviceId) -> DeviceKey {
        self.keys.device_key(device.borrow())
    }

    /// What it counted, by name.
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.router.counters();
        let all = trunkline_core::counters::Counters::NAMES.iter().zip(counters.values());
        let mut found = all.filter(|((known, _), _)| *known == name);
        found.next().expect("there is a counter of that name").1
    }
}

/// The delivery that one frame to a device asks to acknowledge; 0 if it is another frame.
fn delivery(frame: &[u8]) -> u64 {
    let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().expect("it has a header");
    match (Header::decode(*header).ty, body.first_chunk::<8>()) {
        (Deliver::TYPE, Some(delivery)) => u64::from_le_bytes(*delivery),
        _ => 0,
    }
}
