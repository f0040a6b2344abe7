//! The client over real sockets, against a server that each test plays itself.

mod support;

use std::time::{Duration, Instant};

use trunkline_client::{
    Client, Event, Guarantee, Loss, NotReady, OptionsError, Outcome, SendError, StopReason, TtlMs, Way,
};
use trunkline_client::{ConnectError, Options};
use trunkline_wire::codec::Text;
use trunkline_wire::device::{ErrorCode, Failure, GoAway, GoAwayReason, ServerFrame, Superseded};

use self::support::{PATIENCE, Said, Server, epoch, id, send};

const DELIVERED: Outcome = Outcome::Delivered { late: false };

fn confirmed(client: &Client, payload: &str) -> u64 {
    let sent = client.send(&id("bob"), payload, TtlMs::default(), Guarantee::Confirmed);
    sent.unwrap().number
}

/// The next event that isn't about the connection's coming and going.
fn next_report(client: &Client) -> (u64, Outcome) {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(Event::Report(report)) = client.event_timeout(PATIENCE) {
            return (report.id.number, report.outcome);
        }
    }
    panic!("no report");
}

fn next_loss(client: &Client) -> Loss {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(Event::Disconnected { reason, .. }) = client.event_timeout(PATIENCE) {
            return reason;
        }
    }
    panic!("no loss");
}

#[test]
fn a_message_and_its_report_make_the_way_there_and_back() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut peer = server.welcome(100);
    let welcomed = client.ready(PATIENCE).unwrap();
    assert_eq!((welcomed.epoch, welcomed.server), (epoch(100), server.address()));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.send_and_wait(&id("bob"), "hello", TtlMs::default()));
        assert_eq!(peer.next(), send("bob", 0, 0, "hello"));
        peer.report("bob", 0, DELIVERED);
        let report = waiting.join().unwrap().unwrap();
        assert_eq!((report.outcome, report.way), (DELIVERED, Way::Direct));
    });
    peer.deliver(1, 0, "hi");
    let message = client.recv_timeout(PATIENCE).unwrap();
    assert_eq!((message.sender, &message.payload[..]), (id("bob"), &b"hi"[..]));
    assert_eq!(peer.next(), Said::Acknowledge(1));
    let left: Vec<_> = client.events();
    assert!(
        matches!(left[..], [Event::Welcomed(_)]),
        "the awaited report is not told twice: {left:?}"
    );
    client.close();
    assert_eq!(peer.next(), Said::Eof);
}

#[test]
fn after_a_reconnect_messages_come_again_under_the_same_id_and_are_reported_once() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut first = server.accept();
    let Said::Hello { instance, .. } = first.hello() else {
        panic!("hello")
    };
    assert_eq!(instance, client.instance());
    first.say(support::welcome(100));
    for payload in ["zero", "one", "two"] {
        confirmed(&client, payload);
    }
    for (number, payload) in ["zero", "one", "two"].into_iter().enumerate() {
        assert_eq!(first.next(), send("bob", number as u64, 0, payload));
    }
    first.report("bob", 1, DELIVERED);
    assert_eq!(next_report(&client), (1, DELIVERED));
    drop(first);

    let mut second = server.accept();
    let hello = Said::Hello {
        device: "alice".into(),
        instance,
        presented: epoch(100),
    };
    assert_eq!(second.hello(), hello);
    second.say(support::welcome(200));
    assert_eq!(second.next(), send("bob", 0, 0, "zero"));
    assert_eq!(second.next(), send("bob", 2, 0, "two"));
    for number in [0, 2, 0, 1] {
        second.report("bob", number, DELIVERED);
    }
    assert_eq!(next_report(&client), (0, DELIVERED));
    assert_eq!(next_report(&client), (2, DELIVERED));
    assert_eq!(confirmed(&client, "three"), 3);
    assert_eq!(second.next(), send("bob", 3, 3, "three"));
    second.report("bob", 3, DELIVERED);
    assert_eq!(next_report(&client), (3, DELIVERED));
    let counts = client.counts().unwrap();
    assert_eq!((counts.reports, counts.reports_repeated, counts.resent), (4, 2, 2));
}

#[test]
fn duplicates_are_acknowledged_again_and_shown_once_also_after_a_reconnect() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut first = server.welcome(100);
    first.deliver(1, 0, "once");
    first.deliver(2, 0, "once");
    assert_eq!(
        [first.next(), first.next()],
        [Said::Acknowledge(1), Said::Acknowledge(2)]
    );
    drop(first);
    let mut second = server.welcome(200);
    second.deliver(1, 0, "once");
    second.deliver(2, 1, "twice");
    assert_eq!(
        [second.next(), second.next()],
        [Said::Acknowledge(1), Said::Acknowledge(2)]
    );
    let shown = [
        client.recv_timeout(PATIENCE).unwrap(),
        client.recv_timeout(PATIENCE).unwrap(),
    ];
    assert_eq!(
        shown.map(|message| message.payload),
        [b"once".to_vec(), b"twice".to_vec()]
    );
    assert_eq!(client.recv_timeout(Duration::ZERO), None);
    assert_eq!(client.counts().unwrap().acknowledged_again, 2);
}

#[test]
fn overtaken_messages_are_put_in_order_and_wait_no_longer_than_the_window() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut peer = server.welcome(100);
    peer.deliver_all([(1, 0), (2, 2), (3, 1), (4, 5)], "");
    let shown: Vec<_> = (0..4).map(|_| client.recv_timeout(PATIENCE).unwrap().number).collect();
    assert_eq!(shown, [0, 1, 2, 5]);
    let acknowledged: Vec<_> = (0..4).map(|_| peer.next()).collect();
    assert_eq!(acknowledged, [1, 3, 2, 4].map(Said::Acknowledge));
    peer.deliver(5, 4, "");
    let late = client.recv_timeout(PATIENCE).unwrap();
    assert!(late.late);
}

#[test]
fn superseded_once_it_comes_back_with_that_epoch_and_twice_it_stops() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let superseded = |clock| ServerFrame::Superseded(Superseded { epoch: epoch(clock) });
    let mut first = server.welcome(100);
    first.say(superseded(300));
    let mut second = server.accept();
    assert!(matches!(second.hello(), Said::Hello { presented, .. } if presented == epoch(300)));
    second.say(support::welcome(301));
    second.say(superseded(400));
    let reason = StopReason::Superseded(epoch(400));
    let end = Instant::now() + PATIENCE;
    while client.ready(Duration::ZERO) != Err(NotReady::Stopped(reason.clone())) {
        assert!(Instant::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(matches!(client.events().last(), Some(Event::Stopped { reason: last }) if *last == reason));
    assert_eq!(second.next(), Said::Eof);
    let sent = client.send(&id("bob"), "", TtlMs::default(), Guarantee::Confirmed);
    assert_eq!(sent, Err(SendError::Stopped));
}

#[test]
fn go_away_is_honoured_at_the_other_server() {
    let servers = [Server::new(), Server::new()];
    let options = Options::new(servers.iter().map(Server::address).collect(), id("alice"));
    let client = Client::connect(options).unwrap();
    // It begins with either; so both are looked at, without waiting at one.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for (at, server) in servers.iter().enumerate() {
            let sender = sender.clone();
            scope.spawn(move || {
                let mut peer = server.welcome(100 + at as u64);
                sender.send((at, Instant::now())).unwrap();
                let go_away = GoAway {
                    retry_after_ms: 200,
                    reason: GoAwayReason::Shutdown,
                };
                peer.say(ServerFrame::GoAway(go_away));
                assert_eq!(peer.next(), Said::Eof);
            });
        }
    });
    let [(first, before), (second, after)] = [receiver.recv().unwrap(), receiver.recv().unwrap()];
    assert_ne!(first, second);
    assert!(after - before >= Duration::from_millis(200));
    assert_eq!(next_loss(&client), Loss::GoAway(GoAwayReason::Shutdown));
}

#[test]
fn garbage_from_a_server_closes_that_connection_with_one_line_and_the_next_one_works() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let garbage: [&[u8]; 3] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        // A frame of an unknown type that may not be ignored; a welcome that ends inside a field.
        &[0, 0, 0, 0x7f],
        &[1, 0, 0, 0x41, 1],
    ];
    for bytes in garbage {
        let mut peer = server.accept();
        peer.hello();
        peer.say_bytes(bytes);
        let Said::Failure(code, _) = peer.next() else {
            panic!("the server is told")
        };
        assert_eq!((code, peer.next()), (ErrorCode::Malformed, Said::Eof));
        let text = next_loss(&client).to_string();
        assert!(text.starts_with("the server does not speak the protocol: "), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let mut peer = server.welcome(100);
    client.ready(PATIENCE).unwrap();
    // One that may be ignored, cut into bytes.
    for byte in [2, 0, 0, 0x80, 9, 9] {
        peer.say_bytes(&[byte]);
    }
    peer.deliver(1, 0, "hi");
    assert_eq!(peer.next(), Said::Acknowledge(1));
}

#[test]
fn a_refused_token_stops_it_with_the_servers_words() {
    let server = Server::new();
    let mut options = server.options("alice");
    options.token = b"wrong".to_vec();
    let client = Client::connect(options).unwrap();
    let mut peer = server.accept();
    peer.hello();
    peer.say(ServerFrame::Failure(Failure {
        code: ErrorCode::Unauthorized,
        text: Text::clipped("the token has expired"),
    }));
    let error = client.ready(PATIENCE).unwrap_err();
    assert_eq!(
        error.to_string(),
        "not let in: the token has expired; check the device's token"
    );
}

#[test]
fn without_a_server_it_says_what_failed_and_what_was_sent_expires() {
    let nobody = Server::new().address();
    let client = Client::connect(Options::new(vec![nobody], id("alice"))).unwrap();
    let report = client
        .send_and_wait(&id("bob"), "hello", TtlMs::new(50).unwrap())
        .unwrap();
    assert_eq!(report.outcome, Outcome::Expired { maybe_delivered: false });
    let error = client.ready(Duration::from_millis(50)).unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    let none = Client::connect(Options::new(vec![], id("alice")));
    assert!(matches!(none, Err(ConnectError::Options(OptionsError::NoServers))));
}

#[test]
fn what_was_sent_before_closing_is_written_and_a_waiting_thread_is_let_go() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut peer = server.welcome(100);
    client.ready(PATIENCE).unwrap();
    let large = "x".repeat(60_000);
    for _ in 0..100 {
        let sent = client.send(&id("bob"), large.as_str(), TtlMs::default(), Guarantee::FireAndForget);
        sent.unwrap();
    }
    let closing = std::thread::spawn(move || client.close());
    for expected in 0..100 {
        assert!(matches!(peer.next(), Said::Send { number, confirmed: None, .. } if number == expected));
    }
    closing.join().unwrap();
    assert_eq!(peer.next(), Said::Eof);
}

#[test]
fn a_user_that_takes_nothing_bounds_what_is_held_and_loses_no_confirmed_message() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut peer = server.welcome(100);
    client.ready(PATIENCE).unwrap();
    let large = "x".repeat(60_000);
    // 24 MB, where 16 MiB are held: what is not shown is not acknowledged, and comes again.
    let mut reader = peer.try_clone();
    let acknowledged = std::thread::spawn(move || {
        std::iter::from_fn(|| match reader.next() {
            Said::Acknowledge(delivery) => Some(delivery),
            Said::Pong => None,
            other => panic!("{other:?}"),
        })
        .count() as u64
    });
    for number in 0..400 {
        peer.deliver(number + 1, number, &large);
    }
    peer.ping();
    let acknowledged = acknowledged.join().unwrap();
    assert!(acknowledged < 400, "all of it was held");
    assert_eq!(client.counts().unwrap().dropped_backlog, 400 - acknowledged);
    // Its own messages and their reports are not held up by that.
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| client.send_and_wait(&id("bob"), "hello", TtlMs::default()));
        assert_eq!(peer.next(), send("bob", 0, 0, "hello"));
        peer.report("bob", 0, DELIVERED);
        assert_eq!(waiting.join().unwrap().unwrap().outcome, DELIVERED);
    });
    for expected in 0..acknowledged {
        assert_eq!(client.recv_timeout(PATIENCE).unwrap().number, expected);
    }
    // With its answer the client's thread has seen that there is room again.
    client.counts().unwrap();
    peer.deliver(401, acknowledged, &large);
    assert_eq!(client.recv_timeout(PATIENCE).unwrap().number, acknowledged);
}

#[test]
fn whom_the_user_is_about_to_write_to_is_said_ahead_of_the_message() {
    let server = Server::new();
    let client = Client::connect(server.options("alice")).unwrap();
    let mut peer = server.welcome(100);
    client.ready(PATIENCE).unwrap();
    client.intend(&id("bob"));
    assert_eq!(peer.next(), Said::Intend("bob".into()));
    confirmed(&client, "hello");
    assert_eq!(peer.next(), send("bob", 0, 0, "hello"));
    assert_eq!(client.counts().unwrap().hints, 1);
}
