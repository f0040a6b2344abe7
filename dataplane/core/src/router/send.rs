//! What becomes of a message that a device of this node sends: its retries, and its one report.

use trunkline_wire::codec::Tail;
use trunkline_wire::device::{ErrorCode, PAYLOAD_BYTES_MAX, Report, Send};
use trunkline_wire::id::{DeviceKey, Epoch, NodeId};
use trunkline_wire::peer::{Forward, Reply, Target};
use trunkline_wire::report::{Answer, Outcome, RejectReason, RetryReason, Trail, Way};
use trunkline_wire::time::Instant;

use super::{Now, REMEMBER_AFTER, Router};
use crate::constants::{UNRESOLVED_BYTES_MAX, UNRESOLVED_PER_SESSION_MAX};
use crate::outbox::Outbox;
use crate::predictor::Occasion;
use crate::session::SessionRef;
use crate::unresolved::{self, Acquaintance, Due, End, MessageId, Turn};

/// How long a retry waits that found the budget spent.
const POSTPONED: std::time::Duration = std::time::Duration::from_millis(100);

impl Router {
    /// A device sends a message.
    pub(super) fn send(&mut self, now: Now, session: SessionRef, send: &Send<'_>, out: &mut Outbox) {
        if send.payload.0.len() > PAYLOAD_BYTES_MAX {
            self.counters.rejected_too_large += 1;
            return self.device_fault(
                now,
                session,
                ErrorCode::TooLong,
                "a payload has at most 65536 bytes",
                out,
            );
        }
        let recipient = self.config.keys.device_key(send.recipient);
        let is_confirmed = send.number.confirmed.is_some();
        if is_confirmed && !self.admit(now, session, recipient, send, out) {
            return;
        }
        let Some(sender) = self.sessions.find(session) else {
            return;
        };
        // Its name is lent while the tables change, rather than copied for each message.
        let Some(name) = sender.id.take() else {
            return;
        };
        let sender_key = sender.key;
        let forward = Forward {
            recipient,
            target: Target::Region { gone: Epoch::NONE },
            trail: Trail::default(),
            sender_key,
            sender: name.borrow(),
            instance: sender.instance,
            number: send.number,
            ttl: send.ttl,
            payload: Tail(send.payload.0),
        };
        let acquaintance = match sender.answered {
            true => Acquaintance::Known,
            false => Acquaintance::New,
        };
        let habits = sender.habits.get_or_insert_default();
        self.predictor
            .sent(now.unix_seconds(), habits, recipient.partner(), &mut self.foresights);
        if !sender.told.due {
            self.tell_later(now.at + REMEMBER_AFTER, session);
        }
        self.counters.messages_in += 1;
        let mut turn = Turn::Now;
        if is_confirmed {
            let way = self.way_to(recipient);
            turn = self
                .unresolved
                .insert(now.at, session, &forward, send.recipient, way, acquaintance);
        }
        match turn {
            Turn::Now => self.dispatch(now, &forward, out),
            Turn::Later => self.counters.messages_held_back += 1,
        }
        let to = recipient.partner();
        self.foresee(now, sender_key, Occasion::Sent { to }, out);
        if let Some(sender) = self.sessions.find(session) {
            sender.id = Some(name);
        }
    }

    /// Whether a confirmed message begins here, and is counted: not if it is on its way already, nor if there is no room for it, which
    /// its sender is told.
    fn admit(
        &mut self,
        now: Now,
        session: SessionRef,
        recipient: DeviceKey,
        send: &Send<'_>,
        out: &mut Outbox,
    ) -> bool {
        let Some(sender) = self.sessions.find(session) else {
            return false;
        };
        let id = MessageId {
            sender_key: sender.key,
            instance: sender.instance,
            recipient,
            number: send.number.number,
        };
        if let Some(known) = self.unresolved.find(&id) {
            // The device was here before, or asks twice: it is on its way already, and this session will be told.
            self.counters.messages_resent += 1;
            if known.session != Some(session) {
                known.session = Some(session);
                sender.unresolved += 1;
            }
            return false;
        }
        if sender.unresolved >= UNRESOLVED_PER_SESSION_MAX
            || self.unresolved.bytes() + send.payload.0.len() > UNRESOLVED_BYTES_MAX
        {
            self.counters.rejected_busy += 1;
            self.counters.messages_refused += 1;
            self.counters.reports_rejected += 1;
            let report = Report {
                recipient: send.recipient,
                number: id.number,
                outcome: Outcome::Rejected {
                    reason: RejectReason::Busy,
                    maybe_delivered: false,
                },
                way: Way::Unknown,
            };
            self.tell(now, session, &report, out);
            return false;
        }
        sender.unresolved += 1;
        self.counters.messages_in_confirmed += 1;
        self.retry_budget.earn();
        true
    }

    /// Whether a message to `recipient` can leave this node, or needn't: by way of its region.
    fn way_to(&self, recipient: DeviceKey) -> unresolved::Way {
        let instances = self.map.instances(self.map.region_of(recipient));
        let leads_on = |&node: &NodeId| node == self.config.node || self.ready(node);
        match instances.iter().any(leads_on) {
            true => unresolved::Way::Open,
            false => unresolved::Way::None,
        }
    }

    /// Gives a message of this node to the shard that owns its recipient.
    fn dispatch(&mut self, now: Now, forward: &Forward<'_>, out: &mut Outbox) {
        let owner = self.owner(forward.recipient);
        if owner == self.config.shard {
            self.route(now, forward, out);
        } else {
            out.shard(owner, self.config.node, forward);
        }
    }

    /// A node answers about a message that was taken in at this shard; `left` says whether it is another node than this one.
    fn resolve(&mut self, now: Now, id: MessageId, answer: Answer, way: Way, left: bool, out: &mut Outbox) {
        match answer {
            Answer::Final(outcome) => match self.unresolved.remove(&id, end_of(outcome)) {
                None => self.counters.replies_late += 1,
                Some(message) => {
                    let outcome =
                        outcome.or_maybe(message.maybe_delivered && !trunkline_wire::planted!(ForgetMaybeDelivered));
                    self.report(now, message.session, &message, outcome, way, out);
                }
            },
            Answer::Retry {
                reason: _,
                maybe_delivered,
            } => {
                let jitter = self.jitter();
                self.unresolved.answered(now.at, &id, maybe_delivered, left, jitter);
            }
        }
    }

    fn report(
        &mut self,
        now: Now,
        session: Option<SessionRef>,
        message: &crate::unresolved::Unresolved,
        outcome: Outcome,
        way: Way,
        out: &mut Outbox,
    ) {
        match outcome {
            Outcome::Delivered { .. } => self.counters.reports_delivered += 1,
            Outcome::Offline { .. } => self.counters.reports_offline += 1,
            Outcome::Expired { .. } => self.counters.reports_expired += 1,
            Outcome::Rejected { .. } => self.counters.reports_rejected += 1,
        }
        let Some(sender) = session.and_then(|session| self.sessions.find(session)) else {
            self.counters.reports_unclaimed += 1;
            return;
        };
        sender.unresolved = match trunkline_wire::planted!(UnresolvedMiscounted) {
            true => sender.unresolved,
            false => sender.unresolved.saturating_sub(1),
        };
        sender.answered |= end_of(outcome) == End::Answered;
        let report = Report {
            recipient: message.recipient(),
            number: message.id.number,
            outcome,
            way,
        };
        let session = session.expect("it was found");
        self.tell(now, session, &report, out);
    }

    pub(super) fn tick_unresolved(&mut self, now: Now, out: &mut Outbox) {
        while let Some(due) = self.unresolved.due(now.at) {
            match due {
                Due::Expired(_) if trunkline_wire::planted!(ExpireSilently) => {}
                Due::Expired(message) => {
                    let outcome = Outcome::Expired {
                        maybe_delivered: message.maybe_delivered && !trunkline_wire::planted!(ForgetMaybeDelivered),
                    };
                    self.report(now, message.session, &message, outcome, Way::Unknown, out);
                }
                Due::Retry(place) if trunkline_wire::planted!(NeverRetry) => {
                    self.unresolved.postpone(Instant::NEVER, place)
                }
                Due::Retry(place) => {
                    let Some(message) = self.unresolved.at(place) else {
                        continue;
                    };
                    // What never left burdens nobody. What left once may leave again, also without a link to its region: straight
                    // to the recipient's server.
                    let (way, free) = (self.way_to(message.id.recipient), !message.has_left());
                    if !free && !trunkline_wire::planted!(RetryUnbounded) && !self.retry_budget.take(now.at) {
                        self.counters.retries_delayed += 1;
                        self.unresolved.postpone(now.at + POSTPONED, place);
                        continue;
                    }
                    let Some(forward) = message.forward(now.at) else {
                        // Less than a millisecond is left: it expires in the next turn.
                        let expires = message.expires;
                        self.unresolved.postpone(expires, place);
                        continue;
                    };
                    *match free {
                        true => &mut self.counters.retries_free,
                        false => &mut self.counters.retries,
                    } += 1;
                    // The message may end while it is routed, so that the frame is written first.
                    let mut frame = Vec::new();
                    trunkline_wire::frame::Encode::put_body(&forward, &mut frame);
                    self.unresolved.retried(now.at, place, way);
                    let forward = Forward::decode_body(&frame).expect("it was encoded here");
                    self.dispatch(now, &forward, out);
                }
            }
        }
    }

    /// Answers about a message, to the node that took it in. A fire-and-forget message needs none: call this for confirmed ones.
    ///
    /// Uses links that exist: straight to that node, else back through the one that forwarded. Nothing is dialled for an answer.
    pub(super) fn reply(&mut self, now: Now, id: MessageId, trail: &Trail, answer: Answer, way: Way, out: &mut Outbox) {
        if let Answer::Retry { reason, .. } = answer {
            *match reason {
                RetryReason::NotInSync => &mut self.counters.retry_not_in_sync,
                RetryReason::NoLink => &mut self.counters.retry_no_link,
                RetryReason::Unreachable => &mut self.counters.retry_unreachable,
                RetryReason::Hops => &mut self.counters.retry_hops,
                RetryReason::SessionGone => &mut self.counters.retry_session_gone,
                RetryReason::Busy => &mut self.counters.retry_busy,
                RetryReason::WrongRegion => &mut self.counters.retry_wrong_region,
            } += 1;
        }
        let MessageId {
            sender_key,
            instance,
            recipient,
            number,
        } = id;
        let reply = Reply {
            sender_key,
            instance,
            recipient,
            number,
            answer,
            way,
            back: *trail,
        };
        self.send_reply(now, reply, out);
    }

    /// Brings a reply closer to the node that took the message in. The trail's last node is the next one, or this one's predecessor.
    pub(super) fn send_reply(&mut self, now: Now, mut reply: Reply, out: &mut Outbox) {
        let own = self.config.node;
        let id = MessageId {
            sender_key: reply.sender_key,
            instance: reply.instance,
            recipient: reply.recipient,
            number: reply.number,
        };
        match reply.back.origin() {
            None => self.resolve_at_owner(now, id, reply, out),
            // The trail stays, for the shard that waits: by it, it knows that a copy had left.
            Some(origin) if origin == own => self.resolve_at_owner(now, id, reply, out),
            Some(_)
                if trunkline_wire::planted!(ReplyToWrongNode)
                    && reply.back.last().is_some_and(|last| self.ready(last)) =>
            {
                let last = reply.back.last().expect("it was just seen");
                reply.back = Trail::default().then(last).expect("one node fits");
                out.link(last, &reply);
            }
            Some(origin) if trunkline_wire::planted!(ReplyOneHop) && reply.back.last() != Some(origin) => {
                self.counters.replies_dropped += 1;
            }
            Some(origin) if self.ready(origin) => {
                reply.back = Trail::default().then(origin).expect("one node fits");
                out.link(origin, &reply);
            }
            Some(_) => {
                while reply.back.last() == Some(own) {
                    reply.back = reply.back.back();
                }
                match reply.back.last() {
                    Some(last) if self.ready(last) => out.link(last, &reply),
                    // Its sender's node asks again, and gets another answer.
                    _ => self.counters.replies_dropped += 1,
                }
            }
        }
    }

    fn resolve_at_owner(&mut self, now: Now, id: MessageId, reply: Reply, out: &mut Outbox) {
        let owner = self.owner(id.sender_key);
        if owner == self.config.shard {
            let left = reply.back.origin().is_some();
            self.resolve(now, id, reply.answer, reply.way, left, out);
        } else {
            out.shard(owner, self.config.node, &reply);
        }
    }
}

/// What an outcome says of other messages to its recipient.
fn end_of(outcome: Outcome) -> End {
    match outcome {
        Outcome::Delivered { .. } | Outcome::Offline { .. } => End::Answered,
        Outcome::Expired { .. } | Outcome::Rejected { .. } => End::Failed,
    }
}
