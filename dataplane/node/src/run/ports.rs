//! What a node needs of the system before anything starts: its ports, and descriptors.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use super::StartError;
use crate::config::Config;

/// The addresses that were found to be free, held until the shards listen there.
pub(super) struct Ports {
    pub(super) device: Option<SocketAddr>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) http: TcpListener,
    /// Bound, and not listening: so nobody else is given a port that was picked for this node.
    _held: Vec<Socket>,
}

impl Ports {
    pub(super) fn bind(config: &Config) -> Result<Ports, StartError> {
        let roles = config.node.roles;
        let devices = roles.connection || roles.messaging;
        let peers = roles.connection || roles.region;
        let mut held = Vec::new();
        let mut hold = |setting, address| -> Result<SocketAddr, StartError> {
            let (socket, address) = hold(setting, address)?;
            held.push(socket);
            Ok(address)
        };
        Ok(Ports {
            device: devices.then(|| hold("device", config.listen.device)).transpose()?,
            peer: peers.then(|| hold("peer", config.listen.peer)).transpose()?,
            http: bind("http", config.listen.http)?,
            _held: held,
        })
    }
}

/// Each shard binds the port for itself, which succeeds also next to another process of the same user; so a port that was named is
/// first bound alone.
fn hold(setting: &'static str, address: SocketAddr) -> Result<(Socket, SocketAddr), StartError> {
    if address.port() != 0 {
        drop(bind(setting, address)?);
    }
    let held = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).and_then(|socket| {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        let bound = socket.local_addr()?.as_socket();
        Ok((socket, bound.unwrap_or(address)))
    });
    held.map_err(|error| StartError::Port {
        setting,
        address,
        error,
    })
}

/// The kernel takes the io_uring of a process that was killed apart some time after its end, and its ports with it: who is started
/// again at once waits for that.
fn bind(setting: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let until = Instant::now() + PREDECESSOR_MAX;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => thread::sleep(POLL),
            bound => {
                return bound.map_err(|error| StartError::Port {
                    setting,
                    address,
                    error,
                });
            }
        }
    }
}

/// How long the ports of a predecessor may stay in use.
const PREDECESSOR_MAX: Duration = Duration::from_secs(3);
/// Between two attempts.
const POLL: Duration = Duration::from_millis(20);

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
