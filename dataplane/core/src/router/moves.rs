//! Devices that move between regions, and nodes whose maps differ meanwhile.
//!
//! ```text
//! both      by R, also S      sessions are registered at R and at S; R relays to S what it knows, and what older maps' nodes say
//! switch    by S, also R      S asks R as well before it says "offline"
//! end       by S              R forgets, server by server, once each has this version
//! ```
//!
//! An instance that comes is a region's *standby* first, and one that goes is in the end: told of all that an instance is told of, and not
//! asked by those who have that map. Both are called holders here.
//!
//! Nothing here knows which of the three a version is: that a device has a second region is enough. Each node announces the version
//! that all its shards use. From that follows who is *behind*: what a server of an older map registers is relayed; an instance that is
//! itself behind says "try again" where it would have said "offline". A registration that has no place in its region by this
//! node's map is a *stray*. It stays until who told of it is known to have the same map: until then it may be the other side that is right.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use trunkline_wire::id::{DeviceKey, Epoch, NodeId, RegionId};
use trunkline_wire::map::Map;
use trunkline_wire::peer::{MapVersion, Outdated, Register, Relay};

use super::{LinkView, Now, Router};
use crate::constants::GONE_AFTER;
use crate::link::need::partners;
use crate::link::{Reason, Wish};
use crate::outbox::{Outbox, ShardEvent};
use crate::predictor::Worth;
use crate::presence::Registration;

/// How many older regions of a session are kept in mind: maps that differ by more are not in use at one time.
const REGIONS_BEFORE_MAX: usize = 4;

/// Which versions others use, and what is here because of that.
#[derive(Debug, Default)]
pub(super) struct Versions {
    /// As they announced it on their present links.
    announced: BTreeMap<NodeId, MapVersion>,
    /// The highest that was ever announced.
    highest: u64,
    /// Streams that servers have begun since they announced one: by a newer map, perhaps.
    streams: BTreeSet<(NodeId, RegionId)>,
    /// Registrations that by this node's map belong elsewhere, by who told of them.
    strays: BTreeMap<(NodeId, RegionId, DeviceKey), Stray>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stray {
    epoch: Epoch,
    /// Which map who told of it had then at the latest, as it said afterwards.
    said_by: Option<u64>,
}

/// In which time a link for a relay loses half its worth: the other region's instances are required soon, by the next map.
const RELAY_HALF_LIFE: std::time::Duration = std::time::Duration::from_secs(60);

impl Router {
    /// Whether another node uses a newer map: a device may be in a region that this node doesn't know of.
    pub(super) fn is_behind(&self) -> bool {
        self.versions.highest > self.map.id().version && !trunkline_wire::planted!(NeverBehind)
    }

    /// The newest version that another node has announced.
    pub(super) fn newest_announced(&self) -> u64 {
        self.versions.highest
    }

    /// Whether all that the map asks of this shard as an instance is done: it is in sync, and the instances that it can reach have the
    /// same map, so that what they had to relay is here. Those of regions that devices move to or from are waited for like anybody
    /// else before they count as gone.
    pub fn settled(&self, now: Now) -> bool {
        if self.served.is_empty() {
            return true;
        }
        let version = self.map.id().version;
        let holders = self.map.regions().flat_map(|(region, _)| self.map.holders(region));
        let holders: BTreeSet<NodeId> = holders.filter(|node| *node != self.config.node).collect();
        let awaited = |node: &NodeId| match self.links.get(node) {
            Some(LinkView::Up { .. }) => true,
            Some(LinkView::Down { since }) => self.partners.contains(node) && *since + GONE_AFTER > now.at,
            None => false,
        };
        let announced =
            |node: &NodeId| self.announced(*node) >= version || trunkline_wire::planted!(SettledUnannounced);
        (self.in_sync() || trunkline_wire::planted!(SettledUnsynced))
            && holders.iter().filter(|node| awaited(node)).all(announced)
    }

    /// The version that another node says all its shards use; 0 if it hasn't said so on its present link.
    pub fn announced(&self, node: NodeId) -> u64 {
        self.versions
            .announced
            .get(&node)
            .map_or(0, |announced| announced.version)
    }

    /// The version that all shards of a node use, if they use the same.
    pub(super) fn agreed(&self, node: NodeId) -> Option<u64> {
        if node == self.config.node {
            return Some(self.map.id().version);
        }
        let announced = self.versions.announced.get(&node)?;
        (announced.version == announced.newest).then_some(announced.version)
    }

    /// A node says which version of the map all its shards use.
    pub(super) fn version_announced(&mut self, now: Now, from: NodeId, news: &MapVersion, out: &mut Outbox) {
        let version = news.version;
        self.versions.announced.insert(from, *news);
        self.versions.streams.retain(|(server, _)| *server != from);
        self.versions.highest = self.versions.highest.max(news.newest);
        let agreed = self.agreed(from);
        let all = (from, RegionId(0), DeviceKey(0))..=(from, RegionId(u16::MAX), DeviceKey(u128::MAX));
        self.versions
            .strays
            .range_mut(all)
            .for_each(|(_, stray)| stray.said_by = agreed);
        self.drop_strays();
        self.drop_secondhand(now, from);
        self.forget_unserved(now);
        out.event(None, ShardEvent::VersionTaken { node: from, version });
    }

    pub(super) fn version_forgotten(&mut self, node: NodeId) {
        self.versions.announced.remove(&node);
        self.versions.streams.retain(|(server, _)| *server != node);
    }

    /// A server names its sessions of a region.
    pub(super) fn note_stream(&mut self, from: NodeId, region: RegionId) {
        self.versions.streams.insert((from, region));
    }

    /// A server has named all its sessions of a region. Returns how many others of it were dropped.
    pub(super) fn drop_unnamed(&mut self, now: Now, region: RegionId, server: NodeId, sync: u64) -> usize {
        let behind = self.announced(server) < self.map.id().version;
        let Some(presence) = self.presence.get_mut(&region) else {
            return 0;
        };
        if behind && !trunkline_wire::planted!(RelayedDropped) {
            presence.drop_unnamed_but_secondhand(now.at, server, sync)
        } else {
            presence.drop_unnamed(now.at, server, Some(sync))
        }
    }

    /// What other instances have told of a server's sessions, and was not named by the server itself though it has this map by now, is
    /// no more: it ended while the server could not say so, or with the server's last process.
    fn drop_secondhand(&mut self, now: Now, server: NodeId) {
        if server == self.config.node || self.agreed(server) != Some(self.map.id().version) {
            return;
        }
        for (&region, presence) in &mut self.presence {
            // Else the end of its stream does it.
            if self.sources.is_told_by(region, server) {
                self.counters.presence_dropped += presence.drop_secondhand(now.at, server) as u64;
            }
        }
    }

    /// This node is no holder of a region any more, and a server that has the same map says no more of it: what it said is stale from now
    /// on. A server of another map may be right, and goes on.
    fn forget_unserved(&mut self, now: Now) {
        let version = self.map.id().version;
        let (served, versions) = (&self.served, &self.versions);
        let stale = |region, node| {
            let announced = versions.announced.get(&node);
            let agrees = announced.is_some_and(|news| news.version == version && news.newest == version);
            !served.contains(&region) && agrees && !versions.streams.contains(&(node, region))
        };
        let forgotten = self.sources.forget_stale(stale);
        for (region, server) in forgotten {
            if let Some(presence) = self.presence.get_mut(&region) {
                self.counters.presence_dropped += presence.drop_unnamed(now.at, server, None) as u64;
            }
        }
        let (served, sources) = (&self.served, &self.sources);
        self.presence
            .retain(|region, _| served.contains(region) || sources.hears(*region));
    }

    /// Somebody has told of a session: whether it has its place here will be seen.
    pub(super) fn note_stray(&mut self, by: NodeId, region: RegionId, device: DeviceKey, epoch: Epoch) {
        if !self.map.belongs(device, region) && self.presence.contains_key(&region) {
            let stray = Stray { epoch, said_by: None };
            self.versions.strays.insert((by, region, device), stray);
        }
    }

    /// Tells the instances of the device's other regions what a server has said that doesn't know of them.
    pub(super) fn relay(
        &mut self,
        now: Now,
        by: NodeId,
        region: RegionId,
        device: DeviceKey,
        word: Word,
        out: &mut Outbox,
    ) {
        if self.announced(by) >= self.map.id().version {
            return;
        }
        let Word { epoch, ended } = word;
        let map = Arc::clone(&self.map);
        for other in map.regions_of(device).filter(|&other| other != region) {
            for node in map.holders(other) {
                let relay = Relay {
                    region: other,
                    device,
                    epoch,
                    ended,
                };
                if node == self.config.node {
                    self.take_relay(now, by, &relay, out);
                } else if node != epoch.node {
                    self.relay_over(node, &relay, out);
                }
            }
        }
    }

    /// Another instance tells what a server has said to it.
    pub(super) fn take_relay(&mut self, now: Now, from: NodeId, relay: &Relay, out: &mut Outbox) {
        let Relay {
            region,
            device,
            epoch,
            ended,
        } = *relay;
        if epoch.node == self.config.node {
            // About this node's own sessions, it knows better; it has this map as well.
            return;
        }
        self.counters.relays_taken += 1;
        if ended {
            self.take_unregistration(now, region, device, epoch, out);
        } else if self.presence.contains_key(&region) {
            self.take_secondhand(now, region, device, epoch, out);
            self.note_stray(from, region, device, epoch);
        }
        // It has moved on since. Versions rise along the way, so that this comes to an end.
        if from != self.config.node && !self.map.belongs(device, region) {
            self.relay(now, from, region, device, Word { epoch, ended }, out);
        }
    }

    /// A session of which another instance knows, and not from its server here: it stays until that server has named all of its own, and
    /// not this one.
    pub(super) fn take_secondhand(
        &mut self,
        now: Now,
        region: RegionId,
        device: DeviceKey,
        epoch: Epoch,
        out: &mut Outbox,
    ) {
        let Some(presence) = self.presence.get_mut(&region) else {
            return;
        };
        match presence.register_secondhand(device, epoch) {
            Registration::Taken { replaced } => {
                self.counters.presence_registered += 1;
                if let Some(older) = replaced.filter(|older| older.node != epoch.node) {
                    self.tell_outdated(now, device, older, epoch, out);
                }
            }
            Registration::Repeated | Registration::Removed => {}
            Registration::Stale { highest } => {
                self.counters.presence_stale += 1;
                // The answer that the server would have got here itself.
                self.tell_outdated(now, device, epoch, highest, out);
            }
        }
    }

    /// Tells the node of an older session that there is a newer one.
    pub(super) fn tell_outdated(&mut self, now: Now, device: DeviceKey, older: Epoch, newer: Epoch, out: &mut Outbox) {
        if older.node == self.config.node {
            self.outdated(now, device, older, newer, out);
        } else if self.ready(older.node) && !trunkline_wire::planted!(OutdatedUntold) {
            let (epoch, highest) = (older, newer);
            out.link(older.node, &Outdated { device, epoch, highest });
        }
    }

    /// A new link to an instance: it may have missed what belongs to it by this map, and not by their servers'.
    pub(super) fn relay_to(&mut self, now: Now, node: NodeId, out: &mut Outbox) {
        if self.map.is_moving() || !self.versions.strays.is_empty() {
            self.relay_known(now, |_| true, Some(node), out);
        }
    }

    /// Relays all that is known of devices that belong to `wanted` ones of their other regions, to one node or to all.
    fn relay_known(
        &mut self,
        now: Now,
        wanted: impl Fn((DeviceKey, RegionId)) -> bool,
        to: Option<NodeId>,
        out: &mut Outbox,
    ) {
        let (map, version) = (Arc::clone(&self.map), self.map.id().version);
        let (mut own, mut sent): (Vec<Relay>, Vec<(NodeId, Relay)>) = (Vec::new(), Vec::new());
        for (&here, presence) in &self.presence {
            let others = |device| map.regions_of(device).filter(move |&other| other != here);
            let known = presence.sorted_where(|device, epoch| {
                let behind = epoch.node != self.config.node && self.announced(epoch.node) < version;
                behind && others(device).any(|other| wanted((device, other)))
            });
            for (device, epoch) in known {
                for region in others(device).filter(|&other| wanted((device, other))) {
                    let relay = Relay {
                        region,
                        device,
                        epoch,
                        ended: false,
                    };
                    for node in map.holders(region) {
                        if node == self.config.node {
                            own.push(relay);
                        } else if to.is_none_or(|to| to == node) && node != epoch.node {
                            sent.push((node, relay));
                        }
                    }
                }
            }
        }
        for (node, relay) in sent {
            self.relay_over(node, &relay, out);
        }
        for relay in own {
            self.take_relay(now, self.config.node, &relay, out);
        }
    }

    /// To an instance of the other region; one without a link gets it with the others when it has one.
    fn relay_over(&mut self, node: NodeId, relay: &Relay, out: &mut Outbox) {
        if self.ready(node) {
            self.counters.relays_sent += 1;
            out.link(node, relay);
        } else {
            out.wish(Wish {
                node,
                reason: Reason::Move,
                worth: Worth::CERTAIN,
                half_life: RELAY_HALF_LIFE,
                by: None,
            });
        }
    }

    /// Strays that were told of by this node's map, or by older ones that nobody uses there any more, have no place here.
    fn drop_strays(&mut self) {
        let version = self.map.id().version;
        if trunkline_wire::planted!(StraysForGood) {
            return;
        }
        let gone: Vec<_> = self
            .versions
            .strays
            .iter()
            .filter(|(_, stray)| stray.said_by == Some(version) || trunkline_wire::planted!(StraysAtOnce))
            .map(|(key, stray)| (*key, stray.epoch))
            .collect();
        for (key, epoch) in gone {
            self.versions.strays.remove(&key);
            let (_, region, device) = key;
            if let Some(presence) = self.presence.get_mut(&region)
                && presence.withdraw(device, epoch)
            {
                self.counters.presence_withdrawn += 1;
            }
        }
    }

    /// Sessions of devices whose regions, or whose regions' instances, are others now: those learn of them. And what this node knows as
    /// an instance has its place anew.
    pub(super) fn reassign(&mut self, now: Now, old: &Map, out: &mut Outbox) {
        let map = Arc::clone(&self.map);
        let (shard, version) = (self.config.shard, map.id().version);
        out.event(None, ShardEvent::MapApplying { shard, version });
        let moved = !map.assigns_as(old);
        if map.id().lineage != old.id().lineage {
            self.versions.highest = map.id().version;
        }
        let same_holders = map.regions().all(|(id, _)| {
            let known = |node| old.holds(id, node);
            map.holders(id).all(known)
        });
        if moved || !same_holders {
            self.register_anew(now, old, out);
        }
        if moved {
            let before = std::mem::replace(&mut self.partners, partners(&map, self.config.node));
            for node in self.partners.difference(&before) {
                // Until now it didn't matter that there was no link.
                if let Some(LinkView::Down { since }) = self.links.get_mut(node) {
                    *since = now.at;
                }
            }
            for (&region, presence) in &self.presence {
                for (device, epoch) in presence.sorted_where(|device, _| !map.belongs(device, region)) {
                    // No member's map is so much newer that the device could have come back in it: a move waits for all.
                    let said_by = self.agreed(epoch.node);
                    let stray = Stray { epoch, said_by };
                    self.versions
                        .strays
                        .entry((epoch.node, region, device))
                        .or_insert(stray);
                }
            }
            self.versions
                .strays
                .retain(|&(_, region, device), _| !map.belongs(device, region));
            self.relay_known(now, |(device, region)| !old.belongs(device, region), None, out);
        }
        self.drop_strays();
        let announced: Vec<NodeId> = self.versions.announced.keys().copied().collect();
        for node in announced {
            self.drop_secondhand(now, node);
        }
        self.forget_unserved(now);
        out.event(None, ShardEvent::MapApplied { shard, version });
    }

    fn register_anew(&mut self, now: Now, before: &Map, out: &mut Outbox) {
        let map = Arc::clone(&self.map);
        for reference in self.sessions.refs() {
            let Some(session) = self.sessions.receiving(reference) else {
                continue;
            };
            let (device, epoch) = (session.key, session.epoch);
            for region in map.regions_of(device) {
                session.regions_before.retain(|&known| known != region);
            }
            // An empty map had no regions. Of a device that moves again and again, the last moves count.
            for old in before.regions_of(device) {
                let left = before.region(old).is_some() && !map.belongs(device, old);
                if left && !session.regions_before.contains(&old) {
                    session.regions_before.push(old);
                }
            }
            while session.regions_before.len() > REGIONS_BEFORE_MAX {
                session.regions_before.remove(0);
            }
            for region in map.regions_of(device) {
                let told = before.belongs(device, region) || trunkline_wire::planted!(MovedUntold);
                for node in map.holders(region) {
                    let told = told && before.holds(region, node);
                    if node == self.config.node {
                        self.take_registration(now, region, node, device, epoch, out);
                    } else if !told && matches!(self.links.get(&node), Some(LinkView::Up { .. })) {
                        out.link(node, &Register { region, device, epoch });
                    }
                }
            }
        }
    }
}

/// What a server has said of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) epoch: Epoch,
    /// It is no more; else it exists.
    pub(super) ended: bool,
}
