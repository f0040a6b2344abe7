//! The life of a device's session: epochs, registration with its region, welcome, superseded, closed.

use std::cmp::Reverse;
use std::time::Duration;

use trunkline_wire::codec::Text;
use trunkline_wire::common::{Failure, Ping, Pong};
use trunkline_wire::device::{ClientFrame, ErrorCode, Hello, Purpose, Superseded, Welcome};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, RegionId};
use trunkline_wire::peer::{Register, Registered, SyncEnd, Unregister};
use trunkline_wire::report::{Answer, RetryReason};

use super::timers::Timer;
use super::{Now, Router, SessionTimers};
use crate::constants::{IDLE_HALVES, SLOW_READER_TIMEOUT, UNRESOLVED_PER_SESSION_MAX, WELCOME_TIMEOUT};
use crate::epoch::EpochClock;
use crate::outbox::{Conn, Outbox};
use crate::predictor::Occasion;
use crate::session::{Found, Opening, Session, SessionRef, State};
use crate::unresolved::MessageId;

/// What is left to do for a session whose life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its region is told.
    Unregister,
    /// Its region learns of it by the registration of a newer session: one here, or one elsewhere, until which this one's record leads
    /// its messages here.
    Replaced,
}

impl Router {
    /// A device has said hello (read, authorised, and handed to this, its own, shard). What is wrong is told by effects.
    pub fn attach(&mut self, now: Now, conn: Conn, version: u8, hello: &Hello<'_>, out: &mut Outbox) -> SessionRef {
        let key = self.config.keys.device_key(hello.device);
        debug_assert!(self.is_own(key), "a device belongs to one shard");
        let presented = EpochClock::believable(now.wall_ms, hello.presented);
        let (epoch, state) = match hello.purpose {
            Purpose::SendOnly => (Epoch::NONE, State::Open),
            Purpose::Full => {
                let before = self
                    .sessions
                    .of_device(key)
                    .map(|(before, session)| (before, session.epoch));
                let above = before.map_or(presented, |(_, epoch)| presented.max(epoch));
                // A session elsewhere that is known is older than this one, which has come just now.
                let above = self.superseded.get(&key).map_or(above, |&known| above.max(known));
                let epoch = self.clock.mint(now.wall_ms, above);
                if let Some((before, _)) = before.filter(|_| !trunkline_wire::planted!(OldSessionStays)) {
                    // The region learns of the new session by its registration.
                    self.supersede(now, before, epoch, out);
                }
                let until = now.at + WELCOME_TIMEOUT;
                (
                    epoch,
                    State::Registering {
                        waiting: Vec::new(),
                        until,
                        raised: false,
                        found: Found::NotYet,
                    },
                )
            }
        };
        let opening = Opening {
            conn,
            key,
            id: hello.device.to_owned(),
            instance: hello.instance,
            version,
            epoch,
            purpose: hello.purpose,
            idle_ms: hello.ping_interval.ms() / 2 * IDLE_HALVES,
            state,
        };
        let idle = now.at + Duration::from_millis(opening.idle_ms.into());
        let session = self.sessions.insert(now.at, opening);
        self.away.remove(&key);
        self.drain_too(now, session);
        self.session_timers.push(Reverse((idle, session, Timer::Idle)));
        match hello.purpose {
            Purpose::SendOnly => self.welcome(now, session, out),
            Purpose::Full => {
                self.session_timers
                    .push(Reverse((now.at + WELCOME_TIMEOUT, session, Timer::Welcome)));
                if trunkline_wire::planted!(WelcomeUnregistered) {
                    self.welcome(now, session, out);
                    return session;
                }
                self.register(now, session, out);
            }
        }
        session
    }

    /// A frame of an attached device. A frame out of turn ends the session by effects.
    pub fn device_frame(&mut self, now: Now, session: SessionRef, frame: &ClientFrame<'_>, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        device.heard = now.at;
        match (&device.state, frame) {
            (State::Open, ClientFrame::Send(send)) => self.send(now, session, send, out),
            (State::Open, ClientFrame::Intend(intent)) => self.intend(now, session, intent.recipient, out),
            (State::Open, ClientFrame::Acknowledge(ack)) => {
                self.acknowledge(now, session, ack.delivery, ack.late, out);
            }
            (State::Open | State::Registering { .. }, ClientFrame::Ping(Ping { token })) => {
                self.tell(now, session, &Pong { token: *token }, out);
            }
            (State::Open | State::Registering { .. }, ClientFrame::Pong(_)) => {}
            (State::Open | State::Registering { .. }, ClientFrame::Failure(_)) => {
                let conn = device.conn;
                self.end(now, session, End::Unregister, out);
                out.close_device(conn);
            }
            // Listed rather than `_`, so that a new frame has to be thought about here.
            (
                State::Registering { .. },
                ClientFrame::Send(_) | ClientFrame::Acknowledge(_) | ClientFrame::Intend(_),
            ) => {
                self.counters.devices_out_of_turn += 1;
                self.device_fault(
                    now,
                    session,
                    ErrorCode::OutOfTurn,
                    "wait for the welcome before you send",
                    out,
                );
            }
            (State::Open | State::Registering { .. }, ClientFrame::Hello(_)) => {
                self.counters.devices_out_of_turn += 1;
                self.device_fault(now, session, ErrorCode::OutOfTurn, "a connection has one hello", out);
            }
        }
    }

    /// Says what is wrong with a device and ends its session, by effects.
    pub fn device_fault(&mut self, now: Now, session: SessionRef, code: ErrorCode, text: &str, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        let conn = device.conn;
        out.device(
            conn,
            &Failure {
                code,
                text: Text::clipped(text),
            },
        );
        self.end(now, session, End::Unregister, out);
        out.close_device(conn);
    }

    /// The kernel took `bytes` of what was sent to this device.
    pub fn device_sent(&mut self, now: Now, session: SessionRef, bytes: usize) {
        if let Some(device) = self.sessions.find(session) {
            device.queued = device.queued.saturating_sub(bytes);
            device.stalled = now.at;
        }
    }

    /// The device's connection is gone (end of stream, reset). From here on, as after `CloseDevice`, the reference is dead: using it
    /// does nothing.
    pub fn device_closed(&mut self, now: Now, session: SessionRef, out: &mut Outbox) {
        self.end(now, session, End::Unregister, out);
    }

    /// Its device comes up elsewhere soon, and its region learns of it there.
    pub(super) fn end_sent_away(&mut self, now: Now, session: SessionRef, out: &mut Outbox) {
        self.end(now, session, End::Replaced, out);
    }

    /// Tells every holder of the device's region that can be reached, and of its second one while it moves. The session is
    /// registering.
    pub(super) fn register(&mut self, now: Now, session: SessionRef, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        let (key, epoch) = (device.key, device.epoch);
        let mut instances: Vec<(RegionId, NodeId)> = Vec::new();
        for region in self.map.regions_of(key) {
            let told =
                |&node: &NodeId| !trunkline_wire::planted!(StandbyUntold) || self.map.instances(region).contains(&node);
            let ready = self.map.holders(region).filter(|&node| self.ready(node)).filter(told);
            instances.extend(ready.map(|node| (region, node)));
        }
        if trunkline_wire::planted!(RegisterAtOne) {
            instances.truncate(1);
        }
        for &(region, node) in &instances {
            out.link(
                node,
                &Register {
                    region,
                    device: key,
                    epoch,
                },
            );
        }
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        if let State::Registering { waiting, .. } = &mut device.state {
            *waiting = instances;
        }
        let here: Vec<RegionId> = self.map.regions_of(key).filter(|r| self.served.contains(r)).collect();
        for region in here {
            let highest = self.take_registration(now, region, self.config.node, key, epoch, out);
            let own = Registered {
                region,
                device: key,
                epoch,
                highest,
            };
            self.registered(now, self.config.node, &own, out);
        }
    }

    /// An instance has answered a registration of a session here.
    pub(super) fn registered(&mut self, now: Now, from: NodeId, answer: &Registered, out: &mut Outbox) {
        let Some((session, device)) = self.sessions.of_device(answer.device) else {
            return;
        };
        if device.epoch != answer.epoch {
            return;
        }
        if trunkline_wire::planted!(RaiseWelcomed) && device.state == State::Open && answer.highest > answer.epoch {
            device.epoch = self.clock.mint(now.wall_ms, answer.highest);
            return self.register(now, session, out);
        }
        match &mut device.state {
            State::Registering { waiting, found, .. } if answer.highest == answer.epoch => {
                waiting.retain(|&waited| waited != (answer.region, from));
                // Standbys, and the instances of a region that the device is about to come to, know it and are not asked.
                let instances = self.map.instances(self.map.region_of(answer.device));
                let alone = *found == Found::Nowhere;
                if instances.contains(&from) || instances.is_empty() {
                    *found = Found::Somewhere;
                }
                if *found == Found::Somewhere && (waiting.is_empty() || alone) {
                    self.welcome(now, session, out);
                }
            }
            State::Registering {
                raised: raised @ false,
                found,
                ..
            } => {
                // Only the first registration of a session that hasn't been welcomed may be raised.
                *raised = true;
                if *found == Found::Somewhere {
                    *found = Found::NotYet;
                }
                self.counters.sessions_raised += 1;
                let above = match trunkline_wire::planted!(RaisedTooLow) {
                    true => device.epoch,
                    false => answer.highest,
                };
                let epoch = self.clock.mint(now.wall_ms, above);
                let before = std::mem::replace(&mut device.epoch, epoch);
                debug_assert!(before < epoch);
                if trunkline_wire::planted!(RaisedUntold) {
                    return self.welcome(now, session, out);
                }
                self.register(now, session, out);
            }
            State::Registering { raised: true, .. } | State::Open => {
                if answer.highest > answer.epoch && !trunkline_wire::planted!(IgnoreHigherEpoch) {
                    self.supersede(now, session, answer.highest, out);
                }
            }
        }
    }

    /// An instance says that a newer session exists.
    pub(super) fn outdated(&mut self, now: Now, device: DeviceKey, epoch: Epoch, highest: Epoch, out: &mut Outbox) {
        let Some((session, own)) = self.sessions.of_device(device) else {
            self.remember_superseded(now, device, highest);
            return self.forget_away(now, device, epoch, out);
        };
        if trunkline_wire::planted!(IgnoreHigherEpoch) {
            return;
        }
        if trunkline_wire::planted!(RaiseWelcomed) {
            return;
        }
        if own.epoch == epoch && highest > epoch {
            self.supersede(now, session, highest, out);
        }
    }

    pub(super) fn welcome(&mut self, now: Now, session: SessionRef, out: &mut Outbox) {
        let node = self.config.node;
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        device.state = State::Open;
        device.heard = now.at;
        let welcome = Welcome {
            version: device.version,
            epoch: device.epoch,
            node,
            idle_ms: device.idle_ms,
            unresolved_max: UNRESOLVED_PER_SESSION_MAX,
        };
        self.counters.sessions_opened += 1;
        let key = device.key;
        if let Some(habits) = &mut device.habits {
            self.predictor
                .attached(now.unix_seconds(), habits, &mut self.foresights);
        }
        self.tell(now, session, &welcome, out);
        self.foresee(now, key, Occasion::Attached, out);
    }

    /// A newer session of the same device exists: this one is told, and ends.
    fn supersede(&mut self, now: Now, session: SessionRef, highest: Epoch, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        let (conn, key) = (device.conn, device.key);
        self.counters.sessions_superseded += 1;
        out.device(conn, &Superseded { epoch: highest });
        let how = if highest.node == self.config.node {
            End::Replaced
        } else {
            self.remember_superseded(now, key, highest);
            // The newer one may end before its server reaches every holder: what this node has said, it takes back itself.
            End::Unregister
        };
        if trunkline_wire::planted!(SupersededLingers) {
            return;
        }
        self.end(now, session, how, out);
        out.close_device(conn);
    }

    fn end(&mut self, now: Now, session: SessionRef, how: End, out: &mut Outbox) {
        let Some(mut ended) = self.sessions.remove(session) else {
            return;
        };
        self.counters.sessions_closed += 1;
        if let Some(habits) = &mut ended.habits {
            self.predictor
                .detached(now.unix_seconds(), habits, &mut self.foresights);
            self.foresee(now, ended.key, Occasion::Detached, out);
        }
        self.tell_last(now, &mut ended, out);
        if ended.purpose == Purpose::Full && how == End::Unregister && !trunkline_wire::planted!(NoUnregister) {
            // By an older map it may be registered elsewhere too.
            let map = std::sync::Arc::clone(&self.map);
            let before = ended.regions_before.iter().copied();
            let before = before.filter(|&region| !map.belongs(ended.key, region));
            for region in map.regions_of(ended.key).chain(before) {
                self.unregister(now, region, ended.key, ended.epoch, out);
            }
            if ended.awaited {
                self.follow(now, ended.key, ended.epoch, out);
            }
        }
        for open in ended.abandon() {
            let id = MessageId {
                sender_key: open.sender_key,
                instance: open.instance,
                recipient: ended.key,
                number: open.number,
            };
            if !trunkline_wire::planted!(HeldForever) {
                self.held.remove(&id);
            }
            self.counters.deliveries_abandoned += 1;
            // It was written to the device, or was about to be: only its acknowledgement would tell.
            let answer = Answer::Retry {
                reason: RetryReason::SessionGone,
                maybe_delivered: !trunkline_wire::planted!(AbandonIsNoCopy),
            };
            self.reply(now, id, &open.trail, answer, open.way, out);
        }
    }

    pub(super) fn unregister(&mut self, now: Now, region: RegionId, device: DeviceKey, epoch: Epoch, out: &mut Outbox) {
        for node in self.map.holders(region) {
            if self.ready(node) {
                out.link(node, &Unregister { region, device, epoch });
            }
        }
        self.take_unregistration(now, region, device, epoch, out);
    }

    /// Streams all sessions of `region` to its instance `node`.
    pub(super) fn stream_sessions(&mut self, node: NodeId, region: RegionId, sync: u64, out: &mut Outbox) {
        self.counters.syncs_sent += 1;
        for reference in self.sessions.refs() {
            let Some(session) = self.sessions.find(reference) else {
                continue;
            };
            let belongs = self.map.belongs(session.key, region) || session.regions_before.contains(&region);
            let left_out = trunkline_wire::planted!(StreamWithoutNew) && session.state != State::Open;
            if session.purpose != Purpose::Full || !belongs || left_out {
                continue;
            }
            if let State::Registering { waiting, .. } = &mut session.state
                && !waiting.contains(&(region, node))
            {
                waiting.push((region, node));
            }
            out.link(
                node,
                &Register {
                    region,
                    device: session.key,
                    epoch: session.epoch,
                },
            );
        }
        // Those that were sent elsewhere are still found here, until they come up there.
        let mut away: Vec<(DeviceKey, Epoch)> = self.away.iter().map(|(key, epoch)| (*key, *epoch)).collect();
        away.retain(|(device, _)| self.map.region_of(*device) == region);
        away.sort_unstable();
        for (device, epoch) in away {
            out.link(node, &Register { region, device, epoch });
        }
        out.link(
            node,
            &SyncEnd {
                region,
                sync,
                shards: self.config.shards,
            },
        );
    }

    /// An instance whose answer was awaited can't give it any more.
    pub(super) fn instance_unreachable(&mut self, now: Now, node: NodeId, out: &mut Outbox) {
        for reference in self.sessions.refs() {
            let Some(session) = self.sessions.find(reference) else {
                continue;
            };
            if let State::Registering { waiting, found, .. } = &mut session.state {
                let before = waiting.len();
                waiting.retain(|&(_, waited)| waited != node);
                if before > 0 && waiting.is_empty() && *found == Found::Somewhere {
                    self.welcome(now, reference, out);
                }
            }
        }
    }

    /// Sends a frame to a device, and counts its bytes until the kernel takes them.
    pub(super) fn tell(&mut self, now: Now, session: SessionRef, frame: &impl Encode, out: &mut Outbox) {
        let Some(device) = self.sessions.find(session) else {
            return;
        };
        write(device, session, &mut self.session_timers, now, frame, out);
    }
}

/// Sends a frame to a device whose session was looked up already, and watches that it is read.
pub(super) fn write(
    device: &mut Session,
    session: SessionRef,
    timers: &mut SessionTimers,
    now: Now,
    frame: &impl Encode,
    out: &mut Outbox,
) {
    let bytes = out.device(device.conn, frame);
    if device.queued == 0 {
        device.stalled = now.at;
    }
    device.queued += bytes;
    if !device.slow_watched || trunkline_wire::planted!(TimersPile) {
        device.slow_watched = true;
        timers.push(Reverse((now.at + SLOW_READER_TIMEOUT, session, Timer::Slow)));
    }
}
