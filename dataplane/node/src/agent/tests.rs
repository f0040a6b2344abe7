//! An agent against a scripted control plane, over real sockets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_net::framing::{Frame, Framer};
use trunkline_wire::auth::{LinkEnd, Secret};
use trunkline_wire::control::{
    CONTROL_BODY_BYTES_MAX, Drain, Joined, MapAck, MapBegin, MapId, MapRequest, NodeFrame, Renew, Renewed,
};
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::Acceptor;
use trunkline_wire::id::RegionId;
use trunkline_wire::map::{self, Contents, Node, Region};
use trunkline_wire::peer::LinkReady;
use trunkline_wire::preface::{PREFACE_BYTES, VERSION_MIN, Versions};

use super::*;
use crate::storage::Memory;

const LINEAGE: u64 = 77;

fn keys(secret: &str) -> ClusterKeys {
    ClusterKeys::new(&Secret::new(secret.as_bytes()).unwrap())
}

fn good_keys() -> ClusterKeys {
    keys("a secret of sixteen bytes or more")
}

fn contents(regions: u16) -> Contents {
    let mut contents = Contents::default();
    let node = Node {
        name: "n7".into(),
        incarnation: Incarnation(1),
        roles: roles(),
        device_address: Some(([127, 0, 0, 1], 1).into()),
        peer_address: Some(([127, 0, 0, 1], 2).into()),
        http_address: None,
    };
    contents.nodes.insert(NodeId(7), node);
    for region in 0..regions {
        let name = format!("r{region}");
        let instances = Vec::new();
        contents.regions.insert(RegionId(region), Region { name, instances });
    }
    contents
}

fn a_map(lineage: u64, version: u64) -> Map {
    Map::build(lineage, version, contents(version as u16)).unwrap()
}

fn roles() -> Roles {
    Roles {
        connection: true,
        messaging: true,
        region: false,
    }
}

/// The other side of one connection, scripted.
struct Control {
    stream: TcpStream,
    framer: Framer,
    seen: std::collections::VecDeque<(u8, Vec<u8>)>,
}

impl Control {
    fn accept(listener: &TcpListener) -> Control {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut control = Control {
            stream,
            framer: Framer::new(),
            seen: Default::default(),
        };
        let mut preface = [0; PREFACE_BYTES];
        control.stream.read_exact(&mut preface).unwrap();
        control
    }

    /// Up to and including the join; returns what the node said it holds.
    fn admit(&mut self, node: NodeId) -> MapId {
        self.admit_for(node, 15_000)
    }

    /// As [`Control::admit`], with a lease of so long.
    fn admit_for(&mut self, node: NodeId, lease_ms: u32) -> MapId {
        let (_, hello) = self.next();
        let hello = trunkline_wire::peer::LinkHello::decode_body(&hello).unwrap();
        let me = LinkEnd {
            node: NodeId::NONE,
            incarnation: Incarnation(0),
            nonce: [1; 32],
        };
        let (acceptor, challenge) = Acceptor::hello(&good_keys(), me, 1, &hello).unwrap();
        self.send(&challenge);
        let (_, proof) = self.next();
        let proof = trunkline_wire::peer::LinkProof::decode_body(&proof).unwrap();
        acceptor.proof(&good_keys(), &proof).unwrap();
        self.send(&LinkReady { doubled: false });
        let (ty, join) = self.next();
        let Some(NodeFrame::Join(join)) = NodeFrame::decode(VERSION_MIN, ty, &join).unwrap() else {
            panic!("a join comes first");
        };
        self.send(&Joined {
            node,
            lease_ms,
            lineage: LINEAGE,
        });
        join.map
    }

    fn send(&mut self, frame: &impl Encode) {
        self.stream.write_all(&frame.to_vec()).unwrap();
    }

    fn next(&mut self) -> (u8, Vec<u8>) {
        loop {
            if let Some(frame) = self.seen.pop_front() {
                return frame;
            }
            let mut bytes = [0; 4096];
            let count = self.stream.read(&mut bytes).expect("the agent says something");
            assert!(count > 0, "the agent hung up");
            let mut frames = self.framer.frames(&bytes[..count]);
            while let Some(Frame { ty, body }) = frames.next(|_| CONTROL_BODY_BYTES_MAX).unwrap() {
                self.seen.push_back((ty, body.to_vec()));
            }
        }
    }

    fn offer(&mut self, base: &Map, map: &Map) {
        let (base, bytes) = match base.id().version {
            0 => (MapId::default(), map.encode()),
            _ => (base.id(), Map::delta(base, map)),
        };
        self.offer_bytes(map.id(), base, &bytes);
    }

    fn offer_bytes(&mut self, map: MapId, base: MapId, bytes: &[u8]) {
        let (begin, parts) = map::parts(map, base, bytes);
        self.send(&begin);
        for part in parts {
            self.send(&part);
        }
    }

    fn expect_ack(&mut self, map: MapId) {
        let (ty, body) = self.next();
        let frame = NodeFrame::decode(VERSION_MIN, ty, &body).unwrap();
        assert_eq!(frame, Some(NodeFrame::MapAck(MapAck { map })));
    }

    /// The next frame but renewals.
    fn expect_draining(&mut self, on: bool) {
        loop {
            let (ty, body) = self.next();
            match NodeFrame::decode(VERSION_MIN, ty, &body).unwrap() {
                Some(NodeFrame::Draining(said)) => return assert_eq!(said.on, on),
                Some(NodeFrame::Renew(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn expect_nack(&mut self, map: MapId, says: &str) {
        let (ty, body) = self.next();
        match NodeFrame::decode(VERSION_MIN, ty, &body).unwrap() {
            Some(NodeFrame::MapNack(nack)) => {
                assert_eq!(nack.map, map);
                assert!(nack.reason.as_str().contains(says), "{}", nack.reason.as_str());
            }
            other => panic!("{other:?}"),
        }
    }

    fn expect_request(&mut self) {
        let (ty, body) = self.next();
        assert!(matches!(
            NodeFrame::decode(VERSION_MIN, ty, &body),
            Ok(Some(NodeFrame::MapRequest(_)))
        ));
    }
}

/// Runs `script` on a thread; the agent is to connect to the address.
fn scripted(script: impl FnOnce(TcpListener) + Send + 'static) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (address, std::thread::spawn(move || script(listener)))
}

fn config(control: String, node: NodeId) -> AgentConfig {
    AgentConfig {
        control: vec![control],
        node,
        incarnation: Incarnation(1),
        name: "n7".into(),
        roles: roles(),
        regions: Vec::new(),
        device_address: Some(([127, 0, 0, 1], 1).into()),
        peer_address: Some(([127, 0, 0, 1], 2).into()),
        http_address: None,
        keys: good_keys(),
        accept_lineage: false,
        seed: 1,
        entropy: Entropy::seeded(1),
        versions: Versions::BUILD,
        #[cfg(feature = "next-version")]
        build: "this one".into(),
    }
}

fn agent(config: AgentConfig, memory: &Memory) -> Agent<EpollDriver> {
    let driver = EpollDriver::new(Options::default()).unwrap();
    Agent::new(driver, config, Box::new(memory.clone()))
}

/// Takes turns until the script is over; returns all news.
fn run(agent: &mut Agent<EpollDriver>, script: JoinHandle<()>) -> Vec<News> {
    run_until(agent, script, |_, _| true)
}

/// Until the script is through, and what it said last has come to `holds`.
fn run_until(
    agent: &mut Agent<EpollDriver>,
    script: JoinHandle<()>,
    holds: impl Fn(&Agent<EpollDriver>, &[News]) -> bool,
) -> Vec<News> {
    let mut news = Vec::new();
    let end = agent.driver.now() + Duration::from_secs(20);
    while !script.is_finished() || !holds(agent, &news) {
        assert!(agent.driver.now() < end, "the script hangs: {news:?}");
        let soon = agent.driver.now() + Duration::from_millis(10);
        agent.turn(Some(soon)).unwrap();
        news.extend(agent.news());
    }
    script.join().unwrap();
    news
}

fn troubles(news: &[News]) -> String {
    let texts = news.iter().filter_map(|news| match news {
        News::Trouble { text, .. } => Some(text.as_str()),
        News::Joined(_) | News::Map(_) | News::Drain { .. } | News::Stay => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_new_node_is_given_an_id_and_a_map_and_keeps_both() {
    let memory = Memory::new();
    let seen = memory.clone();
    let (one, two) = (a_map(LINEAGE, 1), a_map(LINEAGE, 2));
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        assert_eq!(control.admit(NodeId(7)), MapId::default());
        control.offer(&Map::empty(), &one);
        control.expect_ack(one.id());
        assert!(
            seen.read("map").unwrap().is_some(),
            "on disk before the acknowledgement"
        );
        control.offer(&one, &two);
        control.expect_ack(two.id());
    });
    let mut first = agent(config(address, NodeId::NONE), &memory);
    let news = run(&mut first, script);
    let maps: Vec<u64> = news
        .iter()
        .filter_map(|news| match news {
            News::Map(map) => Some(map.id().version),
            _ => None,
        })
        .collect();
    assert_eq!(maps, [1, 2]);
    assert!(matches!(news[0], News::Joined(NodeId(7))));
    assert_eq!(crate::identity::next_start(&memory).unwrap().0, NodeId(7));
    // With the control plane gone, the next start has the map.
    let mut second = agent(config("127.0.0.1:1".into(), NodeId(7)), &memory);
    assert_eq!(second.map().id(), a_map(LINEAGE, 2).id());
    assert!(second.news().is_empty());
}

#[test]
fn bad_maps_are_refused_by_name_and_the_last_good_one_stays() {
    let memory = Memory::new();
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        let (two, three) = (a_map(LINEAGE, 2), a_map(LINEAGE, 3));
        control.offer(&Map::empty(), &two);
        control.expect_ack(two.id());
        // Older.
        let one = a_map(LINEAGE, 1);
        control.offer(&Map::empty(), &one);
        control.expect_nack(one.id(), "not newer");
        // Damaged on its way.
        let mut bytes = three.encode();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        control.offer_bytes(three.id(), MapId::default(), &bytes);
        control.expect_nack(three.id(), "");
        // Truncated.
        control.offer_bytes(three.id(), MapId::default(), &three.encode()[..50]);
        control.expect_nack(three.id(), "");
        // Announced as blank.
        control.send(&MapBegin {
            map: three.id(),
            base: MapId::default(),
            bytes: 0,
            #[cfg(feature = "next-version")]
            whole: trunkline_wire::codec::Newer::new(VERSION_MIN, [0; 32]),
        });
        control.expect_nack(three.id(), "blank");
        // Announced as too large.
        control.send(&MapBegin {
            map: three.id(),
            base: MapId::default(),
            bytes: u32::MAX,
            #[cfg(feature = "next-version")]
            whole: trunkline_wire::codec::Newer::new(VERSION_MIN, [0; 32]),
        });
        control.expect_nack(three.id(), "bytes");
        // Another store's.
        let foreign = a_map(LINEAGE + 1, 9);
        control.offer(&Map::empty(), &foreign);
        control.expect_nack(foreign.id(), "operator's consent");
        // A difference to a map that isn't held: all of it is asked for, and taken.
        control.offer(&one, &three);
        control.expect_request();
        control.offer(&Map::empty(), &three);
        control.expect_ack(three.id());
        // Once more: acknowledged once more.
        control.offer(&Map::empty(), &three);
        control.expect_ack(three.id());
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    run(&mut agent, script);
    assert_eq!(agent.map().id(), a_map(LINEAGE, 3).id());
    assert_eq!(agent.counters().maps_refused, 6);
    assert_eq!(agent.counters().maps_requested, 1);
    assert_eq!(agent.counters().maps_taken, 2);
}

#[test]
fn a_map_that_cannot_be_kept_is_not_used() {
    let memory = Memory::new();
    memory.set_full(true);
    let one = a_map(LINEAGE, 1);
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        control.offer(&Map::empty(), &one);
        control.expect_nack(one.id(), "can't be written");
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    run(&mut agent, script);
    assert_eq!(agent.map().id().version, 0);
    assert_eq!(agent.counters().maps_unwritable, 1);
}

#[test]
fn a_map_that_found_no_room_on_disk_is_asked_for_again() {
    let memory = Memory::new();
    memory.set_full(true);
    let (one, disk) = (a_map(LINEAGE, 1), memory.clone());
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit_for(NodeId(7), 1_500);
        control.offer(&Map::empty(), &one);
        control.expect_nack(one.id(), "can't be written");
        disk.set_full(false);
        loop {
            match control.next().0 {
                Renew::TYPE => control.send(&Renewed {}),
                MapRequest::TYPE => break,
                other => panic!("a frame of type {other}"),
            }
        }
        control.offer(&Map::empty(), &one);
        control.expect_ack(one.id());
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    run(&mut agent, script);
    assert_eq!(agent.map().id().version, 1);
}

#[test]
fn with_the_operator_s_consent_another_lineage_is_taken() {
    let memory = Memory::new();
    let (old, new) = (a_map(LINEAGE, 5), a_map(LINEAGE + 1, 1));
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        control.offer(&Map::empty(), &old);
        control.expect_ack(old.id());
    });
    run(&mut agent(config(address, NodeId(7)), &memory), script);
    let offered = new.clone();
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        assert_eq!(control.admit(NodeId(7)), MapId::default());
        control.offer(&Map::empty(), &offered);
        control.expect_ack(offered.id());
    });
    let consent = AgentConfig {
        accept_lineage: true,
        ..config(address, NodeId(7))
    };
    let mut agent = agent(consent, &memory);
    assert_eq!(agent.map().id().lineage, LINEAGE);
    run(&mut agent, script);
    assert_eq!(agent.map().id(), new.id());
}

#[test]
fn a_lost_control_plane_is_found_again_and_told_what_is_held() {
    let memory = Memory::new();
    let one = a_map(LINEAGE, 1);
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        control.offer(&Map::empty(), &one);
        control.expect_ack(one.id());
        drop(control);
        let mut control = Control::accept(&listener);
        assert_eq!(control.admit(NodeId(7)), one.id());
        control.send(&Renewed {});
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    let news = run_until(&mut agent, script, |agent, _| agent.counters().control_sessions == 2);
    assert!(troubles(&news).contains("closed the connection") || troubles(&news).contains("reset"));
}

#[test]
fn an_operator_s_drain_is_news_and_control_is_told_of_its_begin_and_end_also_after_a_reconnect() {
    let memory = Memory::new();
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        control.send(&Drain { on: true, rate: 50 });
        control.send(&Drain { on: false, rate: 0 });
        control.expect_draining(true);
        drop(control);
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        control.expect_draining(true);
        control.expect_draining(false);
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    let mut drained = Vec::new();
    let end = agent.driver.now() + Duration::from_secs(20);
    while !script.is_finished() {
        assert!(agent.driver.now() < end, "the script hangs: {drained:?}");
        let soon = agent.driver.now() + Duration::from_millis(10);
        agent.turn(Some(soon)).unwrap();
        for news in agent.news() {
            match news {
                News::Drain { rate } => drained.push(rate),
                News::Stay => agent.set_draining(true),
                // The second session.
                News::Joined(_) if !drained.is_empty() => agent.set_draining(false),
                News::Joined(_) | News::Map(_) | News::Trouble { .. } => {}
            }
        }
    }
    script.join().unwrap();
    assert_eq!(drained, [50]);
}

#[test]
fn an_operator_s_drain_is_kept_until_it_is_taken_back_and_one_that_cannot_be_is_obeyed_all_the_same() {
    let memory = Memory::new();
    let told = |memory: &Memory, drain: Drain| {
        let (address, script) = scripted(move |listener| {
            let mut control = Control::accept(&listener);
            control.admit(NodeId(7));
            control.send(&drain);
        });
        let is_order = |news: &News| matches!(news, News::Drain { .. } | News::Stay);
        let mut agent = agent(config(address, NodeId(7)), memory);
        let news = run_until(&mut agent, script, |_, news| news.iter().any(is_order));
        (agent.drain_ordered(), troubles(&news))
    };
    let kept = |memory: &Memory| agent(config("127.0.0.1:1".into(), NodeId(7)), memory).drain_ordered();
    assert_eq!(kept(&memory), None);
    assert_eq!(told(&memory, Drain { on: true, rate: 50 }).0, Some(50));
    assert_eq!(kept(&memory), Some(50));
    memory.set_full(true);
    let (known, trouble) = told(&memory, Drain { on: false, rate: 0 });
    assert_eq!(known, Some(50), "it is written when it is said again");
    assert!(trouble.contains("can't be written to the data directory"), "{trouble}");
    memory.set_full(false);
    told(&memory, Drain { on: false, rate: 0 });
    assert_eq!(kept(&memory), None);
    memory.replace("drain", b"perhaps").unwrap();
    let mut unsure = agent(config("127.0.0.1:1".into(), NodeId(7)), &memory);
    assert_eq!(unsure.drain_ordered(), None);
    assert!(troubles(&unsure.news()).contains("whether this node is drained"));
}

#[test]
fn a_wrong_secret_is_named() {
    let memory = Memory::new();
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        let (_, hello) = control.next();
        let hello = trunkline_wire::peer::LinkHello::decode_body(&hello).unwrap();
        let me = LinkEnd {
            node: NodeId::NONE,
            incarnation: Incarnation(0),
            nonce: [1; 32],
        };
        let refusal = Acceptor::hello(&good_keys(), me, 1, &hello).unwrap_err();
        control.send(&trunkline_wire::common::Failure {
            code: refusal.code(),
            text: trunkline_wire::codec::Text::clipped(&refusal.to_string()),
        });
    });
    let other = AgentConfig {
        keys: keys("another secret altogether"),
        ..config(address, NodeId(7))
    };
    let is_named = |news: &News| matches!(news, News::Trouble { code, .. } if *code == Some(ErrorCode::WrongSecret));
    let news = run_until(&mut agent(other, &memory), script, |_, news| news.iter().any(is_named));
    assert!(troubles(&news).contains("the cluster secrets differ"), "{news:?}");
}

#[test]
fn a_damaged_map_on_disk_is_news_and_not_used() {
    let memory = Memory::new();
    memory.replace("map", b"nonsense").unwrap();
    let mut agent = agent(config("127.0.0.1:1".into(), NodeId(7)), &memory);
    assert_eq!(agent.map().id().version, 0);
    assert!(troubles(&agent.news()).contains("the map in the data directory is not used"));
}

#[test]
fn a_node_that_leaves_says_so_and_stays_until_that_is_read() {
    let memory = Memory::new();
    let (tell, told) = mpsc::channel();
    let (read, may_close) = mpsc::channel();
    let (address, script) = scripted(move |listener| {
        let mut control = Control::accept(&listener);
        control.admit(NodeId(7));
        tell.send(()).unwrap();
        let (ty, body) = control.next();
        assert!(matches!(
            NodeFrame::decode(VERSION_MIN, ty, &body),
            Ok(Some(NodeFrame::Leave(_)))
        ));
        // It may have been on its way when the node left.
        control.send(&Renewed {});
        tell.send(()).unwrap();
        may_close.recv().unwrap();
    });
    let mut agent = agent(config(address, NodeId(7)), &memory);
    let turn = |agent: &mut Agent<EpollDriver>| {
        let soon = agent.driver.now() + Duration::from_millis(10);
        agent.turn(Some(soon)).unwrap();
    };
    let mut admitted = false;
    while !admitted || !agent.is_member() {
        admitted |= told.try_recv().is_ok();
        turn(&mut agent);
    }
    agent.leave();
    while told.try_recv().is_err() {
        turn(&mut agent);
    }
    assert!(!agent.has_left());
    read.send(()).unwrap();
    while !agent.has_left() {
        turn(&mut agent);
    }
    script.join().unwrap();
}
