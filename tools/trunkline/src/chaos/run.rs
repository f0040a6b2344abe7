//! A run: the devices with their traffic in one thread, the faults in another.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use fastrand::Rng;
use trunkline_client::{
    DeviceId, DeviceIndex, DeviceOptions, Event, Fleet, Guarantee, Instance, Message, MessageId, Outcome, SendError,
    TtlMs,
};
use trunkline_net::backend::Backend;
use trunkline_net::driver::Driver;
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::auth::random_bytes;
use trunkline_wire::device::PingIntervalMs;

use super::judge::{End, Judge, Record, Why};
use super::ledger::Ledger;
use super::network::{Network, namespace, small_disk, socket};
use super::plan::{Fault, Kind, Plan, Round};
use super::strike::Striker;
use super::watch;
use crate::cluster::{Cluster, Place, is_edge, names};
use crate::signals::Stop;

/// What to do, and for how long.
pub struct Settings {
    /// Seeds the faults and the traffic.
    pub seed: u64,
    /// How long faults come.
    pub lasts: Duration,
    /// Messages a second, over all devices.
    pub rate: u32,
    /// How many devices.
    pub devices: usize,
    /// Which faults.
    pub kinds: Vec<Kind>,
    /// How the nodes reach the kernel.
    pub backend: Backend,
    /// Where logs and ledger are.
    pub directory: PathBuf,
}

/// What became of a run.
pub struct Verdict {
    /// The judge, with all that it found.
    pub judge: Judge,
    /// Messages sent.
    pub sent: u64,
    /// Messages that a device could not take, since too much waited already.
    pub held_back: u64,
    /// Connections that were lost.
    pub disconnects: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// What an operator changed meanwhile, by kind.
    pub changes: BTreeMap<&'static str, u64>,
    /// How long it took.
    pub elapsed: Duration,
}

/// What the thread of the faults tells.
enum Note {
    Record(Record),
    Began(Round),
    Ended(Fault, Duration),
}

/// Makes the network and the cluster, plays, and judges. `tell` is told of each fault.
///
/// # Errors
/// If the network or the cluster can't be made, or a process doesn't start again.
pub fn run(settings: &Settings, stop: &Stop, tell: &mut dyn FnMut(String)) -> anyhow::Result<Verdict> {
    let network = Network::make()?;
    let disks: BTreeMap<String, PathBuf> = super::network::processes()
        .map(|name| small_disk(&name).map(|disk| (name, disk)))
        .collect::<Result<_, _>>()?;
    let cluster = Cluster::start(&settings.directory, settings.backend, &|name| Place {
        data: disks[name].clone(),
        namespace: Some(namespace(name)),
        listen: socket,
    })?;
    let servers = cluster.device_addresses()?;
    let mut crowd = Crowd::connect(settings, servers)?;
    tell(format!("{} devices are connected; faults begin", settings.devices));
    let (notes, told) = channel();
    let (end, ended) = channel();
    let striker = Striker::new(cluster, network);
    thread::scope(|scope| {
        let faults = scope.spawn(move || strike_on(settings, striker, &notes, &ended));
        let played = crowd.play(stop, &told, tell);
        // The round at hand is healed first.
        drop(end);
        let striker = faults.join().expect("faults do not panic");
        let faults = played?;
        let mut striker = striker?;
        crowd.settle()?;
        striker.cluster.end()?;
        crowd.verdict(faults)
    })
}

/// Round after round, until the time is over or `ended` is closed.
fn strike_on(
    settings: &Settings,
    mut striker: Striker,
    notes: &Sender<Note>,
    ended: &Receiver<()>,
) -> anyhow::Result<Striker> {
    let mut plan = Plan::new(settings.seed, &settings.kinds);
    let started = Instant::now();
    // Nobody listens any more when the traffic has failed: then that is what is reported.
    let note = |note| drop(notes.send(note));
    while started.elapsed() < settings.lasts {
        if ended.recv_timeout(QUIET) != Err(RecvTimeoutError::Timeout) {
            break;
        }
        let round = plan.round();
        let struck = round.fault.edges();
        let edges: Vec<usize> = edges()
            .filter(|(_, name)| struck.contains(name))
            .map(|(n, _)| n)
            .collect();
        note(Note::Record(Record::Struck(edges.clone())));
        note(Note::Began(round.clone()));
        striker
            .change(&round.change)
            .with_context(|| round.change.to_string())?;
        striker.strike(&round.fault).with_context(|| round.fault.to_string())?;
        let _ = ended.recv_timeout(round.hold);
        striker
            .heal(&round.fault)
            .with_context(|| format!("healing: {}", round.fault))?;
        let healed = Instant::now();
        if let Err(why) = watch::come_together(settings.devices) {
            note(Note::Record(Record::Torn(format!("after {}: {why}", round.fault))));
        }
        note(Note::Record(Record::Healed(edges)));
        note(Note::Ended(round.fault, healed.elapsed()));
    }
    Ok(striker)
}

/// The connection servers, by place.
fn edges() -> impl Iterator<Item = (usize, String)> {
    names().filter(|name| is_edge(name)).enumerate()
}

/// The devices.
struct Crowd<'a> {
    settings: &'a Settings,
    fleet: Fleet<EpollDriver>,
    /// By place.
    devices: Vec<(DeviceIndex, DeviceId)>,
    places: HashMap<DeviceIndex, usize>,
    servers: Vec<SocketAddr>,
    under_way: HashMap<(DeviceIndex, MessageId), u64>,
    ledger: Ledger,
    rng: Rng,
    sent: u64,
    held_back: u64,
    disconnects: u64,
    changes: BTreeMap<&'static str, u64>,
}

impl<'a> Crowd<'a> {
    /// Connects all devices, and waits until all are let in.
    fn connect(settings: &'a Settings, servers: Vec<SocketAddr>) -> anyhow::Result<Crowd<'a>> {
        let driver = EpollDriver::new(Options {
            // They dial, and accept nothing.
            sockets_max: 2 * settings.devices as u32 + 64,
            sockets_reserved: 1,
            ..Options::default()
        });
        let mut fleet = Fleet::new(driver.context("the devices' sockets")?, settings.seed);
        let instance = Instance(u64::from_le_bytes(random_bytes()));
        let known: Arc<[SocketAddr]> = servers.clone().into();
        let mut devices = Vec::new();
        for place in 0..settings.devices {
            let id = DeviceId::new(&format!("device-{place}")).expect("a valid id");
            let mut options = DeviceOptions::new(Arc::clone(&known), id.clone(), instance);
            options.ping_interval = PingIntervalMs::new(PING_MS).expect("within the range");
            devices.push((fleet.add(options)?, id));
        }
        let mut crowd = Crowd {
            places: devices
                .iter()
                .enumerate()
                .map(|(place, (index, _))| (*index, place))
                .collect(),
            ledger: Ledger::open(&settings.directory, settings.devices, servers.len())?,
            rng: Rng::with_seed(settings.seed ^ 1),
            settings,
            fleet,
            devices,
            servers,
            under_way: HashMap::new(),
            sent: 0,
            held_back: 0,
            disconnects: 0,
            changes: BTreeMap::new(),
        };
        let until = Instant::now() + WELCOME_TIMEOUT;
        while !crowd.all_open() {
            crowd.turn()?;
            anyhow::ensure!(
                Instant::now() < until,
                "not all devices were let in within {WELCOME_TIMEOUT:?}"
            );
        }
        Ok(crowd)
    }

    fn all_open(&self) -> bool {
        let open = |(index, _): &(DeviceIndex, DeviceId)| self.fleet.session(*index).is_some_and(|s| s.is_open());
        self.devices.iter().all(open)
    }

    /// Sends at the set rate until the faults end. Returns how many there were.
    fn play(
        &mut self,
        stop: &Stop,
        told: &Receiver<Note>,
        tell: &mut dyn FnMut(String),
    ) -> anyhow::Result<BTreeMap<Kind, u64>> {
        let mut faults = BTreeMap::new();
        let started = Instant::now();
        let mut turns_due = 0u64;
        loop {
            loop {
                match told.try_recv() {
                    Ok(Note::Record(record)) => self.ledger.append(&record)?,
                    Ok(Note::Began(round)) => {
                        *faults.entry(round.kind).or_default() += 1;
                        *self.changes.entry(round.change.kind()).or_default() += 1;
                        let at = self.ledger.elapsed().as_secs_f64();
                        let hold = round.hold.as_secs_f64();
                        tell(format!(
                            "{at:7.1} s  {} for {hold:.1} s, and {}",
                            round.fault, round.change
                        ));
                    }
                    Ok(Note::Ended(fault, took)) => {
                        tracing::info!("{fault}: together again after {took:?}");
                    }
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    // The faults are over.
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(faults),
                }
            }
            if stop.is_asked() {
                return Ok(faults);
            }
            let due = (started.elapsed().as_secs_f64() * f64::from(self.settings.rate)) as u64;
            while turns_due < due {
                turns_due += 1;
                self.send()?;
            }
            self.turn()?;
        }
    }

    fn send(&mut self) -> anyhow::Result<()> {
        let count = self.devices.len();
        let sender = self.rng.usize(..count);
        let recipient = (sender + self.rng.usize(1..count)) % count;
        let (index, (device, _)) = (self.sent, &self.devices[sender]);
        let payload = payload(index, sender, recipient);
        let ttl = TtlMs::new(TTL_MS).expect("within the range");
        let to = self.devices[recipient].1.borrow();
        match self.fleet.send(*device, to, payload, ttl, Guarantee::Confirmed) {
            Ok(id) => {
                self.under_way.insert((*device, id), index);
                self.sent += 1;
                self.ledger.append(&Record::Sent {
                    index,
                    sender,
                    recipient,
                })
            }
            Err(SendError::Busy { .. }) => {
                self.held_back += 1;
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("device {sender} could not send")),
        }
    }

    fn turn(&mut self) -> anyhow::Result<()> {
        let until = self.fleet.driver().now() + STEP;
        self.fleet.turn(Some(until)).context("the devices' sockets")?;
        while let Some((device, event)) = self.fleet.next_event() {
            let place = self.places[&device];
            let record = match event {
                Event::Welcomed(welcomed) => {
                    let server = self.servers.iter().position(|server| *server == welcomed.server);
                    Record::Connected(place, server.context("a server that is none of the cluster's")?)
                }
                Event::Disconnected { .. } => {
                    self.disconnects += 1;
                    Record::Disconnected(place)
                }
                Event::Stopped { reason } => anyhow::bail!("device {place} has given up: {reason}"),
                Event::Message(message) => self.shown(place, &message),
                Event::Report(report) => match self.under_way.remove(&(device, report.id)) {
                    Some(index) => Record::Reported {
                        index,
                        end: end_of(report.outcome),
                    },
                    // Which message it was about was forgotten with its first report.
                    None => Record::Reported {
                        index: u64::MAX,
                        end: end_of(report.outcome),
                    },
                },
            };
            self.ledger.append(&record)?;
        }
        Ok(())
    }

    fn shown(&self, device: usize, message: &Message) -> Record {
        let says = says(&message.payload)
            .filter(|&(index, sender)| payload(index, sender, device) == message.payload)
            .filter(|&(_, sender)| self.devices.get(sender).is_some_and(|(_, id)| *id == message.sender));
        Record::Shown {
            device,
            says,
            number: message.number,
            late: message.late,
        }
    }

    /// Waits for the last reports.
    fn settle(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_millis(TTL_MS.into()) + GRACE;
        while !self.under_way.is_empty() && Instant::now() < until {
            self.turn()?;
        }
        Ok(())
    }

    fn verdict(self, faults: BTreeMap<Kind, u64>) -> anyhow::Result<Verdict> {
        Ok(Verdict {
            elapsed: self.ledger.elapsed(),
            judge: self.ledger.close()?,
            sent: self.sent,
            held_back: self.held_back,
            disconnects: self.disconnects,
            faults,
            changes: self.changes,
        })
    }
}

/// Which message, from whom, to whom, and a filling that follows from it.
fn payload(index: u64, sender: usize, recipient: usize) -> Vec<u8> {
    let mut bytes = format!("{index} {sender} {recipient} ").into_bytes();
    let mut rng = Rng::with_seed(index);
    let filling = rng.usize(..FILLING_MAX);
    bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(filling));
    bytes
}

/// Which message a payload says it is, and from whom.
fn says(payload: &[u8]) -> Option<(u64, usize)> {
    let mut words = payload.split(|byte| *byte == b' ');
    let mut word = || std::str::from_utf8(words.next()?).ok();
    Some((word()?.parse().ok()?, word()?.parse().ok()?))
}

fn end_of(outcome: Outcome) -> End {
    match outcome {
        Outcome::Delivered { .. } => End::Delivered,
        Outcome::Offline { maybe_delivered, .. } => End::Not(Why::Offline, maybe_delivered),
        Outcome::Expired { maybe_delivered } => End::Not(Why::Expired, maybe_delivered),
        Outcome::Rejected { maybe_delivered, .. } => End::Not(Why::Rejected, maybe_delivered),
    }
}

/// Longer than any fault and what it takes to recover from it, so that only what is stuck expires.
const TTL_MS: u32 = 20_000;
/// The library's own, and more.
const GRACE: Duration = Duration::from_secs(10);
/// A server closes who isn't heard for one and a half times this: longer than any fault.
const PING_MS: u32 = 4_000;
const FILLING_MAX: usize = 400;
/// Between two rounds.
const QUIET: Duration = Duration::from_millis(1_000);
/// How long one wait lasts at most, so that the rate is kept.
const STEP: Duration = Duration::from_millis(2);
const WELCOME_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_says_which_message_it_is() {
        for index in 0..100 {
            let payload = payload(index, 7, 11);
            assert_eq!(says(&payload), Some((index, 7)));
        }
        for nonsense in ["", "a b c", "1"] {
            assert_eq!(says(nonsense.as_bytes()), None, "{nonsense}");
        }
    }
}
