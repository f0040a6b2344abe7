//! Trunkline's thin control plane: who is a member, which region each device belongs to, and the map that says so.
//!
//! ```text
//! server  sockets, handshakes, deadlines: a shell over a driver of `trunkline-net`
//!   └─ logic  every decision, pure: joins, operators' requests
//!        ├─ membership   leases                     ├─ state    what is durable, and changes of it
//!        ├─ assignment   slots and devices          ├─ history  steps back, for deltas
//!        └─ publication  who has which version      └─ store    where it is kept
//! ```
//!
//! It is not on any message's way: nodes route by their replica of the map, and go on without the control plane for as long as it
//! takes. It doesn't place itself: one process holds the store, and its return, or a restored backup, is the recovery. Invariants:
//! nothing is published before it is on disk; a version never goes back; nobody is expired for the control plane's own absence; no
//! input ends the process.
#![forbid(unsafe_code)]

pub mod admin;
pub mod assignment;
pub mod config;
pub mod counters;
pub mod history;
pub mod logic;
pub mod membership;
pub mod publication;
pub mod request;
pub mod server;
pub mod state;
pub mod store;
