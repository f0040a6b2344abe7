//! How streams and connects end.

use std::io::ErrorKind;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode};

use crate::harness::{Bounds, Harness, Outcome, Peer, Speed, ensure};
use crate::rig::{Rig, ensure_pattern, pattern};

pub fn data_that_comes_with_the_fin_is_delivered_before_eof<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    for (length, armed_before) in [(1, true), (1, false), (20_000, true), (20_000, false)] {
        for mode in [ReceiveMode::Once, ReceiveMode::Stream] {
            let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
            if armed_before {
                rig.nodes[node].receive(token, mode, BufferGroup::Device);
            }
            rig.peers[peer].send(&pattern(1, 0, length));
            rig.peers[peer].finish();
            if !armed_before {
                rig.run_for(std::time::Duration::from_millis(5))?;
            }
            rig.drive("the end is seen", |rig| {
                rig.nodes[node].receive(token, mode, BufferGroup::Device);
                Ok(rig.nodes[node].of(token).eof)
            })?;
            let model = rig.nodes[node].of(token);
            ensure!(
                model.received.len() == length,
                "{} of {length} bytes before Eof",
                model.received.len()
            );
            ensure_pattern(1, &model.received)?;
            // After the end nothing can be armed: the rig fails on a second Eof.
            rig.nodes[node].receive(token, mode, BufferGroup::Device);
            rig.run_for(std::time::Duration::from_millis(5))?;
        }
    }
    Ok(())
}

pub fn the_last_data_before_an_end_that_has_come_says_that_it_is_followed<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    const LENGTH: usize = 30;
    for finished in [false, true] {
        let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
        rig.peers[peer].send(&pattern(1, 0, LENGTH));
        if finished {
            rig.peers[peer].finish();
        }
        // All of it arrives before the first byte is read, whatever stalls on the way.
        rig.run_for(std::time::Duration::from_millis(100))?;
        rig.drive("all data is read, piece by piece", |rig| {
            let model = rig.nodes[node].of(token);
            let short = model.pieces > 0 && model.received.len() < LENGTH;
            ensure!(
                !short || model.followed || !finished,
                "the rest of the data is there, and a piece doesn't say so"
            );
            let all = model.received.len() == LENGTH;
            if !all {
                rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device);
            }
            Ok(all)
        })?;
        let said = rig.nodes[node].of(token).followed;
        ensure!(
            said == finished,
            "the last data says {said} of an end, and there is {finished}"
        );
        if finished {
            rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device);
            rig.run("the end is seen", |rig| rig.nodes[node].of(token).eof)?;
        }
    }
    Ok(())
}

pub fn after_eof_sending_is_still_possible<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.peers[peer].finish();
    rig.run("the end is seen", |rig| rig.nodes[node].of(token).eof)?;
    rig.nodes[node].send(token, pattern(1, 0, 300_000));
    rig.run("the answer arrives", |rig| rig.peers[peer].received().len() == 300_000)?;
    ensure_pattern(1, rig.peers[peer].received())
}

pub fn a_reset_in_the_middle_of_a_send_fails_the_send<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    for armed in [true, false] {
        let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
        rig.peers[peer].read_at(Speed::Stopped);
        if armed {
            rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
        }
        rig.nodes[node].send(token, vec![1; 4 * 1024 * 1024]);
        rig.run_for(std::time::Duration::from_millis(20))?;
        rig.peers[peer].reset();
        rig.run("the send fails", |rig| {
            matches!(rig.nodes[node].of(token).sent[..], [Err(_)])
        })?;
        if armed {
            rig.run("the receive ends", |rig| !rig.nodes[node].of(token).armed())?;
        }
        // The stream is broken: nothing that is sent now may seem to succeed.
        rig.nodes[node].send(token, vec![2; 10]);
        rig.run("a later send fails", |rig| {
            matches!(rig.nodes[node].of(token).sent[..], [Err(_), Err(_)])
        })?;
        ensure!(rig.nodes[node].live.contains_key(&token), "the token died by itself");
    }
    Ok(())
}

pub fn a_reset_fails_an_armed_receive<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    for mode in [ReceiveMode::Once, ReceiveMode::Stream] {
        let (node, peer, token) = rig.node_with_peer(Bounds::default())?;
        rig.nodes[node].receive(token, mode, BufferGroup::Device);
        rig.peers[peer].reset();
        rig.run("the receive fails", |rig| {
            rig.nodes[node].of(token).receive_failed.is_some()
        })?;
        let kind = rig.nodes[node].of(token).receive_failed;
        ensure!(
            kind == Some(ErrorKind::ConnectionReset),
            "a reset was reported as {kind:?}"
        );
        rig.nodes[node].receive(token, mode, BufferGroup::Device);
        rig.run_for(std::time::Duration::from_millis(5))?;
    }
    Ok(())
}

pub fn a_refused_connect_fails_and_leaves_the_token_to_close<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let address = rig.listen(node)?;
    rig.nodes[node].driver.unlisten(crate::rig::LISTENER);
    let token = rig.nodes[node].connect(address)?;
    rig.run("the connect fails", |rig| {
        rig.nodes[node].of(token).connect_failed.is_some()
    })?;
    let kind = rig.nodes[node].of(token).connect_failed;
    ensure!(
        kind == Some(ErrorKind::ConnectionRefused),
        "a refusal was reported as {kind:?}"
    );
    ensure!(rig.nodes[node].driver.open() == 1, "the token died by itself");
    rig.nodes[node].receive(token, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].send(token, b"nobody".to_vec());
    rig.run("a send fails", |rig| {
        matches!(rig.nodes[node].of(token).sent[..], [Err(_)])
    })
}

pub fn a_send_before_the_connect_is_through_fails<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let token = rig.nodes[node].connect(rig.harness.mute_address())?;
    rig.nodes[node].send(token, b"too early".to_vec());
    rig.run("the send fails", |rig| {
        matches!(rig.nodes[node].of(token).sent[..], [Err(_)])
    })?;
    ensure!(
        rig.nodes[node].of(token).connect_failed.is_none(),
        "the connect failed with it"
    );
    Ok(())
}
