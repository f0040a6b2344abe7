//! One run: a cluster, traffic through it, faults, and the requirement that all comes to rest. Everything follows from the seed.
//!
//! ```text
//! start ─▶ settled ─▶ devices connect ─▶ traffic and faults ─▶ all healed ─▶ quiet: traffic only ─▶ settled, all resolved
//! ```
//!
//! Each seed draws its own mix: which kinds of faults there are, how often, how many devices share a host. A kind that every run
//! has would hide what shows only without it.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use trunkline_client::{Guarantee, Purpose, TtlMs};
use trunkline_net::sim::{Death, Direction};
use trunkline_wire::time::Instant;

use crate::cluster::{CHECK_INTERVAL, Cluster, Spec};
use crate::devices::Start;
use crate::faults::Host;
use crate::journal::DeviceNo;
use crate::ledger::Totals;
use crate::node::NodeNo;
use crate::promise::Checked;
use crate::watch::OVERDUE;

/// How large a run is.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its seed.
    pub seed: u64,
    /// Devices.
    pub devices: u32,
    /// For how long there are faults.
    pub faulty: Duration,
}

impl Options {
    /// The usual size.
    pub fn new(seed: u64) -> Options {
        Options {
            seed,
            devices: 30,
            faulty: Duration::from_secs(30),
        }
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
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    KillInstance,
    KillServer,
    KillControl,
    Cut,
    CutOneWay,
    CutDevice,
    Isolate,
    Reset,
    Pause,
    PauseDevice,
    ClockJump,
    Churn,
    Roam,
}

impl Kind {
    const ALL: [Kind; 13] = [
        Kind::KillInstance,
        Kind::KillServer,
        Kind::KillControl,
        Kind::Cut,
        Kind::CutOneWay,
        Kind::CutDevice,
        Kind::Isolate,
        Kind::Reset,
        Kind::Pause,
        Kind::PauseDevice,
        Kind::ClockJump,
        Kind::Churn,
        Kind::Roam,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::KillInstance => "kill instance",
            Kind::KillServer => "kill server",
            Kind::KillControl => "kill control",
            Kind::Cut => "cut",
            Kind::CutOneWay => "cut one way",
            Kind::CutDevice => "cut device",
            Kind::Isolate => "isolate",
            Kind::Reset => "reset",
            Kind::Pause => "pause",
            Kind::PauseDevice => "pause device",
            Kind::ClockJump => "clock jump",
            Kind::Churn => "churn",
            Kind::Roam => "roam",
        }
    }
}

/// How a fault ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Revive(NodeNo),
    ReviveControl,
    Heal(Host, Host),
    Join(NodeNo),
    Start(DeviceNo),
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

struct Run {
    cluster: Cluster,
    rng: Rng,
    kinds: Vec<Kind>,
    /// Between two faults, on average.
    fault_every: Duration,
    /// Between two messages, on average.
    message_every: Duration,
    ends: BTreeMap<(Instant, u32), End>,
    faults: BTreeMap<&'static str, u64>,
    faults_count: u32,
}

impl Run {
    fn new(options: &Options) -> Run {
        let mut rng = Rng::with_seed(options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Mostly the usual cluster; what a second instance would hide shows with one, and the other way round.
        let spec = Spec {
            regions: rng.usize(1..=2),
            instances: if rng.u32(..4) == 0 { rng.usize(1..=3) } else { 2 },
            servers: rng.usize(2..=4),
            messaging: rng.usize(0..=1),
            devices: options.devices,
            devices_a_host: rng.u32(1..=4),
            two_shards_every: rng.usize(0..=3),
            ..Spec::default()
        };
        let mut kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| rng.u32(..10) < 4).collect();
        if kinds.is_empty() {
            kinds.push(rng.choice(Kind::ALL).expect("there are kinds"));
        }
        let fault_every = Duration::from_millis(rng.u64(300..4_000));
        let message_every = Duration::from_micros(1_000_000 / u64::from(options.devices.max(1)));
        Run {
            cluster: Cluster::new(options.seed, spec),
            rng,
            kinds,
            fault_every,
            message_every,
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
        self.traffic(options.faulty, true)?;
        self.ends.clear();
        self.cluster.heal_all();
        self.start_devices();
        let healed = self.cluster.now();
        while self.cluster.unsettled().is_some() && self.cluster.now() < healed + CONVERGE_MAX {
            self.traffic(CHECK_INTERVAL, false)?;
        }
        self.cluster.settle(Duration::ZERO)?;
        let settled_in = self.cluster.now().since(healed);
        // A connection that both ends take for open may still find out that it isn't.
        let left = (healed + CONVERGE_MAX / 2).since(self.cluster.now());
        self.traffic(left, false)?;
        self.cluster.settle((healed + CONVERGE_MAX).since(self.cluster.now()))?;
        // What is sent from here on has nothing in its way.
        let calm = self.cluster.now();
        self.traffic(CALM, false)?;
        let over = self.cluster.now();
        self.cluster
            .run_for(Duration::from_millis(TTL_MS_MAX.into()) + OVERDUE)?;
        let now = self.cluster.now();
        self.cluster.ledger().all_resolved(now, OVERDUE, |_| false)?;
        self.cluster.ledger().all_delivered(now, calm, over)?;
        self.cluster.settle(Duration::ZERO)?;
        Ok(Summary {
            seed: options.seed,
            trace_hash: self.cluster.trace_hash(),
            span: self.cluster.now().since(started),
            faults: std::mem::take(&mut self.faults),
            totals: self.cluster.ledger().totals().clone(),
            settled_in,
            turns: self.cluster.turns(),
            events: self.cluster.world().events(),
        })
    }

    /// Messages, and faults, for a while.
    fn traffic(&mut self, span: Duration, faulty: bool) -> Checked {
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
                self.fault();
                fault_at = now + self.some(self.fault_every);
            }
            while let Some(entry) = self.ends.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                let end = entry.remove();
                self.end(end);
            }
        }
    }

    /// About `mean`, anything up to twice as long.
    fn some(&mut self, mean: Duration) -> Duration {
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
        let burst = if self.rng.u32(..8) == 0 { self.rng.u32(2..12) } else { 1 };
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

    fn draw_start(&mut self, device: DeviceNo) -> Start {
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

    fn start_devices(&mut self) {
        for device in self.cluster.devices() {
            if !self.cluster.device_runs(device) {
                let start = self.draw_start(device);
                self.cluster.start_device(device, &start);
            }
        }
    }

    /// One of the nodes with a role, if any runs.
    fn draw_node(&mut self, region: bool) -> Option<NodeNo> {
        let nodes = self.cluster.nodes_where(|roles| roles.region == region);
        let running: Vec<NodeNo> = nodes.into_iter().filter(|node| self.cluster.node_runs(*node)).collect();
        self.rng.choice(running)
    }

    fn draw_any(&mut self) -> Option<NodeNo> {
        let region = self.rng.bool();
        self.draw_node(region)
    }

    fn draw_device(&mut self) -> DeviceNo {
        DeviceNo(self.rng.u32(..self.cluster.devices().count() as u32))
    }

    fn draw_span(&mut self) -> Duration {
        // Short ones are missed by time-outs, long ones met by them.
        match self.rng.u32(..3) {
            0 => Duration::from_millis(self.rng.u64(10..1_000)),
            1 => Duration::from_millis(self.rng.u64(1_000..5_000)),
            _ => Duration::from_millis(self.rng.u64(5_000..20_000)),
        }
    }

    fn fault(&mut self) {
        let kind = self.rng.choice(self.kinds.iter().copied()).expect("there is a kind");
        if self.inflict(kind).is_some() {
            *self.faults.entry(kind.name()).or_default() += 1;
        }
    }

    /// `None` if there is nobody to suffer it.
    fn inflict(&mut self, kind: Kind) -> Option<()> {
        let span = self.draw_span();
        let death = if self.rng.u32(..4) == 0 {
            Death::Silent
        } else {
            Death::Visible
        };
        match kind {
            Kind::KillInstance | Kind::KillServer => {
                let node = self.draw_node(kind == Kind::KillInstance)?;
                self.cluster.kill_node(node, death);
                self.end_in(span, End::Revive(node));
            }
            Kind::KillControl => {
                if !self.cluster.control_runs() {
                    return None;
                }
                self.cluster.kill_control(death);
                self.end_in(span, End::ReviveControl);
            }
            Kind::Cut | Kind::CutOneWay => {
                let (a, b) = (self.draw_any()?, self.draw_any()?);
                if a == b {
                    return None;
                }
                let direction = if kind == Kind::Cut {
                    Direction::Both
                } else {
                    Direction::Forward
                };
                let with_control = self.rng.u32(..6) == 0;
                let b = if with_control { Host::Control } else { Host::Node(b) };
                self.cluster.cut(Host::Node(a), b, direction);
                self.end_in(span, End::Heal(Host::Node(a), b));
            }
            Kind::CutDevice => {
                let device = self.draw_device();
                let node = self.cluster.connected_at(device)?;
                let direction = self
                    .rng
                    .choice([Direction::Both, Direction::Forward, Direction::Backward])?;
                let (a, b) = (Host::Device(device), Host::Node(node));
                self.cluster.cut(a, b, direction);
                self.end_in(span, End::Heal(a, b));
            }
            Kind::Isolate => {
                let node = self.draw_any()?;
                self.cluster.isolate(node);
                self.end_in(span, End::Join(node));
            }
            Kind::Reset => {
                let node = self.draw_any()?;
                let host = if self.rng.bool() {
                    Host::Node(node)
                } else {
                    Host::Device(self.draw_device())
                };
                self.cluster.reset(host);
            }
            Kind::Pause => {
                let node = self.draw_any()?;
                let host = if self.rng.u32(..6) == 0 {
                    Host::Control
                } else {
                    Host::Node(node)
                };
                self.cluster.pause(host, span);
            }
            Kind::PauseDevice => {
                let device = self.draw_device();
                self.cluster.pause(Host::Device(device), span);
            }
            Kind::ClockJump => {
                let node = self.draw_any()?;
                let ms = self.rng.i64(-CLOCK_JUMP_MS_MAX..=CLOCK_JUMP_MS_MAX);
                self.cluster.jump_clock(Host::Node(node), ms);
            }
            Kind::Churn => {
                let device = self.draw_device();
                if !self.cluster.device_runs(device) {
                    return None;
                }
                self.cluster.end_device(device);
                self.end_in(span.min(Duration::from_secs(3)), End::Start(device));
            }
            Kind::Roam => {
                // It starts anew at another server, and the old one doesn't hear of it from the device, or from anybody.
                let device = self.draw_device();
                let old = self.cluster.connected_at(device)?;
                let servers: Vec<NodeNo> = self
                    .cluster
                    .servers()
                    .into_iter()
                    .filter(|server| *server != old)
                    .collect();
                let (a, b) = (Host::Device(device), Host::Node(old));
                self.cluster.cut(a, b, Direction::Both);
                self.end_in(span + Duration::from_secs(3), End::Heal(a, b));
                if self.rng.bool() {
                    self.cluster.isolate(old);
                    self.end_in(span, End::Join(old));
                }
                self.cluster.end_device(device);
                let start = Start {
                    servers,
                    ..self.draw_start(device)
                };
                self.cluster.start_device(device, &start);
            }
        }
        Some(())
    }

    fn end_in(&mut self, span: Duration, end: End) {
        self.faults_count += 1;
        self.ends.insert((self.cluster.now() + span, self.faults_count), end);
    }

    fn end(&mut self, end: End) {
        match end {
            End::Revive(node) => self.cluster.revive_node(node),
            End::ReviveControl => self.cluster.revive_control(),
            End::Heal(a, b) => self.cluster.heal(a, b),
            End::Join(node) => self.cluster.join(node),
            End::Start(device) => {
                let start = self.draw_start(device);
                self.cluster.start_device(device, &start);
            }
        }
    }
}

/// Control gathers the regions, nodes join and find each other.
const BOOT_MAX: Duration = Duration::from_secs(20);
/// Devices connect, all at once.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// After the last fault all instances agree within this time.
const CONVERGE_MAX: Duration = Duration::from_secs(30);
/// How long there is traffic once all has come to rest.
const CALM: Duration = Duration::from_secs(5);
/// The longest time to live of a message.
const TTL_MS_MAX: u32 = 15_000;
/// Devices ping so often at most: half-open sessions end within the time to converge.
const PING_MS_MIN: u32 = 2_000;
const PING_MS_MAX: u32 = 16_000;
/// Wall clocks jump so far at most.
const CLOCK_JUMP_MS_MAX: i64 = 120_000;
