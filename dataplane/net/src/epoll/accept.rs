//! Accepting, and not accepting: the listeners of an `EpollDriver`.
//!
//! A client is accepted only when a slot is free for it, so that none is accepted and then refused; those who wait do so in the
//! kernel's backlog. A full table pauses until a socket closes; a kernel that is out of descriptors pauses until then or for
//! [`RETRY_AFTER`], since it may be another part of the process, or another process, that returns one.

use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::Interest;
use trunkline_wire::time::Instant;

use super::{EpollDriver, LISTENER, Socket};
use crate::clock;
use crate::driver::{Completion, ListenerId};

/// Listeners by index; an index is not used again, so that a late report finds nothing.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<Option<Listener>>);

#[derive(Debug)]
struct Listener {
    id: ListenerId,
    socket: mio::net::TcpListener,
    /// epoll reported clients and no accept has exhausted them since.
    ready: bool,
    pause: Pause,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pause {
    No,
    /// Until a socket closes.
    TableFull,
    /// Until a socket closes, or an attempt at this time succeeds.
    Kernel(Instant),
}

impl Listener {
    /// Whether no pause is in the way, or it is time to see if it is over.
    fn may_try(&self) -> bool {
        match self.pause {
            Pause::No => true,
            Pause::TableFull => false,
            Pause::Kernel(until) => until <= clock::now(),
        }
    }
}

impl Listeners {
    pub(super) fn add(
        &mut self,
        mut socket: mio::net::TcpListener,
        id: ListenerId,
        registry: &mio::Registry,
    ) -> io::Result<()> {
        let token = mio::Token(LISTENER | self.0.len());
        registry.register(&mut socket, token, Interest::READABLE)?;
        self.0.push(Some(Listener {
            id,
            socket,
            ready: false,
            pause: Pause::No,
        }));
        Ok(())
    }

    pub(super) fn remove(&mut self, id: ListenerId) {
        for listener in &mut self.0 {
            if listener.as_ref().is_some_and(|listener| listener.id == id) {
                *listener = None;
            }
        }
    }

    pub(super) fn note_ready(&mut self, index: usize) {
        if let Some(Some(listener)) = self.0.get_mut(index) {
            listener.ready = true;
        }
    }

    /// A socket was closed: there is room, or a descriptor.
    pub(super) fn resume(&mut self) {
        for listener in self.0.iter_mut().flatten() {
            listener.pause = Pause::No;
        }
    }

    /// Whether a client can be accepted without a further report.
    pub(super) fn ready(&self) -> bool {
        self.0
            .iter()
            .flatten()
            .any(|listener| listener.ready && listener.pause == Pause::No)
    }

    /// When the first pause ends by itself.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        let pauses = self.0.iter().flatten().filter_map(|listener| match listener.pause {
            Pause::Kernel(until) => Some(until),
            Pause::No | Pause::TableFull => None,
        });
        pauses.min()
    }
}

impl EpollDriver {
    /// Accepts a bounded number of clients at each listener that has some.
    pub(super) fn accept_ready(&mut self, completions: &mut Vec<Completion<Socket>>) {
        for index in 0..self.listeners.0.len() {
            self.accept_at(index, completions);
        }
    }

    fn accept_at(&mut self, index: usize, completions: &mut Vec<Completion<Socket>>) {
        for _ in 0..ACCEPTS_MAX {
            let room = self.room_for_clients();
            let Some(listener) = &mut self.listeners.0[index] else {
                return;
            };
            let id = listener.id;
            if !listener.ready || !listener.may_try() {
                return;
            }
            if room == 0 {
                listener.pause = Pause::TableFull;
                completions.push(Completion::AcceptPaused {
                    listener: id,
                    error: None,
                });
                return;
            }
            let result = match listener.socket.accept() {
                Ok((stream, peer)) => self
                    .take_in(stream)
                    .map(|token| (token, peer))
                    .map_err(|(error, _)| error),
                Err(error) => Err(error),
            };
            let Some(listener) = &mut self.listeners.0[index] else {
                unreachable!("accepting doesn't remove a listener")
            };
            match result {
                Ok((token, peer)) => {
                    listener.pause = Pause::No;
                    completions.push(Completion::Accepted {
                        listener: id,
                        token,
                        peer,
                    });
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => {
                        listener.pause = Pause::No;
                        listener.ready = false;
                        return;
                    }
                    // The client gave up while it waited; the next one need not suffer.
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted => {}
                    _ => {
                        // Out of descriptors or memory: the client stays in the backlog.
                        let until = clock::now() + RETRY_AFTER;
                        if std::mem::replace(&mut listener.pause, Pause::Kernel(until)) == Pause::No {
                            let error = Some(error);
                            completions.push(Completion::AcceptPaused { listener: id, error });
                        }
                        return;
                    }
                },
            }
        }
    }
}

/// Clients accepted at one listener in one turn, so that a reconnect storm doesn't hold up those who are connected.
const ACCEPTS_MAX: usize = 64;

/// Long enough not to burn the processor while the process is out of descriptors, short enough for a client to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);
