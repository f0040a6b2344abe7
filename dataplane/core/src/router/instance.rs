//! What this node does as an instance of a region: takes registrations, forwards to the session's node, and says "offline" only when
//! it can't be wrong.

use trunkline_wire::common::Ping;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, RegionId};
use trunkline_wire::peer::{Forward, Locate, Located, Registered, SyncEnd, Target};
use trunkline_wire::report::{RetryReason, TtlMs};
use trunkline_wire::time::Instant;

use super::moves::Word;
use super::route::Stop;
use super::{INSTANCE_TICK, LinkView, Now, Router};
use crate::constants::{GONE_AFTER, LOCATE_TIMEOUT, LOCATING_BYTES_MAX, LOCATING_MESSAGES_MAX};
use crate::link::token;
use crate::outbox::{Outbox, ShardEvent};
use crate::presence::Registration;

/// Messages that wait for what the siblings know of their recipient.
#[derive(Debug)]
pub(super) struct Asked {
    since: Instant,
    /// Whom, and of which of the device's regions.
    waiting: Vec<(RegionId, NodeId)>,
    /// A sibling doesn't know the device, but hasn't heard from all connection servers either.
    doubtful: bool,
    /// A sibling could not be asked for so long that nobody waits for it.
    unreachable: bool,
    /// Bodies of `Forward` frames, in order.
    messages: Vec<Box<[u8]>>,
}

/// Where messages go that have waited for the siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Onward {
    /// By what is known now.
    Route,
    /// To a session that a sibling knows of, and this instance doesn't.
    Session(Epoch),
    Stop(Stop),
}

impl Asked {
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn bodies(&self) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().map(|body| &**body)
    }
}

impl Router {
    /// A connection server begins to name its sessions.
    pub(super) fn sync_begin(&mut self, from: NodeId, region: RegionId, sync: u64) {
        // If this node doesn't serve the region yet, the server's map is newer: what it names now will not be named again.
        self.presence.entry(region).or_default();
        self.sources.begin(region, from, sync);
        self.note_stream(from, region);
    }

    /// Which regions this node serves, and which connection servers matter for them, by the map.
    pub(super) fn serve_regions(&mut self, now: Now) {
        let own = self.config.node;
        let map = std::sync::Arc::clone(&self.map);
        // A standby answers those who ask it by an older map, or a newer one.
        let serves = |region: RegionId| map.holds(region, own);
        self.served = map
            .regions()
            .map(|(region, _)| region)
            .filter(|&region| serves(region))
            .collect();
        let servers: Vec<NodeId> = map
            .nodes()
            .filter(|(id, node)| *id != own && node.roles.connection)
            .map(|(id, _)| id)
            .collect();
        let pairs = self
            .served
            .iter()
            .flat_map(|&region| servers.iter().map(move |&server| (region, server)));
        for (region, server) in self.sources.expect(now.at, pairs) {
            // It is no longer a connection server, or the region is no longer served here: its sessions are nobody's.
            if let Some(presence) = self.presence.get_mut(&region) {
                self.counters.presence_dropped += presence.drop_unnamed(now.at, server, None) as u64;
            }
        }
        for &region in &self.served {
            self.presence.entry(region).or_default();
        }
        let (served, sources) = (&self.served, &self.sources);
        self.presence
            .retain(|region, _| served.contains(region) || sources.hears(*region));
        for (id, _) in map.nodes() {
            self.links.entry(id).or_insert(LinkView::Down { since: now.at });
        }
    }

    /// A session is registered. Returns the highest epoch that is known for its device; the older session's node is told.
    pub(super) fn take_registration(
        &mut self,
        now: Now,
        region: RegionId,
        from: NodeId,
        device: DeviceKey,
        epoch: Epoch,
        out: &mut Outbox,
    ) -> Epoch {
        let sync = self.sources.stream(region, epoch.node);
        let Some(presence) = self.presence.get_mut(&region) else {
            return epoch;
        };
        match presence.register(device, epoch, sync) {
            Registration::Taken { replaced } => {
                self.counters.presence_registered += 1;
                self.hand_out(now, device, epoch, out);
                self.tell_watchers(device, epoch, out);
                if let Some(older) = replaced.filter(|older| older.node != from) {
                    self.tell_outdated(now, device, older, epoch, out);
                }
                epoch
            }
            Registration::Repeated | Registration::Removed => epoch,
            Registration::Stale { highest } => {
                self.counters.presence_stale += 1;
                highest
            }
        }
    }

    /// A session has ended. Who never heard that it had begun hears it with that: an older one has lost to it, whatever the order of news.
    pub(super) fn take_unregistration(
        &mut self,
        now: Now,
        region: RegionId,
        device: DeviceKey,
        epoch: Epoch,
        out: &mut Outbox,
    ) {
        let known = self.presence.get(&region).and_then(|presence| presence.find(device));
        if known.is_some_and(|older| older < epoch) {
            self.take_registration(now, region, epoch.node, device, epoch, out);
        }
        if let Some(presence) = self.presence.get_mut(&region)
            && presence.unregister(now.at, device, epoch)
        {
            self.counters.presence_unregistered += 1;
        }
    }

    /// A registration over a link: taken, and answered.
    pub(super) fn register_at(
        &mut self,
        now: Now,
        from: NodeId,
        region: RegionId,
        device: DeviceKey,
        epoch: Epoch,
        out: &mut Outbox,
    ) {
        if epoch.node != from {
            // A server speaks for its own sessions only.
            self.counters.presence_stale += 1;
            return;
        }
        let known = self.presence.get(&region).and_then(|presence| presence.find(device));
        let highest = self.take_registration(now, region, from, device, epoch, out);
        if known == Some(epoch) {
            self.hand_out_again(now, device, epoch, out);
        }
        self.note_stray(from, region, device, epoch);
        self.relay(now, from, region, device, Word { epoch, ended: false }, out);
        out.link(
            from,
            &Registered {
                region,
                device,
                epoch,
                highest,
            },
        );
        // Behind the answer, which may be what the device's welcome waits for.
        if self.asked.contains_key(&device) && self.knows(device) {
            self.release(now, device, Onward::Route, out);
        }
    }

    /// One shard of a connection server has named all its sessions.
    pub(super) fn sync_end(&mut self, now: Now, from: NodeId, end: &SyncEnd, out: &mut Outbox) {
        let SyncEnd { region, sync, shards } = *end;
        if !self.sources.end(region, from, sync, shards) {
            return;
        }
        self.counters.syncs_taken += 1;
        self.counters.presence_dropped += self.drop_unnamed(now, region, from, sync) as u64;
        out.event(
            None,
            ShardEvent::SyncTaken {
                node: from,
                region,
                sync,
            },
        );
    }

    /// The session of a device by all that this node knows as an instance: also of a region that the device leaves, or comes to.
    pub(super) fn find_present(&self, device: DeviceKey) -> Option<Epoch> {
        let known = self.presence.values().filter_map(|presence| presence.find(device));
        known.max()
    }

    pub(super) fn knows(&self, device: DeviceKey) -> bool {
        self.find_present(device).is_some()
    }

    /// A session was found to be no more: exactly that one is forgotten.
    pub(super) fn forget_gone(&mut self, now: Now, device: DeviceKey, gone: Epoch, out: &mut Outbox) {
        let gone = match trunkline_wire::planted!(GoneWhichever) {
            true => self.find_present(device).unwrap_or(gone),
            false => gone,
        };
        let regions: Vec<RegionId> = self.presence.keys().copied().collect();
        for region in regions {
            let primary = self.map.region_of(device) == region;
            if primary || self.presence[&region].find(device) == Some(gone) {
                self.take_unregistration(now, region, device, gone, out);
            }
        }
    }

    /// Where this instance sends a message for a device of its region, or for one that it knows.
    pub(super) fn route_as_instance(&mut self, now: Now, forward: &Forward<'_>, region: RegionId, out: &mut Outbox) {
        let device = forward.recipient;
        match self.find_present(device) {
            Some(epoch) => {
                if let Some(origin) = forward.trail.origin()
                    && self.locations_told.is_news(now.at, origin, device, epoch)
                {
                    self.hint(forward, epoch, out);
                    self.watches.watch(device.partner(), origin);
                }
                if self.pass_on(forward, epoch.node, Target::Session { epoch }, out) {
                    if trunkline_wire::planted!(DuplicateForward) {
                        self.pass_on(forward, epoch.node, Target::Session { epoch }, out);
                    }
                    if forward.trail.origin().is_none() {
                        self.counters.forwards_direct += 1;
                    } else {
                        self.counters.forwards_from_region += 1;
                    }
                    return;
                }
                let been_there = forward.trail.nodes().contains(&epoch.node) || epoch.node == self.config.node;
                if been_there {
                    return self.stop(now, forward, Stop::Retry(RetryReason::Hops), out);
                }
                // A sibling may still reach that server.
                self.pass_to_sibling(now, forward, region, RetryReason::NoLink, out);
            }
            None if self.is_behind() => {
                self.counters.retry_behind += 1;
                self.pass_to_sibling(now, forward, region, RetryReason::NotInSync, out);
            }
            None if self.may_say_offline(device) => self.ask_siblings(now, forward, out),
            // Not known here, and not all have been heard. A sibling that has been up for longer may know.
            None => self.pass_to_sibling(now, forward, region, RetryReason::NotInSync, out),
        }
    }

    /// To another instance of the region that the message hasn't passed; without one it is to be tried again, for this `reason`.
    fn pass_to_sibling(
        &mut self,
        now: Now,
        forward: &Forward<'_>,
        region: RegionId,
        reason: RetryReason,
        out: &mut Outbox,
    ) {
        let map = std::sync::Arc::clone(&self.map);
        let target = Target::Region { gone: Epoch::NONE };
        let mut siblings = map.instances(region).iter();
        if !siblings.any(|&sibling| self.pass_on(forward, sibling, target, out)) {
            self.stop(now, forward, Stop::Retry(reason), out);
        }
    }

    /// Whether this instance has heard all connection servers of those of the device's regions that it serves.
    fn may_say_offline(&self, device: DeviceKey) -> bool {
        let mut served = self
            .map
            .regions_of(device)
            .filter(|region| self.served.contains(region));
        served.all(|region| self.sources.in_sync(region))
    }

    /// Before a device is said to be offline, the region's other instances are asked, and those of its second one while it moves.
    fn ask_siblings(&mut self, now: Now, forward: &Forward<'_>, out: &mut Outbox) {
        let device = forward.recipient;
        let mut body = Vec::new();
        if let Some(asked) = self.asked.get_mut(&device) {
            forward.put_body(&mut body);
            if self.asked_bytes + body.len() > LOCATING_BYTES_MAX || asked.messages.len() >= LOCATING_MESSAGES_MAX {
                return self.stop(now, forward, Stop::Busy, out);
            }
            self.asked_bytes += body.len();
            asked.messages.push(body.into());
            return;
        }
        let mut waiting = Vec::new();
        let mut unreachable = false;
        let map = std::sync::Arc::clone(&self.map);
        let asked = map.regions_of(device).flat_map(|region| {
            let instances = map.instances(region).iter();
            instances.map(move |&node| (region, node))
        });
        for (region, node) in asked.filter(|&(_, node)| node != self.config.node) {
            match self.links.get(&node) {
                Some(LinkView::Up { .. }) => waiting.push((region, node)),
                Some(LinkView::Down { since }) if *since + GONE_AFTER <= now.at => unreachable = true,
                Some(LinkView::Down { .. }) | None => {
                    return self.stop(now, forward, Stop::Retry(RetryReason::Unreachable), out);
                }
            }
        }
        if waiting.is_empty() || trunkline_wire::planted!(OfflineUnasked) {
            return self.stop(now, forward, Stop::Offline { unreachable }, out);
        }
        forward.put_body(&mut body);
        if self.asked.len() >= LOCATING_MESSAGES_MAX || self.asked_bytes + body.len() > LOCATING_BYTES_MAX {
            return self.stop(now, forward, Stop::Busy, out);
        }
        for &(region, node) in &waiting {
            self.counters.locates_sent += 1;
            out.link(node, &Locate { region, device });
        }
        self.asked_bytes += body.len();
        let messages = vec![body.into()];
        self.asked.insert(
            device,
            Asked {
                since: now.at,
                waiting,
                doubtful: false,
                unreachable,
                messages,
            },
        );
    }

    /// A sibling asks.
    pub(super) fn locate(&mut self, from: NodeId, question: &Locate, out: &mut Outbox) {
        self.counters.locates_answered += 1;
        let Locate { region, device } = *question;
        let epoch = self
            .presence
            .get(&region)
            .and_then(|presence| presence.find(device))
            .unwrap_or(Epoch::NONE);
        let in_sync = trunkline_wire::planted!(SiblingAlwaysSure)
            || self.served.contains(&region) && self.sources.in_sync(region) && !self.is_behind();
        self.counters.locates_sure += u64::from(in_sync);
        out.link(
            from,
            &Located {
                region,
                device,
                epoch,
                in_sync,
            },
        );
    }

    /// A sibling has answered.
    pub(super) fn located(&mut self, now: Now, from: NodeId, answer: &Located, out: &mut Outbox) {
        let device = answer.device;
        if let Some(epoch) = answer
            .epoch
            .some()
            .filter(|_| !trunkline_wire::planted!(SiblingIgnored))
        {
            let region = if self.presence.contains_key(&answer.region) {
                answer.region
            } else {
                // It was asked of the device's other region.
                self.map.region_of(device)
            };
            self.sources.heard_of(now.at, region, epoch.node);
            let outranked = self.is_told_by(region, epoch.node);
            if !outranked {
                self.take_secondhand(now, region, device, epoch, out);
            }
            let over = self.presence.get(&region).is_some_and(|it| it.is_over(device, epoch));
            if outranked && !over && !self.knows(device) {
                // That server's own word is still on its way here, that the session is or that it isn't any more. It knows itself.
                return self.release(now, device, Onward::Session(epoch), out);
            }
            // The session has ended, and that news is still on its way to the sibling: asking it again would bring the same answer.
        }
        if self.knows(device) {
            return self.release(now, device, Onward::Route, out);
        }
        let Some(asked) = self.asked.get_mut(&device) else {
            return;
        };
        asked.waiting.retain(|&waited| waited != (answer.region, from));
        asked.doubtful |= !answer.in_sync;
        if asked.waiting.is_empty() {
            let stop = if asked.doubtful {
                Stop::Retry(RetryReason::NotInSync)
            } else {
                Stop::Offline {
                    unreachable: asked.unreachable,
                }
            };
            self.release(now, device, Onward::Stop(stop), out);
        }
    }

    /// Whether a server tells this instance of each of its sessions, by the same map: what others say of them is older news then, or
    /// just ahead of the server's own.
    fn is_told_by(&self, region: RegionId, server: NodeId) -> bool {
        server == self.config.node
            || self.sources.is_told_by(region, server) && self.agreed(server) == Some(self.map.id().version)
    }

    /// What waited for the siblings goes on.
    fn release(&mut self, now: Now, device: DeviceKey, onward: Onward, out: &mut Outbox) {
        let Some(asked) = self.asked.remove(&device) else {
            return;
        };
        let waited = now.at.since(asked.since).as_millis() as u32;
        for body in asked.messages {
            self.asked_bytes -= body.len();
            let mut forward = Forward::decode_body(&body).expect("it was encoded here");
            match forward.ttl.ms().checked_sub(waited).and_then(TtlMs::new) {
                Some(left) => forward.ttl = left,
                None if forward.number.confirmed.is_none() => {
                    self.counters.dropped_expired += 1;
                    continue;
                }
                // The node that took it in reports that it has expired.
                None => continue,
            }
            match onward {
                // It may have connected here meanwhile; otherwise the record decides.
                Onward::Route => self.route(now, &forward, out),
                Onward::Session(epoch) => {
                    if !self.pass_on(&forward, epoch.node, Target::Session { epoch }, out) {
                        self.stop(now, &forward, Stop::Retry(RetryReason::NotInSync), out);
                    }
                }
                Onward::Stop(stop) => self.stop(now, &forward, stop, out),
            }
        }
    }

    /// A sibling that was asked can't answer any more.
    pub(super) fn sibling_lost(&mut self, now: Now, node: NodeId, out: &mut Outbox) {
        let concerned: Vec<DeviceKey> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.waiting.iter().any(|&(_, waited)| waited == node))
            .map(|(device, _)| *device)
            .collect();
        for device in concerned {
            self.release(now, device, Onward::Stop(Stop::Retry(RetryReason::Unreachable)), out);
        }
    }

    /// This instance was paused: what it knows may be old. Nobody is believed until all that was sent meanwhile has been read.
    pub(super) fn doubt(&mut self, out: &mut Outbox) {
        if self.presence.is_empty() || trunkline_wire::planted!(NoPauseDoubt) {
            return;
        }
        self.counters.presence_pauses += 1;
        let shard = self.config.shard;
        let pings = &mut self.pings;
        let links = &self.links;
        self.sources.doubt(|node| {
            *pings += 1;
            let token = token::of_router(shard, *pings);
            if matches!(links.get(&node), Some(LinkView::Up { .. })) {
                out.link(node, &Ping { token });
            }
            token
        });
    }

    pub(super) fn validated(&mut self, from: NodeId, token: u64) {
        self.sources.validated(from, token);
    }

    pub(super) fn tick_instance(&mut self, now: Now, out: &mut Outbox) {
        if self.presence.is_empty() {
            return;
        }
        let links = &self.links;
        for (region, node) in self
            .sources
            .gone(now.at, |node| matches!(links.get(&node), Some(LinkView::Up { .. })))
        {
            if let Some(presence) = self.presence.get_mut(&region) {
                self.counters.presence_dropped += presence.drop_unnamed(now.at, node, None) as u64;
            }
        }
        for presence in self.presence.values_mut() {
            presence.tick(now.at);
        }
        let overdue: Vec<DeviceKey> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.since + LOCATE_TIMEOUT <= now.at && !trunkline_wire::planted!(AskForever))
            .map(|(device, _)| *device)
            .collect();
        for device in overdue {
            self.release(now, device, Onward::Stop(Stop::Retry(RetryReason::Unreachable)), out);
        }
    }

    pub(super) fn instance_deadline(&self) -> Instant {
        if self.presence.is_empty() {
            return Instant::NEVER;
        }
        // Questions are timed by this tick as well: their answers come, or their links are lost, long before.
        (self.ticked + INSTANCE_TICK).min(self.sources.deadline(|node| self.ready(node)))
    }
}
