//! Messages between many devices, and the ledger that says what became of each.
//!
//! Used by `demo` and `replay`: every message is confirmed, carries its own number, and is checked where it arrives.

mod ledger;
mod timed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use trunkline_client::{
    DeviceId, DeviceIndex, DeviceOptions, Event, Fleet, Guarantee, Instance, Loss, MessageId, SendError, TtlMs, Way,
};
use trunkline_net::driver::Driver;
use trunkline_net::epoll::EpollDriver;
use trunkline_wire::auth::random_bytes;

pub use ledger::{Ledger, Summary};
pub use timed::Deed;
pub use trunkline_replay::Trace;

/// When a message is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as reports come back: so many are under way at a time.
    Window(usize),
    /// So many a second, whatever comes of them. Latency counts from the time at which a message should have been sent.
    Rate(f64),
}

fn due(index: usize, rate: f64) -> Duration {
    Duration::from_secs_f64(index as f64 / rate)
}

/// How many messages are under way at a time, unless told otherwise.
pub const WINDOW_DEFAULT: usize = 256;

/// How long all devices together may take to be welcomed.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(60);

/// What lasts longer than a message's time to live, the library's own grace included: then something is lost.
const SILENCE_MAX: Duration = Duration::from_secs(75);

/// How long one wait lasts at most, so that the caller sees progress.
const STEP: Duration = Duration::from_millis(50);
/// The same, while messages are sent at a rate.
const STEP_AT_RATE: Duration = Duration::from_micros(500);

/// Devices that are connected, and what was counted of their messages.
pub struct Run {
    fleet: Fleet<EpollDriver>,
    servers: Arc<[SocketAddr]>,
    devices: BTreeMap<DeviceId, DeviceIndex>,
    names: BTreeMap<DeviceIndex, DeviceId>,
    ledger: Ledger,
    /// Which message it is, and how much later it was sent than it should have been.
    under_way: BTreeMap<(DeviceIndex, MessageId), (usize, Duration)>,
}

/// Where the devices connect, and what lets them in.
pub struct Door {
    /// Device ports of connection servers.
    pub servers: Vec<SocketAddr>,
    /// Which of these each device begins at, by its place in the trace; empty: at a random one, and any other if that fails.
    pub places: Vec<usize>,
    /// Signs the devices' tokens, where the servers ask for them.
    pub token_key: Option<trunkline_wire::auth::Secret>,
}

impl Run {
    /// Connects every device of the trace, and waits until all have been welcomed. `progress` is told how many have.
    pub fn connect(door: &Door, trace: &Trace, seed: u64, progress: &mut dyn FnMut(usize)) -> anyhow::Result<Run> {
        let driver = EpollDriver::new(trunkline_net::epoll::Options {
            // They dial, and accept nothing.
            sockets_max: trace.devices().len() as u32 + 64,
            sockets_reserved: 1,
            ..Default::default()
        })
        .context("the devices' sockets")?;
        let mut fleet = Fleet::new(driver, seed);
        let servers: Arc<[SocketAddr]> = door.servers.clone().into();
        let instance = Instance(u64::from_le_bytes(random_bytes()));
        let mut devices = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (at, device) in trace.devices().iter().enumerate() {
            let choice = match door.places.get(at) {
                Some(&place) => [servers[place]].into(),
                None => Arc::clone(&servers),
            };
            let mut options = DeviceOptions::new(choice, device.clone(), instance);
            if let Some(key) = &door.token_key {
                let expiry = crate::clock::unix_seconds() + 24 * 3600;
                let token = trunkline_wire::auth::DeviceToken::sign(key, device.borrow(), expiry);
                options.credentials = token.bytes().to_vec();
            }
            let index = fleet.add(options)?;
            devices.insert(device.clone(), index);
            names.insert(index, device.clone());
        }
        let mut run = Run {
            fleet,
            servers,
            devices,
            names,
            ledger: Ledger::default(),
            under_way: BTreeMap::new(),
        };
        let deadline = Instant::now() + WELCOME_TIMEOUT;
        let mut welcomed = std::collections::BTreeSet::new();
        let mut last_loss = None;
        while welcomed.len() < run.devices.len() {
            run.turn(STEP)?;
            while let Some((device, event)) = run.fleet.next_event() {
                match event {
                    Event::Welcomed(_) => {
                        welcomed.insert(device);
                    }
                    Event::Disconnected { server, reason, .. } => {
                        welcomed.remove(&device);
                        last_loss = Some(format!("{server}: {reason}"));
                    }
                    Event::Stopped { reason } => bail!("the device {} was not let in: {reason}", run.names[&device]),
                    Event::Message(_) | Event::Report(_) => {}
                }
            }
            progress(welcomed.len());
            if Instant::now() > deadline {
                let why = last_loss.unwrap_or_else(|| "no answer".into());
                bail!(
                    "only {} of {} devices were welcomed; the last loss: {why}",
                    welcomed.len(),
                    run.devices.len()
                );
            }
        }
        Ok(run)
    }

    /// Sends the trace's messages in order, as `pace` says, and waits for all reports. `progress` is told how
    /// many are reported, after each step; what it returns stops the run early (`Break`).
    pub fn send_all(
        &mut self,
        trace: &Trace,
        pace: Pace,
        progress: &mut dyn FnMut(&Summary) -> std::ops::ControlFlow<()>,
    ) -> anyhow::Result<Summary> {
        let started = Instant::now();
        let mut pending = trace.messages().iter().enumerate().peekable();
        let mut heard = Instant::now();
        loop {
            while let Some(&(index, &(sender, recipient))) = pending.peek() {
                let elapsed = started.elapsed();
                let late = match pace {
                    Pace::Window(window) if self.under_way.len() < window => Duration::ZERO,
                    Pace::Rate(rate) if due(index, rate) <= elapsed => elapsed - due(index, rate),
                    Pace::Window(_) | Pace::Rate(_) => break,
                };
                if !self.send(trace, index, (sender, recipient), late)? {
                    break;
                }
                pending.next();
            }
            let reported = self.ledger.reported();
            self.turn(match pace {
                Pace::Window(_) => STEP,
                Pace::Rate(_) => STEP_AT_RATE,
            })?;
            self.take_events();
            if self.ledger.reported() > reported {
                heard = Instant::now();
            }
            let summary = self.ledger.summary(trace.messages().len(), started.elapsed());
            if progress(&summary).is_break() {
                return Ok(summary);
            }
            if self.under_way.is_empty() && pending.peek().is_none() {
                return Ok(self.ledger.summary(trace.messages().len(), started.elapsed()));
            }
            if heard.elapsed() > SILENCE_MAX {
                // What has no report by now will never have one: the summary says so.
                return Ok(self.ledger.summary(trace.messages().len(), started.elapsed()));
            }
        }
    }

    /// False if the device has to wait.
    fn send(
        &mut self,
        trace: &Trace,
        index: usize,
        (sender, recipient): (usize, usize),
        late: Duration,
    ) -> anyhow::Result<bool> {
        let (sender, recipient) = (&trace.devices()[sender], &trace.devices()[recipient]);
        let device = self.devices[sender];
        let payload = self.ledger.payload(index, sender, recipient);
        match self.fleet.send(
            device,
            recipient.borrow(),
            payload,
            TtlMs::default(),
            Guarantee::Confirmed,
        ) {
            Ok(id) => {
                self.ledger.sent(index);
                self.under_way.insert((device, id), (index, late));
                Ok(true)
            }
            Err(SendError::Busy { .. }) => Ok(false),
            Err(error) => bail!("{sender} could not send: {error}"),
        }
    }

    /// How a message came to its recipient, and how long it took until the report; nothing if it didn't.
    pub fn delivery(&self, index: usize) -> Option<(Way, Duration)> {
        self.ledger.delivery(index)
    }

    fn turn(&mut self, step: Duration) -> anyhow::Result<()> {
        let until = self.fleet.driver().now() + step;
        self.fleet.turn(Some(until)).context("the devices' sockets")
    }

    fn take_events(&mut self) {
        while let Some((device, event)) = self.fleet.next_event() {
            match event {
                Event::Message(message) => self.ledger.shown(&self.names[&device], &message),
                Event::Report(mut report) => {
                    let known = self.under_way.remove(&(device, report.id.clone()));
                    let index = known.map(|(index, late)| {
                        report.latency += late;
                        index
                    });
                    self.ledger.report(index, &report);
                }
                // It was told to.
                Event::Disconnected { reason: Loss::Left, .. } => {}
                Event::Disconnected { server, reason, .. } => {
                    tracing::info!(device = %self.names[&device], %server, %reason, "disconnected");
                    self.ledger.disconnected();
                }
                Event::Stopped { reason } => tracing::warn!(device = %self.names[&device], %reason, "stopped"),
                Event::Welcomed(_) => {}
            }
        }
    }
}
