//! Look-ups in tables as large as a cluster's, and what else is on a message's way at its full size.
//!
//! *independent*: the processor may look up the next device before it has found this one, as in a batch of messages. *dependent*: it may
//! not, as for a message that is alone.

use std::hint::black_box;

use trunkline_core::link::{LinkCache, Reason, Wish};
use trunkline_core::predictor::Worth;
use trunkline_core::presence::{Presence, Registration};
use trunkline_core::resequencer::{Arrival, Bounds, Resequencer, Step as Order};
use trunkline_core::router::SessionRef;
use trunkline_core::unresolved::{Acquaintance, End, MessageId, Table, Way};
use trunkline_wire::codec::Tail;
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Instance, NodeId};
use trunkline_wire::map::Map;
use trunkline_wire::peer::{Forward, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};
use trunkline_wire::time::Instant;

use super::{Entry, Step};
use crate::{BATCH, DEVICES, Host, ORIGIN, PAYLOAD_BYTES, RECIPIENT, REGION, contents, device, keys};

pub(super) const ALL: &[Entry] = &[
    Entry::turn("map", "slot_independent", || map(0, Ask::Independent)).timed_only(),
    Entry::turn("map", "slot_dependent", || map(0, Ask::Dependent)).timed_only(),
    Entry::turn("map", "override_million_independent", || map(MILLION, Ask::Independent)).timed_only(),
    Entry::turn("map", "override_million_dependent", || map(MILLION, Ask::Dependent)).timed_only(),
    Entry::turn("presence", "find_million", || find(MILLION)).timed_only(),
    Entry::turn("presence", "find_ten_million", || find(10 * MILLION)).timed_only(),
    Entry::turn("presence", "register_million", register).timed_only(),
    Entry::turn("link", "wish", wish),
    Entry::turn("report", "insert_and_remove", report),
    Entry::turn("resequencer", "in_order", || resequence(1)),
    Entry::turn("resequencer", "swapped", || resequence(2)),
];

const MILLION: usize = 1_000_000;

#[derive(Clone, Copy)]
enum Ask {
    Independent,
    Dependent,
}

fn keys_of(count: usize) -> Vec<DeviceKey> {
    let keys = keys();
    (0..count)
        .map(|index| keys.device_key(device("device", index).borrow()))
        .collect()
}

/// The regions of a million devices, of which as many have an override. By keys that are as good as random.
fn map(overrides: usize, ask: Ask) -> Box<dyn Step> {
    let devices = keys_of(MILLION);
    let mut contents = contents();
    contents
        .overrides
        .extend(devices.iter().take(overrides).map(|key| (*key, REGION)));
    let map = Map::build(1, 1, contents).expect("the map is whole");
    assert!(map.overrides_bytes() <= 32 * overrides, "at most 32 bytes an override");
    let mut next = 0;
    Box::new(move || {
        let mut sum = 0;
        for _ in 0..BATCH {
            let region = map.region_of(devices[next]);
            sum += usize::from(region.0);
            // The region is 1, which nobody but us knows.
            next += match ask {
                Ask::Independent => 1,
                Ask::Dependent => usize::from(region.0),
            };
            if next >= MILLION {
                next = 0;
            }
        }
        black_box(sum);
    })
}

fn epoch(n: usize) -> Epoch {
    Epoch {
        clock: 1 << 56 | n as u64,
        node: RECIPIENT,
    }
}

/// An instance's records of so many devices.
fn presence(devices: &[DeviceKey]) -> Presence {
    let mut presence = Presence::default();
    for (n, device) in devices.iter().enumerate() {
        presence.register(*device, epoch(n), 1);
    }
    presence
}

fn find(count: usize) -> Box<dyn Step> {
    let devices = keys_of(count);
    let presence = presence(&devices);
    if count == 10 * MILLION {
        assert!(presence.bytes() <= 64 * count, "{} bytes", presence.bytes());
    }
    // Spread over all that there are.
    let asked: Vec<DeviceKey> = devices.into_iter().step_by(count / MILLION).collect();
    let mut next = 0;
    Box::new(move || {
        let mut found = 0;
        for _ in 0..BATCH {
            found += usize::from(presence.find(asked[next]).is_some());
            next = (next + 1) % MILLION;
        }
        assert_eq!(found, BATCH);
    })
}

/// Devices connect anew: a registration with a higher epoch.
fn register() -> Box<dyn Step> {
    let devices = keys_of(MILLION);
    let mut presence = presence(&devices);
    let mut next = 0;
    Box::new(move || {
        for _ in 0..BATCH {
            let taken = presence.register(devices[next % MILLION], epoch(MILLION + next), 1);
            assert!(matches!(taken, Registration::Taken { replaced: Some(_) }));
            next += 1;
        }
    })
}

/// Which links a node keeps: a full cache, and wishes for twice as many.
fn wish() -> Box<dyn Step> {
    const LINKS: usize = 64;
    let mut cache = LinkCache::new(LINKS);
    let (mut now, mut next) = (Instant::from_micros(1), 0);
    Box::new(move || {
        for _ in 0..BATCH {
            now = now + std::time::Duration::from_millis(10);
            let wish = Wish {
                node: NodeId((next * 37 % (2 * LINKS)) as u32 + 1),
                reason: Reason::Send,
                worth: Worth::per_mille((next * 7_919 % 1_000) as u16),
                half_life: std::time::Duration::from_secs(20),
                by: Some(DeviceKey(next as u128)),
            };
            black_box(cache.wish(now, &wish));
            next += 1;
        }
    })
}

/// A confirmed message is kept until its report comes, beside ten thousand others.
fn report() -> Box<dyn Step> {
    const OPEN: usize = 10_000;
    let mut host = Host::new(ORIGIN);
    let session = host.connect("sender")[0];
    let (names, devices) = (device("recipient", 1), keys_of(DEVICES));
    let mut table = Table::new(1);
    let mut next = 0;
    let message = move |n: usize| MessageId {
        sender_key: devices[0],
        instance: Instance(1),
        recipient: devices[n % DEVICES],
        number: n as u64,
    };
    let insert = move |table: &mut Table, session: SessionRef, id: MessageId, name: IdRef<'_>| {
        let forward = Forward {
            recipient: id.recipient,
            target: Target::Region { gone: Epoch::NONE },
            trail: Trail::default(),
            sender_key: id.sender_key,
            sender: name,
            instance: id.instance,
            number: Number {
                number: id.number,
                confirmed: Some(id.number),
            },
            ttl: TtlMs::default(),
            payload: Tail(&[7; PAYLOAD_BYTES]),
        };
        table.insert(
            Instant::from_micros(1),
            session,
            &forward,
            name,
            Way::Open,
            Acquaintance::Known,
        );
    };
    for n in 0..OPEN {
        insert(&mut table, session, message(n), names.borrow());
    }
    Box::new(move || {
        for _ in 0..BATCH {
            insert(&mut table, session, message(next + OPEN), names.borrow());
            assert!(table.remove(&message(next), End::Answered).is_some());
            next += 1;
        }
        // What was removed waits in the queue of timers until its time.
        while table.due(Instant::from_micros(1)).is_some() {}
    })
}

/// Messages of a thousand senders, each sender's in runs of `run` that arrive in reverse.
fn resequence(run: usize) -> Box<dyn Step> {
    const SENDERS: usize = 1_000;
    let names: Vec<_> = (0..SENDERS).map(|index| device("sender", index)).collect();
    let mut resequencer = Resequencer::new(Bounds::default());
    let (mut next, mut shown, mut out) = (0, 0, Vec::new());
    Box::new(move || {
        for _ in 0..BATCH {
            let (sender, round) = (next % SENDERS, next / SENDERS);
            // 1, 0, 3, 2, … for a run of two.
            let number = round / run * run + (run - 1 - round % run) + 1;
            let arrival = Arrival {
                sender: names[sender].borrow(),
                instance: Instance(1),
                number: Number {
                    number: number as u64,
                    confirmed: Some(1),
                },
                bytes: PAYLOAD_BYTES,
            };
            resequencer.arrive(Instant::from_micros(1), arrival, next, &mut out);
            next += 1;
        }
        shown += out.iter().filter(|step| matches!(step, Order::Show { .. })).count();
        black_box(shown);
        out.clear();
    })
}
