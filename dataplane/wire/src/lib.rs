//! Trunkline's binary protocol: ids, frames, their codec and its limits, the map and its encoding, and the proofs that links ask for.
//!
//! Pure: bytes in, values out, and back. Nothing here knows of sockets, threads or clocks. Behind the decoders an invalid frame
//! can't be represented, and every value has exactly one way to be written: `decode(encode(x)) == x` and `encode(decode(b)) == b`.
//! The byte tables are in `PROTOCOL.md` beside this crate.
#![forbid(unsafe_code)]

pub mod affinity;
pub mod auth;
pub mod codec;
pub mod common;
pub mod control;
pub mod device;
pub mod frame;
pub mod handshake;
pub mod id;
pub mod keyed;
pub mod map;
#[cfg(feature = "next-version")]
pub mod next;
pub mod peer;
#[cfg(feature = "planted")]
pub mod planted;
pub mod preface;
pub mod report;
pub mod time;

/// Whether a defect ([`planted::Bug`]) is on here and now.
#[cfg(feature = "planted")]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        $crate::planted::is_planted($crate::planted::Bug::$bug)
    };
}

/// Whether a defect is on here and now: this build has none.
#[cfg(not(feature = "planted"))]
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        false
    };
}
