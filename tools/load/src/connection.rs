//! One connection of the load: opening it from an address of its own, reading frames, writing what was gathered.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mio::{Interest, Poll, Token};
use socket2::{Domain, Protocol as Transport, Socket, Type};

use crate::error::Error;

/// An open socket and its two buffers.
#[derive(Debug)]
pub struct Connection {
    stream: mio::net::TcpStream,
    /// The part of a frame whose rest is still to come.
    tail: Vec<u8>,
    /// What is to be written, and how much of it is.
    pub out: Vec<u8>,
    written: usize,
    /// The kernel takes nothing until it says so.
    blocked: bool,
}

/// What reading brought.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Successful system calls.
    pub receives: u64,
}

impl Connection {
    /// Connects, from the `index`th source address, and registers the socket under its token.
    ///
    /// # Errors
    /// The target doesn't accept.
    pub fn open(address: SocketAddr, index: usize, poll: &Poll, token: Token) -> Result<Connection, Error> {
        let connect = || -> io::Result<Connection> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Transport::TCP))?;
            if let Some(source) = source(address, index) {
                socket.bind(&source.into())?;
            }
            socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)?;
            socket.set_tcp_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let mut stream = mio::net::TcpStream::from_std(socket.into());
            poll.registry()
                .register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
            Ok(Connection {
                stream,
                tail: Vec::new(),
                out: Vec::new(),
                written: 0,
                blocked: false,
            })
        };
        connect().map_err(|error| Error::Connect { address, error })
    }

    /// The kernel takes bytes again.
    pub fn writable(&mut self) {
        self.blocked = false;
    }

    /// Bytes that are to be written.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// Writes what was gathered, as far as the kernel takes it; how many system calls that took.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<u64> {
        let mut sends = 0;
        while !self.blocked && self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(bytes) => {
                    self.written += bytes;
                    sends += 1;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.written == self.out.len() {
            self.written = 0;
            self.out.clear();
        }
        Ok(sends)
    }

    /// Reads what is there and hands it to `parse`, which returns how much it used. `buffer` holds the rest of a frame and a read.
    ///
    /// # Errors
    /// The connection has ended, or `parse` can't go on: why.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        parse: &mut impl FnMut(&[u8], &mut Vec<u8>) -> Result<usize, String>,
    ) -> Result<Reading, String> {
        let mut reading = Reading::default();
        loop {
            let held = self.tail.len();
            buffer[..held].copy_from_slice(&self.tail);
            match self.stream.read(&mut buffer[held..]) {
                Ok(0) => return Err("it sent no reason".to_owned()),
                Ok(bytes) => {
                    reading.receives += 1;
                    let end = held + bytes;
                    let used = parse(&buffer[..end], &mut self.out)?;
                    self.tail.clear();
                    self.tail.extend_from_slice(&buffer[used..end]);
                    // Less than was asked for is all there is, and what comes later is reported again.
                    if end < buffer.len() {
                        return Ok(reading);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(reading),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

/// The address that the `index`th connection comes from: on loopback one of [`SOURCES`], each of which has its own ports.
fn source(target: SocketAddr, index: usize) -> Option<SocketAddr> {
    match target.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let source = Ipv4Addr::new(127, 1, 0, (index % SOURCES + 1) as u8);
            Some(SocketAddr::from((source, 0)))
        }
        _ => None,
    }
}

/// So many addresses, with 28,000 ports each, serve seven million connections.
const SOURCES: usize = 250;
/// What a connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What one read brings at most, and the longest frame of any protocol with it.
pub const BUFFER_BYTES: usize = 512 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_on_loopback_spread_over_addresses_and_others_do_not() {
        let loopback = "127.0.0.1:80".parse().unwrap();
        assert_ne!(source(loopback, 0), source(loopback, 1));
        assert_eq!(source(loopback, 0), source(loopback, SOURCES));
        assert_eq!(source("10.0.0.1:80".parse().unwrap(), 0), None);
        assert_eq!(source("[::1]:80".parse().unwrap(), 0), None);
    }
}
