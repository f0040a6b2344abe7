//! Message traces, and a model of a cluster that a trace is played through: how often the link was there before the message, and
//! what that cost in dials.
//!
//! The model drives the predictor and the link cache that nodes run, at any number of nodes, in the trace's own time; there are no
//! sockets, no latencies and no failures in it. What it fixes, so that figures compare, is at [`model`].
#![forbid(unsafe_code)]

pub mod model;
mod network;
mod picture;
pub mod plot;
mod policy;
pub mod scale;
pub mod schedule;
mod trace;

pub use crate::policy::Policy;
pub use crate::trace::{Trace, TraceError};
