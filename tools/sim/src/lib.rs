//! Whole clusters in virtual time: the deployed nodes, control plane and client library, under faults, replayable by seed.
//!
//! | file | what it is |
//! |---|---|
//! | `cluster`, `timers` | hosts and processes, and who takes a turn when |
//! | `node`, `devices` | what runs on them |
//! | `faults` | what a scenario does to them |
//! | `moves` | devices and slots that move between regions |
//! | `ledger` | what users have sent, seen and been told, held against the promises |
//! | `watch` | what nodes believe, held against the promises: at intervals, and at rest |
//! | `model`, `sums` | the same after every turn of a shard |
//! | `pairs` | who could reach whom: what excuses a node for not knowing |
//! | `swarm` | one run: everything of it follows from its seed |
//! | `scenario`, `inflict` | the kinds of faults, and what each does |
//! | `calm` | what must hold once all faults are over |
//! | `versions` | who speaks which version of the protocol, and what must come of it |
//! | `steward` | what control does, held against what its nodes have done |
//! | `headless` | what must hold without a control plane, and when it is back |
//! | `overload` | more load than the servers can take, and what must hold when it is gone |
//! | `impostor` | a control plane that offers bad maps |
//! | `strangers` | who says what no library would |
//! | `planted` | defects that are put in to see that each is noticed |
//! | `propagation` | what telling everybody of every connect would cost, beside what we do |
//! | `scale` | what a cluster for so many devices takes, by calculation |
//! | `promise`, `journal` | a broken promise, and the history that comes with it |
//!
//! Nothing here decides anything that a cluster decides. What is not simulated: threads (one turn at a time), the disk's own
//! faults, the HTTP port.
#![forbid(unsafe_code)]

mod calm;
pub mod cluster;
pub mod devices;
pub mod faults;
mod headless;
mod impostor;
mod inflict;
pub mod journal;
pub mod ledger;
mod model;
pub mod moves;
mod node;
mod overload;
mod pairs;
#[cfg(feature = "planted")]
pub mod planted;
pub mod promise;
pub mod propagation;
mod recall;
pub mod scale;
pub mod scenario;
mod steward;
mod strangers;
mod sums;
pub mod swarm;
mod timers;
pub mod versions;
mod watch;

pub use cluster::{Cluster, Spec};
pub use devices::Start;
pub use faults::Host;
pub use journal::{DeviceNo, MessageNo};
pub use node::{NodeNo, NodeSpec};
pub use promise::{Checked, Promise, Violation};
pub use scenario::{Kind, Scenario};
pub use versions::Course;
