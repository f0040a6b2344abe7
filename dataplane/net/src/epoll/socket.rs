//! One socket of an `EpollDriver`: what the caller started on it, and what epoll last said of it.

use std::io::{self, ErrorKind, Read, Write};

use crate::buffers::Pool;
use crate::driver::{BufferGroup, Completion, ReceiveMode, Token};

/// A socket from accept, connect or adoption until its slot is free.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) phase: Phase,
    pub(super) receive: Receive,
    pub(super) send: Send,
    /// epoll reported data (or an end) that no read has exhausted since. Edge-triggered: it won't say so again.
    pub(super) readable: bool,
    /// The report spoke of an end as well: a read that brings less than asked for doesn't exhaust the socket, since no further
    /// report follows.
    pub(super) ended: bool,
    /// Whether anything was sent: then the close must see to it that the peer can read it.
    pub(super) wrote: bool,
}

/// How far a socket is.
#[derive(Debug)]
pub(super) enum Phase {
    Connecting(mio::net::TcpStream),
    Open(mio::net::TcpStream),
    /// The connect failed; only the caller's close is to come.
    Failed,
    /// Closed or handed over; the slot is freed when the caller is told so.
    Leaving,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Receive {
    Idle,
    Armed(ReceiveMode, BufferGroup),
    /// By the peer's end or an error: not to be armed again.
    Ended,
}

#[derive(Debug)]
pub(super) enum Send {
    Idle,
    /// The kernel has taken the first `sent` bytes and no more for now.
    Blocked {
        bytes: Vec<u8>,
        sent: usize,
    },
    /// `Sent` waits to be delivered.
    Done,
    /// As `Idle`, but part of a buffer was lost: nothing may follow it.
    Broken,
    /// As `Done`, and broken thereafter.
    DoneBroken,
}

impl Socket {
    pub(super) fn new(phase: Phase) -> Socket {
        Socket {
            phase,
            receive: Receive::Idle,
            send: Send::Idle,
            readable: false,
            ended: false,
            wrote: false,
        }
    }

    /// The stream of a socket that has one.
    pub(super) fn into_stream(self) -> mio::net::TcpStream {
        match self.phase {
            Phase::Connecting(stream) | Phase::Open(stream) => stream,
            Phase::Failed | Phase::Leaving => unreachable!("asked for only while it has one"),
        }
    }

    /// After a report on a socket that connects: how it ended. `None` if it didn't, or was over before.
    pub(super) fn finish_connect(&mut self) -> Option<io::Result<()>> {
        let Phase::Connecting(stream) = &mut self.phase else {
            return None;
        };
        let result = match stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => match stream.peer_addr() {
                Ok(_) => Ok(()),
                Err(error) if error.kind() == ErrorKind::NotConnected => return None,
                Err(error) => Err(error),
            },
        };
        self.phase = match std::mem::replace(&mut self.phase, Phase::Failed) {
            Phase::Connecting(stream) if result.is_ok() => Phase::Open(stream),
            _ => Phase::Failed,
        };
        Some(result)
    }

    /// Reads once for the armed receive, into a buffer of `pool`. `None` if the socket has nothing, or the pool.
    pub(super) fn read(&mut self, token: Token, pool: &mut Pool) -> Option<Completion<super::Socket>> {
        let (Phase::Open(stream), Receive::Armed(mode, _)) = (&mut self.phase, self.receive) else {
            return None;
        };
        let asked = pool.bytes_each();
        let answer = loop {
            match pool.lend(|room| stream.read(room))? {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                answer => break answer,
            }
        };
        match answer {
            Ok(Some(mut buffer)) => {
                buffer.followed = self.ended;
                self.readable = buffer.length() == asked || self.ended;
                if mode == ReceiveMode::Once {
                    self.receive = Receive::Idle;
                }
                Some(Completion::Received { token, buffer })
            }
            Ok(None) => {
                self.receive = Receive::Ended;
                Some(Completion::Eof { token })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                None
            }
            Err(error) => {
                self.receive = Receive::Ended;
                Some(Completion::ReceiveFailed { token, error })
            }
        }
    }

    /// Whether a second send would panic.
    pub(super) fn sending(&self) -> bool {
        match self.send {
            Send::Blocked { .. } | Send::Done | Send::DoneBroken => true,
            Send::Idle | Send::Broken => false,
        }
    }

    /// Whether part of a send waits for the kernel's room.
    pub(super) fn blocked(&self) -> bool {
        matches!(self.send, Send::Blocked { .. })
    }

    /// The group to read for, if there is something to read and somebody wants it.
    pub(super) fn wants_read(&self) -> Option<BufferGroup> {
        match (&self.phase, self.receive) {
            (Phase::Open(_), Receive::Armed(_, group)) if self.readable => Some(group),
            _ => None,
        }
    }

    /// The caller was told of the send's end: the next may start.
    pub(super) fn send_delivered(&mut self) {
        self.send = match std::mem::replace(&mut self.send, Send::Idle) {
            Send::Done | Send::Idle => Send::Idle,
            Send::DoneBroken | Send::Broken => Send::Broken,
            Send::Blocked { .. } => unreachable!("a blocked send has not been answered"),
        };
    }

    /// Writes what is left of a blocked send. `None` while it stays blocked.
    pub(super) fn flush(&mut self) -> Option<(Vec<u8>, io::Result<()>)> {
        let Phase::Open(stream) = &mut self.phase else {
            return None;
        };
        let Send::Blocked { bytes, sent } = &mut self.send else {
            return None;
        };
        let result = loop {
            match stream.write(&bytes[*sent..]) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(written) => *sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break Err(error),
            }
            if *sent == bytes.len() {
                break Ok(());
            }
        };
        let bytes = std::mem::take(bytes);
        self.send = if result.is_ok() { Send::Done } else { Send::DoneBroken };
        Some((bytes, result))
    }
}

/// Closes `stream` so that what the kernel took is still delivered: a close with unread bytes would send a reset, which discards
/// what the peer has not been sent yet. Bounded, so that a peer that floods can't hold the thread.
pub(super) fn close_gently(mut stream: mio::net::TcpStream) {
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut sink = [0; 4096];
    for _ in 0..DRAIN_READS_MAX {
        match stream.read(&mut sink) {
            Ok(read) if read == sink.len() => {}
            _ => return,
        }
    }
}

/// 64 KiB: what a device may well have under way when it is told to go.
const DRAIN_READS_MAX: usize = 16;
