//! Sockets, buffers and framing: everything in Trunkline that touches the operating system on a message's way.
//!
//! - [`driver`]: the one interface to sockets: operations are started, completions come back. Implementations: `uring` for Linux,
//!   [`epoll`] for every Unix, and [`sim`], a network in virtual time that runs from a seed.
//! - [`backend`] chooses between the first two.
//! - [`framing`] cuts a byte stream into frames, [`outbuf`] gathers what leaves, [`table`] keeps what a caller knows of each
//!   connection. They never call a driver.
//!
//! - [`tuning`] is what an operator may have otherwise than by default, and whether the kernel takes it.
//!
//! Unsafe code has two places in Trunkline: `uring`, and `kernel`, three calls that no crate wraps.
//!
//! What bytes mean is not known here, and nothing is decided here: that is `trunkline-core`.

#![deny(unsafe_code)]

pub mod backend;
mod buffers;
mod clock;
mod doorbell;
pub mod driver;
pub mod epoll;
pub mod framing;
#[cfg(target_os = "linux")]
mod kernel;
pub mod outbuf;
mod ready;
pub mod sim;
mod slots;
pub mod table;
pub mod tuning;
#[cfg(target_os = "linux")]
pub mod uring;
