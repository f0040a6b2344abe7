//! Receive buffers, and what happens when they are all out.

use std::time::Duration;

use trunkline_net::driver::{BufferGroup, ReceiveMode};

use crate::harness::{Bounds, Harness, Outcome, Peer, ensure};
use crate::rig::{Lending, Rig, ensure_pattern, pattern};

pub fn when_all_buffers_are_out_reading_waits_and_nothing_is_lost<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        device_buffers: 2,
        ..Bounds::default()
    };
    let node = rig.add(bounds);
    let address = rig.listen(node)?;
    rig.nodes[node].lending = Lending::Hold;
    let mut tokens = Vec::new();
    for id in 0..5 {
        let (peer, token) = rig.peer(node, address)?;
        rig.peers[peer].send(&pattern(id, 0, BYTES));
        rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
        tokens.push(token);
    }
    rig.run("all buffers are out", |rig| rig.nodes[node].held.len() == 2)?;
    rig.run_for(Duration::from_millis(20))?;
    let (waits, looks) = (rig.nodes[node].waits, rig.harness.looks(&rig.nodes[node].driver));
    rig.run_for(Duration::from_millis(60))?;
    ensure!(rig.nodes[node].held.len() == 2, "more buffers than there are");
    // A round of the rig waits for a millisecond when nothing happens.
    let waited = rig.nodes[node].waits - waits;
    ensure!(
        waited <= 130,
        "wait returned {waited} times in 60 ms without anything to say"
    );
    let looked = rig.harness.looks(&rig.nodes[node].driver) - looks;
    ensure!(
        looked <= 2 * waited,
        "the driver spins: {looked} looks in {waited} waits"
    );
    rig.drive("every byte arrives", |rig| {
        let count = rig.rng.usize(1..=2);
        rig.nodes[node].give_back(count)?;
        let node = &rig.nodes[node];
        let received = |index: usize| node.of(tokens[index]).received.len();
        // Nobody starves: when the first is through, each of the others has had something.
        let first = (0..5).any(|index| received(index) == BYTES);
        ensure!(
            !first || (0..5).all(|index| received(index) > 0),
            "one was read to its end before another at all"
        );
        Ok((0..5).all(|index| received(index) == BYTES))
    })?;
    for (id, token) in tokens.iter().enumerate() {
        ensure_pattern(id as u64, &rig.nodes[node].of(*token).received)?;
    }
    Ok(())
}

pub fn links_are_read_while_the_devices_have_no_buffer<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        device_buffers: 1,
        ..Bounds::default()
    };
    let (node, device, at_device) = rig.node_with_peer(bounds)?;
    let address = rig.listen(node)?;
    let (link, at_link) = rig.peer(node, address)?;
    rig.nodes[node].lending = Lending::Hold;
    rig.nodes[node].receive(at_device, ReceiveMode::Stream, BufferGroup::Device);
    rig.peers[device].send(&[1; BYTES]);
    rig.run("the devices' buffer is out", |rig| rig.nodes[node].held.len() == 1)?;
    rig.nodes[node].receive(at_link, ReceiveMode::Once, BufferGroup::Link);
    rig.peers[link].send(b"from a node");
    rig.run("the link is read", |rig| {
        !rig.nodes[node].of(at_link).received.is_empty()
    })
}

pub fn a_lent_buffer_is_not_written_to<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.nodes[node].lending = Lending::Hold;
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.peers[peer].send(&pattern(1, 0, BYTES));
    rig.drive("every byte arrives", |rig| {
        // All but one stay out; `give_back` compares each with what it was when it came.
        if rig.nodes[node].held.len() == 8 {
            rig.nodes[node].give_back(1)?;
        }
        Ok(rig.nodes[node].of(token).received.len() == BYTES)
    })
}

const BYTES: usize = 50_000;
