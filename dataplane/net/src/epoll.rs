//! The portable driver: readiness from mio (epoll on Linux), turned into completions.
//!
//! Registration is edge-triggered and happens once a socket, so that the hot path is one `read` a receive and one `write` a send:
//! - A report of readiness is remembered in the socket until a read exhausts it. A read that brings less than was asked for
//!   exhausts it too (what arrives later is reported again), which saves the second read that would say "would block".
//! - Sockets with something to read stand in a list, one for each [`BufferGroup`], and each gets a bounded number of reads per
//!   [`Driver::wait`], in turn. A list whose buffers are all out is left alone, and `wait` sleeps over it.
//! - [`Driver::send`] writes at once; only what the kernel doesn't take waits for a report.
//!
//! The slot of a closed socket is free only when `wait` has told the caller, so that within a batch of completions a slot never means
//! two sockets.

mod accept;
mod options;
mod socket;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use mio::Interest;
use socket2::{Domain, Protocol, Type};
use trunkline_wire::time::Instant;

use self::accept::Listeners;
pub use self::options::Options;
use self::socket::{Phase, Receive, Send, close_gently};
use crate::buffers::Pools;
use crate::clock;
use crate::doorbell::Doorbell;
use crate::driver::{Buffer, BufferGroup, Calls, Completion, Driver, ListenerId, ReceiveMode, Token, Wake};
use crate::ready::ReadyLists;
use crate::slots::Slots;

/// A socket on its way between two drivers.
///
/// A connected `TcpStream` of any origin becomes one by `from`.
#[derive(Debug)]
pub struct Socket(TcpStream);

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket(stream)
    }
}

/// Where hand-overs and wake-ups go. Descriptors are the process's, so that any driver can adopt from any other.
#[derive(Clone, Debug)]
pub struct Address(Arc<Doorbell<mio::Waker>>);

/// Sockets of one thread over mio. See the module's text.
#[derive(Debug)]
pub struct EpollDriver {
    options: Options,
    poll: mio::Poll,
    events: mio::Events,
    doorbell: Arc<Doorbell<mio::Waker>>,
    sockets: Slots<socket::Socket>,
    listeners: Listeners,
    pools: Pools,
    /// Sockets with something to read.
    ready: ReadyLists,
    /// Completions that didn't come out of `wait`: of sends, closes, hand-overs, failed connects.
    queue: VecDeque<Completion<Socket>>,
    calls: Calls,
}

impl EpollDriver {
    /// A driver without sockets.
    ///
    /// # Errors
    /// No descriptors left for epoll's own two.
    pub fn new(options: Options) -> io::Result<EpollDriver> {
        assert!(
            options.sockets_reserved < options.sockets_max,
            "no socket could be accepted"
        );
        assert!(
            (options.sockets_max as usize) < LISTENER - 1,
            "slots must leave a bit to the listeners"
        );
        let poll = mio::Poll::new()?;
        #[cfg(target_os = "linux")]
        if !options.tuning.busy_poll.is_zero() {
            crate::kernel::poll_cards_of_epoll(&poll, options.tuning.busy_poll)?;
        }
        let doorbell = Arc::new(Doorbell::new(mio::Waker::new(poll.registry(), DOORBELL)?));
        let pools = Pools::new(
            (options.device_buffers, options.device_buffer_bytes),
            (options.link_buffers, options.link_buffer_bytes),
        );
        Ok(EpollDriver {
            poll,
            events: mio::Events::with_capacity(EVENTS_MAX),
            doorbell,
            sockets: Slots::new(options.sockets_max),
            listeners: Listeners::default(),
            pools,
            ready: ReadyLists::default(),
            queue: VecDeque::new(),
            calls: Calls::default(),
            options,
        })
    }

    /// How often the kernel was asked what is ready: for metrics, and for the test that nothing spins.
    pub fn polls(&self) -> u64 {
        self.calls.enters
    }

    fn set_options(&self, socket: socket2::SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_nodelay(self.options.tuning.nodelay)?;
        self.set_buffers(socket)
    }

    fn set_buffers(&self, socket: socket2::SockRef<'_>) -> io::Result<()> {
        if let Some(bytes) = self.options.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.options.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Delivers the queue. Slots become free here, and with them room for clients.
    fn deliver_queue(&mut self, completions: &mut Vec<Completion<Socket>>) {
        while let Some(completion) = self.queue.pop_front() {
            match &completion {
                Completion::Sent { token, .. } => {
                    if let Some(socket) = self.sockets.get_mut(*token) {
                        socket.send_delivered();
                    }
                }
                Completion::Closed { token } | Completion::HandedOver { token, result: Ok(_) } => {
                    let left = self.sockets.remove(*token);
                    debug_assert!(left.is_some(), "a token dies once");
                    self.listeners.resume();
                }
                Completion::ConnectFailed { token, .. } => {
                    let socket = self.sockets.get_mut(*token);
                    if socket.is_none_or(|socket| matches!(socket.phase, Phase::Leaving)) {
                        // Closed meanwhile: the caller wants to hear of that only.
                        continue;
                    }
                }
                Completion::HandedOver { result: Err(_), .. }
                | Completion::Accepted { .. }
                | Completion::AcceptPaused { .. }
                | Completion::Connected { .. }
                | Completion::Received { .. }
                | Completion::Eof { .. }
                | Completion::ReceiveFailed { .. }
                | Completion::Woken => {}
            }
            completions.push(completion);
        }
    }

    /// How long to block: not at all if there is work that needs no report.
    fn timeout(&self, until: Option<Instant>, has_completions: bool) -> Option<Duration> {
        let groups = [BufferGroup::Device, BufferGroup::Link];
        let readable = |group: BufferGroup| !self.ready.of(group).is_empty() && !self.pools.of(group).exhausted();
        if has_completions || groups.into_iter().any(readable) || self.listeners.ready() {
            return Some(Duration::ZERO);
        }
        let until = match (until, self.listeners.retry_at()) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        (until != Instant::NEVER).then(|| until - clock::now())
    }

    /// Asks the kernel what is ready; blocks for `timeout` at most, or until somebody rings.
    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let blocks = timeout != Some(Duration::ZERO) && self.doorbell.sleep();
        self.calls.sleeps += u64::from(blocks);
        self.look(if blocks { timeout } else { Some(Duration::ZERO) })
    }

    /// Looks again and again for what is ready, without sleeping, for as long as it may. False if nothing came.
    fn spin(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let most = self.options.tuning.spin;
        let end = clock::now() + timeout.map_or(most, |timeout| timeout.min(most));
        loop {
            self.look(Some(Duration::ZERO))?;
            if !self.events.is_empty() || self.doorbell.rung() {
                return Ok(true);
            }
            if clock::now() >= end {
                return Ok(false);
            }
            std::hint::spin_loop();
        }
    }

    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.calls.enters += 1;
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            result => result,
        }
    }

    /// Notes what the reports say, and finishes connects and sends.
    fn handle_events(&mut self, completions: &mut Vec<Completion<Socket>>) {
        for event in &self.events {
            let token = match event.token() {
                DOORBELL => continue,
                token if token.0 & LISTENER != 0 => {
                    self.listeners.note_ready(token.0 & !LISTENER);
                    continue;
                }
                token => from_mio(token),
            };
            let Some(socket) = self.sockets.get_mut(token) else {
                continue;
            };
            match socket.finish_connect() {
                None => {}
                Some(Ok(())) => completions.push(Completion::Connected { token }),
                Some(Err(error)) => completions.push(Completion::ConnectFailed { token, error }),
            }
            let end = event.is_read_closed() || event.is_error();
            if event.is_readable() || end {
                socket.readable = true;
                socket.ended |= end;
                list_if_ready(&mut self.ready, token.slot, socket);
            }
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            self.calls.writes += u64::from(writable && socket.blocked());
            if let Some((bytes, result)) = writable.then(|| socket.flush()).flatten() {
                completions.push(Completion::Sent { token, bytes, result });
                socket.send_delivered();
            }
        }
    }

    /// Gives each socket in the list of `group` its turn, while there are buffers.
    fn read_ready(&mut self, group: BufferGroup, completions: &mut Vec<Completion<Socket>>) {
        let reads_max = match group {
            BufferGroup::Device => DEVICE_READS_MAX,
            BufferGroup::Link => LINK_READS_MAX,
        };
        let turns = self.ready.of(group).len();
        for _ in 0..turns {
            if self.pools.of(group).exhausted() {
                return;
            }
            let Some(slot) = self.ready.of_mut(group).pop() else {
                return;
            };
            let Some((token, socket)) = self.sockets.at_mut(slot) else {
                continue;
            };
            for _ in 0..reads_max {
                if socket.wants_read() != Some(group) {
                    break;
                }
                self.calls.reads += 1;
                match socket.read(token, self.pools.of_mut(group)) {
                    Some(completion) => completions.push(completion),
                    None => break,
                }
            }
            list_if_ready(&mut self.ready, slot, socket);
        }
    }

    fn room_for_clients(&self) -> usize {
        self.sockets
            .room()
            .saturating_sub(self.options.sockets_reserved as usize)
    }
}

impl Driver for EpollDriver {
    type Socket = Socket;
    type Address = Address;

    fn now(&self) -> Instant {
        clock::now()
    }

    fn wall_ms(&self) -> u64 {
        clock::wall_ms()
    }

    fn address(&self) -> Address {
        Address(Arc::clone(&self.doorbell))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.doorbell.clone()
    }

    fn wake(&mut self, at: &Address) {
        at.0.wake();
    }

    fn listen(&mut self, address: SocketAddr, listener: ListenerId) -> io::Result<SocketAddr> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        // Accepted sockets inherit the sizes; set before `listen`, they take part in the choice of the window's scale.
        self.set_buffers((&socket).into())?;
        #[cfg(target_os = "linux")]
        if let Some(core) = self.options.tuning.incoming_cpu {
            socket.set_cpu_affinity(core)?;
        }
        socket.bind(&address.into())?;
        socket.listen(self.options.backlog)?;
        let socket = mio::net::TcpListener::from_std(socket.into());
        let bound = socket.local_addr()?;
        self.listeners.add(socket, listener, self.poll.registry())?;
        Ok(bound)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.listeners.remove(listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        if self.sockets.room() == 0 {
            return Err(table_full());
        }
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        self.set_options((&socket).into())?;
        let started = match socket.connect(&address.into()) {
            Err(error) if is_in_progress(&error) => Ok(()),
            result => result,
        };
        let stream = mio::net::TcpStream::from_std(socket.into());
        let token = self.insert(Phase::Connecting(stream)).map_err(|(error, _)| error)?;
        if let Err(error) = started {
            if let Some(socket) = self.sockets.get_mut(token) {
                socket.phase = Phase::Failed;
            }
            self.queue.push_back(Completion::ConnectFailed { token, error });
        }
        Ok(token)
    }

    fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        match (&socket.phase, socket.receive) {
            (Phase::Open(_), Receive::Idle) => {
                socket.receive = Receive::Armed(mode, group);
                list_if_ready(&mut self.ready, token.slot, socket);
            }
            (Phase::Open(_), Receive::Armed(..) | Receive::Ended)
            | (Phase::Connecting(_) | Phase::Failed | Phase::Leaving, _) => {}
        }
    }

    fn send(&mut self, token: Token, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "a send needs a byte");
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if let Phase::Leaving = socket.phase {
            return;
        }
        assert!(!socket.sending(), "a second send on {token:?} while one is in flight");
        let (bytes, result) = match (&socket.phase, &socket.send) {
            (Phase::Open(_), Send::Idle) => {
                socket.wrote = true;
                socket.send = Send::Blocked { bytes, sent: 0 };
                self.calls.writes += 1;
                match socket.flush() {
                    Some(answer) => answer,
                    None => return,
                }
            }
            (Phase::Open(_), _) => {
                socket.send = Send::DoneBroken;
                (bytes, Err(ErrorKind::BrokenPipe.into()))
            }
            (Phase::Connecting(_) | Phase::Failed | Phase::Leaving, _) => {
                socket.send = Send::Done;
                (bytes, Err(ErrorKind::NotConnected.into()))
            }
        };
        self.queue.push_back(Completion::Sent { token, bytes, result });
    }

    fn close(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        match std::mem::replace(&mut socket.phase, Phase::Leaving) {
            Phase::Leaving => return,
            // Dropping the descriptor, the only one of its socket, takes it out of epoll too.
            Phase::Open(stream) if socket.wrote && socket.receive != Receive::Ended => close_gently(stream),
            Phase::Open(_) | Phase::Connecting(_) | Phase::Failed => {}
        }
        socket.receive = Receive::Ended;
        if let Send::Blocked { bytes, .. } = std::mem::replace(&mut socket.send, Send::Done) {
            let result = Err(ErrorKind::ConnectionAborted.into());
            self.queue.push_back(Completion::Sent { token, bytes, result });
        }
        self.queue.push_back(Completion::Closed { token });
    }

    fn hand_over(&mut self, token: Token, _to: &Address) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        assert!(
            !matches!(socket.receive, Receive::Armed(..))
                && !matches!(socket.phase, Phase::Connecting(_))
                && !socket.sending(),
            "{token:?} can't be handed over with an operation under way"
        );
        let result = match std::mem::replace(&mut socket.phase, Phase::Leaving) {
            Phase::Open(mut stream) => match self.poll.registry().deregister(&mut stream) {
                Ok(()) => Ok(Socket(stream.into())),
                Err(error) => {
                    socket.phase = Phase::Open(stream);
                    Err(error)
                }
            },
            Phase::Leaving => return,
            Phase::Failed => {
                socket.phase = Phase::Failed;
                Err(ErrorKind::NotConnected.into())
            }
            Phase::Connecting(_) => unreachable!("asserted above"),
        };
        self.queue.push_back(Completion::HandedOver { token, result });
    }

    fn adopt(&mut self, socket: Socket) -> Result<Token, (io::Error, Socket)> {
        if self.sockets.room() == 0 {
            return Err((table_full(), socket));
        }
        // A stream that comes from elsewhere may still block; one from a driver doesn't, and this costs one call a hand-over.
        if let Err(error) = socket.0.set_nonblocking(true) {
            return Err((error, socket));
        }
        let taken = self.take_in(mio::net::TcpStream::from_std(socket.0));
        taken.map_err(|(error, stream)| (error, Socket(stream.into())))
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.pools.of(buffer.group).bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.pools.of_mut(buffer.group).give_back(buffer);
    }

    fn wait(&mut self, until: Option<Instant>, completions: &mut Vec<Completion<Socket>>) -> io::Result<()> {
        let before = completions.len();
        self.sockets.settle();
        loop {
            self.deliver_queue(completions);
            let timeout = self.timeout(until, completions.len() > before);
            let spins = timeout != Some(Duration::ZERO) && !self.options.tuning.spin.is_zero();
            if !(spins && self.spin(timeout)?) {
                // What is left of the time, after spinning.
                self.poll(self.timeout(until, completions.len() > before))?;
            }
            self.handle_events(completions);
            self.accept_ready(completions);
            self.read_ready(BufferGroup::Link, completions);
            self.read_ready(BufferGroup::Device, completions);
            if self.doorbell.answer() {
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
        self.calls
    }
}

impl EpollDriver {
    /// Gives a connected stream a slot, with every option set; or gives it back.
    fn take_in(&mut self, stream: mio::net::TcpStream) -> Result<Token, (io::Error, mio::net::TcpStream)> {
        match self.set_options((&stream).into()) {
            Ok(()) => self.insert(Phase::Open(stream)),
            Err(error) => Err((error, stream)),
        }
    }

    /// Gives a socket a slot and registers it; or gives it back.
    fn insert(&mut self, phase: Phase) -> Result<Token, (io::Error, mio::net::TcpStream)> {
        let token = match self.sockets.insert(socket::Socket::new(phase)) {
            Ok(token) => token,
            Err(socket) => return Err((table_full(), socket.into_stream())),
        };
        let socket = self.sockets.get_mut(token).expect("it was just inserted");
        let (Phase::Open(stream) | Phase::Connecting(stream)) = &mut socket.phase else {
            unreachable!("only sockets with a stream are inserted")
        };
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self.poll.registry().register(stream, to_mio(token), interest) {
            Ok(()) => Ok(token),
            Err(error) => {
                let socket = self.sockets.remove(token).expect("it was just inserted");
                Err((error, socket.into_stream()))
            }
        }
    }
}

/// Puts a socket that wants to be read into the list of its group.
fn list_if_ready(ready: &mut ReadyLists, slot: u32, socket: &socket::Socket) {
    if let Some(group) = socket.wants_read() {
        ready.of_mut(group).push(slot);
    }
}

fn table_full() -> io::Error {
    io::Error::other("the table of sockets is full")
}

fn is_in_progress(error: &io::Error) -> bool {
    // std's own kind for it is not stable yet.
    error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32)
}

/// A token as mio carries it: generation above, slot below. Listeners have [`LISTENER`] set.
fn to_mio(token: Token) -> mio::Token {
    mio::Token((token.generation as usize) << 32 | token.slot as usize)
}

fn from_mio(token: mio::Token) -> Token {
    Token {
        slot: token.0 as u32,
        generation: (token.0 >> 32) as u32,
    }
}

/// Slots stay below this bit: `sockets_max` is checked against it.
const LISTENER: usize = 1 << 31;
const DOORBELL: mio::Token = mio::Token(LISTENER - 1);

/// Reports taken from the kernel at once: enough to spread the call's price, few enough to stay in cache.
const EVENTS_MAX: usize = 1024;

/// A device gets 16 KiB of the shared buffers a turn, so that a flood by one costs the others a turn's wait and no more.
const DEVICE_READS_MAX: u32 = 8;

/// A link gets 128 KiB a turn.
const LINK_READS_MAX: u32 = 2;

const _: () = assert!(usize::BITS == 64, "mio's tokens carry slot and generation");

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns of one driver against plain std sockets; the suite in `tests/` holds all drivers to the trait's text.
    fn driver() -> EpollDriver {
        let options = Options {
            sockets_max: 8,
            sockets_reserved: 0,
            device_buffers: 4,
            link_buffers: 2,
            ..Options::default()
        };
        EpollDriver::new(options).unwrap()
    }

    #[test]
    fn accepted_and_connected_sockets_send_without_delay() {
        let mut driver = driver();
        let address = driver.listen(([127, 0, 0, 1], 0).into(), ListenerId(1)).unwrap();
        let connecting = driver.connect(address).unwrap();
        let (mut completions, mut tokens) = (Vec::new(), Vec::new());
        while tokens.len() < 2 {
            driver.wait(None, &mut completions).unwrap();
            for completion in completions.drain(..) {
                match completion {
                    Completion::Accepted { listener, token, .. } => {
                        assert_eq!(listener, ListenerId(1));
                        tokens.push(token);
                    }
                    Completion::Connected { token } => {
                        assert_eq!(token, connecting);
                        tokens.push(token);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for token in tokens {
            let Phase::Open(stream) = &driver.sockets.get_mut(token).unwrap().phase else {
                panic!("not open");
            };
            assert!(stream.nodelay().unwrap());
        }
    }

    #[test]
    fn wait_with_a_deadline_in_the_past_returns_at_once_with_nothing() {
        let mut driver = driver();
        let mut completions = Vec::new();
        driver.wait(Some(Instant::ZERO), &mut completions).unwrap();
        assert!(completions.is_empty());
    }

    #[test]
    fn an_echo_comes_back() {
        use std::io::{Read, Write};
        let mut driver = driver();
        let address = driver.listen(([127, 0, 0, 1], 0).into(), ListenerId(1)).unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello").unwrap();
        let mut completions = Vec::new();
        let mut echoed = false;
        while !echoed {
            driver.wait(None, &mut completions).unwrap();
            for completion in completions.drain(..) {
                match completion {
                    Completion::Accepted { token, .. } => {
                        driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                    }
                    Completion::Received { token, buffer } => {
                        let bytes = driver.bytes(&buffer).to_vec();
                        driver.give_back(buffer);
                        driver.send(token, bytes);
                    }
                    Completion::Sent { result, .. } => {
                        result.unwrap();
                        echoed = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        let mut back = [0; 5];
        client.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"hello");
    }
}
