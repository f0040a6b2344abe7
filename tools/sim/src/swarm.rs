//! One run: a cluster, traffic through it, faults, and the requirement that all comes to rest. Everything follows from the seed.
//!
//! ```text
//! start ─▶ settled ─▶ devices connect ─▶ traffic and faults ─▶ all healed ─▶ quiet: traffic only ─▶ settled, all resolved
//! ```
//!
//! Each seed draws its own mix: which kinds of faults there are, how often, what the network is like, how many devices share a host. A
//! kind that every run has would hide what shows only without it. What a fault does is in `inflict`, what must hold once all is calm in
//! `calm`.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use trunkline_client::{Guarantee, Purpose, TtlMs};
use trunkline_net::sim::{Latency, WorldOptions};
use trunkline_wire::control::Roles;
use trunkline_wire::time::Instant;

use crate::cluster::{CHECK_INTERVAL, Cluster, Spec};
use crate::devices::Start;
use crate::inflict::End;
use crate::journal::DeviceNo;
use crate::ledger::Totals;
use crate::promise::Checked;
use crate::scenario::{Kind, Scenario};
use crate::versions::Course;

/// How large a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its seed.
    pub seed: u64,
    /// Devices, at most.
    pub devices: u32,
    /// What is asked for rather than drawn.
    pub load: Load,
    /// What happens.
    pub scenario: &'static Scenario,
    /// For how long there are faults.
    pub faulty: Duration,
    /// Who speaks which version of the protocol.
    pub course: Course,
}

impl Options {
    /// The usual size.
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            devices: 30,
            load: Load::default(),
            scenario: Scenario::swarm(),
            faulty: Duration::from_secs(30),
            course: Course::Drawn,
        }
    }
}

/// What every seed draws for itself, unless it is said here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Connection servers.
    pub servers: Option<usize>,
    /// Devices, at least; no more than there are at most.
    pub devices_min: Option<u32>,
    /// Messages of each device, but for those of faults and greetings; else a message or a burst a second.
    pub messages: Option<Rate>,
    /// Faults.
    pub faults: Option<Rate>,
}

/// How often something happens, on average.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    a_second: f64,
}

impl Rate {
    /// The rarest: what is rarer is not seen in a run.
    pub const MIN: f64 = 0.01;
    /// The most frequent: far above what a simulated device or cluster bears.
    pub const MAX: f64 = 100.0;

    /// So many a second; `None` outside of [`Rate::MIN`] to [`Rate::MAX`].
    pub fn new(a_second: f64) -> Option<Rate> {
        (Rate::MIN..=Rate::MAX).contains(&a_second).then_some(Rate { a_second })
    }

    /// How many a second.
    pub fn a_second(self) -> f64 {
        self.a_second
    }

    /// Between two, with `sources` of them.
    fn every(self, sources: f64) -> Duration {
        Duration::from_secs_f64(1.0 / (self.a_second * sources))
    }
}

/// What a run that broke no promise came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// Everything that happened, folded into one number.
    pub trace_hash: u64,
    /// Virtual time.
    pub span: Duration,
    /// Of which there were faults for so long.
    pub faulty: Duration,
    /// How many there were of what.
    pub size: Size,
    /// Messages that libraries took while there were faults.
    pub sent_faulty: u64,
    /// Faults, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What users have sent, seen and been told.
    pub totals: Totals,
    /// From the last fault until all was settled.
    pub settled_in: Duration,
    /// Turns given.
    pub turns: u64,
    /// Events of the network.
    pub events: u64,
    /// Links between nodes when the faults had ended, by the protocol version that they spoke; each is counted at both ends.
    #[cfg(feature = "next-version")]
    pub links: BTreeMap<u8, u64>,
}

/// How many a cluster had of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Connection servers.
    pub servers: usize,
    /// Instances, of all regions.
    pub instances: usize,
    /// Nodes that take messages in, and hold no receiving devices.
    pub messaging: usize,
    /// Devices.
    pub devices: u32,
}

/// Runs one seed.
///
/// # Errors
/// The first promise that is broken.
pub fn run(options: &Options) -> Checked<Summary> {
    Run::new(options).go(options)
}

/// As [`run`], with everything that happened, for people.
pub fn run_with_story(options: &Options) -> (Checked<Summary>, Vec<String>) {
    let mut run = Run::new(options);
    let result = run.go(options);
    (result, run.cluster.ledger().story().collect())
}

pub(crate) struct Run {
    pub(crate) cluster: Cluster,
    pub(crate) rng: Rng,
    kinds: Vec<Kind>,
    /// Between two faults, on average.
    fault_every: Duration,
    /// Whether a fault that there is nobody for gives way to another.
    fault_certain: bool,
    /// Between two messages, on average.
    pub(crate) message_every: Duration,
    /// The network between hosts that have nothing wrong.
    pub(crate) latency: Latency,
    pub(crate) ends: BTreeMap<(Instant, u32), End>,
    faults: BTreeMap<&'static str, u64>,
    pub(crate) faults_count: u32,
}

impl Run {
    fn new(options: &Options) -> Run {
        let scenario = options.scenario;
        let mut rng = Rng::with_seed(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let network = draw_network(&mut rng);
        let latency = network.latency;
        let Load {
            servers,
            devices_min,
            messages,
            faults,
        } = options.load;
        let devices_min = devices_min.unwrap_or(options.devices.div_ceil(3));
        // Mostly the usual cluster; what a second instance would hide shows with one, and the other way round.
        let mut spec = Spec {
            regions: rng.usize(1..=2),
            instances: if rng.u32(..4) == 0 { rng.usize(1..=3) } else { 2 },
            servers: rng.usize(2..=4),
            messaging: rng.usize(0..=1),
            devices: rng.u32(devices_min..=options.devices).max(2),
            devices_a_host: rng.u32(1..=4),
            two_shards_every: rng.usize(0..=3),
            network,
            course: options.course,
        };
        spec.servers = servers.unwrap_or(spec.servers);
        scenario.shape(&mut spec);
        let mut kinds = scenario.kinds.to_vec();
        if scenario.is_drawn() {
            kinds.retain(|_| rng.u32(..10) < 3);
        }
        if kinds.is_empty() {
            kinds.extend(rng.choice(scenario.kinds));
        }
        let (least, most) = scenario.every_ms;
        let fault_every = Duration::from_millis(rng.u64(least..=most));
        let fault_every = faults.map_or(fault_every, |rate| rate.every(1.0));
        let message_every = match messages {
            Some(rate) => rate.every(f64::from(spec.devices)).mul_f64(MESSAGES_AT_ONCE),
            None => Duration::from_micros(1_000_000 / u64::from(spec.devices.max(1))),
        };
        let mut cluster = Cluster::new(options.seed, spec);
        cluster.strangers = kinds.contains(&Kind::Stranger);
        cluster.greetings = true;
        Run {
            cluster,
            rng,
            kinds,
            fault_every,
            fault_certain: faults.is_some(),
            message_every,
            latency,
            ends: BTreeMap::new(),
            faults: BTreeMap::new(),
            faults_count: 0,
        }
    }

    fn go(&mut self, options: &Options) -> Checked<Summary> {
        let started = self.cluster.now();
        self.cluster.settle(BOOT_MAX)?;
        for device in self.cluster.devices() {
            let start = self.draw_start(device);
            self.cluster.start_device(device, &start);
        }
        self.cluster.settle(CONNECT_MAX)?;
        let with_control = match options.scenario.loses_control() {
            true => Some(self.lose_control()?),
            false => None,
        };
        let sent_before = self.cluster.ledger().totals().sent;
        match options.scenario.overloads() {
            true => self.overload()?,
            false => self.traffic(options.faulty, true)?,
        }
        let sent_faulty = self.cluster.ledger().totals().sent - sent_before;
        self.ends.clear();
        self.cluster.heal_all();
        // Of whom nothing more is heard, nothing may be left either: a device that is back would cover up its traces.
        if self.rng.u32(..3) > 0 {
            self.start_devices();
        }
        let healed = self.cluster.now();
        while self.cluster.unsettled().is_some() && self.cluster.now() < healed + CONVERGE_MAX {
            self.traffic(CHECK_INTERVAL, false)?;
        }
        self.cluster.settle(Duration::ZERO)?;
        let settled = self.cluster.now();
        let settled_in = settled.since(healed);
        let retrying = self.cluster.retrying();

        // A connection that both ends take for open may still find out that it isn't.
        let left = (healed + CONVERGE_MAX / 2).since(self.cluster.now());
        self.traffic(left, false)?;
        self.cluster.settle((healed + CONVERGE_MAX).since(self.cluster.now()))?;
        self.calm(settled, retrying)?;
        if let Some(before) = with_control {
            self.went_as_before(&before)?;
        }
        self.nuisance()?;
        Ok(Summary {
            seed: options.seed,
            trace_hash: self.cluster.trace_hash(),
            span: self.cluster.now().since(started),
            faulty: options.faulty,
            size: self.size(),
            sent_faulty,
            faults: std::mem::take(&mut self.faults),
            totals: self.cluster.ledger().totals().clone(),
            settled_in,
            turns: self.cluster.turns(),
            events: self.cluster.world().events(),
            #[cfg(feature = "next-version")]
            links: self.cluster.links_by_version(),
        })
    }

    fn size(&self) -> Size {
        let count = |role: fn(Roles) -> bool| self.cluster.nodes_where(role).len();
        Size {
            servers: count(|roles| roles.connection),
            instances: count(|roles| roles.region),
            messaging: count(|roles| roles.messaging && !roles.connection),
            devices: self.cluster.devices().count() as u32,
        }
    }

    /// Messages, and faults, for a while.
    pub(crate) fn traffic(&mut self, span: Duration, faulty: bool) -> Checked {
        let end = self.cluster.now() + span;
        let mut message_at = self.cluster.now() + self.some(self.message_every);
        let mut fault_at = if faulty {
            self.cluster.now() + self.some(self.fault_every)
        } else {
            Instant::NEVER
        };
        loop {
            let end_at = self.ends.first_key_value().map_or(Instant::NEVER, |((at, _), _)| *at);
            self.cluster.run_until(message_at.min(fault_at).min(end_at).min(end))?;
            let now = self.cluster.now();
            if now >= end {
                return Ok(());
            }
            if now >= message_at {
                self.send();
                message_at = now + self.some(self.message_every);
            }
            if now >= fault_at {
                self.fault()?;
                fault_at = now + self.some(self.fault_every);
            }
            while let Some(entry) = self.ends.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                let end = entry.remove();
                self.end(end)?;
            }
        }
    }

    /// About `mean`, anything up to twice as long.
    pub(crate) fn some(&mut self, mean: Duration) -> Duration {
        Duration::from_micros(self.rng.u64(1..=2 * mean.as_micros() as u64))
    }

    fn send(&mut self) {
        let count = self.cluster.devices().count() as u32;
        let sender = DeviceNo(self.rng.u32(..count));
        // Most write to few, so that order matters; some to nobody.
        let recipient = match self.rng.u32(..100) {
            0 => DeviceNo(count + self.rng.u32(..3)),
            1..=60 => DeviceNo((sender.0 + 1 + self.rng.u32(..2)) % count),
            _ => DeviceNo(self.rng.u32(..count)),
        };
        let burst = if self.rng.u32(..BURST_ONE_IN) == 0 {
            self.rng.u32(BURST_MIN..=BURST_MAX)
        } else {
            1
        };
        for _ in 0..burst {
            let ttl_ms = match self.rng.u32(..4) {
                0 => self.rng.u32(500..3_000),
                _ => self.rng.u32(3_000..=TTL_MS_MAX),
            };
            let ttl = TtlMs::new(ttl_ms).expect("in range");
            let bytes = match self.rng.u32(..50) {
                0 => self.rng.usize(..20_000),
                _ => self.rng.usize(..200),
            };
            let guarantee = if self.rng.u32(..8) == 0 {
                Guarantee::FireAndForget
            } else {
                Guarantee::Confirmed
            };
            self.cluster.send(sender, recipient, bytes, ttl, guarantee);
        }
    }

    pub(crate) fn draw_start(&mut self, device: DeviceNo) -> Start {
        let purpose = if device.0 % 10 == 9 {
            Purpose::SendOnly
        } else {
            Purpose::Full
        };
        Start {
            servers: Vec::new(),
            purpose,
            ping_ms: self.rng.u32(PING_MS_MIN..PING_MS_MAX),
        }
    }

    /// One of the kinds that this seed has drawn.
    fn fault(&mut self) -> Checked {
        let draws = if self.fault_certain { FAULT_DRAWS_MAX } else { 1 };
        for _ in 0..draws {
            let kind = self.rng.choice(self.kinds.iter().copied()).expect("there is a kind");
            if self.inflict(kind)?.is_some() {
                *self.faults.entry(kind.name()).or_default() += 1;
                break;
            }
        }
        Ok(())
    }

    fn start_devices(&mut self) {
        for device in self.cluster.devices() {
            if !self.cluster.device_runs(device) {
                let start = self.draw_start(device);
                self.cluster.start_device(device, &start);
            }
        }
    }
}

/// Some networks are fast and even, some are neither.
fn draw_network(rng: &mut Rng) -> WorldOptions {
    let usual = WorldOptions::default();
    let (base, jitter) = match rng.u32(..4) {
        0 => (rng.u64(20..200), rng.u64(..100)),
        1 => (rng.u64(1_000..8_000), rng.u64(..8_000)),
        _ => return usual,
    };
    WorldOptions {
        latency: Latency {
            base: Duration::from_micros(base),
            jitter: Duration::from_micros(jitter),
        },
        stall_one_in: rng.u32(32..1_024),
        odd_one_in: rng.u32(3..20),
        ..usual
    }
}

/// Of so many sends one is a burst,
const BURST_ONE_IN: u32 = 8;
/// of at least so many messages,
const BURST_MIN: u32 = 2;
/// and at most so many:
const BURST_MAX: u32 = 11;
/// so a send comes to so many messages on average.
const MESSAGES_AT_ONCE: f64 = ((BURST_ONE_IN - 1) as f64 + (BURST_MIN + BURST_MAX) as f64 / 2.0) / BURST_ONE_IN as f64;
/// Draws of a fault that finds somebody: all nodes may be gone, or the few kinds of a seed may have had their share.
const FAULT_DRAWS_MAX: u32 = 16;

/// Control gathers the regions, nodes join and find each other.
const BOOT_MAX: Duration = Duration::from_secs(20);
/// Devices connect, all at once.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// After the last fault all instances agree within this time.
const CONVERGE_MAX: Duration = Duration::from_secs(30);
/// The longest time to live of a message.
pub(crate) const TTL_MS_MAX: u32 = 15_000;
/// Devices ping so often at most: half-open sessions end within the time to converge.
const PING_MS_MIN: u32 = 2_000;
const PING_MS_MAX: u32 = 16_000;
