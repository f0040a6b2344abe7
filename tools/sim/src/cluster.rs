//! A cluster in virtual time: hosts, what runs on them, and who takes a turn when.
//!
//! Everything that runs is what is deployed: the control plane's server, the nodes' agents and shards, the client library. Each has a
//! simulated driver of its own, and is given a turn when its driver has something for it or its deadline has come, one at a time. Who is
//! first among several is drawn from the seed: threads promise nothing there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use trunkline_control::config::{Config, InitialRegion};
use trunkline_control::logic::Logic;
use trunkline_control::server::Server;
use trunkline_control::store::MemoryStore;
use trunkline_net::sim::{DriverId, SimDriver, SimOptions, World, WorldOptions};
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::control::Roles;
use trunkline_wire::id::{DeviceKey, NodeId};
#[cfg(feature = "next-version")]
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use crate::devices::{Device, Phone};
use crate::impostor::Impostor;
use crate::journal::DeviceNo;
use crate::ledger::Ledger;
use crate::node::{NodeHost, NodeNo, NodeSpec, Site};
use crate::overload::Effort;
use crate::promise::{Checked, Promise};
use crate::strangers::Strangers;
use crate::timers::Timers;
use crate::versions::{Course, Mix, Who};
use crate::watch::Watch;

/// How many of what a cluster has.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Regions.
    pub regions: usize,
    /// Instances of each.
    pub instances: usize,
    /// Connection servers.
    pub servers: usize,
    /// Nodes that take messages in and hold no receiving devices.
    pub messaging: usize,
    /// Nodes of which every `n`th, counted from the first, has two shards; 0: none.
    pub two_shards_every: usize,
    /// Devices.
    pub devices: u32,
    /// How many of them share a host, and a fleet.
    pub devices_a_host: u32,
    /// The network.
    pub network: WorldOptions,
    /// Who speaks which version of the protocol.
    pub course: Course,
}

impl Default for Spec {
    /// Two regions of two instances, three connection servers, one messaging server, and no devices.
    fn default() -> Spec {
        Spec {
            regions: 2,
            instances: 2,
            servers: 3,
            messaging: 1,
            two_shards_every: 2,
            devices: 0,
            devices_a_host: 1,
            network: WorldOptions::default(),
            course: Course::Drawn,
        }
    }
}

/// What a driver serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Agent(NodeNo),
    Shard(NodeNo, usize),
    Control,
    Phone(usize),
    Strangers,
    Impostor,
}

/// See the module's text.
pub struct Cluster {
    pub(crate) rng: Rng,
    pub(crate) site: Site,
    pub(crate) spec: Spec,
    pub(crate) nodes: Vec<NodeHost>,
    pub(crate) control: Option<Server<SimDriver, MemoryStore>>,
    #[cfg(feature = "next-version")]
    pub(crate) control_versions: Versions,
    pub(crate) mix: Mix,
    pub(crate) store: MemoryStore,
    pub(crate) phones: Vec<Phone>,
    pub(crate) devices: Vec<Device>,
    /// The devices by their keys.
    pub(crate) device_nos: BTreeMap<DeviceKey, DeviceNo>,
    pub(crate) ledger: Ledger,
    pub(crate) watch: Watch,
    /// What is cut, as the faults did it: from, to.
    pub(crate) cuts: BTreeSet<(IpAddr, IpAddr)>,
    /// Somebody sends what no library would.
    pub(crate) strangers: bool,
    /// Whether devices that are welcomed are written to at once.
    pub(crate) greetings: bool,
    /// Control is gone, and stays so when all faults end.
    pub(crate) headless: bool,
    /// Nodes without descriptors.
    pub(crate) starved: BTreeSet<NodeNo>,
    stranger: Option<Strangers>,
    impostor: Option<Impostor>,
    pub(crate) effort: Effort,
    /// By driver; their ids count up.
    actors: Vec<Option<Actor>>,
    timers: Timers,
    check_at: Instant,
    turns: u64,
    ready: Vec<DriverId>,
}

impl Cluster {
    /// All hosts, with everything started but the devices.
    pub fn new(seed: u64, spec: Spec) -> Cluster {
        let secret = Secret::new(b"the secret of a simulated cluster").expect("it is long enough");
        let site = Site {
            world: World::new(seed, spec.network.clone()),
            keys: ClusterKeys::new(&secret),
            control: SocketAddr::new(CONTROL, CONTROL_PORT),
        };
        let nodes = node_specs(&spec);
        let mut cluster = Cluster {
            rng: Rng::with_seed(seed ^ 0x7472_756e_6b6c_696e),
            site,
            nodes: nodes
                .into_iter()
                .enumerate()
                .map(|(index, spec)| NodeHost::new(spec, node_address(index)))
                .collect(),
            control: None,
            #[cfg(feature = "next-version")]
            control_versions: Versions::BUILD,
            mix: Mix::new(seed, spec.course),
            store: MemoryStore::new(),
            phones: Vec::new(),
            devices: Vec::new(),
            device_nos: BTreeMap::new(),
            ledger: Ledger::new(seed, spec.devices),
            watch: Watch::default(),
            cuts: BTreeSet::new(),
            strangers: false,
            greetings: false,
            headless: false,
            starved: BTreeSet::new(),
            stranger: None,
            impostor: None,
            effort: Effort::default(),
            actors: Vec::new(),
            timers: Timers::default(),
            check_at: Instant::ZERO,
            turns: 0,
            ready: Vec::new(),
            spec,
        };
        cluster.start_control();
        for node in 0..cluster.nodes.len() {
            cluster.start_node(NodeNo(node));
        }
        cluster.add_phones();
        cluster
    }

    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.site.world.now()
    }

    /// What users have seen.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The network, for what a scenario does to it.
    pub fn world(&self) -> &World {
        &self.site.world
    }

    /// Turns that were given: for measuring the simulator.
    pub fn turns(&self) -> u64 {
        self.turns
    }

    /// Everything that happened so far, folded into one number.
    pub fn trace_hash(&self) -> u64 {
        self.site.world.trace_hash()
    }

    /// The nodes with a role.
    pub fn nodes_where(&self, role: impl Fn(Roles) -> bool) -> Vec<NodeNo> {
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, host)| role(host.spec.roles))
            .map(|(index, _)| NodeNo(index))
            .collect()
    }

    /// How many regions there are.
    pub fn regions(&self) -> usize {
        self.spec.regions
    }

    /// The connection servers.
    pub fn servers(&self) -> Vec<NodeNo> {
        self.nodes_where(|roles| roles.connection)
    }

    /// The instances of a region, by its place.
    pub fn instances(&self, region: usize) -> Vec<NodeNo> {
        let name = region_name(region);
        let all = self.nodes.iter().enumerate();
        all.filter(|(_, host)| host.spec.regions.contains(&name))
            .map(|(index, _)| NodeNo(index))
            .collect()
    }

    /// The place of a device's region, by the map of the first node that has one.
    pub fn region_of(&self, device: DeviceNo) -> Option<usize> {
        let shard = self
            .nodes
            .iter()
            .find_map(|host| host.process.as_ref()?.shards.first())?;
        let map = shard.router().map();
        let region = map.region_of(self.devices[device.0 as usize].key);
        let (_, region) = map.regions().find(|(id, _)| *id == region)?;
        (0..self.spec.regions).find(|index| region_name(*index) == region.name)
    }

    /// A node's id, [`NodeId::NONE`] before control has given one.
    pub fn node_id(&self, node: NodeNo) -> NodeId {
        self.nodes[node.0].node
    }

    /// A node's address.
    pub fn node_address(&self, node: NodeNo) -> IpAddr {
        self.nodes[node.0].address
    }

    /// A node's counter by its name, over all shards of its present process.
    pub fn counter(&self, node: NodeNo, name: &str) -> u64 {
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        let of = |names: &[(&str, &str)], values: &[u64]| {
            let at = names.iter().position(|(known, _)| *known == name);
            at.map_or(0, |at| values[at])
        };
        shards
            .map(|shard| {
                of(
                    trunkline_core::counters::Counters::NAMES,
                    &shard.router().counters().values(),
                ) + of(
                    trunkline_core::link::LinkCounters::NAMES,
                    &shard.links().counters().values(),
                ) + of(trunkline_node::stats::ShardCounters::NAMES, &shard.counters().values())
            })
            .sum()
    }

    /// A counter, over all nodes.
    pub fn counter_sum(&self, name: &str) -> u64 {
        (0..self.nodes.len()).map(|node| self.counter(NodeNo(node), name)).sum()
    }

    // Processes.

    /// Starts the control plane, from its store.
    pub fn start_control(&mut self) {
        let mut random = Rng::with_seed(self.rng.u64(..));
        let versions = self.mix.draw(Who::Control);
        #[cfg(feature = "next-version")]
        {
            self.control_versions = versions;
            self.note(format!("control speaks protocol {versions}"));
        }
        let config = Config {
            versions,
            initial_regions: (0..self.spec.regions)
                .map(|region| InitialRegion {
                    name: region_name(region),
                    weight: 1,
                })
                .collect(),
            ..Config::default()
        };
        let driver = self.site.world.driver(CONTROL, SimOptions::default());
        let id = driver.id();
        let nonces = Box::new(move || {
            let mut bytes = [0; 32];
            random.fill(&mut bytes);
            bytes
        });
        let mut server = Server::new(driver, self.store.clone(), config, self.site.keys.clone(), nonces)
            .expect("its settings are right, and its store can be read");
        server.listen(self.site.control).expect("a simulated port is free");
        self.control = Some(server);
        self.act(id, Actor::Control);
        self.set_deadline(id, Instant::ZERO);
    }

    /// Somebody with the cluster's secret takes the place of the control plane, which is gone, and offers bad maps. False if no node has
    /// a good one.
    pub(crate) fn start_impostor(&mut self) -> bool {
        let maps = self.nodes.iter().filter_map(|host| {
            let map = host.process.as_ref()?.agent.map();
            (map.id().version > 0).then(|| Arc::clone(map))
        });
        let Some(good) = maps.max_by_key(|map| map.id().version) else {
            return false;
        };
        let seed = self.rng.u64(..);
        let Site { world, keys, control } = &self.site;
        let impostor = Impostor::new(world, keys, *control, good, seed);
        let id = impostor.id();
        self.impostor = Some(impostor);
        self.act(id, Actor::Impostor);
        true
    }

    pub(crate) fn has_impostor(&self) -> bool {
        self.impostor.is_some()
    }

    /// Ends the control plane, or who has taken its place, as a crash does.
    pub(crate) fn end_control(&mut self) {
        self.control = None;
        self.impostor = None;
        let control = |(_, actor): &(usize, &Option<Actor>)| matches!(actor, Some(Actor::Control | Actor::Impostor));
        let gone = self.actors.iter().enumerate().filter(control);
        let gone: Vec<DriverId> = gone.map(|(id, _)| DriverId(id as u32)).collect();
        self.forget(&gone);
    }

    /// Whether the control plane runs.
    pub fn control_runs(&self) -> bool {
        self.control.is_some()
    }

    /// An operator's request, at the control plane's own process. Its answer is what it does.
    pub(crate) fn ask_control(&mut self, request: &str) {
        let Some(control) = &mut self.control else { return };
        control.ask(request.as_bytes());
        let control = |(_, actor): &(usize, &Option<Actor>)| **actor == Some(Actor::Control);
        let due = self.actors.iter().enumerate().filter(control);
        let due: Vec<DriverId> = due.map(|(id, _)| DriverId(id as u32)).collect();
        due.into_iter().for_each(|id| self.set_deadline(id, Instant::ZERO));
    }

    /// What the control plane decides by.
    pub(crate) fn control_logic(&self) -> Option<&Logic> {
        self.control.as_ref().and_then(Server::logic)
    }

    /// The version of the map that control publishes; 0 without control.
    pub fn control_version(&self) -> u64 {
        self.control.as_ref().map_or(0, Server::version)
    }

    /// Starts a node, from its disk.
    pub fn start_node(&mut self, node: NodeNo) {
        let seed = self.rng.u64(..);
        let versions = self.mix.draw(Who::Node(node));
        #[cfg(feature = "next-version")]
        self.note(format!("{} speaks protocol {versions}", self.nodes[node.0].spec.name));
        self.nodes[node.0].start(&self.site, seed, versions);
        self.adopt_node(node);
    }

    /// Whether a node runs.
    pub fn node_runs(&self, node: NodeNo) -> bool {
        self.nodes[node.0].process.is_some()
    }

    pub(crate) fn end_node(&mut self, node: NodeNo) {
        self.nodes[node.0].draining = false;
        if let Some(process) = self.nodes[node.0].process.take() {
            let gone: Vec<DriverId> = process.drivers().collect();
            self.forget(&gone);
            self.watch.dead.add(&process);
        }
        self.watch.restarted(node);
    }

    fn adopt_node(&mut self, node: NodeNo) {
        let Some(process) = &self.nodes[node.0].process else {
            return;
        };
        let drivers: Vec<DriverId> = process.drivers().collect();
        for (place, id) in drivers.into_iter().enumerate() {
            let actor = match place.checked_sub(1) {
                None => Actor::Agent(node),
                Some(shard) => Actor::Shard(node, shard),
            };
            self.act(id, actor);
        }
        self.reschedule_node(node);
    }

    pub(crate) fn adopt_phone(&mut self, phone: usize, id: DriverId) {
        self.act(id, Actor::Phone(phone));
        self.set_deadline(id, Instant::ZERO);
    }

    /// From now on `id` is the driver of `actor`.
    fn act(&mut self, id: DriverId, actor: Actor) {
        let at = id.0 as usize;
        if at >= self.actors.len() {
            self.actors.resize(at + 1, None);
        }
        self.actors[at] = Some(actor);
    }

    /// Somebody whom nobody knows connects to `address`.
    pub(crate) fn strange(&mut self, address: SocketAddr) {
        let world = &self.site.world;
        let stranger = self.stranger.get_or_insert_with(|| Strangers::new(world));
        stranger.come(&mut self.rng, address);
        let id = stranger.id();
        self.act(id, Actor::Strangers);
    }

    fn forget(&mut self, drivers: &[DriverId]) {
        for id in drivers {
            self.set_deadline(*id, Instant::NEVER);
            self.actors[id.0 as usize] = None;
        }
    }

    // Time.

    /// Lets time pass.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run_for(&mut self, span: Duration) -> Checked {
        self.run_until(self.now() + span)
    }

    /// Lets time pass until `end`.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run_until(&mut self, end: Instant) -> Checked {
        let mut turns_now = 0u32;
        loop {
            let now = self.now();
            let mut ready = std::mem::take(&mut self.ready);
            self.site.world.take_ready(&mut ready);
            while let Some(id) = self.timers.take_due(now) {
                ready.push(id);
            }
            if ready.is_empty() {
                self.ready = ready;
                turns_now = 0;
                if now >= self.check_at {
                    self.check_at = now + CHECK_INTERVAL;
                    self.check()?;
                }
                if now >= end {
                    return Ok(());
                }
                let event = self.site.world.next_event().unwrap_or(Instant::NEVER);
                self.site
                    .world
                    .advance(event.min(self.timers.next()).min(self.check_at).min(end));
                continue;
            }
            if ready.len() > 1 {
                ready.sort_unstable();
                ready.dedup();
                self.rng.shuffle(&mut ready);
            }
            for id in ready.drain(..) {
                self.turn(id)?;
                turns_now += 1;
            }
            self.ready = ready;
            if turns_now >= TURNS_AT_ONCE_MAX {
                let who = self.timers.first().and_then(|id| self.actors.get(id.0 as usize));
                let what = format!("somebody is busy without end: {who:?}");
                return Err(self.ledger.violation(now, Promise::Bounds, what, None, &[]));
            }
        }
    }

    /// Runs until `done` holds, asking every 10 ms; whether it did within `span`.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub fn run_while(&mut self, span: Duration, mut waiting: impl FnMut(&mut Cluster) -> bool) -> Checked<bool> {
        let end = self.now() + span;
        while waiting(self) {
            if self.now() >= end {
                return Ok(false);
            }
            self.run_for(Duration::from_millis(10))?;
        }
        Ok(true)
    }

    /// Runs until the cluster has converged.
    ///
    /// # Errors
    /// If it hasn't within `span`, or another promise is broken.
    pub fn settle(&mut self, span: Duration) -> Checked {
        if self.run_while(span, |cluster| cluster.unsettled().is_some())? {
            return Ok(());
        }
        let (what, device) = self.unsettled().expect("it was just found not to be settled");
        let devices: Vec<DeviceNo> = device.into_iter().collect();
        let what = format!("after {span:?}: {what}");
        let mut violation = self
            .ledger
            .violation(self.now(), Promise::Convergence, what, None, &devices);
        violation.history.extend(self.explain(device.unwrap_or(DeviceNo(0))));
        Err(violation)
    }

    fn turn(&mut self, id: DriverId) -> Checked {
        let now = self.now();
        let Some(actor) = self.actors.get(id.0 as usize).copied().flatten() else {
            return Ok(());
        };
        if self.site.world.is_driver_paused(id) {
            // Its driver is named when the pause is over.
            return Ok(());
        }
        if let Some(until) = self.effort.busy(now, id) {
            self.set_deadline(id, until);
            return Ok(());
        }
        self.turns += 1;
        match actor {
            Actor::Shard(node, shard) => {
                if let Some(process) = &mut self.nodes[node.0].process {
                    let shard = &mut process.shards[shard];
                    let frames = shard.counters().frames_received;
                    shard.turn(Some(now)).expect("a simulated driver doesn't fail");
                    self.effort.spend(now, id, shard.counters().frames_received - frames);
                }
                self.reschedule_after(node, shard);
                self.check_turn(node, shard)?;
                self.go_on_draining(node);
            }
            Actor::Agent(node) => {
                if let Some(process) = &self.nodes[node.0].process {
                    self.watch.steward.settled(node, process.map_settled());
                }
                if self.nodes[node.0].agent_turn(&self.site, now) {
                    self.adopt_node(node);
                }
                self.reschedule_node(node);
                self.go_on_draining(node);
            }
            Actor::Control => {
                if let Some(control) = &mut self.control {
                    control.turn(Some(now)).expect("a simulated driver doesn't fail");
                    let deadline = control.deadline();
                    self.set_deadline(id, deadline);
                    self.check_moves()?;
                }
            }
            Actor::Phone(phone) => self.phone_turn(phone)?,
            Actor::Impostor => {
                if let Some(impostor) = &mut self.impostor {
                    impostor.turn();
                }
            }
            Actor::Strangers => {
                if let Some(stranger) = &mut self.stranger {
                    stranger.turn();
                }
            }
        }
        Ok(())
    }

    fn go_on_draining(&mut self, node: NodeNo) {
        if !self.nodes[node.0].draining {
            return;
        }
        let now = self.now();
        if self.nodes[node.0].drained(now) {
            self.note(format!("{} is gone", self.nodes[node.0].spec.name));
            let member = self.nodes[node.0].left_as_member();
            self.end_node(node);
            self.watch.left.insert(node);
            self.note_leave(node, member);
        } else {
            self.reschedule_node(node);
        }
    }

    /// A shard has had its turn. Others are due earlier only if it has left them something: mail, or a map that the agent is to tell of.
    fn reschedule_after(&mut self, node: NodeNo, shard: usize) {
        let Some(process) = &mut self.nodes[node.0].process else {
            return;
        };
        let now = self.site.world.now();
        for (id, deadline) in process.deadlines_after(shard) {
            self.timers.set(id, self.effort.busy(now, id).unwrap_or(deadline));
        }
    }

    /// Whatever has happened to a node.
    pub(crate) fn reschedule_node(&mut self, node: NodeNo) {
        let Some(process) = &mut self.nodes[node.0].process else {
            return;
        };
        let now = self.site.world.now();
        for (id, deadline) in process.deadlines() {
            // Who is busy looks for what has come when it is through.
            self.timers.set(id, self.effort.busy(now, id).unwrap_or(deadline));
        }
    }

    pub(crate) fn set_deadline(&mut self, id: DriverId, deadline: Instant) {
        self.timers.set(id, deadline);
    }
}

fn node_specs(spec: &Spec) -> Vec<NodeSpec> {
    let mut nodes = Vec::new();
    let mut add = |name: String, roles: Roles, regions: Vec<String>| {
        let doubled = spec.two_shards_every > 0 && nodes.len().is_multiple_of(spec.two_shards_every);
        let shards = if doubled { 2 } else { 1 };
        nodes.push(NodeSpec {
            name,
            roles,
            regions,
            shards,
        });
    };
    let none = Roles::default();
    for region in 0..spec.regions {
        for instance in 0..spec.instances {
            let roles = Roles { region: true, ..none };
            add(
                format!("{}-{instance}", region_name(region)),
                roles,
                vec![region_name(region)],
            );
        }
    }
    for server in 0..spec.servers {
        let roles = Roles {
            connection: true,
            messaging: true,
            ..none
        };
        add(format!("server-{server}"), roles, Vec::new());
    }
    for node in 0..spec.messaging {
        let roles = Roles {
            messaging: true,
            ..none
        };
        add(format!("messaging-{node}"), roles, Vec::new());
    }
    nodes
}

pub(crate) fn region_name(region: usize) -> String {
    format!("region-{region}")
}

fn node_address(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 1, (index / 250) as u8, (index % 250 + 1) as u8))
}

/// The control plane's host.
pub(crate) const CONTROL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CONTROL_PORT: u16 = 7402;

/// How often the state of all nodes is held against the promises.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// More turns than any work at one point in time takes: somebody asks for turns and does nothing.
const TURNS_AT_ONCE_MAX: u32 = 200_000;
