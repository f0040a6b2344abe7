//! Whole clusters in virtual time: the deployed nodes, control plane and client library, under faults, replayable by seed.
//!
//! | file | what it is |
//! |---|---|
//! | `cluster` | hosts and processes, and who takes a turn when |
//! | `node`, `devices` | what runs on them |
//! | `faults` | what a scenario does to them |
//! | `ledger` | what users have sent, seen and been told, held against the promises |
//! | `watch` | what nodes believe, held against the promises |
//! | `swarm` | one run: everything of it follows from its seed |
//! | `promise`, `journal` | a broken promise, and the history that comes with it |
//!
//! Nothing here decides anything that a cluster decides. What is not simulated: threads (one turn at a time), the disk's own
//! faults, the HTTP port.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod devices;
pub mod faults;
pub mod journal;
pub mod ledger;
mod node;
pub mod promise;
pub mod swarm;
mod watch;

pub use cluster::{Cluster, Spec};
pub use devices::Start;
pub use faults::Host;
pub use journal::{DeviceNo, MessageNo};
pub use node::{NodeNo, NodeSpec};
pub use promise::{Checked, Promise, Violation};
