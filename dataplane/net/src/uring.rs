//! The driver for Linux: operations go into an io_uring, and completions come out.
//!
//! - A receive stays in the kernel and picks its buffer from a shared ring when bytes are there: an idle connection holds none. When all
//!   are out, connections wait in line, and each is served one buffer in turn as they come back.
//! - Sockets are *direct* descriptors, places in the ring's own table, which the process's limit of open files doesn't count (though
//!   the limit bounds the table's size).
//! - A hand-over is a message from ring to ring, and so is a wake-up: it leaves with what else there is to submit. Only threads
//!   without a ring of this kind ring the bell, an eventfd.
//! - Nothing completes but in a call by the driver's thread, and a call runs only some twenty deferred completions: so
//!   [`Driver::wait`] enters again while there are more, a bounded number of times, before the caller sees the batch.
//!
//! The slot of a socket is free only when nothing is outstanding on it in the kernel, so that no completion can come for one that
//! is gone.
//!
//! This module is the one place with `unsafe` in it: memory that the kernel reads and writes while operations are under way. The rule
//! that all of it keeps: such memory is on the heap or mapped, it's owned by the driver, and nobody touches it until the completion
//! was taken out, or until the ring is quiet when the driver is dropped.

#![allow(unsafe_code)]

mod accept;
mod buffers;
mod complete;
mod handover;
mod key;
mod mapping;
mod options;
mod probe;
mod ring;
mod socket;
mod start;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use slab::Slab;
use socket2::{Domain, Protocol, Type};
use trunkline_wire::time::Instant;

use self::accept::{ACCEPTS_MAX, LISTENERS_MAX, Listeners, cancel};
use self::buffers::Pools;
use self::handover::Berth;
pub use self::handover::{Address, Socket as InTransit};
use self::key::{Key, Op};
use self::mapping::Mapping;
pub use self::options::Options;
pub use self::probe::{Unusable, probe, probe_for};
use self::ring::{Outcome, Ring};
use self::socket::{Dial, Phase, Receive, Send, Socket};
use crate::clock;
use crate::doorbell::{Bell, Doorbell};
use crate::driver::{Buffer, BufferGroup, Calls, Completion, Driver, ListenerId, ReceiveMode, Token, Wake};
use crate::ready::ReadyLists;
use crate::slots::Slots;

/// Ends the sleep of a ring that watches it.
#[derive(Debug)]
pub(crate) struct EventBell(EventFd);

impl EventBell {
    fn descriptor(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Bell for EventBell {
    fn ring(&self) {
        // Fails only at 2^64 rings.
        let _ = self.0.write(1);
    }
}

/// Sockets of one thread over io_uring. See the module's text.
///
/// The ring belongs to the thread that makes it; the driver can't be sent to another.
pub struct UringDriver {
    ring: Ring,
    sockets: Slots<Socket>,
    /// How many slots clients don't get.
    reserved: u32,
    listeners: Listeners,
    pools: Pools,
    /// Sockets that wait for buffers.
    parked: ReadyLists,
    /// Where discarded bytes would go, if the kernel wrote them anywhere.
    sink: Mapping,
    doorbell: Arc<Doorbell<EventBell>>,
    bell_watched: bool,
    berth: Arc<Berth>,
    /// Drivers that a message is on its way to, which ends their sleep.
    messages: Slab<Arc<Berth>>,
    /// Completions of what never went into the ring.
    queue: VecDeque<Completion<InTransit>>,
    outcomes: Vec<Outcome>,
    /// Counts the entries of [`Driver::wait`]; wraps.
    waits: u32,
    sleeps: u64,
    bounds: crate::epoll::Options,
}

impl fmt::Debug for UringDriver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("UringDriver")
            .field("sockets", &self.sockets)
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl UringDriver {
    /// A driver without sockets, for the thread that calls this.
    ///
    /// If the limit of open files is below what the table of direct descriptors needs, the table is made smaller, and a warning says
    /// so.
    ///
    /// # Errors
    /// What the kernel said; [`probe`] puts it into words.
    pub fn new(options: Options) -> io::Result<UringDriver> {
        let mut bounds = options.bounds;
        assert!(
            bounds.sockets_reserved < bounds.sockets_max,
            "no socket could be accepted"
        );
        let places = table_size(&mut bounds)?;
        let ring = Ring::new(options.submissions, options.completions)?;
        ring.submitter().register_files_sparse(places)?;
        if !bounds.tuning.busy_poll.is_zero() {
            crate::kernel::poll_cards_of_uring(&ring, bounds.tuning.busy_poll)?;
        }
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let doorbell = Arc::new(Doorbell::new(EventBell(bell)));
        let sink = Mapping::new(DISCARD_BYTES_MAX)?;
        let berth = Berth::new(ring.duplicate()?, Arc::clone(&doorbell));
        // The last that can fail: from here on the pools are registered, and `drop` sees to it that the ring ends first.
        let pools = Pools::new(
            &ring,
            (bounds.device_buffers, bounds.device_buffer_bytes),
            (bounds.link_buffers, bounds.link_buffer_bytes),
        )?;
        Ok(UringDriver {
            ring,
            sockets: Slots::new(bounds.sockets_max),
            reserved: bounds.sockets_reserved,
            listeners: Listeners::default(),
            pools,
            parked: ReadyLists::default(),
            sink,
            doorbell,
            bell_watched: false,
            berth,
            messages: Slab::new(),
            queue: VecDeque::new(),
            outcomes: Vec::new(),
            waits: 0,
            sleeps: 0,
            bounds,
        })
    }

    /// How often the kernel was entered: for metrics, and for the test that nothing spins.
    pub fn enters(&self) -> u64 {
        self.ring.enters()
    }

    fn set_buffers(&self, socket: &socket2::Socket) -> io::Result<()> {
        if let Some(bytes) = self.bounds.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.bounds.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Delivers what never went into the ring.
    fn deliver_queue(&mut self, completions: &mut Vec<Completion<InTransit>>) {
        while let Some(completion) = self.queue.pop_front() {
            match &completion {
                Completion::Sent { token, .. } => {
                    if let Some(socket) = self.sockets.get_mut(*token) {
                        socket.send = Send::Idle;
                    }
                }
                Completion::Closed { token } | Completion::HandedOver { token, result: Ok(_) } => {
                    self.free(*token);
                }
                Completion::HandedOver { token, result: Err(_) } => {
                    if let Some(socket) = self.sockets.get_mut(*token) {
                        socket.phase = match socket.phase {
                            Phase::Staying { connected: true } => Phase::Open,
                            _ => Phase::Failed,
                        };
                    }
                }
                Completion::Accepted { .. }
                | Completion::AcceptPaused { .. }
                | Completion::Connected { .. }
                | Completion::ConnectFailed { .. }
                | Completion::Received { .. }
                | Completion::Eof { .. }
                | Completion::ReceiveFailed { .. }
                | Completion::Woken => unreachable!("these come out of the ring"),
            }
            completions.push(completion);
        }
    }

    /// How long to block: not at all if there is something to tell or to start.
    fn timeout(&self, until: Option<Instant>, has_completions: bool) -> Option<Duration> {
        if has_completions || self.can_unpark() {
            return Some(Duration::ZERO);
        }
        let until = match (until, self.listeners.retry_at()) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        (until != Instant::NEVER).then(|| until - clock::now())
    }

    /// Starts what can be started again: receives that waited for buffers, accepts that waited for room; closes what nobody adopted.
    fn start_again(&mut self, completions: &mut Vec<Completion<InTransit>>) {
        if !self.bell_watched {
            self.bell_watched = true;
            self.watch_bell();
        }
        self.unpark();
        self.arm_accepts(completions);
    }

    /// Looks for completions in the ring's memory, without a system call once all is submitted, for as long as it may. False if nothing
    /// came.
    fn spin(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let most = self.bounds.tuning.spin;
        let end = clock::now() + timeout.map_or(most, |timeout| timeout.min(most));
        self.ring.enter(Some(Duration::ZERO))?;
        while !(self.ring.has_completions() || self.ring.has_more() || self.doorbell.rung()) {
            if clock::now() >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
        Ok(true)
    }

    /// Takes everything out of the ring that is there or can be had without waiting, within bounds.
    fn drain(&mut self, completions: &mut Vec<Completion<InTransit>>) -> io::Result<()> {
        for turn in 0.. {
            let mut outcomes = std::mem::take(&mut self.outcomes);
            self.ring.take(&mut outcomes);
            for outcome in outcomes.drain(..) {
                self.complete(outcome, completions);
            }
            self.outcomes = outcomes;
            if turn == DRAINS_MAX || !self.ring.has_more() {
                break;
            }
            self.ring.submit()?;
        }
        Ok(())
    }
}

impl Driver for UringDriver {
    type Socket = InTransit;
    type Address = Address;

    fn now(&self) -> Instant {
        clock::now()
    }

    fn wall_ms(&self) -> u64 {
        clock::wall_ms()
    }

    fn address(&self) -> Address {
        Address(Arc::clone(&self.berth))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.doorbell.clone()
    }

    fn wake(&mut self, at: &Address) {
        at.0.doorbell().wake_by(|| self.start_message(&at.0));
    }

    fn listen(&mut self, address: SocketAddr, listener: ListenerId) -> io::Result<SocketAddr> {
        // Blocking, as all sockets here: of those that aren't the kernel would not wait for anything.
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit these. The sizes, set before `listen`, take part in the choice of the window's scale.
        socket.set_tcp_nodelay(self.bounds.tuning.nodelay)?;
        self.set_buffers(&socket)?;
        if let Some(core) = self.bounds.tuning.incoming_cpu {
            socket.set_cpu_affinity(core)?;
        }
        socket.bind(&address.into())?;
        socket.listen(self.bounds.backlog)?;
        let bound = socket.local_addr()?.as_socket();
        self.listeners.add(socket, listener)?;
        bound.ok_or_else(|| ErrorKind::InvalidInput.into())
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.end_listeners(listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        if self.sockets.room() == 0 {
            return Err(table_full());
        }
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_tcp_nodelay(self.bounds.tuning.nodelay)?;
        self.set_buffers(&socket)?;
        let dial = Box::new(Dial {
            place: [socket.as_raw_fd()],
            socket: Some(socket),
            address: address.into(),
        });
        let token = self.sockets.insert(Socket::dialling(dial)).map_err(|_| table_full())?;
        self.start_register(token);
        Ok(token)
    }

    fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        match (&socket.phase, socket.receive) {
            (Phase::Open, Receive::Idle) => self.start_receive(token, mode, group),
            (Phase::Open, Receive::Armed(..) | Receive::Parked(..) | Receive::Ended)
            | (
                Phase::Registering
                | Phase::Connecting
                | Phase::Failed
                | Phase::Moving(_)
                | Phase::Staying { .. }
                | Phase::Moved(_)
                | Phase::Ending
                | Phase::Closing,
                _,
            ) => {}
        }
    }

    fn send(&mut self, token: Token, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "a send needs a byte");
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.leaving() {
            return;
        }
        assert!(!socket.sending(), "a second send on {token:?} while one is in flight");
        let error = match socket.phase {
            Phase::Open if !socket.broken => {
                socket.wrote = true;
                socket.send = Send::Flying { bytes, sent: 0 };
                self.send_chunk(token);
                return;
            }
            Phase::Open => ErrorKind::BrokenPipe,
            _ => ErrorKind::NotConnected,
        };
        socket.send = Send::Refused;
        let result = Err(error.into());
        self.queue.push_back(Completion::Sent { token, bytes, result });
    }

    fn close(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.leaving() {
            return;
        }
        let connecting = matches!(socket.phase, Phase::Connecting);
        let receiving = matches!(socket.receive, Receive::Armed(..));
        let sending = matches!(socket.send, Send::Flying { .. });
        if let Receive::Parked(..) = socket.receive {
            socket.receive = Receive::Idle;
        }
        if socket.outstanding == 0 {
            if socket.descriptor.is_some() {
                socket.phase = Phase::Closing;
                self.start_close(token);
            } else {
                socket.phase = Phase::Closing;
                self.queue.push_back(Completion::Closed { token });
            }
            return;
        }
        socket.phase = Phase::Ending;
        for (op, under_way) in [(Op::Connect, connecting), (Op::Receive, receiving), (Op::Send, sending)] {
            if under_way {
                cancel(&mut self.ring, Key::of(op, token));
            }
        }
    }

    fn hand_over(&mut self, token: Token, to: &Address) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let busy = matches!(socket.receive, Receive::Armed(..) | Receive::Parked(..))
            || matches!(socket.phase, Phase::Registering | Phase::Connecting)
            || socket.sending();
        if socket.leaving() {
            return;
        }
        assert!(!busy, "{token:?} can't be handed over with an operation under way");
        let result = match (&socket.phase, socket.descriptor) {
            (Phase::Open, Some(descriptor)) if Arc::ptr_eq(&to.0, &self.berth) => {
                socket.descriptor = None;
                socket.phase = Phase::Closing;
                Ok(InTransit::new(Arc::clone(&self.berth), descriptor))
            }
            (Phase::Open, Some(_)) => {
                socket.phase = Phase::Moving(Arc::clone(&to.0));
                // Submitted at once, while the other ring can't be closed under the message.
                let started = to.0.with_ring(|ring| {
                    self.start_move(token, ring);
                    self.ring.submit()
                });
                match started {
                    // An error of the ring's shows in the next `wait`.
                    Some(_) => return,
                    None => {
                        if let Some(socket) = self.sockets.get_mut(token) {
                            socket.phase = Phase::Staying { connected: true };
                        }
                        Err(ErrorKind::NotConnected.into())
                    }
                }
            }
            _ => {
                socket.phase = Phase::Staying { connected: false };
                Err(ErrorKind::NotConnected.into())
            }
        };
        self.queue.push_back(Completion::HandedOver { token, result });
    }

    fn adopt(&mut self, socket: InTransit) -> Result<Token, (io::Error, InTransit)> {
        if !socket.is_at(&self.berth) {
            return Err((ErrorKind::InvalidInput.into(), socket));
        }
        if self.sockets.room() == 0 {
            return Err((table_full(), socket));
        }
        match self.sockets.insert(Socket::open(socket.adopt())) {
            Ok(token) => Ok(token),
            Err(_) => unreachable!("there is room"),
        }
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.pools.of(buffer.group).bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.pools.of_mut(buffer.group).give_back(buffer);
    }

    fn wait(&mut self, until: Option<Instant>, completions: &mut Vec<Completion<InTransit>>) -> io::Result<()> {
        let before = completions.len();
        self.waits = self.waits.wrapping_add(1);
        self.sockets.settle();
        loop {
            self.deliver_queue(completions);
            self.start_again(completions);
            let mut timeout = self.timeout(until, completions.len() > before);
            if timeout != Some(Duration::ZERO) && !self.bounds.tuning.spin.is_zero() {
                timeout = match self.spin(timeout)? {
                    true => Some(Duration::ZERO),
                    // What is left of the time.
                    false => self.timeout(until, completions.len() > before),
                };
            }
            if timeout != Some(Duration::ZERO) && !self.doorbell.sleep() {
                timeout = Some(Duration::ZERO);
            }
            self.sleeps += u64::from(timeout != Some(Duration::ZERO));
            self.ring.enter(timeout)?;
            self.drain(completions)?;
            if self.doorbell.answer() {
                for descriptor in self.berth.take_abandoned() {
                    self.close_orphan(descriptor);
                }
                completions.push(Completion::Woken);
            }
            if completions.len() > before || until.is_some_and(|until| until <= clock::now()) {
                return Ok(());
            }
        }
    }

    fn open(&self) -> usize {
        self.sockets.len()
    }

    fn calls(&self) -> Calls {
        Calls {
            enters: self.ring.enters(),
            sleeps: self.sleeps,
            ..Calls::default()
        }
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.berth.leave();
        let quiet = self.ring.quiet();
        // The table's sockets would otherwise be closed some time later, by a thread of the kernel's.
        let _ = self.ring.submitter().unregister_files();
        if quiet {
            return;
        }
        // Never seen. The kernel may still write to this memory: rather than free it, lose it.
        tracing::error!("an io_uring did not come to rest, and its memory is kept");
        std::mem::forget(std::mem::replace(&mut self.sockets, Slots::new(0)));
        std::mem::forget(std::mem::take(&mut self.listeners));
        self.pools.keep();
        self.sink.keep();
    }
}

/// Places in the table of direct descriptors: for each socket, and for clients and hand-overs that wait for room. Lowers `bounds` to
/// what the limit of open files allows.
fn table_size(bounds: &mut crate::epoll::Options) -> io::Result<u32> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = bounds.sockets_max.saturating_add(PLACES_SPARE);
    if u64::from(wanted) <= limit {
        return Ok(wanted);
    }
    let granted = limit as u32;
    let sockets_max = granted.saturating_sub(PLACES_SPARE);
    if sockets_max <= bounds.sockets_reserved {
        let text =
            format!("a limit of {limit} open files leaves no room for sockets: raise it (ulimit -n, LimitNOFILE)");
        return Err(io::Error::other(text));
    }
    tracing::warn!(
        limit,
        sockets_max,
        wanted = bounds.sockets_max,
        "the limit of open files bounds io_uring's table of sockets, though it doesn't count them: raise it (ulimit -n, LimitNOFILE)"
    );
    bounds.sockets_max = sockets_max;
    Ok(granted)
}

fn table_full() -> io::Error {
    io::Error::other("the table of sockets is full")
}

/// Clients whose room was taken, at every listener, and as many hand-overs on their way.
const PLACES_SPARE: u32 = 2 * (ACCEPTS_MAX * LISTENERS_MAX) as u32;

/// Entries to the kernel for completions alone, in one `wait`: 8 were measured to be enough, 32 are no worse.
const DRAINS_MAX: usize = 32;

/// 64 KiB: what a device may well have under way when it is told to go.
const DISCARD_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests;
