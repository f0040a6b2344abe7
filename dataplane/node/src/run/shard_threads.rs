//! The threads of the node's shards.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use trunkline_core::greeting::Port;
use trunkline_net::driver::Driver;
use trunkline_net::epoll::Options;
use trunkline_net::tuning::prefer_memory_of;
use trunkline_wire::auth::{Secret, random_bytes};
use trunkline_wire::id::ShardId;

use super::ports::Ports;
use super::{MakeDriver, Shared, StartError, lock};
use crate::config::{Config, Memory};
use crate::entropy::Entropy;
use crate::mesh::{MeshPort, Order};
use crate::shard::{Shard, ShardConfig};
use crate::topology;

/// Starts a thread for each processor; when this returns, all of them listen.
pub(super) fn start_shards<D: Driver + 'static>(
    config: &Config,
    shared: &Arc<Shared>,
    make: MakeDriver<D>,
    mesh_ports: Vec<MeshPort<D>>,
    token_key: Option<Secret>,
    ports: &Ports,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let (tell, told) = mpsc::channel();
    let nodes = topology::memory_nodes();
    let mut threads = Vec::new();
    for (index, port) in mesh_ports.into_iter().enumerate() {
        let shard_config = ShardConfig {
            node: shared.node,
            incarnation: shared.incarnation,
            shard: ShardId(index as u16),
            shards: shared.cores.len() as u16,
            roles: shared.roles,
            keys: shared.keys.clone(),
            token_key: token_key.clone(),
            direct_links_max: config.limits.direct_links_max,
            predictor: config.node.predictor,
            affinity_lists_max: config.limits.affinity_lists_max,
            seed: u64::from_le_bytes(random_bytes()),
            entropy: Entropy::System,
            gates: Arc::clone(&shared.gates),
            versions: shared.versions,
            #[cfg(feature = "next-version")]
            build: super::build(shared.versions),
        };
        let start = ShardStart {
            config: shard_config,
            options: config.tuning.options(&config.limits, Some(shared.cores[index])),
            memory: match config.tuning.memory {
                Memory::Local => topology::memory_home(&nodes, shared.cores[index]),
                Memory::Inherited => None,
            },
            make,
            core: shared.cores[index],
            device: ports.device,
            peer: ports.peer,
            shared: Arc::clone(shared),
        };
        let tell = tell.clone();
        let thread = thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(move || start.run(port, &tell));
        threads.push(thread.map_err(StartError::System)?);
    }
    drop(tell);
    for _ in &threads {
        let started = told
            .recv()
            .unwrap_or_else(|_| Err(StartError::System(io::ErrorKind::Other.into())));
        if let Err(error) = started {
            for mailbox in &shared.mailboxes {
                mailbox.send(Order::Stop);
            }
            return Err(error);
        }
    }
    Ok(threads)
}

/// What a shard's thread starts with.
struct ShardStart<D: Driver> {
    config: ShardConfig,
    options: Options,
    /// The NUMA node to take memory from, where there is a choice.
    memory: Option<u32>,
    make: MakeDriver<D>,
    core: usize,
    device: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
}

impl<D: Driver> ShardStart<D> {
    fn run(self, port: MeshPort<D>, tell: &mpsc::Sender<Result<(), StartError>>) {
        let index = self.config.shard;
        pin(self.core);
        // All that the shard has is made from here on, on this thread: the pages that it touches first are near it.
        if let Some(node) = self.memory
            && let Err(error) = prefer_memory_of(node)
        {
            tracing::warn!(node, "a shard's memory may come from another node: {error}");
        }
        let shared = Arc::clone(&self.shared);
        let made = self.make(port);
        let mut shard = match made {
            Ok(shard) => {
                let _ = tell.send(Ok(()));
                shard
            }
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        while !shard.is_stopped() {
            if let Err(error) = shard.turn(None) {
                // Its health check fails from now on; whoever watches it restarts the process.
                tracing::error!(shard = index.0, "a shard's driver failed: {error}");
                return;
            }
            // Only a hint for the control plane: once a turn is often enough.
            if index.0 == 0 {
                let sessions = shared
                    .stats
                    .shards()
                    .iter()
                    .map(|shard| shard.sessions.load(Ordering::Relaxed))
                    .sum();
                shared.agent.sessions.store(sessions, Ordering::Relaxed);
                shared.agent.draining.store(shared.stats.draining(), Ordering::Relaxed);
            }
        }
    }

    fn make(self, port: MeshPort<D>) -> Result<Shard<D>, StartError> {
        let driver = (self.make)(self.options).map_err(StartError::System)?;
        let stats = Arc::clone(&self.shared.stats.shards()[usize::from(self.config.shard.0)]);
        stats.thread.store(gettid().as_raw() as u64, Ordering::Relaxed);
        let map = Arc::clone(&lock(&self.shared.agent.map));
        let mut shard = Shard::new(driver, self.config, port, map, stats);
        for (setting, port, address) in [("device", Port::Device, self.device), ("peer", Port::Peer, self.peer)] {
            let Some(address) = address else { continue };
            shard.listen(port, address).map_err(|error| StartError::Port {
                setting,
                address,
                error,
            })?;
        }
        Ok(shard)
    }
}

fn pin(core: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::warn!(core, "a shard could not be pinned and runs anywhere: {error}");
    }
}
