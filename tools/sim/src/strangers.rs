//! Who connects and says what no library would: noise, true beginnings with a wrong end, and beginnings without one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use fastrand::Rng;
use trunkline_net::driver::{BufferGroup, Completion, Driver, ReceiveMode, Token};
use trunkline_net::sim::{DriverId, SimDriver, SimOptions, World};
use trunkline_wire::device::{Credentials, Hello, PingIntervalMs, Purpose};
use trunkline_wire::frame::{Encode, Header};
use trunkline_wire::id::{DeviceId, Epoch, Incarnation, Instance, NodeId};
use trunkline_wire::peer::LinkHello;
use trunkline_wire::preface::{PREFACE_BYTES, Preface, Side, VERSION_MIN, Versions};

use crate::node::PEER_PORT;

/// A host of nobody's. It takes whatever it is answered, and closes only what the other side has closed.
pub(crate) struct Strangers {
    driver: SimDriver,
    completions: Vec<Completion<<SimDriver as Driver>::Socket>>,
    /// What is said on each connection once it is open.
    waiting: Vec<(Token, Vec<u8>)>,
    count: u64,
}

impl Strangers {
    pub(crate) fn new(world: &World) -> Strangers {
        let options = SimOptions {
            sockets_max: 256,
            sockets_reserved: 0,
            ..SimOptions::default()
        };
        Strangers {
            driver: world.driver(ADDRESS, options),
            completions: Vec::new(),
            waiting: Vec::new(),
            count: 0,
        }
    }

    pub(crate) fn id(&self) -> DriverId {
        self.driver.id()
    }

    /// Somebody connects to `address`, which is a node's.
    pub(crate) fn come(&mut self, rng: &mut Rng, address: SocketAddr) {
        self.count += 1;
        let words = words(rng, address.port() == PEER_PORT, self.count);
        if let Ok(token) = self.driver.connect(address) {
            self.waiting.push((token, words));
        }
    }

    pub(crate) fn turn(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let waited = self.driver.wait(None, &mut completions);
        waited.expect("a simulated driver doesn't fail");
        for completion in completions.drain(..) {
            match completion {
                Completion::Connected { token } => {
                    self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                    if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == token) {
                        let (_, words) = self.waiting.swap_remove(at);
                        if !words.is_empty() {
                            self.driver.send(token, words);
                        }
                    }
                }
                Completion::Received { buffer, .. } => self.driver.give_back(buffer),
                Completion::ConnectFailed { token, .. }
                | Completion::Eof { token }
                | Completion::ReceiveFailed { token, .. } => {
                    self.waiting.retain(|(waiting, _)| *waiting != token);
                    self.driver.close(token);
                }
                Completion::Sent { .. }
                | Completion::Closed { .. }
                | Completion::Woken
                | Completion::Accepted { .. }
                | Completion::AcceptPaused { .. }
                | Completion::HandedOver { .. } => {}
            }
        }
        self.completions = completions;
    }
}

/// What they begin with: the same bytes in every build.
fn lowest(side: Side) -> [u8; PREFACE_BYTES] {
    let versions = Versions::up_to(VERSION_MIN).expect("it is spoken");
    Preface::offering(side, versions).encode()
}

/// What one of them says.
fn words(rng: &mut Rng, peer: bool, count: u64) -> Vec<u8> {
    let mut noise = vec![0; rng.usize(0..3_000)];
    rng.fill(&mut noise);
    let side = if peer { Side::Peer } else { Side::Device };
    let mut words = match rng.u32(..6) {
        // Neither a beginning nor an end.
        0 => return noise,
        1 => lowest(side).to_vec(),
        _ => {
            let mut words = lowest(side).to_vec();
            if peer {
                let mut nonce = [0; 32];
                rng.fill(&mut nonce);
                let hello = LinkHello {
                    node: NodeId(rng.u32(0..20)),
                    incarnation: Incarnation(rng.u64(0..1_000)),
                    nonce,
                    key_check: rng.u64(..).to_le_bytes(),
                };
                hello.encode(&mut words);
            } else {
                let id = DeviceId::new(&format!("stranger-{count}")).expect("a short name is an id");
                let hello = Hello {
                    device: id.borrow(),
                    instance: Instance(rng.u64(1..)),
                    presented: Epoch {
                        clock: if rng.bool() { rng.u64(..) } else { 0 },
                        node: NodeId(rng.u32(1..20)),
                    },
                    purpose: if rng.bool() { Purpose::SendOnly } else { Purpose::Full },
                    ping_interval: PingIntervalMs::new(2_000).expect("it is allowed"),
                    credentials: Credentials::new(&[]).expect("none are short enough"),
                };
                hello.encode(&mut words);
            }
            words
        }
    };
    match rng.u32(..5) {
        // Says no more.
        0 => {}
        // A frame of any type that claims any length, and has less.
        1 | 2 => {
            let header = Header {
                ty: rng.u8(..),
                length: if rng.bool() { rng.u32(..1 << 24) } else { rng.u32(..200) },
            };
            words.extend_from_slice(&header.encode());
            words.extend_from_slice(&noise);
        }
        3 => words.extend_from_slice(&noise),
        // A beginning with one byte wrong.
        _ => {
            let at = rng.usize(..words.len());
            words[at] ^= 1 << rng.u32(..8);
            words.truncate(rng.usize(1..=words.len()));
        }
    }
    words
}

/// Their host's.
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 3, 0, 1));
