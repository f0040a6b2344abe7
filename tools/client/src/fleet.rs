//! Many devices on one driver: what carries out what [`Session`]s decide.
//!
//! The same code runs over the operating system's sockets and over the simulator's: a caller adds devices, calls
//! [`Fleet::turn`] again and again, sends, and takes the events. Nothing happens between two calls; there is no thread here.
//!
//! Events wait until they are taken, within bounds ([`Backlog`]): when too many messages wait, those that come in are dropped without
//! an acknowledgement (a confirmed one comes again); when too many reports wait, nothing more is taken to be sent.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;

use slab::Slab;
use trunkline_net::driver::{BufferGroup, Completion, Driver, ReceiveMode, Token};
use trunkline_net::framing::Framer;
use trunkline_net::outbuf::{OutBuf, Spares};
use trunkline_net::table::ConnectionTable;
use trunkline_wire::device::ServerFrame;
use trunkline_wire::frame::Decode;
use trunkline_wire::id::IdRef;
use trunkline_wire::report::TtlMs;
use trunkline_wire::time::Instant;

use crate::backlog::Backlog;
use crate::event::{Counts, Event, Guarantee, Loss, MessageId, OptionsError, SendError};
use crate::options::DeviceOptions;
use crate::session::{Command, Input, Outbox, Session};

/// Names a device of a [`Fleet`]. A removed device's index may be given to a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceIndex(pub u32);

/// Devices and their connections on one driver. See the module's text.
#[derive(Debug)]
pub struct Fleet<D: Driver> {
    driver: D,
    devices: Slab<Device>,
    connections: ConnectionTable<Connection>,
    /// The devices by their deadlines; those that have none are missing.
    timers: BTreeSet<(Instant, usize)>,
    events: VecDeque<(DeviceIndex, Event)>,
    /// Of `events`.
    backlog: Backlog,
    /// Of what the caller has taken and holds for somebody else.
    backlog_beyond: Backlog,
    spares: Spares,
    seeds: fastrand::Rng,
    outbox: Outbox,
    completions: Vec<Completion<D::Socket>>,
}

#[derive(Debug)]
struct Device {
    session: Session,
    token: Option<Token>,
    /// Its key in `timers`.
    deadline: Instant,
}

#[derive(Debug)]
struct Connection {
    device: usize,
    framer: Framer,
    out: OutBuf,
}

impl<D: Driver> Fleet<D> {
    /// A fleet without devices. What it draws at random (jitter, which server comes first) follows from `seed`.
    pub fn new(driver: D, seed: u64) -> Fleet<D> {
        Fleet {
            driver,
            devices: Slab::new(),
            connections: ConnectionTable::new(),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            backlog: Backlog::default(),
            backlog_beyond: Backlog::default(),
            spares: Spares::new(SPARES_MAX),
            seeds: fastrand::Rng::with_seed(seed),
            outbox: Outbox::default(),
            completions: Vec::new(),
        }
    }

    /// Adds a device; it connects with the next [`Fleet::turn`].
    ///
    /// # Errors
    /// Options that can't work.
    pub fn add(&mut self, options: DeviceOptions) -> Result<DeviceIndex, OptionsError> {
        let session = Session::new(self.driver.now(), options, self.seeds.u64(..))?;
        let deadline = session.deadline();
        let at = self.devices.insert(Device {
            session,
            token: None,
            deadline,
        });
        self.timers.insert((deadline, at));
        Ok(DeviceIndex(at as u32))
    }

    /// Closes the device's connection and forgets the device, its messages and its events.
    pub fn remove(&mut self, device: DeviceIndex) {
        let Some(removed) = self.devices.try_remove(device.0 as usize) else {
            return;
        };
        self.timers.remove(&(removed.deadline, device.0 as usize));
        if let Some(token) = removed.token {
            self.connections.remove(token);
            self.driver.close(token);
        }
        let backlog = &mut self.backlog;
        self.events.retain(|(of, event)| {
            if *of == device {
                backlog.remove(event);
            }
            *of != device
        });
    }

    /// Sends a message from `device`: now if its connection has room, else as soon as it has.
    ///
    /// # Errors
    /// At once, if the message can't be taken. Then it has no number, and nothing is reported of it.
    pub fn send(
        &mut self,
        device: DeviceIndex,
        recipient: IdRef<'_>,
        payload: Vec<u8>,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) -> Result<MessageId, SendError> {
        let (now, at) = (self.driver.now(), device.0 as usize);
        let refused = self.backlog.plus(self.backlog_beyond).refuses_sends();
        let session = &mut self.devices.get_mut(at).ok_or(SendError::Stopped)?.session;
        if refused {
            return Err(session.busy());
        }
        let id = session.send(now, recipient, payload, ttl, guarantee)?;
        self.carry_out(now, at);
        Ok(id)
    }

    /// `device`'s user is about to write to `recipient`: says so to its server, which may make the way there ready. See
    /// [`Session::intend`].
    pub fn intend(&mut self, device: DeviceIndex, recipient: IdRef<'_>) {
        let (now, at) = (self.driver.now(), device.0 as usize);
        if let Some(device) = self.devices.get_mut(at) {
            device.session.intend(now, recipient);
            self.carry_out(now, at);
        }
    }

    /// From now on `device`'s servers are these: it leaves the one that it is connected to, and connects with the next [`Fleet::turn`]. See
    /// [`Session::use_servers`].
    ///
    /// # Errors
    /// If there is none.
    pub fn use_servers(&mut self, device: DeviceIndex, servers: Arc<[SocketAddr]>) -> Result<(), OptionsError> {
        let (now, at) = (self.driver.now(), device.0 as usize);
        if let Some(device) = self.devices.get_mut(at) {
            device.session.use_servers(now, servers, &mut self.outbox)?;
            self.carry_out(now, at);
        }
        Ok(())
    }

    /// Does what is due, waits until something happens or `until` has passed, and does what is due then. With `until` in the past it
    /// doesn't wait; with `None` it waits for as long as nothing happens.
    ///
    /// # Errors
    /// Only what makes the driver unusable.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        self.tick();
        let deadline = self.deadline();
        let until = match until {
            Some(until) => Some(until.min(deadline)),
            None if deadline == Instant::NEVER => None,
            None => Some(deadline),
        };
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.wait(until, &mut completions)?;
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.tick();
        Ok(())
    }

    /// When something is due without anything happening; [`Instant::NEVER`] if nothing is.
    pub fn deadline(&self) -> Instant {
        self.timers.first().map_or(Instant::NEVER, |&(deadline, _)| deadline)
    }

    /// The oldest event that waits, and whose it is.
    pub fn next_event(&mut self) -> Option<(DeviceIndex, Event)> {
        let (device, event) = self.events.pop_front()?;
        self.backlog.remove(&event);
        Some((device, event))
    }

    /// Says how much the caller holds of what it has taken: it counts as if it still waited here.
    pub fn set_backlog_beyond(&mut self, backlog: Backlog) {
        self.backlog_beyond = backlog;
    }

    /// The device's session, to look at.
    pub fn session(&self, device: DeviceIndex) -> Option<&Session> {
        self.devices.get(device.0 as usize).map(|device| &device.session)
    }

    /// Messages of the device that were never written, and bytes that the kernel has not taken.
    pub fn unsent(&self, device: DeviceIndex) -> (usize, usize) {
        let Some(device) = self.devices.get(device.0 as usize) else {
            return (0, 0);
        };
        let connection = device.token.and_then(|token| self.connections.get(token));
        (
            device.session.unwritten(),
            connection.map_or(0, |connection| connection.out.pending()),
        )
    }

    /// The sum of all devices' counts.
    pub fn counts(&self) -> Counts {
        let all = self.devices.iter().map(|(_, device)| device.session.counts());
        all.fold(Counts::default(), Counts::plus)
    }

    /// Devices in the fleet.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// The driver, to look at.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    fn tick(&mut self) {
        let now = self.driver.now();
        while let Some(&(deadline, at)) = self.timers.first() {
            if deadline > now {
                return;
            }
            self.devices[at].session.handle(now, Input::Tick, &mut self.outbox);
            self.carry_out(now, at);
        }
    }

    fn complete(&mut self, completion: Completion<D::Socket>) {
        let now = self.driver.now();
        match completion {
            Completion::Connected { token } => {
                if let Some(connection) = self.connections.get(token) {
                    self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                    self.tell(now, connection.device, Input::Connected);
                }
            }
            Completion::Received { token, buffer } => {
                let device = self.receive(now, token, &buffer);
                self.driver.give_back(buffer);
                if let Some(at) = device {
                    self.carry_out(now, at);
                }
            }
            Completion::Sent { token, bytes, result } => {
                let Some(connection) = self.connections.get_mut(token) else {
                    return self.spares.put(bytes);
                };
                connection.out.sent(bytes, &mut self.spares);
                let at = connection.device;
                match result {
                    Ok(()) => self.carry_out(now, at),
                    Err(error) => self.tell(now, at, Input::Lost(Loss::Network(error.to_string()))),
                }
            }
            Completion::Eof { token } => self.lose(now, token, Loss::Closed),
            Completion::ReceiveFailed { token, error } | Completion::ConnectFailed { token, error } => {
                self.lose(now, token, Loss::Network(error.to_string()));
            }
            // A fleet closes a connection when it has forgotten it, and neither listens nor hands over.
            Completion::Closed { .. } | Completion::Woken => {}
            Completion::Accepted { .. } | Completion::AcceptPaused { .. } | Completion::HandedOver { .. } => {}
        }
    }

    /// Hands the frames that end in `buffer` to the session, up to one by which the connection ends.
    fn receive(&mut self, now: Instant, token: Token, buffer: &trunkline_net::driver::Buffer) -> Option<usize> {
        let intake = self.backlog.plus(self.backlog_beyond).intake();
        let connection = self.connections.get_mut(token)?;
        let session = &mut self.devices[connection.device].session;
        let outbox = &mut self.outbox;
        outbox.intake = intake;
        let mut frames = connection.framer.frames(self.driver.bytes(buffer));
        loop {
            let step = match frames.next(|_| session.body_bytes_max()) {
                Ok(None) => ControlFlow::Break(None),
                Ok(Some(frame)) => match ServerFrame::decode(session.version(), frame.ty, frame.body) {
                    Ok(Some(frame)) => {
                        session.handle(now, Input::Frame(frame), outbox);
                        ControlFlow::Continue(())
                    }
                    Ok(None) => ControlFlow::Continue(()),
                    Err(error) => ControlFlow::Break(Some(error.to_string())),
                },
                Err(error) => ControlFlow::Break(Some(error.to_string())),
            };
            match step {
                ControlFlow::Continue(()) if outbox.command.is_none() => {}
                ControlFlow::Continue(()) | ControlFlow::Break(None) => break,
                ControlFlow::Break(Some(text)) => {
                    session.handle(now, Input::Unreadable(text), outbox);
                    break;
                }
            }
        }
        Some(connection.device)
    }

    fn lose(&mut self, now: Instant, token: Token, loss: Loss) {
        if let Some(connection) = self.connections.get(token) {
            self.tell(now, connection.device, Input::Lost(loss));
        }
    }

    fn tell(&mut self, now: Instant, at: usize, input: Input<'_>) {
        self.devices[at].session.handle(now, input, &mut self.outbox);
        self.carry_out(now, at);
    }

    /// Empties the outbox of the device's session, and lets it write what there is room for.
    fn carry_out(&mut self, now: Instant, at: usize) {
        loop {
            let device = &mut self.devices[at];
            let command = self.outbox.command.take();
            let flow = match device
                .token
                .and_then(|token| Some((token, self.connections.get_mut(token)?)))
            {
                Some((token, connection)) => {
                    if command.is_none() {
                        let room = MESSAGE_BYTES_MAX.saturating_sub(connection.out.pending() + self.outbox.write.len());
                        device.session.write(now, room, &mut self.outbox);
                    }
                    let pushed = connection.out.push(&self.outbox.write, &mut self.spares);
                    if let Some(bytes) = connection.out.next_send() {
                        self.driver.send(token, bytes);
                    }
                    pushed
                }
                None => Ok(()),
            };
            self.outbox.write.clear();
            for event in self.outbox.events.drain(..) {
                if !self.backlog.refuses(&event) {
                    self.backlog.add(&event);
                    self.events.push_back((DeviceIndex(at as u32), event));
                }
            }
            let input = match command {
                Some(Command::Close) => {
                    if let Some(token) = device.token.take() {
                        self.connections.remove(token);
                        self.driver.close(token);
                    }
                    break;
                }
                Some(Command::Connect(server)) => match self.driver.connect(server) {
                    Ok(token) => {
                        device.token = Some(token);
                        let connection = Connection {
                            device: at,
                            framer: Framer::new(),
                            out: OutBuf::new(OUT_BYTES_MAX),
                        };
                        self.connections.insert(token, connection);
                        break;
                    }
                    Err(error) => Input::Lost(Loss::Network(error.to_string())),
                },
                None if flow.is_err() => Input::Lost(Loss::NotReading),
                None => break,
            };
            device.session.handle(now, input, &mut self.outbox);
        }
        self.reschedule(at);
    }

    fn reschedule(&mut self, at: usize) {
        let device = &mut self.devices[at];
        let deadline = device.session.deadline();
        if deadline != device.deadline {
            self.timers.remove(&(device.deadline, at));
            device.deadline = deadline;
        }
        if deadline != Instant::NEVER {
            self.timers.insert((deadline, at));
        }
    }
}

/// Messages stop being written to a connection when so many bytes wait for the kernel: enough for several sends of the
/// largest chunk.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// The rest is for what a session must say at once (acknowledgements, pongs): a server that lets so much pile up doesn't read.
const OUT_BYTES_MAX: usize = 2 * MESSAGE_BYTES_MAX;
/// Vectors for sending, kept for all devices: 64 of at most 128 KiB.
const SPARES_MAX: usize = 64;
