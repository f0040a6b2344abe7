use trunkline_wire::codec::Tail;
use trunkline_wire::device::{ClientFrame, Superseded};
use trunkline_wire::frame::{Decode, HEADER_BYTES, Header};
use trunkline_wire::id::{Instance, NodeId};
use trunkline_wire::preface::{PREFACE_BYTES, VERSION_MAX};
use trunkline_wire::report::{Number, RejectReason};

use super::*;

/// What a session has written, owned.
#[derive(Clone, Debug, PartialEq)]
enum Said {
    Hello(Epoch),
    /// Recipient, number, lowest unresolved, time to live.
    Send(String, u64, Option<u64>, u32),
    Acknowledge(u64, bool),
    Intend(String),
    Ping,
    Pong(u64),
    Failure(ErrorCode),
}

struct Harness {
    session: Session,
    now: Instant,
    events: Vec<Event>,
    command: Option<Command>,
    intake: Intake,
}

fn options() -> DeviceOptions {
    let servers = [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    DeviceOptions::new(servers.into(), DeviceId::new("alice").unwrap(), Instance(7))
}

fn epoch(clock: u64) -> Epoch {
    let node = NodeId(1);
    Epoch { clock, node }
}

fn welcome(clock: u64) -> ServerFrame<'static> {
    ServerFrame::Welcome(Welcome {
        version: 1,
        epoch: epoch(clock),
        node: NodeId(1),
        idle_ms: 360_000,
        unresolved_max: 100,
    })
}

fn ended(recipient: &str, number: u64, outcome: Outcome) -> ServerFrame<'_> {
    ServerFrame::Report(trunkline_wire::device::Report {
        recipient: IdRef::new(recipient).unwrap(),
        number,
        outcome,
        way: Way::Direct,
    })
}

fn deliver(delivery: u64, number: u64, confirmed: Option<u64>) -> ServerFrame<'static> {
    ServerFrame::Deliver(Deliver {
        delivery,
        sender: IdRef::new("bob").unwrap(),
        instance: Instance(9),
        number: Number { number, confirmed },
        payload: Tail(b"hi"),
    })
}

const DELIVERED: Outcome = Outcome::Delivered { late: false };

impl Harness {
    fn new(options: DeviceOptions) -> Harness {
        Harness {
            session: Session::new(Instant::from_micros(1_000_000), options, 1).unwrap(),
            now: Instant::from_micros(1_000_000),
            events: Vec::new(),
            command: None,
            intake: Intake::Open,
        }
    }

    /// One that a server has let in with epoch 100.
    fn open() -> Harness {
        let mut h = Harness::new(options());
        h.reach_hello();
        h.hear(welcome(100));
        h.take_events();
        h
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<Said> {
        let mut out = Outbox {
            intake: self.intake,
            ..Outbox::default()
        };
        self.session.handle(self.now, input, &mut out);
        if out.command.is_none() {
            self.session.write(self.now, usize::MAX, &mut out);
        }
        self.command = out.command;
        self.events.append(&mut out.events);
        parse(&out.write)
    }

    fn hear(&mut self, frame: ServerFrame<'_>) -> Vec<Said> {
        self.handle(Input::Frame(frame))
    }

    fn after(&mut self, span: Duration) -> Vec<Said> {
        self.now = self.now + span;
        self.handle(Input::Tick)
    }

    /// Goes to the deadline, and ticks.
    fn next(&mut self) -> Vec<Said> {
        assert_ne!(self.session.deadline(), Instant::NEVER, "nothing is due");
        self.now = self.now.max(self.session.deadline());
        self.handle(Input::Tick)
    }

    /// Ticks until it connects, and lets it.
    fn reach_hello(&mut self) -> Vec<Said> {
        while !matches!(self.command, Some(Command::Connect(_))) {
            self.next();
        }
        self.command = None;
        self.handle(Input::Connected)
    }

    fn lose(&mut self) {
        self.handle(Input::Lost(Loss::Closed));
        assert_eq!(self.command, Some(Command::Close));
    }

    fn send_for(&mut self, recipient: &str, ttl_ms: u32, guarantee: Guarantee) -> (u64, Vec<Said>) {
        let ttl = TtlMs::new(ttl_ms).unwrap();
        let id = IdRef::new(recipient).unwrap();
        let sent = self.session.send(self.now, id, b"hello".to_vec(), ttl, guarantee);
        let mut out = Outbox::default();
        self.session.write(self.now, usize::MAX, &mut out);
        (sent.unwrap().number, parse(&out.write))
    }

    fn send(&mut self, recipient: &str) -> Vec<Said> {
        self.send_for(recipient, 60_000, Guarantee::Confirmed).1
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The reports since the last call: recipient, number, outcome.
    fn reports(&mut self) -> Vec<(String, u64, Outcome)> {
        let events = self.take_events().into_iter();
        let reports = events.filter_map(|event| match event {
            Event::Report(report) => Some((
                report.id.recipient.as_str().to_owned(),
                report.id.number,
                report.outcome,
            )),
            _ => None,
        });
        reports.collect()
    }

    /// The messages since the last call: number, late.
    fn messages(&mut self) -> Vec<(u64, bool)> {
        let events = self.take_events().into_iter();
        let messages = events.filter_map(|event| match event {
            Event::Message(message) => Some((message.number, message.late)),
            _ => None,
        });
        messages.collect()
    }
}

fn parse(mut bytes: &[u8]) -> Vec<Said> {
    let mut said = Vec::new();
    if let Some(rest) = bytes.strip_prefix(&Preface::new(Side::Device).encode()) {
        assert_eq!(bytes.len() - rest.len(), PREFACE_BYTES);
        bytes = rest;
    }
    while !bytes.is_empty() {
        let header = Header::decode(*bytes.first_chunk().unwrap());
        let (frame, rest) = bytes.split_at(HEADER_BYTES + header.length as usize);
        let frame = ClientFrame::decode(VERSION_MAX, header.ty, &frame[HEADER_BYTES..])
            .unwrap()
            .unwrap();
        said.push(match frame {
            ClientFrame::Intend(intend) => Said::Intend(intend.recipient.as_str().into()),
            ClientFrame::Hello(hello) => Said::Hello(hello.presented),
            ClientFrame::Send(send) => Said::Send(
                send.recipient.as_str().into(),
                send.number.number,
                send.number.confirmed,
                send.ttl.ms(),
            ),
            ClientFrame::Acknowledge(acknowledge) => Said::Acknowledge(acknowledge.delivery, acknowledge.late),
            ClientFrame::Ping(_) => Said::Ping,
            ClientFrame::Pong(pong) => Said::Pong(pong.token),
            ClientFrame::Failure(failure) => Said::Failure(failure.code),
        });
        bytes = rest;
    }
    said
}

fn send(recipient: &str, number: u64, lowest: u64, ttl_ms: u32) -> Said {
    Said::Send(recipient.into(), number, Some(lowest), ttl_ms)
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn nothing_is_said_before_the_welcome_but_the_hello() {
    let mut h = Harness::new(options());
    assert_eq!(h.send("bob"), []);
    assert_eq!(h.reach_hello(), [Said::Hello(Epoch::NONE)]);
    assert_eq!(h.send("bob"), []);
    assert_eq!(
        h.hear(welcome(100)),
        [send("bob", 0, 0, 60_000), send("bob", 1, 0, 60_000)]
    );
    assert!(matches!(&h.take_events()[..], [Event::Welcomed(w)] if w.epoch == epoch(100)));
}

#[test]
fn numbers_count_per_recipient_and_name_the_lowest_unresolved() {
    let mut h = Harness::open();
    assert_eq!(h.send("bob"), [send("bob", 0, 0, 60_000)]);
    assert_eq!(h.send("carol"), [send("carol", 0, 0, 60_000)]);
    assert_eq!(h.send("bob"), [send("bob", 1, 0, 60_000)]);
    h.hear(ended("bob", 0, DELIVERED));
    assert_eq!(h.send("bob"), [send("bob", 2, 1, 60_000)]);
    let plain = h.send_for("bob", 60_000, Guarantee::FireAndForget);
    assert_eq!(plain, (3, vec![Said::Send("bob".into(), 3, None, 60_000)]));
    h.hear(ended("bob", 1, DELIVERED));
    h.hear(ended("bob", 2, DELIVERED));
    assert_eq!(
        h.send("bob"),
        [send("bob", 4, 4, 60_000)],
        "nobody waits for what is not confirmed"
    );
}

#[test]
fn a_report_is_told_once_and_further_ones_are_counted() {
    let mut h = Harness::open();
    h.send("bob");
    h.after(millis(3));
    h.hear(ended("bob", 0, DELIVERED));
    let [Event::Report(report)] = &h.take_events()[..] else {
        panic!("one report")
    };
    assert_eq!(
        (report.outcome, report.way, report.latency),
        (DELIVERED, Way::Direct, millis(3))
    );
    h.hear(ended("bob", 0, Outcome::Expired { maybe_delivered: true }));
    h.hear(ended("bob", 5, DELIVERED));
    h.hear(ended("nobody", 0, DELIVERED));
    assert_eq!(h.reports(), []);
    assert_eq!(h.session.counts().reports_repeated, 3);
}

#[test]
fn after_a_reconnect_the_unresolved_come_first_under_their_numbers_with_what_is_left_of_their_time() {
    let mut h = Harness::open();
    for _ in 0..3 {
        h.send("bob");
    }
    h.send("carol");
    h.hear(ended("bob", 1, DELIVERED));
    h.after(seconds(10));
    h.lose();
    h.send("bob");
    let waited = h.now;
    assert_eq!(h.reach_hello(), [Said::Hello(epoch(100))]);
    let passed = h.now.since(waited).as_millis() as u32;
    let (old, new) = (50_000 - passed, 60_000 - passed);
    let expected = [
        send("bob", 0, 0, old),
        send("bob", 2, 0, old),
        send("carol", 0, 0, old),
        send("bob", 3, 0, new),
    ];
    let said = h.hear(welcome(200));
    assert_eq!(said.len(), 4);
    for (said, expected) in said.iter().zip(&expected) {
        let (Said::Send(to, number, lowest, ttl), Said::Send(to2, number2, lowest2, ttl2)) = (said, expected) else {
            panic!("{said:?}")
        };
        assert_eq!((to, number, lowest), (to2, number2, lowest2));
        assert!(
            ttl.abs_diff(*ttl2) <= 1,
            "{ttl} for {ttl2}: a fraction of a millisecond is rounded"
        );
    }
    assert_eq!(h.session.counts().resent, 3);
}

#[test]
fn what_was_written_to_two_connections_may_have_been_delivered_whatever_the_second_says() {
    let mut h = Harness::open();
    let offline = |maybe_delivered| Outcome::Offline {
        unreachable: false,
        maybe_delivered,
    };
    h.send("bob");
    h.send("bob");
    h.lose();
    h.reach_hello();
    h.hear(welcome(200));
    h.send("bob");
    h.take_events();
    h.hear(ended("bob", 0, offline(false)));
    h.hear(ended("bob", 1, DELIVERED));
    h.hear(ended("bob", 2, offline(false)));
    let expected = [(0, offline(true)), (1, DELIVERED), (2, offline(false))];
    assert_eq!(
        h.reports(),
        expected.map(|(number, outcome)| ("bob".into(), number, outcome))
    );
}

#[test]
fn fire_and_forget_messages_are_never_written_twice_and_expire_counted() {
    let mut h = Harness::open();
    h.send_for("bob", 60_000, Guarantee::FireAndForget);
    h.lose();
    h.send_for("bob", 1, Guarantee::FireAndForget);
    h.after(millis(1));
    h.reach_hello();
    assert_eq!(h.hear(welcome(200)), []);
    assert_eq!(h.session.counts().unconfirmed_expired, 1);
    assert_eq!((h.reports(), h.session.waiting()), (vec![], 0));
}

#[test]
fn a_message_that_never_left_expires_at_its_time_and_is_not_maybe_delivered() {
    let mut h = Harness::new(options());
    h.send_for("bob", 500, Guarantee::Confirmed);
    h.after(millis(499));
    assert_eq!(h.reports(), []);
    h.after(millis(1));
    let expired = Outcome::Expired { maybe_delivered: false };
    assert_eq!(h.reports(), [("bob".into(), 0, expired)]);
    h.after(seconds(10));
    assert_eq!(h.reports(), []);
}

#[test]
fn while_connected_the_servers_report_has_two_seconds_more_and_then_the_library_speaks() {
    let mut h = Harness::open();
    let expired = |maybe_delivered| Outcome::Expired { maybe_delivered };
    h.send_for("bob", 500, Guarantee::Confirmed);
    h.send_for("bob", 500, Guarantee::Confirmed);
    h.after(millis(2_000));
    h.hear(ended("bob", 0, expired(false)));
    assert_eq!(h.reports(), [("bob".into(), 0, expired(false))]);
    h.after(millis(500));
    assert_eq!(h.reports(), [("bob".into(), 1, expired(true))]);
    h.hear(ended("bob", 1, DELIVERED));
    assert_eq!(h.reports(), [], "the first end counts");
}

#[test]
fn a_lost_connection_ends_the_grace() {
    let mut h = Harness::open();
    h.send_for("bob", 500, Guarantee::Confirmed);
    h.send_for("bob", 9_000, Guarantee::Confirmed);
    h.after(millis(600));
    h.lose();
    let expired = Outcome::Expired { maybe_delivered: true };
    assert_eq!(h.reports(), [("bob".into(), 0, expired)]);
    h.after(millis(8_399));
    assert_eq!(h.reports(), []);
    h.after(millis(1));
    assert_eq!(h.reports(), [("bob".into(), 1, expired)]);
}

#[test]
fn no_more_are_unresolved_than_the_welcome_allows_and_the_rest_waits_in_order() {
    let mut h = Harness::new(options());
    h.reach_hello();
    let ServerFrame::Welcome(frame) = welcome(100) else {
        unreachable!()
    };
    h.hear(ServerFrame::Welcome(Welcome {
        unresolved_max: 2,
        ..frame
    }));
    assert_eq!([h.send("bob"), h.send("carol")].concat().len(), 2);
    assert_eq!([h.send("bob"), h.send("dora")].concat(), []);
    assert_eq!(h.hear(ended("bob", 0, DELIVERED)), [send("bob", 1, 1, 60_000)]);
    assert_eq!(h.hear(ended("carol", 0, DELIVERED)), [send("dora", 0, 0, 60_000)]);
}

#[test]
fn a_full_queue_refuses_at_once_and_recovers() {
    let mut options = options();
    options.outgoing.messages_max = 2;
    let mut h = Harness::new(options);
    h.send("bob");
    h.send("bob");
    let bob = IdRef::new("bob").unwrap();
    let again = |h: &mut Harness| {
        h.session
            .send(h.now, bob, vec![0], TtlMs::default(), Guarantee::Confirmed)
            .map(|id| id.number)
    };
    let busy = SendError::Busy {
        messages: 2,
        bytes: 2 * (5 + crate::outgoing::MESSAGE_OVERHEAD_BYTES),
    };
    assert_eq!(again(&mut h), Err(busy));
    h.reach_hello();
    h.hear(welcome(100));
    h.hear(ended("bob", 0, DELIVERED));
    assert_eq!(again(&mut h), Ok(2), "a refused message has no number");
}

#[test]
fn a_payload_over_the_limit_is_refused() {
    let mut h = Harness::open();
    let payload = vec![0; PAYLOAD_BYTES_MAX + 1];
    let bob = IdRef::new("bob").unwrap();
    let sent = h
        .session
        .send(h.now, bob, payload, TtlMs::default(), Guarantee::Confirmed);
    assert_eq!(
        sent,
        Err(SendError::PayloadTooLong {
            bytes: PAYLOAD_BYTES_MAX + 1
        })
    );
}

#[test]
fn forgotten_recipients_never_see_a_number_again() {
    let mut options = options();
    options.outgoing.recipients_max = 2;
    let mut h = Harness::new(options);
    h.reach_hello();
    h.hear(welcome(100));
    for number in 0..5 {
        h.send("bob");
        h.hear(ended("bob", number, DELIVERED));
    }
    h.send("carol");
    assert_eq!(
        h.send("dora"),
        [send("dora", 5, 5, 60_000)],
        "bob was forgotten, carol is unresolved"
    );
    let refused = h.session.send(
        h.now,
        IdRef::new("bob").unwrap(),
        vec![],
        TtlMs::default(),
        Guarantee::Confirmed,
    );
    assert!(matches!(refused, Err(SendError::Busy { .. })));
    h.hear(ended("dora", 5, DELIVERED));
    assert_eq!(h.send("bob"), [send("bob", 6, 6, 60_000)]);
}

#[test]
fn room_bounds_what_is_written_and_nothing_is_lost_by_it() {
    let mut h = Harness::open();
    let bob = IdRef::new("bob").unwrap();
    for _ in 0..4 {
        let sent = h
            .session
            .send(h.now, bob, vec![0; 1000], TtlMs::default(), Guarantee::Confirmed);
        sent.unwrap();
    }
    let mut out = Outbox::default();
    h.session.write(h.now, 2100, &mut out);
    assert_eq!(parse(&out.write).len(), 2);
    assert!(out.write.len() <= 2100);
    assert_eq!(h.session.unwritten(), 2);
    h.session.write(h.now, usize::MAX, &mut out);
    assert_eq!(parse(&out.write).len(), 4);
}

#[test]
fn a_message_is_acknowledged_when_it_is_shown_and_not_before() {
    let mut h = Harness::open();
    assert_eq!(h.hear(deliver(1, 0, Some(0))), [Said::Acknowledge(1, false)]);
    assert_eq!(h.hear(deliver(2, 2, Some(0))), []);
    assert_eq!(h.messages(), [(0, false)]);
    assert_eq!(
        h.hear(deliver(3, 1, Some(0))),
        [Said::Acknowledge(3, false), Said::Acknowledge(2, false)]
    );
    assert_eq!(h.hear(deliver(4, 5, Some(0))), []);
    assert_eq!(h.after(millis(100)), [Said::Acknowledge(4, false)]);
    assert_eq!(h.hear(deliver(5, 4, Some(0))), [Said::Acknowledge(5, true)]);
    assert_eq!(h.messages(), [(1, false), (2, false), (5, false), (4, true)]);
    assert_eq!(h.hear(deliver(0, 6, None)), [], "nobody waits for it");
    assert_eq!(h.messages(), [(6, false)]);
}

#[test]
fn a_duplicate_is_acknowledged_again_and_shown_once_also_over_another_connection() {
    let mut h = Harness::open();
    h.hear(deliver(1, 0, Some(0)));
    assert_eq!(h.hear(deliver(2, 0, Some(0))), [Said::Acknowledge(2, false)]);
    h.lose();
    h.reach_hello();
    h.hear(welcome(200));
    assert_eq!(h.hear(deliver(1, 0, Some(0))), [Said::Acknowledge(1, false)]);
    assert_eq!(h.messages(), [(0, false)]);
    assert_eq!(h.session.counts().acknowledged_again, 2);
}

#[test]
fn a_delivery_of_a_lost_connection_is_never_acknowledged_on_the_next() {
    let mut h = Harness::open();
    h.hear(deliver(1, 0, Some(0)));
    h.hear(deliver(2, 5, Some(0)));
    h.lose();
    h.reach_hello();
    assert_eq!(h.hear(welcome(200)), []);
    assert_eq!(h.after(millis(100)), [], "2 may name another delivery by now");
    assert_eq!(h.messages(), [(0, false), (5, false)]);
    assert_eq!(h.hear(deliver(1, 5, Some(0))), [Said::Acknowledge(1, false)]);
}

#[test]
fn what_the_user_has_no_room_for_is_not_acknowledged_and_welcome_later() {
    let mut h = Harness::open();
    h.intake = Intake::Full;
    assert_eq!(h.hear(deliver(1, 0, Some(0))), []);
    assert_eq!(h.messages(), []);
    assert_eq!(h.session.counts().dropped_backlog, 1);
    h.intake = Intake::Open;
    assert_eq!(h.hear(deliver(2, 0, Some(0))), [Said::Acknowledge(2, false)]);
    assert_eq!(h.messages(), [(0, false)]);
}

#[test]
fn a_silent_connection_is_pinged_and_an_unanswered_ping_ends_it() {
    let mut h = Harness::open();
    let opened = h.now;
    assert_eq!(h.next(), [Said::Ping]);
    assert_eq!(h.now.since(opened), seconds(240));
    h.after(seconds(1));
    h.hear(ServerFrame::Pong(Pong { token: 0 }));
    assert_eq!(h.next(), [Said::Ping]);
    assert_eq!(
        h.now.since(opened),
        seconds(480),
        "the last ping was ours to be heard by"
    );
    h.next();
    assert_eq!((h.command, h.now.since(opened)), (Some(Command::Close), seconds(490)));
    let timed_out = Loss::TimedOut(Awaited::Pong);
    assert!(matches!(&h.take_events()[..], [Event::Disconnected { reason, .. }] if *reason == timed_out));
}

#[test]
fn a_server_that_is_never_heard_is_noticed_although_we_write() {
    let mut h = Harness::open();
    for _ in 0..60 {
        h.send_for("bob", 60_000, Guarantee::FireAndForget);
        h.after(seconds(4));
    }
    assert_eq!(h.command, None);
    h.after(seconds(10));
    assert_eq!(h.command, Some(Command::Close));
}

#[test]
fn a_servers_ping_is_answered_also_before_the_welcome() {
    let mut h = Harness::new(options());
    h.reach_hello();
    assert_eq!(h.hear(ServerFrame::Ping(Ping { token: 5 })), [Said::Pong(5)]);
}

#[test]
fn a_server_that_is_mute_is_left_for_the_next_one() {
    let mut h = Harness::new(options());
    let mut tried = Vec::new();
    for _ in 0..3 {
        h.command = None;
        while h.command.is_none() {
            h.next();
        }
        let Some(Command::Connect(server)) = h.command else {
            panic!("connects")
        };
        tried.push(server.port());
        h.next();
        assert_eq!(h.command, Some(Command::Close), "connecting took too long");
    }
    tried.sort_unstable();
    assert_eq!(tried, [1, 2, 3]);
    h.reach_hello();
    let asked = h.now;
    h.next();
    assert_eq!((h.command, h.now.since(asked)), (Some(Command::Close), WELCOME_TIMEOUT));
}

#[test]
fn failures_in_a_row_wait_longer_and_a_lasting_connection_starts_anew() {
    let mut h = Harness::new(options());
    let mut waits = Vec::new();
    for _ in 0..12 {
        h.command = None;
        while h.command.is_none() {
            h.next();
        }
        h.lose();
        waits.push(h.session.deadline().since(h.now));
    }
    assert!(waits[0] <= millis(50) && waits[0] >= millis(25));
    assert!(waits[11] <= seconds(10) && waits[11] >= seconds(5));
    h.reach_hello();
    h.hear(welcome(100));
    h.lose();
    assert!(
        h.session.deadline().since(h.now) >= seconds(5),
        "a server that welcomes and closes is no better"
    );
    h.reach_hello();
    h.hear(welcome(200));
    h.after(LASTING);
    h.lose();
    assert!(h.session.deadline().since(h.now) <= millis(50));
}

#[test]
fn go_away_is_honoured_at_another_server() {
    let mut h = Harness::open();
    let Event::Welcomed(before) = ({
        let mut h = Harness::new(options());
        h.reach_hello();
        h.hear(welcome(100));
        h.take_events().remove(0)
    }) else {
        panic!("welcomed")
    };
    h.hear(ServerFrame::GoAway(GoAway {
        retry_after_ms: 2_000,
        reason: GoAwayReason::Shutdown,
    }));
    assert_eq!(h.command, Some(Command::Close));
    let wait = h.session.deadline().since(h.now);
    assert!(wait >= seconds(2) && wait <= millis(3_050), "{wait:?}");
    h.next();
    let Some(Command::Connect(server)) = h.command else {
        panic!("connects")
    };
    assert_ne!(server, before.server);
}

#[test]
fn superseded_once_it_comes_back_at_once_with_that_epoch() {
    let mut h = Harness::open();
    h.hear(ServerFrame::Superseded(Superseded { epoch: epoch(300) }));
    assert_eq!(h.command, Some(Command::Close));
    assert_eq!(h.session.deadline(), h.now);
    assert_eq!(h.reach_hello(), [Said::Hello(epoch(300))]);
    h.hear(welcome(301));
    h.lose();
    assert_eq!(h.reach_hello(), [Said::Hello(epoch(301))]);
}

#[test]
fn superseded_again_within_a_minute_it_stops_and_says_so() {
    let mut h = Harness::open();
    let supersede = |h: &mut Harness, clock| h.hear(ServerFrame::Superseded(Superseded { epoch: epoch(clock) }));
    supersede(&mut h, 300);
    h.reach_hello();
    h.hear(welcome(301));
    h.after(seconds(61));
    supersede(&mut h, 400);
    h.reach_hello();
    h.hear(welcome(401));
    h.send_for("bob", 1_000, Guarantee::Confirmed);
    h.take_events();
    h.after(millis(500));
    supersede(&mut h, 500);
    let reason = StopReason::Superseded(epoch(500));
    assert_eq!(h.take_events(), [Event::Stopped { reason }]);
    assert_eq!(h.command, Some(Command::Close));
    h.after(millis(500));
    assert_eq!(h.reports().len(), 1, "what was sent still comes to its end");
    assert_eq!(h.session.deadline(), Instant::NEVER);
    let bob = IdRef::new("bob").unwrap();
    let sent = h
        .session
        .send(h.now, bob, vec![], TtlMs::default(), Guarantee::Confirmed);
    assert_eq!(sent, Err(SendError::Stopped));
}

#[test]
fn a_session_that_its_own_unanswered_hellos_supersede_does_not_stop() {
    let mut h = Harness::new(options());
    let supersede = |h: &mut Harness, clock| h.hear(ServerFrame::Superseded(Superseded { epoch: epoch(clock) }));
    for _ in 0..2 {
        h.reach_hello();
        h.lose();
    }
    h.reach_hello();
    h.hear(welcome(100));
    for clock in [200, 300] {
        supersede(&mut h, clock);
        h.reach_hello();
        h.hear(welcome(clock + 1));
    }
    assert!(!h.session.is_stopped());
    supersede(&mut h, 400);
    h.reach_hello();
    h.hear(welcome(401));
    supersede(&mut h, 500);
    assert!(h.session.is_stopped(), "these two were another program's");
}

#[test]
fn wrong_credentials_and_versions_stop_it_and_other_failures_do_not() {
    for code in ErrorCode::ALL {
        let mut h = Harness::new(options());
        h.reach_hello();
        let text = Text::clipped("no");
        h.hear(ServerFrame::Failure(Failure { code, text }));
        let stops = matches!(code, ErrorCode::Unauthorized | ErrorCode::UnsupportedVersion);
        assert_eq!(h.session.is_stopped(), stops, "{code:?}");
        assert_eq!(h.command, Some(Command::Close));
    }
    let mut h = Harness::new(options());
    h.reach_hello();
    let ServerFrame::Welcome(frame) = welcome(100) else {
        unreachable!()
    };
    h.hear(ServerFrame::Welcome(Welcome { version: 9, ..frame }));
    assert!(h.session.is_stopped());
}

#[test]
fn what_can_not_be_read_or_has_no_place_is_answered_and_the_next_server_tried() {
    let offences: [fn(&mut Harness) -> Vec<Said>; 4] = [
        |h| h.handle(Input::Unreadable("a frame of type 9".into())),
        |h| h.hear(deliver(1, 0, Some(0))),
        |h| h.hear(ended("bob", 0, DELIVERED)),
        |h| {
            h.hear(welcome(100));
            h.hear(welcome(100))
        },
    ];
    for offend in offences {
        let mut h = Harness::new(options());
        h.reach_hello();
        assert!(matches!(offend(&mut h)[..], [Said::Failure(_)]));
        assert_eq!(h.command, Some(Command::Close));
        let events = h.take_events();
        let Some(Event::Disconnected { reason, .. }) = events.last() else {
            panic!("disconnected")
        };
        assert!(!reason.to_string().contains('\n'));
        h.reach_hello();
    }
}

#[test]
fn a_session_that_only_sends_refuses_deliveries() {
    let mut options = options();
    options.purpose = Purpose::SendOnly;
    let mut h = Harness::new(options);
    h.reach_hello();
    let ServerFrame::Welcome(frame) = welcome(100) else {
        unreachable!()
    };
    let epoch = Epoch::NONE;
    h.hear(ServerFrame::Welcome(Welcome { epoch, ..frame }));
    assert_eq!(h.send("bob").len(), 1);
    assert_eq!(h.hear(deliver(1, 0, Some(0))), [Said::Failure(ErrorCode::OutOfTurn)]);
}

#[test]
fn a_refusal_is_an_end_like_any_other() {
    let mut h = Harness::open();
    h.send("bob");
    let outcome = Outcome::Rejected {
        reason: RejectReason::Busy,
        maybe_delivered: false,
    };
    h.hear(ended("bob", 0, outcome));
    assert_eq!(h.reports(), [("bob".into(), 0, outcome)]);
    assert_eq!(h.send("bob"), [send("bob", 1, 1, 60_000)]);
}

#[test]
fn settings_that_can_not_work_are_refused_by_name() {
    let now = Instant::ZERO;
    let mut nobody = options();
    nobody.servers = [].into();
    assert_eq!(Session::new(now, nobody, 1).unwrap_err(), OptionsError::NoServers);
    let mut wordy = options();
    wordy.credentials = vec![0; 513];
    assert_eq!(
        Session::new(now, wordy, 1).unwrap_err(),
        OptionsError::CredentialsTooLong(513)
    );
}

#[test]
fn a_hint_is_said_behind_the_welcome_and_again_to_the_next_server_before_the_messages() {
    let mut h = Harness::new(options());
    h.session.intend(h.now, IdRef::new("cy").unwrap());
    h.session.intend(h.now, IdRef::new("bob").unwrap());
    assert!(
        matches!(h.reach_hello()[..], [Said::Hello(_)]),
        "nothing before the welcome"
    );
    assert_eq!(h.hear(welcome(100)), [Said::Intend("bob".into())]);
    let other = h.send("cy");
    h.lose();
    h.reach_hello();
    let again = h.hear(welcome(101));
    assert_eq!(again[0], Said::Intend("bob".into()));
    assert!(matches!(again[1..], [Said::Send(..)]) && matches!(other[..], [Said::Send(..)]));
    let sent = h.send("bob");
    h.lose();
    h.reach_hello();
    assert!(!h.hear(welcome(102)).contains(&Said::Intend("bob".into())));
    assert!(matches!(sent[..], [Said::Send(..)]));
    let counts = h.session.counts();
    assert_eq!((counts.hints, counts.hints_replaced), (2, 1));
}

#[test]
fn a_hint_beyond_the_rate_comes_when_it_has_its_turn() {
    let mut h = Harness::open();
    for n in 0..10 {
        h.session.intend(h.now, IdRef::new(&format!("chat-{n}")).unwrap());
        let mut out = Outbox::default();
        h.session.write(h.now, usize::MAX, &mut out);
        assert_eq!(parse(&out.write).len(), usize::from(n < 4));
    }
    assert_eq!(h.next(), [Said::Intend("chat-9".into())]);
    let counts = h.session.counts();
    assert_eq!((counts.hints, counts.hints_replaced), (5, 5));
}

#[test]
fn who_is_told_of_other_servers_leaves_at_once_and_takes_its_messages_and_its_epoch_along() {
    let mut h = Harness::open();
    h.send("bob");
    let there = SocketAddr::from(([127, 0, 0, 2], 1));
    let mut out = Outbox::default();
    assert_eq!(
        h.session.use_servers(h.now, [].into(), &mut out),
        Err(OptionsError::NoServers)
    );
    assert!(h.session.is_open() && out.events.is_empty());
    h.session.use_servers(h.now, [there].into(), &mut out).unwrap();
    assert_eq!(out.command, Some(Command::Close));
    assert!(matches!(
        out.events[..],
        [Event::Disconnected { reason: Loss::Left, .. }]
    ));
    h.next();
    assert_eq!(h.command, Some(Command::Connect(there)));
    assert_eq!(h.reach_hello(), [Said::Hello(epoch(100))]);
    assert!(matches!(h.hear(welcome(101))[..], [Said::Send(..)]));
    // While it waits to connect again, the wait is over.
    h.lose();
    h.session
        .use_servers(h.now, [there].into(), &mut Outbox::default())
        .unwrap();
    assert_eq!(h.session.deadline(), h.now);
}
