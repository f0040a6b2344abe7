//! The control plane's decisions in a cluster without a network: what it sends is taken in at once, and time is the test's.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use trunkline_control::config::{BATCH, Config, InitialRegion};
use trunkline_control::logic::{ConnectionId, Effect, Input, Logic, Now, Outbox};
use trunkline_control::membership::RENEWAL;
use trunkline_control::store::{MemoryStore, Store};
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::codec::{Tail, Text};
use trunkline_wire::control::{Admin, ControlFrame, Join, MapAck, MapId, MapSettled, Names, NodeFrame, Renew, Roles};
use trunkline_wire::frame::{Decode, HEADER_BYTES, Header};
use trunkline_wire::handshake::Peer;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::{Map, accept};
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::time::Instant;

/// A cluster without a network: what the control plane sends is taken in at once.
pub struct World {
    pub logic: Logic,
    pub store: MemoryStore,
    pub config: Config,
    pub at: Instant,
    pub nodes: BTreeMap<ConnectionId, Node>,
    pub connection_next: u64,
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub map: Map,
    pub renews: bool,
    /// Says that it has settled each map that it takes.
    pub settles: bool,
    pub joined: bool,
    pub failure: Option<String>,
    pub answers: BTreeMap<u32, (bool, Value)>,
    /// What it was told of draining: whether, and how many a second.
    pub drains: Vec<(bool, u32)>,
}

pub const WALL_MS: u64 = 1_700_000_000_000;

impl World {
    /// Two regions of one instance each, `eu` and `us`, and a connection server; the server's connection last.
    pub fn of_two_regions() -> (World, [ConnectionId; 3]) {
        let mut world = World::new(initially(&[("eu", 1), ("us", 1)]));
        let nodes = [
            world.join("r1", &["eu"]),
            world.join("r2", &["us"]),
            world.join("s1", &[]),
        ];
        world.pass(2 * BATCH);
        (world, nodes)
    }

    /// From here on nodes settle only when the test says so.
    pub fn by_hand(&mut self) {
        self.nodes.values_mut().for_each(|node| node.settles = false);
    }

    /// Nodes say that they have settled the maps that they have, and control acts on it.
    pub fn settle_all(&mut self, nodes: &[ConnectionId]) {
        nodes.iter().for_each(|node| self.settle(*node));
        self.pass(BATCH);
    }

    pub fn new(config: Config) -> World {
        let store = MemoryStore::new();
        let at = Instant::from_micros(5_000_000);
        let logic = start(&config, &store, at);
        World {
            logic,
            store,
            config,
            at,
            nodes: BTreeMap::new(),
            connection_next: 1,
        }
    }

    pub fn now(&self) -> Now {
        let wall_ms = WALL_MS + self.at.micros() / 1000;
        Now { at: self.at, wall_ms }
    }

    /// The process dies and comes back.
    pub fn restart(&mut self) {
        self.logic = start(&self.config, &self.store, self.at);
        self.nodes.clear();
    }

    pub fn open(&mut self, id: NodeId, incarnation: u64) -> ConnectionId {
        let connection = ConnectionId(self.connection_next);
        self.connection_next += 1;
        let node = Node {
            id,
            map: Map::empty(),
            renews: true,
            settles: true,
            joined: false,
            failure: None,
            answers: BTreeMap::new(),
            drains: Vec::new(),
        };
        self.nodes.insert(connection, node);
        let peer = Peer {
            node: id,
            incarnation: Incarnation(incarnation),
            version: 1,
        };
        self.input(connection, Input::Opened(peer));
        connection
    }

    pub fn join_as(&mut self, id: NodeId, incarnation: u64, name: &str, regions: &[&str], port: u16) -> ConnectionId {
        let connection = self.open(id, incarnation);
        let mut space = Vec::new();
        let join = Join {
            name: Text::clipped(name),
            roles: Roles {
                connection: regions.is_empty(),
                messaging: false,
                region: !regions.is_empty(),
            },
            device_address: Some(SocketAddr::from(([127, 0, 0, 1], port))),
            peer_address: Some(SocketAddr::from(([127, 0, 0, 1], port + 1))),
            http_address: None,
            map: MapId::default(),
            regions: Names::new(regions.iter().copied(), &mut space).unwrap(),
            #[cfg(feature = "next-version")]
            build: trunkline_wire::codec::Newer::new(VERSION_MAX, Text::clipped("a build")),
        };
        self.frame(connection, NodeFrame::Join(join));
        self.pass(BATCH);
        connection
    }

    pub fn join(&mut self, name: &str, regions: &[&str]) -> ConnectionId {
        let port = 1000 + 2 * self.connection_next as u16;
        self.join_as(NodeId::NONE, 1, name, regions, port)
    }

    pub fn frame(&mut self, from: ConnectionId, frame: NodeFrame<'_>) {
        self.input(from, Input::Frame(frame));
    }

    pub fn input(&mut self, from: ConnectionId, input: Input<'_>) {
        let mut out = Outbox::new();
        self.logic.handle(self.now(), from, input, &mut out);
        self.carry_out(out);
    }

    pub fn ask(&mut self, from: ConnectionId, request: Value) -> Result<Value, String> {
        let number = self.nodes[&from].answers.len() as u32 + 1;
        let json = request.to_string();
        self.frame(
            from,
            NodeFrame::Admin(Admin {
                request: number,
                json: Tail(json.as_bytes()),
            }),
        );
        self.pass(BATCH);
        let (ok, value) = self.nodes[&from].answers[&number].clone();
        if ok {
            Ok(value)
        } else {
            Err(value["error"].as_str().unwrap().to_owned())
        }
    }

    pub fn carry_out(&mut self, out: Outbox) {
        for effect in out {
            match effect {
                Effect::Send { to, frame } => self.receive(to, &frame),
                Effect::SendMap { to, transfer } => {
                    let node = self.nodes.get_mut(&to).unwrap();
                    let plan = accept(&node.map, transfer.map, transfer.base).unwrap();
                    let whole = trunkline_wire::map::Transfer {
                        map: transfer.map,
                        base: transfer.base,
                        bytes: transfer.bytes.to_vec(),
                        #[cfg(feature = "next-version")]
                        whole: Some(transfer.whole),
                    };
                    node.map = whole.finish(&node.map, plan).unwrap();
                    self.frame(to, NodeFrame::MapAck(MapAck { map: transfer.map }));
                    if self.nodes[&to].settles {
                        self.settle(to);
                    }
                }
                Effect::Fail { to, text, .. } => {
                    assert!(text.len() <= 255, "{text}");
                    self.nodes.get_mut(&to).unwrap().failure = Some(text);
                    self.input(to, Input::Closed);
                }
                Effect::Close { to } => self.input(to, Input::Closed),
                Effect::Backup { .. } => unreachable!("no test asks for one"),
            }
        }
    }

    pub fn receive(&mut self, to: ConnectionId, frame: &[u8]) {
        let (header, body) = frame.split_first_chunk::<HEADER_BYTES>().unwrap();
        let node = self.nodes.get_mut(&to).unwrap();
        match ControlFrame::decode(VERSION_MAX, Header::decode(*header).ty, body)
            .unwrap()
            .unwrap()
        {
            ControlFrame::Joined(joined) => {
                node.id = joined.node;
                node.joined = true;
            }
            ControlFrame::AdminAnswer(answer) => {
                let value = serde_json::from_slice(answer.json.0).unwrap();
                node.answers.insert(answer.request, (answer.ok, value));
            }
            ControlFrame::Drain(drain) => node.drains.push((drain.on, drain.rate)),
            _ => {}
        }
    }

    /// Lets time pass, as the shell does; members renew unless they were told not to.
    pub fn pass(&mut self, time: Duration) {
        let until = self.at + time;
        loop {
            let mut out = Outbox::new();
            self.logic.tick(self.now(), &mut out);
            if let Some(batch) = self.logic.take_batch(self.at).unwrap() {
                self.store.commit(&batch).unwrap();
                self.logic.committed(self.now(), &mut out);
            }
            self.carry_out(out);
            if self.at >= until {
                return;
            }
            let step = self.logic.deadline(self.at).min(self.at + RENEWAL).min(until);
            assert!(step > self.at, "the deadline stands still");
            self.at = step;
            let renewing = self
                .nodes
                .iter()
                .filter(|(_, node)| node.joined && node.renews && node.failure.is_none());
            for connection in renewing.map(|(connection, _)| *connection).collect::<Vec<_>>() {
                self.frame(connection, NodeFrame::Renew(Renew { sessions: 1 }));
            }
        }
    }

    /// The node says that it has settled the map that it has.
    pub fn settle(&mut self, connection: ConnectionId) {
        let version = self.nodes[&connection].map.id().version;
        self.frame(connection, NodeFrame::MapSettled(MapSettled { version }));
    }

    /// The node dies without a word.
    pub fn kill(&mut self, connection: ConnectionId) {
        self.nodes.get_mut(&connection).unwrap().renews = false;
        self.input(connection, Input::Closed);
    }

    pub fn id(&self, connection: ConnectionId) -> NodeId {
        let node = &self.nodes[&connection];
        assert!(node.joined, "{:?}", node.failure);
        node.id
    }

    pub fn map(&self, connection: ConnectionId) -> &Map {
        &self.nodes[&connection].map
    }

    pub fn members(&self) -> usize {
        self.logic.state().members().count()
    }
}

pub fn keys() -> ClusterKeys {
    ClusterKeys::new(&Secret::new(b"the secret of the test cluster").unwrap())
}

pub fn start(config: &Config, store: &MemoryStore, at: Instant) -> Logic {
    let keys = keys();
    let records = store.clone().load().unwrap();
    let wall_ms = WALL_MS + at.micros() / 1000;
    Logic::new(config.clone(), keys, &records, 42, Now { at, wall_ms }).unwrap()
}

pub fn initially(regions: &[(&str, u32)]) -> Config {
    let regions = regions.iter().map(|(name, weight)| InitialRegion {
        name: (*name).into(),
        weight: *weight,
    });
    Config {
        initial_regions: regions.collect(),
        ..Config::default()
    }
}

pub fn slots_of(map: &Map, name: &str) -> usize {
    let region = map.regions().find(|(_, region)| region.name == name).unwrap().0;
    (0..=u16::MAX).filter(|slot| map.slot(*slot) == region).count()
}
