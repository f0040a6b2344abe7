//! Compares Trunkline with the floor and with other servers: the same load from one generator, on the same cores, in one go and interleaved,
//! so that what the host does meanwhile happens to all of them.
//!
//! | file | noun |
//! |---|---|
//! | `contender` | a server: how it is started, on which cores, and how it ends |
//! | `cluster` | several servers in a row |
//! | `workload` | what is done to all of them, and who takes part |
//! | `table` | what comes out, for people; the JSON and the pictures are the load generator's |
//! | `syscalls` | system calls for each message |
//! | `bin/newmap` | what it costs messages that a node takes over a whole map of a million devices |
//!
//! It deliberately measures nothing else itself: that is `trunkline-load`'s.
#![forbid(unsafe_code)]

pub mod cluster;
pub mod contender;
pub mod syscalls;
pub mod table;
pub mod workload;

use std::process::ExitCode;

/// How a program ends: what went wrong in one line, for people.
pub fn exit(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}
