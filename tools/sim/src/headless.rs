//! Runs without a control plane: it dies once all devices are connected, nodes die and restart meanwhile, and everything goes the way it
//! went with it, also after the last fault. Then it is back, and nobody is worse off for its absence.
//!
//! What a route follows from is the map. So each node's is held against the one that it had when control was there, device by device,
//! and each message's way against that: it passes no instance but its recipient's region's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trunkline_core::constants::LEASE;
use trunkline_net::sim::Death;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::map::Map;

use crate::cluster::{CHECK_INTERVAL, Cluster};
use crate::node::NodeNo;
use crate::promise::{Checked, Promise};
use crate::swarm::Run;

/// Where a node takes each device's messages: the device's region, its second one, and the instances of both.
type Routes = BTreeMap<DeviceKey, (RegionId, Option<RegionId>, Vec<NodeId>)>;

/// How it was while control was there.
#[derive(Debug)]
pub(crate) struct Before {
    routes: BTreeMap<NodeNo, Routes>,
    members: BTreeSet<NodeId>,
}

impl Run {
    /// Control dies for good, with nothing under way.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn lose_control(&mut self) -> Checked<Before> {
        self.cluster
            .run_while(UNDER_WAY_MAX, |cluster| cluster.moves_open() > 0)?;
        self.cluster.settle(UNDER_WAY_MAX)?;
        let before = self.cluster.before();
        self.cluster.kill_control(Death::Visible);
        self.cluster.headless = true;
        Ok(before)
    }

    /// Everything goes as it went with control; then that is back, and nobody is expired for its absence.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn went_as_before(&mut self, before: &Before) -> Checked {
        self.cluster.routes_are(before)?;
        let losses = self.cluster.ledger().totals().losses;
        self.cluster.headless = false;
        self.cluster.revive_control();
        let end = self.cluster.now() + LEASE + RETURN;
        while self.cluster.now() < end {
            self.traffic(CHECK_INTERVAL, false)?;
            self.cluster.names_all(before)?;
        }
        self.cluster.settle(RETURN)?;
        self.cluster.routes_are(before)?;
        let lost = self.cluster.ledger().totals().losses - losses;
        if lost > 0 {
            let what = format!("control is back, and {lost} devices lost their connections for it");
            let (now, ledger) = (self.cluster.now(), self.cluster.ledger());
            return Err(ledger.violation(now, Promise::StaticStability, what, None, &[]));
        }
        Ok(())
    }
}

impl Cluster {
    fn before(&self) -> Before {
        let mut before = Before {
            routes: BTreeMap::new(),
            members: BTreeSet::new(),
        };
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            for shard in &process.shards {
                let map = shard.router().map();
                before.members.extend(map.nodes().map(|(node, _)| node));
                before.routes.insert(NodeNo(index), self.routes(map));
            }
        }
        before
    }

    /// No map in use has lost a member.
    fn names_all(&self, before: &Before) -> Checked {
        for host in &self.nodes {
            for shard in host.process.iter().flat_map(|process| &process.shards) {
                let map = shard.router().map();
                if let Some(lost) = before.members.iter().find(|node| map.node(**node).is_none()) {
                    let what = format!(
                        "control is back, and {}'s map has lost node {lost} for it",
                        host.spec.name
                    );
                    return Err(self
                        .ledger
                        .violation(self.now(), Promise::StaticStability, what, None, &[]));
                }
            }
        }
        Ok(())
    }

    fn routes(&self, map: &Map) -> Routes {
        let route = |device: DeviceKey| {
            let instances = map.regions_of(device).flat_map(|region| map.instances(region));
            (
                map.region_of(device),
                map.region_also(device),
                instances.copied().collect(),
            )
        };
        self.devices
            .iter()
            .map(|device| (device.key, route(device.key)))
            .collect()
    }

    /// Every shard of every node routes every device as before, and the last message of every session has come such a way.
    fn routes_are(&self, before: &Before) -> Checked {
        for (index, host) in self.nodes.iter().enumerate() {
            let Some(process) = &host.process else { continue };
            for shard in &process.shards {
                let map = shard.router().map();
                if before.routes.get(&NodeNo(index)) != Some(&self.routes(map)) {
                    let what = format!("{} routes otherwise than with control", host.spec.name);
                    return Err(self
                        .ledger
                        .violation(self.now(), Promise::StaticStability, what, None, &[]));
                }
                for device in &self.devices {
                    let passed = shard.router().explain(device.key).last_way;
                    let passed = passed.iter().flat_map(|(_, trail)| trail.nodes().iter().skip(1));
                    let strange = passed.copied().find(|node| {
                        let is_instance = self.node_no(*node).is_some_and(|no| self.nodes[no.0].spec.roles.region);
                        is_instance
                            && !map
                                .regions_of(device.key)
                                .any(|region| map.instances(region).contains(node))
                    });
                    if let Some(node) = strange {
                        let what =
                            format!("a message passed node {node}, which is no instance of its recipient's region");
                        return Err(self.of_device(Promise::StaticStability, what, device.key));
                    }
                }
            }
        }
        Ok(())
    }
}

/// How long what control has begun may take: instances that came late to their regions.
const UNDER_WAY_MAX: Duration = Duration::from_secs(20);
/// How long control, back again, may take to have all members, and they the map that it makes of their new starts.
const RETURN: Duration = Duration::from_secs(10);
