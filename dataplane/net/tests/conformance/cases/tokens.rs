//! Tokens, dead and alive.

use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode};
use trunkline_wire::time::Instant;

use crate::harness::{Bounds, Harness, Outcome, Peer, ensure};
use crate::rig::Rig;

pub fn operations_on_a_dead_token_do_nothing<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, _peer, token) = rig.node_with_peer(Bounds::default())?;
    rig.nodes[node].close(token);
    rig.run("it is closed", |rig| rig.nodes[node].dead.contains_key(&token))?;
    let address = rig.nodes[node].driver.address();
    for _ in 0..2 {
        rig.nodes[node].send(token, b"hello".to_vec());
        rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device);
        rig.nodes[node].hand_over(token, &address);
        rig.nodes[node].close(token);
    }
    // The rig fails on a completion for a dead token.
    rig.run_for(Duration::from_millis(20))
}

pub fn a_slot_is_not_another_s_before_the_end_of_its_token_was_looked_at<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    for handed_over in [false, true] {
        let (node, _peer, old) = rig.node_with_peer(Bounds::default())?;
        let to = rig.add(Bounds::default());
        if handed_over {
            let address = rig.nodes[to].driver.address();
            rig.nodes[node].hand_over(old, &address);
        } else {
            rig.nodes[node].close(old);
        }
        let limit = rig.now() + rig.harness.patience();
        loop {
            // Without the others' turns nothing moves.
            rig.nodes[to].turn(Some(Instant::ZERO))?;
            rig.peers.iter_mut().for_each(|peer| {
                peer.turn();
            });
            rig.nodes[node].wait(Some(Instant::ZERO))?;
            if rig.nodes[node].unseen_end(old) {
                break;
            }
            if !rig.nodes[node].look()? {
                rig.harness.pass(limit);
            }
            ensure!(rig.now() < limit, "its end does not come");
        }
        // The rig fails if the slot is one that it still holds for the old token.
        rig.nodes[node].connect(rig.harness.mute_address())?;
        rig.nodes[node].look()?;
        ensure!(rig.nodes[node].live.len() == 1, "only the new socket is left");
    }
    Ok(())
}

pub fn a_reused_slot_bumps_its_generation_and_the_old_token_cannot_reach_it<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 1,
        ..Bounds::default()
    };
    let (node, peer, old) = rig.node_with_peer(bounds)?;
    rig.peers[peer].send(b"of the old connection");
    rig.nodes[node].receive(old, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].close(old);
    rig.run("it is closed", |rig| rig.nodes[node].dead.contains_key(&old))?;
    let address = rig.listen(node)?;
    let (peer, new) = rig.peer(node, address)?;
    ensure!(new.slot == old.slot, "a table of one has one slot");
    ensure!(
        new.generation != old.generation,
        "the slot came back under the same generation"
    );
    let to = rig.nodes[node].driver.address();
    rig.nodes[node].receive(old, ReceiveMode::Stream, BufferGroup::Device);
    rig.nodes[node].send(old, b"wrong".to_vec());
    rig.nodes[node].hand_over(old, &to);
    rig.nodes[node].close(old);
    rig.peers[peer].send(b"right");
    rig.run_for(Duration::from_millis(20))?;
    ensure!(
        rig.peers[peer].received().is_empty(),
        "a send on a dead token reached its slot's new socket"
    );
    ensure!(
        rig.nodes[node].live.contains_key(&new),
        "the new socket was closed by the old token"
    );
    rig.nodes[node].receive(new, ReceiveMode::Stream, BufferGroup::Device);
    rig.run("the new socket works", |rig| {
        rig.nodes[node].of(new).received == b"right"
    })
}

pub fn open_counts_sockets_until_they_are_closed<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let node = rig.add(Bounds::default());
    let address = rig.listen(node)?;
    ensure!(rig.nodes[node].driver.open() == 0, "listeners are counted");
    let (at_client, at_server) = rig.connection(node, node, address)?;
    ensure!(
        rig.nodes[node].driver.open() == 2,
        "{} rather than 2 open",
        rig.nodes[node].driver.open()
    );
    rig.nodes[node].close(at_client);
    rig.run("one is closed", |rig| rig.nodes[node].dead.contains_key(&at_client))?;
    ensure!(
        rig.nodes[node].driver.open() == 1,
        "{} rather than 1 open",
        rig.nodes[node].driver.open()
    );
    ensure!(
        rig.nodes[node].live.contains_key(&at_server),
        "the other end is its caller's to close"
    );
    ensure!(rig.slots(node).len() == 2, "slots are dense");
    Ok(())
}
