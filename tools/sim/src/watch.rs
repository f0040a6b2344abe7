//! The state of all nodes, held against the promises: at intervals while anything may happen, and as a whole once all is quiet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trunkline_client::Purpose;
use trunkline_core::constants::{FENCING, GONE_AFTER, TOMBSTONE};
use trunkline_core::link::LinkStatus;
use trunkline_net::driver::Driver;
use trunkline_wire::id::{DeviceKey, Epoch, RegionId};
use trunkline_wire::time::Instant;

use crate::cluster::{CHECK_INTERVAL, Cluster};
use crate::journal::{DeviceNo, MessageNo};
use crate::node::NodeNo;
use crate::promise::{Checked, Promise};

/// What was seen before.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// What each running instance stored last, and when that was last seen.
    stored: BTreeMap<(NodeNo, RegionId, DeviceKey), (Epoch, Instant)>,
    /// Devices with several sessions, and since when.
    doubled: BTreeMap<DeviceKey, Instant>,
    /// The version of the map that each node had last; its disk keeps it across starts.
    versions: BTreeMap<NodeNo, u64>,
    /// When something was last wrong between nodes.
    troubled: Instant,
}

impl Watch {
    /// A node's process ended: it may forget what is not on its disk.
    pub(crate) fn restarted(&mut self, node: NodeNo) {
        self.stored.retain(|(of, _, _), _| *of != node);
    }

    /// Something is wrong between nodes now.
    pub(crate) fn trouble(&mut self, now: Instant) {
        self.troubled = now;
    }
}

/// Where a device has sessions.
type Sessions = BTreeMap<DeviceKey, Vec<(Epoch, NodeNo)>>;

impl Cluster {
    /// What must hold at any time.
    pub(crate) fn check(&mut self) -> Checked {
        let now = self.now();
        self.note_trouble(now);
        self.check_maps(now)?;
        self.check_epochs(now)?;
        self.check_winners(now)?;
        for phone in &mut self.phones {
            if self.site.world.is_paused(phone.address) {
                phone.stood_still = now;
            }
        }
        let excused = |device: DeviceNo| {
            let phone = &self.phones[self.devices[device.0 as usize].phone];
            phone.stood_still != Instant::ZERO && now.since(phone.stood_still) <= OVERDUE
        };
        self.ledger.all_resolved(now, OVERDUE, excused)
    }

    pub(crate) fn note_trouble(&mut self, now: Instant) {
        for index in 0..self.nodes.len() {
            let (address, runs) = (self.nodes[index].address, self.nodes[index].process.is_some());
            let cut = self.nodes.iter().any(|other| {
                self.cuts.contains(&(address, other.address)) || self.cuts.contains(&(other.address, address))
            });
            let paused = self.site.world.is_paused(address);
            if cut || paused || !runs {
                self.watch.trouble(now);
                let id = self.nodes[index].node;
                self.ledger.disturb(id, now + GONE_AFTER + BACK_AFTER);
            }
        }
    }

    fn check_maps(&mut self, now: Instant) -> Checked {
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = host.process.as_ref().filter(|process| !process.shards.is_empty()) else {
                continue;
            };
            let version = process.map_version();
            let before = self.watch.versions.insert(NodeNo(index), version).unwrap_or(0);
            if version < before {
                let what = format!("{} uses map version {version} after {before}", host.spec.name);
                return Err(self.ledger.violation(now, Promise::MapVersions, what, None, &[]));
            }
        }
        Ok(())
    }

    fn check_epochs(&mut self, now: Instant) -> Checked {
        for (index, host) in self.nodes.iter().enumerate() {
            let node = NodeNo(index);
            for shard in host.process.iter().flat_map(|process| &process.shards) {
                let router = shard.router();
                for (region, _) in router.map().regions() {
                    for (device, epoch) in router.presence(region).into_iter().flatten() {
                        let seen = self.watch.stored.insert((node, region, device), (epoch, now));
                        let Some((before, at)) = seen else { continue };
                        if epoch < before && now.since(at) < TOMBSTONE {
                            let what = format!("{} stores {epoch} after {before}", host.spec.name);
                            let devices: Vec<DeviceNo> = self.device_of(device).into_iter().collect();
                            let violation =
                                self.ledger
                                    .violation(now, Promise::EpochsNeverGoBack, what, None, &devices);
                            return Err(violation);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn check_winners(&mut self, now: Instant) -> Checked {
        let sessions = self.sessions();
        self.watch
            .doubled
            .retain(|device, _| sessions.get(device).is_some_and(|all| all.len() > 1));
        for (device, all) in sessions.iter().filter(|(_, all)| all.len() > 1) {
            let since = *self.watch.doubled.entry(*device).or_insert(now);
            let calm_since = self.watch.troubled + BACK_AFTER;
            if now.since(since.max(calm_since)) > FENCING + CHECK_INTERVAL {
                let all: Vec<String> = all
                    .iter()
                    .map(|(epoch, node)| format!("{epoch} at {}", self.name(*node)))
                    .collect();
                let what = format!("a device has had several sessions for too long: {}", all.join(", "));
                let devices: Vec<DeviceNo> = self.device_of(*device).into_iter().collect();
                return Err(self.ledger.violation(now, Promise::OneWinner, what, None, &devices));
            }
        }
        Ok(())
    }

    /// Nobody says "offline" of a device with a session that lives, and that the region could have known of all the time.
    pub(crate) fn offline_is_true(&mut self, message: MessageNo) -> Checked {
        let record = &self.ledger.records()[message.0 as usize];
        let (sender, recipient) = (record.sender, record.recipient);
        let Some((epoch, _, _)) = self.ledger.device(recipient).session else {
            return Ok(());
        };
        let key = self.devices[recipient.0 as usize].key;
        let live = self
            .sessions()
            .remove(&key)
            .is_some_and(|all| all.iter().any(|(live, _)| *live == epoch));
        if !live {
            return Ok(());
        }
        let what = format!("{message} was reported offline, with {recipient} connected as {epoch}");
        let mut violation = self.ledger.violation(
            self.now(),
            Promise::NoBlackout,
            what,
            Some(message),
            &[sender, recipient],
        );
        violation.history.extend(self.explain(recipient));
        Err(violation)
    }

    /// What every node knows of a device, and how its links are; one line each.
    pub fn explain(&self, device: DeviceNo) -> Vec<String> {
        let Some(key) = self.devices.get(device.0 as usize).map(|device| device.key) else {
            return Vec::new();
        };
        let mut lines = Vec::new();
        for host in &self.nodes {
            for shard in host.process.iter().flat_map(|process| &process.shards) {
                let explanation = shard.router().explain(key);
                lines.push(format!("{} (node {}): {explanation:?}", host.spec.name, host.node));
                for link in shard.links().status(self.now()) {
                    lines.push(format!("  link {link:?}"));
                }
            }
        }
        lines
    }

    /// All sessions that receive, at all running nodes.
    pub(crate) fn sessions(&mut self) -> Sessions {
        let mut sessions = Sessions::new();
        for (index, host) in self.nodes.iter_mut().enumerate() {
            for shard in host.process.iter_mut().flat_map(|process| &mut process.shards) {
                for (device, epoch) in shard.router_mut().sessions_sorted() {
                    sessions.entry(device).or_default().push((epoch, NodeNo(index)));
                }
            }
        }
        sessions
    }

    /// A device's sessions, wherever they are.
    pub fn sessions_of(&mut self, device: DeviceNo) -> Vec<(Epoch, NodeNo)> {
        let key = self.devices[device.0 as usize].key;
        self.sessions().remove(&key).unwrap_or_default()
    }

    /// The session by which an instance knows a device.
    pub fn presence_at(&self, node: NodeNo, device: DeviceNo) -> Option<Epoch> {
        let key = self.devices[device.0 as usize].key;
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        shards.filter_map(|shard| shard.router().explain(key).presence).max()
    }

    /// A node's links, of all its shards.
    pub fn links(&self, node: NodeNo) -> Vec<LinkStatus> {
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        shards.flat_map(|shard| shard.links().status(self.now())).collect()
    }

    /// Sockets of a node's shards: those of devices and of links.
    pub fn sockets(&self, node: NodeNo) -> usize {
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        shards.map(|shard| shard.driver().open()).sum()
    }

    /// The version of the map that all shards of a node have; 0 if it doesn't run.
    pub fn map_version(&self, node: NodeNo) -> u64 {
        self.nodes[node.0]
            .process
            .as_ref()
            .map_or(0, |process| process.map_version())
    }

    /// The first thing by which the cluster differs from one that has come to rest, and the device concerned.
    pub fn unsettled(&mut self) -> Option<(String, Option<DeviceNo>)> {
        let sessions = self.sessions();
        self.unready()
            .map(|what| (what, None))
            .or_else(|| self.unagreed(&sessions))
            .or_else(|| self.unmet(&sessions))
    }

    /// A node without its links, streams or maps.
    fn unready(&self) -> Option<String> {
        let running: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|host| host.process.is_some())
            .map(|host| host.node)
            .collect();
        for host in &self.nodes {
            let Some(process) = &host.process else { continue };
            let name = &host.spec.name;
            if process.shards.is_empty() {
                return Some(format!("{name} has no id"));
            }
            let (version, published) = (process.map_version(), self.control_version());
            if self.control_runs() && version != published {
                return Some(format!(
                    "{name} uses map version {version}, and control publishes {published}"
                ));
            }
            for shard in &process.shards {
                if let Some(node) = shard.links().missing().find(|node| running.contains(node)) {
                    return Some(format!("{name} has no link to node {node}"));
                }
                if !shard.router().in_sync() {
                    return Some(format!("{name} is not in sync"));
                }
                if shard.router().map().regions().next().is_none() {
                    return Some(format!("{name} has no map"));
                }
            }
        }
        None
    }

    /// An instance that knows something else than there is.
    fn unagreed(&self, sessions: &Sessions) -> Option<(String, Option<DeviceNo>)> {
        if let Some((device, all)) = sessions.iter().find(|(_, all)| all.len() > 1) {
            return Some((
                format!("there are {} sessions of one device", all.len()),
                self.device_of(*device),
            ));
        }
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            let map = process.shards.first()?.router().map();
            for (region, served) in map
                .regions()
                .filter(|(_, region)| region.instances.contains(&host.node))
            {
                let shards = process.shards.iter();
                let known: BTreeMap<DeviceKey, Epoch> = shards
                    .flat_map(|shard| shard.router().presence(region).into_iter().flatten())
                    .collect();
                let live = sessions.iter().filter(|(device, _)| map.region_of(**device) == region);
                let live: BTreeMap<DeviceKey, Epoch> = live.map(|(device, all)| (*device, all[0].0)).collect();
                if known != live {
                    let differs = |device: &&DeviceKey| known.get(*device) != live.get(*device);
                    let device = *known.keys().chain(live.keys()).find(differs)?;
                    let what = format!(
                        "{} takes a device of {} to be at {:?}, and its session is {:?}",
                        self.name(NodeNo(index)),
                        served.name,
                        known.get(&device),
                        live.get(&device),
                    );
                    return Some((what, self.device_of(device)));
                }
            }
        }
        None
    }

    /// A device whose library and server are not of one mind.
    fn unmet(&self, sessions: &Sessions) -> Option<(String, Option<DeviceNo>)> {
        for no in self.devices() {
            let device = &self.devices[no.0 as usize];
            if !self.device_runs(no) {
                if sessions.contains_key(&device.key) {
                    return Some((format!("{no} has ended, and its session lives"), Some(no)));
                }
                continue;
            }
            let Some((held, _, _)) = self.ledger.device(no).session else {
                return Some((format!("{no} is not connected"), Some(no)));
            };
            let live = sessions.get(&device.key).map_or(Epoch::NONE, |all| all[0].0);
            if device.purpose == Purpose::Full && held != live {
                return Some((format!("{no} holds {held}, and its session is {live}"), Some(no)));
            }
        }
        None
    }

    fn device_of(&self, key: DeviceKey) -> Option<DeviceNo> {
        self.devices().find(|no| self.devices[no.0 as usize].key == key)
    }

    fn name(&self, node: NodeNo) -> &str {
        &self.nodes[node.0].spec.name
    }
}

/// How soon after a fault between nodes they have their links again: a dial that was under way, the longest wait, another dial.
const BACK_AFTER: Duration = Duration::from_secs(10);
/// How long after its time to live a message may be without a report. The library gives the server two seconds; while its own host
/// stands still it can say nothing.
pub(crate) const OVERDUE: Duration = Duration::from_secs(3);
