//! What is due for sessions: the welcome at the latest, the close of those that are not heard or do not read.

use std::cmp::Reverse;
use std::time::Duration;

use trunkline_wire::device::ErrorCode;
use trunkline_wire::time::Instant;

use super::{Now, Router};
use crate::constants::{PAUSE_MAX, SLOW_READER_TIMEOUT, WELCOME_ALONE};
use crate::outbox::Outbox;
use crate::session::{Found, SessionRef, State};

/// What a session's timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// It is welcomed at the latest.
    Welcome,
    /// It was not heard.
    Idle,
    /// It has bytes waiting and takes none. At most one entry a session.
    Slow,
    /// Its region is told whom it has to do with. At most one entry a session.
    Remember,
}

impl Router {
    /// This process was paused, and is late: the devices' silence was its own. What they have sent meanwhile is about to be read, and
    /// has this much time.
    pub(super) fn forgive(&mut self, now: Now) {
        let until = now.at + PAUSE_MAX;
        let before = |span: Duration| Instant::from_micros(until.micros().saturating_sub(span.as_micros() as u64));
        for reference in self.sessions.refs() {
            if let Some(session) = self.sessions.find(reference) {
                let idle = Duration::from_millis(session.idle_ms.into());
                session.heard = session.heard.max(before(idle));
                session.stalled = session.stalled.max(before(SLOW_READER_TIMEOUT));
            }
        }
    }

    /// No instance of a device's region has answered. Whoever is welcomed now, at a server that is just being cut off or has not its links
    /// yet, is called offline by those who don't know of the cut.
    fn wait_alone(&mut self, now: Now, reference: SessionRef) {
        if let Some(session) = self.sessions.find(reference)
            && let State::Registering { until, found, .. } = &mut session.state
        {
            *found = Found::Nowhere;
            *until = now.at + WELCOME_ALONE;
            self.session_timers.push(Reverse((*until, reference, Timer::Welcome)));
        }
    }

    pub(super) fn tick_sessions(&mut self, now: Now, out: &mut Outbox) {
        while let Some(&Reverse((at, reference, timer))) = self.session_timers.peek() {
            if at > now.at {
                break;
            }
            self.session_timers.pop();
            let Some(session) = self.sessions.find(reference) else {
                continue;
            };
            match (timer, &session.state) {
                (Timer::Welcome, State::Open) => {}
                (Timer::Welcome, State::Registering { .. }) if trunkline_wire::planted!(NoWelcomeTimeout) => {}
                (Timer::Idle, _) if trunkline_wire::planted!(IdleNeverClosed) => {}
                (
                    Timer::Welcome,
                    State::Registering {
                        found: Found::NotYet, ..
                    },
                ) if self.map.has_instances(session.key) => self.wait_alone(now, reference),
                (Timer::Welcome, State::Registering { waiting, found, .. }) => {
                    self.counters.welcomes_alone += u64::from(*found == Found::Nowhere);
                    if !waiting.is_empty() {
                        self.counters.welcomes_late += 1;
                    }
                    self.welcome(now, reference, out);
                }
                (Timer::Idle, State::Open | State::Registering { .. }) => {
                    let due = session.heard + Duration::from_millis(session.idle_ms.into());
                    if due > now.at {
                        self.session_timers.push(Reverse((due, reference, Timer::Idle)));
                        continue;
                    }
                    self.counters.devices_idle_closed += 1;
                    let text = "nothing was heard in time; ping more often";
                    self.device_fault(now, reference, ErrorCode::IdleTimeout, text, out);
                }
                (Timer::Remember, State::Open | State::Registering { .. }) => self.tell_region(now, reference, out),
                (Timer::Slow, State::Open | State::Registering { .. }) => {
                    if session.queued == 0 {
                        session.slow_watched = false;
                        continue;
                    }
                    let due = session.stalled + SLOW_READER_TIMEOUT;
                    if due > now.at {
                        self.session_timers.push(Reverse((due, reference, Timer::Slow)));
                        continue;
                    }
                    self.counters.devices_slow_closed += 1;
                    self.device_fault(now, reference, ErrorCode::SlowReader, "the device does not read", out);
                }
            }
        }
    }
}
