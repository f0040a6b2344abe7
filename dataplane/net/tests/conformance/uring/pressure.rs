//! Too few buffers, too small a completion queue, too much at once.

use std::time::Duration;

use trunkline_net::driver::{BufferGroup, ReceiveMode};

use super::{Tight, Uring};
use crate::check;
use crate::harness::{Bounds, DEVICE_BUFFER_BYTES, Harness, Outcome, Peer, Speed, ensure};
use crate::rig::{Lending, Rig, ensure_pattern, pattern};

/// 1,000 sockets share 4 buffers: all that was sent arrives, everybody is served before anybody is through, and who waits costs nothing.
fn storm<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: SOCKETS as u32,
        device_buffers: 4,
        ..Bounds::default()
    };
    let node = rig.add(bounds);
    let address = rig.listen(node)?;
    rig.nodes[node].lending = Lending::Hold;
    let mut tokens = Vec::new();
    for id in 0..SOCKETS {
        let (peer, token) = rig.peer(node, address)?;
        rig.peers[peer].read_at(Speed::Stopped);
        rig.peers[peer].send(&pattern(id as u64, 0, BYTES));
        tokens.push(token);
    }
    for token in &tokens {
        rig.nodes[node].receive(*token, ReceiveMode::Stream, BufferGroup::Device);
    }
    rig.run("all buffers are out", |rig| rig.nodes[node].held.len() == 4)?;
    rig.run_for(Duration::from_millis(20))?;
    let (waits, looks) = (rig.nodes[node].waits, rig.harness.looks(&rig.nodes[node].driver));
    rig.run_for(Duration::from_millis(60))?;
    let waited = rig.nodes[node].waits - waits;
    let looked = rig.harness.looks(&rig.nodes[node].driver) - looks;
    ensure!(
        waited <= 130,
        "wait returned {waited} times in 60 ms with nothing to say"
    );
    ensure!(looked <= 2 * waited, "it spins: {looked} looks in {waited} waits");

    let looks = rig.harness.looks(&rig.nodes[node].driver);
    rig.drive("every byte arrives", |rig| {
        rig.nodes[node].give_back(4)?;
        let node = &rig.nodes[node];
        let received = |index: usize| node.of(tokens[index]).received.len();
        let most = (0..SOCKETS).map(received).max().unwrap_or(0);
        let least = (0..SOCKETS).map(received).min().unwrap_or(0);
        ensure!(most < BYTES || least > 0, "one is through and another had nothing");
        Ok(least == BYTES)
    })?;
    let pieces: usize = tokens.iter().map(|token| rig.nodes[node].of(*token).pieces).sum();
    let looked = rig.harness.looks(&rig.nodes[node].driver) - looks;
    // A buffer at a time, as long as they are all wanted; a few entries for each batch of them.
    ensure!(
        looked as usize <= 4 * pieces,
        "it spins: {looked} looks for {pieces} pieces"
    );
    for (id, token) in tokens.iter().enumerate() {
        ensure_pattern(id as u64, &rig.nodes[node].of(*token).received)?;
    }
    Ok(())
}

const SOCKETS: usize = 1_000;
/// Six buffers' worth: more than the first in line can get before it's crowded.
const BYTES: usize = 6 * DEVICE_BUFFER_BYTES as usize;

/// Many peers' last words, and their ends, are there before the first wait: each Eof comes after all of its data.
fn data_and_fin_in_one_batch<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 200,
        device_buffers: 32,
        ..Bounds::default()
    };
    let node = rig.add(bounds);
    let address = rig.listen(node)?;
    let mut tokens = Vec::new();
    for _ in 0..200 {
        let (_, token) = rig.peer(node, address)?;
        rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
        tokens.push(token);
    }
    rig.run_for(Duration::from_millis(5))?;
    for id in 0..200 {
        rig.peers[id].send(&pattern(id as u64, 0, 1_500));
        rig.peers[id].finish();
    }
    // The rig's model holds each token to one Eof, and to nothing received thereafter.
    rig.run("all ends are seen", |rig| {
        tokens.iter().all(|token| rig.nodes[node].of(*token).eof)
    })?;
    for (id, token) in tokens.iter().enumerate() {
        let received = &rig.nodes[node].of(*token).received;
        ensure!(received.len() == 1_500, "{} bytes before Eof", received.len());
        ensure_pattern(id as u64, received)?;
    }
    Ok(())
}

#[test]
fn a_thousand_sockets_share_four_buffers() {
    check::<Uring>(storm);
}

#[test]
fn a_thousand_sockets_share_four_buffers_and_eight_completions() {
    check::<Tight>(storm);
}

#[test]
fn data_and_fins_come_in_one_batch() {
    check::<Uring>(data_and_fin_in_one_batch);
}

#[test]
fn data_and_fins_overflow_the_completion_queue() {
    check::<Tight>(data_and_fin_in_one_batch);
}
