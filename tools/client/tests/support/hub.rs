//! A server for many devices in virtual time: it brings messages to their recipients, out of order and twice now and then,
//! and forgets who was connected when a connection breaks.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use trunkline_client::{Epoch, IdRef, Instance, NodeId, Outcome, Way};
use trunkline_net::driver::{BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};
use trunkline_net::framing::Framer;
use trunkline_net::outbuf::{OutBuf, Spares};
use trunkline_net::table::ConnectionTable;
use trunkline_wire::codec::Tail;
use trunkline_wire::device::{
    ClientFrame, DEVICE_BODY_BYTES_MAX, Deliver, Pong, Purpose, Report, ServerFrame, Superseded, Welcome,
};
use trunkline_wire::frame::Decode;
use trunkline_wire::preface::{PREFACE_BYTES, VERSION_MAX};
use trunkline_wire::report::Number;
use trunkline_wire::time::Instant as Time;

pub struct Hub<D: Driver> {
    driver: D,
    connections: ConnectionTable<Connection>,
    /// Who is connected, and by what.
    devices: BTreeMap<String, Token>,
    /// Deliveries that are due, in the order of their time.
    due: BTreeMap<(Time, u64), Letter>,
    /// Deliveries that await an acknowledgement.
    open: BTreeMap<u64, Letter>,
    count: u64,
    random: fastrand::Rng,
    spares: Spares,
}

struct Connection {
    device: String,
    instance: Instance,
    preface: usize,
    framer: Framer,
    out: OutBuf,
}

#[derive(Clone)]
struct Letter {
    sender: String,
    instance: Instance,
    recipient: String,
    number: Number,
    payload: Vec<u8>,
}

impl<D: Driver> Hub<D> {
    pub fn new(mut driver: D, address: SocketAddr, seed: u64) -> Hub<D> {
        driver.listen(address, ListenerId(0)).unwrap();
        Hub {
            driver,
            connections: ConnectionTable::new(),
            devices: BTreeMap::new(),
            due: BTreeMap::new(),
            open: BTreeMap::new(),
            count: 0,
            random: fastrand::Rng::with_seed(seed),
            spares: Spares::new(8),
        }
    }

    pub fn deadline(&self) -> Time {
        self.due.first_key_value().map_or(Time::NEVER, |(&(time, _), _)| time)
    }

    pub fn turn(&mut self) {
        let mut completions = Vec::new();
        self.driver.wait(Some(Time::ZERO), &mut completions).unwrap();
        for completion in completions {
            match completion {
                Completion::Accepted { token, .. } => {
                    let connection = Connection {
                        device: String::new(),
                        instance: Instance(0),
                        preface: PREFACE_BYTES,
                        framer: Framer::new(),
                        out: OutBuf::new(16 * 1024 * 1024),
                    };
                    self.connections.insert(token, connection);
                    self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                }
                Completion::Received { token, buffer } => {
                    let bytes = self.driver.bytes(&buffer).to_vec();
                    self.driver.give_back(buffer);
                    self.receive(token, &bytes);
                }
                Completion::Sent { token, bytes, result } => {
                    if let Some(connection) = self.connections.get_mut(token) {
                        connection.out.sent(bytes, &mut self.spares);
                        match result {
                            Ok(()) => self.flush(token),
                            Err(_) => self.close(token),
                        }
                    }
                }
                Completion::Eof { token } | Completion::ReceiveFailed { token, .. } => self.close(token),
                _ => {}
            }
        }
        while self.deadline() <= self.driver.now() {
            let (_, letter) = self.due.pop_first().unwrap();
            self.deliver(letter);
        }
    }

    fn close(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(token) {
            if self.devices.get(&connection.device) == Some(&token) {
                self.devices.remove(&connection.device);
            }
            self.driver.close(token);
        }
    }

    fn receive(&mut self, token: Token, mut bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(token) else {
            return;
        };
        let preface = connection.preface.min(bytes.len());
        connection.preface -= preface;
        bytes = &bytes[preface..];
        let mut framer = std::mem::take(&mut connection.framer);
        let mut frames = framer.frames(bytes);
        while let Some(frame) = frames.next(|_| DEVICE_BODY_BYTES_MAX).unwrap() {
            let frame = ClientFrame::decode(VERSION_MAX, frame.ty, frame.body).unwrap().unwrap();
            self.hear(token, frame);
        }
        drop(frames);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.framer = framer;
        }
    }

    fn hear(&mut self, token: Token, frame: ClientFrame<'_>) {
        match frame {
            ClientFrame::Intend(_) => {}
            ClientFrame::Hello(hello) => {
                self.count += 1;
                let device = hello.device.as_str().to_owned();
                let epoch = Epoch {
                    clock: hello.presented.clock.max(self.count) + 1,
                    node: NodeId(1),
                };
                assert_eq!(hello.purpose, Purpose::Full);
                if let Some(old) = self.devices.insert(device.clone(), token) {
                    self.say(old, ServerFrame::Superseded(Superseded { epoch }));
                    self.close(old);
                    self.devices.insert(device.clone(), token);
                }
                let connection = self.connections.get_mut(token).unwrap();
                (connection.device, connection.instance) = (device.clone(), hello.instance);
                let welcome = Welcome {
                    version: 1,
                    epoch,
                    node: NodeId(1),
                    idle_ms: 360_000,
                    unresolved_max: 64,
                };
                self.say(token, ServerFrame::Welcome(welcome));
                // What the last session has not acknowledged comes again.
                let again: Vec<_> = self
                    .open
                    .values()
                    .filter(|letter| letter.recipient == device)
                    .cloned()
                    .collect();
                self.open.retain(|_, letter| letter.recipient != device);
                again.into_iter().for_each(|letter| self.post(letter));
            }
            ClientFrame::Send(send) => {
                let connection = &self.connections.get(token).unwrap();
                let letter = Letter {
                    sender: connection.device.clone(),
                    instance: connection.instance,
                    recipient: send.recipient.as_str().into(),
                    number: send.number,
                    payload: send.payload.0.to_vec(),
                };
                if self.random.u8(..) < 10 {
                    self.post(letter.clone());
                }
                self.post(letter);
            }
            ClientFrame::Acknowledge(acknowledge) => {
                if let Some(letter) = self.open.remove(&acknowledge.delivery) {
                    let late = acknowledge.late;
                    self.report(&letter, Outcome::Delivered { late });
                }
            }
            ClientFrame::Ping(ping) => self.say(token, ServerFrame::Pong(Pong { token: ping.token })),
            ClientFrame::Pong(_) => {}
            ClientFrame::Failure(failure) => panic!("{failure:?}"),
        }
    }

    /// Most leave at once, some a little later, a few after the window.
    fn post(&mut self, letter: Letter) {
        let delay_ms = match self.random.u8(..) {
            0..=200 => 0,
            201..=250 => self.random.u64(1..60),
            251..=255 => self.random.u64(100..300),
        };
        self.count += 1;
        let time = self.driver.now() + Duration::from_millis(delay_ms);
        self.due.insert((time, self.count), letter);
    }

    fn deliver(&mut self, letter: Letter) {
        self.count += 1;
        let delivery = self.count;
        let Some(&token) = self.devices.get(&letter.recipient) else {
            // Its device comes back, or its sender gives it up.
            self.open.insert(delivery, letter);
            return;
        };
        let confirmed = letter.number.confirmed.is_some();
        self.say(
            token,
            ServerFrame::Deliver(Deliver {
                delivery: if confirmed { delivery } else { 0 },
                sender: IdRef::new(&letter.sender).unwrap(),
                instance: letter.instance,
                number: letter.number,
                payload: Tail(&letter.payload),
            }),
        );
        if confirmed {
            self.open.insert(delivery, letter);
        }
    }

    fn report(&mut self, letter: &Letter, outcome: Outcome) {
        if let Some(&token) = self.devices.get(&letter.sender) {
            let report = Report {
                recipient: IdRef::new(&letter.recipient).unwrap(),
                number: letter.number.number,
                outcome,
                way: Way::Local,
            };
            self.say(token, ServerFrame::Report(report));
        }
    }

    fn say(&mut self, token: Token, frame: ServerFrame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        if let Some(connection) = self.connections.get_mut(token) {
            connection.out.push(&bytes, &mut self.spares).unwrap();
            self.flush(token);
        }
    }

    fn flush(&mut self, token: Token) {
        let connection = self.connections.get_mut(token).unwrap();
        if let Some(bytes) = connection.out.next_send() {
            self.driver.send(token, bytes);
        }
    }
}
