//! What all harnesses over the operating system share: plain sockets as peers, mute addresses, tests in a process of their own.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::harness::{End, Peer, Speed};

/// A non-blocking stream of the standard library.
pub struct OsPeer {
    stream: Option<TcpStream>,
    outgoing: Vec<u8>,
    sent: usize,
    finishing: bool,
    speed: Speed,
    received: Vec<u8>,
    end: Option<End>,
}

impl OsPeer {
    /// Connects; the kernel completes it before anyone accepts.
    pub fn dial(to: SocketAddr) -> OsPeer {
        let stream = TcpStream::connect(to).expect("the listener's backlog has room");
        stream.set_nonblocking(true).expect("a fresh socket takes options");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        OsPeer {
            stream: Some(stream),
            outgoing: Vec::new(),
            sent: 0,
            finishing: false,
            speed: Speed::Full,
            received: Vec::new(),
            end: None,
        }
    }
}

impl Peer for OsPeer {
    fn turn(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let mut any = false;
        if self.sent < self.outgoing.len() {
            match stream.write(&self.outgoing[self.sent..]) {
                Ok(written) => {
                    self.sent += written;
                    any = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.sent = self.outgoing.len(),
            }
        }
        if self.finishing && self.sent == self.outgoing.len() {
            self.finishing = false;
            let _ = stream.shutdown(Shutdown::Write);
        }
        if self.speed == Speed::Full && self.end.is_none() {
            let mut room = [0; 32 * 1024];
            match stream.read(&mut room) {
                Ok(0) => self.end = Some(End::Eof),
                Ok(read) => {
                    self.received.extend_from_slice(&room[..read]);
                    any = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.end = Some(End::Reset),
            }
        }
        any
    }

    fn send(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
        self.turn();
    }

    fn read_at(&mut self, speed: Speed) {
        self.speed = speed;
    }

    fn received(&self) -> &[u8] {
        &self.received
    }

    fn drained(&self) -> bool {
        self.sent == self.outgoing.len()
    }

    fn end(&self) -> Option<End> {
        self.end
    }

    fn finish(&mut self) {
        self.finishing = true;
        self.turn();
    }

    fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            linger.expect("an open socket takes options");
        }
    }
}

/// Loopback has a whole /8, so that a hundred thousand connections don't use up the ports of one address.
pub fn loopbacks() -> Vec<IpAddr> {
    (1..=8).map(|last| Ipv4Addr::new(127, 0, 0, last).into()).collect()
}

/// A listener that never accepts and whose backlog is full: the kernel drops further SYNs.
pub struct Mute {
    address: SocketAddr,
    _sockets: Vec<Socket>,
}

impl Mute {
    pub fn new() -> Mute {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        listener.bind(&any.into()).expect("a free port");
        listener.listen(0).expect("a bound socket listens");
        let address = listener
            .local_addr()
            .ok()
            .and_then(|address| address.as_socket())
            .expect("an address");
        let mut sockets = vec![listener];
        // A backlog of 0 holds one connection; the others keep trying.
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a fresh socket takes options");
            let _ = socket.connect(&address.into());
            sockets.push(socket);
        }
        Mute {
            address,
            _sockets: sockets,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Runs `body` in a process that runs nothing else: for what counts or exhausts the process's descriptors.
///
/// To be called from the test named `test`, which is run again in a child.
pub fn alone(test: &str, body: impl FnOnce()) {
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("the test's own path");
    let child = Command::new(program)
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output();
    let child = child.expect("the test starts again");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        child.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&child.stderr)
    );
    assert!(said.contains("1 passed"), "{test} is not the test's name: {said}");
}

const ALONE: &str = "TRUNKLINE_TEST_ALONE";

/// Descriptors that this process holds.
pub fn descriptors_open() -> usize {
    std::fs::read_dir("/proc/self/fd")
        .expect("Linux says what is open")
        .count()
}
