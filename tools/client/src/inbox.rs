//! What the client's thread and its user share: the events that wait to be taken.
//!
//! Messages and other events wait in two queues, because a user may take one kind and leave the other; the order over both is
//! kept by counting.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::backlog::Backlog;
use crate::event::{Event, Loss, Message, MessageId, Report, StopReason, Welcomed};
use crate::session::Intake;

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<(u64, Message)>,
    others: VecDeque<(u64, Event)>,
    /// Events so far.
    count: u64,
    backlog: Backlog,
    /// Messages whose report somebody waits for, and the report once it is there.
    awaited: BTreeMap<MessageId, Option<Report>>,
    standing: Standing,
    /// The thread has seen a backlog that stops something, and waits to hear that it has changed.
    starved: bool,
}

/// How the device stands, by the events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not let in yet, or not any more; why the last connection ended.
    #[default]
    Apart,
    Lost(Loss),
    Welcomed(Welcomed),
    Stopped(StopReason),
    /// The thread is gone.
    Ended,
}

/// Whether somebody waits for a message's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaiting {
    Report,
    Nothing,
}

impl Inbox {
    /// What waits here. If it stops something, [`Inbox::starved`] will be true from now on.
    pub(crate) fn backlog(&self) -> Backlog {
        let mut state = self.lock();
        state.starved = state.backlog.intake() == Intake::Full || state.backlog.refuses_sends();
        state.backlog
    }

    pub(crate) fn put(&self, event: Event) {
        let mut state = self.lock();
        match &event {
            Event::Welcomed(welcomed) => state.standing = Standing::Welcomed(*welcomed),
            Event::Disconnected { reason, .. } => state.standing = Standing::Lost(reason.clone()),
            Event::Stopped { reason } => state.standing = Standing::Stopped(reason.clone()),
            Event::Report(report) => {
                if let Some(awaited) = state.awaited.get_mut(&report.id) {
                    *awaited = Some(report.clone());
                    return self.changed.notify_all();
                }
            }
            Event::Message(_) => {}
        }
        if !state.backlog.refuses(&event) {
            state.backlog.add(&event);
            state.push(event);
        }
        self.changed.notify_all();
    }

    /// From now on the message's report is kept for [`Inbox::wait_report`].
    pub(crate) fn await_report(&self, id: &MessageId) {
        self.lock().awaited.insert(id.clone(), None);
    }

    /// The thread is gone: nothing more will come.
    pub(crate) fn end(&self) {
        self.lock().standing = Standing::Ended;
        self.changed.notify_all();
    }

    /// `None` if the thread has ended before the report came.
    pub(crate) fn wait_report(&self, id: &MessageId) -> Option<Report> {
        let mut state = self.lock();
        loop {
            if let Some(Some(report)) = state.awaited.get(id) {
                let report = report.clone();
                state.awaited.remove(id);
                return Some(report);
            }
            if state.standing == Standing::Ended {
                state.awaited.remove(id);
                return None;
            }
            state = self.changed.wait(state).expect(POISONED);
        }
    }

    /// Waits until the standing is one that decides, for at most `timeout`; returns the last one.
    pub(crate) fn wait_decided(&self, timeout: Duration) -> Standing {
        let mut last = Standing::Apart;
        self.wait(timeout, |state| {
            last = state.standing.clone();
            match last {
                Standing::Welcomed(_) | Standing::Stopped(_) | Standing::Ended => Some(()),
                Standing::Apart | Standing::Lost(_) => None,
            }
        });
        last
    }

    pub(crate) fn wait_message(&self, timeout: Duration) -> Option<Message> {
        self.wait(timeout, State::pop_message)
    }

    pub(crate) fn wait_event(&self, timeout: Duration) -> Option<Event> {
        self.wait(timeout, State::pop)
    }

    pub(crate) fn take_all(&self) -> Vec<Event> {
        let mut state = self.lock();
        std::iter::from_fn(|| state.pop()).collect()
    }

    /// Whether the thread is to be told that something was taken; once.
    pub(crate) fn starved(&self) -> bool {
        let mut state = self.lock();
        std::mem::take(&mut state.starved)
    }

    fn wait<T>(&self, timeout: Duration, mut take: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let end = Instant::now().checked_add(timeout);
        let mut state = self.lock();
        loop {
            if let Some(taken) = take(&mut state) {
                return Some(taken);
            }
            let left = match end {
                Some(end) => end.saturating_duration_since(Instant::now()),
                None => timeout,
            };
            if left.is_zero() || state.standing == Standing::Ended {
                return None;
            }
            state = self.changed.wait_timeout(state, left).expect(POISONED).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(POISONED)
    }
}

impl State {
    fn push(&mut self, event: Event) {
        self.count += 1;
        match event {
            Event::Message(message) => self.messages.push_back((self.count, message)),
            other @ (Event::Report(_) | Event::Welcomed(_) | Event::Disconnected { .. } | Event::Stopped { .. }) => {
                self.others.push_back((self.count, other));
            }
        }
    }

    fn pop(&mut self) -> Option<Event> {
        let message = self.messages.front().map_or(u64::MAX, |(count, _)| *count);
        let other = self.others.front().map_or(u64::MAX, |(count, _)| *count);
        if message < other {
            return self.pop_message().map(Event::Message);
        }
        let (_, event) = self.others.pop_front()?;
        self.backlog.remove(&event);
        Some(event)
    }

    fn pop_message(&mut self) -> Option<Message> {
        let (_, message) = self.messages.pop_front()?;
        self.backlog.remove_message(&message);
        Some(message)
    }
}

const POISONED: &str = "a thread panicked while it held the inbox";
