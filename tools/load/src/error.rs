//! Why a run ended without a result. Each is one line that names who was at fault.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Why a run ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target doesn't accept.
    #[error("{address}: cannot connect: {error}")]
    Connect {
        /// The target.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The target ended a connection.
    #[error("{address}: it closed a connection: {why}")]
    Closed {
        /// The target.
        address: SocketAddr,
        /// What it said, or what the system said.
        why: String,
    },
    /// Some of the connections were never welcomed.
    #[error("{address}: {welcomed} of {connections} connections were welcomed within {seconds} s")]
    NotWelcomed {
        /// The target.
        address: SocketAddr,
        /// So many were.
        welcomed: usize,
        /// Of so many.
        connections: usize,
        /// Within this time.
        seconds: u64,
    },
    /// The process may not have so many sockets.
    #[error("--connections {connections}: this process may open {limit} files; raise it with ulimit -n")]
    Descriptors {
        /// So many are wanted.
        connections: usize,
        /// The hard limit.
        limit: u64,
    },
    /// What the kernel accounts can't be read.
    #[error("{}: cannot be read: {error}", path.display())]
    Account {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// What the system said to something else.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// The user wanted it to end before anything was measured.
    #[error("interrupted before anything was measured")]
    Interrupted,
}

impl Error {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |error| Error::System { what, error }
    }
}
