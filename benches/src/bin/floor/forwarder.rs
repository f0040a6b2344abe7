//! What both back ends share: cutting a stream into frames, and gathering what one turn has for a socket.

use ahash::RandomState;
use std::collections::HashMap;
use std::io;

/// The length that starts a frame.
const LENGTH_BYTES: usize = 4;
/// The destination that follows it.
const DESTINATION_BYTES: usize = 8;
/// How a floor introduces itself to the one beside it: where a device says its number and nothing else.
const I_AM_A_FLOOR: &[u8] = b"floor";
/// A number that floors have no use for.
const FLOOR: u64 = 0;
/// The longest that a length may name: a claim of more is a stream out of step.
const FRAME_BYTES_MAX: usize = 1 << 20;

/// The connections by slot, and who is where.
#[derive(Default)]
pub struct Forwarder {
    connections: Vec<Connection>,
    slots: HashMap<u64, usize, RandomState>,
    /// Connections to the floors beside this one.
    links: Vec<usize>,
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

    /// This floor has connected to the one beside it.
    pub fn connected(&mut self, slot: usize) {
        self.accepted(slot);
        self.links.push(slot);
        let connection = &mut self.connections[slot];
        connection.number = Some(FLOOR);
        let length = (DESTINATION_BYTES + I_AM_A_FLOOR.len()) as u32;
        connection.gathered.extend_from_slice(&length.to_le_bytes());
        connection.gathered.extend_from_slice(&FLOOR.to_le_bytes());
        connection.gathered.extend_from_slice(I_AM_A_FLOOR);
        self.flush_again(slot);
    }

    /// It is gone.
    pub fn closed(&mut self, slot: usize) {
        let gone = std::mem::take(&mut self.connections[slot]);
        if let Some(number) = gone.number
            && self.slots.get(&number) == Some(&slot)
        {
            self.slots.remove(&number);
        }
        self.links.retain(|link| *link != slot);
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
            if &frame[LENGTH_BYTES + DESTINATION_BYTES..] == I_AM_A_FLOOR {
                self.links.push(slot);
            } else {
                self.slots.insert(destination, slot);
            }
            return Ok(());
        }
        let beside = || self.links.iter().find(|link| **link != slot);
        let Some(&to) = self.slots.get(&destination).or_else(beside) else {
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
    fn what_is_for_nobody_here_goes_to_the_floor_beside_and_never_back() {
        let mut forwarder = two();
        forwarder.connected(2);
        let greeting = std::mem::take(forwarder.gathered(2));
        forwarder.received(0, &frame(300, b"there")).unwrap();
        assert_eq!(*forwarder.gathered(2), frame(300, b"there"));
        forwarder.received(2, &frame(200, b"here")).unwrap();
        assert_eq!(*forwarder.gathered(1), frame(200, b"here"));
        forwarder.gathered(2).clear();
        forwarder.received(2, &frame(300, b"nowhere")).unwrap();
        assert_eq!(*forwarder.gathered(2), b"");
        // One in the middle passes it to the other side.
        forwarder.accepted(3);
        forwarder.received(3, &greeting).unwrap();
        forwarder.received(2, &frame(300, b"on")).unwrap();
        assert_eq!(*forwarder.gathered(3), frame(300, b"on"));
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
