//! Link books joined in virtual time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::common::Ping;
use trunkline_wire::control::Roles;
use trunkline_wire::frame::{Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, Epoch, Incarnation, NodeId, RegionId, ShardId};
use trunkline_wire::map::{Contents, Map, Node, Region};
use trunkline_wire::peer::{Location, MapVersion, SyncBegin};
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use super::*;
use crate::constants::SUSPECT_AFTER;
use crate::greeting::{Doorkeeper, Greeting, Port};
use crate::outbox::{Conn, ShardEvent};

const SECRET: &str = "a secret of sixteen bytes or more";
const CONNECTION: Roles = Roles {
    connection: true,
    messaging: true,
    region: false,
};
const INSTANCE: Roles = Roles {
    connection: false,
    messaging: false,
    region: true,
};

/// A map of nodes 1, 2, …; every region node is an instance of region 1.
fn map(version: u64, nodes: &[(u32, Roles, u64)]) -> Arc<Map> {
    map_with(version, nodes, None)
}

/// As [`map`], with one node at the address after its own.
fn map_with(version: u64, nodes: &[(u32, Roles, u64)], moved: Option<u32>) -> Arc<Map> {
    let mut contents = Contents::default();
    let mut instances = Vec::new();
    for &(id, roles, incarnation) in nodes {
        let port_after = if moved == Some(id) { MOVED_BY } else { 0 };
        let address = |port: u16| Some(([127, 0, 0, 1], port + port_after + id as u16).into());
        if roles.region {
            instances.push(NodeId(id));
        }
        let node = Node {
            name: format!("n{id}"),
            incarnation: Incarnation(incarnation),
            roles,
            device_address: address(7400),
            peer_address: address(7500),
            http_address: None,
        };
        contents.nodes.insert(NodeId(id), node);
    }
    contents.slots.fill(RegionId(1));
    let name = "one".to_owned();
    contents.regions.insert(RegionId(1), Region { name, instances });
    Arc::new(Map::build(1, version, contents).unwrap())
}

/// By how many ports a node moves.
const MOVED_BY: u16 = 1_000;

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// Nothing more comes after the bytes.
    ended: bool,
}

struct End {
    node: usize,
    link: Option<LinkRef>,
    greeting: Option<Greeting>,
    open: bool,
    incoming: Pipe,
}

struct Host {
    id: NodeId,
    book: LinkBook,
    out: LinkOutbox,
    door: Doorkeeper,
    reachable: bool,
    events: Vec<ShardEvent>,
    /// Frames for the router: from whom, whether current, type.
    frames: Vec<(NodeId, bool, u8)>,
    troubles: Vec<String>,
    /// Fences that wait for the shards.
    fences: Vec<LinkRef>,
    hold_fences: bool,
}

impl Host {
    fn new(now: Instant, id: u32, roles: Roles, incarnation: u64, secret: &str, map: Arc<Map>) -> Host {
        let keys = ClusterKeys::new(&Secret::new(secret.as_bytes()).unwrap());
        let config = LinkConfig {
            node: NodeId(id),
            incarnation: Incarnation(incarnation),
            roles,
            shard: ShardId(0),
            shards: 1,
            keys: keys.clone(),
            direct_links_max: 1,
            seed: id.into(),
            versions: Versions::BUILD,
            #[cfg(feature = "next-version")]
            build: format!("build {id}"),
        };
        Host {
            id: NodeId(id),
            book: LinkBook::new(now, config, map),
            out: LinkOutbox::new(),
            door: Doorkeeper {
                shards: 1,
                roles,
                keys,
                token_key: None,
                versions: Versions::BUILD,
            },
            reachable: true,
            events: Vec::new(),
            frames: Vec::new(),
            troubles: Vec::new(),
            fences: Vec::new(),
            hold_fences: false,
        }
    }

    /// Serials of links that are up, by the events.
    fn up(&self) -> Vec<(NodeId, u64)> {
        let mut up = Vec::new();
        for event in &self.events {
            match *event {
                ShardEvent::LinkUp { node, serial } => up.push((node, serial)),
                ShardEvent::LinkDown { node, serial } => up.retain(|link| *link != (node, serial)),
                _ => {}
            }
        }
        up
    }
}

struct World {
    now: Instant,
    hosts: Vec<Host>,
    /// Ends by the number that is their [`Conn`]; the other end is the number with its last bit flipped.
    ends: Vec<End>,
    nonces: u64,
    dials: Vec<(Instant, NodeId, NodeId)>,
    /// And where to.
    addresses: Vec<std::net::SocketAddr>,
}

impl World {
    fn new(hosts: &[(u32, Roles)]) -> World {
        let nodes: Vec<_> = hosts.iter().map(|&(id, roles)| (id, roles, 1)).collect();
        let map = map(1, &nodes);
        let now = Instant::from_micros(1_000_000);
        let hosts = hosts
            .iter()
            .map(|&(id, roles)| Host::new(now, id, roles, 1, SECRET, map.clone()));
        World {
            now,
            hosts: hosts.collect(),
            ends: Vec::new(),
            nonces: 0,
            dials: Vec::new(),
            addresses: Vec::new(),
        }
    }

    fn nonce(&mut self) -> [u8; 32] {
        self.nonces += 1;
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&self.nonces.to_le_bytes());
        nonce
    }

    /// Carries out what `host` wants.
    fn carry_out(&mut self, host: usize) {
        let out = std::mem::take(&mut self.hosts[host].out);
        for effect in out.effects() {
            match effect {
                LinkEffect::Dial { link, node, address } => {
                    self.addresses.push(*address);
                    self.dial(host, *link, *node);
                }
                LinkEffect::Send { conn, bytes } => {
                    let end = &mut self.ends[conn.0 as usize ^ 1];
                    end.incoming.bytes.extend(out.bytes(bytes));
                }
                LinkEffect::Close { conn } => self.close(conn.0 as usize),
                LinkEffect::Event(event) => self.hosts[host].events.push(*event),
                LinkEffect::Fence { link } => self.hosts[host].fences.push(*link),
                LinkEffect::Trouble { text, .. } => self.hosts[host].troubles.push(text.clone()),
            }
        }
    }

    fn close(&mut self, end: usize) {
        self.ends[end].open = false;
        self.ends[end ^ 1].incoming.ended = true;
    }

    fn dial(&mut self, from: usize, link: LinkRef, node: NodeId) {
        self.dials.push((self.now, self.hosts[from].id, node));
        let to = self.hosts.iter().position(|host| host.id == node);
        let to = to.filter(|&to| self.hosts[to].reachable && self.hosts[from].reachable);
        let Some(to) = to else {
            let Host { book, out, .. } = &mut self.hosts[from];
            book.failed(self.now, link, "refused", out);
            return;
        };
        let conn = Conn(self.ends.len() as u64);
        for (node, link, greeting) in [
            (from, Some(link), None),
            (to, None, Some(Greeting::new(self.now, Port::Peer))),
        ] {
            let (open, incoming) = (true, Pipe::default());
            self.ends.push(End {
                node,
                link,
                greeting,
                open,
                incoming,
            });
        }
        let nonce = self.nonce();
        let Host { book, out, .. } = &mut self.hosts[from];
        book.dialing(link, conn);
        book.connected(self.now, link, nonce, out);
        self.carry_out(from);
    }

    /// Delivers one frame, or the end, of each connection's end in turn; false if there was nothing.
    fn step(&mut self) -> bool {
        let mut any = false;
        for host in 0..self.hosts.len() {
            self.carry_out(host);
            if !self.hosts[host].hold_fences {
                for link in std::mem::take(&mut self.hosts[host].fences) {
                    any = true;
                    let Host { book, out, .. } = &mut self.hosts[host];
                    book.fenced(self.now, link, out);
                    self.carry_out(host);
                }
            }
        }
        for end in 0..self.ends.len() {
            any |= self.deliver(end);
        }
        any
    }

    fn deliver(&mut self, at: usize) -> bool {
        let nonce = self.nonce();
        let (now, conn) = (self.now, Conn(at as u64));
        let end = &mut self.ends[at];
        let host = end.node;
        let Host {
            book,
            out,
            door,
            frames,
            ..
        } = &mut self.hosts[host];
        if !end.open {
            return !std::mem::take(&mut end.incoming).bytes.is_empty();
        }
        if end.incoming.bytes.is_empty() {
            if !std::mem::take(&mut end.incoming.ended) {
                return false;
            }
            if let Some(link) = end.link {
                book.closed(now, link, "end of stream", out);
            }
            self.close(at);
        } else if let Some(greeting) = &mut end.greeting {
            let byte = [end.incoming.bytes.pop_front().unwrap()];
            if let Some(introduction) = greeting.feed(0, door, &byte).unwrap() {
                end.greeting = None;
                end.link = book.accepted(now, conn, &introduction, nonce, out);
            }
        } else {
            let bytes = end.incoming.bytes.make_contiguous();
            let Header { ty, length } = Header::decode(*bytes.first_chunk().unwrap());
            let frame: Vec<u8> = end.incoming.bytes.drain(..HEADER_BYTES + length as usize).collect();
            if let Some(link) = end.link
                && let Passage::Router(origin) = book.frame(now, link, ty, &frame[HEADER_BYTES..], out)
            {
                assert_eq!(origin.version, Versions::BUILD.max());
                frames.push((origin.node, origin.current, ty));
            }
        }
        self.carry_out(host);
        true
    }

    fn settle(&mut self) {
        while self.step() {}
    }

    fn tick(&mut self, host: usize) {
        let Host { book, out, .. } = &mut self.hosts[host];
        book.tick(self.now, out);
        self.carry_out(host);
    }

    /// Lets time pass, tick by tick.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            for host in 0..self.hosts.len() {
                self.tick(host);
            }
            self.settle();
            let next = self.hosts.iter().map(|host| host.book.deadline()).min().unwrap();
            if self.now >= end {
                return;
            }
            self.now = next.max(self.now + Duration::from_millis(1)).min(end);
        }
    }

    /// Both ends vanish without a word, as when a cable is pulled; `told` learn of it.
    fn cut(&mut self, told: &[usize]) {
        for at in 0..self.ends.len() {
            let (open, node) = (self.ends[at].open, self.ends[at].node);
            if open && told.contains(&node) {
                let link = self.ends[at].link;
                let Host { book, out, .. } = &mut self.hosts[node];
                if let Some(link) = link {
                    book.closed(self.now, link, "reset", out);
                }
                self.carry_out(node);
            }
        }
        for end in &mut self.ends {
            // An end that hasn't been told keeps its half open connection.
            end.incoming = Pipe::default();
            end.open &= !told.contains(&end.node);
        }
    }

    fn send(&mut self, from: usize, to: u32) {
        let now = self.now;
        let conn = self.hosts[from].book.route(now, NodeId(to)).expect("a link");
        let frame = Location {
            device: DeviceKey(1),
            epoch: Epoch::NONE,
        };
        self.ends[conn.0 as usize ^ 1].incoming.bytes.extend(frame.to_vec());
    }

    fn wish(&mut self, host: usize, node: u32, per_mille: u16) {
        self.wish_for(Reason::Send, host, node, per_mille);
    }

    fn wish_for(&mut self, reason: Reason, host: usize, node: u32, per_mille: u16) {
        let wish = Wish {
            node: NodeId(node),
            reason,
            worth: Worth::per_mille(per_mille),
            half_life: Duration::from_secs(600),
            by: None,
        };
        let Host { book, out, .. } = &mut self.hosts[host];
        book.wish(self.now, &wish, out);
        self.carry_out(host);
    }

    /// Exactly one link, the same at both ends, dialled by `dialler`.
    fn assert_one_link(&self, dialler: u32) {
        for (host, other) in [(0, 1), (1, 0)] {
            let (host, other) = (&self.hosts[host], &self.hosts[other]);
            assert_eq!(host.up().len(), 1, "{:?}", host.events);
            let status = &host.book.status(self.now)[0];
            assert_eq!((status.node, status.state), (other.id, LinkState::Up));
            assert_eq!(status.dialled, host.id == NodeId(dialler));
        }
        let open = self.ends.iter().filter(|end| end.open).count();
        assert_eq!(open, 2, "no other connection is left");
    }
}

#[test]
fn a_connection_server_dials_its_instance_and_begins_to_name_its_sessions() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_millis(10));
    world.assert_one_link(1);
    let (node, region, map_version) = (NodeId(2), RegionId(1), 1);
    let sync = 1 << 24 | 1;
    let start = ShardEvent::SyncStart {
        node,
        region,
        sync,
        map_version,
    };
    assert_eq!(world.hosts[0].events, [ShardEvent::LinkUp { node, serial: 1 }, start]);
    assert_eq!(
        world.hosts[1].frames,
        [(NodeId(1), true, MapVersion::TYPE), (NodeId(1), true, SyncBegin::TYPE)]
    );
    // A node that has no sessions names none.
    assert_eq!(world.hosts[1].events.len(), 1);
}

#[test]
fn a_stream_that_all_shards_have_taken_is_confirmed_on_its_link() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_millis(10));
    let Host { book, out, .. } = &mut world.hosts[1];
    book.sync_taken(NodeId(1), RegionId(1), 7, out);
    world.settle();
    assert_eq!(
        world.hosts[0].frames,
        [
            (NodeId(2), true, MapVersion::TYPE),
            (NodeId(2), true, trunkline_wire::peer::Synced::TYPE)
        ]
    );
}

#[test]
fn two_nodes_that_dial_at_once_keep_the_lower_one_s_link() {
    // Every interleaving of the first deliveries, as far as one bit each decides who is next.
    for order in 0..1 << 9 {
        let mut world = World::new(&[(1, INSTANCE), (2, INSTANCE)]);
        world.tick(0);
        world.tick(1);
        for bit in 0..9 {
            let ends: Vec<_> = (0..world.ends.len())
                .filter(|end| (end / 2 % 2 == 1) == (order >> bit & 1 == 1))
                .collect();
            for end in ends {
                world.deliver(end);
                let greets = world.ends[end].greeting.is_some();
                while greets && world.ends[end].greeting.is_some() && world.deliver(end) {}
            }
        }
        world.run(Duration::from_secs(5));
        world.assert_one_link(1);
    }
}

#[test]
fn no_frame_leaves_before_the_hello_is_answered() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.tick(0);
    assert_eq!(world.hosts[0].book.route(world.now, NodeId(2)), None);
    world.settle();
    assert!(world.hosts[0].book.route(world.now, NodeId(2)).is_some());
}

#[test]
fn a_frame_before_the_proof_closes_the_connection() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.tick(0);
    // Behind the hello, where the proof has to be.
    world.ends[1].incoming.bytes.extend(Ping { token: 1 }.to_vec());
    world.settle();
    assert_eq!(world.hosts[1].up(), []);
    assert_eq!(world.hosts[1].book.counters().links_malformed, 1);
    assert!(
        world.hosts[0].book.status(world.now)[0]
            .trouble
            .as_ref()
            .unwrap()
            .contains("out_of_turn")
    );
    world.run(Duration::from_secs(1));
    world.assert_one_link(1);
}

#[test]
fn a_half_open_link_is_replaced_by_the_next_from_the_same_side() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_secs(3));
    world.cut(&[0]);
    world.run(Duration::from_millis(10));
    world.assert_one_link(1);
    let down = ShardEvent::LinkDown {
        node: NodeId(1),
        serial: 1,
    };
    let up = ShardEvent::LinkUp {
        node: NodeId(1),
        serial: 2,
    };
    assert_eq!(world.hosts[1].events[1..], [down, up]);
    assert_eq!(world.hosts[1].book.counters().links_replaced, 1);
}

#[test]
fn a_restarted_node_replaces_its_link_at_once() {
    for (dialler, roles) in [(1, [CONNECTION, INSTANCE]), (2, [INSTANCE, CONNECTION])] {
        let mut world = World::new(&[(1, roles[0]), (2, roles[1])]);
        world.run(Duration::from_secs(3));
        world.assert_one_link(dialler);
        let restarted = dialler as usize - 1;
        world.cut(&[restarted]);
        let nodes = [(1, roles[0], 1), (2, roles[1], 1)];
        world.hosts[restarted] = Host::new(world.now, dialler, CONNECTION, 2, SECRET, map(1, &nodes));
        world.run(Duration::from_millis(10));
        world.assert_one_link(dialler);
    }
}

#[test]
fn a_node_at_another_address_is_dialled_there_by_the_next_wish_and_the_old_link_loses_no_frame() {
    let roles = [(1, CONNECTION), (2, CONNECTION)];
    let mut world = World::new(&roles);
    world.wish(0, 2, 500);
    world.run(Duration::from_millis(100));
    let nodes = roles.map(|(id, roles)| (id, roles, 1));
    let moved = map_with(2, &nodes, Some(2));
    // What was sent is on its way when the map comes, from both sides.
    world.send(0, 2);
    world.send(1, 1);
    for host in &mut world.hosts {
        host.book.apply_map(world.now, moved.clone(), &mut host.out);
    }
    world.send(0, 2);
    world.run(Duration::from_millis(100));
    assert_eq!((world.hosts[0].up(), world.hosts[1].up()), (vec![], vec![]));
    let arrived = |host: &Host| host.frames.iter().filter(|(.., ty)| *ty == Location::TYPE).count();
    assert_eq!((arrived(&world.hosts[1]), arrived(&world.hosts[0])), (2, 1));
    assert_eq!(world.hosts[0].book.budget(), (0, 1), "its place is free");
    assert_eq!(world.hosts[0].book.counters().links_moved, 1);
    world.wish(0, 2, 500);
    world.run(Duration::from_millis(100));
    world.assert_one_link(1);
    let ports: Vec<u16> = world.addresses.iter().map(std::net::SocketAddr::port).collect();
    assert_eq!(ports, [7_502, 7_502 + MOVED_BY]);
}

#[test]
fn a_required_node_at_another_address_is_dialled_there_at_once() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_millis(100));
    world.send(0, 2);
    let moved = map_with(2, &[(1, CONNECTION, 1), (2, INSTANCE, 1)], Some(2));
    let Host { book, out, .. } = &mut world.hosts[0];
    book.apply_map(world.now, moved, out);
    world.run(Duration::from_millis(100));
    world.assert_one_link(1);
    assert_eq!(
        world.addresses.last().map(std::net::SocketAddr::port),
        Some(7_502 + MOVED_BY)
    );
    assert!(world.hosts[1].frames.contains(&(NodeId(1), true, Location::TYPE)));
}

#[test]
fn a_dial_to_where_a_node_was_is_given_up_and_its_failures_there_don_t_count() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.hosts[1].reachable = false;
    world.run(Duration::from_secs(60));
    assert!(world.hosts[0].book.status(world.now)[0].failures > 5);
    world.hosts[1].reachable = true;
    let moved = map_with(2, &[(1, CONNECTION, 1), (2, INSTANCE, 2)], Some(2));
    world.hosts[1] = Host::new(world.now, 2, INSTANCE, 2, SECRET, moved.clone());
    let Host { book, out, .. } = &mut world.hosts[0];
    book.apply_map(world.now, moved, out);
    world.run(Duration::from_millis(10));
    world.assert_one_link(1);
}

#[test]
fn a_link_that_the_moved_node_has_dialled_itself_stays() {
    let mut world = World::new(&[(1, INSTANCE), (2, CONNECTION)]);
    world.run(Duration::from_millis(100));
    world.assert_one_link(2);
    let moved = map_with(2, &[(1, INSTANCE, 1), (2, CONNECTION, 1)], Some(2));
    let Host { book, out, .. } = &mut world.hosts[0];
    book.apply_map(world.now, moved, out);
    world.run(Duration::from_millis(100));
    assert_eq!(world.dials.len(), 1);
    world.assert_one_link(2);
}

#[test]
fn a_link_to_a_start_that_is_over_is_closed_when_the_map_says_so() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION)]);
    world.wish(0, 2, 500);
    world.run(Duration::from_millis(100));
    // It went without a word, and nobody has noticed yet.
    world.hosts[1].reachable = false;
    let Host { book, out, .. } = &mut world.hosts[0];
    book.apply_map(world.now, map(2, &[(1, CONNECTION, 1), (2, CONNECTION, 2)]), out);
    world.run(Duration::from_millis(10));
    assert_eq!(world.hosts[0].up(), []);
}

#[test]
fn a_start_that_the_map_knows_to_be_over_is_refused() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    let newer = map(2, &[(1, CONNECTION, 5), (2, INSTANCE, 1)]);
    let Host { book, out, .. } = &mut world.hosts[1];
    book.apply_map(world.now, newer, out);
    world.run(Duration::from_millis(500));
    assert_eq!(world.hosts[1].up(), []);
    assert!(world.hosts[1].book.counters().links_refused_incarnation > 1);
    let trouble = world.hosts[0].book.status(world.now)[0].trouble.clone().unwrap();
    assert!(trouble.contains("the map knows start 5"), "{trouble}");
}

#[test]
fn a_wrong_secret_is_named_at_both_ends() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    let map = map(1, &[(1, CONNECTION, 1), (2, INSTANCE, 1)]);
    world.hosts[1] = Host::new(world.now, 2, INSTANCE, 1, "another secret altogether", map);
    world.run(Duration::from_secs(1));
    assert!(world.hosts[1].troubles[0].contains("the cluster secrets differ"));
    assert!(world.hosts[1].book.counters().links_refused_secret > 0);
    let trouble = world.hosts[0].book.status(world.now)[0].trouble.clone().unwrap();
    assert!(trouble.contains("the cluster secrets differ"), "{trouble}");
}

#[test]
fn silence_makes_a_node_suspect_and_it_is_dialled_at_once() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_secs(10));
    world.assert_one_link(1);
    assert!(
        world.hosts[0].book.counters().link_pings >= 4,
        "pings keep an idle link up"
    );
    // Whatever either says from now on is lost on its way.
    let dials = world.dials.len();
    let end = world.now + SUSPECT_AFTER + Duration::from_millis(1100);
    while world.now < end {
        world.tick(0);
        for end in &mut world.ends[..2] {
            end.incoming.bytes.clear();
        }
        world.now = world.now + Duration::from_millis(100);
    }
    assert_eq!(world.hosts[0].book.counters().links_suspect, 1);
    assert!(world.dials.len() > dials);
    world.run(Duration::from_secs(5));
    world.assert_one_link(1);
}

#[test]
fn a_pause_of_the_own_process_is_not_the_others_silence() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_secs(3));
    world.now = world.now + Duration::from_secs(20);
    world.tick(0);
    assert_eq!(world.hosts[0].book.counters().links_suspect, 0);
}

#[test]
fn a_lost_required_link_is_found_again_with_bounded_backoff() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_secs(3));
    world.cut(&[0, 1]);
    world.hosts[1].reachable = false;
    world.dials.clear();
    world.run(Duration::from_secs(60));
    let waits: Vec<_> = world.dials.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(
        waits
            .iter()
            .all(|wait| *wait >= Duration::from_millis(25) && *wait <= Duration::from_secs(2))
    );
    assert!((30..=80).contains(&waits.len()), "{}", waits.len());
    assert_eq!(world.hosts[0].book.missing().collect::<Vec<_>>(), [NodeId(2)]);
    world.hosts[1].reachable = true;
    world.run(Duration::from_secs(2));
    world.assert_one_link(1);
}

#[test]
fn wishes_are_dialled_within_the_budget() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION), (3, CONNECTION)]);
    world.run(Duration::from_secs(1));
    assert_eq!(world.dials.len(), 0, "nobody needs anybody");
    for node in [1, 2, 3, 9] {
        world.wish(0, node, 500);
    }
    world.run(Duration::from_millis(10));
    assert_eq!(world.hosts[0].up(), [(NodeId(2), 1)]);
    // Node 3 is beyond the budget of one, node 9 is unknown; a node never links to itself.
    assert_eq!(world.hosts[0].book.counters().link_wishes_refused, 2);
}

#[test]
fn a_better_link_takes_the_place_of_a_worse_one_and_no_frame_is_lost_by_it() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION), (3, CONNECTION)]);
    world.wish(0, 2, 300);
    world.run(Duration::from_millis(100));
    world.send(0, 2);
    world.wish(0, 3, 320);
    world.run(Duration::from_millis(100));
    assert_eq!(world.hosts[0].up(), [(NodeId(2), 1)], "better by less than a dial");
    world.wish(0, 3, 600);
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.hosts[0].up().iter().map(|(node, _)| *node).collect::<Vec<_>>(),
        [NodeId(3)]
    );
    assert_eq!(world.hosts[1].up(), []);
    assert_eq!(world.hosts[1].frames.last(), Some(&(NodeId(1), true, Location::TYPE)));
    let counters = world.hosts[0].book.counters();
    assert_eq!((counters.links_evicted, counters.links_wasted), (1, 0));
    assert_eq!(world.hosts[0].book.budget(), (1, 1));
}

#[test]
fn dials_waste_and_places_are_counted_by_what_they_are_for() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION), (3, CONNECTION), (4, INSTANCE)]);
    world.run(Duration::from_secs(3));
    let dialled = world.hosts[0].book.counters();
    assert_eq!((dialled.links_dialled, dialled.links_dialled_required), (1, 1));
    let taken_for = |world: &World, host: usize| {
        let by_reason = world.hosts[host].book.budget_by_reason();
        let taken = Reason::ALL.into_iter().zip(by_reason).filter(|(_, taken)| *taken > 0);
        taken.collect::<Vec<_>>()
    };
    // Of these the first carries nothing, and the second does.
    world.wish_for(Reason::Attach, 0, 2, 100);
    world.run(Duration::from_millis(100));
    assert_eq!(taken_for(&world, 0), [(Reason::Attach, 1)]);
    assert_eq!(taken_for(&world, 1), [(Reason::Offer, 1)]);
    world.wish_for(Reason::Reply, 0, 3, 300);
    world.run(Duration::from_millis(100));
    world.send(0, 3);
    // What a link is for is a matter of the likeliest wish; what it was dialled for stays.
    world.wish_for(Reason::Hint, 0, 3, 900);
    assert_eq!(taken_for(&world, 0), [(Reason::Hint, 1)]);
    let counters = world.hosts[0].book.counters();
    let dialled = (
        counters.links_dialled,
        counters.links_dialled_attach,
        counters.links_dialled_reply,
    );
    assert_eq!(dialled, (3, 1, 1));
    assert_eq!((counters.links_wasted, counters.links_wasted_attach), (1, 1));
}

#[test]
fn who_accepts_keeps_its_own_budget_and_what_is_worth_more() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION), (3, CONNECTION)]);
    world.wish(0, 2, 900);
    world.run(Duration::from_millis(100));
    // Node 1 has one place, and it's worth more than what a stranger's dial is taken for.
    world.wish(2, 1, 900);
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.hosts[0].up().iter().map(|(node, _)| *node).collect::<Vec<_>>(),
        [NodeId(2)]
    );
    assert_eq!(world.hosts[0].book.counters().links_refused_budget, 1);
    // Half an hour later it's worth less.
    world.run(Duration::from_secs(1_800));
    world.wish(2, 1, 900);
    world.run(Duration::from_millis(100));
    assert_eq!(
        world.hosts[0].up().iter().map(|(node, _)| *node).collect::<Vec<_>>(),
        [NodeId(3)]
    );
    assert_eq!(world.hosts[1].up(), []);
}

#[test]
fn an_idle_wished_link_is_closed_without_losing_a_frame() {
    let mut world = World::new(&[(1, CONNECTION), (2, CONNECTION)]);
    world.wish(0, 2, 500);
    world.run(Duration::from_secs(1));
    world.assert_one_link(1);
    world.run(Duration::from_secs(40));
    world.send(1, 1);
    world.run(IDLE_CLOSE - Duration::from_secs(1));
    assert_eq!(world.hosts[0].up().len(), 1, "traffic keeps it");
    world.hosts[0].hold_fences = true;
    world.hosts[1].hold_fences = true;
    world.run(Duration::from_secs(2));
    assert_eq!(world.hosts[0].up(), []);
    // What other shards sent before they knew still leaves, on both sides.
    world.send(0, 2);
    world.settle();
    assert_eq!(world.hosts[1].up().len(), 1, "nothing was said of the close yet");
    world.hosts[0].hold_fences = false;
    world.settle();
    assert_eq!(world.hosts[1].up(), []);
    world.send(1, 1);
    world.hosts[1].hold_fences = false;
    world.settle();
    assert_eq!(world.hosts[1].frames.last(), Some(&(NodeId(1), true, Location::TYPE)));
    assert_eq!(world.hosts[0].frames.last(), Some(&(NodeId(2), false, Location::TYPE)));
    assert!(world.hosts.iter().all(|host| host.book.is_empty()));
    assert_eq!(world.hosts[0].book.counters().links_idle_closed, 1);
    world.run(Duration::from_secs(10));
    assert_eq!(world.dials.len(), 1, "nobody dials it again");
}

#[test]
fn leaving_closes_every_link_and_makes_none() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_secs(3));
    let Host { book, out, .. } = &mut world.hosts[1];
    book.leave(world.now, out);
    world.settle();
    assert!(world.hosts[1].book.is_empty());
    world.run(Duration::from_secs(3));
    assert_eq!((world.hosts[0].up(), world.hosts[1].up()), (vec![], vec![]));
    let trouble = world.hosts[0].book.status(world.now)[0].trouble.clone().unwrap();
    assert!(trouble.contains("shutting down"), "{trouble}");
}

#[test]
fn a_region_that_a_linked_node_comes_to_serve_is_streamed_too() {
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_millis(10));
    let mut contents = map(1, &[(1, CONNECTION, 1), (2, INSTANCE, 1)]).contents();
    let region = Region {
        name: "two".into(),
        instances: vec![NodeId(2)],
    };
    contents.regions.insert(RegionId(2), region);
    let next = Arc::new(Map::build(1, 2, contents).unwrap());
    let Host { book, out, .. } = &mut world.hosts[0];
    book.apply_map(world.now, next, out);
    world.settle();
    let last = world.hosts[0].events.last().unwrap();
    assert!(
        matches!(
            last,
            ShardEvent::SyncStart {
                region: RegionId(2),
                map_version: 2,
                ..
            }
        ),
        "{last:?}"
    );
}

#[test]
fn a_router_s_pong_is_passed_on_and_the_book_s_own_is_not() {
    let shard = ShardId(3);
    let of_router = token::of_router(shard, 77);
    assert!(token::is_router(of_router));
    assert_eq!((token::shard(of_router), token::serial(of_router)), (shard, 77));
    assert!(!token::is_router(token::of_book(shard, u64::MAX)));
    let mut world = World::new(&[(1, CONNECTION), (2, INSTANCE)]);
    world.run(Duration::from_millis(10));
    let conn = world.hosts[0].book.route(world.now, NodeId(2)).unwrap();
    let ping = Ping { token: of_router };
    world.ends[conn.0 as usize ^ 1].incoming.bytes.extend(ping.to_vec());
    world.settle();
    assert_eq!(
        world.hosts[0].frames,
        [
            (NodeId(2), true, MapVersion::TYPE),
            (NodeId(2), true, trunkline_wire::common::Pong::TYPE)
        ]
    );
}

#[test]
fn nodes_spread_over_the_shards() {
    let mut counts = [0; 4];
    for node in 1..=400 {
        counts[usize::from(shard_of_node(NodeId(node), 4).0)] += 1;
    }
    assert!(counts.iter().all(|count| (70..=130).contains(count)), "{counts:?}");
    assert_eq!(shard_of_node(NodeId(5), 1), ShardId(0));
}
