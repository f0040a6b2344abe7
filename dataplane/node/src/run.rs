//! From a configuration to threads, and back: one pinned thread for each processor, one for the control plane, one for HTTP.
//!
//! Everything that an operator can have got wrong is found before the first thread starts, or comes back as one line. After that,
//! nothing that comes in over a socket ends the process.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as SystemInstant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use trunkline_core::greeting::Port;
use trunkline_net::driver::{Driver, Wake};
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::auth::{ClusterKeys, Secret, random_bytes};
use trunkline_wire::control::Roles;
use trunkline_wire::device::ErrorCode;
use trunkline_wire::id::{Incarnation, NodeId, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::time::Instant;

use crate::agent::{Agent, AgentConfig, AgentCounters, News};
use crate::config::{Config, ConfigError, CoreList};
use crate::entropy::Entropy;
use crate::http;
use crate::identity::{Identity, IdentityError, SECRET, read_secret};
use crate::mesh::{Mailbox, MeshPort, Order, mesh};
use crate::shard::{Shard, ShardConfig};
use crate::stats::Stats;

/// Why a node doesn't start. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error("{0}")]
    Config(#[from] ConfigError),
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
    pub(crate) device_address: Option<SocketAddr>,
    pub(crate) peer_address: Option<SocketAddr>,
    pub(crate) stats: Stats,
    pub(crate) clock: Clock,
    pub(crate) agent: Arc<AgentView>,
    pub(crate) mailboxes: Vec<Mailbox>,
}

/// The drivers' clock, for threads without a driver.
#[derive(Debug)]
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
    leave: AtomicBool,
}

/// A running node. [`Node::shutdown`] ends it; dropping it leaves its threads running.
pub struct Node {
    shared: Arc<Shared>,
    shards: Vec<JoinHandle<()>>,
    agent: JoinHandle<()>,
    agent_wake: Arc<dyn Wake>,
    http: http::Server,
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
        let cores = match &config.node.cores {
            Some(cores) => cores.clone(),
            None => CoreList::allowed().map_err(StartError::System)?,
        };
        let ports = Ports::bind(&config)?;
        raise_descriptor_limit(config.limits.sockets_max, cores.cores().len());

        let count = cores.cores().len() as u16;
        let (mesh_ports, mailboxes) = mesh::<EpollDriver>(count);
        let agent = start_agent(&config, &identity, &ports, keys.clone(), &mailboxes)?;
        let node = agent.node_id(&config, identity.node)?;
        let shared = Arc::new(Shared {
            node,
            name: config.node.name.clone(),
            incarnation: identity.incarnation,
            roles: config.node.roles,
            keys: keys.clone(),
            cores: cores.cores().to_vec(),
            device_address: ports.device,
            peer_address: ports.peer,
            stats: Stats::new(count),
            clock: agent.clock,
            agent: Arc::clone(&agent.view),
            mailboxes,
        });
        let shards = start_shards(&config, &shared, mesh_ports, token_key, &ports)?;
        let http = http::serve(ports.http, http::routes(Arc::clone(&shared))).map_err(StartError::System)?;
        tracing::info!(
            node = %node, incarnation = %identity.incarnation, cores = ?shared.cores, http = %http.address(),
            device = ?ports.device, peer = ?ports.peer, "started"
        );
        Ok(Node {
            shared,
            shards,
            agent: agent.thread,
            agent_wake: agent.wake,
            http,
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

    /// Sends devices away, closes links without losing a frame, leaves the control plane, and ends all threads; within
    /// [`SHUTDOWN_MAX`], whatever the others do.
    pub fn shutdown(self, retry_after: Duration) {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Order::Drain { retry_after_ms });
        }
        let end = SystemInstant::now() + SHUTDOWN_MAX;
        wait_for(&self.shards, end);
        for mailbox in &self.shared.mailboxes {
            mailbox.send(Order::Stop);
        }
        self.shared.agent.leave.store(true, Ordering::Release);
        self.agent_wake.wake();
        for shard in self.shards {
            if shard.join().is_err() {
                tracing::error!("a shard had panicked");
            }
        }
        if self.agent.join().is_err() {
            tracing::error!("the agent had panicked");
        }
        self.http.stop();
        tracing::info!(node = %self.shared.node, "stopped");
    }
}

fn wait_for(threads: &[JoinHandle<()>], end: SystemInstant) {
    while SystemInstant::now() < end && !threads.iter().all(JoinHandle::is_finished) {
        thread::sleep(Duration::from_millis(10));
    }
}

/// The addresses that were found to be free; HTTP's is held.
struct Ports {
    device: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    http: TcpListener,
}

impl Ports {
    fn bind(config: &Config) -> Result<Ports, StartError> {
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

struct AgentThread {
    thread: JoinHandle<()>,
    wake: Arc<dyn Wake>,
    view: Arc<AgentView>,
    clock: Clock,
    joins: mpsc::Receiver<Result<NodeId, (Option<ErrorCode>, String)>>,
}

impl AgentThread {
    /// The node's id: from the data directory, or, on the first start, from the control plane.
    fn node_id(&self, config: &Config, known: NodeId) -> Result<NodeId, StartError> {
        if known != NodeId::NONE {
            return Ok(known);
        }
        let end = SystemInstant::now() + Duration::from_secs(config.limits.join_timeout_s.into());
        let mut reason = "no answer".to_owned();
        loop {
            let left = end.saturating_duration_since(SystemInstant::now());
            match self.joins.recv_timeout(left) {
                Ok(Ok(node)) => return Ok(node),
                // Waiting doesn't help.
                Ok(Err((Some(ErrorCode::WrongSecret), text))) => reason = text,
                Ok(Err((_, text))) => {
                    reason = text;
                    continue;
                }
                Err(_) => {}
            }
            self.view.leave.store(true, Ordering::Release);
            self.wake.wake();
            return Err(StartError::NotJoined {
                addresses: config.node.control.clone(),
                reason,
            });
        }
    }
}

fn start_agent(
    config: &Config,
    identity: &Identity,
    ports: &Ports,
    keys: ClusterKeys,
    mailboxes: &[Mailbox],
) -> Result<AgentThread, StartError> {
    // One connection.
    let options = Options {
        sockets_max: 8,
        sockets_reserved: 1,
        device_buffers: 1,
        link_buffers: 4,
        ..Options::default()
    };
    let driver = EpollDriver::new(options).map_err(StartError::System)?;
    let wake = driver.waker();
    let clock = Clock {
        at: SystemInstant::now(),
        shows: driver.now(),
    };
    let http = ports.http.local_addr().map_err(StartError::System)?;
    let agent_config = AgentConfig {
        control: config.node.control.clone(),
        node: identity.node,
        incarnation: identity.incarnation,
        name: config.node.name.clone(),
        roles: config.node.roles,
        regions: config.node.regions.clone(),
        device_address: ports.device.map(|bound| config.advertise.device.unwrap_or(bound)),
        peer_address: ports.peer.map(|bound| config.advertise.peer.unwrap_or(bound)),
        http_address: Some(config.advertise.http.unwrap_or(http)).filter(|address| !address.ip().is_unspecified()),
        keys,
        accept_lineage: config.node.accept_lineage,
        seed: u64::from_le_bytes(random_bytes()),
        entropy: Entropy::System,
    };
    let agent = Agent::new(driver, agent_config, Box::new(identity.directory.clone()));
    let view = Arc::new(AgentView {
        map: Mutex::new(Arc::clone(agent.map())),
        member: AtomicBool::new(false),
        counters: Mutex::default(),
        trouble: Mutex::default(),
        sessions: AtomicU64::new(0),
        leave: AtomicBool::new(false),
    });
    let (tell, joins) = mpsc::channel();
    let (theirs, mailboxes) = (Arc::clone(&view), mailboxes.to_vec());
    let thread = thread::Builder::new()
        .name("agent".into())
        .spawn(move || run_agent(agent, &theirs, &mailboxes, &tell))
        .map_err(StartError::System)?;
    Ok(AgentThread {
        thread,
        wake,
        view,
        clock,
        joins,
    })
}

type Tell = mpsc::Sender<Result<NodeId, (Option<ErrorCode>, String)>>;

fn run_agent(mut agent: Agent<EpollDriver>, view: &AgentView, mailboxes: &[Mailbox], tell: &Tell) {
    let mut leaving = false;
    while !agent.has_left() {
        for news in agent.news() {
            match news {
                News::Joined(node) => {
                    tracing::info!(%node, "joined the cluster");
                    *lock(&view.trouble) = None;
                    // Nobody listens after the start.
                    let _ = tell.send(Ok(node));
                }
                News::Map(map) => {
                    tracing::info!(version = map.id().version, "a newer map");
                    *lock(&view.map) = Arc::clone(&map);
                    for mailbox in mailboxes {
                        mailbox.send(Order::Map(Arc::clone(&map)));
                    }
                }
                News::Trouble { code, text } => {
                    tracing::warn!("control plane: {text}");
                    *lock(&view.trouble) = Some(text.clone());
                    let _ = tell.send(Err((code, text)));
                }
            }
        }
        *lock(&view.counters) = agent.counters().clone();
        view.member.store(agent.is_member(), Ordering::Relaxed);
        agent.set_sessions(view.sessions.load(Ordering::Relaxed));
        if view.leave.load(Ordering::Acquire) && !leaving {
            leaving = true;
            agent.leave();
            continue;
        }
        let soon = agent.driver().now() + AGENT_TURN_MAX;
        if let Err(error) = agent.turn(Some(soon)) {
            tracing::error!("the agent's driver failed, and maps no longer come: {error}");
            return;
        }
    }
}

fn start_shards(
    config: &Config,
    shared: &Arc<Shared>,
    mesh_ports: Vec<MeshPort<EpollDriver>>,
    token_key: Option<Secret>,
    ports: &Ports,
) -> Result<Vec<JoinHandle<()>>, StartError> {
    let options = Options {
        sockets_max: config.limits.sockets_max,
        ..Options::default()
    };
    let (tell, told) = mpsc::channel();
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
            seed: u64::from_le_bytes(random_bytes()),
            entropy: Entropy::System,
        };
        let start = ShardStart {
            config: shard_config,
            options: options.clone(),
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
struct ShardStart {
    config: ShardConfig,
    options: Options,
    core: usize,
    device: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    shared: Arc<Shared>,
}

impl ShardStart {
    fn run(self, port: MeshPort<EpollDriver>, tell: &mpsc::Sender<Result<(), StartError>>) {
        let index = self.config.shard;
        pin(self.core);
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
        while !shard.is_done() {
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
            }
        }
    }

    fn make(self, port: MeshPort<EpollDriver>) -> Result<Shard<EpollDriver>, StartError> {
        let driver = EpollDriver::new(self.options).map_err(StartError::System)?;
        let stats = Arc::clone(&self.shared.stats.shards()[usize::from(self.config.shard.0)]);
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

/// As many descriptors as the system grants; fewer than sockets only costs connections, so it's no error.
fn raise_descriptor_limit(sockets_max: u32, shards: usize) {
    let wanted = u64::from(sockets_max) * shards as u64 + DESCRIPTORS_SPARE;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let next = wanted.min(hard).max(soft);
        setrlimit(Resource::RLIMIT_NOFILE, next, hard).map(|()| next)
    });
    match raised {
        Ok(granted) if granted >= wanted => {}
        Ok(granted) => tracing::warn!(
            granted,
            wanted,
            "fewer descriptors than `limits.sockets_max` asks for: raise LimitNOFILE, or the node stops accepting early"
        ),
        Err(error) => tracing::warn!("the limit of descriptors can't be raised: {error}"),
    }
}

/// A poisoned lock only says that a thread has panicked while it held plain data.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// How long a shutdown may take before it's cut short: last words and links.
pub const SHUTDOWN_MAX: Duration = Duration::from_secs(10);
/// How often the agent's view is refreshed.
const AGENT_TURN_MAX: Duration = Duration::from_millis(500);
/// Listeners, epoll's own, files, HTTP.
const DESCRIPTORS_SPARE: u64 = 256;
