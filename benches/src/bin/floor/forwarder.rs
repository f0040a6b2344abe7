//! What both back ends share: cutting a stream into frames, and gathering what one turn has for a socket.

use ahash::RandomState;
use std::collections::HashMap;
use std::io;

/// The length that starts a frame.
const LENGTH_BYTES: usize = 4;
/// The destination that follows it.
const DESTINATION_BYTES: usize = 8;
/// The longest that a length may name: a claim of more is a stream out of step.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// The connections by slot, and who is where.
#[derive(Default)]
pub struct Forwarder {
    connections: Vec<Connection>,
    slots: HashMap<u64, usize, RandomState>,
    dirty: Vec<usize>,
    complained: bool,
}

/// What is known of one connection.
#[derive(Default)]
struct Connection {
    number: Option<u64>,
    /// The part of a frame whose rest is still to come.
    tail: Vec<u8>,
    /// What is to be written to it.
    gathered: Vec<u8>,
    dirty: bool,
}

impl Forwarder {
    /// A connection was accepted into `slot`, which is free.
    pub fn accepted(&mut self, slot: usize) {
        if slot >= self.connections.len() {
            self.connections.resize_with(slot + 1, Connection::default);
        }
    }

    /// It is gone.
    pub fn closed(&mut self, slot: usize) {
        let gone = std::mem::take(&mut self.connections[slot]);
        if let Some(number) = gone.number
            && self.slots.get(&number) == Some(&slot)
        {
            self.slots.remove(&number);
        }
        if gone.dirty {
            self.dirty.retain(|dirty| *dirty != slot);
        }
    }

    /// Bytes came from it: what ends in them is gathered at its destinations.
    ///
    /// # Errors
    /// What can't be a frame. The connection is to be closed.
    pub fn received(&mut self, slot: usize, mut input: &[u8]) -> io::Result<()> {
        let mut tail = std::mem::take(&mut self.connections[slot].tail);
        if !tail.is_empty() {
            // Byte-exact up to the end of the frame that the tail begins, and no further.
            for part in [Part::Length, Part::Frame] {
                let missing = match part {
                    Part::Length => LENGTH_BYTES,
                    Part::Frame => length(&tail)?.expect("the length is whole"),
                }
                .saturating_sub(tail.len());
                let (more, rest) = input.split_at(missing.min(input.len()));
                tail.extend_from_slice(more);
                input = rest;
                if more.len() < missing {
                    self.connections[slot].tail = tail;
                    return Ok(());
                }
            }
            self.forward(slot, &tail)?;
            tail.clear();
        }
        while let Some(length) = length(input)? {
            let Some((frame, rest)) = input.split_at_checked(length) else {
                break;
            };
            self.forward(slot, frame)?;
            input = rest;
        }
        tail.extend_from_slice(input);
        self.connections[slot].tail = tail;
        Ok(())
    }

    fn forward(&mut self, slot: usize, frame: &[u8]) -> io::Result<()> {
        let destination = frame[LENGTH_BYTES..]
            .first_chunk()
            .map(|bytes: &[u8; DESTINATION_BYTES]| u64::from_le_bytes(*bytes))
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a frame without a destination"))?;
        if self.connections[slot].number.is_none() {
            self.connections[slot].number = Some(destination);
            self.slots.insert(destination, slot);
            return Ok(());
        }
        let Some(&to) = self.slots.get(&destination) else {
            if !std::mem::replace(&mut self.complained, true) {
                eprintln!("a frame for {destination}, which is not connected; further ones are not told");
            }
            return Ok(());
        };
        let to_connection = &mut self.connections[to];
        to_connection.gathered.extend_from_slice(frame);
        if !std::mem::replace(&mut to_connection.dirty, true) {
            self.dirty.push(to);
        }
        Ok(())
    }

    /// A slot for which something was gathered since it was last returned.
    pub fn next_dirty(&mut self) -> Option<usize> {
        let slot = self.dirty.pop()?;
        self.connections[slot].dirty = false;
        Some(slot)
    }

    /// What was gathered for it could not be sent yet: it is returned once more, if there is anything.
    pub fn flush_again(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.gathered.is_empty() && !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push(slot);
        }
    }

    /// All that is to be written to it.
    pub fn gathered(&mut self, slot: usize) -> &mut Vec<u8> {
        &mut self.connections[slot].gathered
    }
}

/// The two things that a tail may lack, in their order.
enum Part {
    Length,
    Frame,
}

/// How long the frame at the start of `bytes` is, its length included; `None` if that isn't known yet.
fn length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some(word) = bytes.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*word) as usize;
    if length > FRAME_BYTES_MAX {
        let error = format!("a frame of {length} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    }
    Ok(Some(LENGTH_BYTES + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(destination: u64, payload: &[u8]) -> Vec<u8> {
        let length = (DESTINATION_BYTES + payload.len()) as u32;
        [&length.to_le_bytes()[..], &destination.to_le_bytes(), payload].concat()
    }

    fn two() -> Forwarder {
        let mut forwarder = Forwarder::default();
        for (slot, number) in [(0, 100), (1, 200)] {
            forwarder.accepted(slot);
            forwarder.received(slot, &frame(number, b"")).unwrap();
        }
        forwarder
    }

    #[test]
    fn a_frame_arrives_as_it_came_however_it_was_cut() {
        let stream = [frame(200, b"one"), frame(100, b""), frame(200, &[7; 300])].concat();
        for cut in 1..stream.len() {
            let mut forwarder = two();
            for piece in stream.chunks(cut) {
                forwarder.received(0, piece).unwrap();
            }
            assert_eq!(
                *forwarder.gathered(1),
                [frame(200, b"one"), frame(200, &[7; 300])].concat()
            );
            assert_eq!(*forwarder.gathered(0), frame(100, b""));
            let mut dirty: Vec<usize> = std::iter::from_fn(|| forwarder.next_dirty()).collect();
            dirty.sort_unstable();
            assert_eq!(dirty, [0, 1]);
        }
    }

    #[test]
    fn who_has_left_gets_nothing_and_a_length_out_of_step_is_refused() {
        let mut forwarder = two();
        forwarder.received(0, &frame(200, b"one")).unwrap();
        forwarder.closed(1);
        assert_eq!(forwarder.next_dirty(), None);
        forwarder.received(0, &frame(200, b"two")).unwrap();
        assert_eq!(forwarder.next_dirty(), None);
        assert!(forwarder.received(0, &[0xff; 4]).is_err());
        assert!(forwarder.received(0, &[1, 0, 0, 0, 9]).is_err());
    }
}
