//! The state of all nodes, held against the promises: at intervals while anything may happen, and as a whole once all is quiet.
//!
//! What excuses a node for not knowing is in `pairs`; what is checked after every turn is in `model`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use trunkline_client::Purpose;
use trunkline_core::budget::RetryBudget;
use trunkline_core::constants::{
    FENCING, GONE_AFTER, LEASE, RETRIES_A_SECOND, RETRIES_PERCENT, SUSPECT_AFTER, TOMBSTONE,
};
use trunkline_core::counters::Counters;
use trunkline_core::link::LinkStatus;
use trunkline_core::router::Router;
use trunkline_net::driver::Driver;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, RegionId};
use trunkline_wire::map::{Map, MapId};
use trunkline_wire::time::Instant;

use crate::cluster::{CHECK_INTERVAL, CONTROL, Cluster};
use crate::journal::{DeviceNo, MessageNo};
use crate::model::Model;
use crate::node::NodeNo;
use crate::pairs::Pairs;
use crate::promise::{Checked, Promise};
use crate::recall::Recalls;
use crate::steward::Steward;
use crate::sums::Sums;

/// What was seen before.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) model: Model,
    pub(crate) pairs: Pairs,
    pub(crate) recalls: Recalls,
    pub(crate) steward: Steward,
    /// What processes that are gone had counted.
    pub(crate) dead: Sums,
    /// Devices with several sessions, and since when.
    doubled: BTreeMap<DeviceKey, Instant>,
    /// The map that each node had last; its disk keeps it across starts.
    maps: BTreeMap<NodeNo, MapId>,
    /// The map that was last found to be what its digest says.
    sound: Option<Arc<Map>>,
    /// By version, what it says: the digest of the first map that was seen with it.
    contents: BTreeMap<u64, MapId>,
    /// When a node was first seen to be an instance of a region that devices are looked for at, by the newest map; standbys are not.
    serving: BTreeMap<(RegionId, NodeId), Instant>,
    /// What an instance and the servers within its reach differ in, and since when.
    disagreed: BTreeMap<(NodeNo, DeviceKey, Epoch), Instant>,
    agreement_at: Instant,
    /// Dials of all nodes so far, as of a while ago.
    dials: (Instant, u64),
    /// Confirmed messages and retries of each running node so far, at past times.
    retries: BTreeMap<NodeNo, VecDeque<(Instant, u64, u64)>>,
    /// Begins and ends of sessions so far, and messages with their retries, at past times.
    activity: VecDeque<(Instant, u64, u64)>,
    /// Nodes that were told to go and went, until they are members again.
    pub(crate) left: BTreeSet<NodeNo>,
    /// When something was last wrong between nodes.
    pub(crate) troubled: Instant,
}

impl Watch {
    /// A node's process ended: it may forget what is not on its disk.
    pub(crate) fn restarted(&mut self, node: NodeNo) {
        self.model.forget(node);
        self.pairs.forget(node);
        self.retries.remove(&node);
    }

    /// A map is newer than all before it.
    fn serve(&mut self, map: &Map, now: Instant) {
        let instances = map
            .regions()
            .flat_map(|(region, it)| it.instances.iter().map(move |node| (region, *node)));
        let before = std::mem::take(&mut self.serving);
        self.serving = instances.map(|of| (of, *before.get(&of).unwrap_or(&now))).collect();
    }

    /// Something is wrong between nodes now.
    pub(crate) fn trouble(&mut self, now: Instant) {
        self.troubled = now;
    }
}

/// A session that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Live {
    pub(crate) device: DeviceKey,
    pub(crate) node: NodeNo,
    pub(crate) epoch: Epoch,
}

/// Where devices have sessions, by device.
#[derive(Debug)]
pub(crate) struct Sessions(Vec<Live>);

impl Sessions {
    /// It is made for every check. So they are sorted by half of the key, which hardly two devices share, and then as a whole, which finds
    /// little left to do.
    fn new(all: Vec<Live>) -> Sessions {
        let halves = all.iter().map(|live| (live.device.0 >> 64) as u64);
        let mut order: Vec<(u64, u32)> = halves.zip(0..).collect();
        order.sort_unstable();
        let mut sorted: Vec<Live> = order.into_iter().map(|(_, at)| all[at as usize]).collect();
        sorted.sort();
        Sessions(sorted)
    }

    /// All sessions of each device that has any.
    pub(crate) fn by_device(&self) -> impl Iterator<Item = &[Live]> {
        self.0.chunk_by(|a, b| a.device == b.device)
    }

    /// Devices with several.
    fn doubled(&self) -> impl Iterator<Item = &[Live]> {
        self.by_device().filter(|all| all.len() > 1)
    }

    /// A device's.
    pub(crate) fn of(&self, device: DeviceKey) -> &[Live] {
        let from = self.0.partition_point(|live| live.device < device);
        let rest = &self.0[from..];
        let count = rest.iter().take_while(|live| live.device == device).count();
        &rest[..count]
    }
}

impl Cluster {
    /// What must hold at any time.
    pub(crate) fn check(&mut self) -> Checked {
        let now = self.now();
        self.note_trouble(now);
        self.note_returns(now);
        self.check_maps(now)?;
        self.check_bounds(now)?;
        self.check_links(now)?;
        self.check_retries(now)?;
        self.check_totals(now)?;
        self.check_leaves(now)?;
        #[cfg(feature = "next-version")]
        self.check_versions(crate::versions::When::Underway)?;
        let sessions = self.sessions();
        self.check_winners(now, &sessions)?;
        if now >= self.watch.agreement_at {
            self.watch.agreement_at = now + AGREEMENT_INTERVAL;
            self.check_agreement(now, &sessions)?;
            self.check_recalled(now, &sessions)?;
        }
        for phone in &mut self.phones {
            if self.site.world.is_driver_paused(phone.fleet.driver().id()) {
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
        let control_runs = self.control_runs() && !self.site.world.is_paused(CONTROL);
        let mut troubled = false;
        let Watch { pairs, .. } = &mut self.watch;
        let cut = |from, to| self.cuts.contains(&(from, to)) || self.cuts.contains(&(to, from));
        for (index, host) in self.nodes.iter().enumerate() {
            let (node, address) = (NodeNo(index), host.address);
            let starved = self.starved.contains(&node);
            if host.process.is_none() || host.draining || starved || self.site.world.is_paused(address) {
                pairs.trouble(node, now);
                troubled = true;
            }
            if !control_runs || cut(address, CONTROL) {
                pairs.cut_from_control(node, now);
            }
            if self.cuts.is_empty() {
                continue;
            }
            for (other, peer) in self.nodes.iter().enumerate().take(index) {
                if cut(address, peer.address) {
                    pairs.cut(node, NodeNo(other), now);
                    troubled = true;
                }
            }
        }
        let instances = (0..self.nodes.len()).filter(|index| self.nodes[*index].spec.roles.region);
        for instance in instances {
            let Some(process) = &self.nodes[instance].process else {
                continue;
            };
            for (server, host) in self
                .nodes
                .iter()
                .enumerate()
                .filter(|(_, host)| host.spec.roles.connection)
            {
                let linked = process
                    .shards
                    .iter()
                    .any(|shard| shard.links().silence(now, host.node).is_some());
                pairs.linked(NodeNo(instance), NodeNo(server), linked, now);
            }
        }
        if troubled {
            self.watch.trouble(now);
        }
    }

    fn check_maps(&mut self, now: Instant) -> Checked {
        for index in 0..self.nodes.len() {
            let node = NodeNo(index);
            let Some(process) = self.nodes[index]
                .process
                .as_ref()
                .filter(|process| !process.shards.is_empty())
            else {
                continue;
            };
            let slowest = process.shards.iter().map(|shard| shard.router().map());
            let Some(map) = slowest.min_by_key(|map| map.id().version).map(Arc::clone) else {
                continue;
            };
            let id = map.id();
            let before = self.watch.maps.insert(node, id);
            if before == Some(id) {
                continue;
            }
            let name = &self.nodes[index].spec.name;
            let fail = |promise, what| Err(self.ledger.violation(now, promise, what, None, &[]));
            if let Some(before) = before.filter(|before| before.version > 0 && before.lineage != id.lineage) {
                let what = format!(
                    "{name} uses a map of lineage {:x} after one of {:x}",
                    id.lineage, before.lineage
                );
                return fail(Promise::MapValidity, what);
            }
            if let Some(before) = before.filter(|before| before.version > id.version) {
                let what = format!("{name} uses map version {} after {}", id.version, before.version);
                return fail(Promise::MapVersions, what);
            }
            // What the map says, made anew from its parts: all checks, and its digest. Once for all that say the same.
            if self.watch.sound.as_ref() != Some(&map) {
                let contents = map.contents();
                let mut regions = contents.regions.iter();
                let deserted = regions.find(|(region, it)| it.instances.is_empty() && contents.slots.contains(region));
                if let Some((_, region)) = deserted {
                    let what = format!(
                        "{name} uses map version {}, by which nobody is to be asked for the devices of {}",
                        id.version, region.name
                    );
                    return fail(Promise::NoBlackout, what);
                }
                let again = Map::build(id.lineage, id.version, contents).map(|again| again.id());
                if id.version > 0 && again.as_ref().ok() != Some(&id) {
                    let what = format!("{name} uses a map that is not what its digest says: {id:?}, and {again:?}");
                    return fail(Promise::MapValidity, what);
                }
                self.watch.sound = Some(Arc::clone(&map));
            }
            if map.regions().next().is_none() && before.is_some_and(|before| before.version > 0) {
                return fail(
                    Promise::MapValidity,
                    format!("{name} uses an empty map after one that wasn't"),
                );
            }
            let is_newest = self
                .watch
                .contents
                .keys()
                .next_back()
                .is_none_or(|newest| *newest < id.version);
            if is_newest {
                self.watch.serve(&map, now);
            }
            let first = *self.watch.contents.entry(id.version).or_insert(id);
            if first != id {
                let what = format!(
                    "{name} uses another version {} than others: {id:?}, {first:?}",
                    id.version
                );
                return fail(Promise::MapValidity, what);
            }
            for (other, host) in self.nodes.iter().enumerate() {
                let runs = host.process.as_ref().is_some_and(|process| !process.shards.is_empty());
                let served = self.watch.pairs.reaches_control(NodeNo(other), now, LEASE * 6);
                if runs && served && now > Instant::ZERO + LEASE * 6 && map.node(host.node).is_none() {
                    let what = format!(
                        "{name}'s map has lost {}, which never stopped renewing its lease",
                        host.spec.name
                    );
                    return fail(Promise::StaticStability, what);
                }
            }
        }
        Ok(())
    }

    /// Every table of every shard.
    fn check_bounds(&mut self, now: Instant) -> Checked {
        let long_ago = Instant::from_micros(now.micros().saturating_sub(GUEST_SLACK.as_micros() as u64));
        // Who stood still is late with everything, once.
        let calm = |node: NodeNo| self.watch.pairs.node_is_calm(node, now, GUEST_SLACK);
        for (index, host) in self.nodes.iter().enumerate() {
            for shard in host.process.iter().flat_map(|process| &process.shards) {
                if let Err(breach) = shard.router().check_bounds() {
                    return Err(self.breach(NodeNo(index), breach));
                }
                let node = NodeNo(index);
                if calm(node) && shard.has_overdue_guest(long_ago) {
                    let what = format!("{}: a connection that says no hello is open", host.spec.name);
                    return Err(self.ledger.violation(now, Promise::Bounds, what, None, &[]));
                }
            }
        }
        Ok(())
    }

    /// Nobody holds a link on which nothing comes.
    fn check_links(&mut self, now: Instant) -> Checked {
        for (index, host) in self.nodes.iter().enumerate() {
            if !self.watch.pairs.node_is_calm(NodeNo(index), now, SUSPECT_AFTER) {
                continue;
            }
            for shard in host.process.iter().flat_map(|process| &process.shards) {
                let silent = self.nodes.iter().find_map(|other| {
                    let silence = shard.links().silence(now, other.node)?;
                    (silence > SUSPECT_AFTER + SUSPECT_SLACK).then_some((other, silence))
                });
                if let Some((other, silence)) = silent {
                    let what = format!(
                        "{} has heard nothing from {} for {silence:?}, and holds the link for good",
                        host.spec.name, other.spec.name
                    );
                    return Err(self.ledger.violation(now, Promise::Bounds, what, None, &[]));
                }
            }
        }
        Ok(())
    }

    /// Retries of a node are a tenth of its messages and ten a second. A message's share may be used for ten seconds.
    fn check_retries(&mut self, now: Instant) -> Checked {
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            let counters = || process.shards.iter().map(|shard| shard.router().counters());
            let (messages, retries) = counters().fold((0, 0), |(messages, retries), c: &Counters| {
                (messages + c.messages_in_confirmed, retries + c.retries)
            });
            // A process begins with nothing.
            let past = self.watch.retries.entry(NodeNo(index));
            let past = past.or_insert_with(|| [(now, 0, 0)].into());
            past.push_back((now, messages, retries));
            while past.front().is_some_and(|(at, ..)| now.since(*at) > RETRIES_EARNED) {
                past.pop_front();
            }
            let &(_, long_ago, _) = past.front().expect("one was just put there");
            let window = past.partition_point(|(at, ..)| now.since(*at) > RETRIES_WINDOW);
            let (_, _, before) = past[window];
            let allowed = (messages - long_ago) * RETRIES_PERCENT / 100
                + RETRIES_A_SECOND * RETRIES_WINDOW.as_secs()
                + u64::from(host.spec.shards);
            if retries - before > allowed {
                let what = format!(
                    "{} has retried {} times within {RETRIES_WINDOW:?}, and {allowed} are allowed",
                    host.spec.name,
                    retries - before
                );
                return Err(self.ledger.violation(now, Promise::Bounds, what, None, &[]));
            }
        }
        Ok(())
    }

    /// How long it takes, at the shard that has the most to do of it, to try all again that may have to be: its budget bounds that.
    pub(crate) fn retrying(&self) -> Duration {
        let spans = self.nodes.iter().flat_map(|host| {
            let shards = host.process.iter().flat_map(|process| &process.shards);
            shards.map(|shard| {
                let hundredths = shard.router().unresolved_left() as u64 * 100;
                let rate = RetryBudget::rate(host.spec.shards);
                Duration::from_millis(hundredths * 1_000 / rate)
            })
        });
        spans.max().unwrap_or_default()
    }

    /// Messages of all nodes that ever were, together.
    fn check_totals(&mut self, now: Instant) -> Checked {
        let sums = self.sums();
        let (since, before) = self.watch.dials;
        if now.since(since) >= DIALS_WINDOW {
            self.watch.dials = (now, sums.dialled);
        }
        let (dialled, pairs) = (sums.dialled - before, self.nodes.len().pow(2) as u64);
        self.check_memory(now, &sums)?;
        let fail = |promise, what| Err(self.ledger.violation(self.now(), promise, what, None, &[]));
        if sums.written > sums.taken_in + sums.retries {
            let what = format!(
                "{} messages came in and {} were retried, and {} copies were written to devices",
                sums.taken_in, sums.retries, sums.written
            );
            return fail(Promise::BoundedDuplicates, what);
        }
        let (ended, came) = (sums.unconfirmed_ended(), sums.unconfirmed_in());
        if ended > came {
            let what = format!("{came} fire-and-forget messages came in, and {ended} were delivered or dropped");
            return fail(Promise::Conservation, what);
        }
        if dialled > pairs * DIALS_A_PAIR {
            let what = format!(
                "{dialled} dials within {DIALS_WINDOW:?} among {} nodes",
                self.nodes.len()
            );
            return fail(Promise::Bounds, what);
        }
        if !self.strangers && sums.refused > 0 {
            let what = format!("{} frames were refused, and nobody has sent a wrong one", sums.refused);
            return fail(Promise::Driver, what);
        }
        Ok(())
    }

    /// What a node remembers follows from the sessions that there are, or were until lately, and from the messages on their way.
    fn check_memory(&mut self, now: Instant, sums: &Sums) -> Checked {
        let past = &mut self.watch.activity;
        past.push_back((now, sums.turnover, sums.taken_in + sums.retries + sums.retries_free));
        while past.front().is_some_and(|(at, ..)| now.since(*at) > REMEMBERED) {
            past.pop_front();
        }
        let &(_, turnover, _) = past.front().expect("one was just put there");
        let lately = past.partition_point(|(at, ..)| now.since(*at) > ON_THEIR_WAY);
        let (_, _, messages) = past[lately];
        let sessions = self.devices.len() as u64 + sums.turnover - turnover;
        let messages = sums.taken_in + sums.retries + sums.retries_free - messages;
        let allowed = ENTRIES_MIN + ENTRIES_A_SESSION * sessions + ENTRIES_A_MESSAGE * messages;
        for host in &self.nodes {
            let shards = host.process.iter().flat_map(|process| &process.shards);
            let entries: u64 = shards.map(|shard| shard.router().entries() as u64).sum();
            if entries > allowed {
                let what = format!(
                    "{} remembers {entries} things; {sessions} sessions came or went within {REMEMBERED:?}, and {messages} messages were \
                     taken in or tried again within {ON_THEIR_WAY:?}, for which {allowed} are allowed",
                    host.spec.name
                );
                return Err(self.ledger.violation(now, Promise::Bounds, what, None, &[]));
            }
        }
        Ok(())
    }

    fn check_winners(&mut self, now: Instant, sessions: &Sessions) -> Checked {
        self.watch.doubled.retain(|device, _| sessions.of(*device).len() > 1);
        for all in sessions.doubled() {
            let device = all[0].device;
            let since = *self.watch.doubled.entry(device).or_insert(now);
            if now.since(since) <= FENCING + CHECK_INTERVAL {
                continue;
            }
            // One instance that all of these servers could reach all the time, with links that had come back before, is enough.
            let reach = FENCING + BACK_AFTER;
            let told = self.instances_of(device).into_iter().any(|instance| {
                let calm = |node: NodeNo| self.watch.pairs.are_calm(instance, node, now, reach);
                all.iter().all(|live| calm(live.node))
            });
            if told {
                let all: Vec<String> = all
                    .iter()
                    .map(|live| format!("{} at {}", live.epoch, self.name(live.node)))
                    .collect();
                let what = format!("a device has had several sessions for too long: {}", all.join(", "));
                return Err(self.of_device(Promise::OneWinner, what, device));
            }
        }
        Ok(())
    }

    /// An instance and a server that had nothing between them for a while are of one mind about that server's sessions.
    fn check_agreement(&mut self, now: Instant, sessions: &Sessions) -> Checked {
        let mut disagreed = BTreeMap::new();
        let versions: Vec<u64> = (0..self.nodes.len())
            .map(|node| self.map_version(NodeNo(node)))
            .collect();
        let servers = self.servers();
        for instance in (0..self.nodes.len())
            .map(NodeNo)
            .filter(|node| self.nodes[node.0].spec.roles.region)
        {
            let calm: BTreeSet<NodeNo> = servers
                .iter()
                .copied()
                .filter(|server| {
                    let pairs = &self.watch.pairs;
                    versions[server.0] == versions[instance.0] && pairs.are_calm(instance, *server, now, CALM_AFTER)
                })
                .collect();
            if calm.is_empty() {
                continue;
            }
            let Some(process) = &self.nodes[instance.0].process else {
                continue;
            };
            let Some(map) = process.shards.first().map(|shard| shard.router().map()) else {
                continue;
            };
            // A standby is told of everything, too.
            let is_served = |region: RegionId| map.holds(region, self.nodes[instance.0].node);
            // By device. In another region than its own, it may be known by what a server says that has not heard of a move's end.
            let mut known: Vec<(DeviceKey, RegionId, Epoch)> = Vec::new();
            for shard in &process.shards {
                for (region, _) in map.regions() {
                    let all = shard.router().presence(region).into_iter().flatten();
                    known.extend(all.map(|(device, epoch)| (device, region, epoch)));
                }
            }
            known.sort();
            let mut rest = &known[..];
            for live in sessions.0.iter().filter(|live| calm.contains(&live.node)) {
                let passed = rest.iter().take_while(|(device, ..)| *device < live.device).count();
                rest = &rest[passed..];
                let region = map.region_of(live.device);
                let mut of_device = rest.iter().take_while(|(device, ..)| *device == live.device);
                let is_known = of_device.any(|known| *known == (live.device, region, live.epoch));
                if !is_known && is_served(region) {
                    disagreed.insert((instance, live.device, live.epoch), now);
                }
            }
            for (device, _, epoch) in known {
                let server = self.node_no(epoch.node).filter(|server| calm.contains(server));
                if server.is_some() && !self.lives(device, epoch) {
                    disagreed.insert((instance, device, epoch), now);
                }
            }
        }
        for (difference, since) in &mut disagreed {
            if let Some(before) = self.watch.disagreed.get(difference) {
                *since = *before;
            }
        }
        self.watch.disagreed = disagreed;
        let long = self
            .watch
            .disagreed
            .iter()
            .find(|(_, since)| now.since(**since) > AGREE_WITHIN);
        let Some((&(instance, device, epoch), _)) = long else {
            return Ok(());
        };
        let lives = if self.lives(device, epoch) {
            "lives"
        } else {
            "is no more"
        };
        let what = format!(
            "{epoch} {lives}, and {}, within its server's reach, does not see it so for {AGREE_WITHIN:?}",
            self.name(instance)
        );
        Err(self.of_device(Promise::Convergence, what, device))
    }

    /// The newest map in use.
    pub(crate) fn newest_map(&self) -> Option<&Map> {
        let maps = self.nodes.iter().filter_map(|host| {
            let shard = host.process.as_ref()?.shards.first()?;
            Some(shard.router().map().as_ref())
        });
        maps.max_by_key(|map| map.id().version)
    }

    /// The instances of a device's region, by the newest map in use.
    pub(crate) fn instances_of(&self, device: DeviceKey) -> Vec<NodeNo> {
        let map = self.newest_map();
        let instances = map.map_or(&[] as &[_], |map| map.instances(map.region_of(device)));
        instances.iter().filter_map(|node| self.node_no(*node)).collect()
    }

    /// Nobody says "offline" of a device with a session that lives, and that an instance of its region knew of, or could have.
    pub(crate) fn offline_is_true(&mut self, message: MessageNo, unreachable: bool) -> Checked {
        let record = &self.ledger.records()[message.0 as usize];
        let (sender, recipient, sent) = (record.sender, record.recipient, record.sent);
        let Some((epoch, _, _)) = self.ledger.device(recipient).session else {
            return Ok(());
        };
        let key = self.devices[recipient.0 as usize].key;
        let now = self.now();
        if !self.lives(key, epoch) {
            return Ok(());
        }
        if unreachable {
            // An instance was out of its siblings' reach for long: then nobody can know better.
            if now.since(self.watch.troubled) <= GONE_AFTER + BACK_AFTER {
                return Ok(());
            }
        } else {
            let server = self.node_no(epoch.node);
            let liar = self.instances_of(key).into_iter().find(|instance| {
                let model = &self.watch.model;
                // Who was a standby when the message was sent is asked by nobody who has not heard of the change.
                let node = self.nodes[instance.0].node;
                let is_new = self
                    .watch
                    .serving
                    .iter()
                    .any(|((_, of), since)| *of == node && *since > sent);
                let knew = self.presence_at(*instance, recipient) == Some(epoch)
                    && model.held_since(*instance, key).is_some_and(|since| since <= sent);
                // An instance that has not heard of it doubts, unless its server was gone for it, has just been cut off, or left in
                // order and is back without the map saying so: then nobody waits for what it has to tell.
                let pairs = &self.watch.pairs;
                let could = pairs.calm_since(*instance, sent)
                    && !pairs.may_count_as_gone(*instance, server, sent)
                    && server.is_some_and(|server| !pairs.just_cut(*instance, server, sent))
                    && !self.has_left(*instance, server);
                (knew || could) && !is_new
            });
            if liar.is_none() {
                return Ok(());
            }
        }
        let what = format!("{message} was reported offline, with {recipient} connected as {epoch}");
        let mut violation = self
            .ledger
            .violation(now, Promise::NoBlackout, what, Some(message), &[sender, recipient]);
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
    pub(crate) fn sessions(&self) -> Sessions {
        let mut all = Vec::with_capacity(self.devices.len());
        for node in (0..self.nodes.len()).map(NodeNo) {
            for router in self.shards(node) {
                let sessions = router.receiving();
                all.extend(sessions.map(|(device, epoch)| Live { device, node, epoch }));
            }
        }
        Sessions::new(all)
    }

    /// A device's sessions, wherever they are.
    pub fn sessions_of(&self, device: DeviceNo) -> Vec<(Epoch, NodeNo)> {
        let sessions = self.sessions();
        let of_device = sessions.of(self.devices[device.0 as usize].key).iter();
        of_device.map(|live| (live.epoch, live.node)).collect()
    }

    /// The session by which an instance knows a device.
    pub fn presence_at(&self, node: NodeNo, device: DeviceNo) -> Option<Epoch> {
        let key = self.devices[device.0 as usize].key;
        self.shards(node).filter_map(|router| router.presence_of(key)).max()
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
    pub fn unsettled(&self) -> Option<(String, Option<DeviceNo>)> {
        if let Some(what) = self.unready() {
            return Some((what, None));
        }
        let sessions = self.sessions();
        self.unagreed(&sessions).or_else(|| self.unmet(&sessions))
    }

    /// A node without its links, streams or maps.
    fn unready(&self) -> Option<String> {
        let running: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|host| host.process.is_some())
            .map(|host| host.node)
            .collect();
        if self.moves_open() > 0 {
            return Some(format!("{} moves are under way", self.moves_open()));
        }
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
        if let Some(all) = sessions.doubled().next() {
            return Some((
                format!("there are {} sessions of one device", all.len()),
                self.device_of(all[0].device),
            ));
        }
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            let map = process.shards.first()?.router().map();
            for (region, served) in map.regions().filter(|(region, _)| map.holds(*region, host.node)) {
                let shards = process.shards.iter();
                let mut known: Vec<(DeviceKey, Epoch)> = shards
                    .flat_map(|shard| shard.router().presence(region).into_iter().flatten())
                    .collect();
                known.sort_unstable();
                let live = sessions.0.iter().map(|live| (live.device, live.epoch));
                let live = live.filter(|(device, _)| map.region_of(*device) == region);
                if !live.clone().eq(known.iter().copied()) {
                    let (known, live): (BTreeMap<_, _>, BTreeMap<_, _>) = (known.into_iter().collect(), live.collect());
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
                if !sessions.of(device.key).is_empty() {
                    return Some((format!("{no} has ended, and its session lives"), Some(no)));
                }
                continue;
            }
            let Some((held, _, _)) = self.ledger.device(no).session else {
                return Some((format!("{no} is not connected"), Some(no)));
            };
            let live = sessions.of(device.key).first().map_or(Epoch::NONE, |live| live.epoch);
            if device.purpose == Purpose::Full && held != live {
                return Some((format!("{no} holds {held}, and its session is {live}"), Some(no)));
            }
        }
        None
    }

    pub(crate) fn device_of(&self, key: DeviceKey) -> Option<DeviceNo> {
        self.device_nos.get(&key).copied()
    }

    /// The routers of a node that runs.
    pub(crate) fn shards(&self, node: NodeNo) -> impl Iterator<Item = &Router> {
        let shards = self.nodes[node.0].process.iter().flat_map(|process| &process.shards);
        shards.map(|shard| shard.router())
    }

    pub(crate) fn name(&self, node: NodeNo) -> &str {
        &self.nodes[node.0].spec.name
    }
}

/// How often instances are compared with servers.
const AGREEMENT_INTERVAL: Duration = Duration::from_millis(500);
/// Between an instance and a server that had nothing wrong for so long there is a link, and a stream was taken.
pub(crate) const CALM_AFTER: Duration = Duration::from_secs(8);
/// News of a session take a moment, and several seconds if a queue is in its way.
pub(crate) const AGREE_WITHIN: Duration = Duration::from_secs(4);
/// Nodes look at their links now and then, and the simulator at them.
const SUSPECT_SLACK: Duration = Duration::from_millis(1_500);
/// How long after its deadline a connection that says no hello may be open.
const GUEST_SLACK: Duration = Duration::from_secs(2);
/// For how long sessions that are gone are remembered: as tombstones.
const REMEMBERED: Duration = Duration::from_secs(TOMBSTONE.as_secs() + 5);
/// For how long messages are: the longest time to live.
const ON_THEIR_WAY: Duration = Duration::from_millis(crate::swarm::TTL_MS_MAX as u64);
/// What a node may remember in any case.
const ENTRIES_MIN: u64 = 100;
/// What it may remember of a session: itself, its timers, and who followed it, at its server; its record and its removal at instances. Few
/// sessions need all of that.
const ENTRIES_A_SESSION: u64 = 6;
/// What it may remember of a message: it and its name, when it is due, and when it was; by whom it is held, and which way it took.
const ENTRIES_A_MESSAGE: u64 = 4;
/// Over which dials are counted.
const DIALS_WINDOW: Duration = Duration::from_secs(1);
/// Whoever can't be reached is dialled after 50 ms, 100 ms, and so on; of links that come up and break again at once, a few more.
const DIALS_A_PAIR: u64 = 20;
/// Over which retries are counted.
const RETRIES_WINDOW: Duration = Duration::from_secs(10);
/// Messages of so long ago may still have earned them: what is earned may be used for up to fifteen seconds.
const RETRIES_EARNED: Duration = Duration::from_secs(26);
/// How soon after a fault between nodes they have their links again: a dial that was under way, the longest wait, another dial.
const BACK_AFTER: Duration = Duration::from_secs(10);
/// How long after its time to live a message may be without a report. The library gives the server two seconds; while its own host
/// stands still it can say nothing.
pub(crate) const OVERDUE: Duration = Duration::from_secs(3);
