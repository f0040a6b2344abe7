//! Sockets, buffers and framing: everything in Trunkline that touches the operating system on a message's way.
//!
//! - [`driver`]: the one interface to sockets: operations are started, completions come back. Implementations: [`epoll`] for
//!   every Unix, and [`sim`], a network in virtual time that runs from a seed.
//! - [`framing`] cuts a byte stream into frames, [`outbuf`] gathers what leaves, [`table`] keeps what a caller knows of each
//!   connection. They never call a driver.
//!
//! What bytes mean is not known here, and nothing is decided here: that is `trunkline-core`.

#![deny(unsafe_code)]

mod buffers;
mod clock;
mod doorbell;
pub mod driver;
pub mod epoll;
pub mod framing;
pub mod outbuf;
mod ready;
pub mod sim;
mod slots;
pub mod table;
#[cfg(target_os = "linux")]
pub mod uring;
