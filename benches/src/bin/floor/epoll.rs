//! The floor over readiness: edge-triggered, one read a report, one write a socket and turn.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::forwarder::Forwarder;

struct Socket {
    stream: mio::net::TcpStream,
    /// How much of what was gathered is written.
    written: usize,
    /// The kernel takes nothing until it says so.
    blocked: bool,
}

/// Forwards until the process is ended.
///
/// # Errors
/// Only what makes it unusable.
pub fn run(listener: TcpListener, next: Option<TcpStream>, ready: impl FnOnce()) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = mio::net::TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut sockets: Slab<Socket> = Slab::new();
    let mut forwarder = Forwarder::default();
    let mut buffer = vec![0; READ_BYTES];
    if let Some(next) = next {
        next.set_nonblocking(true)?;
        let slot = insert(mio::net::TcpStream::from_std(next), &poll, &mut sockets)?;
        forwarder.connected(slot);
        write(&mut sockets[slot], forwarder.gathered(slot));
    }
    ready();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut sockets, &mut forwarder)?;
                continue;
            }
            let slot = event.token().0;
            let Some(socket) = sockets.get_mut(slot) else {
                continue;
            };
            if event.is_writable() && std::mem::take(&mut socket.blocked) {
                write(socket, forwarder.gathered(slot));
            }
            if event.is_readable() && !read(&mut socket.stream, slot, &mut forwarder, &mut buffer) {
                forwarder.closed(slot);
                sockets.remove(slot);
            }
        }
        while let Some(slot) = forwarder.next_dirty() {
            if !sockets[slot].blocked {
                write(&mut sockets[slot], forwarder.gathered(slot));
            }
        }
    }
}

fn accept(
    listener: &mio::net::TcpListener,
    poll: &Poll,
    sockets: &mut Slab<Socket>,
    forwarder: &mut Forwarder,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // A client that left again already; and a full table of descriptors would end the floor, as it should.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        forwarder.accepted(insert(stream, poll, sockets)?);
    }
}

fn insert(mut stream: mio::net::TcpStream, poll: &Poll, sockets: &mut Slab<Socket>) -> io::Result<usize> {
    let entry = sockets.vacant_entry();
    let slot = entry.key();
    poll.registry()
        .register(&mut stream, Token(slot), Interest::READABLE | Interest::WRITABLE)?;
    entry.insert(Socket {
        stream,
        written: 0,
        blocked: false,
    });
    Ok(slot)
}

/// Reads what is there; false when it was the last.
fn read(stream: &mut mio::net::TcpStream, slot: usize, forwarder: &mut Forwarder, buffer: &mut [u8]) -> bool {
    loop {
        match stream.read(buffer) {
            Ok(0) => return false,
            Ok(bytes) => {
                if let Err(error) = forwarder.received(slot, &buffer[..bytes]) {
                    eprintln!("a connection is closed: {error}");
                    return false;
                }
                // Less than was asked for is all there is, and what comes later is reported again.
                if bytes < buffer.len() {
                    return true;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
}

/// Writes what was gathered, as far as the kernel takes it. A broken stream shows when it is read.
fn write(socket: &mut Socket, gathered: &mut Vec<u8>) {
    while socket.written < gathered.len() {
        match socket.stream.write(&gathered[socket.written..]) {
            Ok(bytes) => socket.written += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                socket.blocked = true;
                return;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    socket.written = 0;
    gathered.clear();
}

const LISTENER: Token = Token(usize::MAX - 1);
/// What one look at readiness brings at most.
const EVENTS: usize = 4096;
/// What one read brings at most: more than any socket's share of a turn under the loads that are measured.
const READ_BYTES: usize = 256 << 10;
