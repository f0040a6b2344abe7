//! A fleet in virtual time: hundreds of devices that write to each other through a hub that loses connections, changes the
//! order, and says things twice.

#[path = "support/hub.rs"]
mod hub;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use trunkline_client::{
    DeviceId, DeviceIndex, DeviceOptions, Event, Fleet, Guarantee, Instance, Message, Outcome, Report, SendError, TtlMs,
};
use trunkline_net::driver::Driver;
use trunkline_net::sim::{SimDriver, SimOptions, World, WorldOptions};
use trunkline_wire::time::Instant;

use self::hub::Hub;

const DEVICES: u32 = 200;
const HUB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
const FLEET: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

/// Sender, recipient, number.
type Name = (DeviceId, DeviceId, u64);

struct Run {
    world: World,
    hub: Hub<SimDriver>,
    fleet: Fleet<SimDriver>,
    random: fastrand::Rng,
    sent: BTreeMap<Name, Vec<u8>>,
    reports: BTreeMap<Name, Report>,
    shown: Vec<(DeviceId, Message)>,
    losses: usize,
}

fn name(index: u32) -> DeviceId {
    DeviceId::new(&format!("device-{index}")).unwrap()
}

impl Run {
    fn new(seed: u64) -> Run {
        let world = World::new(seed, WorldOptions::default());
        let address = SocketAddr::from((HUB, 7400));
        let hub = Hub::new(world.driver(HUB, SimOptions::default()), address, seed);
        let mut fleet = Fleet::new(world.driver(FLEET, SimOptions::default()), seed);
        for index in 0..DEVICES {
            let instance = Instance(u64::from(index) + 1);
            let options = DeviceOptions::new([address].into(), name(index), instance);
            assert_eq!(fleet.add(options), Ok(DeviceIndex(index)));
        }
        Run {
            world,
            hub,
            fleet,
            random: fastrand::Rng::with_seed(seed),
            sent: BTreeMap::new(),
            reports: BTreeMap::new(),
            shown: Vec::new(),
            losses: 0,
        }
    }

    fn until(&mut self, end: Instant) {
        let mut ready = Vec::new();
        loop {
            ready.clear();
            self.world.take_ready(&mut ready);
            let now = self.world.now();
            let due = self.fleet.deadline() <= now || self.hub.deadline() <= now;
            if !ready.is_empty() || due {
                self.hub.turn();
                self.fleet.turn(Some(now)).unwrap();
                self.take_events();
                continue;
            }
            let event = self.world.next_event().unwrap_or(Instant::NEVER);
            let next = event.min(self.fleet.deadline()).min(self.hub.deadline());
            if next > end {
                return self.world.advance(end);
            }
            self.world.advance(next);
        }
    }

    fn send_some(&mut self, guarantee: Guarantee) {
        for _ in 0..40 {
            let (from, to) = (self.random.u32(..DEVICES), self.random.u32(..8));
            let payload = self.random.u64(..).to_le_bytes().repeat(self.random.usize(..200));
            let ttl = TtlMs::new(5_000).unwrap();
            let sent = self
                .fleet
                .send(DeviceIndex(from), name(to).borrow(), payload.clone(), ttl, guarantee);
            self.sent.insert((name(from), name(to), sent.unwrap().number), payload);
        }
    }

    fn take_events(&mut self) {
        while let Some((DeviceIndex(index), event)) = self.fleet.next_event() {
            match event {
                Event::Report(report) => {
                    let id = (name(index), report.id.recipient.clone(), report.id.number);
                    assert!(self.sent.contains_key(&id), "a report without a message");
                    assert_eq!(self.reports.insert(id, report), None, "two reports");
                }
                Event::Message(message) => self.shown.push((name(index), message)),
                Event::Disconnected { .. } => self.losses += 1,
                Event::Welcomed(_) => {}
                Event::Stopped { reason } => panic!("{reason}"),
            }
        }
    }

    /// What must hold of what was shown, whatever happened.
    fn check(&self) {
        let mut once = BTreeSet::new();
        let mut newest = BTreeMap::new();
        for (recipient, message) in &self.shown {
            let id = (message.sender.clone(), recipient.clone(), message.number);
            assert_eq!(
                self.sent.get(&id),
                Some(&message.payload),
                "no invention, no misdelivery"
            );
            assert!(once.insert(id), "shown twice");
            let newest = newest.entry((message.sender.clone(), recipient)).or_insert(0);
            assert_eq!(message.late, message.number < *newest);
            *newest = message.number.max(*newest);
        }
        for (id, report) in &self.reports {
            let shown = once.contains(id);
            match report.outcome {
                Outcome::Delivered { .. } => assert!(shown, "delivered but not shown"),
                other => assert!(!shown || other.maybe_delivered(), "{other:?} but shown"),
            }
        }
    }
}

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

/// Runs with resets for a while, then without, and checks. Returns the trace's hash, and how many messages were shown late.
fn run_with_resets(seed: u64) -> (u64, u64) {
    let mut run = Run::new(seed);
    run.until(at(500));
    assert_eq!(run.fleet.counts().welcomed, u64::from(DEVICES));
    for step in 1..=40 {
        run.send_some(Guarantee::Confirmed);
        if step % 8 == 0 {
            run.send_some(Guarantee::FireAndForget);
            run.world.reset_connections(FLEET);
        }
        run.until(at(500 + step * 50));
    }
    run.until(at(20_000));
    let counts = run.fleet.counts();
    let confirmed = run.sent.len() - 5 * 40;
    assert_eq!(run.reports.len(), confirmed, "one report each, seed {seed}");
    assert!(
        run.losses >= 5 * DEVICES as usize && counts.resent > 0,
        "the resets were felt"
    );
    let delivered = run
        .reports
        .values()
        .filter(|report| report.outcome.name() == "delivered");
    assert!(delivered.count() > confirmed * 9 / 10, "most arrive");
    assert!(counts.acknowledged_again > 0, "repetition was felt: {counts:?}");
    run.check();
    (run.world.trace_hash(), counts.shown_late)
}

#[test]
fn through_resets_disorder_and_repetition_every_message_is_reported_once_and_shown_once() {
    // A few of a run's messages at most come after the window, so that one run may have none.
    let late: u64 = (1..=5).map(|seed| run_with_resets(seed).1).sum();
    assert!(late > 0, "disorder was felt");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run_with_resets(7), run_with_resets(7));
    assert_ne!(run_with_resets(7), run_with_resets(8));
}

#[test]
fn a_cut_off_fleet_reports_what_expires_and_comes_back() {
    let mut run = Run::new(1);
    run.until(at(500));
    run.world.cut(HUB, FLEET, trunkline_net::sim::Direction::Both);
    run.send_some(Guarantee::Confirmed);
    run.until(at(8_000));
    assert_eq!(run.reports.len(), run.sent.len());
    let expired = Outcome::Expired { maybe_delivered: true };
    assert!(run.reports.values().all(|report| report.outcome == expired));
    run.world.heal_all();
    run.until(at(60_000));
    let before = run.sent.len();
    run.send_some(Guarantee::Confirmed);
    run.until(at(62_000));
    let reports = run
        .reports
        .iter()
        .filter(|(_, report)| report.outcome.name() == "delivered");
    assert_eq!(reports.count(), run.sent.len() - before);
    run.check();
}

#[test]
fn a_removed_device_leaves_no_socket_and_no_event() {
    let mut run = Run::new(1);
    run.until(at(500));
    assert_eq!(run.fleet.driver().open(), DEVICES as usize);
    for index in 0..DEVICES {
        run.fleet.remove(DeviceIndex(index));
    }
    run.until(at(1_000));
    assert_eq!((run.fleet.driver().open(), run.fleet.len()), (0, 0));
    assert_eq!(run.fleet.deadline(), Instant::NEVER);
    let sent = run.fleet.send(
        DeviceIndex(0),
        name(1).borrow(),
        vec![],
        TtlMs::default(),
        Guarantee::Confirmed,
    );
    assert_eq!(sent, Err(SendError::Stopped));
    run.fleet.remove(DeviceIndex(0));
}
