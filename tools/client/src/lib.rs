//! Trunkline's client library: one device in a program, or thousands of them.
//!
//! ```no_run
//! use std::time::Duration;
//! use trunkline_client::{Client, DeviceId, Guarantee, Options, TtlMs};
//!
//! let options = Options::new(vec!["127.0.0.1:7400".parse()?], DeviceId::new("alice")?);
//! let client = Client::connect(options)?;
//! client.ready(Duration::from_secs(5))?;
//!
//! // A confirmed message: exactly one report.
//! let bob = DeviceId::new("bob")?;
//! let report = client.send_and_wait(&bob, "hello", TtlMs::default())?;
//! println!("{} in {:?}", report.outcome.name(), report.latency);
//!
//! // A fire-and-forget one: none.
//! client.send(&bob, "by the way", TtlMs::default(), Guarantee::FireAndForget)?;
//!
//! while let Some(message) = client.recv_timeout(Duration::from_secs(10)) {
//!     println!("{}: {}", message.sender, String::from_utf8_lossy(&message.payload));
//! }
//! client.close();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! From the inside out:
//! - [`session`]: the state machine of one device, without I/O: what is said to the server, when to connect again, what is told
//!   to the user. Virtual time in its tests, and in the simulator.
//! - [`fleet`]: many sessions on one driver, of the operating system or of the simulator.
//! - [`client`]: a thread and a handle for programs that block.
//!
//! What the library does for its user: it stays connected, with jittered waits between attempts; it keeps confirmed messages until
//! they are reported and sends them again under the same id after a reconnect; it shows each message once, in the order of its
//! sender's numbers if that takes no longer than 100 ms, and acknowledges it then; it tells the server whom its user is about to write
//! to, if it's told ([`Client::intend`]); it bounds all that it holds.
//!
//! What it deliberately does not do: it writes nothing to disk. A program that ends takes its unreported messages with it; one
//! that starts anew is a new sender.
#![forbid(unsafe_code)]

mod backlog;
mod backoff;
pub mod client;
pub mod event;
pub mod fleet;
mod hints;
mod inbox;
mod options;
mod outgoing;
pub mod session;

pub use backlog::Backlog;
pub use client::{Client, ConnectError, NotReady, Options};
pub use event::{
    Awaited, Counts, Event, Guarantee, Loss, Message, MessageId, OptionsError, Report, SendError, StopReason, Welcomed,
};
pub use fleet::{DeviceIndex, Fleet};
pub use options::DeviceOptions;
pub use outgoing::{MESSAGE_OVERHEAD_BYTES, OutgoingBounds};

pub use trunkline_core::resequencer::Bounds as IncomingBounds;
pub use trunkline_wire::device::{PingIntervalMs, Purpose};
pub use trunkline_wire::id::{DeviceId, Epoch, IdRef, Instance, NodeId};
pub use trunkline_wire::report::{Outcome, RejectReason, TtlMs, Way};
