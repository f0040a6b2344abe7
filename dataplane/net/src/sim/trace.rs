//! One number that stands for everything a world's drivers were told.

use crate::driver::{Completion, Token};

/// A fold over all completions, in their order. Two runs with equal folds went the same way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace(u64);

impl Trace {
    pub(super) const fn new() -> Trace {
        // The offset basis of FNV-1a.
        Trace(0xcbf2_9ce4_8422_2325)
    }

    pub(super) fn hash(self) -> u64 {
        self.0
    }

    pub(super) fn word(&mut self, word: u64) {
        // FNV-1a's step, on words rather than bytes for speed, with a fold of the high half so that it reaches the low bits.
        let mixed = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 = mixed ^ (mixed >> 29);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        for byte in rest {
            self.word(u64::from(*byte));
        }
        self.word(bytes.len() as u64);
    }

    pub(super) fn completion<S>(&mut self, completion: &Completion<S>) {
        let (kind, token) = match completion {
            Completion::Accepted { listener, token, .. } => (1 | u64::from(listener.0) << 8, Some(token)),
            Completion::AcceptPaused { listener, .. } => (2 | u64::from(listener.0) << 8, None),
            Completion::Connected { token } => (3, Some(token)),
            Completion::ConnectFailed { token, error } => (4 | (error.kind() as u64) << 8, Some(token)),
            Completion::Received { token, .. } => (5, Some(token)),
            Completion::Eof { token } => (6, Some(token)),
            Completion::ReceiveFailed { token, error } => (7 | (error.kind() as u64) << 8, Some(token)),
            Completion::Sent { token, bytes, result } => (
                8 | u64::from(result.is_ok()) << 8 | (bytes.len() as u64) << 16,
                Some(token),
            ),
            Completion::Closed { token } => (9, Some(token)),
            Completion::HandedOver { token, result } => (10 | u64::from(result.is_ok()) << 8, Some(token)),
            Completion::Woken => (11, None),
        };
        self.word(kind);
        if let Some(Token { slot, generation }) = token {
            self.word(u64::from(*slot) << 32 | u64::from(*generation));
        }
    }
}
