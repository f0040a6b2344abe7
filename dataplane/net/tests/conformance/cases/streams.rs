//! Bytes: all of them, once, in order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode, Token};

use crate::harness::{Bounds, Harness, LINK_BUFFER_BYTES, Outcome, Peer, Speed, ensure};
use crate::rig::{Lending, Rig, ensure_pattern, ensure_pattern_from, pattern};

/// One direction of a connection under load.
struct Flow {
    id: u64,
    from: (usize, Token),
    to: (usize, Token),
    sent: usize,
    checked: usize,
    group: BufferGroup,
}

pub fn streams_are_byte_exact_under_short_reads_short_sends_and_slow_readers<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (a, b) = (rig.add(Bounds::default()), rig.add(Bounds::default()));
    let address = rig.listen(b)?;
    let mut flows = Vec::new();
    for pair in 0..3 {
        let (at_a, at_b) = rig.connection(a, b, address)?;
        let group = if pair == 0 {
            BufferGroup::Link
        } else {
            BufferGroup::Device
        };
        for (from, to) in [((a, at_a), (b, at_b)), ((b, at_b), (a, at_a))] {
            let id = 1 + flows.len() as u64;
            flows.push(Flow {
                id,
                from,
                to,
                sent: 0,
                checked: 0,
                group,
            });
        }
    }
    for node in &mut rig.nodes {
        // A slow reader: its buffers come back when the case feels like it.
        node.lending = Lending::Hold;
    }
    rig.drive("every stream is through", |rig| {
        let mut through = true;
        for flow in &mut flows {
            let (node, token) = flow.from;
            if flow.sent < STREAM_BYTES && !rig.nodes[node].of(token).sending() {
                let most = [16, 2_000, 100_000, 400_000][rig.rng.usize(0..4)];
                let length = rig.rng.usize(1..=most).min(STREAM_BYTES - flow.sent);
                rig.nodes[node].send(token, pattern(flow.id, flow.sent, length));
                flow.sent += length;
            }
            let (node, token) = flow.to;
            if !rig.nodes[node].of(token).armed() {
                let mode = if rig.rng.bool() {
                    ReceiveMode::Once
                } else {
                    ReceiveMode::Stream
                };
                rig.nodes[node].receive(token, mode, flow.group);
            }
            let received = &rig.nodes[node].of(token).received;
            if received.len() > flow.checked + 64 * 1024 || received.len() == STREAM_BYTES {
                ensure_pattern_from(flow.id, flow.checked, received)?;
                flow.checked = received.len();
            }
            ensure!(
                received.len() <= STREAM_BYTES,
                "stream {} has more bytes than were sent",
                flow.id
            );
            through &= received.len() == STREAM_BYTES;
        }
        for node in &mut rig.nodes {
            let back = rig.rng.usize(1..=8);
            node.give_back(back)?;
        }
        Ok(through)
    })?;
    Ok(())
}

pub fn a_send_larger_than_all_buffers_completes_whole<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.peers[peer].read_at(Speed::Stopped);
    rig.nodes[node].send(token, pattern(1, 0, LARGE_BYTES));
    rig.run_for(Duration::from_millis(50))?;
    ensure!(
        rig.nodes[node].of(token).sending(),
        "a send completed that nobody can have taken"
    );
    rig.peers[peer].read_at(Speed::Full);
    rig.run("the send completes", |rig| rig.nodes[node].of(token).sent == [Ok(())])?;
    rig.run("all of it arrives", |rig| {
        rig.peers[peer].received().len() == LARGE_BYTES
    })?;
    ensure_pattern(1, rig.peers[peer].received())
}

pub fn a_second_send_in_flight_panics<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, _peer, token) = rig.node_with_peer(Bounds::default())?;
    // A short one, which the kernel takes at once, is in flight until the caller was told; a long one anyway.
    for bytes in [1, LARGE_BYTES] {
        rig.nodes[node].send(token, vec![1; bytes]);
        let driver = &mut rig.nodes[node].driver;
        let second = catch_unwind(AssertUnwindSafe(|| driver.send(token, vec![2])));
        ensure!(second.is_err(), "a second send after one of {bytes} bytes was taken");
        rig.run("the first send completes", |rig| !rig.nodes[node].of(token).sending())?;
    }
    Ok(())
}

pub fn nothing_is_read_before_receive<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.peers[peer].send(b"early");
    // The rig fails on any `Received` that nobody armed.
    rig.run_for(Duration::from_millis(30))?;
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.run("what came early is read", |rig| {
        rig.nodes[node].of(token).received == b"early"
    })
}

pub fn a_single_receive_brings_one_piece_and_arms_nothing<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    let total = 3 * LINK_BUFFER_BYTES as usize;
    rig.peers[peer].send(&pattern(1, 0, total));
    rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Link);
    rig.run("a piece arrives", |rig| rig.nodes[node].of(token).pieces == 1)?;
    // The rig fails on a second one.
    rig.run_for(Duration::from_millis(30))?;
    ensure!(rig.nodes[node].of(token).pieces == 1, "more than one piece");
    rig.drive("the rest arrives piece by piece", |rig| {
        rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Link);
        Ok(rig.nodes[node].of(token).received.len() == total)
    })?;
    ensure_pattern(1, &rig.nodes[node].of(token).received)
}

pub fn arming_what_is_armed_does_nothing<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device);
    // Not turned into a stream: the rig's model keeps the first mode.
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Link);
    let total = 3 * LINK_BUFFER_BYTES as usize;
    rig.peers[peer].send(&pattern(1, 0, total));
    rig.run("a piece arrives", |rig| rig.nodes[node].of(token).pieces == 1)?;
    rig.run_for(Duration::from_millis(30))?;
    ensure!(
        rig.nodes[node].of(token).pieces == 1,
        "a single receive became a stream"
    );
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.run("the rest arrives", |rig| {
        rig.nodes[node].of(token).received.len() == total
    })?;
    ensure_pattern(1, &rig.nodes[node].of(token).received)
}

pub fn a_flood_on_one_connection_does_not_hold_up_another<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, flooding, flooded) = rig.node_with_peer(Bounds::default())?;
    let address = rig.listen(node)?;
    let (quiet, token) = rig.peer(node, address)?;
    rig.nodes[node].receive(flooded, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.peers[flooding].send(&vec![1; 8 * LARGE_BYTES]);
    rig.run("the flood flows", |rig| {
        rig.nodes[node].of(flooded).received.len() > 64 * 1024
    })?;
    rig.peers[quiet].send(b"me too");
    rig.run("the quiet one is heard", |rig| {
        rig.nodes[node].of(token).received == b"me too"
    })?;
    let before = rig.nodes[node].of(flooded).received.len();
    ensure!(before < 8 * LARGE_BYTES, "the quiet one was heard only after the flood");
    Ok(())
}

/// Each stream of the byte-exact case.
const STREAM_BYTES: usize = 800_000;

/// More than the buffers of two kernels hold, which were made small.
const LARGE_BYTES: usize = 4 * 1024 * 1024;
