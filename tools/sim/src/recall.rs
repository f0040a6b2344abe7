//! Whom a device has to do with follows it: what an instance of its region remembers is known where the device is.
//!
//! It is looked at only where nothing was in the way: of a session that began while instance and server had been in touch for a while.

use trunkline_core::predictor::PARTNERS_MAX;
use trunkline_core::router::Router;
use trunkline_wire::affinity::AFFINITY_ENTRIES_MAX;
use trunkline_wire::id::{DeviceKey, Epoch, PartnerKey};
use trunkline_wire::time::Instant;

use crate::cluster::Cluster;
use crate::node::NodeNo;
use crate::promise::{Checked, Promise};
use crate::watch::{AGREE_WITHIN, CALM_AFTER, Live, Sessions};

/// What was seen of each session that an instance knows of.
#[derive(Debug, Default)]
pub(crate) struct Recalls {
    /// By device.
    seen: Vec<Seen>,
    /// To be filled anew.
    spare: Vec<Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    device: DeviceKey,
    instance: NodeNo,
    epoch: Epoch,
    /// When it was first seen, nothing had been in the way.
    clear: bool,
    /// Since when its server doesn't know what the instance does.
    unknown: Option<Instant>,
}

impl Cluster {
    /// What an instance remembers of a device reaches the server where it turns up.
    pub(crate) fn check_recalled(&mut self, now: Instant, sessions: &Sessions) -> Checked {
        let Recalls {
            seen: before,
            spare: mut recalls,
        } = std::mem::take(&mut self.watch.recalls);
        recalls.clear();
        let mut before_rest = &before[..];
        let map = self.newest_map();
        for all in sessions.by_device() {
            let device = all[0].device;
            if self.device_of(device).is_none() {
                continue;
            }
            let passed = before_rest.iter().take_while(|seen| seen.device < device).count();
            before_rest = &before_rest[passed..];
            let count = before_rest.iter().take_while(|seen| seen.device == device).count();
            let of_device = &before_rest[..count];
            let instances = map.map_or(&[] as &[_], |map| map.instances(map.region_of(device)));
            for instance in instances.iter().filter_map(|node| self.node_no(*node)) {
                let known = self
                    .shards(instance)
                    .filter_map(|router| router.presence_of(device))
                    .max();
                let Some(&Live {
                    epoch, node: server, ..
                }) = all.iter().find(|live| known == Some(live.epoch))
                else {
                    continue;
                };
                let calm = self.watch.pairs.are_calm(instance, server, now, CALM_AFTER);
                let first = Seen {
                    device,
                    instance,
                    epoch,
                    clear: calm,
                    unknown: None,
                };
                let same = |seen: &&Seen| seen.instance == instance && seen.epoch == epoch;
                let mut seen = of_device.iter().find(same).copied().unwrap_or(first);
                // A fault may have taken it away later: a list that is told late is handed on once.
                seen.clear &= calm;
                let differs = seen.clear && !self.is_known(instance, server, device, epoch);
                seen.unknown = differs.then_some(seen.unknown.unwrap_or(now));
                recalls.push(seen);
            }
        }
        self.watch.recalls = Recalls {
            seen: recalls,
            spare: before,
        };
        let long = |seen: &&Seen| seen.unknown.is_some_and(|since| now.since(since) > AGREE_WITHIN);
        let Some(&late) = self.watch.recalls.seen.iter().find(long) else {
            return Ok(());
        };
        let Seen {
            device,
            instance,
            epoch,
            ..
        } = late;
        let what = format!(
            "{epoch} began within reach of {}, which remembers whom its device has to do with, and its server doesn't know",
            self.name(instance)
        );
        Err(self.of_device(Promise::Convergence, what, device))
    }

    /// Once all is calm: what instances remember has followed the devices that have moved.
    pub(crate) fn no_history_astray(&self) -> Checked {
        for node in (0..self.nodes.len()).map(NodeNo) {
            let astray = self.shards(node).find_map(|router| router.remembered_astray().next());
            if let Some(device) = astray {
                let what = format!(
                    "{} remembers whom a device has to do with that is in none of its regions",
                    self.name(node)
                );
                return Err(self.of_device(Promise::Convergence, what, device));
            }
        }
        Ok(())
    }

    fn is_known(&self, instance: NodeNo, server: NodeNo, device: DeviceKey, epoch: Epoch) -> bool {
        // What was remembered before that session, not what it has told itself.
        let known_before = |router: &&Router| {
            let version = router.remembered_version(device);
            version.is_some_and(|version| version.clock < epoch.clock)
        };
        let before = self.shards(instance).find(known_before);
        let Some(remembered) = before.and_then(|router| router.remembered_partners(device)) else {
            return true;
        };
        let session = self
            .shards(server)
            .find(|router| router.session_epoch(device) == Some(epoch));
        let known = session.into_iter().flat_map(|router| router.session_partners(device));
        let known: Vec<PartnerKey> = known.collect();
        // A full list has had to let some go.
        known.len() + AFFINITY_ENTRIES_MAX > PARTNERS_MAX || remembered.iter().all(|partner| known.contains(partner))
    }
}
