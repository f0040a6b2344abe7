//! The driver in virtual time.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Completion, Driver, ReceiveMode, Token};
use trunkline_net::sim::{Death, Descriptors, SimDriver, SimOptions, World, WorldOptions};
use trunkline_wire::time::Instant;

use crate::harness::{Bounds, DEVICE_BUFFER_BYTES, End, Harness, LINK_BUFFER_BYTES, Peer, Speed};
use crate::{cases, check, conformance};

pub struct Sim {
    world: World,
    /// Each peer has a host of its own, so that it can die alone.
    peers: Cell<u8>,
}

/// Where all drivers under test are.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Where nobody is.
const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 9, 9));

impl Harness for Sim {
    const NAME: &'static str = "sim";
    const SEEDS: std::ops::Range<u64> = 0..20;
    /// A tenth of what the others do: here only tables can leak.
    const CONNECTIONS: usize = 10_000;
    type Driver = SimDriver;
    type Peer = SimPeer;

    fn new(seed: u64) -> Sim {
        let options = WorldOptions {
            odd_one_in: 3,
            stream_bytes_max: 32 * 1024,
            ..WorldOptions::default()
        };
        Sim {
            world: World::new(seed, options),
            peers: Cell::new(0),
        }
    }

    fn driver(&self, bounds: Bounds) -> SimDriver {
        let options = SimOptions {
            sockets_max: bounds.sockets_max,
            sockets_reserved: bounds.sockets_reserved,
            device_buffers: bounds.device_buffers,
            device_buffer_bytes: DEVICE_BUFFER_BYTES,
            link_buffers: bounds.link_buffers,
            link_buffer_bytes: LINK_BUFFER_BYTES,
        };
        self.world.driver(HOST, options)
    }

    fn addresses(&self) -> Vec<IpAddr> {
        vec![HOST]
    }

    fn mute_address(&self) -> SocketAddr {
        SocketAddr::new(NOWHERE, 7400)
    }

    fn dial(&self, to: SocketAddr) -> SimPeer {
        self.peers.set(self.peers.get() + 1);
        let host = IpAddr::V4(Ipv4Addr::new(10, 0, 1, self.peers.get()));
        let mut driver = self.world.driver(host, SimOptions::default());
        let token = driver.connect(to).expect("an empty table has room");
        SimPeer {
            world: self.world.clone(),
            host,
            driver,
            token,
            outgoing: Vec::new(),
            idle: false,
            finishing: false,
            speed: Speed::Full,
            received: Vec::new(),
            end: None,
        }
    }

    fn until(&self, _driver: &SimDriver, _idle: bool) -> Option<Instant> {
        None
    }

    fn pass(&self, limit: Instant) -> bool {
        match self.world.next_event() {
            Some(at) if at <= limit => {
                self.world.advance(at);
                true
            }
            Some(_) | None => {
                self.world.advance(limit);
                false
            }
        }
    }

    fn looks(&self, _driver: &SimDriver) -> u64 {
        0
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(600)
    }
}

/// A driver with a single connection.
pub struct SimPeer {
    world: World,
    host: IpAddr,
    driver: SimDriver,
    token: Token,
    outgoing: Vec<u8>,
    /// Connected, and no send in flight.
    idle: bool,
    finishing: bool,
    speed: Speed,
    received: Vec<u8>,
    end: Option<End>,
}

impl Peer for SimPeer {
    fn turn(&mut self) -> bool {
        let mut completions = Vec::new();
        self.driver
            .wait(None, &mut completions)
            .expect("a simulated wait succeeds");
        let any = !completions.is_empty();
        for completion in completions {
            match completion {
                Completion::Connected { .. } => self.idle = true,
                Completion::Sent { .. } => self.idle = true,
                Completion::Received { buffer, .. } => {
                    self.received.extend_from_slice(self.driver.bytes(&buffer));
                    self.driver.give_back(buffer);
                }
                Completion::Eof { .. } => self.end = Some(End::Eof),
                Completion::ReceiveFailed { .. } | Completion::ConnectFailed { .. } => self.end = Some(End::Reset),
                other => panic!("{other:?}"),
            }
        }
        if self.idle && !self.outgoing.is_empty() {
            self.idle = false;
            self.driver.send(self.token, std::mem::take(&mut self.outgoing));
        }
        if self.idle && self.finishing && self.outgoing.is_empty() {
            self.finishing = false;
            self.driver.finish(self.token);
        }
        if self.speed == Speed::Full {
            self.driver.receive(self.token, ReceiveMode::Once, BufferGroup::Device);
        }
        any
    }

    fn send(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    fn read_at(&mut self, speed: Speed) {
        self.speed = speed;
    }

    fn received(&self) -> &[u8] {
        &self.received
    }

    fn drained(&self) -> bool {
        self.outgoing.is_empty() && self.idle
    }

    fn end(&self) -> Option<End> {
        self.end
    }

    fn finish(&mut self) {
        self.finishing = true;
    }

    fn reset(&mut self) {
        self.world.kill(self.host, Death::Visible);
    }
}

conformance!(Sim);

#[test]
fn without_descriptors_accepting_pauses_and_resumes_by_itself() {
    check::<Sim>(|rig| {
        let exhaust = |sim: &Sim| sim.world.set_descriptors(HOST, Descriptors::Exhausted);
        let replenish = |sim: &Sim| sim.world.set_descriptors(HOST, Descriptors::Plenty);
        cases::accepting::without_descriptors_accepting_pauses(rig, exhaust, replenish)
    });
}

#[test]
fn nothing_leaks_in_10_000_connections() {
    crate::outcome::<Sim>(cases::closing::connections_come_and_go, 1).unwrap();
}
