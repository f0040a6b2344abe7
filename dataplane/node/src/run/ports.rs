//! What a node needs of the system before anything starts: its ports, and descriptors.

use std::net::{SocketAddr, TcpListener};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::StartError;
use crate::config::Config;

/// The addresses that were found to be free; HTTP's is held.
pub(super) struct Ports {
    pub(super) device: Option<SocketAddr>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) http: TcpListener,
}

impl Ports {
    pub(super) fn bind(config: &Config) -> Result<Ports, StartError> {
        let roles = config.node.roles;
        let devices = roles.connection || roles.messaging;
        let peers = roles.connection || roles.region;
        Ok(Ports {
            device: devices.then(|| probe("device", config.listen.device)).transpose()?,
            peer: peers.then(|| probe("peer", config.listen.peer)).transpose()?,
            http: bind("http", config.listen.http)?,
        })
    }
}

/// Each shard binds the port for itself, which succeeds also next to another process of the same user; so first one binds it alone.
fn probe(setting: &'static str, address: SocketAddr) -> Result<SocketAddr, StartError> {
    let listener = bind(setting, address)?;
    listener.local_addr().map_err(StartError::System)
}

fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|error| StartError::Port {
        setting,
        address,
        error,
    })
}

/// As many descriptors as the system grants; fewer than sockets only costs connections, so it's no error.
pub(super) fn raise_descriptor_limit(sockets_max: u32, shards: usize) {
    let wanted = u64::from(sockets_max) * shards as u64 + DESCRIPTORS_SPARE;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let next = wanted.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, next, hard).map(|()| next)
    });
    match raised {
        Ok(granted) if granted >= wanted => {}
        Ok(granted) => tracing::info!(
            granted,
            wanted,
            "fewer descriptors than `limits.sockets_max` asks for: raise LimitNOFILE, or the node stops accepting early"
        ),
        Err(error) => tracing::warn!("the limit of descriptors can't be raised: {error}"),
    }
}

/// Listeners, epoll's own, files, HTTP.
const DESCRIPTORS_SPARE: u64 = 256;
