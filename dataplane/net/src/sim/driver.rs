//! A driver in a simulated world.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use trunkline_wire::time::Instant;

use super::connection::{Outgoing, Phase, Receive, out_of_descriptors};
use super::letters::Letters;
use super::network::{EndId, Event, Network, Pause};
use super::{Death, Descriptors, DriverId, SimOptions};
use crate::buffers::Pools;
use crate::driver::{Buffer, BufferGroup, Calls, Completion, Driver, ListenerId, ReceiveMode, Token, Wake};

/// The sockets of one virtual thread. Made by [`super::World::driver`].
///
/// [`Driver::wait`] never blocks and never advances the time: it gives what is complete at [`super::World::now`]. Dropping a driver
/// is the end of its thread: its peers are reset.
#[derive(Debug)]
pub struct SimDriver {
    network: Rc<RefCell<Network>>,
    id: DriverId,
    pools: Pools,
    bell: Arc<Bell>,
}

/// Names a driver for hand-overs and wake-ups.
#[derive(Clone, Debug)]
pub struct SimAddress(Arc<Bell>);

/// A socket on its way between two drivers of one host.
#[derive(Debug)]
pub struct SimSocket {
    /// Taken when it is adopted.
    end: Option<EndId>,
    dropped: Arc<Letters<EndId>>,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            self.dropped.put(end);
        }
    }
}

#[derive(Debug)]
struct Bell {
    id: DriverId,
    rung: AtomicBool,
    list: Arc<Letters<DriverId>>,
}

impl Wake for Bell {
    fn wake(&self) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.list.put(self.id);
        }
    }
}

impl SimDriver {
    pub(super) fn new(network: Rc<RefCell<Network>>, host: IpAddr, options: SimOptions) -> SimDriver {
        assert!(
            options.sockets_reserved < options.sockets_max,
            "no socket could be accepted"
        );
        let pools = Pools::new(
            (options.device_buffers, options.device_buffer_bytes),
            (options.link_buffers, options.link_buffer_bytes),
        );
        let (id, list) = {
            let mut network = network.borrow_mut();
            (network.add_driver(host, options), network.rung())
        };
        let rung = AtomicBool::new(false);
        SimDriver {
            network,
            id,
            pools,
            bell: Arc::new(Bell { id, rung, list }),
        }
    }

    /// Sends a FIN after what was sent, and goes on receiving: what a [`Driver`] can't do and a foreign peer may.
    pub fn finish(&mut self, token: Token) {
        let mut network = self.network.borrow_mut();
        if let Some(id) = network.end_of(self.id, token) {
            network.finish(id);
        }
    }

    /// This driver's name in its world.
    pub fn id(&self) -> DriverId {
        self.id
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        self.network.borrow_mut().end_process(self.id, Death::Visible);
    }
}

impl Driver for SimDriver {
    type Socket = SimSocket;
    type Address = SimAddress;

    fn now(&self) -> Instant {
        self.network.borrow().now
    }

    fn wall_ms(&self) -> u64 {
        let mut network = self.network.borrow_mut();
        let host = network.state(self.id).host;
        network.wall_ms(host)
    }

    fn address(&self) -> SimAddress {
        SimAddress(Arc::clone(&self.bell))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }

    fn wake(&mut self, at: &SimAddress) {
        at.0.wake();
    }

    fn listen(&mut self, address: SocketAddr, listener: ListenerId) -> io::Result<SocketAddr> {
        self.network.borrow_mut().listen(self.id, address, listener)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        let driver = self.id;
        let is_meant = |other: &super::network::Listener| other.driver == driver && other.id == listener;
        self.network.borrow_mut().unlisten_where(is_meant, Death::Visible);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        self.network.borrow_mut().connect(self.id, address)
    }

    fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        self.network.borrow_mut().receive(self.id, token, mode, group);
    }

    fn send(&mut self, token: Token, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "a send needs a byte");
        self.network.borrow_mut().send(self.id, token, bytes);
    }

    fn close(&mut self, token: Token) {
        self.network.borrow_mut().close(self.id, token);
    }

    fn hand_over(&mut self, token: Token, to: &SimAddress) {
        self.network.borrow_mut().hand_over(self.id, token, to.0.id);
    }

    fn adopt(&mut self, mut socket: SimSocket) -> Result<Token, (io::Error, SimSocket)> {
        let adopted = socket.end.ok_or_else(|| ErrorKind::NotConnected.into());
        match adopted.and_then(|end| self.network.borrow_mut().adopt(self.id, end)) {
            Ok(token) => {
                socket.end = None;
                Ok(token)
            }
            Err(error) => Err((error, socket)),
        }
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.pools.of(buffer.group).bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        let pool = self.pools.of_mut(buffer.group);
        let was_exhausted = pool.exhausted();
        let group = buffer.group;
        pool.give_back(buffer);
        if was_exhausted {
            self.network.borrow_mut().buffers_are_back(self.id, group);
        }
    }

    fn wait(&mut self, _until: Option<Instant>, completions: &mut Vec<Completion<SimSocket>>) -> io::Result<()> {
        let network = &mut *self.network.borrow_mut();
        network.turn(self.id);
        if !network.state(self.id).alive || network.defer(self.id) {
            return Ok(());
        }
        let before = completions.len();
        network.state(self.id).sockets.settle();
        network.deliver_queue(self.id, completions);
        network.accept(self.id, completions);
        for group in [BufferGroup::Link, BufferGroup::Device] {
            network.read_ready(self.id, group, &mut self.pools, completions);
        }
        if self.bell.rung.swap(false, Ordering::AcqRel) {
            completions.push(Completion::Woken);
        }
        network.note(self.id, &completions[before..], &self.pools);
        Ok(())
    }

    fn open(&self) -> usize {
        self.network.borrow_mut().state(self.id).sockets.len()
    }

    fn calls(&self) -> Calls {
        // There is no system.
        Calls::default()
    }
}

impl Network {
    /// The end behind a token that is the caller's: not after a close or a hand-over.
    fn end_of(&mut self, driver: DriverId, token: Token) -> Option<EndId> {
        let id = *self.state(driver).sockets.get_mut(token)?;
        let end = self.ends.get_mut(id)?;
        (end.owner == Some((driver, token))).then_some(id)
    }

    fn receive(&mut self, driver: DriverId, token: Token, mode: ReceiveMode, group: BufferGroup) {
        let Some(id) = self.end_of(driver, token) else { return };
        let Some(end) = self.ends.get_mut(id) else { return };
        match (end.phase, end.receive) {
            (Phase::Open, Receive::Idle) => {
                end.receive = Receive::Armed(mode, group);
                self.list_if_readable(id);
            }
            (Phase::Open, Receive::Armed(..) | Receive::Ended) | (Phase::Connecting { .. } | Phase::Failed, _) => {}
        }
    }

    fn send(&mut self, driver: DriverId, token: Token, bytes: Vec<u8>) {
        let Some(id) = self.end_of(driver, token) else { return };
        let late = self.odd();
        let Some(end) = self.ends.get_mut(id) else { return };
        assert!(!end.sending, "a second send on {token:?} while one is in flight");
        end.sending = true;
        let broken = match end.phase {
            Phase::Open => end.broken,
            Phase::Connecting { .. } | Phase::Failed => Some(ErrorKind::NotConnected),
        };
        match broken {
            Some(kind) => {
                let result = Err(kind.into());
                self.complete(driver, Completion::Sent { token, bytes, result });
            }
            None => {
                end.outgoing = Some(Outgoing { bytes, sent: 0 });
                if late {
                    let span = self.draw(LATE_MAX);
                    self.schedule_in(span, Event::Pump { from: id });
                } else {
                    self.pump(id);
                }
            }
        }
    }

    fn close(&mut self, driver: DriverId, token: Token) {
        let Some(end) = self.end_of(driver, token).and_then(|id| self.abandon(id)) else {
            return;
        };
        if let Some(Outgoing { bytes, .. }) = end.outgoing {
            let result = Err(ErrorKind::ConnectionAborted.into());
            self.complete(driver, Completion::Sent { token, bytes, result });
        }
        self.complete_soon(driver, Completion::Closed { token });
    }

    fn hand_over(&mut self, driver: DriverId, token: Token, to: DriverId) {
        let Some(id) = self.end_of(driver, token) else { return };
        let host = self.state(driver).host;
        let reachable = self
            .drivers
            .get(to.0 as usize)
            .is_some_and(|to| to.alive && to.host == host);
        let Some(end) = self.ends.get_mut(id) else { return };
        assert!(
            !matches!(end.receive, Receive::Armed(..)) && !end.sending,
            "{token:?} can't be handed over with an operation under way"
        );
        let result = match end.phase {
            Phase::Connecting { .. } => panic!("{token:?} can't be handed over while it connects"),
            Phase::Open if reachable => {
                end.owner = None;
                let dropped = self.dropped.clone();
                Ok(SimSocket { end: Some(id), dropped })
            }
            Phase::Open | Phase::Failed => Err(ErrorKind::NotConnected.into()),
        };
        self.complete_soon(driver, Completion::HandedOver { token, result });
    }

    fn adopt(&mut self, driver: DriverId, id: EndId) -> io::Result<Token> {
        if !self.state(driver).alive || self.ends.get_mut(id).is_none() {
            return Err(ErrorKind::NotConnected.into());
        }
        let full = || io::Error::other("the table of sockets is full");
        self.give(driver, id).ok_or_else(full)
    }

    /// Completes at once, or a little later.
    fn complete_soon(&mut self, driver: DriverId, completion: Completion<SimSocket>) {
        if self.odd() {
            let span = self.draw(LATE_MAX);
            self.schedule_in(span, Event::Complete { driver, completion });
        } else {
            self.complete(driver, completion);
        }
    }

    fn buffers_are_back(&mut self, driver: DriverId, group: BufferGroup) {
        if !self.state(driver).readable.of(group).is_empty() {
            self.announce(driver);
        }
    }

    /// Delivers the queue. Slots become free here, and with them room for clients.
    fn deliver_queue(&mut self, driver: DriverId, completions: &mut Vec<Completion<SimSocket>>) {
        while let Some(completion) = self.state(driver).queue.pop_front() {
            match &completion {
                Completion::Sent { token, .. } => {
                    let id = self.state(driver).sockets.get_mut(*token).copied();
                    if let Some(end) = id.and_then(|id| self.ends.get_mut(id)) {
                        end.sending = false;
                    }
                }
                Completion::Closed { token } | Completion::HandedOver { token, result: Ok(_) } => {
                    let left = self.state(driver).sockets.remove(*token);
                    debug_assert!(left.is_some(), "a token dies once");
                    for index in 0..self.state(driver).listens.len() {
                        if let Some(listener) = self.listener(driver, index) {
                            listener.pause = Pause::No;
                        }
                    }
                }
                Completion::Connected { token } | Completion::ConnectFailed { token, .. } => {
                    if self.end_of(driver, *token).is_none() {
                        // Closed meanwhile: the caller wants to hear of that only.
                        continue;
                    }
                }
                Completion::HandedOver { result: Err(_), .. }
                | Completion::Accepted { .. }
                | Completion::AcceptPaused { .. }
                | Completion::Received { .. }
                | Completion::Eof { .. }
                | Completion::ReceiveFailed { .. }
                | Completion::Woken => {}
            }
            completions.push(completion);
        }
    }

    fn listener(&mut self, driver: DriverId, index: usize) -> Option<&mut super::network::Listener> {
        let address = self.state(driver).listens[index];
        let listeners = self.listeners.get_mut(&address)?;
        listeners.iter_mut().find(|listener| listener.driver == driver)
    }

    fn accept(&mut self, driver: DriverId, completions: &mut Vec<Completion<SimSocket>>) {
        // Mostly there is none, at every turn of every driver.
        if self.state(driver).clients == 0 {
            return;
        }
        for index in 0..self.state(driver).listens.len() {
            while self.accept_one(driver, index, completions) {}
        }
    }

    /// Accepts a client at the driver's listener with this index; false if there is none, or no room.
    fn accept_one(&mut self, driver: DriverId, index: usize, completions: &mut Vec<Completion<SimSocket>>) -> bool {
        let now = self.now;
        let state = self.state(driver);
        let room = state
            .sockets
            .room()
            .saturating_sub(state.options.sockets_reserved as usize);
        let host = state.host;
        let exhausted = self.host(host).descriptors == Descriptors::Exhausted;
        let Some(listener) = self.listener(driver, index) else {
            return false;
        };
        let may_try = match listener.pause {
            Pause::No => true,
            Pause::TableFull => false,
            Pause::Descriptors(until) => until <= now,
        };
        let (id, was) = (listener.id, listener.pause);
        if listener.backlog.is_empty() || !may_try {
            return false;
        }
        if room == 0 {
            listener.pause = Pause::TableFull;
            completions.push(Completion::AcceptPaused {
                listener: id,
                error: None,
            });
            return false;
        }
        if exhausted {
            let until = now + RETRY_AFTER;
            listener.pause = Pause::Descriptors(until);
            if was == Pause::No {
                let error = Some(out_of_descriptors());
                completions.push(Completion::AcceptPaused { listener: id, error });
            }
            self.schedule(until, Event::Announce { driver });
            return false;
        }
        listener.pause = Pause::No;
        let Some(end) = listener.backlog.pop_front() else {
            return false;
        };
        self.state(driver).clients -= 1;
        let Some(peer) = self.ends.get_mut(end).map(|end| end.remote) else {
            return true;
        };
        if let Some(token) = self.give(driver, end) {
            completions.push(Completion::Accepted {
                listener: id,
                token,
                peer,
            });
        }
        true
    }

    /// Gives each socket in the list of `group` its turn, while there are buffers.
    fn read_ready(
        &mut self,
        driver: DriverId,
        group: BufferGroup,
        pools: &mut Pools,
        completions: &mut Vec<Completion<SimSocket>>,
    ) {
        let turns = self.state(driver).readable.of(group).len();
        for _ in 0..turns {
            if pools.of(group).exhausted() {
                return;
            }
            let Some(slot) = self.state(driver).readable.of_mut(group).pop() else {
                return;
            };
            let Some((token, id)) = self.state(driver).sockets.at_mut(slot) else {
                continue;
            };
            let id = *id;
            for _ in 0..READS_MAX {
                let wants = self.ends.get_mut(id).and_then(|end| end.wants_read());
                if wants != Some(group) || !self.read(id, token, pools, completions) {
                    break;
                }
            }
            self.list_if_readable(id);
        }
    }

    /// Reads once for the armed receive; false if there is nothing or no buffer for it.
    fn read(
        &mut self,
        id: EndId,
        token: Token,
        pools: &mut Pools,
        completions: &mut Vec<Completion<SimSocket>>,
    ) -> bool {
        let short = self.odd();
        let Some(end) = self.ends.get_mut(id) else { return false };
        let Receive::Armed(mode, group) = end.receive else {
            return false;
        };
        if end.inbound.arrived() == 0 {
            end.receive = Receive::Ended;
            completions.push(match (end.inbound.ended(), end.broken) {
                (false, Some(kind)) => Completion::ReceiveFailed {
                    token,
                    error: kind.into(),
                },
                (true, _) | (false, None) => Completion::Eof { token },
            });
            return true;
        }
        let rng = &mut self.rng;
        let lent = pools.of_mut(group).lend(|room| {
            let most = room.len().min(end.inbound.arrived());
            let length = if short { rng.usize(1..=most) } else { most };
            Ok::<usize, ()>(end.inbound.read(&mut room[..length]))
        });
        let Some(Ok(Some(mut buffer))) = lent else { return false };
        buffer.followed = end.inbound.arrived() > 0 || end.inbound.ended();
        if mode == ReceiveMode::Once {
            end.receive = Receive::Idle;
        }
        completions.push(Completion::Received { token, buffer });
        self.acknowledge(id);
        true
    }

    /// Folds what the driver is told into the trace.
    fn note(&mut self, driver: DriverId, completions: &[Completion<SimSocket>], pools: &Pools) {
        if completions.is_empty() {
            return;
        }
        self.trace.word(self.now.micros());
        self.trace.word(u64::from(driver.0));
        for completion in completions {
            self.trace.completion(completion);
            if let Completion::Received { buffer, .. } = completion {
                self.trace.bytes(pools.of(buffer.group).bytes(buffer));
            }
        }
    }
}

/// Reads for one socket in one turn.
const READS_MAX: u32 = 4;

/// How late a completion may be that could come at once.
const LATE_MAX: Duration = Duration::from_millis(1);

/// As the real drivers do it.
const RETRY_AFTER: Duration = Duration::from_millis(100);
