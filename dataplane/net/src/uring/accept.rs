//! Accepting, and not accepting: the listeners of a `UringDriver`.
//!
//! Each listener has a few single accepts under way, never more than there is room for. Single ones, though the kernel offers
//! one that goes on: that one doesn't tell the client's address, and it accepts whom the table has no room for.
//!
//! A connect or an adoption may take the room that an accept already counted on. Its client, if it comes, is held until there is
//! room; the table of direct descriptors has places for these.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::opcode;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use nix::errno::Errno;
use nix::libc;
use socket2::{SockAddr, SockAddrStorage};
use trunkline_wire::time::Instant;

use super::key::{Key, Op};
use super::ring::{Outcome, Ring};
use super::socket::Socket;
use super::{InTransit, UringDriver};
use crate::clock;
use crate::driver::{Completion, ListenerId};

/// Listeners by place; the place of one that was closed is free when its accepts have come back.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<Option<Listener>>);

#[derive(Debug)]
struct Listener {
    id: ListenerId,
    socket: socket2::Socket,
    /// By place.
    accepts: Box<[Accept; ACCEPTS_MAX]>,
    /// Accepts under way.
    armed: usize,
    /// Clients who came when their room was taken.
    held: Vec<(Fixed, SocketAddr)>,
    pause: Pause,
    /// The caller closed it.
    ending: bool,
}

/// An accept's memory, which the kernel writes to.
#[derive(Debug)]
struct Accept {
    storage: SockAddrStorage,
    length: libc::socklen_t,
    armed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pause {
    No,
    /// Until a socket closes.
    TableFull,
    /// Until a socket closes, or this time.
    Kernel(Instant),
}

impl Listener {
    /// Starts accepts until `wanted` are under way.
    fn arm(&mut self, place: usize, wanted: usize, ring: &mut Ring) {
        for (index, accept) in self.accepts.iter_mut().enumerate() {
            if self.armed >= wanted {
                return;
            }
            if accept.armed {
                continue;
            }
            accept.armed = true;
            accept.length = accept.storage.size_of();
            let address = (&raw mut accept.storage).cast();
            let key = Key::new(Op::Accept, place as u32, index as u32);
            let entry = opcode::Accept::new(Fd(self.socket.as_raw_fd()), address, &raw mut accept.length)
                .file_index(Some(DestinationSlot::auto_target()))
                .build()
                .user_data(key.encode());
            // SAFETY: `accept` is boxed, and not touched while it's `armed`, which ends with the completion. The listener, and with it
            // the box, is dropped only when none is.
            unsafe { ring.push(entry) };
            self.armed += 1;
        }
    }

    /// Calls back all accepts that are under way.
    fn cancel(&self, place: usize, ring: &mut Ring) {
        for (index, accept) in self.accepts.iter().enumerate() {
            if accept.armed {
                let key = Key::new(Op::Accept, place as u32, index as u32);
                cancel(ring, key);
            }
        }
    }
}

/// Calls back the operation of `key`; its completion says whether in time.
pub(super) fn cancel(ring: &mut Ring, key: Key) {
    let entry = opcode::AsyncCancel2::new(CancelBuilder::user_data(key.encode()))
        .build()
        .flags(io_uring::squeue::Flags::SKIP_SUCCESS)
        .user_data(Key::new(Op::Cancel, 0, 0).encode());
    // SAFETY: a cancellation points to no memory.
    unsafe { ring.push(entry) };
}

impl Listeners {
    /// Adds a listener.
    ///
    /// # Errors
    /// Too many.
    pub(super) fn add(&mut self, socket: socket2::Socket, id: ListenerId) -> io::Result<()> {
        let accept = || Accept {
            storage: SockAddrStorage::zeroed(),
            length: 0,
            armed: false,
        };
        let listener = Listener {
            id,
            socket,
            accepts: Box::new(std::array::from_fn(|_| accept())),
            armed: 0,
            held: Vec::new(),
            pause: Pause::No,
            ending: false,
        };
        match self.0.iter().position(Option::is_none) {
            Some(place) => self.0[place] = Some(listener),
            None if self.0.len() < LISTENERS_MAX => self.0.push(Some(listener)),
            None => return Err(io::Error::other("too many listeners")),
        }
        Ok(())
    }

    /// A socket was closed: there is room, or memory.
    pub(super) fn resume(&mut self) {
        for listener in self.0.iter_mut().flatten() {
            listener.pause = Pause::No;
        }
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

impl UringDriver {
    /// Ends the listeners named `id`. At once: who connects from now on is refused.
    pub(super) fn end_listeners(&mut self, id: ListenerId) {
        for place in 0..self.listeners.0.len() {
            let Some(listener) = &mut self.listeners.0[place] else {
                continue;
            };
            if listener.id != id || listener.ending {
                continue;
            }
            listener.ending = true;
            // The descriptor alone would not do: accepts under way keep the listener alive until they're cancelled.
            let _ = listener.socket.shutdown(Shutdown::Both);
            listener.cancel(place, &mut self.ring);
            let held = std::mem::take(&mut listener.held);
            if listener.armed == 0 {
                self.listeners.0[place] = None;
            }
            for (descriptor, _) in held {
                self.close_orphan(descriptor);
            }
        }
    }

    /// Lets in who is held, and starts as many accepts as there is room for; none, and says so, if there is none.
    pub(super) fn arm_accepts(&mut self, completions: &mut Vec<Completion<InTransit>>) {
        let open = self.listeners.0.iter().flatten().filter(|listener| !listener.ending);
        let listeners = open.count();
        for place in 0..self.listeners.0.len() {
            while let Some(Some(listener)) = self.listeners.0.get_mut(place)
                && !listener.held.is_empty()
                && room_for_clients(&self.sockets, self.reserved) > 0
            {
                let (id, (descriptor, peer)) = (listener.id, listener.held.remove(0));
                self.let_in(id, descriptor, peer, completions);
            }
            let room = room_for_clients(&self.sockets, self.reserved);
            let Some(listener) = &mut self.listeners.0[place] else {
                continue;
            };
            if listener.ending {
                continue;
            }
            if room == 0 {
                if listener.pause != Pause::TableFull {
                    listener.pause = Pause::TableFull;
                    listener.cancel(place, &mut self.ring);
                    completions.push(Completion::AcceptPaused {
                        listener: listener.id,
                        error: None,
                    });
                }
                continue;
            }
            match listener.pause {
                Pause::Kernel(until) if until > clock::now() => continue,
                Pause::No | Pause::TableFull | Pause::Kernel(_) => {}
            }
            // Not the room's end for one listener and nothing for the next.
            let wanted = (room / listeners.max(1)).clamp(1, ACCEPTS_MAX);
            listener.arm(place, wanted, &mut self.ring);
        }
    }

    /// An accept came back.
    pub(super) fn accepted(&mut self, key: Key, outcome: Outcome, completions: &mut Vec<Completion<InTransit>>) {
        let place = key.generation as usize;
        let Some(Some(listener)) = self.listeners.0.get_mut(place) else {
            debug_assert!(false, "a listener stays until its accepts are back");
            return;
        };
        let accept = &mut listener.accepts[key.slot as usize];
        accept.armed = false;
        listener.armed -= 1;
        let (id, ending) = (listener.id, listener.ending);
        let peer = outcome.error().is_none().then(|| peer_of(accept));
        if ending && listener.armed == 0 {
            self.listeners.0[place] = None;
        }
        if let Some(peer) = peer {
            let descriptor = Fixed(outcome.result as u32);
            if ending {
                self.close_orphan(descriptor);
            } else if room_for_clients(&self.sockets, self.reserved) > 0 {
                if let Some(listener) = &mut self.listeners.0[place] {
                    listener.pause = Pause::No;
                }
                self.let_in(id, descriptor, peer, completions);
            } else if let Some(listener) = &mut self.listeners.0[place] {
                listener.held.push((descriptor, peer));
            }
            return;
        }
        if let (Some(listener), Some(error)) = (&mut self.listeners.0[place], outcome.error()) {
            listener.failed(error, completions);
        }
    }

    fn let_in(
        &mut self,
        listener: ListenerId,
        descriptor: Fixed,
        peer: SocketAddr,
        completions: &mut Vec<Completion<InTransit>>,
    ) {
        match self.sockets.insert(Socket::open(descriptor)) {
            Ok(token) => completions.push(Completion::Accepted { listener, token, peer }),
            Err(_) => unreachable!("there is room"),
        }
    }
}

impl Listener {
    fn failed(&mut self, error: Errno, completions: &mut Vec<Completion<InTransit>>) {
        match error {
            // Called back; or the client gave up while it waited, and the next one need not suffer.
            Errno::ECANCELED | Errno::ECONNABORTED | Errno::ECONNRESET | Errno::EINTR | Errno::EAGAIN => {}
            _ if self.ending => {}
            // Out of memory, or the table of direct descriptors is.
            _ => {
                let until = clock::now() + RETRY_AFTER;
                let before = std::mem::replace(&mut self.pause, Pause::Kernel(until));
                if before == Pause::No {
                    let error = Some(io::Error::from(error));
                    completions.push(Completion::AcceptPaused {
                        listener: self.id,
                        error,
                    });
                }
            }
        }
    }
}

/// The client's address, as an accept left it.
fn peer_of(accept: &mut Accept) -> SocketAddr {
    let storage = std::mem::replace(&mut accept.storage, SockAddrStorage::zeroed());
    // SAFETY: the kernel filled both in, family and length of one another; the accept came back, so that it doesn't any more.
    let address = unsafe { SockAddr::new(storage, accept.length) };
    let unknown = || SocketAddr::from(([0, 0, 0, 0], 0));
    address.as_socket().unwrap_or_else(unknown)
}

/// How many clients may be let in.
pub(super) fn room_for_clients(sockets: &crate::slots::Slots<Socket>, reserved: u32) -> usize {
    sockets.room().saturating_sub(reserved as usize)
}

/// Accepts under way at one listener, and so clients accepted at once: a reconnect storm doesn't hold up those who are connected.
pub(super) const ACCEPTS_MAX: usize = 16;

/// A shard has two.
pub(super) const LISTENERS_MAX: usize = 16;

/// Long enough not to burn the processor while the kernel is out of memory, short enough for a client to wait.
const RETRY_AFTER: Duration = Duration::from_millis(100);
