//! More load than the servers can take, for a while: when it is gone, so are its effects.
//!
//! Turns take no virtual time otherwise. Here each frame that a shard takes in keeps it busy, for so long that the busiest shard has
//! [`LOAD_PERCENT`] to do under the usual load. Then the load is several times that, and the usual one again. Retries, messages that wait
//! and devices that connect again must not keep the cluster from what it did before.

use std::time::Duration;

use trunkline_client::{Guarantee, Outcome, TtlMs};
use trunkline_net::sim::DriverId;
use trunkline_wire::time::Instant;

use crate::cluster::Cluster;
use crate::journal::DeviceNo;
use crate::promise::{Checked, Promise};
use crate::swarm::Run;

/// How busy shards are.
#[derive(Debug, Default)]
pub(crate) struct Effort {
    /// What a frame costs the shard that takes it in.
    frame: Duration,
    /// By driver, until when its shard is busy.
    until: Vec<Instant>,
}

impl Effort {
    /// Until when a shard is busy, if it is.
    pub(crate) fn busy(&self, now: Instant, shard: DriverId) -> Option<Instant> {
        let until = self.until.get(shard.0 as usize).copied();
        until.filter(|until| *until > now)
    }

    /// A shard has taken in so many frames.
    pub(crate) fn spend(&mut self, now: Instant, shard: DriverId, frames: u64) {
        if frames > 0 && !self.frame.is_zero() {
            let span = self.frame.saturating_mul(u32::try_from(frames).unwrap_or(u32::MAX));
            let at = shard.0 as usize;
            self.until.resize(self.until.len().max(at + 1), Instant::ZERO);
            self.until[at] = now + span;
        }
    }
}

impl Run {
    /// The usual load, too much, and the usual load again.
    ///
    /// # Errors
    /// The first promise that is broken.
    pub(crate) fn overload(&mut self) -> Checked {
        let rate = self.cluster.devices().count() as u64 * MESSAGES_A_SECOND;
        let before = self.cluster.frames();
        self.load(rate, MEASURED)?;
        let busiest = self
            .cluster
            .frames()
            .into_iter()
            .zip(before)
            .map(|(after, before)| after - before);
        let frames = busiest.max().unwrap_or(0).max(1);
        let frame = MEASURED * LOAD_PERCENT / 100 / u32::try_from(frames).unwrap_or(u32::MAX);
        self.cluster.note(format!("from now on a frame takes {frame:?}"));
        self.cluster.effort.frame = frame;
        self.load(rate, MEASURED)?;
        let usual = self.cluster.now();
        self.load(rate, WINDOW)?;
        let times = self.rng.u64(2..=4);
        self.cluster.note(format!("{times} times as much is sent"));
        self.load(rate * times, OVERLOAD / 2)?;
        if self.rng.bool() {
            self.cluster.reset_devices();
        }
        self.load(rate * times, OVERLOAD / 2)?;
        self.cluster.note("as much as usual is sent".to_owned());
        self.load(rate, RECOVERY)?;
        let again = self.cluster.now();
        self.load(rate, WINDOW)?;
        self.cluster.effort = Effort::default();
        let (usual, again) = (self.goodput(usual), self.goodput(again));
        if again * 100 >= usual * u64::from(GOODPUT_PERCENT_MIN) {
            return Ok(());
        }
        let what = format!(
            "{usual} messages were delivered within {WINDOW:?} before there was too much to do, and {again} {RECOVERY:?} after"
        );
        let (now, ledger) = (self.cluster.now(), self.cluster.ledger());
        Err(ledger.violation(now, Promise::NoMetastability, what, None, &[]))
    }

    /// So many messages a second, for a while.
    fn load(&mut self, rate: u64, span: Duration) -> Checked {
        let (start, end) = (self.cluster.now(), self.cluster.now() + span);
        let ttl = TtlMs::new(TTL_MS).expect("in range");
        let count = self.cluster.devices().count() as u32;
        let mut sent = 0;
        while self.cluster.now() < end {
            let due = self.cluster.now().since(start).as_micros() as u64 * rate / 1_000_000;
            while sent < due {
                sent += 1;
                let (sender, recipient) = (DeviceNo(self.rng.u32(..count)), DeviceNo(self.rng.u32(..count)));
                self.cluster
                    .send(sender, recipient, PAYLOAD_BYTES, ttl, Guarantee::Confirmed);
            }
            self.cluster.run_for(STEP)?;
        }
        Ok(())
    }

    /// How many messages were reported delivered in the window from `from`.
    fn goodput(&self, from: Instant) -> u64 {
        let reports = self
            .cluster
            .ledger()
            .records()
            .iter()
            .filter_map(|record| record.report);
        let good = reports.filter(|(at, outcome, _)| {
            matches!(outcome, Outcome::Delivered { .. }) && from <= *at && *at < from + WINDOW
        });
        good.count() as u64
    }
}

impl Cluster {
    /// How many frames each shard has taken in.
    fn frames(&self) -> Vec<u64> {
        let processes = self.nodes.iter().filter_map(|host| host.process.as_ref());
        let shards = processes.flat_map(|process| &process.shards);
        shards.map(|shard| shard.counters().frames_received).collect()
    }
}

/// What each device sends under the usual load.
const MESSAGES_A_SECOND: u64 = 80;
/// How much the busiest shard has to do under the usual load.
const LOAD_PERCENT: u32 = 70;
/// In which the cost of a frame is found.
const MEASURED: Duration = Duration::from_secs(1);
/// For how long there is too much to do.
const OVERLOAD: Duration = Duration::from_secs(5);
/// After which there is as much goodput as before.
const RECOVERY: Duration = Duration::from_secs(10);
/// Of what was before.
const GOODPUT_PERCENT_MIN: u32 = 95;
/// Over which goodput is counted.
const WINDOW: Duration = Duration::from_secs(3);
/// What comes later is of no use to anybody.
const TTL_MS: u32 = 5_000;
const PAYLOAD_BYTES: usize = 16_000;
/// Between two looks at what is to be sent.
const STEP: Duration = Duration::from_millis(5);
