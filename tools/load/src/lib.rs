//! Load over real sockets: many connections on few threads, what came through, how long it took, and what it cost the server.
//!
//! - [`plan`] says what to do, [`target`] to whom; [`run`](mod@run) does it, one target and round after the other, interleaved.
//! - [`protocol`] is what differs between targets: one generator serves all, so that they are compared by what they do.
//! - A worker is one thread with its connections: they send among themselves, so that workers share nothing but counters.
//! - [`server`] reads what the kernel accounts to the server's threads, over the measured interval only.
//! - [`summary`] makes medians, spreads and ratios of the rounds; [`report`] and [`plot`] show them.
//!
//! Every payload carries its sender, its number and the time at which it was meant to be sent. So each recipient checks loss and order by
//! itself, and an open loop's latency counts what the generator was late: there is no coordinated omission. A closed loop's latency is
//! mostly waiting behind the loop's own messages, and is called that.
#![forbid(unsafe_code)]

mod connection;
mod connects;
pub mod draw;
mod error;
mod ledger;
mod pace;
pub mod plan;
pub mod plot;
pub mod protocol;
pub mod report;
pub mod run;
pub mod server;
mod shared;
mod stamp;
pub mod summary;
pub mod target;
mod worker;

pub use crate::error::Error;
