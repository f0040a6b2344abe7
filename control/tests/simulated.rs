//! The server on the simulated network: what is deployed runs there too, and the same seed gives the same run.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use trunkline_control::config::{Config, InitialRegion};
use trunkline_control::server::Server;
use trunkline_control::store::MemoryStore;
use trunkline_net::driver::{BufferGroup, Completion, Driver, ReceiveMode, Token};
use trunkline_net::framing::Framer;
use trunkline_net::sim::{SimDriver, SimOptions, World, WorldOptions};
use trunkline_wire::auth::{ClusterKeys, LinkEnd, Secret};
use trunkline_wire::codec::Text;
use trunkline_wire::control::{CONTROL_BODY_BYTES_MAX, ControlFrame, Join, MapAck, MapId, Names, Renew, Roles};
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::Opener;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::{Assembler, Map, accept};
use trunkline_wire::preface::{Preface, Side, VERSION_MAX, Versions};
use trunkline_wire::time::Instant;

fn keys() -> ClusterKeys {
    ClusterKeys::new(&Secret::new(b"the secret of the test cluster").unwrap())
}

/// A node that joins, renews, and takes every map.
struct Node {
    driver: SimDriver,
    token: Token,
    opener: Option<Opener>,
    name: String,
    framer: Framer,
    assembler: Option<Assembler>,
    map: Map,
    joined: bool,
    renew_at: Instant,
    queue: VecDeque<Vec<u8>>,
    sending: bool,
}

impl Node {
    fn new(world: &World, number: u8, control: SocketAddr) -> Node {
        let mut driver = world.driver([10, 0, 1, number].into(), SimOptions::default());
        let token = driver.connect(control).unwrap();
        let me = LinkEnd {
            node: NodeId::NONE,
            incarnation: Incarnation(1),
            nonce: [number; 32],
        };
        let (opener, hello) = Opener::new(&keys(), me, Versions::BUILD);
        let mut first = Preface::new(Side::Control).encode().to_vec();
        hello.encode(&mut first);
        Node {
            driver,
            token,
            opener: Some(opener),
            name: format!("r{number}"),
            framer: Framer::new(),
            assembler: None,
            map: Map::empty(),
            joined: false,
            renew_at: Instant::NEVER,
            queue: VecDeque::from([first]),
            sending: true,
        }
    }

    fn turn(&mut self) {
        let now = self.driver.now();
        let mut completions = Vec::new();
        self.driver.wait(Some(now), &mut completions).unwrap();
        for completion in completions {
            match completion {
                Completion::Connected { token } => {
                    self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
                    self.sending = false;
                }
                Completion::Received { buffer, .. } => {
                    let bytes = self.driver.bytes(&buffer).to_vec();
                    self.driver.give_back(buffer);
                    self.take(now, &bytes);
                }
                Completion::Sent { result, .. } => {
                    result.unwrap();
                    self.sending = false;
                }
                other => panic!("{other:?}"),
            }
        }
        if now >= self.renew_at {
            self.renew_at = now + Duration::from_secs(5);
            self.queue.push_back(Renew { sessions: 0 }.to_vec());
        }
        if !self.sending
            && let Some(bytes) = self.queue.pop_front()
        {
            self.driver.send(self.token, bytes);
            self.sending = true;
        }
    }

    fn take(&mut self, now: Instant, bytes: &[u8]) {
        let mut frames = self.framer.frames(bytes);
        while let Some(frame) = frames.next(|_| CONTROL_BODY_BYTES_MAX).unwrap() {
            match ControlFrame::decode(VERSION_MAX, frame.ty, frame.body)
                .unwrap()
                .unwrap()
            {
                ControlFrame::LinkChallenge(challenge) => {
                    let opener = self.opener.take().unwrap();
                    self.queue
                        .push_back(opener.challenge(&keys(), &challenge).unwrap().0.to_vec());
                }
                ControlFrame::LinkReady(_) => {
                    let mut space = Vec::new();
                    let join = Join {
                        name: Text::clipped(&self.name),
                        roles: Roles {
                            connection: false,
                            messaging: false,
                            region: true,
                        },
                        device_address: None,
                        peer_address: Some("10.0.1.1:7401".parse().unwrap()),
                        http_address: None,
                        map: MapId::default(),
                        regions: Names::new(["eu"], &mut space).unwrap(),
                        #[cfg(feature = "next-version")]
                        build: trunkline_wire::codec::Newer::new(VERSION_MAX, Text::clipped("a build")),
                    };
                    self.queue.push_back(join.to_vec());
                }
                ControlFrame::Joined(_) => {
                    self.joined = true;
                    self.renew_at = now;
                }
                ControlFrame::MapBegin(begin) => self.assembler = Some(Assembler::begin(begin).unwrap()),
                ControlFrame::MapPart(part) => {
                    if let Some(transfer) = self.assembler.as_mut().unwrap().part(part).unwrap() {
                        let plan = accept(&self.map, transfer.map, transfer.base).unwrap();
                        self.map = transfer.finish(&self.map, plan).unwrap();
                        self.queue.push_back(MapAck { map: transfer.map }.to_vec());
                    }
                }
                ControlFrame::Renewed(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Nodes join one after the other; returns the trace's hash and the version at the end.
fn run(seed: u64) -> (u64, u64) {
    let world = World::new(seed, WorldOptions::default());
    let mut random = fastrand::Rng::with_seed(seed);
    let config = Config {
        initial_regions: vec![InitialRegion {
            name: "eu".into(),
            weight: 1,
        }],
        ..Config::default()
    };
    let nonce = Box::new(move || std::array::from_fn(|_| random.u8(..)));
    let driver = world.driver([10, 0, 0, 1].into(), SimOptions::default());
    let mut server = Server::new(driver, MemoryStore::new(), config, keys(), nonce).unwrap();
    let address = server.listen("10.0.0.1:7402".parse().unwrap()).unwrap();
    let mut nodes: Vec<Node> = Vec::new();
    let end = world.now() + Duration::from_secs(120);
    while world.now() < end {
        let now = world.now();
        if nodes.len() < 8 && now >= Instant::ZERO + Duration::from_secs(nodes.len() as u64) {
            nodes.push(Node::new(&world, nodes.len() as u8 + 1, address));
        }
        loop {
            server.turn(Some(now)).unwrap();
            nodes.iter_mut().for_each(Node::turn);
            let mut ready = Vec::new();
            world.take_ready(&mut ready);
            if ready.is_empty() {
                break;
            }
        }
        let second = now + Duration::from_secs(1);
        let renewals = nodes.iter().map(|node| node.renew_at).min().unwrap_or(second);
        let event = world.next_event().unwrap_or(second);
        let next = [server.deadline(), event, renewals, second].into_iter().min().unwrap();
        world.advance(next.max(now + Duration::from_micros(1)));
    }
    assert_eq!(server.counters().expiries, 0);
    for node in &nodes {
        assert!(node.joined);
        assert_eq!(node.map.id().version, server.version(), "seed {seed}");
        assert_eq!(node.map.nodes().count(), 8);
    }
    (world.trace_hash(), server.version())
}

#[test]
fn nodes_join_in_virtual_time_and_a_seed_gives_the_same_run() {
    for seed in 1..=5 {
        let first = run(seed);
        assert_eq!(first.1, 8, "a version for each node");
        assert_eq!(run(seed), first, "seed {seed}");
    }
}
