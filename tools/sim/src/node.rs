//! A simulated host with a node on it: the deployed agent and shards, and a disk that outlives them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use trunkline_core::greeting::Port;
use trunkline_net::sim::{DriverId, SimDriver, SimOptions, World};
use trunkline_node::agent::{Agent, AgentConfig, News};
use trunkline_node::config::AdmissionSection;
use trunkline_node::departure::{Departure, Step};
use trunkline_node::door::Door;
use trunkline_node::entropy::Entropy;
use trunkline_node::identity::next_start;
use trunkline_node::mesh::{DrainOrder, Mailbox, Order, Then, mesh};
use trunkline_node::shard::{Shard, ShardConfig};
use trunkline_node::stats::Stats;
use trunkline_node::storage::Memory;
use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::control::Roles;
use trunkline_wire::id::{Incarnation, NodeId, ShardId};
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

/// A node of the cluster by its place in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeNo(pub usize);

/// Where devices reach every node.
pub(crate) const DEVICE_PORT: u16 = 7400;
/// Where nodes reach each other.
pub(crate) const PEER_PORT: u16 = 7401;

/// What a node is told by its operator.
#[derive(Clone, Debug)]
pub struct NodeSpec {
    /// For people.
    pub name: String,
    /// What it does.
    pub roles: Roles,
    /// The regions that it serves, by name.
    pub regions: Vec<String>,
    /// How many shards it has.
    pub shards: u16,
}

/// See the module's text.
pub(crate) struct NodeHost {
    pub(crate) spec: NodeSpec,
    pub(crate) address: IpAddr,
    pub(crate) disk: Memory,
    pub(crate) process: Option<Process>,
    /// As far as control has given one.
    pub(crate) node: NodeId,
    /// Told to go, and still there.
    pub(crate) draining: bool,
}

/// A running node. Dropping it is its crash.
pub(crate) struct Process {
    pub(crate) agent: Agent<SimDriver>,
    /// None until the node has an id.
    pub(crate) shards: Vec<Shard<SimDriver>>,
    mailboxes: Vec<Mailbox>,
    stats: Stats,
    pub(crate) incarnation: Incarnation,
    pub(crate) versions: Versions,
    /// What it says that it runs.
    #[cfg(feature = "next-version")]
    pub(crate) build: String,
    #[cfg(feature = "next-version")]
    pub(crate) started: Instant,
    seed: u64,
    /// How it ends, once it was told to.
    departure: Option<Departure>,
    /// Its agent is to leave, with its next turn, as on the deployed node: who stood still finds first that control is lost.
    leaving: bool,
    /// It has left; whether it was a member then.
    left_as_member: Option<bool>,
}

/// What all nodes are told.
pub(crate) struct Site {
    pub(crate) world: World,
    pub(crate) keys: ClusterKeys,
    pub(crate) control: SocketAddr,
}

impl NodeHost {
    pub(crate) fn new(spec: NodeSpec, address: IpAddr) -> NodeHost {
        NodeHost {
            spec,
            address,
            disk: Memory::new(),
            process: None,
            node: NodeId::NONE,
            draining: false,
        }
    }

    pub(crate) fn device_address(&self) -> Option<SocketAddr> {
        let roles = self.spec.roles;
        (roles.connection || roles.messaging).then(|| SocketAddr::new(self.address, DEVICE_PORT))
    }

    fn peer_address(&self) -> Option<SocketAddr> {
        let roles = self.spec.roles;
        (roles.connection || roles.region).then(|| SocketAddr::new(self.address, PEER_PORT))
    }

    /// Starts the node as its process does: from its disk, knowing the control plane's address and the secret.
    pub(crate) fn start(&mut self, site: &Site, seed: u64, versions: Versions) {
        // A node whose disk takes no write doesn't start; its operator makes room first.
        self.disk.set_full(false);
        let (node, incarnation) = next_start(&self.disk).expect("a simulated disk can be read");
        let mut random = fastrand::Rng::with_seed(seed);
        #[cfg(feature = "next-version")]
        let build = format!("{}, start {incarnation}, protocol {versions}", self.spec.name);
        let config = AgentConfig {
            control: vec![site.control.to_string()],
            node,
            incarnation,
            name: self.spec.name.clone(),
            roles: self.spec.roles,
            regions: self.spec.regions.clone(),
            device_address: self.device_address(),
            peer_address: self.peer_address(),
            http_address: None,
            keys: site.keys.clone(),
            accept_lineage: false,
            seed: random.u64(..),
            entropy: Entropy::seeded(random.u64(..)),
            versions,
            #[cfg(feature = "next-version")]
            build: build.clone(),
        };
        let driver = site.world.driver(self.address, SimOptions::default());
        self.process = Some(Process {
            agent: Agent::new(driver, config, Box::new(self.disk.clone())),
            shards: Vec::new(),
            mailboxes: Vec::new(),
            stats: Stats::new(self.spec.shards),
            incarnation,
            versions,
            #[cfg(feature = "next-version")]
            build,
            #[cfg(feature = "next-version")]
            started: site.world.now(),
            seed: random.u64(..),
            departure: None,
            leaving: false,
            left_as_member: None,
        });
        self.draining = false;
        self.start_shards(site);
    }

    /// Tells its shards to send devices away, close links and be done.
    pub(crate) fn drain(&mut self, now: Instant, retry_after_ms: u32) {
        let Some(process) = &mut self.process else { return };
        self.draining = true;
        process.departure = Some(Departure::new(now, DRAIN_WITHIN));
        let order = DrainOrder {
            rate: DRAIN_RATE,
            retry_after_ms,
            then: Then::End(Departure::devices_within(DRAIN_WITHIN)),
        };
        for mailbox in &process.mailboxes {
            mailbox.send(Order::Drain(order));
        }
    }

    /// Moves a shutdown on, as the node's main thread does, until the agent has left. True when nothing is left.
    pub(crate) fn drained(&mut self, now: Instant) -> bool {
        let Some(process) = &mut self.process else { return false };
        let Some(departure) = &mut process.departure else {
            return false;
        };
        if !process.leaving {
            let devices_gone = process.shards.iter().all(Shard::is_rid_of_devices);
            let links_closed = process.shards.iter().all(Shard::is_drained);
            match departure.step(now, devices_gone, links_closed) {
                Step::Wait => return false,
                Step::CloseLinks => {
                    for mailbox in &process.mailboxes {
                        mailbox.send(Order::Leave);
                    }
                    return false;
                }
                Step::Stop => {}
            }
        }
        process.leaving = true;
        process.agent.has_left()
    }

    /// Whether control knew the node when it left.
    pub(crate) fn left_as_member(&self) -> bool {
        let process = self.process.as_ref();
        process.and_then(|process| process.left_as_member) == Some(true)
    }

    /// Gives the agent a turn; true if there are shards now that were not there before.
    pub(crate) fn agent_turn(&mut self, site: &Site, now: Instant) -> bool {
        let Some(process) = &mut self.process else { return false };
        let sessions = process
            .shards
            .iter()
            .map(|shard| shard.router().sessions() as u64)
            .sum();
        process.agent.set_sessions(sessions);
        process.agent.set_settled(process.stats.map_settled());
        process.agent.turn(Some(now)).expect("a simulated driver doesn't fail");
        if process.leaving && process.left_as_member.is_none() {
            process.left_as_member = Some(process.agent.is_member());
            process.agent.leave();
        }
        for news in process.agent.news() {
            if let News::Map(map) = news {
                for mailbox in &process.mailboxes {
                    mailbox.send(Order::Map(Arc::clone(&map)));
                }
            }
        }
        self.start_shards(site)
    }

    /// Starts the shards once the node has an id; true if it did.
    fn start_shards(&mut self, site: &Site) -> bool {
        let (device_address, peer_address) = (self.device_address(), self.peer_address());
        let Some(process) = &mut self.process else { return false };
        self.node = process.agent.node();
        if !process.shards.is_empty() || self.node == NodeId::NONE {
            return false;
        }
        let (ports, mailboxes) = mesh(self.spec.shards);
        process.mailboxes = mailboxes;
        let mut random = fastrand::Rng::with_seed(process.seed);
        let limits = AdmissionSection::default().limits(self.spec.shards);
        let gates = Door::new(limits, random.u64(..));
        for (index, port) in ports.into_iter().enumerate() {
            let config = ShardConfig {
                node: self.node,
                incarnation: process.incarnation,
                shard: ShardId(index as u16),
                shards: self.spec.shards,
                roles: self.spec.roles,
                keys: site.keys.clone(),
                token_key: None,
                direct_links_max: trunkline_core::link::DIRECT_LINKS_MAX,
                predictor: Default::default(),
                affinity_lists_max: AFFINITY_LISTS_MAX,
                seed: random.u64(..),
                entropy: Entropy::seeded(random.u64(..)),
                gates: Arc::clone(&gates),
                versions: process.versions,
                #[cfg(feature = "next-version")]
                build: process.build.clone(),
            };
            let driver = site.world.driver(self.address, SimOptions::default());
            let map = Arc::clone(process.agent.map());
            let stats = Arc::clone(&process.stats.shards()[index]);
            process.shards.push(Shard::new(driver, config, port, map, stats));
        }
        // All shards are there before the first connection, as in the deployed node.
        for shard in &mut process.shards {
            for (port, address) in [(Port::Device, device_address), (Port::Peer, peer_address)] {
                if let Some(address) = address {
                    shard.listen(port, address).expect("a simulated port is free");
                }
            }
        }
        true
    }
}

impl Process {
    /// Its drivers: the agent's first, then the shards' in their order.
    pub(crate) fn drivers(&self) -> impl Iterator<Item = DriverId> {
        let shards = self.shards.iter().map(|shard| shard.driver().id());
        std::iter::once(self.agent.driver().id()).chain(shards)
    }

    /// When each is due, in the order of [`Process::drivers`].
    pub(crate) fn deadlines(&mut self) -> impl Iterator<Item = (DriverId, Instant)> {
        let due = match self.agent_is_due() {
            true => Instant::ZERO,
            false => self.agent.deadline(),
        };
        let agent = (self.agent.driver().id(), due);
        let shards = self
            .shards
            .iter_mut()
            .map(|shard| (shard.driver().id(), shard.deadline()));
        std::iter::once(agent).chain(shards)
    }

    /// Of whom that may have changed with a turn of `shard`: it, and those to whom it has left something.
    pub(crate) fn deadlines_after(&mut self, shard: usize) -> impl Iterator<Item = (DriverId, Instant)> {
        let agent = self.agent_is_due().then(|| (self.agent.driver().id(), Instant::ZERO));
        let shards = self.shards.iter_mut().enumerate();
        let shards = shards.filter(move |(index, of)| *index == shard || of.has_mail());
        agent
            .into_iter()
            .chain(shards.map(|(_, shard)| (shard.driver().id(), shard.deadline())))
    }

    /// Whether its agent has something to say. On a thread of its own, it looks every few milliseconds, and is woken to leave.
    fn agent_is_due(&mut self) -> bool {
        let to_leave = self.leaving && self.left_as_member.is_none();
        self.agent.set_settled(self.stats.map_settled()) || to_leave
    }

    /// The version of the map that one of its shards has settled.
    pub(crate) fn settled_by(&self, shard: usize) -> u64 {
        self.stats.shards()[shard].map_settled.load(Ordering::Acquire)
    }

    /// The version of the map that all its shards have settled.
    pub(crate) fn map_settled(&self) -> u64 {
        self.stats.map_settled()
    }

    /// The version of the map that its slowest shard uses.
    pub(crate) fn map_version(&self) -> u64 {
        let versions = self.shards.iter().map(|shard| shard.router().map().id().version);
        versions.min().unwrap_or(0)
    }
}

/// Devices a second that a draining node sends away: slower than a node would by default, so that slices are seen.
const DRAIN_RATE: u32 = 20;
/// Within which it has sent all of them away.
pub(crate) const DRAIN_WITHIN: Duration = Duration::from_secs(7);
/// More than there are devices.
const AFFINITY_LISTS_MAX: usize = 10_000;
