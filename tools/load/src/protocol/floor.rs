//! The bare forwarder's protocol: a length, a destination, a payload.
//!
//! It answers nothing. So a connection says its number and then sends an empty frame to itself: when that is back, the number is known.

use crate::plan::PAYLOAD_BYTES_MAX;

use super::{Heard, Message, Protocol};

/// Bytes of the length, and of the destination that it counts.
const LENGTH_BYTES: usize = 4;
const DESTINATION_BYTES: usize = 8;

/// The bare forwarder.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    /// Tells this run's connections from another's.
    run: u32,
}

impl Floor {
    /// For a run that has this number for itself.
    pub fn new(run: u32) -> Floor {
        Floor { run }
    }

    fn head(self, to: u32, payload_bytes: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&((DESTINATION_BYTES + payload_bytes) as u32).to_le_bytes());
        out.extend_from_slice(&(u64::from(self.run) << 32 | u64::from(to)).to_le_bytes());
    }
}

impl Protocol for Floor {
    fn greet(&self, me: u32, out: &mut Vec<u8>) {
        self.head(me, 0, out);
        self.head(me, 0, out);
    }

    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        self.head(message.to, message.payload.len(), out);
        out.extend_from_slice(message.payload);
    }

    fn hear<'a>(&self, input: &'a [u8], _reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some((length, rest)) = input.split_first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > DESTINATION_BYTES + PAYLOAD_BYTES_MAX {
            return Err(format!("it sent a frame of {length} bytes"));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let heard = match frame.get(DESTINATION_BYTES..) {
            None => return Err(format!("it sent a frame of {length} bytes")),
            Some([]) => Heard::Welcome,
            Some(payload) => Heard::Delivery { payload, number: None },
        };
        Ok(Some((LENGTH_BYTES + length, heard)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_heard_as_it_was() {
        let floor = Floor::new(9);
        let mut stream = Vec::new();
        floor.greet(3, &mut stream);
        let message = Message {
            from: 3,
            to: 4,
            number: 0,
            lowest: None,
            payload: b"payload",
        };
        floor.send(&message, &mut stream);
        let mut reply = Vec::new();
        assert_eq!(floor.hear(&stream, &mut reply), Ok(Some((12, Heard::Welcome))));
        let delivery = Heard::Delivery {
            payload: b"payload",
            number: None,
        };
        assert_eq!(floor.hear(&stream[24..], &mut reply), Ok(Some((19, delivery))));
        assert_eq!(floor.hear(&stream[24..42], &mut reply), Ok(None));
        assert!(reply.is_empty());
    }
}
