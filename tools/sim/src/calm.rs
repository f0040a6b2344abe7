//! What must hold once all faults are over and everything has come to rest: nobody waits, nobody loses a connection, nothing has to be
//! tried twice. And, of some seeds: a device that is mute, or one that floods, costs only itself.

use std::collections::BTreeSet;
use std::time::Duration;

use trunkline_client::{Guarantee, Outcome, TtlMs};
use trunkline_wire::time::Instant;

use crate::faults::Host;
use crate::journal::{DeviceNo, MessageNo};
use crate::promise::{Checked, Promise};
use crate::swarm::{Run, TTL_MS_MAX};
use crate::watch::OVERDUE;

impl Run {
    /// What follows when all has come to rest; `settled` is when everything had come to rest first, and `retrying` how long it took then to
    /// try again what had to be.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn calm(&mut self, settled: Instant, retrying: Duration) -> Checked {
        // What was sent before ends before; what is sent from here on has nothing in its way.
        self.cluster.run_for(SILENCE)?;
        #[cfg(feature = "next-version")]
        self.cluster.check_versions(crate::versions::When::AtRest)?;
        let before = self.cluster.sums();
        let losses = self.cluster.ledger().totals().losses;
        let from = self.cluster.now();
        self.traffic(CALM, false)?;
        let to = self.cluster.now();
        self.cluster
            .run_for(Duration::from_millis(TTL_MS_MAX.into()) + OVERDUE)?;
        let now = self.cluster.now();
        self.cluster.ledger().all_resolved(now, OVERDUE, |_| false)?;
        self.cluster.ledger().all_delivered(now, from, to, LEFT_MIN)?;
        // What was on its way when all had come to rest arrives too. Among many that have to be tried again each has its turn within the
        // bound on retries, which is promised too.
        self.cluster
            .ledger()
            .all_delivered(now, settled, settled, LEFT_MIN + retrying)?;
        self.prompt(from, &BTreeSet::new(), Promise::NoMetastability)?;
        let after = self.cluster.sums();
        let fail = |promise, what| Err(self.cluster.ledger().violation(now, promise, what, None, &[]));
        let lost = self.cluster.ledger().totals().losses - losses;
        if lost > 0 {
            return fail(
                Promise::Convergence,
                format!("{lost} devices lost their connections though nothing was wrong"),
            );
        }
        let parted = after.control_sessions_lost - before.control_sessions_lost;
        if parted > 0 && !self.cluster.headless {
            return fail(
                Promise::Convergence,
                format!("{parted} sessions with control were lost though nothing was wrong"),
            );
        }
        let retries = after.retries - before.retries;
        if retries > 0 {
            return fail(
                Promise::NoMetastability,
                format!("{retries} messages had to be sent again though nothing was wrong"),
            );
        }
        let came = after.unconfirmed_in() - before.unconfirmed_in();
        let ended = after.unconfirmed_ended() - before.unconfirmed_ended();
        if came != ended {
            let what = format!(
                "{came} fire-and-forget messages came in while nothing was wrong, and {ended} were delivered or dropped"
            );
            return fail(Promise::Conservation, what);
        }
        let (dialled, refused) = (after.dialled - before.dialled, after.refused - before.refused);
        if refused > 0 {
            return fail(
                Promise::Driver,
                format!("{refused} frames were refused though nothing was wrong"),
            );
        }
        // A direct link is dialled when it would save a hop; those that are required are there.
        let pairs = self.cluster.nodes_where(|_| true).len().pow(2) as u64;
        if dialled > pairs * DIALS_A_PAIR {
            return fail(
                Promise::NoMetastability,
                format!("{dialled} links were dialled though nothing was wrong"),
            );
        }
        self.cluster.settle(Duration::ZERO)?;
        self.cluster.no_history_astray()?;
        self.no_way_twice_astray()
    }

    /// Of some seeds: a device that harms nobody but itself.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn nuisance(&mut self) -> Checked {
        match self.rng.u32(..3) {
            0 => self.mute_device(),
            1 => self.flooding_device(),
            _ => Ok(()),
        }
    }

    /// What a node knows of devices may be old, and costs a hop. Once: who was told better goes straight the next time.
    fn no_way_twice_astray(&mut self) -> Checked {
        self.round()?;
        let sums =
            |run: &Run| ["forwards_not_here", "direct_missed_location"].map(|name| run.cluster.counter_sum(name));
        let before = sums(self);
        self.round()?;
        let after = sums(self);
        let (astray, unknown) = (after[0] - before[0], after[1] - before[1]);
        let what = match (astray, unknown) {
            (0, 0) => return Ok(()),
            (0, _) => format!("{unknown} messages found once more nothing of where their recipients are"),
            (_, _) => format!("{astray} messages went once more where their recipients no longer are"),
        };
        let now = self.cluster.now();
        Err(self
            .cluster
            .ledger()
            .violation(now, Promise::Convergence, what, None, &[]))
    }

    /// Every device writes to the same two others, if they are there.
    fn round(&mut self) -> Checked {
        let count = self.cluster.devices().count() as u32;
        let ttl = TtlMs::new(TTL_MS_MAX).expect("in range");
        for sender in 0..count {
            for next in 1..=2 {
                let (sender, recipient) = (DeviceNo(sender), DeviceNo((sender + next) % count));
                // Of one who is nowhere, two nodes that had it may each have news, which may overtake each other.
                if self.cluster.ledger().is_there(recipient, self.cluster.now()) {
                    self.cluster.send(sender, recipient, 20, ttl, Guarantee::Confirmed);
                }
            }
        }
        self.cluster.run_for(PROMPT)
    }

    /// One host stands still, and much is sent to its devices: all others' messages go as before.
    fn mute_device(&mut self) -> Checked {
        let device = self.draw_device();
        let mute = self.cluster.neighbours(device);
        if mute.len() == self.cluster.devices().count() {
            return Ok(());
        }
        self.cluster.pause(
            Host::Device(device),
            ISOLATION + Duration::from_millis(TTL_MS_MAX.into()),
        );
        self.among_others(&mute, |run| run.burst(None, Some(device), 30, 8_000))
    }

    /// One device sends as much as its library takes.
    fn flooding_device(&mut self) -> Checked {
        let device = self.draw_device();
        let flooding: BTreeSet<DeviceNo> = [device].into();
        self.among_others(&flooding, |run| run.burst(Some(device), None, 60, 100))
    }

    /// Traffic, and what some devices do to it: the others notice nothing.
    fn among_others(&mut self, some: &BTreeSet<DeviceNo>, mut nuisance: impl FnMut(&mut Run)) -> Checked {
        let from = self.cluster.now();
        let there = |device: &DeviceNo| self.cluster.ledger().is_there(*device, from);
        let there: BTreeSet<DeviceNo> = self.cluster.devices().filter(there).collect();
        while self.cluster.now() < from + ISOLATION {
            nuisance(self);
            self.traffic(Duration::from_millis(200), false)?;
        }
        self.cluster.run_for(PROMPT)?;
        let ledger = self.cluster.ledger();
        let mut others = there.difference(some);
        let gone = others.find(|device| !ledger.is_there(**device, from)).copied();
        if let Some(device) = gone {
            let what = format!("{device} lost its connection through what another one did");
            let now = self.cluster.now();
            return Err(self
                .cluster
                .ledger()
                .violation(now, Promise::Isolation, what, None, &[device]));
        }
        self.prompt(from, some, Promise::Isolation)
    }

    /// Every confirmed message that was sent since `from` between others than `some` had its report in no time, and it says delivered.
    fn prompt(&self, from: Instant, some: &BTreeSet<DeviceNo>, promise: Promise) -> Checked {
        let ledger = self.cluster.ledger();
        let slow = ledger.records().iter().enumerate().rev().find(|(_, record)| {
            let there = ledger.is_there(record.recipient, record.sent);
            record.sent >= from
                && record.sent + PROMPT <= self.cluster.now()
                && record.guarantee == Guarantee::Confirmed
                && there
                && !some.contains(&record.sender)
                && !some.contains(&record.recipient)
                && !record.report.is_some_and(|(at, outcome, _)| {
                    matches!(outcome, Outcome::Delivered { .. }) && at.since(record.sent) <= PROMPT
                })
        });
        let Some((index, record)) = slow else { return Ok(()) };
        let message = MessageNo(index as u32);
        let what = format!(
            "{message} was to be delivered within {PROMPT:?}, and its report is {:?}",
            record.report
        );
        let devices = [record.sender, record.recipient];
        Err(ledger.violation(self.cluster.now(), promise, what, Some(message), &devices))
    }
}

/// A message that has so much time left when nothing is wrong any more is delivered.
const LEFT_MIN: Duration = Duration::from_secs(10);
/// How long there is traffic once all has come to rest.
const CALM: Duration = Duration::from_secs(5);
/// Before that, for so long nothing is sent.
const SILENCE: Duration = Duration::from_secs(2);
/// How long a device makes a nuisance of itself.
const ISOLATION: Duration = Duration::from_secs(3);
/// Far above what a message and its report take without a fault: a few hops, a stall at each, the resequencer's window. Below the first
/// wait for an answer, so that a message that needed a second try shows.
const PROMPT: Duration = Duration::from_millis(900);
/// Dials between any two nodes while nothing is wrong: two that cross, and one that was closed as idle.
const DIALS_A_PAIR: u64 = 3;
