//! The state of a world: hosts, drivers, what is due when, and who has something to hear.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use trunkline_wire::time::Instant;

use super::connection::End;
use super::driver::SimSocket;
use super::letters::Letters;
use super::trace::Trace;
use super::{DriverId, Latency, SimOptions, WorldOptions};
use crate::driver::{Completion, ListenerId, Token};
use crate::ready::ReadyLists;
use crate::slots::Slots;

/// Names an end of a connection within its world.
pub(super) type EndId = Token;

#[derive(Debug)]
pub(super) struct Network {
    pub(super) options: WorldOptions,
    pub(super) rng: Rng,
    pub(super) now: Instant,
    pub(super) hosts: Vec<Host>,
    /// Their numbers.
    host_numbers: BTreeMap<IpAddr, HostNo>,
    pub(super) drivers: Vec<DriverState>,
    pub(super) ends: Slots<End>,
    pub(super) listeners: BTreeMap<SocketAddr, Vec<Listener>>,
    /// From, to: those that are not as [`WorldOptions`] says.
    pub(super) latencies: BTreeMap<(HostNo, HostNo), Latency>,
    /// From, to.
    pub(super) cuts: BTreeSet<(HostNo, HostNo)>,
    pub(super) trace: Trace,
    due: BinaryHeap<Reverse<Due>>,
    due_count: u64,
    ready: VecDeque<DriverId>,
    /// Drivers that were rung by a waker, from whatever thread.
    rung: Arc<Letters<DriverId>>,
    /// Ends in sockets that were dropped on their way between two drivers.
    pub(super) dropped: Arc<Letters<EndId>>,
    events: u64,
}

/// Names a host within its world, in the order in which they were first heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HostNo(u32);

/// Whether a host's kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Somebody may have connected there; it never was.
    Unknown,
    On,
    /// After a silent death.
    Off,
}

#[derive(Debug)]
pub(super) struct Host {
    pub(super) address: IpAddr,
    pub(super) power: Power,
    pub(super) paused_until: Instant,
    pub(super) descriptors: super::Descriptors,
    pub(super) port_next: u16,
    /// What the wall clock showed at `wall_since`, in microseconds since the Unix epoch.
    pub(super) wall_micros: i64,
    pub(super) wall_since: Instant,
    pub(super) drift_ppm: i64,
}

/// The network's side of a driver.
#[derive(Debug)]
pub(super) struct DriverState {
    pub(super) host: HostNo,
    /// False once its process was killed.
    pub(super) alive: bool,
    pub(super) options: SimOptions,
    /// The caller's tokens.
    pub(super) sockets: Slots<EndId>,
    /// What `wait` gives first.
    pub(super) queue: VecDeque<Completion<SimSocket>>,
    pub(super) readable: ReadyLists,
    /// Where it listens.
    pub(super) listens: Vec<SocketAddr>,
    /// Clients in the backlogs of its listeners.
    pub(super) clients: usize,
    /// In `Network::ready`.
    announced: bool,
}

#[derive(Debug)]
pub(super) struct Listener {
    pub(super) driver: DriverId,
    pub(super) id: ListenerId,
    pub(super) backlog: VecDeque<EndId>,
    pub(super) pause: Pause,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pause {
    No,
    /// Until a socket closes.
    TableFull,
    /// Until a socket closes, or an attempt at this time succeeds.
    Descriptors(Instant),
}

/// What happens by itself.
#[derive(Debug)]
pub(super) enum Event {
    /// The first packet of a connect, or its repetition, arrives.
    Syn { client: EndId },
    /// Its answer arrives.
    SynAnswer {
        client: EndId,
        result: Result<(), io::ErrorKind>,
    },
    /// The next piece for an end arrives.
    Arrival { to: EndId },
    /// Acknowledgements arrive at an end.
    Acknowledgement { to: EndId },
    /// What an end sent reaches one that is gone.
    Void { from: EndId },
    /// A reset arrives.
    Reset { from: HostNo, to: EndId },
    /// A send starts that was held back for a moment.
    Pump { from: EndId },
    /// A completion that takes its time.
    Complete {
        driver: DriverId,
        completion: Completion<SimSocket>,
    },
    /// Something that a driver waits for may be over.
    Announce { driver: DriverId },
}

#[derive(Debug)]
struct Due {
    at: Instant,
    /// Ties are broken by the order of scheduling.
    number: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl Network {
    pub(super) fn new(seed: u64, options: WorldOptions) -> Network {
        assert!(
            options.stream_bytes_max > 0 && options.piece_bytes_max > 0,
            "nothing would ever arrive"
        );
        Network {
            options,
            rng: Rng::with_seed(seed),
            now: Instant::ZERO,
            hosts: Vec::new(),
            host_numbers: BTreeMap::new(),
            drivers: Vec::new(),
            ends: Slots::new(u32::MAX),
            listeners: BTreeMap::new(),
            latencies: BTreeMap::new(),
            cuts: BTreeSet::new(),
            trace: Trace::new(),
            due: BinaryHeap::new(),
            due_count: 0,
            ready: VecDeque::new(),
            rung: Arc::default(),
            dropped: Arc::default(),
            events: 0,
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    pub(super) fn events(&self) -> u64 {
        self.events
    }

    pub(super) fn rung(&self) -> Arc<Letters<DriverId>> {
        self.rung.clone()
    }

    /// The number of an address, whether there is a host or not.
    pub(super) fn number(&mut self, address: IpAddr) -> HostNo {
        let (now, wall_ms) = (self.now, self.options.wall_ms);
        *self.host_numbers.entry(address).or_insert_with(|| {
            self.hosts.push(Host {
                address,
                power: Power::Unknown,
                paused_until: Instant::ZERO,
                descriptors: super::Descriptors::Plenty,
                port_next: PORT_FIRST,
                wall_micros: wall_ms as i64 * 1000 + now.micros() as i64,
                wall_since: now,
                drift_ppm: 0,
            });
            HostNo(self.hosts.len() as u32 - 1)
        })
    }

    /// The host with this address; made on first mention.
    pub(super) fn host_at(&mut self, address: IpAddr) -> &mut Host {
        let number = self.number(address);
        let host = self.host(number);
        if host.power == Power::Unknown {
            host.power = Power::On;
        }
        host
    }

    pub(super) fn host(&mut self, number: HostNo) -> &mut Host {
        &mut self.hosts[number.0 as usize]
    }

    /// Whether a host's kernel answers.
    pub(super) fn answers(&mut self, number: HostNo) -> bool {
        self.host(number).power == Power::On
    }

    pub(super) fn add_driver(&mut self, address: IpAddr, options: SimOptions) -> DriverId {
        self.host_at(address).power = Power::On;
        let host = self.number(address);
        let id = DriverId(self.drivers.len() as u32);
        self.drivers.push(DriverState {
            host,
            alive: true,
            sockets: Slots::new(options.sockets_max),
            options,
            queue: VecDeque::new(),
            readable: ReadyLists::default(),
            listens: Vec::new(),
            clients: 0,
            announced: false,
        });
        id
    }

    pub(super) fn state(&mut self, driver: DriverId) -> &mut DriverState {
        &mut self.drivers[driver.0 as usize]
    }

    pub(super) fn schedule(&mut self, at: Instant, event: Event) {
        self.due_count += 1;
        let number = self.due_count;
        self.due.push(Reverse(Due { at, number, event }));
    }

    pub(super) fn schedule_in(&mut self, span: Duration, event: Event) {
        self.schedule(self.now + span, event);
    }

    /// The driver has something to hear: it is named by the next `take_ready`.
    pub(super) fn announce(&mut self, driver: DriverId) {
        let state = &mut self.drivers[driver.0 as usize];
        if state.alive && !state.announced {
            state.announced = true;
            self.ready.push_back(driver);
        }
    }

    /// The driver's turn begins.
    pub(super) fn turn(&mut self, driver: DriverId) {
        self.settle();
        if std::mem::replace(&mut self.state(driver).announced, false) {
            self.ready.retain(|ready| *ready != driver);
        }
    }

    /// Gives `completion` to the caller with the driver's next `wait`.
    pub(super) fn complete(&mut self, driver: DriverId, completion: Completion<SimSocket>) {
        if self.state(driver).alive {
            self.state(driver).queue.push_back(completion);
            self.announce(driver);
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Instant> {
        if self.has_ready() {
            return Some(self.now);
        }
        self.due.peek().map(|Reverse(due)| due.at.max(self.now))
    }

    pub(super) fn advance(&mut self, to: Instant) {
        self.settle();
        while let Some(Reverse(due)) = self.due.peek() {
            if due.at > to {
                break;
            }
            let Some(Reverse(due)) = self.due.pop() else { break };
            self.now = self.now.max(due.at);
            self.events += 1;
            self.happen(due.event);
        }
        self.now = self.now.max(to);
    }

    /// Names the drivers that are ready. Those of a paused host are named when the pause is over.
    pub(super) fn take_ready(&mut self, into: &mut Vec<DriverId>) {
        self.settle();
        while let Some(driver) = self.ready.pop_front() {
            if self.state(driver).alive && !self.defer(driver) {
                self.state(driver).announced = false;
                into.push(driver);
            }
        }
    }

    pub(super) fn has_ready(&mut self) -> bool {
        self.settle();
        while let Some(driver) = self.ready.front().copied() {
            if self.state(driver).alive && !self.defer(driver) {
                return true;
            }
            self.ready.pop_front();
        }
        false
    }

    /// If the driver's host is paused: puts the driver off until that is over.
    pub(super) fn defer(&mut self, driver: DriverId) -> bool {
        let host = self.state(driver).host;
        let until = self.host(host).paused_until;
        if until <= self.now || !self.state(driver).alive {
            return false;
        }
        self.state(driver).announced = false;
        self.schedule(until, Event::Announce { driver });
        true
    }

    /// Takes in what happened outside of the world: wakers rung, sockets dropped.
    #[inline]
    fn settle(&mut self) {
        while let Some(driver) = self.rung.take() {
            self.announce(driver);
        }
        while let Some(end) = self.dropped.take() {
            drop(self.abandon(end));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Syn { client } => self.syn_arrives(client),
            Event::SynAnswer { client, result } => self.syn_answered(client, result),
            Event::Arrival { to } => self.piece_arrives(to),
            Event::Acknowledgement { to } => self.acknowledged(to),
            Event::Void { from } => self.void_answers(from),
            Event::Reset { from, to } => self.reset_arrives(from, to),
            Event::Pump { from } => self.pump(from),
            Event::Complete { driver, completion } => self.complete(driver, completion),
            Event::Announce { driver } => self.announce(driver),
        }
    }

    /// Whether what `from` sends is lost before `to`.
    pub(super) fn is_cut(&self, from: HostNo, to: HostNo) -> bool {
        !self.cuts.is_empty() && self.cuts.contains(&(from, to))
    }

    /// The latency unless a scenario says otherwise.
    pub(super) fn latency_usual(&self, from: HostNo, to: HostNo) -> Latency {
        if from == to {
            self.options.latency_loopback
        } else {
            self.options.latency
        }
    }

    /// Draws how long a piece takes.
    pub(super) fn travel(&mut self, from: HostNo, to: HostNo) -> Duration {
        let special = match self.latencies.is_empty() {
            true => None,
            false => self.latencies.get(&(from, to)).copied(),
        };
        let latency = special.unwrap_or_else(|| self.latency_usual(from, to));
        let mut span = latency.base + self.draw(latency.jitter);
        if self.one_in(self.options.stall_one_in) {
            span += self.draw(self.options.stall_max);
        }
        span
    }

    /// A time up to `max`.
    pub(super) fn draw(&mut self, max: Duration) -> Duration {
        Duration::from_micros(self.rng.u64(0..=max.as_micros() as u64))
    }

    pub(super) fn one_in(&mut self, number: u32) -> bool {
        number > 0 && self.rng.u32(0..number) == 0
    }

    /// Whether an operation goes the unusual way.
    pub(super) fn odd(&mut self) -> bool {
        self.one_in(self.options.odd_one_in)
    }
}

/// The first of the ports that a host gives out by itself: those that RFC 6335 calls dynamic.
pub(super) const PORT_FIRST: u16 = 49_152;
