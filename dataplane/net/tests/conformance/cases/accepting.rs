//! Listeners: when they accept, pause, and end.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode};

use crate::harness::{Bounds, Harness, Outcome, Peer, ensure};
use crate::rig::{LISTENER, Rig};

pub fn a_full_table_stops_accepting_before_anyone_is_refused<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 4,
        ..Bounds::default()
    };
    let node = rig.add(bounds);
    let address = rig.listen(node)?;
    for index in 0..7 {
        let mut peer = rig.harness.dial(address);
        peer.send(&[index]);
        rig.peers.push(peer);
    }
    rig.run("the table is full", |rig| !rig.nodes[node].pauses.is_empty())?;
    let (waits, looks) = (rig.nodes[node].waits, rig.harness.looks(&rig.nodes[node].driver));
    rig.run_for(Duration::from_millis(50))?;
    ensure!(
        rig.nodes[node].driver.open() == 4,
        "{} rather than 4 accepted",
        rig.nodes[node].driver.open()
    );
    ensure!(
        rig.nodes[node].pauses == [(LISTENER, None)],
        "one pause is told once: {:?}",
        rig.nodes[node].pauses
    );
    let looked = rig.harness.looks(&rig.nodes[node].driver) - looks;
    let waited = rig.nodes[node].waits - waits;
    ensure!(
        looked <= 2 * waited,
        "a full table makes the driver spin: {looked} looks in {waited} waits"
    );
    ensure!(
        rig.peers.iter().all(|peer| peer.end().is_none()),
        "a client was refused"
    );
    // One goes, one comes, until all were served.
    rig.drive("everyone is accepted in turn", |rig| {
        let accepted = rig.nodes[node].accepted.len();
        ensure!(
            rig.nodes[node].driver.open() <= 4,
            "more sockets than the table has room for"
        );
        let heard: Vec<_> = rig.nodes[node]
            .live
            .iter()
            .map(|(token, model)| (*token, model.pieces > 0))
            .collect();
        for (token, heard) in heard {
            if heard {
                rig.nodes[node].close(token);
            } else {
                rig.nodes[node].receive(token, ReceiveMode::Once, BufferGroup::Device);
            }
        }
        Ok(accepted == 7)
    })?;
    ensure!(
        rig.peers
            .iter()
            .all(|peer| peer.end() != Some(crate::harness::End::Reset)),
        "a client was reset"
    );
    Ok(())
}

pub fn reserved_sockets_are_kept_for_connects<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 4,
        sockets_reserved: 2,
        ..Bounds::default()
    };
    let (node, other) = (rig.add(bounds), rig.add(Bounds::default()));
    let (address, to) = (rig.listen(node)?, rig.listen(other)?);
    for _ in 0..3 {
        rig.peers.push(rig.harness.dial(address));
    }
    rig.run("accepting pauses", |rig| !rig.nodes[node].pauses.is_empty())?;
    ensure!(
        rig.nodes[node].driver.open() == 2,
        "{} rather than 2 accepted",
        rig.nodes[node].driver.open()
    );
    rig.connection(node, other, to)?;
    rig.connection(node, other, to)?;
    Ok(())
}

pub fn a_full_table_refuses_to_connect<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 1,
        ..Bounds::default()
    };
    let (node, _peer, token) = rig.node_with_peer(bounds)?;
    let mute = rig.harness.mute_address();
    ensure!(
        rig.nodes[node].driver.connect(mute).is_err(),
        "a full table took another socket"
    );
    ensure!(rig.nodes[node].driver.open() == 1, "something was started nevertheless");
    rig.nodes[node].close(token);
    rig.run("it is closed", |rig| rig.nodes[node].live.is_empty())?;
    rig.nodes[node].connect(mute).map(drop)
}

pub fn unlisten_refuses_newcomers_and_keeps_the_accepted<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (node, client) = (rig.add(Bounds::default()), rig.add(Bounds::default()));
    let address = rig.listen(node)?;
    let (at_client, at_server) = rig.connection(client, node, address)?;
    rig.nodes[node].driver.unlisten(LISTENER);
    let refused = rig.nodes[client].connect(address)?;
    rig.run("a newcomer is refused", |rig| {
        rig.nodes[client].of(refused).connect_failed.is_some()
    })?;
    rig.nodes[client].send(at_client, b"still here".to_vec());
    rig.nodes[node].receive(at_server, ReceiveMode::Stream, BufferGroup::Device);
    rig.run("the accepted one works", |rig| {
        rig.nodes[node].of(at_server).received == b"still here"
    })
}

pub fn each_driver_has_its_own_listener_on_a_shared_address<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let (one, two) = (rig.add(Bounds::default()), rig.add(Bounds::default()));
    let address: SocketAddr = rig.listen(one)?;
    let shared = rig.nodes[two].driver.listen(address, LISTENER);
    ensure!(
        shared.as_ref().ok() == Some(&address),
        "a second driver can't listen on {address}: {shared:?}"
    );
    for _ in 0..40 {
        rig.peers.push(rig.harness.dial(address));
    }
    rig.run("all are accepted", |rig| {
        rig.nodes[one].accepted.len() + rig.nodes[two].accepted.len() == 40
    })?;
    ensure!(
        !rig.nodes[one].accepted.is_empty() && !rig.nodes[two].accepted.is_empty(),
        "one got all of 40"
    );
    Ok(())
}

/// The process has no descriptor left, between `exhaust` and `replenish`.
pub fn without_descriptors_accepting_pauses<H: Harness>(
    rig: &mut Rig<H>,
    exhaust: impl Fn(&H),
    replenish: impl Fn(&H),
) -> Outcome {
    let node = rig.add(Bounds::default());
    let address = rig.listen(node)?;
    let (_, first) = rig.peer(node, address)?;
    rig.peers.push(rig.harness.dial(address));
    rig.peers.push(rig.harness.dial(address));
    exhaust(&rig.harness);
    rig.run("accepting pauses", |rig| !rig.nodes[node].pauses.is_empty())?;
    let (waits, looks) = (rig.nodes[node].waits, rig.harness.looks(&rig.nodes[node].driver));
    rig.run_for(Duration::from_millis(350))?;
    let paused = &rig.nodes[node].pauses;
    ensure!(
        matches!(paused[..], [(LISTENER, Some(_))]),
        "one pause is told once, with the error: {paused:?}"
    );
    let looked = rig.harness.looks(&rig.nodes[node].driver) - looks;
    let waited = rig.nodes[node].waits - waits;
    ensure!(
        looked <= 2 * waited,
        "no descriptors make the driver spin: {looked} looks in {waited} waits"
    );
    ensure!(
        rig.nodes[node].driver.connect(address).is_err(),
        "a connect without a descriptor"
    );
    // Who is connected is served meanwhile.
    rig.nodes[node].receive(first, ReceiveMode::Stream, BufferGroup::Device);
    rig.peers[0].send(b"served");
    rig.run("the connected one is served", |rig| {
        rig.nodes[node].of(first).received == b"served"
    })?;
    ensure!(
        rig.peers.iter().all(|peer| peer.end().is_none()),
        "a client was refused"
    );
    replenish(&rig.harness);
    rig.run("accepting resumes by itself", |rig| rig.nodes[node].accepted.len() == 3)
}
