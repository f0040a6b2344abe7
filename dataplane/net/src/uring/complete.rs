//! What came out of the ring, turned into what the caller is told.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use io_uring::types::Fixed;
use nix::errno::Errno;

use super::accept::cancel;
use super::key::{Key, Op};
use super::ring::Outcome;
use super::socket::{Phase, Receive, Send};
use super::start::chunk;
use super::{InTransit, UringDriver};
use crate::driver::{BufferGroup, Completion, ReceiveMode, Token};

type Completions = Vec<Completion<InTransit>>;

impl UringDriver {
    pub(super) fn complete(&mut self, outcome: Outcome, completions: &mut Completions) {
        let Some(key) = Key::decode(outcome.key) else {
            debug_assert!(false, "a completion of nothing that was started");
            return;
        };
        match key.op {
            Op::Accept => self.accepted(key, outcome, completions),
            Op::Bell => self.bell_watched = outcome.more,
            Op::Message => self.message_sent(key.slot, outcome.error()),
            // Its work is done: it ended the sleep.
            Op::Cancel | Op::CloseOrphan | Op::Messaged => {}
            Op::Receive | Op::Send | Op::Register | Op::Connect | Op::Move | Op::Discard | Op::Close => {
                self.complete_on_socket(key, outcome, completions);
            }
        }
    }

    fn complete_on_socket(&mut self, key: Key, outcome: Outcome, completions: &mut Completions) {
        let found = self.sockets.at_mut(key.slot).filter(|(token, _)| key.is_of(*token));
        let Some((token, socket)) = found else {
            debug_assert!(false, "a slot stays until nothing is outstanding on it");
            return;
        };
        if !outcome.more {
            socket.outstanding -= 1;
        }
        match key.op {
            Op::Receive => self.received(token, outcome, completions),
            Op::Send => self.sent(token, outcome, completions),
            Op::Register => self.registered(token, outcome, completions),
            Op::Connect => self.connected(token, outcome, completions),
            Op::Move => self.moved(token, outcome, completions),
            Op::Discard | Op::Close => {}
            Op::CloseOrphan | Op::Accept | Op::Bell | Op::Message | Op::Messaged | Op::Cancel => {
                unreachable!("not of sockets")
            }
        }
        self.end_if_quiet(token, completions);
    }

    fn received(&mut self, token: Token, outcome: Outcome, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let (mode, group) = match socket.receive {
            Receive::Armed(mode, group) => (mode, group),
            Receive::Idle | Receive::Parked(..) | Receive::Ended => {
                unreachable!("a receive stays armed until its last completion")
            }
        };
        if !outcome.more {
            socket.receive = Receive::Idle;
        }
        if let Phase::Ending = socket.phase {
            if let Some(index) = outcome.buffer {
                self.pools.of_mut(group).recycle(index);
            }
            if outcome.more {
                // The cancellation came when the kernel had it in hand.
                cancel(&mut self.ring, Key::of(Op::Receive, token));
            } else if outcome.result == 0 {
                // Nothing unread.
                socket.receive = Receive::Ended;
            }
            return;
        }
        match (outcome.error(), outcome.buffer) {
            (None, Some(index)) if outcome.result > 0 => {
                let buffer = self
                    .pools
                    .of_mut(group)
                    .lend(index, outcome.result as u32, outcome.followed);
                completions.push(Completion::Received { token, buffer });
                let over = socket.taken.add(self.waits, outcome.result as u32);
                if over && outcome.more && group == BufferGroup::Device {
                    // It goes on in the next wait, when the others have had their turn.
                    cancel(&mut self.ring, Key::of(Op::Receive, token));
                }
                if mode == ReceiveMode::Stream && !outcome.more {
                    // It was a single one for want of buffers, or the completion queue was full.
                    self.start_receive(token, mode, group);
                }
                return;
            }
            (None, _) => {
                socket.receive = Receive::Ended;
                completions.push(Completion::Eof { token });
            }
            (Some(Errno::ENOBUFS), _) => {
                socket.receive = Receive::Parked(mode, group);
                self.parked.of_mut(group).push(token.slot);
            }
            (Some(Errno::ECANCELED | Errno::EINTR | Errno::EAGAIN), _) => self.start_receive(token, mode, group),
            (Some(error), _) => {
                socket.receive = Receive::Ended;
                let error = error.into();
                completions.push(Completion::ReceiveFailed { token, error });
            }
        }
        if let Some(index) = outcome.buffer {
            self.pools.of_mut(group).recycle(index);
        }
    }

    fn sent(&mut self, token: Token, outcome: Outcome, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Send::Flying { bytes, sent } = &mut socket.send else {
            unreachable!("a send flies until its completion")
        };
        let ending = matches!(socket.phase, Phase::Ending);
        let length = chunk(bytes, *sent).len();
        let result = match outcome.error() {
            None if outcome.result as usize == length => {
                *sent += length;
                match (*sent == bytes.len(), ending) {
                    (true, _) => Ok(()),
                    (false, true) => Err(ErrorKind::ConnectionAborted.into()),
                    (false, false) => return self.send_chunk(token),
                }
            }
            _ if ending => Err(ErrorKind::ConnectionAborted.into()),
            // The kernel was told to take all or fail: what it took of this chunk went out, and the rest can't.
            None => Err(ErrorKind::WriteZero.into()),
            Some(error) => Err(io::Error::from(error)),
        };
        let bytes = std::mem::take(bytes);
        socket.broken |= result.is_err();
        socket.send = Send::Idle;
        completions.push(Completion::Sent { token, bytes, result });
    }

    fn registered(&mut self, token: Token, outcome: Outcome, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Some(dial) = &mut socket.dial else {
            unreachable!("a dial stays until it's through")
        };
        // The plain descriptor has done its work, or will have none.
        dial.socket = None;
        let error = match outcome.error() {
            None => {
                socket.descriptor = Some(Fixed(dial.place[0] as u32));
                None
            }
            Some(error) => Some(error),
        };
        match (&socket.phase, error) {
            (Phase::Registering, None) => {
                socket.phase = Phase::Connecting;
                self.start_connect(token);
            }
            (Phase::Registering, Some(error)) => {
                socket.phase = Phase::Failed;
                let error = error.into();
                completions.push(Completion::ConnectFailed { token, error });
            }
            // Closed meanwhile.
            _ => {}
        }
    }

    fn connected(&mut self, token: Token, outcome: Outcome, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        socket.dial = None;
        if let Phase::Ending = socket.phase {
            return;
        }
        match outcome.error() {
            None => {
                socket.phase = Phase::Open;
                completions.push(Completion::Connected { token });
            }
            Some(error) => {
                socket.phase = Phase::Failed;
                let error = error.into();
                completions.push(Completion::ConnectFailed { token, error });
            }
        }
    }

    fn moved(&mut self, token: Token, outcome: Outcome, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        let Phase::Moving(berth) = &socket.phase else {
            unreachable!("a hand-over can't be called back")
        };
        match outcome.error() {
            None => {
                let there = InTransit::new(Arc::clone(berth), Fixed(outcome.result as u32));
                socket.phase = Phase::Moved(there);
                // What is unread is the other ring's now.
                socket.wrote = false;
                self.start_close(token);
            }
            Some(error) => {
                socket.phase = Phase::Open;
                let result = Err(error.into());
                completions.push(Completion::HandedOver { token, result });
            }
        }
    }

    /// Moves a socket that is ending on, once nothing is outstanding on it.
    pub(super) fn end_if_quiet(&mut self, token: Token, completions: &mut Completions) {
        let Some(socket) = self.sockets.get_mut(token) else {
            return;
        };
        if socket.outstanding > 0 {
            return;
        }
        match &socket.phase {
            Phase::Ending if socket.descriptor.is_some() => {
                socket.phase = Phase::Closing;
                self.start_close(token);
            }
            Phase::Ending | Phase::Closing => {
                completions.push(Completion::Closed { token });
                self.free(token);
            }
            Phase::Moved(_) => {
                if let Some(Phase::Moved(there)) = self.free(token) {
                    let result = Ok(there);
                    completions.push(Completion::HandedOver { token, result });
                }
            }
            Phase::Registering
            | Phase::Connecting
            | Phase::Open
            | Phase::Failed
            | Phase::Moving(_)
            | Phase::Staying { .. } => {}
        }
    }

    /// Frees the slot of a socket that has come to its end.
    pub(super) fn free(&mut self, token: Token) -> Option<Phase> {
        let socket = self.sockets.remove(token);
        debug_assert!(socket.is_some(), "a token dies once");
        self.listeners.resume();
        socket.map(|socket| socket.phase)
    }

    /// Lets sockets that wait for buffers have them, in turn: each one, and only as many as there are buffers, so that none has to come
    /// back with nothing and lose its turn.
    pub(super) fn unpark(&mut self) {
        for group in GROUPS {
            let turns = self.parked.of(group).len().min(self.pools.of(group).free() as usize);
            for _ in 0..turns {
                let Some(slot) = self.parked.of_mut(group).pop() else {
                    break;
                };
                let Some((token, socket)) = self.sockets.at_mut(slot) else {
                    continue;
                };
                match socket.receive {
                    Receive::Parked(mode, of) if of == group => {
                        self.arm_receive(token, mode, group, super::start::Shots::One);
                    }
                    // Closed, or another socket in the same slot.
                    Receive::Parked(..) | Receive::Idle | Receive::Armed(..) | Receive::Ended => {}
                }
            }
        }
    }

    /// Whether a socket could have a buffer now.
    pub(super) fn can_unpark(&self) -> bool {
        let waits = |group: BufferGroup| !self.parked.of(group).is_empty() && self.pools.of(group).free() > 0;
        GROUPS.into_iter().any(waits)
    }
}

const GROUPS: [BufferGroup; 2] = [BufferGroup::Link, BufferGroup::Device];
