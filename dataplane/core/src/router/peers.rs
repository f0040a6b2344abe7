//! Which shard a frame from a link is for, and what it says to it; links that come and go; newer maps.

use std::sync::Arc;

use trunkline_wire::codec::DecodeError;
use trunkline_wire::common::Pong;
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, NodeId, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::peer::{Forward, PeerFrame, Register};
use trunkline_wire::preface::VERSION_MAX;

use super::moves::Word;
use super::{LinkView, Now, Router};
use crate::link::{Origin, token};
use crate::outbox::{Outbox, ShardEvent};

/// Which shards a frame concerns.
enum Concern {
    Device(DeviceKey),
    Shard(ShardId),
    All,
    /// The owner of the link itself.
    Here,
}

impl Router {
    /// A frame from a link, at the shard that owns that link. On one that has been replaced, what registrations say no longer counts.
    ///
    /// # Errors
    /// If the body isn't such a frame, or the frame has no place on a link that is up: close the link.
    pub fn link_frame(
        &mut self,
        now: Now,
        origin: Origin,
        ty: u8,
        body: &[u8],
        out: &mut Outbox,
    ) -> Result<(), DecodeError> {
        let Origin {
            node: from,
            current,
            version,
        } = origin;
        // Most frames are these. Apart from the others, whose largest is four times as large, so that they aren't moved with them.
        if ty == Forward::TYPE {
            let forward = Forward::decode_body_of(version, body)?;
            if self.is_own(forward.recipient) {
                self.route(now, &forward, out);
            } else {
                out.shard_raw(self.owner(forward.recipient), from, header(ty, body), body);
            }
            return Ok(());
        }
        let Some(frame) = PeerFrame::decode(version, ty, body)? else {
            return Ok(());
        };
        let concern = match &frame {
            PeerFrame::Forward(f) => Concern::Device(f.recipient),
            PeerFrame::Reply(f) if f.back.origin().is_none_or(|origin| origin == self.config.node) => {
                Concern::Device(f.sender_key)
            }
            PeerFrame::Reply(_) => Concern::Here,
            PeerFrame::Location(f) => Concern::Device(f.device),
            PeerFrame::WhereIs(f) => Concern::Shard(f.device.shard(self.config.shards)),
            PeerFrame::Remember(f) => Concern::Device(f.device),
            PeerFrame::Recall(f) => Concern::Device(f.device),
            PeerFrame::Register(_)
            | PeerFrame::Registered(_)
            | PeerFrame::Unregister(_)
            | PeerFrame::SyncBegin(_)
            | PeerFrame::SyncEnd(_)
            | PeerFrame::Synced(_)
            | PeerFrame::MapVersion(_)
            | PeerFrame::MapTaken(_)
            | PeerFrame::Relay(_)
                if !current =>
            {
                self.counters.frames_stale_link += 1;
                return Ok(());
            }
            PeerFrame::Register(f) => Concern::Device(f.device),
            PeerFrame::Registered(f) => Concern::Device(f.device),
            PeerFrame::Unregister(f) => Concern::Device(f.device),
            PeerFrame::Outdated(f) => Concern::Device(f.device),
            PeerFrame::Locate(f) => Concern::Device(f.device),
            PeerFrame::Located(_) if trunkline_wire::planted!(AnswerAtWrongShard) => Concern::Here,
            PeerFrame::Located(f) => Concern::Device(f.device),
            PeerFrame::Relay(f) => Concern::Device(f.device),
            PeerFrame::SyncEnd(_) if trunkline_wire::planted!(StreamEndsAtOneShard) => Concern::Here,
            PeerFrame::SyncBegin(_) | PeerFrame::SyncEnd(_) | PeerFrame::MapVersion(_) => Concern::All,
            PeerFrame::Synced(_) | PeerFrame::MapTaken(_) => Concern::Here,
            PeerFrame::Pong(Pong { token }) if token::shard(*token).0 < self.config.shards => {
                Concern::Shard(token::shard(*token))
            }
            PeerFrame::Pong(_) | PeerFrame::Ping(_) | PeerFrame::Failure(_) => Concern::Here,
            PeerFrame::LinkHello(_)
            | PeerFrame::LinkChallenge(_)
            | PeerFrame::LinkProof(_)
            | PeerFrame::LinkReady(_)
            | PeerFrame::LinkClose(_)
            | PeerFrame::LinkClosed(_) => return Err(DecodeError::UnknownType(ty)),
            // The link's book reads these.
            #[cfg(feature = "next-version")]
            PeerFrame::Build(_) => return Err(DecodeError::UnknownType(ty)),
        };
        let own = self.config.shard;
        let header = header(ty, body);
        match concern {
            Concern::Device(device) if !self.is_own(device) => {
                out.shard_raw(self.owner(device), from, header, body);
            }
            Concern::Shard(shard) if shard != own => out.shard_raw(shard, from, header, body),
            Concern::All => {
                for shard in (0..self.config.shards).map(ShardId).filter(|&shard| shard != own) {
                    out.shard_raw(shard, from, header, body);
                }
                self.peer_frame(now, from, &frame, out);
            }
            Concern::Device(_) | Concern::Shard(_) | Concern::Here => self.peer_frame(now, from, &frame, out),
        }
        Ok(())
    }

    /// A frame handed over by another shard of this node. It is as it came on the link, and the link's version is not handed over: what
    /// is for another shard has one form in all versions that have it.
    ///
    /// # Panics
    /// If it can't be read: the shard that hands it over has read it.
    pub fn shard_frame(&mut self, now: Now, from: NodeId, ty: u8, body: &[u8], out: &mut Outbox) {
        if ty == Forward::TYPE {
            let forward = Forward::decode_body(body).expect("the shard that owns the link has read it");
            return self.route(now, &forward, out);
        }
        let frame = PeerFrame::decode(VERSION_MAX, ty, body).expect("the shard that owns the link has read it");
        if let Some(frame) = frame {
            self.peer_frame(now, from, &frame, out);
        }
    }

    fn peer_frame(&mut self, now: Now, from: NodeId, frame: &PeerFrame<'_>, out: &mut Outbox) {
        match frame {
            PeerFrame::Forward(forward) => self.route(now, forward, out),
            PeerFrame::Reply(reply) => {
                if reply.back.origin().is_some_and(|origin| origin != self.config.node) {
                    self.counters.replies_relayed += 1;
                }
                self.send_reply(now, *reply, out);
            }
            PeerFrame::Location(hint) => self.learn_location(now, hint.device, hint.epoch, out),
            PeerFrame::WhereIs(question) => self.where_is(from, question.device, out),
            PeerFrame::Remember(told) => self.take_affinity(now, from, told, out),
            PeerFrame::Recall(recall) => self.recalled(now, recall, out),
            PeerFrame::Register(Register { region, device, epoch }) => {
                self.register_at(now, from, *region, *device, *epoch, out);
            }
            PeerFrame::Registered(answer) => self.registered(now, from, answer, out),
            PeerFrame::Unregister(end) if end.epoch.node == from => {
                self.take_unregistration(now, end.region, end.device, end.epoch, out);
                let word = Word {
                    epoch: end.epoch,
                    ended: true,
                };
                self.relay(now, from, end.region, end.device, word, out);
            }
            PeerFrame::Unregister(_) => self.counters.presence_stale += 1,
            PeerFrame::Outdated(news) => self.outdated(now, news.device, news.epoch, news.highest, out),
            PeerFrame::SyncBegin(begin) => self.sync_begin(from, begin.region, begin.sync),
            PeerFrame::SyncEnd(end) => self.sync_end(now, from, end, out),
            PeerFrame::Locate(question) => self.locate(from, question, out),
            PeerFrame::Located(answer) => self.located(now, from, answer, out),
            PeerFrame::Pong(Pong { token }) => self.validated(from, *token),
            PeerFrame::MapVersion(news) => self.version_announced(now, from, news, out),
            PeerFrame::Relay(relay) => self.take_relay(now, from, relay, out),
            // The link's book has read these.
            PeerFrame::Synced(_) | PeerFrame::MapTaken(_) | PeerFrame::Ping(_) | PeerFrame::Failure(_) => {}
            PeerFrame::LinkHello(_)
            | PeerFrame::LinkChallenge(_)
            | PeerFrame::LinkProof(_)
            | PeerFrame::LinkReady(_)
            | PeerFrame::LinkClose(_)
            | PeerFrame::LinkClosed(_) => {}
            #[cfg(feature = "next-version")]
            PeerFrame::Build(_) => {}
        }
    }

    /// News from another shard, or from this one itself.
    pub fn event(&mut self, now: Now, event: ShardEvent, out: &mut Outbox) {
        match event {
            ShardEvent::LinkUp { node, serial } => {
                self.links.insert(node, LinkView::Up { serial });
                // What was announced was on the link before.
                self.version_forgotten(node);
                self.locations_told.forget(node);
                self.relay_to(now, node, out);
                self.hand_over_again(node);
            }
            ShardEvent::LinkDown { node, serial } => {
                if let Some(LinkView::Up { serial: current }) = self.links.get(&node)
                    && *current != serial
                {
                    return;
                }
                self.links.insert(node, LinkView::Down { since: now.at });
                self.version_forgotten(node);
                self.sources.lost(now.at, node);
                self.syncs_waiting.retain(|(_, waiting, _, _)| *waiting != node);
                self.sibling_lost(now, node, out);
                if !trunkline_wire::planted!(PassagesUnanswered) {
                    self.answer_passages(now, node, out);
                }
                self.instance_unreachable(now, node, out);
            }
            ShardEvent::SyncStart {
                node,
                region,
                sync,
                map_version,
            } => {
                if self.map.id().version < map_version {
                    self.syncs_waiting.push((map_version, node, region, sync));
                } else {
                    self.stream_sessions(node, region, sync, out);
                    self.tell_again(now, region);
                }
            }
            // The link's book counts these.
            ShardEvent::SyncTaken { .. }
            | ShardEvent::MapApplying { .. }
            | ShardEvent::MapApplied { .. }
            | ShardEvent::VersionTaken { .. } => {}
        }
    }

    /// A newer map.
    pub fn apply_map(&mut self, now: Now, map: Arc<Map>, out: &mut Outbox) {
        if map.id().version <= self.map.id().version && map.id().lineage == self.map.id().lineage {
            return;
        }
        self.counters.maps_applied += 1;
        let before = std::mem::replace(&mut self.map, Arc::clone(&map));
        self.serve_regions(now);
        self.reassign(now, &before, out);
        let own = self.config.node;
        let left = |(region, _)| before.holds(region, own) && !map.holds(region, own);
        if !map.assigns_as(&before) || before.regions().any(left) || self.is_ahead() {
            self.hand_over(before);
        }
        let version = map.id().version;
        for (needed, node, region, sync) in std::mem::take(&mut self.syncs_waiting) {
            if needed <= version {
                self.stream_sessions(node, region, sync, out);
                self.tell_again(now, region);
            } else {
                self.syncs_waiting.push((needed, node, region, sync));
            }
        }
    }
}

/// The header that `body` came with.
fn header(ty: u8, body: &[u8]) -> [u8; HEADER_BYTES] {
    let length = body.len() as u32;
    Header { ty, length }.encode()
}
