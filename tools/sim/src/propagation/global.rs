//! Every server is told of every connect, and finds recipients in its own table.

use trunkline_core::constants::{RETRY_WAIT_MAX, RETRY_WAIT_MIN};
use trunkline_core::epoch::EpochClock;
use trunkline_core::presence::Presence;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId};
use trunkline_wire::time::Instant;

use super::{Agenda, Connect, Outcome, PATIENCE, Plan, SPAN, START, Script, Wire};

enum Event {
    Connect(usize),
    /// An update arrives.
    Update {
        server: usize,
        device: usize,
        epoch: Epoch,
    },
    /// It has been handled.
    Known {
        server: usize,
        device: usize,
        epoch: Epoch,
    },
    /// A message is at its sender's server, for the nth time.
    Message {
        device: usize,
        tries: u32,
    },
    Delivered {
        device: usize,
    },
}

pub(super) fn run(plan: &Plan, script: &Script) -> Outcome {
    let mut agenda = Agenda::new();
    let mut wire = Wire::new(plan.seed ^ 0x7769_7265);
    let mut tables: Vec<Presence> = (0..plan.servers).map(|_| Presence::default()).collect();
    let mut clocks: Vec<EpochClock> = (0..plan.servers).map(|server| EpochClock::new(node(server))).collect();
    let mut outcome = Outcome {
        connects: script.connects.len() as u64,
        updates: 0,
        messages: 0,
        stranded: 0,
        lost: 0,
        delays_us: Vec::new(),
        records_max: 0,
    };
    let mut came = vec![Instant::ZERO; script.connects.len()];
    for (device, connect) in script.connects.iter().enumerate() {
        agenda.put(connect.at, Event::Connect(device));
    }
    while let Some((now, event)) = agenda.next() {
        if now > START + SPAN + PATIENCE {
            break;
        }
        match event {
            Event::Connect(device) => {
                let Connect {
                    server, answered_after, ..
                } = script.connects[device];
                let epoch = clocks[server].mint(now.micros() / 1_000, Epoch::NONE);
                tables[server].register(key(device), epoch, 1);
                let others = (0..plan.servers).filter(|other| *other != server);
                for (nth, other) in others.enumerate() {
                    outcome.updates += 1;
                    let at = wire.deliver(now, nth, server, other);
                    agenda.put(
                        at,
                        Event::Update {
                            server: other,
                            device,
                            epoch,
                        },
                    );
                }
                // Nobody is waited for: with so many, one is always slow, or away.
                agenda.put(now + answered_after, Event::Message { device, tries: 0 });
            }
            Event::Update { server, device, epoch } => {
                let at = wire.handle(now, server);
                agenda.put(at, Event::Known { server, device, epoch });
            }
            Event::Known { server, device, epoch } => {
                tables[server].register(key(device), epoch, 1);
            }
            Event::Message { device, tries } => {
                let Connect { sender, server, .. } = script.connects[device];
                if tries == 0 {
                    outcome.messages += 1;
                    came[device] = now;
                }
                if tables[sender].find(key(device)).is_some() {
                    let at = wire.deliver(now, 0, sender, server);
                    agenda.put(at, Event::Delivered { device });
                    continue;
                }
                outcome.stranded += u64::from(tries == 0);
                let wait = RETRY_WAIT_MIN.saturating_mul(1 << tries.min(10)).min(RETRY_WAIT_MAX);
                let wait = wait + wire.up_to(wait / 2);
                agenda.put(
                    now + wait,
                    Event::Message {
                        device,
                        tries: tries + 1,
                    },
                );
            }
            Event::Delivered { device } => {
                outcome.delays_us.push(now.since(came[device]).as_micros() as u64);
            }
        }
    }
    outcome.delays_us.sort_unstable();
    outcome.lost = outcome.messages - outcome.delays_us.len() as u64;
    outcome.records_max = tables.iter().map(|table| table.len() as u64).max().unwrap_or(0);
    outcome
}

fn key(device: usize) -> DeviceKey {
    DeviceKey((device as u128 + 1) << 64)
}

fn node(server: usize) -> NodeId {
    NodeId(server as u32 + 1)
}
