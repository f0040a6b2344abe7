//! One shard's decisions: who is connected, where a message goes, what is answered. No I/O, no clock, no randomness of its own.
//!
//! Time, seeds and bytes come in as arguments; effects go out as values in an [`outbox::Outbox`]. That is what lets the simulator,
//! the fuzzer and the benchmarks run the very code that is deployed. What is deliberately absent: sockets, threads, locks, floats,
//! wall-clock time but as an argument, and any iteration in an order that differs between two runs.
#![forbid(unsafe_code)]

pub mod admission;
pub mod archive;
pub mod budget;
pub mod constants;
pub mod counters;
pub mod epoch;
pub mod greeting;
pub mod link;
pub mod location;
pub mod outbox;
pub mod predictor;
pub mod presence;
pub mod resequencer;
pub mod router;
pub mod session;
pub mod sources;
pub mod unresolved;
pub mod watches;
