//! The ends of simulated connections: what a kernel's TCP would do between its callers.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use trunkline_wire::time::Instant;

use super::network::{EndId, Event, HostNo, Listener, Network, Pause};
use super::pipe::Pipe;
use super::{Death, Descriptors, DriverId};
use crate::driver::{BufferGroup, Completion, ListenerId, ReceiveMode, Token};

/// One end of a connection. Gone from the network when it is closed, whatever of its last bytes is still under way.
#[derive(Debug)]
pub(super) struct End {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// The hosts of both.
    pub(super) here: HostNo,
    pub(super) there: HostNo,
    /// Who holds it; nobody while it waits in a backlog or is on its way between drivers.
    pub(super) owner: Option<(DriverId, Token)>,
    pub(super) phase: Phase,
    pub(super) receive: Receive,
    /// From `send` until `Sent` is delivered.
    pub(super) sending: bool,
    /// What of a send the stream hasn't taken yet.
    pub(super) outgoing: Option<Outgoing>,
    /// Why nothing can be sent or will be received any more.
    pub(super) broken: Option<ErrorKind>,
    pub(super) inbound: Pipe,
    /// A FIN was sent.
    finished: bool,
    /// The other end; may be gone.
    peer: Option<EndId>,
    arrival_scheduled: bool,
    /// Since when the next piece is being retransmitted, in vain so far.
    stuck_since: Option<Instant>,
    acknowledgement_scheduled: bool,
    /// Since when acknowledgements of what this end sent are missing.
    unacknowledged_since: Option<Instant>,
    /// What was sent to a peer that is gone.
    void_bytes: usize,
    void_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Phase {
    Connecting {
        deadline: Instant,
    },
    Open,
    /// The connect failed.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Receive {
    Idle,
    Armed(ReceiveMode, BufferGroup),
    Ended,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

impl End {
    fn new((local, here): (SocketAddr, HostNo), (remote, there): (SocketAddr, HostNo), phase: Phase) -> End {
        End {
            local,
            remote,
            here,
            there,
            owner: None,
            phase,
            receive: Receive::Idle,
            sending: false,
            outgoing: None,
            broken: None,
            inbound: Pipe::default(),
            finished: false,
            peer: None,
            arrival_scheduled: false,
            stuck_since: None,
            acknowledgement_scheduled: false,
            unacknowledged_since: None,
            void_bytes: 0,
            void_since: None,
        }
    }

    /// The group to read for, if there is something to tell and somebody wants it.
    pub(super) fn wants_read(&self) -> Option<BufferGroup> {
        match self.receive {
            Receive::Armed(_, group) if self.inbound.arrived() > 0 || self.inbound.ended() || self.broken.is_some() => {
                Some(group)
            }
            Receive::Armed(..) | Receive::Idle | Receive::Ended => None,
        }
    }
}

impl Network {
    pub(super) fn listen(
        &mut self,
        driver: DriverId,
        mut address: SocketAddr,
        id: ListenerId,
    ) -> io::Result<SocketAddr> {
        let host = self.state(driver).host;
        if !self.state(driver).alive {
            return Err(ErrorKind::NotConnected.into());
        }
        let own = self.host(host).address;
        if address.ip().is_unspecified() {
            address.set_ip(own);
        }
        if address.ip() != own {
            return Err(ErrorKind::AddrNotAvailable.into());
        }
        if address.port() == 0 {
            address.set_port(self.next_port(host));
        }
        self.state(driver).listens.push(address);
        self.listeners.entry(address).or_default().push(Listener {
            driver,
            id,
            backlog: VecDeque::new(),
            pause: Pause::No,
        });
        Ok(address)
    }

    /// Closes listeners; those who wait in their backlogs are refused as a kernel refuses them.
    pub(super) fn unlisten_where(&mut self, is_meant: impl Fn(&Listener) -> bool, death: Death) {
        let mut refused = Vec::new();
        for (address, listeners) in &mut self.listeners {
            listeners.retain_mut(|listener| {
                let meant = is_meant(listener);
                if meant {
                    let driver = &mut self.drivers[listener.driver.0 as usize];
                    driver.clients -= listener.backlog.len();
                    driver.listens.retain(|listens| listens != address);
                    refused.extend(listener.backlog.drain(..));
                }
                !meant
            });
        }
        self.listeners.retain(|_, listeners| !listeners.is_empty());
        for end in refused {
            self.vanish(end, death);
        }
    }

    pub(super) fn connect(&mut self, driver: DriverId, remote: SocketAddr) -> io::Result<Token> {
        let host = self.state(driver).host;
        if !self.state(driver).alive {
            return Err(ErrorKind::NotConnected.into());
        }
        if self.state(driver).sockets.room() == 0 {
            return Err(io::Error::other("the table of sockets is full"));
        }
        if self.host(host).descriptors == Descriptors::Exhausted {
            return Err(out_of_descriptors());
        }
        let local = SocketAddr::new(self.host(host).address, self.next_port(host));
        let there = self.number(remote.ip());
        let deadline = self.now + self.options.timeout;
        let client = self.add_end(End::new((local, host), (remote, there), Phase::Connecting { deadline }));
        let span = self.travel(host, there);
        self.schedule_in(span, Event::Syn { client });
        Ok(self.give(driver, client).expect("room was checked"))
    }

    fn next_port(&mut self, host: HostNo) -> u16 {
        let port = &mut self.host(host).port_next;
        let taken = *port;
        *port = port.checked_add(1).unwrap_or(super::network::PORT_FIRST);
        taken
    }

    fn add_end(&mut self, end: End) -> EndId {
        self.ends.insert(end).expect("a world has room for 2^32 ends")
    }

    /// Gives the end to a driver, if it has room.
    pub(super) fn give(&mut self, driver: DriverId, id: EndId) -> Option<Token> {
        let token = self.state(driver).sockets.insert(id).ok()?;
        if let Some(end) = self.ends.get_mut(id) {
            end.owner = Some((driver, token));
        }
        Some(token)
    }

    pub(super) fn syn_arrives(&mut self, client: EndId) {
        let Some(end) = self.ends.get_mut(client) else { return };
        let Phase::Connecting { deadline } = end.phase else {
            return;
        };
        let (local, remote) = ((end.local, end.here), (end.remote, end.there));
        if deadline <= self.now {
            return self.syn_answered(client, Err(ErrorKind::TimedOut));
        }
        let (here, there) = (local.1, remote.1);
        if !self.answers(there) || self.is_cut(here, there) || self.is_cut(there, here) {
            return self.schedule(deadline.min(self.now + SYN_AGAIN), Event::Syn { client });
        }
        let span = self.travel(there, here);
        let Some(listeners) = self.listeners.get_mut(&remote.0) else {
            let result = Err(ErrorKind::ConnectionRefused);
            return self.schedule_in(span, Event::SynAnswer { client, result });
        };
        let chosen = self.rng.usize(0..listeners.len());
        let listener = &mut listeners[chosen];
        if listener.backlog.len() >= self.options.backlog {
            return self.schedule(deadline.min(self.now + SYN_AGAIN), Event::Syn { client });
        }
        let mut server = End::new(remote, local, Phase::Open);
        server.peer = Some(client);
        let server = self.ends.insert(server).expect("a world has room for 2^32 ends");
        listener.backlog.push_back(server);
        let driver = listener.driver;
        self.state(driver).clients += 1;
        if let Some(end) = self.ends.get_mut(client) {
            end.peer = Some(server);
        }
        self.announce(driver);
        self.schedule_in(span, Event::SynAnswer { client, result: Ok(()) });
    }

    pub(super) fn syn_answered(&mut self, client: EndId, result: Result<(), ErrorKind>) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(client) else { return };
        let Phase::Connecting { deadline } = end.phase else {
            return;
        };
        let (from, to) = (end.there, end.here);
        let result = if deadline <= now {
            Err(ErrorKind::TimedOut)
        } else {
            result
        };
        let timed_out = result == Err(ErrorKind::TimedOut);
        if !timed_out && self.is_cut(from, to) {
            return self.schedule(deadline.min(now + SYN_AGAIN), Event::SynAnswer { client, result });
        }
        let Some(end) = self.ends.get_mut(client) else { return };
        end.phase = if result.is_ok() { Phase::Open } else { Phase::Failed };
        let Some((driver, token)) = end.owner else { return };
        self.complete(
            driver,
            match result {
                Ok(()) => Completion::Connected { token },
                Err(kind) => Completion::ConnectFailed {
                    token,
                    error: kind.into(),
                },
            },
        );
    }

    /// Moves as much of a send into the stream as it has room for.
    pub(super) fn pump(&mut self, from: EndId) {
        let Some(end) = self.ends.get_mut(from) else { return };
        let Some(mut outgoing) = end.outgoing.take() else {
            return;
        };
        let (local, remote, peer) = (end.here, end.there, end.peer);
        let room_max = self.options.stream_bytes_max;
        match peer.filter(|peer| self.ends.get_mut(*peer).is_some_and(|peer| peer.broken.is_none())) {
            None => self.pump_into_void(from, &mut outgoing),
            Some(peer) => {
                while outgoing.sent < outgoing.bytes.len() {
                    let held = self.ends.get_mut(peer).map_or(0, |peer| peer.inbound.held());
                    let rest = &outgoing.bytes[outgoing.sent..];
                    let mut length = rest
                        .len()
                        .min(room_max.saturating_sub(held))
                        .min(self.options.piece_bytes_max);
                    if length == 0 {
                        break;
                    }
                    if self.odd() {
                        length = self.rng.usize(1..=length);
                    }
                    let at = self.now + self.travel(local, remote);
                    if let Some(peer) = self.ends.get_mut(peer) {
                        peer.inbound.put(&rest[..length], at);
                    }
                    outgoing.sent += length;
                }
                self.schedule_arrival(peer);
            }
        }
        let Some(end) = self.ends.get_mut(from) else { return };
        if outgoing.sent < outgoing.bytes.len() {
            end.outgoing = Some(outgoing);
        } else if let Some((driver, token)) = end.owner {
            let (bytes, result) = (outgoing.bytes, Ok(()));
            self.complete(driver, Completion::Sent { token, bytes, result });
        }
    }

    /// The peer is gone, which the sender's kernel doesn't know yet: it takes what its buffers hold.
    fn pump_into_void(&mut self, from: EndId, outgoing: &mut Outgoing) {
        let room_max = self.options.stream_bytes_max;
        let Some(end) = self.ends.get_mut(from) else { return };
        let taken = (outgoing.bytes.len() - outgoing.sent).min(room_max.saturating_sub(end.void_bytes));
        end.void_bytes += taken;
        outgoing.sent += taken;
        let (local, remote) = (end.here, end.there);
        if end.void_since.is_none() {
            end.void_since = Some(self.now);
            let span = self.travel(local, remote) + self.travel(remote, local);
            self.schedule_in(span, Event::Void { from });
        }
    }

    pub(super) fn void_answers(&mut self, from: EndId) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(from) else { return };
        let (local, remote) = (end.here, end.there);
        let since = end.void_since.unwrap_or(now);
        if self.answers(remote) && !self.is_cut(local, remote) && !self.is_cut(remote, local) {
            self.break_end(from, ErrorKind::ConnectionReset);
        } else if now.since(since) >= self.options.timeout {
            self.break_end(from, ErrorKind::TimedOut);
        } else {
            let span = self.retransmit_after(since);
            self.schedule_in(span, Event::Void { from });
        }
    }

    /// The time between retransmissions doubles from the minimum, up to the maximum.
    fn retransmit_after(&self, since: Instant) -> Duration {
        let max = self.options.retransmit_max;
        self.now.since(since).clamp(RETRANSMIT_MIN.min(max), max)
    }

    fn schedule_arrival(&mut self, to: EndId) {
        let Some(end) = self.ends.get_mut(to) else { return };
        if end.arrival_scheduled {
            return;
        }
        if let Some(at) = end.inbound.next_at() {
            end.arrival_scheduled = true;
            self.schedule(at.max(self.now), Event::Arrival { to });
        }
    }

    pub(super) fn piece_arrives(&mut self, to: EndId) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(to) else { return };
        end.arrival_scheduled = false;
        let (local, remote, peer) = (end.here, end.there, end.peer);
        if self.is_cut(remote, local) {
            let Some(end) = self.ends.get_mut(to) else { return };
            let since = *end.stuck_since.get_or_insert(now);
            if now.since(since) >= self.options.timeout {
                end.inbound.cut_off();
                if let Some(peer) = peer {
                    self.break_end(peer, ErrorKind::TimedOut);
                }
            } else {
                end.arrival_scheduled = true;
                let span = self.retransmit_after(since);
                self.schedule_in(span, Event::Arrival { to });
            }
            return;
        }
        if let Some(end) = self.ends.get_mut(to) {
            end.stuck_since = None;
            end.inbound.arrive(now);
        }
        self.schedule_arrival(to);
        self.list_if_readable(to);
        if let Some(peer) = peer.filter(|_| self.is_cut(local, remote)) {
            self.schedule_acknowledgement(peer);
        }
    }

    /// Puts an end with news into its driver's list, if the caller wants them.
    pub(super) fn list_if_readable(&mut self, id: EndId) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if let (Some(group), Some((driver, token))) = (end.wants_read(), end.owner) {
            self.state(driver).readable.of_mut(group).push(token.slot);
            self.announce(driver);
        }
    }

    /// The caller took bytes from `id`: if that makes room for a sender who waits for it, the sender learns it.
    pub(super) fn acknowledge(&mut self, id: EndId) {
        let Some(peer) = self.ends.get_mut(id).and_then(|end| end.peer) else {
            return;
        };
        if self.ends.get_mut(peer).is_some_and(|peer| peer.outgoing.is_some()) {
            self.schedule_acknowledgement(peer);
        }
    }

    fn schedule_acknowledgement(&mut self, to: EndId) {
        let Some(end) = self.ends.get_mut(to) else { return };
        if !std::mem::replace(&mut end.acknowledgement_scheduled, true) {
            let (from, local) = (end.there, end.here);
            let span = self.travel(from, local);
            self.schedule_in(span, Event::Acknowledgement { to });
        }
    }

    pub(super) fn acknowledged(&mut self, to: EndId) {
        let now = self.now;
        let Some(end) = self.ends.get_mut(to) else { return };
        end.acknowledgement_scheduled = false;
        let (local, remote) = (end.here, end.there);
        let lost = self.is_cut(remote, local);
        let Some(end) = self.ends.get_mut(to) else { return };
        if !lost {
            end.unacknowledged_since = None;
            return self.pump(to);
        }
        let since = *end.unacknowledged_since.get_or_insert(now);
        if now.since(since) >= self.options.timeout {
            self.break_end(to, ErrorKind::TimedOut);
        } else {
            end.acknowledgement_scheduled = true;
            let span = self.retransmit_after(since);
            self.schedule_in(span, Event::Acknowledgement { to });
        }
    }

    pub(super) fn reset_arrives(&mut self, from: HostNo, to: EndId) {
        let Some(end) = self.ends.get_mut(to) else { return };
        let local = end.here;
        if !self.is_cut(from, local) {
            self.break_end(to, ErrorKind::ConnectionReset);
        }
    }

    /// The connection is over at this end. What has arrived can still be read.
    fn break_end(&mut self, id: EndId, kind: ErrorKind) {
        let Some(end) = self.ends.get_mut(id) else { return };
        if end.broken.is_some() {
            return;
        }
        end.broken = Some(kind);
        end.inbound.cut_off();
        let outgoing = end.outgoing.take();
        let failed_connect = matches!(end.phase, Phase::Connecting { .. });
        if failed_connect {
            end.phase = Phase::Failed;
        }
        if let Some((driver, token)) = end.owner {
            if failed_connect {
                self.complete(
                    driver,
                    Completion::ConnectFailed {
                        token,
                        error: kind.into(),
                    },
                );
            }
            if let Some(Outgoing { bytes, .. }) = outgoing {
                let result = Err(kind.into());
                self.complete(driver, Completion::Sent { token, bytes, result });
            }
        }
        self.list_if_readable(id);
    }

    /// An orderly end: what was taken still arrives, then the FIN. A reset follows if bytes were left unread.
    pub(super) fn abandon(&mut self, id: EndId) -> Option<End> {
        let fin_at = self.finish(id);
        let end = self.ends.remove(id)?;
        if let (Some(to), Some(fin_at)) = (end.peer, fin_at)
            && end.inbound.held() > 0
        {
            let from = end.here;
            self.schedule(fin_at + Duration::from_micros(1), Event::Reset { from, to });
        }
        Some(end)
    }

    /// Sends a FIN after what was sent; when it arrives. `None` if there is nobody to tell.
    pub(super) fn finish(&mut self, id: EndId) -> Option<Instant> {
        let end = self.ends.get_mut(id)?;
        let (local, remote, finished) = (end.here, end.there, end.finished);
        end.finished = true;
        let peer = end.peer.filter(|_| end.broken.is_none())?;
        let span = self.travel(local, remote);
        let at = self.now + span;
        let inbound = &mut self.ends.get_mut(peer)?.inbound;
        if !finished {
            inbound.put(&[], at);
        }
        let at = inbound.last_at();
        self.schedule_arrival(peer);
        Some(at)
    }

    /// A disorderly end: the peer is reset, or hears nothing at all.
    pub(super) fn vanish(&mut self, id: EndId, death: Death) {
        let Some(end) = self.ends.remove(id) else { return };
        let (local, remote) = (end.here, end.there);
        if let (Some(to), Death::Visible) = (end.peer, death) {
            let span = self.travel(local, remote);
            self.schedule_in(span, Event::Reset { from: local, to });
        }
    }
}

/// EMFILE, as the system says it.
pub(super) fn out_of_descriptors() -> io::Error {
    io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32)
}

/// Linux's TCP_RTO_MIN.
const RETRANSMIT_MIN: Duration = Duration::from_millis(200);

/// Linux's first repetition of a SYN; the later, longer ones make no difference worth modelling.
const SYN_AGAIN: Duration = Duration::from_secs(1);
