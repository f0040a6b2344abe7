//! Routers joined in virtual time, without drivers: frames travel over links that the test puts up and takes down.
//!
//! Every node has one shard. Devices acknowledge what they get unless they are mute. What the node's glue and its link book do
//! (announce links, begin streams) is done here in a few lines, so that a test sees the router's decisions alone.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use trunkline_core::link::{Origin, Wish};
use trunkline_core::outbox::{Conn, Effect, Outbox, ShardEvent};
use trunkline_core::router::{Config, Now, Router, SessionRef};
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{
    Acknowledge, ClientFrame, Credentials, Hello, PingIntervalMs, Purpose, Send, ServerFrame,
};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Incarnation, Instance, NodeId, RegionId, ShardId};
use trunkline_wire::map::{Contents, Map, Node, Region};
use trunkline_wire::peer::{MapTaken, MapVersion, PeerFrame, SyncBegin};
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::report::{Number, Outcome, TtlMs, Way};
use trunkline_wire::time::Instant;

pub const CONNECTION: Roles = Roles {
    connection: true,
    messaging: true,
    region: false,
};
pub const INSTANCE: Roles = Roles {
    connection: false,
    messaging: false,
    region: true,
};

/// What a device was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Welcome(Epoch),
    Deliver {
        sender: String,
        number: u64,
        payload: Vec<u8>,
        delivery: u64,
    },
    Report {
        recipient: String,
        number: u64,
        outcome: Outcome,
        way: Way,
    },
    Superseded(Epoch),
    GoAway,
    Failure(String),
    Closed,
}

struct Host {
    router: Router,
    out: Outbox,
    wall_ahead_ms: u64,
    /// Takes no turn until then.
    paused: Instant,
}

struct Socket {
    host: usize,
    session: SessionRef,
    device: String,
    mute: bool,
    reads: bool,
    told: Vec<Told>,
    open: bool,
}

/// A connection of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceConn(pub u64);

pub struct Cluster {
    pub now: Instant,
    pub keys: ClusterKeys,
    hosts: Vec<Host>,
    sockets: BTreeMap<DeviceConn, Socket>,
    links: BTreeMap<(usize, usize), Link>,
    next: u64,
    /// Frames of the peer protocol that were delivered: from, to, type.
    pub carried: Vec<(NodeId, NodeId, u8)>,
    /// Links that were wished for: by which node.
    pub wishes: Vec<(NodeId, Wish)>,
    /// Wishes that were taken back: by which node, to which, on behalf of whom.
    pub withdrawn: Vec<(NodeId, NodeId, DeviceKey)>,
}

#[derive(Default)]
struct Link {
    up: bool,
    held: bool,
    serial: u64,
    frames: VecDeque<(u64, Vec<u8>)>,
}

pub fn node(index: usize) -> NodeId {
    NodeId(index as u32 + 1)
}

impl Cluster {
    /// `nodes`: the roles of each; `regions`: which nodes are instances of each. All links are up, and all streams taken.
    pub fn new(nodes: &[Roles], regions: &[&[usize]]) -> Cluster {
        let mut cluster = Cluster::apart(nodes, regions);
        for a in 0..nodes.len() {
            for b in 0..a {
                cluster.link_up(a, b);
            }
        }
        cluster.run_ms(10);
        cluster
    }

    /// As [`Cluster::new`], without any link.
    pub fn apart(nodes: &[Roles], regions: &[&[usize]]) -> Cluster {
        let keys = ClusterKeys::new(&Secret::new(b"a secret for these tests").unwrap());
        let map = Arc::new(map(nodes, regions, 1));
        let now = Instant::from_micros(1_000_000);
        let hosts = nodes.iter().enumerate().map(|(index, &roles)| Host {
            router: Router::new(
                Now {
                    at: now,
                    wall_ms: WALL_MS,
                },
                Config {
                    node: node(index),
                    shard: ShardId(0),
                    shards: 1,
                    roles,
                    keys: keys.clone(),
                    predictor: Default::default(),
                    affinity_lists_max: 1_000,
                    seed: index as u64,
                },
                Arc::clone(&map),
            ),
            out: Outbox::new(),
            wall_ahead_ms: 0,
            paused: Instant::ZERO,
        });
        Cluster {
            now,
            hosts: hosts.collect(),
            keys,
            sockets: BTreeMap::new(),
            links: BTreeMap::new(),
            next: 1,
            carried: Vec::new(),
            wishes: Vec::new(),
            withdrawn: Vec::new(),
        }
    }

    pub fn router(&mut self, host: usize) -> &mut Router {
        &mut self.hosts[host].router
    }

    pub fn key(&self, device: &str) -> DeviceKey {
        self.keys.device_key(IdRef::new(device).unwrap())
    }

    /// Whether `host`, as an instance of its region, remembers whom a device has to do with.
    pub fn remembers(&mut self, host: usize, device: &str) -> bool {
        let key = self.key(device);
        self.router(host).remembered(key).is_some()
    }

    /// A device name whose region is `region`.
    pub fn device_in(&mut self, region: usize, stem: &str) -> String {
        let map = Arc::clone(self.hosts[0].router.map());
        let names = (0..).map(|n| format!("{stem}{n}"));
        names
            .into_iter()
            .find(|name| map.region_of(self.key(name)) == RegionId(region as u16 + 1))
            .unwrap()
    }

    pub fn set_wall_ahead(&mut self, host: usize, ms: u64) {
        self.hosts[host].wall_ahead_ms = ms;
    }

    /// The host takes no turn for `ms`.
    pub fn pause(&mut self, host: usize, ms: u64) {
        self.hosts[host].paused = self.now + Duration::from_millis(ms);
    }

    pub fn apply_map(&mut self, host: usize, map: Arc<Map>) {
        let now = self.present(host);
        let Host { router, out, .. } = &mut self.hosts[host];
        router.apply_map(now, map, out);
    }

    pub fn settled(&self, host: usize) -> bool {
        self.hosts[host].router.settled(self.present(host))
    }

    pub fn present(&self, host: usize) -> Now {
        let wall_ms = WALL_MS + self.now.micros() / 1_000 + self.hosts[host].wall_ahead_ms;
        Now { at: self.now, wall_ms }
    }

    // Links.

    pub fn link_up(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let link = self.links.entry((from, to)).or_default();
            link.up = true;
            link.held = false;
            link.serial += 1;
            let serial = link.serial;
            link.frames.clear();
            self.event(from, ShardEvent::LinkUp { node: node(to), serial });
            let version = self.hosts[from].router.map().id().version;
            let newest = version;
            self.push(from, to, &MapVersion { version, newest });
            let map = Arc::clone(self.hosts[from].router.map());
            let is_server = map.node(node(from)).is_some_and(|n| n.roles.connection);
            for (region, _) in map.regions().filter(|_| is_server) {
                if map.holds(region, node(to)) {
                    let begin = SyncBegin { region, sync: serial }.to_vec();
                    self.carry_out(from);
                    self.links
                        .get_mut(&(from, to))
                        .unwrap()
                        .frames
                        .push_back((serial, begin));
                    let version = map.id().version;
                    self.event(
                        from,
                        ShardEvent::SyncStart {
                            node: node(to),
                            region,
                            sync: serial,
                            map_version: version,
                        },
                    );
                }
            }
        }
    }

    /// What the link's book says, before anything that the router says from here on.
    fn push(&mut self, from: usize, to: usize, frame: &impl Encode) {
        self.carry_out(from);
        let link = self.links.get_mut(&(from, to)).unwrap();
        let serial = link.serial;
        link.frames.push_back((serial, frame.to_vec()));
    }

    /// Both ends notice at once; what was under way is lost.
    pub fn link_down(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            let Some(link) = self.links.get_mut(&(from, to)) else {
                continue;
            };
            if !std::mem::replace(&mut link.up, false) {
                continue;
            }
            link.frames.clear();
            let serial = link.serial;
            self.event(from, ShardEvent::LinkDown { node: node(to), serial });
        }
    }

    pub fn cut_off(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|&other| other != host) {
            self.link_down(host, other);
        }
    }

    pub fn join_again(&mut self, host: usize) {
        for other in (0..self.hosts.len()).filter(|&other| other != host) {
            self.link_up(host, other);
        }
    }

    /// Frames from `from` to `to` wait until [`Cluster::let_go`].
    pub fn hold(&mut self, from: usize, to: usize) {
        self.links.get_mut(&(from, to)).unwrap().held = true;
    }

    /// What is on its way from `from` to `to` is lost; the link stays.
    pub fn lose(&mut self, from: usize, to: usize) {
        self.carry_out(from);
        self.links.get_mut(&(from, to)).unwrap().frames.clear();
    }

    pub fn let_go(&mut self, from: usize, to: usize) {
        self.links.get_mut(&(from, to)).unwrap().held = false;
    }

    /// Puts a frame on a link, as if its sender had said it.
    pub fn inject(&mut self, from: usize, to: usize, frame: &impl Encode) {
        let link = self.links.get_mut(&(from, to)).unwrap();
        let serial = link.serial;
        link.frames.push_back((serial, frame.to_vec()));
    }

    /// A frame that arrives on a link that has been replaced.
    pub fn inject_stale(&mut self, from: usize, to: usize, frame: &impl Encode) {
        self.links
            .get_mut(&(from, to))
            .unwrap()
            .frames
            .push_back((0, frame.to_vec()));
    }

    /// What a node's link book does with the news of its one shard.
    fn book_event(&mut self, host: usize, event: ShardEvent) {
        match event {
            ShardEvent::MapApplied { version, .. } => {
                for to in 0..self.hosts.len() {
                    if let Some(link) = self.links.get_mut(&(host, to)).filter(|link| link.up) {
                        link.frames.push_back((
                            link.serial,
                            MapVersion {
                                version,
                                newest: version,
                            }
                            .to_vec(),
                        ));
                    }
                }
            }
            ShardEvent::VersionTaken { node, version } => {
                let to = node.0 as usize - 1;
                if let Some(link) = self.links.get_mut(&(host, to)).filter(|link| link.up) {
                    link.frames.push_back((link.serial, MapTaken { version }.to_vec()));
                }
            }
            event => self.event(host, event),
        }
    }

    fn event(&mut self, host: usize, event: ShardEvent) {
        let now = self.present(host);
        let Host { router, out, .. } = &mut self.hosts[host];
        router.event(now, event, out);
    }

    // Devices.

    pub fn connect(&mut self, host: usize, device: &str) -> DeviceConn {
        self.connect_presenting(host, device, Epoch::NONE, 1)
    }

    pub fn connect_presenting(&mut self, host: usize, device: &str, presented: Epoch, instance: u64) -> DeviceConn {
        let conn = DeviceConn(self.next);
        self.next += 1;
        let hello = Hello {
            device: IdRef::new(device).unwrap(),
            instance: Instance(instance),
            presented,
            purpose: Purpose::Full,
            ping_interval: PingIntervalMs::default(),
            credentials: Credentials::default(),
        };
        let now = self.present(host);
        let Host { router, out, .. } = &mut self.hosts[host];
        let session = router.attach(now, Conn(conn.0), 1, &hello, out);
        let told = Vec::new();
        self.sockets.insert(
            conn,
            Socket {
                host,
                session,
                device: device.into(),
                mute: false,
                reads: true,
                told,
                open: true,
            },
        );
        conn
    }

    /// Connects and waits for the welcome.
    pub fn welcome(&mut self, host: usize, device: &str) -> DeviceConn {
        let conn = self.connect(host, device);
        self.run_ms(300);
        assert!(
            self.epoch(conn).is_some(),
            "{device} was welcomed: {:?}",
            self.told(conn)
        );
        conn
    }

    pub fn epoch(&self, conn: DeviceConn) -> Option<Epoch> {
        self.told(conn).iter().find_map(|told| match told {
            Told::Welcome(epoch) => Some(*epoch),
            _ => None,
        })
    }

    pub fn told(&self, conn: DeviceConn) -> &[Told] {
        &self.sockets[&conn].told
    }

    pub fn is_open(&self, conn: DeviceConn) -> bool {
        self.sockets[&conn].open
    }

    pub fn deliveries(&self, conn: DeviceConn) -> usize {
        self.told(conn)
            .iter()
            .filter(|told| matches!(told, Told::Deliver { .. }))
            .count()
    }

    pub fn reports(&self, conn: DeviceConn) -> Vec<(u64, Outcome, Way)> {
        let reports = self.told(conn).iter().filter_map(|told| match told {
            Told::Report {
                number, outcome, way, ..
            } => Some((*number, *outcome, *way)),
            _ => None,
        });
        reports.collect()
    }

    /// The device acknowledges nothing from now on.
    pub fn mute(&mut self, conn: DeviceConn) {
        self.sockets.get_mut(&conn).unwrap().mute = true;
    }

    /// The kernel takes nothing for the device any more.
    pub fn stop_reading(&mut self, conn: DeviceConn) {
        self.sockets.get_mut(&conn).unwrap().reads = false;
    }

    pub fn disconnect(&mut self, conn: DeviceConn) {
        let socket = self.sockets.get_mut(&conn).unwrap();
        socket.open = false;
        let (host, session) = (socket.host, socket.session);
        let now = self.present(host);
        let Host { router, out, .. } = &mut self.hosts[host];
        router.device_closed(now, session, out);
    }

    pub fn send(&mut self, conn: DeviceConn, recipient: &str, number: u64) {
        self.send_with(
            conn,
            recipient,
            Number {
                number,
                confirmed: Some(0),
            },
            TtlMs::default(),
        );
    }

    pub fn send_with(&mut self, conn: DeviceConn, recipient: &str, number: Number, ttl: TtlMs) {
        let payload = format!("{} to {recipient}", self.sockets[&conn].device).into_bytes();
        let send = Send {
            recipient: IdRef::new(recipient).unwrap(),
            number,
            ttl,
            payload: Tail(&payload),
        };
        self.say(conn, &ClientFrame::Send(send));
    }

    /// `a` at one host has sent a confirmed message to `b` at another, where it was written to a device that says nothing. Returns both.
    pub fn unacknowledged(&mut self, sender: usize, recipient: usize) -> (DeviceConn, DeviceConn) {
        let from = self.welcome(sender, "a");
        let to = self.welcome(recipient, "b");
        self.mute(to);
        self.send(from, "b", 0);
        self.run_ms(20);
        (from, to)
    }

    pub fn say(&mut self, conn: DeviceConn, frame: &ClientFrame<'_>) {
        let (host, session) = (self.sockets[&conn].host, self.sockets[&conn].session);
        let now = self.present(host);
        let Host { router, out, .. } = &mut self.hosts[host];
        router.device_frame(now, session, frame, out);
    }

    // Time.

    /// Turns of a millisecond each; frames take one turn a hop.
    pub fn run_ms(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now = self.now + Duration::from_millis(1);
            self.turn();
        }
    }

    /// Turns of half a second each.
    pub fn skip(&mut self, span: Duration) {
        let until = self.now + span;
        while self.now < until {
            self.now = self.now + Duration::from_millis(500);
            self.turn();
        }
    }

    fn turn(&mut self) {
        for host in 0..self.hosts.len() {
            if self.hosts[host].paused > self.now {
                continue;
            }
            let now = self.present(host);
            let Host { router, out, .. } = &mut self.hosts[host];
            router.tick(now, out);
            for from in 0..self.hosts.len() {
                self.receive(from, host);
            }
            self.carry_out(host);
            // Asked as its shard does before it sleeps.
            self.hosts[host].router.deadline();
        }
    }

    fn receive(&mut self, from: usize, host: usize) {
        let now = self.present(host);
        let Some(link) = self.links.get_mut(&(from, host)) else {
            return;
        };
        if link.held || !link.up {
            return;
        }
        let current = link.serial;
        for (serial, bytes) in std::mem::take(&mut link.frames) {
            for (ty, body) in frames(&bytes) {
                self.carried.push((node(from), node(host), ty));
                if ty == 0x10 {
                    // What the link book does with a ping.
                    let Some(PeerFrame::Ping(ping)) = PeerFrame::decode(VERSION_MAX, ty, body).unwrap() else {
                        unreachable!()
                    };
                    let pong = trunkline_wire::common::Pong { token: ping.token }.to_vec();
                    self.carry_out(host);
                    let back = self.links.get_mut(&(host, from)).unwrap();
                    back.frames.push_back((back.serial, pong));
                    continue;
                }
                let Host { router, out, .. } = &mut self.hosts[host];
                let origin = Origin {
                    node: node(from),
                    current: serial == current,
                    version: VERSION_MAX,
                };
                router.link_frame(now, origin, ty, body, out).unwrap();
            }
        }
    }

    fn carry_out(&mut self, host: usize) {
        loop {
            let out = std::mem::take(&mut self.hosts[host].out);
            if out.is_empty() {
                return;
            }
            for effect in out.effects() {
                match effect {
                    Effect::Device { conn, bytes, .. } => self.tell(DeviceConn(conn.0), out.bytes(bytes)),
                    Effect::CloseDevice { conn } => {
                        let socket = self.sockets.get_mut(&DeviceConn(conn.0)).unwrap();
                        socket.told.push(Told::Closed);
                        socket.open = false;
                    }
                    Effect::Link { node, bytes, .. } => {
                        let to = node.0 as usize - 1;
                        if let Some(link) = self.links.get_mut(&(host, to)).filter(|link| link.up) {
                            link.frames.push_back((link.serial, out.bytes(bytes).to_vec()));
                        }
                    }
                    Effect::Event { event, .. } => self.book_event(host, *event),
                    Effect::Shard { .. } => unreachable!("a node has one shard here"),
                    Effect::WishLink(wish) => self.wishes.push((node(host), *wish)),
                    Effect::WithdrawWish { node: of, by } => self.withdrawn.push((node(host), *of, *by)),
                    Effect::Expect { .. } => unreachable!("a node has one shard here"),
                }
            }
        }
    }

    fn tell(&mut self, conn: DeviceConn, bytes: &[u8]) {
        for (ty, body) in frames(bytes) {
            let frame = ServerFrame::decode(VERSION_MAX, ty, body).unwrap().unwrap();
            let told = match frame {
                ServerFrame::Welcome(f) => Told::Welcome(f.epoch),
                ServerFrame::Deliver(f) => Told::Deliver {
                    sender: f.sender.to_string(),
                    number: f.number.number,
                    payload: f.payload.0.to_vec(),
                    delivery: f.delivery,
                },
                ServerFrame::Report(f) => Told::Report {
                    recipient: f.recipient.to_string(),
                    number: f.number,
                    outcome: f.outcome,
                    way: f.way,
                },
                ServerFrame::GoAway(_) => Told::GoAway,
                ServerFrame::Superseded(f) => Told::Superseded(f.epoch),
                ServerFrame::Failure(f) => Told::Failure(f.text.as_str().into()),
                ServerFrame::Ping(_) | ServerFrame::Pong(_) => continue,
            };
            let socket = self.sockets.get_mut(&conn).unwrap();
            let (host, session, reads) = (socket.host, socket.session, socket.reads);
            let mute = socket.mute || !reads || !socket.open;
            let delivery = match &told {
                Told::Deliver { delivery, .. } if *delivery != 0 && !mute => Some(*delivery),
                _ => None,
            };
            socket.told.push(told);
            let now = self.present(host);
            let Host { router, out, .. } = &mut self.hosts[host];
            if reads {
                router.device_sent(now, session, HEADER_BYTES + body.len());
            }
            if let Some(delivery) = delivery {
                let ack = ClientFrame::Acknowledge(Acknowledge { delivery, late: false });
                router.device_frame(now, session, &ack, out);
            }
        }
    }
}

const WALL_MS: u64 = 1_700_000_000_000;

fn frames(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::decode(*header);
        let (body, rest) = rest.split_at(header.length as usize);
        all.push((header.ty, body));
        bytes = rest;
    }
    all
}

/// A map in which the slots go to the regions in turn.
pub fn map(nodes: &[Roles], regions: &[&[usize]], version: u64) -> Map {
    let address = |port: usize| Some(SocketAddr::from(([127, 0, 0, 1], 7000 + port as u16)));
    let nodes = nodes.iter().enumerate().map(|(index, &roles)| {
        let described = Node {
            name: format!("node-{}", index + 1),
            incarnation: Incarnation(1),
            roles,
            device_address: address(10 * index),
            peer_address: address(10 * index + 1),
            http_address: None,
        };
        (node(index), described)
    });
    let count = regions.len();
    let regions = regions.iter().enumerate().map(|(index, instances)| {
        let mut instances: Vec<NodeId> = instances.iter().map(|&i| node(i)).collect();
        instances.sort_unstable();
        (
            RegionId(index as u16 + 1),
            Region {
                name: format!("region-{}", index + 1),
                instances,
            },
        )
    });
    let contents = Contents {
        slots: Box::new(std::array::from_fn(|slot| RegionId((slot % count) as u16 + 1))),
        regions: regions.collect(),
        nodes: nodes.collect(),
        ..Contents::default()
    };
    Map::build(1, version, contents).unwrap()
}
