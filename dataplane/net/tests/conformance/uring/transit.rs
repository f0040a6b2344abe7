//! Hand-overs that meet a full table, or a driver that is going.

use std::sync::mpsc;
use std::time::Duration;

use trunkline_net::driver::{Driver, Token};

use super::{Uring, options};
use crate::check;
use crate::harness::{Bounds, Failure, Harness, Outcome, Peer, ensure};
use crate::rig::Rig;

/// What has no place in the other's table stays where it is, and works.
fn a_full_table<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let from = rig.add(Bounds {
        sockets_max: 600,
        ..Bounds::default()
    });
    // A place for one socket, and some for those on their way.
    let to = rig.add(Bounds {
        sockets_max: 1,
        ..Bounds::default()
    });
    let address = rig.listen(from)?;
    let there = rig.nodes[to].driver.address();
    let mut tokens = Vec::new();
    for _ in 0..600 {
        let (_, token) = rig.peer(from, address)?;
        tokens.push(token);
    }
    for token in &tokens {
        rig.nodes[from].hand_over(*token, &there);
    }
    rig.run("every hand-over is answered", |rig| rig.nodes[from].handed.len() == 600)?;
    let stayed: Vec<Token> = rig.nodes[from].live.keys().copied().collect();
    ensure!(
        !stayed.is_empty() && stayed.len() < 600,
        "{} of 600 stayed where they were",
        stayed.len()
    );
    for token in &stayed {
        rig.nodes[from].send(*token, b"still here".to_vec());
    }
    rig.run("who stayed is served", |rig| {
        let served = rig.peers.iter().filter(|peer| peer.received() == b"still here");
        served.count() == stayed.len()
    })?;
    // Nobody adopts the others: their places come free again.
    rig.nodes[from].handed.clear();
    rig.run("who was dropped sees an end", |rig| {
        let ended = rig.peers.iter().filter(|peer| peer.end().is_some());
        ended.count() == 600 - stayed.len()
    })?;
    rig.nodes[from].hand_over(stayed[0], &there);
    rig.run("there is room again", |rig| rig.nodes[from].handed.len() == 1)?;
    let (_, result) = rig.nodes[from].handed.remove(0);
    let socket = result.map_err(|error| Failure(format!("hand-over: {error}")))?;
    let moved = rig.nodes[to].adopt(socket)?;
    rig.nodes[to].send(moved, b", and there".to_vec());
    rig.run("it works there", |rig| {
        rig.peers.iter().any(|peer| peer.received() == b"still here, and there")
    })
}

/// The other driver lives in a thread of its own and ends while sockets are on their way: each hand-over is answered, by a socket in
/// transit or by an error with which the token stays; and nobody is forgotten.
fn a_driver_that_goes<H: Harness>(rig: &mut Rig<H>) -> Outcome
where
    H::Driver: Driver<Address = trunkline_net::uring::Address>,
{
    let from = rig.add(Bounds::default());
    let address = rig.listen(from)?;
    for turn in 0..40u64 {
        let (tell, told) = mpsc::channel();
        let pause = Duration::from_micros(turn * 20);
        let thread = std::thread::spawn(move || {
            let mut driver = trunkline_net::uring::UringDriver::new(options(Bounds::default())).expect("a second ring");
            tell.send(driver.address()).expect("somebody listens");
            let until = driver.now() + pause;
            let _ = driver.wait(Some(until), &mut Vec::new());
        });
        let there = told
            .recv()
            .map_err(|_| Failure("the other driver did not start".to_owned()))?;
        let mut tokens = Vec::new();
        for _ in 0..10 {
            let (_, token) = rig.peer(from, address)?;
            tokens.push(token);
        }
        for token in &tokens {
            rig.nodes[from].hand_over(*token, &there);
            // Against a close as well, which comes too late or not at all.
            if turn % 2 == 0 {
                rig.nodes[from].close(*token);
            }
        }
        rig.run("every hand-over is answered", |rig| rig.nodes[from].handed.len() == 10)?;
        thread
            .join()
            .map_err(|_| Failure("the other driver panicked".to_owned()))?;
        for (token, result) in std::mem::take(&mut rig.nodes[from].handed) {
            if result.is_err() {
                rig.nodes[from].close(token);
            }
        }
        rig.run("everybody's connection ends", |rig| {
            rig.nodes[from].live.is_empty() && rig.peers.iter().all(|peer| peer.end().is_some())
        })?;
        rig.peers.clear();
    }
    Ok(())
}

#[test]
fn a_hand_over_to_a_full_table_leaves_the_socket_where_it_is() {
    check::<Uring>(a_full_table);
}

#[test]
fn a_hand_over_to_a_driver_that_goes_is_answered() {
    check::<Uring>(a_driver_that_goes);
}
