//! A control plane gone wrong: it knows the cluster's secret and lets every node join, and each map that it offers is a bad one. No node
//! may use any of them: the last good one is kept, and the offer refused.

use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use trunkline_core::constants::LEASE;
use trunkline_net::driver::{BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};
use trunkline_net::framing::Framer;
use trunkline_net::sim::{SimDriver, SimOptions, World};
use trunkline_wire::auth::{ClusterKeys, LinkEnd};
use trunkline_wire::control::{CONTROL_BODY_BYTES_MAX, Joined, MapBegin, MapId, NodeFrame, Renewed};
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::{Acceptor, Peer};
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::{MAP_BYTES_MAX, Map, parts};
use trunkline_wire::peer::LinkReady;
use trunkline_wire::preface::{PREFACE_BYTES, Preface, VERSION_MIN, Versions};

/// See the module's text.
pub(crate) struct Impostor {
    driver: SimDriver,
    keys: ClusterKeys,
    rng: Rng,
    /// The newest map in use when it began: what is offered is made from it.
    good: Arc<Map>,
    guests: Vec<Guest>,
    completions: Vec<Completion<<SimDriver as Driver>::Socket>>,
}

/// A node's connection.
struct Guest {
    token: Token,
    state: State,
    framer: Framer,
    out: Vec<u8>,
    sending: bool,
    /// What the node has, as it says.
    held: MapId,
    offers: u32,
}

enum State {
    Preface(Vec<u8>),
    Hello,
    Proof(Acceptor),
    Open(Peer),
}

impl Impostor {
    /// Listens where the control plane did.
    pub(crate) fn new(world: &World, keys: &ClusterKeys, address: SocketAddr, good: Arc<Map>, seed: u64) -> Impostor {
        let mut driver = world.driver(address.ip(), SimOptions::default());
        driver.listen(address, LISTENER).expect("a simulated port is free");
        Impostor {
            driver,
            keys: keys.clone(),
            rng: Rng::with_seed(seed),
            good,
            guests: Vec::new(),
            completions: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> trunkline_net::sim::DriverId {
        self.driver.id()
    }

    pub(crate) fn turn(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        let waited = self.driver.wait(None, &mut completions);
        waited.expect("a simulated driver doesn't fail");
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
    }

    fn complete(&mut self, completion: Completion<<SimDriver as Driver>::Socket>) {
        match completion {
            Completion::Accepted { token, .. } => {
                self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
                self.guests.push(Guest {
                    token,
                    state: State::Preface(Vec::new()),
                    framer: Framer::new(),
                    out: Vec::new(),
                    sending: false,
                    held: MapId::default(),
                    offers: self.rng.u32(1..8),
                });
            }
            Completion::Received { token, buffer } => {
                let bytes = self.driver.bytes(&buffer).to_vec();
                self.driver.give_back(buffer);
                if let Some(at) = self.guests.iter().position(|guest| guest.token == token) {
                    match self.hear(at, &bytes) {
                        Some(()) => self.start_send(at),
                        None => self.part(token),
                    }
                }
            }
            Completion::Sent { token, result, .. } => {
                if let Some(at) = self.guests.iter().position(|guest| guest.token == token) {
                    self.guests[at].sending = false;
                    match result {
                        Ok(()) => self.start_send(at),
                        Err(_) => self.part(token),
                    }
                }
            }
            Completion::Eof { token } | Completion::ReceiveFailed { token, .. } => self.part(token),
            Completion::Connected { .. }
            | Completion::ConnectFailed { .. }
            | Completion::Closed { .. }
            | Completion::Woken
            | Completion::AcceptPaused { .. }
            | Completion::HandedOver { .. } => {}
        }
    }

    fn part(&mut self, token: Token) {
        self.guests.retain(|guest| guest.token != token);
        self.driver.close(token);
    }

    fn start_send(&mut self, at: usize) {
        let guest = &mut self.guests[at];
        if !guest.sending && !guest.out.is_empty() {
            guest.sending = true;
            self.driver.send(guest.token, std::mem::take(&mut guest.out));
        }
    }

    /// Takes in what a node says. `None` if it is to be left alone from now on.
    fn hear(&mut self, at: usize, mut bytes: &[u8]) -> Option<()> {
        let guest = &mut self.guests[at];
        if let State::Preface(preface) = &mut guest.state {
            let (taken, rest) = bytes.split_at(bytes.len().min(PREFACE_BYTES - preface.len()));
            preface.extend_from_slice(taken);
            bytes = rest;
            let Ok(whole) = <[u8; PREFACE_BYTES]>::try_from(&preface[..]) else {
                return Some(());
            };
            let offered = Preface::decode(whole).ok()?.versions;
            spoken().common(offered).ok()?;
            guest.state = State::Hello;
        }
        let mut framer = std::mem::take(&mut guest.framer);
        let mut frames = framer.frames(bytes);
        while let Some(frame) = frames.next(|_| CONTROL_BODY_BYTES_MAX).ok()? {
            if let Some(frame) = NodeFrame::decode(VERSION_MIN, frame.ty, frame.body).ok()? {
                self.answer(at, &frame)?;
            }
        }
        drop(frames);
        self.guests[at].framer = framer;
        Some(())
    }

    fn answer(&mut self, at: usize, frame: &NodeFrame<'_>) -> Option<()> {
        let guest = &mut self.guests[at];
        match (&guest.state, frame) {
            (State::Hello, NodeFrame::LinkHello(hello)) => {
                let mut nonce = [0; 32];
                self.rng.fill(&mut nonce);
                let me = LinkEnd {
                    node: NodeId::NONE,
                    incarnation: Incarnation(0),
                    nonce,
                };
                let (acceptor, challenge) = Acceptor::hello(&self.keys, me, VERSION_MIN, hello).ok()?;
                challenge.encode(&mut guest.out);
                guest.state = State::Proof(acceptor);
            }
            (State::Proof(acceptor), NodeFrame::LinkProof(proof)) => {
                let peer = acceptor.proof(&self.keys, proof).ok()?;
                LinkReady { doubled: false }.encode(&mut guest.out);
                guest.state = State::Open(peer);
            }
            (State::Open(peer), NodeFrame::Join(join)) => {
                // Without an id, a node gets none here.
                let node = Some(peer.node).filter(|node| *node != NodeId::NONE)?;
                let joined = Joined {
                    node,
                    lease_ms: LEASE.as_millis() as u32,
                    lineage: join.map.lineage,
                };
                joined.encode(&mut guest.out);
                guest.held = join.map;
                self.offer(at);
            }
            (State::Open(_), NodeFrame::MapAck(_) | NodeFrame::MapNack(_) | NodeFrame::MapRequest(_)) => self.offer(at),
            (State::Open(_), NodeFrame::Renew(_)) => Renewed {}.encode(&mut guest.out),
            (State::Open(_), _) => {}
            (State::Preface(_) | State::Hello | State::Proof(_), _) => return None,
        }
        Some(())
    }

    fn offer(&mut self, at: usize) {
        let Some(left) = self.guests[at].offers.checked_sub(1) else {
            return;
        };
        self.guests[at].offers = left;
        let Offer {
            map,
            base,
            announced,
            bytes,
        } = self.bad(self.guests[at].held);
        let (begin, parts) = parts(map, base, &bytes);
        let begin = MapBegin {
            bytes: announced.unwrap_or(begin.bytes),
            ..begin
        };
        let out = &mut self.guests[at].out;
        begin.encode(out);
        parts.for_each(|part| part.encode(out));
    }

    /// A map that a node which has `held` may not take.
    fn bad(&mut self, held: MapId) -> Offer {
        let rng = &mut self.rng;
        let none = MapId::default();
        let made = |lineage: u64, version: u64| {
            let mut contents = self.good.contents();
            let region = contents.regions.values_mut().next().expect("a good map has one");
            region.name = format!("another {version}");
            Map::build(lineage, version, contents).expect("as good as the one that it was made from")
        };
        let whole = |map: &Map| Offer {
            map: map.id(),
            base: none,
            announced: None,
            bytes: map.encode(),
        };
        let lineage = self.good.id().lineage;
        let next = made(lineage, held.version.max(self.good.id().version) + 1);
        // What is wrong with the last three is wrong only beside what the node has.
        match rng.u32(..if held.version == 0 { 5 } else { 8 }) {
            // Blank.
            0 => Offer {
                map: MapId {
                    version: 0,
                    ..next.id()
                },
                ..whole(&next)
            },
            // Cut short.
            1 => {
                let mut offer = whole(&next);
                offer.bytes.truncate(rng.usize(1..offer.bytes.len()));
                offer
            }
            // One bit wrong.
            2 => {
                let mut offer = whole(&next);
                let at = rng.usize(..offer.bytes.len());
                offer.bytes[at] ^= 1 << rng.u32(..8);
                offer
            }
            // A whole map, and not the one that it is said to be.
            3 => {
                let mut map = next.id();
                rng.fill(&mut map.digest);
                Offer { map, ..whole(&next) }
            }
            // Larger than any map may be.
            4 => Offer {
                announced: Some(MAP_BYTES_MAX as u32 + 1),
                ..whole(&next)
            },
            // Older than what is in use.
            5 => whole(&made(lineage, rng.u64(1..=held.version.max(2) - 1))),
            // Another one of the same version.
            6 => whole(&made(lineage, held.version)),
            // Of another cluster.
            _ => whole(&made(lineage ^ 1, held.version + 1)),
        }
    }
}

/// What is said to be offered, and what comes.
struct Offer {
    map: MapId,
    base: MapId,
    /// How many bytes are announced, if not as many as come.
    announced: Option<u32>,
    bytes: Vec<u8>,
}

/// The lowest version: every node speaks it.
fn spoken() -> Versions {
    Versions::up_to(VERSION_MIN).expect("it is spoken")
}

const LISTENER: ListenerId = ListenerId(0);
