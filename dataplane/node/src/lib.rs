//! A node: the glue between the decisions of `trunkline-core` and the sockets of `trunkline-net`.
//!
//! - [`shard`]: one thread's everything. [`mesh`]: what goes between the shards of one node.
//! - [`door`]: who may connect.
//! - [`agent`]: the node's subscription to the control plane. [`identity`], [`storage`]: what it keeps on disk.
//! - [`config`], [`run`], [`http`], [`stats`]: from a TOML file to threads, and what they report. [`topology`]: the host that they run on.
//!
//! A [`shard::Shard`] and an [`agent::Agent`] know no threads: they take turns. The deployed node gives each a thread; the simulator
//! gives turns to all of them in one, and so runs the same code. What is deliberately absent: any decision about a message.
#![forbid(unsafe_code)]

pub mod agent;
pub mod config;
mod congestion;
mod connection;
pub mod departure;
pub mod door;
pub mod entropy;
pub mod http;
pub mod identity;
pub mod mesh;
pub mod run;
pub mod shard;
pub mod stats;
pub mod storage;
pub mod topology;
