//! Everything at once, in an order that nobody thought of.

use std::collections::BTreeMap;

use trunkline_net::driver::{BufferGroup, Driver, ReceiveMode, Token};

use crate::harness::{Bounds, Harness, Outcome};
use crate::rig::{Lending, Rig, ensure_pattern, pattern};

/// The rig's model checks every completion; what is sent is one pattern, from its start, on every socket that doesn't move.
pub fn random_operations_keep_every_promise<H: Harness>(rig: &mut Rig<H>) -> Outcome {
    let bounds = Bounds {
        sockets_max: 12,
        sockets_reserved: 4,
        device_buffers: 3,
        link_buffers: 2,
    };
    let mut addresses = Vec::new();
    for _ in 0..2 {
        let node = rig.add(bounds);
        addresses.push(rig.listen(node)?);
        rig.nodes[node].lending = Lending::Hold;
    }
    // What was sent by each token; absent for those that came by a hand-over.
    let mut offsets: BTreeMap<(usize, Token), usize> = BTreeMap::new();
    for step in 0..STEPS {
        let node = rig.rng.usize(0..2);
        let tokens: Vec<Token> = rig.nodes[node].live.keys().copied().collect();
        let token = (!tokens.is_empty()).then(|| tokens[rig.rng.usize(0..tokens.len())]);
        match (rig.rng.u8(0..16), token) {
            (0..3, _) if rig.nodes[node].driver.open() < bounds.sockets_max as usize => {
                let address = addresses[rig.rng.usize(0..2)];
                rig.nodes[node].connect(address)?;
            }
            (3..7, Some(token)) => {
                let mode = if rig.rng.bool() {
                    ReceiveMode::Once
                } else {
                    ReceiveMode::Stream
                };
                let group = if rig.rng.bool() {
                    BufferGroup::Device
                } else {
                    BufferGroup::Link
                };
                if rig.nodes[node].of(token).connected {
                    rig.nodes[node].receive(token, mode, group);
                }
            }
            (7..11, Some(token)) if !rig.nodes[node].of(token).sending() && rig.nodes[node].of(token).connected => {
                let most = [100, 5_000, 300_000][rig.rng.usize(0..3)];
                let length = rig.rng.usize(1..=most);
                let offset = offsets.entry((node, token)).or_default();
                rig.nodes[node].send(token, pattern(1, *offset, length));
                *offset += length;
            }
            (11, Some(token)) => rig.nodes[node].close(token),
            (12, Some(token)) => {
                let model = rig.nodes[node].of(token);
                if model.connected && !model.armed() && !model.sending() && model.pieces == 0 && model.sent.is_empty() {
                    let to = rig.nodes[1 - node].driver.address();
                    rig.nodes[node].hand_over(token, &to);
                }
            }
            _ => {
                let count = rig.rng.usize(0..4);
                rig.nodes[node].give_back(count)?;
            }
        }
        if let Some((_, Ok(socket))) = rig.nodes[node].handed.pop()
            && rig.nodes[1 - node].driver.open() < bounds.sockets_max as usize
        {
            rig.nodes[1 - node].adopt(socket)?;
        }
        if !rig.round(false)? && step % 4 == 0 {
            let limit = rig.now() + rig.harness.patience();
            rig.harness.pass(limit);
        }
    }
    for node in &rig.nodes {
        for model in node.live.values().chain(node.dead.values()) {
            ensure_pattern(1, &model.received)?;
        }
    }
    Ok(())
}

const STEPS: usize = 3_000;
