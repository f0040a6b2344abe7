//! A network in virtual time, and the driver that lives in it.
//!
//! A [`World`] is a handful of hosts, the connections between them, and a clock that moves only when told to. Everything that a
//! real network leaves open is drawn from one seed: how a stream is cut into pieces, how long each takes, when a send completes,
//! which of several listeners gets a client. So a run is a function of its seed, [`World::trace_hash`] tells two runs apart, and
//! a failure found once is found again.
//!
//! What it models is what a caller of [`crate::driver::Driver`] can see of TCP: bytes in order, bounded buffers (a slow reader
//! holds up its sender), half-close, resets, refusal, retransmission with its time-out, a kernel that goes on while its process
//! is paused. Not modelled: bandwidth, slow start, packets.
//!
//! [`World::next_event`] and [`World::take_ready`] are for a scheduler of many nodes: give each driver in `take_ready` its turn until
//! there is none, then [`World::advance`] to the next event or to the earliest deadline of a node, whichever is first.

mod connection;
mod driver;
mod faults;
mod letters;
mod network;
mod pipe;
mod trace;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use trunkline_wire::time::Instant;

pub use self::driver::{SimAddress, SimDriver, SimSocket};
pub use self::faults::Direction;
use self::network::Network;

/// How long a piece takes from one host to another: `base` and up to `jitter` more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// At least this.
    pub base: Duration,
    /// At most this much more.
    pub jitter: Duration,
}

/// The nature of a [`World`].
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Between hosts, unless [`World::set_latency`] says otherwise.
    pub latency: Latency,
    /// From a host to itself.
    pub latency_loopback: Latency,
    /// Of this many pieces, one stalls, as after the loss of a packet. 0: none does.
    pub stall_one_in: u32,
    /// For at most so long.
    pub stall_max: Duration,
    /// Bytes between a sender and a receiver's caller: the buffers of both kernels and the wire.
    pub stream_bytes_max: usize,
    /// The largest piece.
    pub piece_bytes_max: usize,
    /// Of this many operations, one takes less than it could: a short read, a send that starts late, a late close. 0: none does.
    pub odd_one_in: u32,
    /// How long a sender retransmits before it gives up, and how long a connect tries.
    pub timeout: Duration,
    /// The longest time between two retransmissions, so also the longest from a healing until the traffic flows again.
    pub retransmit_max: Duration,
    /// Clients that a listener holds until they are accepted; further ones try again.
    pub backlog: usize,
    /// What the wall clock of every host says at the start, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

impl Default for WorldOptions {
    /// A data centre with a bad day: a quarter of a millisecond between hosts, a stall now and then, small buffers.
    fn default() -> WorldOptions {
        WorldOptions {
            latency: Latency {
                base: Duration::from_micros(250),
                jitter: Duration::from_micros(250),
            },
            latency_loopback: Latency {
                base: Duration::from_micros(15),
                jitter: Duration::from_micros(15),
            },
            stall_one_in: 256,
            stall_max: Duration::from_millis(40),
            stream_bytes_max: 64 * 1024,
            piece_bytes_max: 16 * 1024,
            odd_one_in: 8,
            timeout: Duration::from_secs(15),
            retransmit_max: Duration::from_secs(1),
            backlog: 1024,
            // Some day in 2027; any does.
            wall_ms: 1_800_000_000_000,
        }
    }
}

/// The bounds of a [`SimDriver`]; as those of a real one, only smaller, so that they are met.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// Sockets at once, listeners not counted.
    pub sockets_max: u32,
    /// Of these, how many are kept from being accepted, for connects and adoptions.
    pub sockets_reserved: u32,
    /// Receive buffers that all devices share.
    pub device_buffers: u32,
    /// Size of each.
    pub device_buffer_bytes: u32,
    /// Receive buffers that all links share.
    pub link_buffers: u32,
    /// Size of each.
    pub link_buffer_bytes: u32,
}

impl Default for SimOptions {
    fn default() -> SimOptions {
        SimOptions {
            sockets_max: 4096,
            sockets_reserved: 64,
            device_buffers: 64,
            device_buffer_bytes: 2048,
            link_buffers: 16,
            link_buffer_bytes: 16 * 1024,
        }
    }
}

/// Names a driver within its world, in the order of creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DriverId(pub u32);

/// A handle to a world; clones share it.
#[derive(Clone, Debug)]
pub struct World(Rc<RefCell<Network>>);

impl World {
    /// A world without hosts, at the origin of its time.
    pub fn new(seed: u64, options: WorldOptions) -> World {
        World(Rc::new(RefCell::new(Network::new(seed, options))))
    }

    /// A driver on `host`. Several on one host are as threads of one process: those that listen on one address share its clients.
    /// A host that was killed is up again with this.
    pub fn driver(&self, host: IpAddr, options: SimOptions) -> SimDriver {
        SimDriver::new(self.0.clone(), host, options)
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.0.borrow().now()
    }

    /// Before this time nothing happens by itself; `None` if nothing ever will. A driver may have nothing to say of what happens
    /// then (a piece may arrive that nobody wants yet). The present, if a driver is ready.
    pub fn next_event(&self) -> Option<Instant> {
        self.0.borrow_mut().next_event()
    }

    /// Lets everything happen that is due up to and including `to`, in order. A time in the past is the present.
    pub fn advance(&self, to: Instant) {
        self.0.borrow_mut().advance(to);
    }

    /// Appends the drivers that have completions to give or were woken since the last call, each once, in a reproducible order.
    /// A `wait` of each is due.
    pub fn take_ready(&self, into: &mut Vec<DriverId>) {
        self.0.borrow_mut().take_ready(into);
    }

    /// Whether [`World::take_ready`] would name a driver.
    pub fn has_ready(&self) -> bool {
        self.0.borrow_mut().has_ready()
    }

    /// A fold over every completion that was delivered, with its time, its driver and its bytes.
    pub fn trace_hash(&self) -> u64 {
        self.0.borrow().trace_hash()
    }

    /// Events handled so far: for measuring the simulator.
    pub fn events(&self) -> u64 {
        self.0.borrow().events()
    }

    /// Sets the latency of what `from` sends to `to` from now on.
    pub fn set_latency(&self, from: IpAddr, to: IpAddr, latency: Latency) {
        self.0.borrow_mut().set_latency(from, to, latency);
    }

    /// Loses everything between two hosts that goes in `direction`. Connections stay: what is sent is retransmitted and arrives
    /// after a healing, unless the sender gives up first ([`WorldOptions::timeout`]). It gives up too if only the
    /// acknowledgements are lost. Connects get no answer.
    pub fn cut(&self, a: IpAddr, b: IpAddr, direction: Direction) {
        self.0.borrow_mut().cut(a, b, direction);
    }

    /// Ends every cut between two hosts.
    pub fn heal(&self, a: IpAddr, b: IpAddr) {
        self.0.borrow_mut().heal(a, b);
    }

    /// Ends every cut.
    pub fn heal_all(&self) {
        self.0.borrow_mut().heal_all();
    }

    /// Resets all connections of `host`, at both ends, as a middlebox that lost its table would.
    pub fn reset_connections(&self, host: IpAddr) {
        self.0.borrow_mut().reset_connections(host);
    }

    /// The process on `host` is gone, its drivers do nothing any more and its peers' connections are reset. With
    /// [`Death::Silent`] the host is gone: its peers learn it when they send, by time-out.
    pub fn kill(&self, host: IpAddr, death: Death) {
        self.0.borrow_mut().kill(host, death);
    }

    /// Stops the process on `host`: its drivers get no completions before `until`. Its kernel goes on: it accepts into the
    /// backlog, acknowledges, and buffers.
    pub fn pause(&self, host: IpAddr, until: Instant) {
        self.0.borrow_mut().pause(host, until);
    }

    /// Whether `host` is paused now.
    pub fn is_paused(&self, host: IpAddr) -> bool {
        self.0.borrow_mut().is_paused(host)
    }

    /// Whether the host of a driver is.
    pub fn is_driver_paused(&self, driver: DriverId) -> bool {
        self.0.borrow_mut().is_driver_paused(driver)
    }

    /// Sets the wall clock of `host` forward, or back, by `ms`.
    pub fn jump_wall(&self, host: IpAddr, ms: i64) {
        self.0.borrow_mut().jump_wall(host, ms);
    }

    /// Makes the wall clock of `host` go fast, or slow, by `ppm` microseconds a second from now on.
    pub fn drift_wall(&self, host: IpAddr, ppm: i64) {
        self.0.borrow_mut().drift_wall(host, ppm);
    }

    /// Whether processes on `host` get further descriptors: if not, accepting and connecting fail with EMFILE.
    pub fn set_descriptors(&self, host: IpAddr, descriptors: Descriptors) {
        self.0.borrow_mut().set_descriptors(host, descriptors);
    }
}

/// How a host goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// Its process was killed; its kernel says so.
    Visible,
    /// Its power went, or its cable.
    Silent,
}

/// A host's supply of descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// As many as anyone wants.
    Plenty,
    /// Not one more.
    Exhausted,
}
