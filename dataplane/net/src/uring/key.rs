//! What a completion is about: the 64 bits that go with each operation and come back with what became of it.
//!
//! ```text
//! 63      56 55            32 31             0
//! │ op      │ generation     │ slot          │
//! ```
//!
//! A slot is free only when nothing is outstanding on it, so that the generation is a second line of defence; 24 bits of it do.

use crate::driver::Token;

/// What was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A receive on a socket, one or many.
    Receive = 1,
    /// One chunk of a send.
    Send,
    /// A dialled socket on its way into the table of direct descriptors.
    Register,
    /// A connect.
    Connect,
    /// A descriptor on its way to another ring.
    Move,
    /// The discarding of what the peer sent and nobody read.
    Discard,
    /// The close of a socket's direct descriptor.
    Close,
    /// The close of a direct descriptor that no socket of the driver's has.
    CloseOrphan,
    /// An accept; generation and slot are those of its listener's place and of the place within it.
    Accept,
    /// The doorbell's descriptor.
    Bell,
    /// A message that ends the sleep of another ring; the slot is its place among the driver's messages.
    Message,
    /// Such a message, come here.
    Messaged,
    /// A cancellation.
    Cancel,
}

const OPS: [Op; 13] = [
    Op::Receive,
    Op::Send,
    Op::Register,
    Op::Connect,
    Op::Move,
    Op::Discard,
    Op::Close,
    Op::CloseOrphan,
    Op::Accept,
    Op::Bell,
    Op::Message,
    Op::Messaged,
    Op::Cancel,
];

const GENERATION_MASK: u32 = (1 << 24) - 1;

/// An operation, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) op: Op,
    /// The low 24 bits.
    pub(super) generation: u32,
    pub(super) slot: u32,
}

impl Key {
    /// An operation on a socket.
    pub(super) fn of(op: Op, token: Token) -> Key {
        Key::new(op, token.generation, token.slot)
    }

    pub(super) fn new(op: Op, generation: u32, slot: u32) -> Key {
        Key {
            op,
            generation: generation & GENERATION_MASK,
            slot,
        }
    }

    pub(super) fn encode(self) -> u64 {
        (self.op as u64) << 56 | u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// `None` for what this driver never encoded.
    pub(super) fn decode(bits: u64) -> Option<Key> {
        let op = *OPS.get(((bits >> 56) as usize).checked_sub(1)?)?;
        Some(Key::new(op, (bits >> 32) as u32, bits as u32))
    }

    /// Whether this is of `token`.
    pub(super) fn is_of(self, token: Token) -> bool {
        self.slot == token.slot && self.generation == token.generation & GENERATION_MASK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_as_they_went() {
        for op in OPS {
            for (generation, slot) in [(0, 0), (1, 2), (GENERATION_MASK, u32::MAX)] {
                let key = Key::new(op, generation, slot);
                assert_eq!(Key::decode(key.encode()), Some(key));
            }
        }
        assert_eq!(Key::decode(0), None);
        assert_eq!(Key::decode(u64::MAX), None);
    }

    #[test]
    fn a_key_of_an_older_generation_is_not_of_the_token() {
        let token = Token { slot: 7, generation: 3 };
        let older = Token { generation: 2, ..token };
        assert!(Key::of(Op::Send, token).is_of(token));
        assert!(!Key::of(Op::Send, older).is_of(token));
    }
}
