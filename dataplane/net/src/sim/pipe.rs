//! One direction of a simulated connection: the bytes between a sender's kernel and the receiver's caller.

use std::collections::VecDeque;

use trunkline_wire::time::Instant;

/// A stream that arrives in pieces. Owned by the receiving end.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Oldest first: what has arrived, then what is on its way.
    bytes: VecDeque<u8>,
    arrived: usize,
    /// What is on its way, in the order of sending and of arrival.
    pieces: VecDeque<Piece>,
    end_arrived: bool,
    /// When the youngest piece arrives: none overtakes it.
    last_at: Instant,
}

#[derive(Debug)]
struct Piece {
    at: Instant,
    /// 0 for the FIN.
    length: usize,
}

impl Pipe {
    /// Bytes sent and not yet read.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes that can be read.
    pub(super) fn arrived(&self) -> usize {
        self.arrived
    }

    /// Whether the FIN is next to be read.
    pub(super) fn ended(&self) -> bool {
        self.end_arrived && self.arrived == 0
    }

    /// When the next piece arrives, or would if nothing were in the way.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.pieces.front().map(|piece| piece.at)
    }

    /// When everything sent so far has arrived.
    pub(super) fn last_at(&self) -> Instant {
        self.last_at
    }

    /// Sends `bytes` as one piece, to arrive at `at` or after what was sent before. Without bytes it is the FIN.
    pub(super) fn put(&mut self, bytes: &[u8], at: Instant) {
        self.last_at = self.last_at.max(at);
        self.bytes.extend(bytes);
        self.pieces.push_back(Piece {
            at: self.last_at,
            length: bytes.len(),
        });
    }

    /// What is due arrives.
    pub(super) fn arrive(&mut self, now: Instant) {
        while let Some(piece) = self.pieces.front() {
            if piece.at > now {
                return;
            }
            self.arrived += piece.length;
            self.end_arrived |= piece.length == 0;
            self.pieces.pop_front();
        }
    }

    /// A reset: what has not arrived never will.
    pub(super) fn cut_off(&mut self) {
        self.pieces.clear();
        self.bytes.truncate(self.arrived);
    }

    /// Reads what has arrived, as far as it fits into `room`.
    pub(super) fn read(&mut self, room: &mut [u8]) -> usize {
        let length = room.len().min(self.arrived);
        let (head, wrapped) = self.bytes.as_slices();
        let first = length.min(head.len());
        room[..first].copy_from_slice(&head[..first]);
        room[first..length].copy_from_slice(&wrapped[..length - first]);
        self.bytes.drain(..length);
        self.arrived -= length;
        if self.bytes.is_empty() && self.bytes.capacity() > IDLE_BYTES_MAX {
            // A thousand idle connections shouldn't hold the memory of their busiest moment.
            self.bytes = VecDeque::new();
        }
        length
    }
}

/// What an empty pipe may hold: some ordinary messages, as a busy link has between two turns.
const IDLE_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn pieces_keep_their_order_and_the_end_comes_after_the_data() {
        let mut pipe = Pipe::default();
        pipe.put(b"late", at(50));
        pipe.put(b"r!", at(10));
        pipe.put(b"", at(20));
        pipe.arrive(at(49));
        assert_eq!((pipe.arrived(), pipe.ended()), (0, false));
        pipe.arrive(at(50));
        assert_eq!((pipe.arrived(), pipe.ended()), (6, false));
        let mut room = [0; 5];
        assert_eq!(pipe.read(&mut room), 5);
        assert_eq!(&room, b"later");
        assert_eq!((pipe.read(&mut room), pipe.ended()), (1, true));
    }

    #[test]
    fn a_reset_leaves_what_has_arrived() {
        let mut pipe = Pipe::default();
        pipe.put(b"here", at(1));
        pipe.put(b"never", at(2));
        pipe.arrive(at(1));
        pipe.cut_off();
        pipe.arrive(at(9));
        assert_eq!((pipe.arrived(), pipe.held(), pipe.next_at()), (4, 4, None));
    }
}
