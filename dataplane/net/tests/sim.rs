//! What a world promises to the scenarios that run in it: faults, time, determinism.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};
use trunkline_net::sim::{Death, Direction, DriverId, Latency, SimDriver, SimOptions, SimSocket, World, WorldOptions};
use trunkline_wire::time::Instant;

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const PORT: u16 = 7400;

/// A driver and what it was told, bytes apart.
struct Node {
    driver: SimDriver,
    told: Vec<Completion<SimSocket>>,
    received: Vec<u8>,
    /// On which every receive arms itself again, and whose bytes go back to the sender.
    echoes: bool,
}

impl Node {
    fn new(world: &World, host: IpAddr) -> Node {
        Node {
            driver: world.driver(host, SimOptions::default()),
            told: Vec::new(),
            received: Vec::new(),
            echoes: false,
        }
    }

    fn turn(&mut self) {
        let mut completions = Vec::new();
        self.driver.wait(None, &mut completions).unwrap();
        for completion in completions {
            match completion {
                Completion::Received { token, buffer } => {
                    let bytes = self.driver.bytes(&buffer).to_vec();
                    self.driver.give_back(buffer);
                    self.received.extend_from_slice(&bytes);
                    if self.echoes {
                        self.driver.send(token, bytes);
                    }
                }
                Completion::Accepted { token, .. } if self.echoes => {
                    self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device);
                }
                Completion::Sent { token, .. } if self.echoes => {
                    self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device);
                }
                other => self.told.push(other),
            }
        }
    }

    fn told(&self, is_meant: impl Fn(&Completion<SimSocket>) -> bool) -> bool {
        self.told.iter().any(is_meant)
    }

    fn accepted(&self) -> Option<Token> {
        self.told.iter().find_map(|completion| match completion {
            Completion::Accepted { token, .. } => Some(*token),
            _ => None,
        })
    }
}

/// Runs until `until` holds, or `limit` of virtual time has passed; whether it held.
fn run(world: &World, nodes: &mut [&mut Node], limit: Duration, until: impl Fn(&[&mut Node]) -> bool) -> bool {
    let end = world.now() + limit;
    let mut ready: Vec<DriverId> = Vec::new();
    loop {
        world.take_ready(&mut ready);
        for id in ready.drain(..) {
            for node in nodes.iter_mut().filter(|node| node.driver.id() == id) {
                node.turn();
            }
        }
        if until(nodes) {
            return true;
        }
        match world.next_event() {
            Some(at) if at <= end => world.advance(at),
            _ => {
                world.advance(end);
                return false;
            }
        }
    }
}

fn connected(seed: u64) -> (World, Node, Node, Token, Token) {
    let world = World::new(seed, WorldOptions::default());
    let (mut a, mut b) = (Node::new(&world, A), Node::new(&world, B));
    b.driver.listen(SocketAddr::new(B, PORT), ListenerId(1)).unwrap();
    let at_a = a.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| {
        nodes[0].told(|told| matches!(told, Completion::Connected { .. })) && nodes[1].accepted().is_some()
    }));
    let at_b = b.accepted().unwrap();
    (world, a, b, at_a, at_b)
}

const MINUTE: Duration = Duration::from_secs(60);

fn broken(node: &Node, kind: ErrorKind) -> bool {
    node.told(|told| matches!(told, Completion::ReceiveFailed { error, .. } if error.kind() == kind))
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let trace = |seed: u64| {
        let (world, mut a, mut b, at_a, at_b) = connected(seed);
        b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Link);
        a.driver.send(at_a, vec![7; 300_000]);
        assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| nodes[1]
            .received
            .len()
            == 300_000));
        world.trace_hash()
    };
    assert_eq!(trace(1), trace(1));
    assert_ne!(trace(1), trace(2));
}

#[test]
fn nothing_happens_before_the_next_event_and_time_moves_only_when_told() {
    let (world, mut a, mut b, at_a, at_b) = connected(3);
    b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
    a.driver.send(at_a, b"x".to_vec());
    let before = world.now();
    b.turn();
    assert!(b.received.is_empty());
    assert_eq!(world.now(), before);
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| !nodes[1]
        .received
        .is_empty()));
    assert!(world.now() >= before + WorldOptions::default().latency.base);
    assert_eq!(b.driver.now(), world.now());
}

#[test]
fn latency_is_set_per_direction() {
    let (world, mut a, mut b, at_a, at_b) = connected(4);
    let slow = Latency {
        base: Duration::from_secs(2),
        jitter: Duration::ZERO,
    };
    world.set_latency(A, B, slow);
    a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
    b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
    let start = world.now();
    a.driver.send(at_a, b"slow".to_vec());
    b.driver.send(at_b, b"fast".to_vec());
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| nodes[0].received
        == b"fast"));
    assert!(world.now() - start < Duration::from_secs(1));
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| nodes[1].received
        == b"slow"));
    assert!(world.now() - start >= Duration::from_secs(2));
}

#[test]
fn nobody_listening_refuses_and_nobody_there_times_out() {
    let world = World::new(5, WorldOptions::default());
    let (mut a, mut b) = (Node::new(&world, A), Node::new(&world, B));
    a.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    let failed = |node: &Node, kind: ErrorKind| {
        node.told(|told| matches!(told, Completion::ConnectFailed { error, .. } if error.kind() == kind))
    };
    let nodes = &mut [&mut a, &mut b];
    assert!(run(&world, nodes, MINUTE, |nodes| failed(
        nodes[0],
        ErrorKind::ConnectionRefused
    )));
    assert!(world.now() < Instant::ZERO + Duration::from_secs(1));
    world.kill(B, Death::Silent);
    nodes[0].driver.connect(SocketAddr::new(B, PORT)).unwrap();
    assert!(run(&world, nodes, MINUTE, |nodes| failed(
        nodes[0],
        ErrorKind::TimedOut
    )));
}

#[test]
fn what_is_sent_into_a_cut_arrives_after_the_healing() {
    for direction in [Direction::Both, Direction::Forward, Direction::Backward] {
        let (world, mut a, mut b, at_a, at_b) = connected(6);
        a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
        b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
        world.cut(A, B, direction);
        a.driver.send(at_a, b"hello".to_vec());
        let nodes = &mut [&mut a, &mut b];
        let arrived = |nodes: &[&mut Node]| nodes[1].received == b"hello";
        let through = run(&world, nodes, Duration::from_secs(10), arrived);
        assert_eq!(through, direction == Direction::Backward, "{direction:?}");
        world.heal(A, B);
        assert!(run(&world, nodes, Duration::from_secs(2), arrived), "{direction:?}");
        assert!(
            !run(&world, nodes, MINUTE, |nodes| broken(nodes[0], ErrorKind::TimedOut)),
            "{direction:?}"
        );
    }
}

#[test]
fn a_sender_gives_up_when_a_cut_lasts_and_an_idle_connection_does_not_notice() {
    for direction in [Direction::Both, Direction::Forward, Direction::Backward] {
        let (world, mut a, mut b, at_a, at_b) = connected(7);
        a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
        b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
        world.cut(A, B, direction);
        let nodes = &mut [&mut a, &mut b];
        assert!(!run(&world, nodes, MINUTE, |nodes| broken(
            nodes[0],
            ErrorKind::TimedOut
        )));
        nodes[0].driver.send(at_a, b"hello".to_vec());
        let start = world.now();
        assert!(
            run(&world, nodes, MINUTE, |nodes| broken(nodes[0], ErrorKind::TimedOut)),
            "{direction:?}"
        );
        let took = world.now() - start;
        assert!(
            took >= Duration::from_secs(14) && took <= Duration::from_secs(17),
            "{took:?}"
        );
        // The other end learns of it when it speaks, after the healing.
        assert!(
            nodes[1]
                .told
                .iter()
                .all(|told| !matches!(told, Completion::ReceiveFailed { .. }))
        );
        world.heal_all();
        nodes[1].driver.send(at_b, b"anyone?".to_vec());
        assert!(run(&world, nodes, MINUTE, |nodes| broken(
            nodes[1],
            ErrorKind::ConnectionReset
        )));
    }
}

#[test]
fn a_connect_through_a_cut_succeeds_once_it_is_healed() {
    let (world, mut a, mut b, ..) = connected(8);
    world.cut(A, B, Direction::Backward);
    a.told.clear();
    a.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    let nodes = &mut [&mut a, &mut b];
    let connected = |nodes: &[&mut Node]| nodes[0].told(|told| matches!(told, Completion::Connected { .. }));
    assert!(!run(&world, nodes, Duration::from_secs(5), connected));
    world.heal(A, B);
    assert!(run(&world, nodes, Duration::from_secs(2), connected));
}

#[test]
fn a_visible_death_resets_and_a_silent_one_says_nothing_until_somebody_sends() {
    for death in [Death::Visible, Death::Silent] {
        let (world, mut a, mut b, at_a, at_b) = connected(9);
        a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
        world.kill(B, death);
        let nodes = &mut [&mut a, &mut b];
        let reset = run(&world, nodes, MINUTE, |nodes| {
            broken(nodes[0], ErrorKind::ConnectionReset)
        });
        assert_eq!(reset, death == Death::Visible);
        // The dead driver does nothing any more.
        nodes[1].driver.send(at_b, b"from beyond".to_vec());
        nodes[1].driver.close(at_b);
        assert!(nodes[1].driver.connect(SocketAddr::new(A, PORT)).is_err());
        if death == Death::Silent {
            nodes[0].driver.send(at_a, b"anyone?".to_vec());
            assert!(run(&world, nodes, MINUTE, |nodes| broken(
                nodes[0],
                ErrorKind::TimedOut
            )));
        }
    }
}

#[test]
fn a_host_that_is_back_after_a_silent_death_resets_what_it_does_not_know() {
    let (world, mut a, mut b, at_a, _) = connected(10);
    a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
    world.kill(B, Death::Silent);
    let mut again = Node::new(&world, B);
    a.driver.send(at_a, b"anyone?".to_vec());
    let nodes = &mut [&mut a, &mut b, &mut again];
    assert!(run(&world, nodes, Duration::from_secs(1), |nodes| broken(
        nodes[0],
        ErrorKind::ConnectionReset
    )));
}

#[test]
fn a_paused_host_hears_nothing_and_its_kernel_goes_on() {
    let (world, mut a, mut b, at_a, at_b) = connected(11);
    b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
    let until = world.now() + Duration::from_secs(7);
    world.pause(B, until);
    a.told.clear();
    a.driver.send(at_a, b"hello".to_vec());
    a.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    let nodes = &mut [&mut a, &mut b];
    assert!(run(&world, nodes, Duration::from_secs(1), |nodes| {
        nodes[0].told(|told| matches!(told, Completion::Sent { result: Ok(()), .. }))
            && nodes[0].told(|told| matches!(told, Completion::Connected { .. }))
    }));
    let arrived = |nodes: &[&mut Node]| nodes[1].received == b"hello";
    assert!(!run(&world, nodes, Duration::from_secs(5), arrived));
    nodes[1].turn();
    assert!(!arrived(nodes), "not even a wait of its own brings anything");
    assert!(run(&world, nodes, MINUTE, arrived));
    assert_eq!(world.now(), until);
}

#[test]
fn a_slow_reader_holds_up_its_sender() {
    let (world, mut a, mut b, at_a, at_b) = connected(12);
    a.driver
        .send(at_a, vec![1; 10 * WorldOptions::default().stream_bytes_max]);
    let nodes = &mut [&mut a, &mut b];
    let sent = |nodes: &[&mut Node]| nodes[0].told(|told| matches!(told, Completion::Sent { result: Ok(()), .. }));
    assert!(!run(&world, nodes, MINUTE, sent));
    nodes[1].driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
    assert!(run(&world, nodes, MINUTE, sent));
}

#[test]
fn reset_connections_breaks_both_ends() {
    let (world, mut a, mut b, at_a, at_b) = connected(13);
    a.driver.receive(at_a, ReceiveMode::Stream, BufferGroup::Device);
    b.driver.receive(at_b, ReceiveMode::Stream, BufferGroup::Device);
    world.reset_connections(A);
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| {
        nodes.iter().all(|node| broken(node, ErrorKind::ConnectionReset))
    }));
}

#[test]
fn those_who_listen_on_one_address_share_its_clients() {
    let world = World::new(14, WorldOptions::default());
    let mut clients = Node::new(&world, A);
    let (mut one, mut two) = (Node::new(&world, B), Node::new(&world, B));
    one.driver.listen(SocketAddr::new(B, PORT), ListenerId(1)).unwrap();
    two.driver.listen(SocketAddr::new(B, PORT), ListenerId(1)).unwrap();
    for _ in 0..100 {
        clients.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    }
    run(&world, &mut [&mut clients, &mut one, &mut two], MINUTE, |_| false);
    assert_eq!(one.driver.open() + two.driver.open(), 100);
    assert!(
        one.driver.open() > 20 && two.driver.open() > 20,
        "{} and {}",
        one.driver.open(),
        two.driver.open()
    );
}

#[test]
fn wall_clocks_jump_and_drift_and_the_monotonic_one_does_not() {
    let world = World::new(15, WorldOptions::default());
    let (a, b) = (Node::new(&world, A), Node::new(&world, B));
    let start = a.driver.wall_ms();
    world.jump_wall(A, -5000);
    world.drift_wall(B, 1000);
    assert_eq!(a.driver.wall_ms(), start - 5000);
    world.advance(world.now() + Duration::from_secs(100));
    assert_eq!(a.driver.wall_ms(), start + 95_000);
    assert_eq!(b.driver.wall_ms(), start + 100_100);
    assert_eq!(a.driver.now(), b.driver.now());
    assert_eq!(a.driver.now(), Instant::ZERO + Duration::from_secs(100));
}

#[test]
fn a_wake_announces_the_driver_and_wakes_fold() {
    let world = World::new(16, WorldOptions::default());
    let mut a = Node::new(&world, A);
    let waker = a.driver.waker();
    waker.wake();
    waker.wake();
    assert_eq!(world.next_event(), Some(world.now()));
    let mut ready = Vec::new();
    world.take_ready(&mut ready);
    assert_eq!(ready, [a.driver.id()]);
    a.turn();
    a.turn();
    assert!(matches!(a.told[..], [Completion::Woken]));
    assert!(!world.has_ready());
}

#[test]
fn an_echo_of_many_connections_runs_dry() {
    let world = World::new(17, WorldOptions::default());
    let (mut a, mut b) = (Node::new(&world, A), Node::new(&world, B));
    b.echoes = true;
    b.driver.listen(SocketAddr::new(B, PORT), ListenerId(1)).unwrap();
    for _ in 0..50 {
        a.driver.connect(SocketAddr::new(B, PORT)).unwrap();
    }
    run(&world, &mut [&mut a, &mut b], MINUTE, |_| false);
    let tokens: Vec<Token> = a
        .told
        .drain(..)
        .map(|told| match told {
            Completion::Connected { token } => token,
            other => panic!("{other:?}"),
        })
        .collect();
    for token in &tokens {
        a.driver.receive(*token, ReceiveMode::Stream, BufferGroup::Device);
        a.driver.send(*token, vec![5; 10_000]);
    }
    assert!(run(&world, &mut [&mut a, &mut b], MINUTE, |nodes| nodes[0]
        .received
        .len()
        == 50 * 10_000));
    assert_eq!(world.next_event(), None, "nothing goes on by itself");
}
