//! Nodes over real sockets that start from a map on disk, without a control plane; and scripted devices.
#![allow(dead_code)] // Each test file uses a part.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trunkline_net::framing::{Frame, Framer};
use trunkline_node::config::Config;
use trunkline_node::run::Node;
use trunkline_node::storage::{Directory, Storage};
use trunkline_wire::codec::{Field, Tail};
use trunkline_wire::common::{Ping, Pong};
use trunkline_wire::control::Roles;
use trunkline_wire::device::{
    Acknowledge, Credentials, Deliver, ErrorCode, Failure, Hello, PingIntervalMs, Purpose, Report, Send, Welcome,
};
use trunkline_wire::frame::{BODY_BYTES_MAX, Encode};
use trunkline_wire::id::{Epoch, IdRef, Incarnation, Instance, NodeId, RegionId};
use trunkline_wire::map::{self, Contents, Map};
use trunkline_wire::preface::{Preface, Side};
use trunkline_wire::report::{Number, TtlMs};

pub const SECRET: &str = "a secret of sixteen bytes or more";

/// A node that a test will start.
pub struct Plan {
    pub id: u32,
    pub roles: Roles,
    pub device: SocketAddr,
    pub peer: SocketAddr,
    pub data: tempfile::TempDir,
}

pub const ALL: Roles = Roles {
    connection: true,
    messaging: true,
    region: true,
};

/// An address that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Nodes 1, 2, … with these roles; those with the region role are the instances of the only region. Each has the map on disk.
pub fn plan(roles: &[Roles]) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    let mut contents = Contents::default();
    for (index, &roles) in roles.iter().enumerate() {
        let id = index as u32 + 1;
        let (device, peer) = (free_address(), free_address());
        let node = map::Node {
            name: format!("n{id}"),
            incarnation: Incarnation(1),
            roles,
            device_address: Some(device),
            peer_address: Some(peer),
            http_address: None,
        };
        contents.nodes.insert(NodeId(id), node);
        let data = tempfile::tempdir().unwrap();
        plans.push(Plan {
            id,
            roles,
            device,
            peer,
            data,
        });
    }
    let instances = plans
        .iter()
        .filter(|plan| plan.roles.region)
        .map(|plan| NodeId(plan.id));
    let region = map::Region {
        name: "one".into(),
        instances: instances.collect(),
    };
    contents.regions.insert(RegionId(0), region);
    let map = Map::build(7, 1, contents).unwrap();
    let mut bytes = Vec::new();
    map.id().put(&mut bytes);
    bytes.extend_from_slice(&map.encode());
    for plan in &plans {
        let directory = Directory::open(plan.data.path()).unwrap();
        directory.replace("map", &bytes).unwrap();
        directory.replace("node-id", plan.id.to_string().as_bytes()).unwrap();
        directory.replace("secret", SECRET.as_bytes()).unwrap();
    }
    plans
}

impl Plan {
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.node.roles = self.roles;
        if self.roles.region {
            config.node.regions = vec!["one".into()];
        }
        config.node.data_dir = self.data.path().to_owned();
        // Nobody is there: everything works without.
        config.node.control = vec!["127.0.0.1:1".into()];
        config.listen.device = self.device;
        config.listen.peer = self.peer;
        config.listen.http = "127.0.0.1:0".parse().unwrap();
        config.limits.sockets_max = 2048;
        // So that all of this can be run on either back end.
        if let Ok(backend) = std::env::var("TRUNKLINE_BACKEND") {
            config.node.backend = backend.parse().unwrap();
        }
        config
    }

    pub fn start(&self) -> Node {
        Node::start(self.config()).unwrap()
    }
}

/// One node that is everything.
pub fn single() -> (Node, Plan) {
    let plan = plan(&[ALL]).pop().unwrap();
    let node = plan.start();
    eventually("ready", || node.not_ready().is_empty());
    (node, plan)
}

/// Waits until `holds`.
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a counter has this value, and stays there.
pub fn expect_count(node: &Node, name: &str, value: u64) {
    eventually(&format!("{name} is {value}, not {}", node.stats().sum(name)), || {
        node.stats().sum(name) >= value
    });
    assert_eq!(node.stats().sum(name), value, "{name}");
}

/// A device's end of a connection, byte by byte if need be.
pub struct Device {
    pub stream: TcpStream,
    framer: Framer,
    seen: VecDeque<(u8, Vec<u8>)>,
    pub eof: bool,
}

impl Device {
    pub fn connect(address: SocketAddr) -> Device {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Device {
            stream,
            framer: Framer::new(),
            seen: VecDeque::new(),
            eof: false,
        }
    }

    /// Connected and welcomed.
    pub fn welcomed(address: SocketAddr, id: &str) -> Device {
        let mut device = Device::connect(address);
        device.raw(&hello(id, b""));
        device.expect::<Welcome, _>(|body| Welcome::decode_body(body).unwrap());
        device
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        // The other side may have closed already; what it said is what counts.
        let _ = self.stream.write_all(bytes);
    }

    pub fn send(&mut self, frame: &impl Encode) {
        self.raw(&frame.to_vec());
    }

    /// The next frame; `None` at the end of the stream.
    pub fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let Some(frame) = self.seen.pop_front() {
                return Some(frame);
            }
            let mut bytes = [0; 16 * 1024];
            let count = match self.stream.read(&mut bytes) {
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
                Err(error) => panic!("nothing to read: {error}"),
            };
            if count == 0 {
                self.eof = true;
                return None;
            }
            let mut frames = self.framer.frames(&bytes[..count]);
            while let Some(Frame { ty, body }) = frames.next(|_| BODY_BYTES_MAX).unwrap() {
                self.seen.push_back((ty, body.to_vec()));
            }
        }
    }

    /// The next frame but pings, which has to be this one.
    pub fn expect<F: Encode, T>(&mut self, decode: impl FnOnce(&[u8]) -> T) -> T {
        loop {
            let (ty, body) = self.next().expect("a frame, not the end");
            if ty == F::TYPE {
                return decode(&body);
            }
            if ty == Failure::TYPE {
                panic!("{:?}", Failure::decode_body(&body));
            }
            assert_eq!(ty, Ping::TYPE, "another frame than expected");
        }
    }

    /// The server's last word is this failure, then the end.
    pub fn expect_failure(&mut self, code: ErrorCode, says: &str) {
        let (ty, body) = self.next().expect("a failure, not the end");
        assert_eq!(ty, Failure::TYPE);
        let failure = Failure::decode_body(&body).unwrap();
        assert_eq!(failure.code, code, "{failure:?}");
        assert!(failure.text.as_str().contains(says), "{failure:?}");
        assert!(!failure.text.as_str().contains('\n'));
        let _ = self.stream.shutdown(Shutdown::Write);
        assert!(self.next().is_none(), "nothing follows");
    }

    /// The server still answers it.
    pub fn assert_served(&mut self) {
        self.send(&Ping { token: 99 });
        let pong = self.expect::<Pong, _>(|body| Pong::decode_body(body).unwrap());
        assert_eq!(pong.token, 99);
    }

    pub fn message(&mut self, to: &str, number: u64, payload: &[u8]) {
        self.send(&Send {
            recipient: IdRef::new(to).unwrap(),
            number: Number {
                number,
                confirmed: Some(0),
            },
            ttl: TtlMs::default(),
            payload: Tail(payload),
        });
    }

    /// Takes a message, acknowledges it, and returns its payload.
    pub fn take(&mut self) -> Vec<u8> {
        let (delivery, payload) = self.expect::<Deliver<'_>, _>(|body| {
            let deliver = Deliver::decode_body(body).unwrap();
            (deliver.delivery, deliver.payload.0.to_vec())
        });
        let late = false;
        self.send(&Acknowledge { delivery, late });
        payload
    }

    pub fn expect_report(&mut self) -> String {
        self.expect::<Report<'_>, _>(|body| format!("{:?}", Report::decode_body(body).unwrap().outcome))
    }
}

pub fn preface() -> Vec<u8> {
    Preface::new(Side::Device).encode().to_vec()
}

pub fn hello_frame(id: &str, credentials: &[u8]) -> Vec<u8> {
    Hello {
        device: IdRef::new(id).unwrap(),
        instance: Instance(1),
        presented: Epoch::NONE,
        purpose: Purpose::Full,
        ping_interval: PingIntervalMs::default(),
        credentials: Credentials::new(credentials).unwrap(),
    }
    .to_vec()
}

pub fn hello(id: &str, credentials: &[u8]) -> Vec<u8> {
    let mut bytes = preface();
    bytes.extend(hello_frame(id, credentials));
    bytes
}

/// A GET; status and body.
pub fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}
