//! Faults against a cluster of real processes, each in a network namespace of its own, and a ledger that checks from outside what was
//! promised.
//!
//! | file | what it does |
//! |---|---|
//! | `network` | makes the namespaces, cuts and slows what runs between them |
//! | `plan` | draws the faults, by seed |
//! | `change` | draws what an operator changes meanwhile: slots that move, an instance that goes and comes back |
//! | `strike` | carries a fault out, and heals it |
//! | `watch` | tells when all has come together again |
//! | `ledger` | writes down what senders and recipients saw |
//! | `judge` | holds that against the promises; pure |
//! | `run` | the devices, their traffic, and the whole |

mod change;
mod judge;
mod ledger;
pub mod network;
mod plan;
mod run;
mod strike;
mod watch;

pub use self::judge::Breach;
pub use self::plan::Kind;
pub use self::run::{Settings, Verdict, run};
