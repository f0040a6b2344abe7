//! Operations on sockets, into the ring.

use io_uring::squeue::Flags;
use io_uring::types::{DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};
use nix::errno::Errno;
use nix::libc;
use socket2::SockAddr;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::UringDriver;
use super::handover::Berth;
use super::key::{Key, Op};
use super::socket::{Dial, Receive, Send, Socket};
use crate::doorbell::Bell;
use crate::driver::{BufferGroup, ReceiveMode, Token};

/// How many bytes one receive takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Shots {
    /// A buffer's, and it's over.
    One,
    /// All that come, until it's cancelled or the buffers are out.
    Many,
}

impl UringDriver {
    /// Starts a receive on `token`, or queues it for the buffers.
    pub(super) fn start_receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        let crowded = !self.parked.of(group).is_empty() || self.pools.of(group).free() == 0;
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let greedy = group == BufferGroup::Device && socket.taken.is_over(self.waits);
        if crowded || greedy {
            socket.receive = Receive::Parked(mode, group);
            self.parked.of_mut(group).push(token.slot);
            return;
        }
        let shots = match mode {
            ReceiveMode::Once => Shots::One,
            ReceiveMode::Stream => Shots::Many,
        };
        self.arm_receive(token, mode, group, shots);
    }

    pub(super) fn arm_receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup, shots: Shots) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Some(descriptor) = socket.descriptor else {
            return;
        };
        socket.receive = Receive::Armed(mode, group);
        socket.outstanding += 1;
        let priority = match shots {
            // Nothing to read is the rule, when a stream is armed: ask before trying.
            Shots::Many => RECEIVE_MULTISHOT | RECEIVE_POLL_FIRST,
            Shots::One => 0,
        };
        let entry = opcode::Recv::new(descriptor, std::ptr::null_mut(), 0)
            .buf_group(group as u16)
            .ioprio(priority)
            .build()
            .flags(Flags::BUFFER_SELECT);
        // SAFETY: the operation writes to buffers that the pool has published, and the pool is dropped only after the ring is quiet.
        unsafe { self.start(Key::of(Op::Receive, token), entry) };
    }

    /// Sends the next chunk of what is flying.
    pub(super) fn send_chunk(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let (Some(descriptor), Send::Flying { bytes, sent }) = (socket.descriptor, &socket.send) else {
            return;
        };
        let chunk = chunk(bytes, *sent);
        let entry = opcode::Send::new(descriptor, chunk.as_ptr(), chunk.len() as u32)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        socket.outstanding += 1;
        // SAFETY: the vector's heap memory stays where it is, untouched, while it's `Flying`, which ends when this operation's
        // completion was taken out; a driver that is dropped first is quieted, or keeps the memory for good.
        unsafe { self.start(Key::of(Op::Send, token), entry) };
    }

    /// Gives a dialled socket a direct descriptor.
    pub(super) fn start_register(&mut self, token: Token) {
        let Some(Socket {
            dial: Some(dial),
            outstanding,
            ..
        }) = self.sockets.get_mut(token)
        else {
            return;
        };
        *outstanding += 1;
        let dial: *mut Dial = &raw mut **dial;
        // SAFETY: `dial` was just borrowed from its box.
        let place: *const RawFd = unsafe { (&raw mut (*dial).place).cast() };
        // Any place that is free: the kernel writes back which.
        let entry = opcode::FilesUpdate::new(place, 1).offset(ANY_PLACE).build();
        // SAFETY: the box stays in the socket, and nobody reads `place`, until the completion was taken out.
        unsafe { self.start(Key::of(Op::Register, token), entry) };
    }

    pub(super) fn start_connect(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let (Some(descriptor), Some(dial)) = (socket.descriptor, &socket.dial) else {
            return;
        };
        let address: &SockAddr = &dial.address;
        let entry = opcode::Connect::new(descriptor, address.as_ptr().cast(), address.len()).build();
        socket.outstanding += 1;
        // SAFETY: the address lies in a box that stays in the socket until the completion was taken out.
        unsafe { self.start(Key::of(Op::Connect, token), entry) };
    }

    /// Sends the descriptor of `token` to the ring `to`, which must not be closed before the next entry to the kernel.
    pub(super) fn start_move(&mut self, token: Token, to: RawFd) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Some(descriptor) = socket.descriptor else {
            return;
        };
        socket.outstanding += 1;
        let entry = opcode::MsgRingSendFd::new(Fd(to), descriptor, DestinationSlot::auto_target(), 0)
            .opcode_flags(MESSAGE_SILENT)
            .build();
        // SAFETY: a message of a descriptor points to no memory.
        unsafe { self.start(Key::of(Op::Move, token), entry) };
    }

    /// Sends a message to the ring of `to` that ends its sleep.
    pub(super) fn start_message(&mut self, to: &Arc<Berth>) {
        let ring = to.ring();
        let place = self.messages.insert(Arc::clone(to));
        let there = Key::new(Op::Messaged, 0, 0).encode();
        let entry = opcode::MsgRingData::new(Fd(ring), 0, there, None).build();
        // SAFETY: the message points to no memory.
        unsafe { self.start(Key::new(Op::Message, 0, place as u32), entry) };
    }

    /// A message has gone out, or could not.
    pub(super) fn message_sent(&mut self, place: u32, error: Option<Errno>) {
        let to = self.messages.try_remove(place as usize);
        if let (Some(to), Some(_)) = (to, error) {
            // Out of memory, or the other is gone. The sleep that was to be ended is ended by the bell.
            to.doorbell().bell().ring();
        }
    }

    /// Closes the descriptor of `token`, on which nothing is under way, and first discards what would make the close a reset.
    pub(super) fn start_close(&mut self, token: Token) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let discard = socket.must_discard();
        let Some(descriptor) = socket.descriptor.take() else {
            return;
        };
        socket.outstanding += 1 + u32::from(discard);
        if discard {
            let sink = self.sink.start().as_ptr();
            let entry = opcode::Recv::new(descriptor, sink, self.sink.length() as u32)
                // Never waits, so that it's over before the next operation starts.
                .flags(libc::MSG_DONTWAIT | libc::MSG_TRUNC)
                .build();
            // SAFETY: the sink is a mapping that nobody reads, and that is dropped only after the ring is quiet.
            unsafe { self.start(Key::of(Op::Discard, token), entry) };
        }
        let entry = opcode::Close::new(descriptor).build();
        // SAFETY: a close points to no memory.
        unsafe { self.start(Key::of(Op::Close, token), entry) };
    }

    /// Closes a direct descriptor that no socket here has.
    pub(super) fn close_orphan(&mut self, descriptor: Fixed) {
        let entry = opcode::Close::new(descriptor).build().flags(Flags::SKIP_SUCCESS);
        // SAFETY: a close points to no memory.
        unsafe { self.start(Key::new(Op::CloseOrphan, 0, descriptor.0), entry) };
    }

    /// Watches the doorbell.
    pub(super) fn watch_bell(&mut self) {
        let entry = opcode::PollAdd::new(Fd(self.doorbell.bell().descriptor()), libc::POLLIN as u32)
            .multi(true)
            .build();
        // SAFETY: a poll points to no memory.
        unsafe { self.start(Key::new(Op::Bell, 0, 0), entry) };
    }

    /// # Safety
    /// As [`super::ring::Ring::push`].
    unsafe fn start(&mut self, key: Key, entry: squeue::Entry) {
        // SAFETY: the caller's promise.
        unsafe { self.ring.push(entry.user_data(key.encode())) };
    }
}

/// What goes out next of a send of which `sent` bytes are out.
pub(super) fn chunk(bytes: &[u8], sent: usize) -> &[u8] {
    let rest = &bytes[sent..];
    &rest[..rest.len().min(CHUNK_BYTES_MAX)]
}

/// Bytes that one send operation takes: more would keep one socket's turn in the kernel too long.
const CHUNK_BYTES_MAX: usize = 64 * 1024;

/// `IORING_RECVSEND_POLL_FIRST`, `IORING_RECV_MULTISHOT` of the kernel's header; the crate offers them apart only.
pub(super) const RECEIVE_POLL_FIRST: u16 = 1 << 0;
pub(super) const RECEIVE_MULTISHOT: u16 = 1 << 1;
/// `IORING_MSG_RING_CQE_SKIP`: the target is told over the mesh, with the bytes that were read.
const MESSAGE_SILENT: u32 = 1 << 0;
/// `IORING_FILE_INDEX_ALLOC`, all bits set.
const ANY_PLACE: i32 = -1;
