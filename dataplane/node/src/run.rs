//! From a configuration to threads, and back: one pinned thread for each processor, one for the control plane, one for HTTP.
//!
//! Everything that an operator can have got wrong is found before the first thread starts, or comes back as one line. After that,
//! nothing that comes in over a socket ends the process.

mod agent_thread;
mod ports;
mod shard_threads;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as SystemInstant};

use trunkline_net::backend::{Chosen, Unavailable};
use trunkline_net::driver::Driver;
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_net::tuning::{self, Refused};
use trunkline_net::uring::UringDriver;
use trunkline_wire::auth::{ClusterKeys, random_bytes};
use trunkline_wire::control::Roles;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::Map;
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use self::agent_thread::{AgentThread, start_agent};
use self::ports::{Ports, raise_descriptor_limit};
use self::shard_threads::start_shards;
use crate::agent::AgentCounters;
use crate::config::{Config, ConfigError, CoreList, DRAIN_SECONDS_MIN, DrainSection, TuningSection};
use crate::departure::{Departure, ENDING, Step};
use crate::door::Door;
use crate::http;
use crate::identity::{Identity, IdentityError, SECRET, read_secret};
use crate::mesh::{DrainOrder, Mailbox, Order, Then, mesh};
use crate::stats::{ShardStats, Stats};

/// Why a node doesn't start. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The back end that was asked for.
    #[error("`node.backend`: {0}")]
    Backend(#[from] Unavailable),
    /// A setting that this kernel doesn't take.
    #[error("`tuning.{setting}`: {refused}")]
    Tuning {
        /// Which setting.
        setting: &'static str,
        /// What the kernel said.
        refused: Refused,
    },
    /// The data directory or a secret.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// A port.
    #[error("`listen.{setting}`: {address} can't be used: {error}; stop what uses it, or set another address")]
    Port {
        /// Which setting.
        setting: &'static str,
        /// What it says.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The control plane, on a first start.
    #[error("the control plane gave no id to this new node ({}): {reason}", .addresses.join(", "))]
    NotJoined {
        /// Where it was looked for.
        addresses: Vec<String>,
        /// What was wrong last.
        reason: String,
    },
    /// The system has no thread, descriptor or memory left.
    #[error("a thread of the node could not start: {0}")]
    System(io::Error),
}

/// What all threads of a node may look at.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) incarnation: Incarnation,
    pub(crate) roles: Roles,
    pub(crate) keys: ClusterKeys,
    pub(crate) cores: Vec<usize>,
    pub(crate) backend: Chosen,
    pub(crate) device_address: Option<SocketAddr>,
    pub(crate) peer_address: Option<SocketAddr>,
    pub(crate) stats: Stats,
    pub(crate) clock: Clock,
    pub(crate) agent: Arc<AgentView>,
    pub(crate) mailboxes: Vec<Mailbox>,
    pub(crate) gates: Arc<Door>,
    pub(crate) versions: Versions,
}

/// What runs here, for people.
#[cfg(feature = "next-version")]
pub(crate) fn build(versions: Versions) -> String {
    format!("trunkline {}, protocol {versions}", env!("CARGO_PKG_VERSION"))
}

/// The drivers' clock, for threads without a driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    at: SystemInstant,
    shows: Instant,
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        self.shows + self.at.elapsed()
    }
}

/// What the agent shows of itself.
#[derive(Debug)]
pub(crate) struct AgentView {
    pub(crate) map: Mutex<Arc<Map>>,
    pub(crate) member: AtomicBool,
    pub(crate) counters: Mutex<AgentCounters>,
    pub(crate) trouble: Mutex<Option<String>>,
    sessions: AtomicU64,
    draining: AtomicBool,
    leave: AtomicBool,
}

/// A running node. [`Node::shutdown`] ends it; dropping it leaves its threads running.
pub struct Node {
    shared: Arc<Shared>,
    shards: Vec<JoinHandle<()>>,
    agent: AgentThread,
    http: http::Server,
    drain: DrainSection,
    /// Holds the lock of the data directory.
    _identity: Identity,
}

impl Node {
    /// Starts everything. On a node's first start this waits for the control plane to give it an id; later starts need nobody.
    ///
    /// # Errors
    /// One line that names the setting, the file or the port.
    pub fn start(config: Config) -> Result<Node, StartError> {
        config.check()?;
        let cores = match &config.node.cores {
            Some(cores) => cores.clone(),
            None => CoreList::allowed().map_err(StartError::System)?,
        };
        raise_descriptor_limit(config.limits.sockets_max, cores.cores().len());
        let bounds = config.tuning.options(&config.limits, cores.cores().first().copied());
        let chosen = config.node.backend.choose(cores.cores().len(), &bounds)?;
        tuning::try_out(chosen, &bounds).map_err(|refused| StartError::Tuning {
            setting: TuningSection::setting(refused.asked),
            refused,
        })?;
        match chosen {
            Chosen::Uring => Node::start_on(config, &cores, chosen, |options| UringDriver::new(options.into())),
            Chosen::Epoll => Node::start_on(config, &cores, chosen, EpollDriver::new),
        }
    }

    /// As [`Node::start`], with drivers of one kind for the shards.
    fn start_on<D: Driver + 'static>(
        config: Config,
        cores: &CoreList,
        backend: Chosen,
        make: MakeDriver<D>,
    ) -> Result<Node, StartError> {
        let identity = Identity::open(&config.node.data_dir)?;
        let secret_file = config.node.secret_file.clone();
        let secret = read_secret(&secret_file.unwrap_or_else(|| config.node.data_dir.join(SECRET)))?;
        let keys = ClusterKeys::new(&secret);
        let token_key = config
            .node
            .token_key_file
            .as_ref()
            .map(|path: &PathBuf| read_secret(path))
            .transpose()?;
        let ports = Ports::bind(&config)?;
        let count = cores.cores().len() as u16;
        let (mesh_ports, mailboxes) = mesh::<D>(count);
        let stats = Stats::new(count);
        let agent = start_agent(&config, &identity, &ports, keys.clone(), &stats, &mailboxes)?;
        let node = match agent.node_id(&config, identity.node) {
            Ok(node) => node,
            Err(error) => {
                agent.stop();
                return Err(error);
            }
        };
        let shared = Arc::new(Shared {
            node,
            name: config.node.name.clone(),
            incarnation: identity.incarnation,
            roles: config.node.roles,
            keys: keys.clone(),
            cores: cores.cores().to_vec(),
            backend,
            device_address: ports.device,
            peer_address: ports.peer,
            stats,
            clock: agent.clock(),
            agent: Arc::clone(&agent.view),
            mailboxes,
            gates: Door::new(config.admission.limits(count), u64::from_le_bytes(random_bytes())),
            versions: config.node.versions,
        });
        let started = start_shards(&config, &shared, make, mesh_ports, token_key, &ports).and_then(|shards| {
            let routes = http::routes(Arc::clone(&shared));
            let http = http::serve(ports.http, routes).map_err(StartError::System)?;
            Ok((shards, http))
        });
        let (shards, http) = match started {
            Ok(started) => started,
            Err(error) => {
                for mailbox in &shared.mailboxes {
                    mailbox.send(Order::Stop);
                }
                agent.stop();
                return Err(error);
            }
        };
        tracing::info!(
            node = %node, incarnation = %identity.incarnation, cores = ?shared.cores, http = %http.address(),
            device = ?ports.device, peer = ?ports.peer, "started"
        );
        Ok(Node {
            shared,
            shards,
            agent,
            http,
            drain: config.drain,
            _identity: identity,
        })
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.shared.node
    }

    /// Where devices connect, if it listens for them.
    pub fn device_address(&self) -> Option<SocketAddr> {
        self.shared.device_address
    }

    /// Where nodes connect, if it listens for them.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.shared.peer_address
    }

    /// Where metrics are.
    pub fn http_address(&self) -> SocketAddr {
        self.http.address()
    }

    /// What its shards count.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Why it can't serve yet, one line each; empty if it can.
    pub fn not_ready(&self) -> Vec<String> {
        http::not_ready(&self.shared)
    }

    /// Sends devices elsewhere, at the set rate or as fast as it takes, and waits until they have come up there; closes links without
    /// losing a frame, leaves the control plane, and ends all threads; within `drain.seconds_max`, whatever the others do. The devices
    /// are told to wait for at least `retry_after`.
    pub fn shutdown(self, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let most = Duration::from_secs(self.drain.seconds_max.into());
        let order = DrainOrder {
            rate: self.drain.rate,
            retry_after_ms: retry_after_ms.max(self.drain.retry_after_ms),
            then: Then::End(Departure::devices_within(most)),
        };
        let tell = |order: fn() -> Order| {
            for mailbox in &self.shared.mailboxes {
                mailbox.send(order());
            }
        };
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Order::Drain(order));
        }
        let clock = self.shared.clock;
        let all = |of: fn(&ShardStats) -> &AtomicBool| {
            let mut shards = self.shared.stats.shards().iter();
            shards.all(|shard| of(shard).load(Ordering::Acquire))
        };
        let mut departure = Departure::new(clock.now(), most);
        // A shard that is through still answers the others until all are.
        loop {
            let devices_gone = all(|shard| &shard.devices_gone);
            match departure.step(clock.now(), devices_gone, all(|shard| &shard.drained)) {
                Step::Wait => thread::sleep(Duration::from_millis(10)),
                Step::CloseLinks => tell(|| Order::Leave),
                Step::Stop => break,
            }
        }
        tell(|| Order::Stop);
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard had panicked");
            }
        }
        self.agent.stop();
        self.http.stop();
        tracing::info!(node = %self.shared.node, "stopped");
    }
}

/// Makes a shard's driver, in the thread that will use it.
type MakeDriver<D> = fn(Options) -> io::Result<D>;

/// A poisoned lock only says that a thread has panicked while it held plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

const _: () = assert!(ENDING.as_secs() < DRAIN_SECONDS_MIN as u64);
