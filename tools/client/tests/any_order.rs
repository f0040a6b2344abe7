//! A session under inputs in any order: whatever a server, a network and a user do, the promises to the user hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;
use trunkline_client::session::{Command, Input, Intake, Outbox, Session};
use trunkline_client::{
    DeviceId, DeviceOptions, Epoch, Event, Guarantee, IdRef, Instance, Loss, MessageId, NodeId, Outcome, TtlMs, Way,
};
use trunkline_wire::codec::Tail;
use trunkline_wire::device::{
    ClientFrame, Deliver, GoAway, GoAwayReason, Ping, Report, ServerFrame, Superseded, Welcome,
};
use trunkline_wire::frame::{Decode, HEADER_BYTES, Header};
use trunkline_wire::preface::{Preface, Side, VERSION_MAX};
use trunkline_wire::report::Number;
use trunkline_wire::time::Instant;

const RECIPIENTS: [&str; 3] = ["bob", "carol", "dora"];
const UNRESOLVED_MAX: usize = 3;
const MESSAGES_MAX: usize = 8;

#[derive(Clone, Debug)]
enum Op {
    Send(usize, u32, bool),
    Pass(u64),
    Connected,
    Lost,
    Welcome(u64),
    Report(usize, u64, bool),
    Deliver(u64, Option<u64>),
    GoAway(u32),
    Superseded(u64),
    Ping,
    Unreadable,
    UserAway(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..3usize, 1..3_000u32, any::<bool>()).prop_map(|(to, ttl, plain)| Op::Send(to, ttl, plain)),
        6 => (0..800u64).prop_map(Op::Pass),
        4 => Just(Op::Connected),
        1 => Just(Op::Lost),
        4 => (1..50u64).prop_map(Op::Welcome),
        4 => (0..3usize, 0..12u64, any::<bool>()).prop_map(|(to, number, end)| Op::Report(to, number, end)),
        4 => (0..12u64, prop::option::of(0..12u64)).prop_map(|(number, lowest)| Op::Deliver(number, lowest)),
        1 => (0..2_000u32).prop_map(Op::GoAway),
        1 => (1..50u64).prop_map(Op::Superseded),
        1 => Just(Op::Ping),
        1 => Just(Op::Unreadable),
        1 => any::<bool>().prop_map(Op::UserAway),
    ]
}

struct Run {
    session: Session,
    now: Instant,
    intake: Intake,
    /// Whether a connection is open, or on its way.
    connection: bool,
    hello: bool,
    /// Messages written to the present connection without a report.
    in_flight: BTreeSet<MessageId>,
    accepted: BTreeMap<MessageId, Guarantee>,
    plain_written: BTreeSet<MessageId>,
    /// Confirmed messages written at any time.
    ever_written: BTreeSet<MessageId>,
    reported: BTreeMap<MessageId, Outcome>,
    /// Numbers shown, and the deliveries of the present connection by number.
    shown: BTreeSet<u64>,
    deliveries: BTreeMap<u64, u64>,
    delivery: u64,
    presented: Epoch,
}

impl Run {
    fn new() -> Run {
        let servers = [SocketAddr::from(([127, 0, 0, 1], 7400))];
        let mut options = DeviceOptions::new(servers.into(), DeviceId::new("alice").unwrap(), Instance(1));
        options.outgoing.messages_max = MESSAGES_MAX;
        options.outgoing.recipients_max = 2;
        Run {
            session: Session::new(Instant::ZERO, options, 1).unwrap(),
            now: Instant::ZERO,
            intake: Intake::Open,
            connection: false,
            hello: false,
            in_flight: BTreeSet::new(),
            accepted: BTreeMap::new(),
            plain_written: BTreeSet::new(),
            ever_written: BTreeSet::new(),
            reported: BTreeMap::new(),
            shown: BTreeSet::new(),
            deliveries: BTreeMap::new(),
            delivery: 0,
            presented: Epoch::NONE,
        }
    }

    fn step(&mut self, op: &Op) {
        match *op {
            Op::Send(to, ttl_ms, plain) => {
                let guarantee = if plain {
                    Guarantee::FireAndForget
                } else {
                    Guarantee::Confirmed
                };
                let (to, ttl) = (IdRef::new(RECIPIENTS[to]).unwrap(), TtlMs::new(ttl_ms).unwrap());
                if let Ok(id) = self.session.send(self.now, to, vec![1], ttl, guarantee) {
                    assert_eq!(self.accepted.insert(id, guarantee), None, "a number was used twice");
                }
                assert!(self.session.waiting() <= MESSAGES_MAX);
                self.write();
            }
            Op::Pass(ms) => {
                let until = self.now + Duration::from_millis(ms);
                while self.session.deadline() <= until {
                    self.now = self.now.max(self.session.deadline());
                    self.handle(Input::Tick);
                }
                self.now = until;
            }
            Op::UserAway(away) => self.intake = if away { Intake::Full } else { Intake::Open },
            // The rest needs a connection: a fleet has nothing to say without one.
            _ if !self.connection => {}
            Op::Connected if !self.hello => {
                self.hello = true;
                self.handle(Input::Connected);
            }
            Op::Lost => self.handle(Input::Lost(Loss::Closed)),
            _ if !self.hello => {}
            Op::Connected => {}
            Op::Welcome(clock) => {
                let epoch = Epoch { clock, node: NodeId(1) };
                self.hear(ServerFrame::Welcome(Welcome {
                    version: 1,
                    epoch,
                    node: NodeId(1),
                    idle_ms: 10_000,
                    unresolved_max: UNRESOLVED_MAX as u32,
                }));
            }
            Op::Report(to, number, delivered) => {
                let maybe_delivered = false;
                let outcome = if delivered {
                    Outcome::Delivered { late: false }
                } else {
                    Outcome::Offline {
                        unreachable: false,
                        maybe_delivered,
                    }
                };
                let recipient = IdRef::new(RECIPIENTS[to]).unwrap();
                let id = MessageId {
                    recipient: recipient.to_owned(),
                    number,
                };
                self.in_flight.remove(&id);
                self.hear(ServerFrame::Report(Report {
                    recipient,
                    number,
                    outcome,
                    way: Way::Direct,
                }));
            }
            Op::Deliver(number, lowest) => {
                self.delivery += 1;
                let delivery = self.delivery;
                let confirmed = lowest.map(|lowest| lowest.min(number));
                if confirmed.is_some() {
                    self.deliveries.insert(delivery, number);
                }
                self.hear(ServerFrame::Deliver(Deliver {
                    delivery: if confirmed.is_some() { delivery } else { 0 },
                    sender: IdRef::new("eve").unwrap(),
                    instance: Instance(2),
                    number: Number { number, confirmed },
                    payload: Tail(&[]),
                }));
            }
            Op::GoAway(retry_after_ms) => {
                let reason = GoAwayReason::Full;
                self.hear(ServerFrame::GoAway(GoAway { retry_after_ms, reason }));
            }
            Op::Superseded(clock) => {
                let epoch = Epoch { clock, node: NodeId(2) };
                self.presented = self.presented.max(epoch);
                self.hear(ServerFrame::Superseded(Superseded { epoch }));
            }
            Op::Ping => self.hear(ServerFrame::Ping(Ping { token: 1 })),
            Op::Unreadable => self.handle(Input::Unreadable("nonsense".into())),
        }
    }

    fn hear(&mut self, frame: ServerFrame<'_>) {
        self.handle(Input::Frame(frame));
    }

    fn handle(&mut self, input: Input<'_>) {
        let mut out = Outbox {
            intake: self.intake,
            ..Outbox::default()
        };
        self.session.handle(self.now, input, &mut out);
        self.carry_out(out);
        self.write();
    }

    fn write(&mut self) {
        let mut out = Outbox::default();
        self.session.write(self.now, 100, &mut out);
        assert!(out.write.len() <= 100);
        self.carry_out(out);
    }

    fn carry_out(&mut self, out: Outbox) {
        for event in out.events {
            match event {
                Event::Report(report) => {
                    assert_eq!(self.accepted.get(&report.id), Some(&Guarantee::Confirmed));
                    let written = self.ever_written.contains(&report.id);
                    if let Outcome::Expired { maybe_delivered } = report.outcome {
                        assert_eq!(maybe_delivered, written);
                    }
                    self.in_flight.remove(&report.id);
                    assert_eq!(self.reported.insert(report.id, report.outcome), None, "two reports");
                }
                Event::Message(message) => assert!(self.shown.insert(message.number), "shown twice"),
                Event::Welcomed(welcomed) => self.presented = self.presented.max(welcomed.epoch),
                Event::Disconnected { .. } | Event::Stopped { .. } => {}
            }
        }
        self.read(&out.write);
        match out.command {
            Some(Command::Connect(_)) => {
                assert!(!self.connection, "two connections");
                self.connection = true;
            }
            Some(Command::Close) => {
                assert!(self.connection);
                (self.connection, self.hello) = (false, false);
                self.in_flight.clear();
                self.deliveries.clear();
            }
            None => {}
        }
    }

    fn read(&mut self, mut bytes: &[u8]) {
        bytes = bytes
            .strip_prefix(&Preface::new(Side::Device).encode())
            .unwrap_or(bytes);
        while let Some(header) = bytes.first_chunk() {
            let Header { ty, length } = Header::decode(*header);
            let (frame, rest) = bytes.split_at(HEADER_BYTES + length as usize);
            bytes = rest;
            match ClientFrame::decode(VERSION_MAX, ty, &frame[HEADER_BYTES..])
                .unwrap()
                .unwrap()
            {
                ClientFrame::Intend(_) => unreachable!("no user of this test says whom it is about to write to"),
                ClientFrame::Hello(hello) => assert_eq!(hello.presented, self.presented, "the highest ever told"),
                ClientFrame::Send(send) => {
                    let id = MessageId {
                        recipient: send.recipient.to_owned(),
                        number: send.number.number,
                    };
                    assert!(!self.reported.contains_key(&id), "written after its report");
                    match (send.number.confirmed, self.accepted[&id]) {
                        (Some(lowest), Guarantee::Confirmed) => {
                            let unresolved = self.accepted.iter().find(|(other, guarantee)| {
                                **guarantee == Guarantee::Confirmed
                                    && other.recipient == id.recipient
                                    && !self.reported.contains_key(other)
                            });
                            assert_eq!(unresolved.map(|(other, _)| other.number), Some(lowest));
                            assert!(self.in_flight.insert(id.clone()), "twice on one connection");
                            assert!(self.in_flight.len() <= UNRESOLVED_MAX);
                            self.ever_written.insert(id);
                        }
                        (None, Guarantee::FireAndForget) => assert!(self.plain_written.insert(id), "written twice"),
                        other => panic!("{other:?}"),
                    }
                }
                ClientFrame::Acknowledge(acknowledge) => {
                    let number = self.deliveries.get(&acknowledge.delivery);
                    let number = number.expect("only deliveries of this connection are acknowledged");
                    assert!(self.shown.contains(number), "acknowledged, not shown");
                }
                ClientFrame::Ping(_) | ClientFrame::Pong(_) | ClientFrame::Failure(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn every_confirmed_message_is_reported_exactly_once_whatever_happens(ops in prop::collection::vec(op(), 0..150)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op);
        }
        // Past every time to live and its grace.
        for _ in 0..6 {
            run.step(&Op::Pass(1_000));
        }
        let confirmed = run.accepted.values().filter(|guarantee| **guarantee == Guarantee::Confirmed);
        prop_assert_eq!(run.reported.len(), confirmed.count());
        prop_assert_eq!(run.session.waiting(), 0);
    }
}
