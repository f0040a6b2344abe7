//! Frames that all three protocols share.

use crate::codec::Text;
use crate::device::ErrorCode;
use crate::frame::frames;

frames! {
    /// What may be said on every connection, by either side.
    pub enum CommonFrame {
        /// Answer me.
        0x10 Ping {
            /// Comes back in the [`Pong`].
            token: u64,
        }
        /// The answer to a [`Ping`].
        0x11 Pong {
            /// The ping's token.
            token: u64,
        }
        /// What went wrong. Who sends it closes the connection.
        0x1e Failure['a] {
            /// For programs.
            code: ErrorCode,
            /// For people.
            text: Text<'a>,
        }
    }
    shared {}
}
