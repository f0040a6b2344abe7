//! A control plane on a thread of its own, and a node that does what the test says.
#![allow(dead_code)] // Each test file uses its part.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trunkline_control::config::{Config, InitialRegion};
use trunkline_control::counters::Counters;
use trunkline_control::server::Server;
use trunkline_control::store::{RedbStore, Store};
use trunkline_net::driver::Wake;
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_net::framing::Framer;
use trunkline_wire::auth::{ClusterKeys, LinkEnd, Secret, random_bytes};
use trunkline_wire::codec::Text;
use trunkline_wire::control::{
    CONTROL_BODY_BYTES_MAX, ControlFrame, Join, Joined, Leave, MapAck, MapNack, Names, Renew,
};
use trunkline_wire::control::{MapId, MapRequest, Roles};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::Opener;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::{Assembler, Map, Transfer, accept};
use trunkline_wire::preface::{Preface, Side, VERSION_MAX, Versions};

pub fn secret() -> Secret {
    Secret::new(b"the secret of the test cluster").unwrap()
}

pub fn keys() -> ClusterKeys {
    ClusterKeys::new(&secret())
}

/// One region `eu`, at once.
pub fn one_region() -> Config {
    Config {
        initial_regions: vec![InitialRegion {
            name: "eu".into(),
            weight: 1,
        }],
        ..Config::default()
    }
}

/// A running control plane; dropped, it stops without ceremony.
pub struct Running {
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
    thread: Option<JoinHandle<Counters>>,
}

impl Running {
    pub fn on_disk(data: &Path, config: Config) -> Running {
        Running::with(RedbStore::open(data).unwrap(), config)
    }

    pub fn with<S: Store + Send + 'static>(store: S, config: Config) -> Running {
        let (started, start) = std::sync::mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let options = Options {
                sockets_max: 256,
                sockets_reserved: 1,
                ..Options::default()
            };
            let driver = EpollDriver::new(options).unwrap();
            let mut server = Server::new(driver, store, config, keys(), Box::new(random_bytes)).unwrap();
            let address = server.listen("127.0.0.1:0".parse().unwrap()).unwrap();
            started.send((address, server.waker())).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                server.turn(None).unwrap();
            }
            server.counters()
        });
        let (address, waker) = start.recv().unwrap();
        Running {
            address,
            stop,
            waker,
            thread: Some(thread),
        }
    }

    pub fn stop(mut self) -> Counters {
        self.end().unwrap()
    }

    fn end(&mut self) -> Option<Counters> {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        self.thread.take().map(|thread| thread.join().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

/// How the control plane's side of a conversation goes on.
#[derive(Debug)]
pub enum Heard {
    Challenge(trunkline_wire::peer::LinkChallenge),
    Ready,
    Joined(Joined),
    Renewed,
    Drain(trunkline_wire::control::Drain),
    Offered(Transfer),
    Pong(u64),
    Failure(ErrorCode, String),
    Other,
}

/// A node, scripted.
pub struct Node {
    stream: TcpStream,
    framer: Framer,
    assembler: Option<Assembler>,
    pub id: NodeId,
    pub map: Arc<Map>,
}

pub const TIMEOUT: Duration = Duration::from_secs(10);

impl Node {
    /// Dials, and sends bytes of the test's choice.
    pub fn raw(address: SocketAddr, bytes: &[u8]) -> Node {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(bytes).unwrap();
        let map = Arc::new(Map::empty());
        Node {
            stream,
            framer: Framer::new(),
            assembler: None,
            id: NodeId::NONE,
            map,
        }
    }

    /// Dials, and proves the secret.
    pub fn dial(address: SocketAddr, secret: &Secret, id: NodeId, incarnation: u64) -> Result<Node, String> {
        let keys = ClusterKeys::new(secret);
        let me = LinkEnd {
            node: id,
            incarnation: Incarnation(incarnation),
            nonce: random_bytes(),
        };
        let (opener, hello) = Opener::new(&keys, me, Versions::BUILD);
        let mut bytes = Preface::new(Side::Control).encode().to_vec();
        hello.encode(&mut bytes);
        let mut node = Node::raw(address, &bytes);
        node.id = id;
        let challenge = match node.hear() {
            Heard::Challenge(challenge) => challenge,
            other => return Err(format!("{other:?}")),
        };
        let (proof, peer) = opener
            .challenge(&keys, &challenge)
            .map_err(|refusal| refusal.to_string())?;
        assert_eq!(peer.node, NodeId::NONE);
        node.send(&proof);
        match node.hear() {
            Heard::Ready => Ok(node),
            other => Err(format!("{other:?}")),
        }
    }

    pub fn send(&mut self, frame: &impl Encode) {
        self.stream.write_all(&frame.to_vec()).unwrap();
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// False if the connection is closed, or takes nothing for long.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.set_write_timeout(Some(TIMEOUT)).unwrap();
        self.stream.write_all(bytes).is_ok()
    }

    pub fn hear(&mut self) -> Heard {
        self.hear_within(TIMEOUT).expect("something is heard")
    }

    /// The next frame; `None` if nothing comes. A map comes whole.
    pub fn hear_within(&mut self, time: Duration) -> Option<Heard> {
        let until = Instant::now() + time;
        let mut buffer = vec![0; 64 * 1024];
        let mut read = 0;
        loop {
            let mut frames = self.framer.frames(&buffer[..read]);
            let mut heard = None;
            while let Some(frame) = frames.next(|_| CONTROL_BODY_BYTES_MAX).unwrap() {
                let frame = ControlFrame::decode(VERSION_MAX, frame.ty, frame.body).unwrap();
                heard = understand(&mut self.assembler, frame);
                if heard.is_some() {
                    break;
                }
            }
            drop(frames);
            if heard.is_some() || Instant::now() >= until {
                return heard;
            }
            read = match self.stream.read(&mut buffer) {
                Ok(0) => panic!("the control plane closed the connection"),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => 0,
                Err(error) => panic!("{error}"),
            };
        }
    }

    /// Whether the other side closes within `time`, without a reset.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while Instant::now() < until {
            match self.stream.read(&mut [0; 1024]) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => panic!("{error}"),
            }
        }
        false
    }

    pub fn try_join(&mut self, name: &str, regions: &[&str], held: MapId) -> Result<Joined, (ErrorCode, String)> {
        // A port that differs by the name: nodes of different names are at different places.
        let port = 1000
            + name
                .bytes()
                .fold(7u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
                % 60_000;
        let mut space = Vec::new();
        let regions = Names::new(regions.iter().copied(), &mut space).unwrap();
        let has_regions = regions.iter().next().is_some();
        let join = Join {
            name: Text::clipped(name),
            roles: Roles {
                connection: !has_regions,
                messaging: false,
                region: has_regions,
            },
            device_address: (!has_regions).then(|| SocketAddr::from(([127, 0, 0, 1], port))),
            peer_address: Some(SocketAddr::from(([127, 0, 0, 2], port))),
            http_address: None,
            map: held,
            regions,
            #[cfg(feature = "next-version")]
            build: trunkline_wire::codec::Newer::new(VERSION_MAX, Text::clipped("a build")),
        };
        self.send(&join);
        match self.hear() {
            Heard::Joined(joined) => {
                self.id = joined.node;
                Ok(joined)
            }
            Heard::Failure(code, text) => Err((code, text)),
            other => panic!("{other:?}"),
        }
    }

    /// Dials and joins as a new node.
    pub fn join(address: SocketAddr, name: &str, regions: &[&str]) -> Node {
        let mut node = Node::dial(address, &secret(), NodeId::NONE, 1).unwrap();
        node.try_join(name, regions, MapId::default()).unwrap();
        node
    }

    /// Comes back: a later start, with the id and the map that it has.
    pub fn rejoin(&self, address: SocketAddr, name: &str, regions: &[&str], incarnation: u64) -> Node {
        let mut node = Node::dial(address, &secret(), self.id, incarnation).unwrap();
        node.map = self.map.clone();
        node.try_join(name, regions, self.map.id()).unwrap();
        node
    }

    /// The next offered map, not taken yet.
    pub fn offered(&mut self) -> Transfer {
        loop {
            match self.hear() {
                Heard::Offered(transfer) => return transfer,
                Heard::Renewed | Heard::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes the next offered map as a node does, and acknowledges it. Returns what was offered.
    pub fn take(&mut self) -> Transfer {
        let transfer = self.offered();
        let plan = accept(&self.map, transfer.map, transfer.base).unwrap();
        self.map = Arc::new(transfer.finish(&self.map, plan).unwrap());
        self.send(&MapAck { map: transfer.map });
        transfer
    }

    /// Takes maps until one does.
    pub fn take_until(&mut self, wanted: impl Fn(&Map) -> bool) {
        while !wanted(&self.map) {
            self.take();
        }
    }

    pub fn nack(&mut self, map: MapId, reason: &str) {
        self.send(&MapNack {
            map,
            reason: Text::clipped(reason),
        });
    }

    pub fn request_map(&mut self) {
        self.send(&MapRequest {});
    }

    pub fn renew(&mut self, sessions: u64) {
        self.send(&Renew { sessions });
    }

    pub fn leave(&mut self) {
        self.send(&Leave {});
    }
}

fn understand(assembler: &mut Option<Assembler>, frame: Option<ControlFrame<'_>>) -> Option<Heard> {
    Some(match frame {
        Some(ControlFrame::LinkChallenge(challenge)) => Heard::Challenge(challenge),
        Some(ControlFrame::LinkReady(_)) => Heard::Ready,
        Some(ControlFrame::Joined(joined)) => Heard::Joined(joined),
        Some(ControlFrame::Renewed(_)) => Heard::Renewed,
        Some(ControlFrame::Drain(drain)) => Heard::Drain(drain),
        Some(ControlFrame::MapBegin(begin)) => {
            *assembler = Some(Assembler::begin(begin).unwrap());
            return None;
        }
        Some(ControlFrame::MapPart(part)) => {
            let whole = assembler.as_mut().expect("it was announced").part(part).unwrap();
            return whole.map(Heard::Offered);
        }
        Some(ControlFrame::Pong(pong)) => Heard::Pong(pong.token),
        Some(ControlFrame::Failure(failure)) => Heard::Failure(failure.code, failure.text.as_str().to_owned()),
        Some(ControlFrame::Ping(_) | ControlFrame::AdminAnswer(_)) | None => Heard::Other,
    })
}
