//! `close`, against everything that may be under way.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode, Token};

use crate::harness::{Bounds, End, Failure, Harness, Outcome, Peer, Speed, ensure};
use crate::rig::{LISTENER, Rig, ensure_pattern, pattern};

/// What is pending when `close` is called.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pending {
    Nothing,
    Connect,
    ReceiveOnce,
    ReceiveStream,
    /// With data that could be received.
    ReceiveReady,
    Send,
    /// The kernel took it and the caller was not told yet.
    SendTaken,
    SendAndReceive,
    Eof,
    Reset,
}

pub fn close_answers_every_pending_operation_once<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    use Pending::{
        Connect, Eof, Nothing, ReceiveOnce, ReceiveReady, ReceiveStream, Reset, Send, SendAndReceive, SendTaken,
    };
    let all = [
        Nothing,
        Connect,
        ReceiveOnce,
        ReceiveStream,
        ReceiveReady,
        Send,
        SendTaken,
        SendAndReceive,
        Eof,
        Reset,
    ];
    for pending in all {
        let (node, peer, accepted) = rig.node_with_peer(Bounds::default())?;
        let mut token = accepted;
        match pending {
            Nothing => {}
            Connect => token = rig.nodes[node].connect(rig.harness.mute_address())?,
            ReceiveOnce => rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device),
            ReceiveStream => rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Link),
            ReceiveReady => {
                rig.peers[peer].send(b"unread");
                rig.run_for(Duration::from_millis(5))?;
                rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
            }
            Send | SendAndReceive => {
                rig.peers[peer].read_at(Speed::Stopped);
                rig.nodes[node].send(token, vec![1; 4 * 1024 * 1024]);
                rig.run_for(Duration::from_millis(5))?;
                if pending == SendAndReceive {
                    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
                    rig.run_for(Duration::from_millis(5))?;
                }
            }
            SendTaken => rig.nodes[node].send(token, b"short".to_vec()),
            Eof => {
                rig.peers[peer].finish();
                rig.run_for(Duration::from_millis(5))?;
            }
            Reset => {
                rig.peers[peer].reset();
                rig.run_for(Duration::from_millis(5))?;
            }
        }
        rig.nodes[node].close(token);
        // The rig fails on anything received from now on, on a second Closed, and on one that leaves a send unanswered.
        rig.run("it is closed", |rig| rig.nodes[node].dead.contains_key(&token))
            .map_err(|failure| Failure(format!("with {pending:?} pending: {failure}")))?;
        let sent = &rig.nodes[node].of(token).sent;
        match pending {
            Send | SendAndReceive => ensure!(matches!(sent[..], [Err(_)]), "with {pending:?}: {sent:?}"),
            SendTaken => ensure!(sent.len() == 1, "with {pending:?}: {sent:?}"),
            Nothing | Connect | ReceiveOnce | ReceiveStream | ReceiveReady | Eof | Reset => {
                ensure!(sent.is_empty(), "with {pending:?}: {sent:?}");
            }
        }
        rig.run_for(Duration::from_millis(5))?;
        let left = usize::from(pending == Connect);
        ensure!(
            rig.nodes[node].driver.open() == left,
            "with {pending:?}: {} open",
            rig.nodes[node].driver.open()
        );
    }
    Ok(())
}

pub fn what_was_sent_before_the_close_is_delivered<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    // With bytes of the peer's unread as well, to which a kernel's close would answer by a reset and drop what it still holds.
    for unread in [0, 20_000] {
        let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
        rig.peers[peer].read_at(Speed::Stopped);
        rig.peers[peer].send(&vec![9; unread]);
        rig.run("the peer's bytes are under way", |rig| rig.peers[peer].drained())?;
        // Until the peer's kernel is full and this one holds the rest.
        let mut given = 0;
        while !rig.nodes[node].of(token).sending() {
            rig.nodes[node].send(token, pattern(1, given, CHUNK_BYTES));
            given += CHUNK_BYTES;
            rig.run_for(Duration::from_millis(20))?;
        }
        let taken = given - CHUNK_BYTES;
        ensure!(
            rig.nodes[node].of(token).sent.iter().all(Result::is_ok),
            "a send failed"
        );
        rig.nodes[node].close(token);
        rig.run("it is closed", |rig| rig.nodes[node].dead.contains_key(&token))?;
        rig.peers[peer].read_at(Speed::Full);
        rig.run("the peer sees an end", |rig| rig.peers[peer].end().is_some())?;
        let received = rig.peers[peer].received();
        ensure!(
            received.len() >= taken,
            "{} of {taken} bytes arrived, {unread} unread",
            received.len()
        );
        ensure_pattern(1, received)?;
        ensure!(
            unread > 0 || rig.peers[peer].end() == Some(End::Eof),
            "a reset at an orderly close"
        );
    }
    Ok(())
}

/// More than a send buffer under test holds.
const CHUNK_BYTES: usize = 20_000;

pub fn closing_twice_closes_once<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, _peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.nodes[node].close(token);
    rig.nodes[node].close(token);
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].send(token, b"into the void".to_vec());
    rig.run("it is closed", |rig| rig.nodes[node].dead.contains_key(&token))?;
    rig.nodes[node].close(token);
    rig.run_for(Duration::from_millis(5))?;
    ensure!(rig.nodes[node].driver.open() == 0, "something is open");
    Ok(())
}

/// Very many connections to itself, some of them used, closed from either end. The clean-up sees that none is left.
pub fn connections_come_and_go<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds {
        sockets_max: 256,
        ..Bounds::default()
    });
    let mut addresses = Vec::new();
    for address in rig.harness.addresses() {
        let bound = rig.nodes[node].driver.listen(SocketAddr::new(address, 0), LISTENER);
        addresses.push(bound.map_err(|error| Failure(format!("listen: {error}")))?);
    }
    let (mut started, mut ended) = (0, 0);
    while ended < H::CONNECTIONS {
        while started < H::CONNECTIONS && started - ended < 100 {
            rig.nodes[node].connect(addresses[started % addresses.len()])?;
            started += 1;
        }
        if !rig.round(false)? {
            rig.harness.pass(rig.now() + Duration::from_secs(1));
        }
        let connected: Vec<Token> = rig.nodes[node]
            .live
            .iter()
            .filter(|(_, model)| model.connected)
            .map(|(token, _)| *token)
            .collect();
        for token in connected {
            // Whichever end is first.
            let model = rig.nodes[node].of(token);
            if model.closing() {
                continue;
            }
            match rig.rng.u8(0..8) {
                0 if !model.sending() => rig.nodes[node].send(token, b"hello".to_vec()),
                1 => rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device),
                _ => rig.nodes[node].close(token),
            }
        }
        let failed: Vec<Token> = rig.nodes[node]
            .live
            .iter()
            .filter(|(_, model)| model.connect_failed.is_some())
            .map(|(token, _)| *token)
            .collect();
        ensure!(
            failed.is_empty(),
            "{} connects failed: {:?}",
            failed.len(),
            rig.nodes[node].of(failed[0]).connect_failed
        );
        // Two ends each, accepted and connected.
        ended = (rig.nodes[node].deaths() / 2).min(started);
    }
    Ok(())
}
