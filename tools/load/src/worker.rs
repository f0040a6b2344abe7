//! One thread of the load: its connections, who send among themselves.
//!
//! ```text
//! connect ──all welcomed, everywhere──▶ load ──the interval is over──▶ drain ──all came, or nothing more comes──▶ done
//! ```
//! A turn takes all that one look at readiness brings, then lets those send who may, then writes once a connection: a generator
//! that batches less would make a server look slower than it is.

use std::io::ErrorKind;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use fastrand::Rng;
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};

use crate::connection::{BUFFER_BYTES, Connection};
use crate::error::Error;
use crate::ledger::{Arrival, Faults, Ledger, Peers};
use crate::pace::Pace;
use crate::plan::{Plan, Work};
use crate::protocol::{Heard, Message, Protocol};
use crate::shared::{Counts, Shared};
use crate::stamp::Stamp;
use crate::target::Target;

/// What one worker found.
#[derive(Debug)]
pub struct Tally {
    /// Nanoseconds, of what was measured.
    pub latency: Histogram<u64>,
    /// Over the whole run, warm-up included.
    pub faults: Faults,
    /// Confirmed messages that were reported, but not as delivered.
    pub refused: u64,
}

/// A worker's part of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its number among the workers.
    pub worker: usize,
    /// The first of its connections, and how many it has.
    pub first: usize,
    /// See there.
    pub connections: usize,
    /// Messages a second, of an open loop.
    pub rate: f64,
}

/// See the module's text.
pub struct Worker<'a, P> {
    protocol: &'a P,
    plan: &'a Plan,
    shared: &'a Shared,
    target: &'a Target,
    part: Part,
    poll: Poll,
    peers: Vec<Peer>,
    state: State,
}

/// One connection, and what it has under way.
struct Peer {
    connection: Connection,
    welcomed: bool,
    outstanding: u32,
    /// In the list of those to look at when the turn ends.
    listed: bool,
    /// Confirmed messages without a report.
    unresolved: Vec<Unresolved>,
}

struct Unresolved {
    to: u32,
    number: u32,
    at_ns: u64,
}

/// All but the connections, so that both can be borrowed at once.
struct State {
    pairs: Peers,
    ledger: Ledger,
    random: Rng,
    payload: Vec<u8>,
    buffer: Vec<u8>,
    /// Connections that have credit to use or bytes to write.
    listed: Vec<u32>,
    /// Of which message the credit is to be given back: by sender.
    credits: Vec<u32>,
    counts: Counts,
    latency: Histogram<u64>,
    refused: u64,
    /// Over all connections.
    outstanding: u64,
    interval: (u64, u64),
    confirmed: bool,
    open: bool,
}

impl<'a, P: Protocol> Worker<'a, P> {
    /// A worker without connections yet.
    ///
    /// # Errors
    /// What the system said.
    pub fn new(
        protocol: &'a P,
        plan: &'a Plan,
        shared: &'a Shared,
        target: &'a Target,
        part: Part,
    ) -> Result<Worker<'a, P>, Error> {
        let count = match plan.work {
            Work::Idle | Work::Connects => 1,
            Work::Closed { .. } | Work::Open { .. } => part.connections as u32,
        };
        let pairs = match plan.across {
            true => Peers::across(count, target.servers() as u32),
            false => Peers::new(count),
        };
        let state = State {
            pairs,
            ledger: Ledger::new(pairs),
            random: Rng::with_seed(plan.seed.wrapping_add(part.worker as u64)),
            payload: vec![b'.'; plan.payload_bytes],
            buffer: vec![0; BUFFER_BYTES],
            listed: Vec::new(),
            credits: Vec::new(),
            counts: Counts::default(),
            latency: histogram(),
            refused: 0,
            outstanding: 0,
            interval: (u64::MAX, u64::MAX),
            confirmed: plan.confirmed,
            open: matches!(plan.work, Work::Open { .. }),
        };
        Ok(Worker {
            protocol,
            plan,
            shared,
            target,
            part,
            poll: Poll::new().map_err(Error::system("epoll"))?,
            peers: Vec::with_capacity(part.connections),
            state,
        })
    }

    /// Runs to its end.
    ///
    /// # Errors
    /// The target refused, or ended a connection.
    pub fn run(mut self) -> Result<Tally, Error> {
        let mut events = Events::with_capacity(EVENTS);
        self.connect(&mut events)?;
        while self.state.interval.1 == u64::MAX {
            self.turn(&mut events, Some(WAIT))?;
            if self.shared.is_failed() {
                return Ok(self.tally());
            }
            self.state.interval = self.shared.interval().unwrap_or(self.state.interval);
        }
        let mut pace = match self.plan.work {
            Work::Open { spacing, .. } => {
                let now_ns = self.shared.now_ns();
                Some(Pace::new(self.part.rate, spacing, now_ns, &mut self.state.random))
            }
            Work::Closed { .. } => {
                self.list_all();
                None
            }
            Work::Idle | Work::Connects => None,
        };
        self.load(&mut events, pace.as_mut())?;
        self.drain(&mut events)?;
        Ok(self.tally())
    }

    fn tally(self) -> Tally {
        Tally {
            latency: self.state.latency,
            faults: self.state.ledger.faults(),
            refused: self.state.refused,
        }
    }

    fn connect(&mut self, events: &mut Events) -> Result<(), Error> {
        let mut welcomed = 0;
        while welcomed < self.part.connections {
            // No more greetings under way than any server's backlog holds.
            while self.peers.len() < self.part.connections && self.peers.len() - welcomed < GREETINGS {
                let index = self.peers.len();
                let number = self.part.first + index;
                let address = self.target.address_of(number);
                let mut connection = Connection::open(address, number, &self.poll, Token(index))?;
                self.protocol
                    .greet((self.part.first + index) as u32, &mut connection.out);
                self.peers.push(Peer {
                    connection,
                    welcomed: false,
                    outstanding: 0,
                    listed: true,
                    unresolved: Vec::new(),
                });
                self.state.listed.push(index as u32);
            }
            self.turn(events, Some(WAIT))?;
            let now_welcomed = self.state.counts.delivered as usize;
            self.shared.welcomed.fetch_add(now_welcomed - welcomed, Relaxed);
            welcomed = now_welcomed;
            if self.shared.is_failed() {
                return Ok(());
            }
        }
        self.state.counts = Counts::default();
        Ok(())
    }

    fn list_all(&mut self) {
        for (index, peer) in self.peers.iter_mut().enumerate() {
            list(&mut self.state.listed, peer, index as u32);
        }
    }

    fn load(&mut self, events: &mut Events, mut pace: Option<&mut Pace>) -> Result<(), Error> {
        loop {
            let now_ns = self.shared.now_ns();
            self.state.interval = self.shared.interval().unwrap_or(self.state.interval);
            if now_ns >= self.state.interval.1 || self.shared.is_failed() {
                return Ok(());
            }
            let mut wait = WAIT;
            if let Some(pace) = pace.as_deref_mut() {
                self.send_due(pace, now_ns);
                // A look at readiness waits whole milliseconds: what is due sooner is waited for by looking again.
                let due = Duration::from_nanos(pace.next_ns().saturating_sub(now_ns));
                wait = if due < SPIN {
                    Duration::ZERO
                } else {
                    (due - SPIN).min(WAIT)
                };
            } else {
                self.fill();
            }
            self.flush()?;
            self.turn(events, Some(wait))?;
        }
    }

    /// Waits for what is under way, as long as something still comes.
    fn drain(&mut self, events: &mut Events) -> Result<(), Error> {
        let until = self.shared.now_ns() + DRAIN_MAX.as_nanos() as u64;
        let mut last = (0, self.shared.now_ns());
        while self.state.outstanding > 0 && !self.shared.is_failed() {
            self.flush()?;
            self.turn(events, Some(WAIT))?;
            let now_ns = self.shared.now_ns();
            if self.state.counts.frames_in != last.0 {
                last = (self.state.counts.frames_in, now_ns);
            }
            if now_ns > until || now_ns - last.1 > DRAIN_SILENCE.as_nanos() as u64 {
                break;
            }
        }
        Ok(())
    }

    /// Takes what came, gives back credit, and writes answers.
    fn turn(&mut self, events: &mut Events, wait: Option<Duration>) -> Result<(), Error> {
        // Bytes that could leave must not wait for what comes.
        if !self.state.listed.is_empty() && self.state.interval.1 == u64::MAX {
            self.flush()?;
        }
        match self.poll.poll(events, wait) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result.map_err(Error::system("epoll"))?,
        }
        for event in &*events {
            let index = event.token().0;
            let peer = &mut self.peers[index];
            if event.is_writable() {
                peer.connection.writable();
                list(&mut self.state.listed, peer, index as u32);
            }
            if event.is_readable() {
                self.read(index)?;
            }
        }
        let mut credits = std::mem::take(&mut self.state.credits);
        for sender in credits.drain(..) {
            let peer = &mut self.peers[sender as usize];
            // What came twice, or late after it was taken for lost, gives nothing back.
            if peer.outstanding > 0 {
                peer.outstanding -= 1;
                self.state.outstanding -= 1;
                list(&mut self.state.listed, peer, sender);
            }
        }
        // Its memory serves the next turn.
        self.state.credits = credits;
        self.shared.counters(self.part.worker).publish(&self.state.counts);
        Ok(())
    }

    fn read(&mut self, index: usize) -> Result<(), Error> {
        let peer = &mut self.peers[index];
        let state = &mut self.state;
        let mut buffer = std::mem::take(&mut state.buffer);
        let now_ns = self.shared.now_ns();
        let (protocol, first) = (self.protocol, self.part.first as u32);
        let (welcomed, unresolved) = (&mut peer.welcomed, &mut peer.unresolved);
        let result = peer.connection.read(&mut buffer, &mut |input, reply| {
            let (mut used, mut replied) = (0, reply.len());
            while let Some((length, heard)) = protocol.hear(&input[used..], reply)? {
                used += length;
                state.counts.frames_in += 1;
                state.counts.frames_out += u64::from(reply.len() > replied);
                replied = reply.len();
                match heard {
                    Heard::Welcome if !*welcomed => {
                        *welcomed = true;
                        state.counts.delivered += 1;
                    }
                    Heard::Welcome | Heard::Nothing => {}
                    Heard::Delivery { payload, number } => state.arrived(now_ns, first, index as u32, payload, number),
                    Heard::Report { to, number, delivered } => {
                        state.reported(
                            now_ns,
                            unresolved,
                            index as u32,
                            (to.wrapping_sub(first), number),
                            delivered,
                        );
                    }
                }
            }
            Ok(used)
        });
        state.buffer = buffer;
        match result {
            Ok(reading) => {
                state.counts.receives += reading.receives;
                if peer.connection.waiting() > 0 {
                    list(&mut state.listed, peer, index as u32);
                }
                Ok(())
            }
            Err(why) => Err(Error::Closed {
                address: self.target.address,
                why,
            }),
        }
    }

    /// Closed loop: everybody with credit uses it.
    fn fill(&mut self) {
        let Work::Closed { outstanding } = self.plan.work else {
            return;
        };
        let now_ns = self.shared.now_ns();
        for place in 0..self.state.listed.len() {
            let from = self.state.listed[place];
            while self.peers[from as usize].outstanding < outstanding {
                self.send(from, now_ns);
            }
        }
    }

    /// Open loop: what is due is sent, each message stamped with the time at which it was due.
    fn send_due(&mut self, pace: &mut Pace, now_ns: u64) {
        while pace.next_ns() <= now_ns {
            let from = self.state.random.usize(..self.peers.len());
            let peer = &self.peers[from];
            if peer.connection.waiting() > WAITING_BYTES_MAX || peer.unresolved.len() >= UNRESOLVED_MAX {
                // The target is behind. What is due stays due, and its latency grows.
                return;
            }
            self.send(from as u32, pace.next_ns());
            pace.advance(&mut self.state.random);
        }
    }

    fn send(&mut self, from: u32, at_ns: u64) {
        let state = &mut self.state;
        let peer = &mut self.peers[from as usize];
        let to = state.pairs.pick(from, &mut state.random);
        let number = state.ledger.send(from, to);
        let first = self.part.first as u32;
        let stamp = Stamp {
            from: first + from,
            number,
            at_ns,
        };
        stamp.write(&mut state.payload);
        let lowest = self.plan.confirmed.then(|| {
            let to_same = peer.unresolved.iter().filter(|u| u.to == to).map(|u| u.number);
            to_same.min().unwrap_or(number)
        });
        if lowest.is_some() {
            peer.unresolved.push(Unresolved { to, number, at_ns });
        }
        let message = Message {
            from: first + from,
            to: first + to,
            number,
            lowest,
            payload: &state.payload,
        };
        self.protocol.send(&message, &mut peer.connection.out);
        peer.outstanding += 1;
        state.outstanding += 1;
        state.counts.sent += 1;
        state.counts.frames_out += 1;
        list(&mut state.listed, peer, from);
    }

    fn flush(&mut self) -> Result<(), Error> {
        while let Some(index) = self.state.listed.pop() {
            let peer = &mut self.peers[index as usize];
            peer.listed = false;
            let sends = peer.connection.flush().map_err(|error| Error::Closed {
                address: self.target.address,
                why: error.to_string(),
            })?;
            self.state.counts.sends += sends;
        }
        Ok(())
    }
}

impl State {
    fn arrived(&mut self, now_ns: u64, first: u32, to: u32, payload: &[u8], number: Option<u32>) {
        let stamp = Stamp::read(payload).filter(|stamp| number.is_none_or(|number| number == stamp.number));
        let Some(stamp) = stamp else {
            // A payload that is none of ours is as much of a stray as one from nobody.
            self.ledger.arrive(u32::MAX, to, 0);
            return;
        };
        let from = stamp.from.wrapping_sub(first);
        let credits = match self.ledger.arrive(from, to, stamp.number) {
            Arrival::InOrder => 1,
            Arrival::After { missing } => 1 + missing,
            // It was given back when this was taken for lost.
            Arrival::Late => 0,
            Arrival::Again | Arrival::Stray => return,
        };
        self.counts.delivered += 1;
        // A confirmed message is over with its report.
        if !self.confirmed {
            self.credits.extend((0..credits).map(|_| from));
            self.record(now_ns, stamp.at_ns);
        }
    }

    fn reported(
        &mut self,
        now_ns: u64,
        unresolved: &mut Vec<Unresolved>,
        me: u32,
        (to, number): (u32, u32),
        delivered: bool,
    ) {
        let Some(place) = unresolved.iter().position(|u| u.to == to && u.number == number) else {
            return;
        };
        let resolved = unresolved.swap_remove(place);
        self.credits.push(me);
        if delivered {
            self.record(now_ns, resolved.at_ns);
        } else {
            self.refused += 1;
        }
    }
}

impl State {
    /// An open loop measures what was meant to be sent while it measured; otherwise what came then is measured.
    fn record(&mut self, now_ns: u64, at_ns: u64) {
        let (from, to) = self.interval;
        let when = if self.open { at_ns } else { now_ns };
        if (from..to).contains(&when) {
            self.latency.saturating_record(now_ns.saturating_sub(at_ns));
        }
    }
}

fn list(listed: &mut Vec<u32>, peer: &mut Peer, index: u32) {
    if !std::mem::replace(&mut peer.listed, true) {
        listed.push(index);
    }
}

/// Nanoseconds, to three digits, up to a minute.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("fixed bounds")
}

/// What one look at readiness brings at most.
const EVENTS: usize = 4096;
/// The longest that a worker looks for nothing but readiness.
const WAIT: Duration = Duration::from_millis(5);
/// What is due sooner than this is waited for by looking again and again.
const SPIN: Duration = Duration::from_millis(2);
/// Greetings under way at a time.
const GREETINGS: usize = 256;
/// A connection of an open loop that has so much to write gets no more.
const WAITING_BYTES_MAX: usize = 1 << 20;
/// Nor one with so many unresolved messages: a server rejects more.
const UNRESOLVED_MAX: usize = 1024;
/// What is under way when the interval is over may take so long.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// And nothing more is expected after such a silence.
const DRAIN_SILENCE: Duration = Duration::from_secs(1);
