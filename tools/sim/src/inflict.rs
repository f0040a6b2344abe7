//! What each kind of fault does to a cluster, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_client::{Guarantee, TtlMs};
use trunkline_net::sim::{Death, Descriptors, Direction, Latency};

use crate::devices::Start;
use crate::faults::Host;
use crate::journal::DeviceNo;
use crate::node::{DEVICE_PORT, NodeNo, PEER_PORT};
use crate::promise::Checked;
use crate::scenario::Kind;
use crate::swarm::Run;

/// How a fault ends.
#[derive(Clone, Debug)]
pub(crate) enum End {
    Kill(NodeNo, Duration),
    KillControl(Duration),
    Revive(NodeNo),
    ReviveControl,
    Heal(Host, Host),
    Join(NodeNo),
    Reunite(Vec<(Host, Host)>),
    Start(DeviceNo),
    Pace(Host),
    Steady(Host),
    Plenty(Host),
    DiskFree(NodeNo),
}

impl Run {
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

    pub(crate) fn draw_device(&mut self) -> DeviceNo {
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

    fn draw_death(&mut self) -> Death {
        match self.rng.u32(..4) {
            0 => Death::Silent,
            _ => Death::Visible,
        }
    }

    /// `None` if there is nobody to suffer it.
    ///
    /// # Errors
    /// The first promise that is broken, if time passes.
    pub(crate) fn inflict(&mut self, kind: Kind) -> Checked<Option<()>> {
        let span = self.draw_span();
        Ok(match kind {
            Kind::KillInstance | Kind::KillServer => self.kill(kind == Kind::KillInstance, span),
            Kind::KillRegion => self.kill_region(span),
            Kind::KillControl => self.kill_control(span),
            Kind::ReplaceControl => self.replace_control(span),
            Kind::CrashUnwritten => self.crash_unwritten(span),
            Kind::DrainServer | Kind::DrainInstance => self.drain(kind == Kind::DrainInstance, span),
            Kind::Cut => self.cut(Direction::Both, span),
            Kind::CutOneWay => self.cut(Direction::Forward, span),
            Kind::CutDevice => self.cut_device(span),
            Kind::Isolate => self.isolate(span),
            Kind::Split => self.split(span),
            Kind::Reset => self.reset(),
            Kind::Storm => self.storm(),
            Kind::Pause => self.pause(span),
            Kind::PauseDevice => {
                let device = self.draw_device();
                self.cluster.pause(Host::Device(device), span);
                Some(())
            }
            Kind::Mute => self.mute(),
            Kind::Flood => self.flood(),
            Kind::SlowNode => self.slow_node(span),
            Kind::SlowDevice => self.slow_device(span),
            Kind::ClockJump => self.jump_clock(),
            Kind::ClockDrift => self.drift_clock(span),
            Kind::Descriptors => self.exhaust_descriptors(span),
            Kind::DiskFull => self.fill_disk(span),
            Kind::StoreFails => {
                let reaches_disk = self.rng.bool();
                self.cluster.fail_store(reaches_disk);
                Some(())
            }
            Kind::Churn => self.churn(span),
            Kind::Roam => self.roam(span),
            Kind::Stranger => self.stranger(),
            Kind::MoveSlots => self.move_slots(),
            Kind::MoveDevice => self.move_device(),
            Kind::AbortMove => self.abort_move(),
            Kind::RemoveInstance => self.remove_instance(),
            Kind::AddInstance => self.add_instance(),
        })
    }

    /// A region to move to, unless there is one only, no control, or enough to do for it.
    fn draw_target(&mut self) -> Option<usize> {
        let regions = self.cluster.regions();
        let open = self.cluster.moves_open();
        (regions > 1 && self.cluster.control_runs() && open < MOVES_OPEN_MAX).then(|| self.rng.usize(..regions))
    }

    fn move_slots(&mut self) -> Option<()> {
        let to = self.draw_target()?;
        // Many at once, since devices are few.
        let first = self.rng.u16(..);
        let last = self.rng.u16(first..);
        self.cluster.move_slots(first, last, to).then_some(())
    }

    fn move_device(&mut self) -> Option<()> {
        let to = self.draw_target()?;
        let device = self.draw_device();
        self.cluster.move_device(device, to).then_some(())
    }

    fn abort_move(&mut self) -> Option<()> {
        if self.cluster.moves_open() == 0 {
            return None;
        }
        self.cluster.abort_move();
        Some(())
    }

    fn remove_instance(&mut self) -> Option<()> {
        if !self.cluster.control_runs() || self.cluster.moves_open() >= MOVES_OPEN_MAX {
            return None;
        }
        let region = self.rng.usize(..self.cluster.regions());
        let node = self.rng.choice(self.cluster.instances(region))?;
        self.cluster.remove_instance(node, region).then_some(())
    }

    fn add_instance(&mut self) -> Option<()> {
        if !self.cluster.control_runs() || self.cluster.moves_open() >= MOVES_OPEN_MAX {
            return None;
        }
        let region = self.rng.usize(..self.cluster.regions());
        let node = self.draw_node(true)?;
        self.cluster.add_instance(node, region).then_some(())
    }

    fn kill(&mut self, region: bool, span: Duration) -> Option<()> {
        let (node, death) = (self.draw_node(region)?, self.draw_death());
        self.cluster.kill_node(node, death);
        self.end_in(span, End::Revive(node));
        Some(())
    }

    fn kill_region(&mut self, span: Duration) -> Option<()> {
        let region = self.rng.usize(..self.cluster.regions());
        let death = self.draw_death();
        for node in self.cluster.instances(region) {
            if self.cluster.node_runs(node) {
                self.cluster.kill_node(node, death);
                let span = span + self.some(Duration::from_millis(500));
                self.end_in(span, End::Revive(node));
            }
        }
        Some(())
    }

    fn kill_control(&mut self, span: Duration) -> Option<()> {
        if !self.cluster.control_runs() {
            return None;
        }
        let death = self.draw_death();
        self.cluster.kill_control(death);
        self.end_in(span, End::ReviveControl);
        Some(())
    }

    fn replace_control(&mut self, span: Duration) -> Option<()> {
        if !self.cluster.control_runs() {
            return None;
        }
        self.cluster.replace_control();
        self.end_in(span, End::ReviveControl);
        Some(())
    }

    fn crash_unwritten(&mut self, span: Duration) -> Option<()> {
        let until = Duration::from_millis(self.rng.u64(1..2_000));
        if self.rng.bool() {
            if !self.cluster.control_runs() {
                return None;
            }
            self.cluster.fail_store(false);
            self.end_in(until, End::KillControl(span));
            return Some(());
        }
        let node = self.draw_any()?;
        self.cluster.set_disk_full(node, true);
        self.end_in(until, End::Kill(node, span));
        Some(())
    }

    fn drain(&mut self, region: bool, span: Duration) -> Option<()> {
        let node = self.draw_node(region)?;
        if self.cluster.is_draining(node) {
            return None;
        }
        let retry_after_ms = self.rng.u32(..2_000);
        self.cluster.drain_node(node, retry_after_ms);
        self.end_in(DRAIN_MAX + span, End::Revive(node));
        Some(())
    }

    fn cut(&mut self, direction: Direction, span: Duration) -> Option<()> {
        let (a, b) = (self.draw_any()?, self.draw_any()?);
        if a == b {
            return None;
        }
        let with_control = self.rng.u32(..6) == 0;
        let b = if with_control { Host::Control } else { Host::Node(b) };
        self.cluster.cut(Host::Node(a), b, direction);
        self.end_in(span, End::Heal(Host::Node(a), b));
        Some(())
    }

    fn cut_device(&mut self, span: Duration) -> Option<()> {
        let device = self.draw_device();
        let node = self.cluster.connected_at(device)?;
        let direction = self
            .rng
            .choice([Direction::Both, Direction::Forward, Direction::Backward])?;
        let (a, b) = (Host::Device(device), Host::Node(node));
        self.cluster.cut(a, b, direction);
        self.end_in(span, End::Heal(a, b));
        Some(())
    }

    fn isolate(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        self.cluster.isolate(node);
        self.end_in(span, End::Join(node));
        Some(())
    }

    fn split(&mut self, span: Duration) -> Option<()> {
        let mut hosts: Vec<Host> = self.cluster.nodes_where(|_| true).into_iter().map(Host::Node).collect();
        hosts.push(Host::Control);
        self.rng.shuffle(&mut hosts);
        let at = self.rng.usize(1..hosts.len());
        let (some, others) = hosts.split_at(at);
        let pairs = some.iter().flat_map(|a| others.iter().map(|b| (*a, *b)));
        let pairs: Vec<(Host, Host)> = pairs.collect();
        self.cluster.split(&pairs);
        self.end_in(span, End::Reunite(pairs));
        Some(())
    }

    fn reset(&mut self) -> Option<()> {
        let node = self.draw_any()?;
        let host = if self.rng.bool() {
            Host::Node(node)
        } else {
            Host::Device(self.draw_device())
        };
        self.cluster.reset(host);
        Some(())
    }

    fn storm(&mut self) -> Option<()> {
        self.cluster.reset_devices();
        Some(())
    }

    fn pause(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        let host = if self.rng.u32(..6) == 0 {
            Host::Control
        } else {
            Host::Node(node)
        };
        self.cluster.pause(host, span);
        Some(())
    }

    fn mute(&mut self) -> Option<()> {
        let device = self.draw_device();
        let span = Duration::from_millis(self.rng.u64(5_000..40_000));
        self.cluster.pause(Host::Device(device), span);
        self.burst(None, Some(device), 60, 8_000);
        Some(())
    }

    fn flood(&mut self) -> Option<()> {
        let device = self.draw_device();
        let count = self.rng.u32(100..1_500);
        let recipient = self.rng.bool().then(|| self.draw_device());
        self.burst(Some(device), recipient, count, 200);
        Some(())
    }

    /// Many messages at once, from one or from all, to one or to all.
    pub(crate) fn burst(&mut self, sender: Option<DeviceNo>, recipient: Option<DeviceNo>, count: u32, bytes: usize) {
        for _ in 0..count {
            let sender = sender.unwrap_or_else(|| self.draw_device());
            let recipient = recipient.unwrap_or_else(|| self.draw_device());
            let guarantee = match self.rng.u32(..4) {
                0 => Guarantee::FireAndForget,
                _ => Guarantee::Confirmed,
            };
            let ttl = TtlMs::new(self.rng.u32(3_000..10_000)).expect("in range");
            self.cluster.send(sender, recipient, bytes, ttl, guarantee);
        }
    }

    fn slow_node(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        let ms = self.rng.u64(5..120);
        let latency = Latency {
            base: Duration::from_millis(ms),
            jitter: Duration::from_millis(ms),
        };
        self.cluster.set_pace(Host::Node(node), latency);
        self.end_in(span, End::Pace(Host::Node(node)));
        Some(())
    }

    fn slow_device(&mut self, span: Duration) -> Option<()> {
        let device = self.draw_device();
        let ms = self.rng.u64(50..900);
        let latency = Latency {
            base: Duration::from_millis(ms),
            jitter: Duration::from_millis(ms),
        };
        self.cluster.set_pace(Host::Device(device), latency);
        self.end_in(span, End::Pace(Host::Device(device)));
        Some(())
    }

    fn jump_clock(&mut self) -> Option<()> {
        let node = self.draw_any()?;
        let ms = self.rng.i64(-CLOCK_JUMP_MS_MAX..=CLOCK_JUMP_MS_MAX);
        self.cluster.jump_clock(Host::Node(node), ms);
        Some(())
    }

    fn drift_clock(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        let ppm = self.rng.i64(-CLOCK_DRIFT_PPM_MAX..=CLOCK_DRIFT_PPM_MAX);
        self.cluster.drift_clock(Host::Node(node), ppm);
        self.end_in(span, End::Steady(Host::Node(node)));
        Some(())
    }

    fn exhaust_descriptors(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        self.cluster.set_descriptors(Host::Node(node), Descriptors::Exhausted);
        self.end_in(span, End::Plenty(Host::Node(node)));
        Some(())
    }

    fn fill_disk(&mut self, span: Duration) -> Option<()> {
        let node = self.draw_any()?;
        self.cluster.set_disk_full(node, true);
        self.end_in(span, End::DiskFree(node));
        Some(())
    }

    fn churn(&mut self, span: Duration) -> Option<()> {
        let device = self.draw_device();
        if !self.cluster.device_runs(device) {
            return None;
        }
        self.cluster.end_device(device);
        let most = match self.rng.u32(..4) {
            0 | 1 => Duration::from_millis(20),
            2 => Duration::from_secs(3),
            _ => span,
        };
        self.end_in(span.min(most), End::Start(device));
        Some(())
    }

    fn roam(&mut self, span: Duration) -> Option<()> {
        let device = self.draw_device();
        let old = self.cluster.connected_at(device)?;
        let servers = self.cluster.servers().into_iter();
        let servers: Vec<NodeNo> = servers.filter(|server| *server != old).collect();
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
        Some(())
    }

    fn stranger(&mut self) -> Option<()> {
        let node = self.draw_any()?;
        let port = if self.rng.bool() { DEVICE_PORT } else { PEER_PORT };
        let address = SocketAddr::new(self.cluster.node_address(node), port);
        self.cluster.let_stranger_come(address);
        Some(())
    }

    fn end_in(&mut self, span: Duration, end: End) {
        self.faults_count += 1;
        self.ends.insert((self.cluster.now() + span, self.faults_count), end);
    }

    /// A fault ends.
    ///
    /// # Errors
    /// None: for the symmetry with [`Run::inflict`].
    pub(crate) fn end(&mut self, end: End) -> Checked {
        match end {
            End::Kill(node, span) => {
                if self.cluster.node_runs(node) {
                    self.cluster.kill_node(node, Death::Visible);
                    self.end_in(span, End::Revive(node));
                }
                self.cluster.set_disk_full(node, false);
            }
            End::KillControl(span) => {
                if self.cluster.control_runs() {
                    self.cluster.kill_control(Death::Visible);
                    self.end_in(span, End::ReviveControl);
                }
            }
            // It may be cut short, or have been killed meanwhile and started since.
            End::Revive(node) => self.cluster.restart_node(node),
            End::ReviveControl => {
                if !self.cluster.control_runs() {
                    self.cluster.revive_control();
                }
            }
            End::Heal(a, b) => self.cluster.heal(a, b),
            End::Join(node) => self.cluster.join(node),
            End::Reunite(pairs) => self.cluster.reunite(&pairs),
            End::Start(device) => {
                if !self.cluster.device_runs(device) {
                    let start = self.draw_start(device);
                    self.cluster.start_device(device, &start);
                }
            }
            End::Pace(host) => {
                let latency = self.latency;
                self.cluster.set_pace(host, latency);
            }
            End::Steady(host) => self.cluster.drift_clock(host, 0),
            End::Plenty(host) => self.cluster.set_descriptors(host, Descriptors::Plenty),
            End::DiskFree(node) => self.cluster.set_disk_full(node, false),
        }
        Ok(())
    }
}

/// Wall clocks jump so far at most.
const CLOCK_JUMP_MS_MAX: i64 = 120_000;
/// And go wrong by so much: far more than any clock that works.
const CLOCK_DRIFT_PPM_MAX: i64 = 200_000;
/// How long a node that was told to go may take: its time to send devices away, and some for last words and links.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const _: () = assert!(DRAIN_MAX.as_secs() > crate::node::DRAIN_WITHIN.as_secs());

/// Moves that are under way, or wait, at a time: once all faults are over they have half a minute to end.
const MOVES_OPEN_MAX: usize = 6;
