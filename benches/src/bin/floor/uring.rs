//! The floor over io_uring: multishot accept and receive, direct descriptors, one send in flight a socket.
//!
//! The kernel runs at most 20 deferred completions an enter. So before sends are flushed, the ring is entered again as long as it says
//! that there are more: otherwise the sends of a turn are small and many, and io_uring is slower than epoll.
#![allow(unsafe_code)]

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nix::errno::Errno;

use crate::buffers::Buffers;
use crate::forwarder::Forwarder;

/// Forwards until the process is ended.
///
/// # Errors
/// Only what makes it unusable.
pub fn run(listener: &TcpListener, next: Option<&TcpStream>, ready: impl FnOnce()) -> io::Result<()> {
    let uring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS)
        .build(SUBMISSIONS)?;
    uring.submitter().register_files_sparse(sockets_max()?)?;
    let buffers = Buffers::register(&uring, GROUP)?;
    let mut floor = Floor {
        uring,
        buffers,
        forwarder: Forwarder::default(),
        sockets: Vec::new(),
        batch: Vec::new(),
        listener: Fd(listener.as_raw_fd()),
    };
    if let Some(next) = next {
        // Before anything is accepted, so that the first place is free.
        let slot = 0;
        floor
            .uring
            .submitter()
            .register_files_update(slot, &[next.as_raw_fd()])?;
        floor.sockets.push(Socket::default());
        floor.forwarder.connected(slot as usize);
        floor.receive(slot as usize)?;
        floor.send(slot as usize)?;
    }
    floor.accept()?;
    ready();
    loop {
        floor.turn()?;
    }
}

struct Floor {
    // Dropped in this order: the buffers outlive the ring.
    uring: IoUring,
    buffers: Buffers,
    forwarder: Forwarder,
    /// By the number of the direct descriptor.
    sockets: Vec<Socket>,
    /// Completions on their way from the ring.
    batch: Vec<cqueue::Entry>,
    listener: Fd,
}

#[derive(Default)]
struct Socket {
    /// What the kernel is sending; neither touched nor moved meanwhile.
    in_flight: Vec<u8>,
    sending: bool,
    receiving: bool,
    /// Nothing more is to be received; it is closed when neither is under way.
    ended: bool,
}

#[derive(Clone, Copy)]
enum Op {
    Accept,
    Receive,
    Send,
    /// Of a receive, or a close: nothing follows from either.
    Ending,
}

impl Op {
    const ALL: [Op; 4] = [Op::Accept, Op::Receive, Op::Send, Op::Ending];

    fn on(self, slot: usize) -> u64 {
        (self as u64) << 32 | slot as u64
    }
}

impl Floor {
    fn turn(&mut self) -> io::Result<()> {
        self.enter(1)?;
        self.drain()?;
        for _ in 0..DRAINS_MAX {
            if !self.uring.submission().taskrun() {
                break;
            }
            // With the flag set this enters with GETEVENTS, and waits for nothing.
            self.enter(0)?;
            self.drain()?;
        }
        while let Some(slot) = self.forwarder.next_dirty() {
            self.send(slot)?;
        }
        Ok(())
    }

    fn enter(&mut self, wanted: usize) -> io::Result<()> {
        match self.uring.submit_and_wait(wanted) {
            // Interrupted, or completions have to be taken first.
            Err(error)
                if matches!(
                    Errno::from_raw(error.raw_os_error().unwrap_or(0)),
                    Errno::EINTR | Errno::EBUSY
                ) =>
            {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn drain(&mut self) -> io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        batch.extend(self.uring.completion());
        for entry in batch.drain(..) {
            let slot = entry.user_data() as u32 as usize;
            match Op::ALL[(entry.user_data() >> 32) as usize] {
                Op::Accept => self.accepted(&entry)?,
                Op::Receive => self.received(slot, &entry)?,
                Op::Send => self.sent(slot, entry.result())?,
                Op::Ending => {}
            }
        }
        self.batch = batch;
        self.buffers.publish();
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(self.listener).allocate_file_index(true);
        self.push(accept.build().user_data(Op::Accept.on(0)))
    }

    fn accepted(&mut self, entry: &cqueue::Entry) -> io::Result<()> {
        match entry.result() {
            error @ ..0 if error != -(Errno::ECONNABORTED as i32) => return Err(io::Error::from_raw_os_error(-error)),
            ..0 => {}
            slot => {
                let slot = slot as usize;
                if slot >= self.sockets.len() {
                    self.sockets.resize_with(slot + 1, Socket::default);
                }
                self.sockets[slot] = Socket::default();
                self.forwarder.accepted(slot);
                self.receive(slot)?;
            }
        }
        if cqueue::more(entry.flags()) {
            return Ok(());
        }
        self.accept()
    }

    fn receive(&mut self, slot: usize) -> io::Result<()> {
        self.sockets[slot].receiving = true;
        let receive = opcode::RecvMulti::new(Fixed(slot as u32), GROUP);
        self.push(receive.build().user_data(Op::Receive.on(slot)))
    }

    fn received(&mut self, slot: usize, entry: &cqueue::Entry) -> io::Result<()> {
        let result = entry.result();
        let mut malformed = false;
        if let Some(index) = cqueue::buffer_select(entry.flags()) {
            let bytes = self.buffers.bytes(index, result.max(0) as usize);
            if !self.sockets[slot].ended
                && let Err(error) = self.forwarder.received(slot, bytes)
            {
                eprintln!("a connection is closed: {error}");
                malformed = true;
            }
            self.buffers.give_back(index);
        }
        // Out of buffers is not the end: some are back by now.
        let over = result == 0 || (result < 0 && result != -(Errno::ENOBUFS as i32));
        if (over || malformed) && !std::mem::replace(&mut self.sockets[slot].ended, true) {
            self.forwarder.closed(slot);
        }
        self.sockets[slot].receiving = cqueue::more(entry.flags());
        match (self.sockets[slot].receiving, self.sockets[slot].ended) {
            (true, false) => Ok(()),
            (false, false) => self.receive(slot),
            (false, true) => self.close_if_done(slot),
            (true, true) => {
                let cancel = opcode::AsyncCancel::new(Op::Receive.on(slot));
                self.push(cancel.build().user_data(Op::Ending.on(slot)))
            }
        }
    }

    fn send(&mut self, slot: usize) -> io::Result<()> {
        let socket = &mut self.sockets[slot];
        if socket.sending || socket.ended {
            return Ok(());
        }
        socket.in_flight.clear();
        std::mem::swap(&mut socket.in_flight, self.forwarder.gathered(slot));
        if socket.in_flight.is_empty() {
            return Ok(());
        }
        self.send_in_flight(slot)
    }

    fn send_in_flight(&mut self, slot: usize) -> io::Result<()> {
        let socket = &mut self.sockets[slot];
        socket.sending = true;
        let bytes = &socket.in_flight;
        let send = opcode::Send::new(Fixed(slot as u32), bytes.as_ptr(), bytes.len() as u32)
            .flags(nix::libc::MSG_WAITALL | nix::libc::MSG_NOSIGNAL);
        self.push(send.build().user_data(Op::Send.on(slot)))
    }

    fn sent(&mut self, slot: usize, result: i32) -> io::Result<()> {
        let socket = &mut self.sockets[slot];
        socket.sending = false;
        if socket.ended {
            return self.close_if_done(slot);
        }
        if result > 0 && (result as usize) < socket.in_flight.len() {
            // The kernel was interrupted; nothing else was sent meanwhile, so that the stream can go on.
            socket.in_flight.drain(..result as usize);
            return self.send_in_flight(slot);
        }
        socket.in_flight.clear();
        if result < 0 {
            // A broken stream shows when it is read.
            return Ok(());
        }
        // What was gathered meanwhile leaves at the end of the turn, with what the turn still adds.
        self.forwarder.flush_again(slot);
        Ok(())
    }

    fn close_if_done(&mut self, slot: usize) -> io::Result<()> {
        if self.sockets[slot].sending || self.sockets[slot].receiving {
            return Ok(());
        }
        let close = opcode::Close::new(Fixed(slot as u32));
        self.push(close.build().user_data(Op::Ending.on(slot)))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the only entry with a pointer is a send, whose bytes are `in_flight` of its socket. They stay allocated and
            // untouched while `sending` is set, which only its completion unsets; and the ring is dropped before the sockets.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.uring.submit()?;
        }
    }
}

/// As many sockets as the process may have descriptors: the kernel allows no larger table.
fn sockets_max() -> io::Result<u32> {
    let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)?;
    Ok(soft.min(SOCKETS_MAX) as u32)
}

const SOCKETS_MAX: u64 = 1 << 16;
const SUBMISSIONS: u32 = 1024;
const COMPLETIONS: u32 = 16_384;
/// How often the ring is entered again before sends are flushed: up to 640 completions.
const DRAINS_MAX: usize = 32;
/// The one group of buffers.
const GROUP: u16 = 0;
