//! What waits to be sent on one connection while a send is in flight.
//!
//! A driver takes one send at a time per socket, so that what comes meanwhile is gathered and leaves as one: the busier a
//! connection, the fewer system calls per message. An [`OutBuf`] is bounded in bytes and refuses what goes beyond, whole. It
//! never calls the driver: the caller passes what [`OutBuf::next_send`] gives to `Driver::send`, and what `Completion::Sent`
//! brings back to [`OutBuf::sent`].
//!
//! An idle connection holds no buffer: vectors come from and return to the [`Spares`] that a shard's connections share.

use std::collections::VecDeque;

/// The most that one send carries: a larger one would hold up the others behind one socket's copy.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Empty vectors, kept for reuse by all connections of a shard.
#[derive(Debug)]
pub struct Spares {
    vectors: Vec<Vec<u8>>,
    vectors_max: usize,
}

impl Spares {
    /// Keeps at most `vectors_max` of them; a vector is at most two chunks large.
    pub fn new(vectors_max: usize) -> Spares {
        Spares {
            vectors: Vec::new(),
            vectors_max,
        }
    }

    /// An empty vector.
    pub fn take(&mut self) -> Vec<u8> {
        self.vectors.pop().unwrap_or_default()
    }

    /// Keeps `vector` for later, unless there are enough.
    pub fn put(&mut self, mut vector: Vec<u8>) {
        if self.vectors.len() < self.vectors_max && vector.capacity() > 0 && vector.capacity() <= 2 * CHUNK_BYTES {
            vector.clear();
            self.vectors.push(vector);
        }
    }
}

/// The bytes didn't fit: the connection's consumer is slower than its producers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} bytes wait already; {refused} more would exceed the bound of {bytes_max}")]
pub struct Full {
    /// Bytes that wait or are in flight.
    pub waiting: usize,
    /// Bytes refused.
    pub refused: usize,
    /// The bound.
    pub bytes_max: usize,
}

/// Outgoing bytes of one connection, bounded, at most one send in flight.
#[derive(Debug)]
pub struct OutBuf {
    /// Full chunks, oldest first; empty unless more than one chunk waits.
    chunks: VecDeque<Vec<u8>>,
    /// Younger than all of `chunks`.
    tail: Vec<u8>,
    waiting: usize,
    /// Bytes of the send in flight; none is in flight if 0.
    in_flight: usize,
    bytes_max: usize,
    chunk_bytes: usize,
}

impl OutBuf {
    /// Holds at most `bytes_max`, the send in flight included, and sends at most [`CHUNK_BYTES`] at once.
    pub fn new(bytes_max: usize) -> OutBuf {
        OutBuf::with_chunk(bytes_max, CHUNK_BYTES)
    }

    /// As [`OutBuf::new`], with at most `chunk_bytes` a send.
    pub fn with_chunk(bytes_max: usize, chunk_bytes: usize) -> OutBuf {
        assert!(chunk_bytes > 0, "a chunk must hold a byte");
        OutBuf {
            chunks: VecDeque::new(),
            tail: Vec::new(),
            waiting: 0,
            in_flight: 0,
            bytes_max,
            chunk_bytes,
        }
    }

    /// Bytes that wait or are in flight.
    pub fn pending(&self) -> usize {
        self.waiting + self.in_flight
    }

    /// Whether a send is in flight.
    pub fn sending(&self) -> bool {
        self.in_flight > 0
    }

    /// Whether `bytes` more would be taken.
    pub fn fits(&self, bytes: usize) -> bool {
        bytes <= self.bytes_max.saturating_sub(self.pending())
    }

    /// Takes all of `bytes`, or none.
    ///
    /// # Errors
    /// [`Full`], if the bound would be exceeded.
    pub fn push(&mut self, mut bytes: &[u8], spares: &mut Spares) -> Result<(), Full> {
        if !self.fits(bytes.len()) {
            return Err(Full {
                waiting: self.pending(),
                refused: bytes.len(),
                bytes_max: self.bytes_max,
            });
        }
        self.waiting += bytes.len();
        while !bytes.is_empty() {
            if self.tail.len() == self.chunk_bytes {
                self.chunks.push_back(std::mem::take(&mut self.tail));
            }
            if self.tail.capacity() == 0 {
                self.tail = spares.take();
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.chunk_bytes - self.tail.len()));
            self.tail.extend_from_slice(now);
            bytes = rest;
        }
        Ok(())
    }

    /// What to hand to the driver now; `None` while a send is in flight or nothing waits.
    pub fn next_send(&mut self) -> Option<Vec<u8>> {
        if self.in_flight > 0 || self.waiting == 0 {
            return None;
        }
        let chunk = match self.chunks.pop_front() {
            Some(chunk) => {
                if self.chunks.is_empty() {
                    self.chunks = VecDeque::new();
                }
                chunk
            }
            None => std::mem::take(&mut self.tail),
        };
        self.waiting -= chunk.len();
        self.in_flight = chunk.len();
        Some(chunk)
    }

    /// The driver is through with what [`OutBuf::next_send`] gave.
    pub fn sent(&mut self, bytes: Vec<u8>, spares: &mut Spares) {
        assert_eq!(bytes.len(), self.in_flight, "not the buffer that was in flight");
        self.in_flight = 0;
        spares.put(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_during_a_send_leaves_with_the_next_one() {
        let (mut out, mut spares) = (OutBuf::new(100), Spares::new(4));
        out.push(b"one", &mut spares).unwrap();
        let first = out.next_send().unwrap();
        out.push(b"two", &mut spares).unwrap();
        out.push(b"three", &mut spares).unwrap();
        assert_eq!(out.next_send(), None, "one send in flight at a time");
        out.sent(first, &mut spares);
        assert_eq!(out.next_send().unwrap(), b"twothree");
    }

    #[test]
    fn beyond_the_bound_nothing_is_taken_and_the_bytes_in_flight_count() {
        let (mut out, mut spares) = (OutBuf::new(8), Spares::new(4));
        out.push(b"12345", &mut spares).unwrap();
        let first = out.next_send().unwrap();
        let full = out.push(b"6789", &mut spares).unwrap_err();
        assert_eq!((full.waiting, full.refused), (5, 4));
        out.push(b"678", &mut spares).unwrap();
        out.sent(first, &mut spares);
        assert_eq!(out.next_send().unwrap(), b"678");
    }

    #[test]
    fn large_backlogs_leave_in_chunks_in_order() {
        let (mut out, mut spares) = (OutBuf::with_chunk(1000, 10), Spares::new(4));
        let all: Vec<u8> = (0..=255).collect();
        for piece in all.chunks(7) {
            out.push(piece, &mut spares).unwrap();
        }
        let mut seen = Vec::new();
        while let Some(chunk) = out.next_send() {
            assert!(chunk.len() <= 10);
            seen.extend_from_slice(&chunk);
            out.sent(chunk, &mut spares);
        }
        assert_eq!(seen, all);
        assert_eq!(out.pending(), 0);
    }

    #[test]
    fn an_idle_connection_holds_no_buffer_and_the_vector_is_reused() {
        let (mut out, mut spares) = (OutBuf::new(100), Spares::new(4));
        out.push(b"one", &mut spares).unwrap();
        let first = out.next_send().unwrap();
        let address = first.as_ptr();
        out.sent(first, &mut spares);
        assert_eq!((out.tail.capacity(), out.chunks.capacity()), (0, 0));
        out.push(b"two", &mut spares).unwrap();
        let second = out.next_send().unwrap();
        assert_eq!(second.as_ptr(), address);
    }
}
