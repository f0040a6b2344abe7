//! A workload by the clock: who attaches where, who is about to write, and which message is sent, each at its time.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::Context;
use trunkline_replay::Trace;

use super::{Run, SILENCE_MAX, STEP, Summary};

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// A device leaves the server that it is at, and attaches to this one of [`super::Door::servers`].
    Attach {
        /// As a place in [`Trace::devices`].
        device: usize,
        /// As a place among the servers.
        server: usize,
    },
    /// A message's sender says that it is about to write.
    Intend {
        /// As a place in [`Trace::messages`].
        index: usize,
    },
    /// A message is sent.
    Send {
        /// As a place in [`Trace::messages`].
        index: usize,
    },
}

impl Run {
    /// Does what the timetable says, from now on, and waits for all reports. Times never go back. `progress` is told how it stands after
    /// each step; what it returns stops the run early (`Break`).
    ///
    /// # Errors
    /// If a message can't be sent.
    pub fn keep_to(
        &mut self,
        trace: &Trace,
        timetable: &[(Duration, Deed)],
        progress: &mut dyn FnMut(&Summary) -> ControlFlow<()>,
    ) -> anyhow::Result<Summary> {
        let started = Instant::now();
        let messages = timetable.iter().filter(|(_, deed)| matches!(deed, Deed::Send { .. }));
        let messages = messages.count();
        let mut pending = timetable.iter().peekable();
        let mut heard = Instant::now();
        loop {
            while let Some(&&(due, deed)) = pending.peek() {
                if started.elapsed() < due || !self.carry_out(trace, deed)? {
                    break;
                }
                pending.next();
                heard = Instant::now();
            }
            let next = pending
                .peek()
                .map_or(STEP, |&&(due, _)| due.saturating_sub(started.elapsed()));
            let reported = self.ledger.reported();
            self.turn(next.clamp(STEP_MIN, STEP))?;
            self.take_events();
            if self.ledger.reported() > reported {
                heard = Instant::now();
            }
            let summary = self.ledger.summary(messages, started.elapsed());
            let over = self.under_way.is_empty() && pending.peek().is_none();
            // What has no report after so long will never have one: the summary says so.
            if progress(&summary).is_break() || over || heard.elapsed() > SILENCE_MAX {
                return Ok(summary);
            }
        }
    }

    /// False if it has to wait.
    fn carry_out(&mut self, trace: &Trace, deed: Deed) -> anyhow::Result<bool> {
        match deed {
            Deed::Attach { device, server } => {
                let index = self.devices[&trace.devices()[device]];
                let servers = [self.servers[server]].into();
                self.fleet.use_servers(index, servers).context("a server is named")?;
            }
            Deed::Intend { index } => {
                let (sender, recipient) = trace.messages()[index];
                let sender = self.devices[&trace.devices()[sender]];
                self.fleet.intend(sender, trace.devices()[recipient].borrow());
            }
            Deed::Send { index } => {
                return self.send(trace, index, trace.messages()[index], Duration::ZERO);
            }
        }
        Ok(true)
    }
}

/// So that a device that has to wait for room is not asked in a busy loop.
const STEP_MIN: Duration = Duration::from_micros(200);
