//! Sockets that move from one driver to another.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode, Token};

use crate::harness::{Bounds, Failure, Harness, Outcome, Peer, ensure};
use crate::rig::{Rig, ensure_pattern, pattern};

/// Hands `token` over from one driver to another: the socket in transit.
fn hand_over<H: Harness>(
    rig: &mut Rig<H>,
    from: usize,
    to: usize,
    token: Token,
) -> Result<<H::Driver as Driver>::Socket, Failure> {
    let address = rig.nodes[to].driver.address();
    rig.nodes[from].hand_over(token, &address);
    rig.run("it is handed over", |rig| !rig.nodes[from].handed.is_empty())?;
    match rig.nodes[from].handed.remove(0) {
        (handed, Ok(socket)) if handed == token => Ok(socket),
        (handed, result) => Err(Failure(format!("{handed:?} instead of {token:?}: {result:?}"))),
    }
}

pub fn a_socket_moves_with_what_arrives_before_during_and_after<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (from, peer, token) = rig.node_with_peer(Bounds::default())?;
    let to = rig.add(Bounds::default());
    rig.nodes[from].receive(token, ReceiveMode::Once, BufferGroup::Device);
    rig.peers[peer].send(&pattern(1, 0, 3_000));
    rig.run("the first piece is read", |rig| rig.nodes[from].of(token).pieces == 1)?;
    // Before: in the socket, unread.
    rig.peers[peer].send(&pattern(1, 3_000, 3_000));
    rig.run_for(Duration::from_millis(5))?;
    let socket = hand_over(rig, from, to, token)?;
    // During: nobody has it.
    rig.peers[peer].send(&pattern(1, 6_000, 3_000));
    rig.run_for(Duration::from_millis(5))?;
    let moved = rig.nodes[to].adopt(socket)?;
    rig.run_for(Duration::from_millis(5))?;
    rig.nodes[to].receive(moved, ReceiveMode::Stream, BufferGroup::Device);
    // After.
    rig.peers[peer].send(&pattern(1, 9_000, 3_000));
    let first = rig.nodes[from].of(token).received.clone();
    let rest = 12_000 - first.len();
    rig.run("the rest is read by the other", |rig| {
        rig.nodes[to].of(moved).received.len() == rest
    })?;
    ensure_pattern(1, &[first, rig.nodes[to].of(moved).received.clone()].concat())?;
    rig.nodes[to].send(moved, pattern(2, 0, 100_000));
    rig.run("the other answers", |rig| rig.peers[peer].received().len() == 100_000)?;
    ensure_pattern(2, rig.peers[peer].received())?;
    ensure!(rig.nodes[from].driver.open() == 0, "the socket counts at both");
    ensure!(rig.nodes[to].driver.open() == 1, "the socket counts at neither");
    // And it ends as it would have.
    rig.peers[peer].finish();
    rig.run("the end is seen", |rig| rig.nodes[to].of(moved).eof)
}

pub fn a_socket_dropped_in_transit_is_closed<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (from, peer, token) = rig.node_with_peer(Bounds::default())?;
    let to = rig.add(Bounds::default());
    drop(hand_over(rig, from, to, token)?);
    rig.run("the peer sees the end", |rig| rig.peers[peer].end().is_some())
}

pub fn a_full_table_gives_the_socket_back<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (from, peer, token) = rig.node_with_peer(Bounds::default())?;
    let bounds = Bounds {
        sockets_max: 1,
        ..Bounds::default()
    };
    let (full, _other, blocking) = rig.node_with_peer(bounds)?;
    let socket = hand_over(rig, from, full, token)?;
    let Err((_, socket)) = rig.nodes[full].driver.adopt(socket) else {
        return Err(Failure("a full table took another socket".to_owned()));
    };
    rig.nodes[full].close(blocking);
    rig.run("there is room", |rig| rig.nodes[full].live.is_empty())?;
    let moved = rig.nodes[full].adopt(socket)?;
    rig.nodes[full].send(moved, b"here I am".to_vec());
    rig.run("the socket survived", |rig| rig.peers[peer].received() == b"here I am")
}

pub fn handing_over_what_is_armed_or_in_flight_panics<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    let to = rig.nodes[node].driver.address();
    let connecting = rig.nodes[node].connect(rig.harness.mute_address())?;
    let panics = |rig: &mut Rig<H>, token: Token, what: &str| {
        let driver = &mut rig.nodes[node].driver;
        let panicked = catch_unwind(AssertUnwindSafe(|| driver.hand_over(token, &to))).is_err();
        ensure!(panicked, "handed over with {what}");
        Ok(())
    };
    panics(rig, connecting, "a connect pending")?;
    rig.nodes[node].send(token, b"x".to_vec());
    panics(rig, token, "a send in flight")?;
    rig.run("the send completes", |rig| !rig.nodes[node].of(token).sending())?;
    for mode in [ReceiveMode::Once, ReceiveMode::Stream] {
        rig.nodes[node].receive(token, mode, BufferGroup::Device);
        panics(rig, token, "a receive armed")?;
        rig.peers[peer].send(b"y");
        let pieces = rig.nodes[node].of(token).pieces;
        rig.run("a piece arrives", |rig| rig.nodes[node].of(token).pieces > pieces)?;
    }
    Ok(())
}

pub fn after_a_hand_over_the_token_is_dead_without_a_close<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (from, peer, token) = rig.node_with_peer(Bounds::default())?;
    let to = rig.add(Bounds::default());
    let address = rig.nodes[to].driver.address();
    rig.nodes[from].hand_over(token, &address);
    // Too late: the socket is on its way. The rig fails on a Closed, or on anything received.
    rig.nodes[from].close(token);
    rig.nodes[from].receive(token, ReceiveMode::Once, BufferGroup::Device);
    rig.nodes[from].send(token, b"lost".to_vec());
    rig.nodes[from].hand_over(token, &address);
    rig.run("it is handed over", |rig| rig.nodes[from].handed.len() == 1)?;
    rig.nodes[from].close(token);
    rig.run_for(Duration::from_millis(5))?;
    let (_, result) = rig.nodes[from].handed.remove(0);
    let socket = result.map_err(|error| Failure(format!("hand-over: {error}")))?;
    let moved = rig.nodes[to].adopt(socket)?;
    rig.nodes[to].send(moved, b"alive".to_vec());
    rig.run("the socket lives on", |rig| rig.peers[peer].received() == b"alive")
}
