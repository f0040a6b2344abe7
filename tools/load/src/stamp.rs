//! What the start of every payload says: who sent it, which of its messages to the recipient it is, and when it was meant to be sent.

/// Bytes of a stamp.
pub const STAMP_BYTES: usize = 16;

/// The start of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The sending connection.
    pub from: u32,
    /// Counts from 0 for each sender and recipient.
    pub number: u32,
    /// Nanoseconds since the run began.
    pub at_ns: u64,
}

impl Stamp {
    /// Writes it to the start of `payload`, which is long enough.
    pub fn write(self, payload: &mut [u8]) {
        payload[..4].copy_from_slice(&self.from.to_le_bytes());
        payload[4..8].copy_from_slice(&self.number.to_le_bytes());
        payload[8..STAMP_BYTES].copy_from_slice(&self.at_ns.to_le_bytes());
    }

    /// Reads it; `None` if the payload is too short to be one of ours.
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let (from, rest) = payload.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        Some(Stamp {
            from: u32::from_le_bytes(*from),
            number: u32::from_le_bytes(*number),
            at_ns: u64::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let stamp = Stamp {
            from: 7,
            number: 1 << 30,
            at_ns: 1 << 50,
        };
        let mut payload = [0xff; 20];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..15]), None);
    }
}
