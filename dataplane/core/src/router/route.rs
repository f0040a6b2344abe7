//! Where a message goes next. Runs at the shard that owns the recipient, on every node that the message passes.
//!
//! ```text
//! session here ──▶ deliver
//! meant for a session here that is gone ──▶ the newer session's node, else another instance of the region
//! an instance of the region ──▶ the session's node; offline; or ask the siblings
//! the node that took it in ──▶ the known location if its link is ready, else an instance of the region
//! ```
//! Never back to a node that it has passed; nothing is dialled here.

use trunkline_wire::device::Deliver;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId};
use trunkline_wire::peer::{Forward, Location, Target};
use trunkline_wire::report::{Answer, Outcome, RejectReason, RetryReason, Way};

use super::attach::write;
use super::{Now, REMEMBER_AFTER, Router};
use crate::constants::{DEVICE_QUEUE_BYTES_MAX, UNACKNOWLEDGED_PER_SESSION_MAX};
use crate::outbox::Outbox;
use crate::predictor::Occasion;
use crate::session::{SessionRef, State, Unacknowledged};
use crate::unresolved::MessageId;

/// What becomes of a message that can't go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Later perhaps.
    Retry(RetryReason),
    /// The recipient isn't connected.
    Offline { unreachable: bool },
    /// The recipient's queue is full.
    Busy,
}

pub(super) fn message_id(forward: &Forward<'_>) -> MessageId {
    MessageId {
        sender_key: forward.sender_key,
        instance: forward.instance,
        recipient: forward.recipient,
        number: forward.number.number,
    }
}

impl Router {
    /// Brings a message further: to its device, to another node, or to an answer.
    pub(super) fn route(&mut self, now: Now, forward: &Forward<'_>, out: &mut Outbox) {
        let device = forward.recipient;
        if let Some((session, found)) = self.sessions.of_device(device) {
            match found.state {
                // It is about to be sent elsewhere, and finishes what it has.
                State::Open if found.finishing => {
                    return self.stop(now, forward, Stop::Retry(RetryReason::SessionGone), out);
                }
                State::Open => return self.deliver(now, session, forward, out),
                // In a moment it will be open, here or elsewhere.
                State::Registering { .. } => {
                    return self.stop(now, forward, Stop::Retry(RetryReason::NotInSync), out);
                }
            }
        }
        match forward.target {
            Target::Session { epoch } => self.route_not_here(now, forward, epoch, out),
            Target::Region { gone } => self.route_by_region(now, forward, gone, out),
        }
    }

    /// The session that the message was sent to is no longer here.
    fn route_not_here(&mut self, now: Now, forward: &Forward<'_>, gone: Epoch, out: &mut Outbox) {
        let device = forward.recipient;
        self.counters.forwards_not_here += 1;
        if trunkline_wire::planted!(SwallowNotHere) {
            return;
        }
        let newer = self.superseded.get(&device).copied().filter(|&newer| newer > gone);
        if newer.is_some() || !self.is_away(device, gone) {
            self.hint(forward, newer.unwrap_or(Epoch::NONE), out);
        }
        if let Some(epoch) = newer
            && self.pass_on(forward, epoch.node, Target::Session { epoch }, out)
        {
            return;
        }
        if newer.is_none() && self.is_away(device, gone) {
            return self.stop(now, forward, Stop::Retry(RetryReason::SessionGone), out);
        }
        self.route_by_region(now, forward, gone, out);
    }

    /// No session here, and none was expected here, or it is gone.
    fn route_by_region(&mut self, now: Now, forward: &Forward<'_>, gone: Epoch, out: &mut Outbox) {
        let device = forward.recipient;
        let region = self.map.region_of(device);
        if gone != Epoch::NONE && !self.presence.is_empty() {
            self.forget_gone(now, device, gone, out);
        }
        if self.served.contains(&region) || self.knows(device) {
            return self.route_as_instance(now, forward, region, out);
        }
        if gone == Epoch::NONE {
            match self.locations.find(device) {
                Some(epoch) if self.pass_on(forward, epoch.node, Target::Session { epoch }, out) => {
                    self.counters.forwards_direct += 1;
                    return;
                }
                Some(_) => self.counters.direct_missed_link += 1,
                None => self.counters.direct_missed_location += 1,
            }
        }
        self.route_to_region(now, forward, gone, out);
    }

    /// To an instance of the recipient's region: always the same one while its link lasts, so that order is kept.
    pub(super) fn route_to_region(&mut self, now: Now, forward: &Forward<'_>, gone: Epoch, out: &mut Outbox) {
        let region = self.map.region_of(forward.recipient);
        let count = self.map.instances(region).len();
        let first = preferred_instance(forward.recipient, count);
        for step in 0..count {
            let node = self.map.instances(region)[(first + step) % count];
            if self.pass_on(forward, node, Target::Region { gone }, out) {
                self.counters.forwards_region += 1;
                return;
            }
        }
        self.stop(now, forward, Stop::Retry(RetryReason::NoLink), out);
    }

    /// Sends the message on to `node`, if its link is ready and it hasn't been there. Returns whether it went.
    pub(super) fn pass_on(&mut self, forward: &Forward<'_>, node: NodeId, target: Target, out: &mut Outbox) -> bool {
        let passed = forward.trail.nodes().contains(&node) && !trunkline_wire::planted!(BackWhereItCameFrom);
        if node == self.config.node || passed || !self.ready(node) {
            return false;
        }
        let Some(trail) = forward.trail.then(self.config.node) else {
            return false;
        };
        out.link(
            node,
            &Forward {
                target,
                trail,
                ..*forward
            },
        );
        self.note_passage(forward, node);
        true
    }

    /// Tells the node that took the message in where its recipient is, if a link to it is ready.
    pub(super) fn hint(&mut self, forward: &Forward<'_>, epoch: Epoch, out: &mut Outbox) {
        if let Some(origin) = forward.trail.origin()
            && origin != self.config.node
            && origin != epoch.node
            && self.ready(origin)
        {
            out.link(
                origin,
                &Location {
                    device: forward.recipient,
                    epoch,
                },
            );
        }
    }

    /// A node tells where a device is, or that it is no longer where we thought.
    pub(super) fn learn_location(&mut self, now: Now, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        match epoch.some() {
            None => {
                self.counters.locations_forgotten += 1;
                self.locations.forget(device);
            }
            Some(epoch) if epoch.node == self.config.node => self.locations.forget(device),
            Some(epoch) => {
                self.counters.locations_learnt += 1;
                let before = self.locations.peek(device);
                let epoch = self.locations.learn(device, epoch);
                self.fulfil(now, device, epoch, before, out);
            }
        }
    }

    /// The message ends here, for now or for good.
    pub(super) fn stop(&mut self, now: Now, forward: &Forward<'_>, stop: Stop, out: &mut Outbox) {
        if forward.number.confirmed.is_none() {
            if trunkline_wire::planted!(DropUncounted) {
                return;
            }
            *match stop {
                Stop::Retry(_) => &mut self.counters.dropped_no_way,
                Stop::Offline { .. } => &mut self.counters.dropped_offline,
                Stop::Busy => &mut self.counters.dropped_busy,
            } += 1;
            return;
        }
        let maybe_delivered = false;
        let answer = match stop {
            Stop::Retry(reason) => Answer::Retry {
                reason,
                maybe_delivered,
            },
            Stop::Offline { unreachable } => Answer::Final(Outcome::Offline {
                unreachable,
                maybe_delivered,
            }),
            Stop::Busy => {
                self.counters.rejected_busy += 1;
                Answer::Final(Outcome::Rejected {
                    reason: RejectReason::Busy,
                    maybe_delivered,
                })
            }
        };
        self.reply(now, message_id(forward), &forward.trail, answer, Way::Unknown, out);
    }

    fn deliver(&mut self, now: Now, session: SessionRef, forward: &Forward<'_>, out: &mut Outbox) {
        let way = match (forward.trail.nodes().len(), forward.target) {
            (0, _) => Way::Local,
            (1, Target::Session { .. }) => Way::Direct,
            _ => Way::Region,
        };
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        if device.queued + forward.payload.0.len() > DEVICE_QUEUE_BYTES_MAX && !trunkline_wire::planted!(QueueUnbounded)
        {
            return self.stop(now, forward, Stop::Busy, out);
        }
        let mut delivery = 0;
        if forward.number.confirmed.is_some() {
            let id = message_id(forward);
            if let Some(&open) = self.held.get(&id) {
                // The device has it and will acknowledge it; the answer goes the way that the last copy came.
                self.counters.duplicates_held += 1;
                if let Some(open) = device.open_delivery(open) {
                    open.trail = forward.trail;
                }
                return;
            }
            if device.open_deliveries() >= UNACKNOWLEDGED_PER_SESSION_MAX {
                return self.stop(now, forward, Stop::Busy, out);
            }
            delivery = device.delivery(Unacknowledged {
                sender_key: id.sender_key,
                instance: id.instance,
                number: id.number,
                trail: forward.trail,
                way,
            });
            self.held.insert(id, delivery);
            self.counters.messages_delivered_confirmed += 1;
        }
        device.last_way = Some(way);
        device.last_trail = forward.trail;
        let habits = device.habits.get_or_insert_default();
        let from = forward.sender_key.partner();
        self.predictor
            .delivered(now.unix_seconds(), habits, from, &mut self.foresights);
        let is_untold = !device.told.due;
        let recipient = device.key;
        self.counters.messages_delivered += 1;
        *match way {
            Way::Direct => &mut self.counters.way_direct,
            Way::Region => &mut self.counters.way_region,
            Way::Local | Way::Unknown => &mut self.counters.way_local,
        } += 1;
        let frame = Deliver {
            delivery,
            sender: forward.sender,
            instance: forward.instance,
            number: forward.number,
            payload: forward.payload,
        };
        write(device, session, &mut self.session_timers, now, &frame, out);
        if trunkline_wire::planted!(DeliveredWhenWritten) && delivery > 0 {
            let answer = Answer::Final(Outcome::Delivered { late: false });
            self.reply(now, message_id(forward), &forward.trail, answer, way, out);
        }
        if is_untold {
            self.tell_later(now.at + REMEMBER_AFTER, session);
        }
        let occasion = Occasion::Delivered {
            from: forward.sender_key,
            at: forward.trail.origin(),
        };
        self.foresee(now, recipient, occasion, out);
    }

    /// A device has taken a confirmed message.
    pub(super) fn acknowledge(&mut self, now: Now, session: SessionRef, delivery: u64, late: bool, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        let recipient = device.key;
        let Some(open) = device.acknowledge(delivery) else {
            self.counters.acknowledged_unknown += 1;
            return;
        };
        self.counters.acknowledged += 1;
        let id = MessageId {
            sender_key: open.sender_key,
            instance: open.instance,
            recipient,
            number: open.number,
        };
        self.held.remove(&id);
        self.reply(
            now,
            id,
            &open.trail,
            Answer::Final(Outcome::Delivered { late }),
            open.way,
            out,
        );
    }
}

/// Which of a region's `count` instances a device's messages go to first: spread by key, the same at every node.
pub(super) fn preferred_instance(device: DeviceKey, count: usize) -> usize {
    if count == 0 {
        0
    } else {
        (device.0 >> 32) as u32 as usize % count
    }
}
