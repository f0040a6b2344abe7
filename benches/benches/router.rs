//! What the router takes for a message, on each way that a message can take.
//!
//! `router/step`: the work of one node for fire-and-forget messages. `router/confirmed`: the work of all nodes together for messages
//! with an acknowledgement and a report. Sockets, rings and framing are not in it. Each sample is a turn of [`BATCH`] messages, each to
//! another device; the throughput is in messages.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use trunkline_benches::{BATCH, DEVICES, Host, INSTANCE, ORIGIN, PAYLOAD_BYTES, RECIPIENT, REGION, device};
use trunkline_core::router::SessionRef;
use trunkline_wire::codec::Tail;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceId, Epoch, Instance};
use trunkline_wire::peer::{Forward, Location, Register, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};

const PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    local(&mut criterion);
    origin(&mut criterion);
    instance(&mut criterion);
    recipient(&mut criterion);
    for way in [Way::Local, Way::Direct, Way::Region] {
        confirmed(&mut criterion, way);
    }
    criterion.final_summary();
}

/// One node's turns: `step` is one message, given which.
fn turns(
    criterion: &mut Criterion,
    name: &str,
    host: &mut Host,
    counter: &str,
    mut step: impl FnMut(&mut Host, usize),
) {
    let mut message = 0;
    let mut group = criterion.benchmark_group("router/step");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            host.clear();
            host.turn();
            for _ in 0..BATCH {
                step(host, message);
                message += 1;
            }
            host.devices_read();
        });
    });
    group.finish();
    assert_eq!(host.counter(counter), message as u64, "every message went its way");
}

fn names(stem: &str) -> Vec<DeviceId> {
    (0..DEVICES).map(|index| device(stem, index)).collect()
}

fn unconfirmed(message: usize) -> Number {
    Number {
        number: (message / DEVICES) as u64,
        confirmed: None,
    }
}

/// Sender and recipient are at one node.
fn local(criterion: &mut Criterion) {
    let mut host = Host::new(ORIGIN);
    host.connect("recipient");
    let senders = host.connect("sender");
    let names = names("recipient");
    turns(criterion, "local", &mut host, "messages_delivered", |host, message| {
        let index = message % DEVICES;
        host.send(senders[index], &names[index], unconfirmed(message), &PAYLOAD);
    });
}

/// The node at which the sender is: to an instance of the region, or straight to the recipient's node.
fn origin(criterion: &mut Criterion) {
    let names = names("recipient");
    for (way, counter) in [
        ("origin_by_region", "forwards_region"),
        ("origin_direct", "forwards_direct"),
    ] {
        let mut host = Host::new(ORIGIN);
        let senders = host.connect("sender");
        host.link(INSTANCE);
        host.link(RECIPIENT);
        if way == "origin_direct" {
            tell_locations(&mut host);
        }
        turns(criterion, way, &mut host, counter, |host, message| {
            let index = message % DEVICES;
            host.send(senders[index], &names[index], unconfirmed(message), &PAYLOAD);
        });
    }
}

/// An instance of the recipient's region: the message goes on to the recipient's node, and the sender's node learns of it.
fn instance(criterion: &mut Criterion) {
    let mut host = Host::new(INSTANCE);
    host.link(ORIGIN);
    host.link(RECIPIENT);
    register(&mut host);
    let frames = forwards(&host, Target::Region { gone: Epoch::NONE });
    turns(
        criterion,
        "instance",
        &mut host,
        "forwards_from_region",
        |host, message| {
            host.receive(ORIGIN, &frames[message % DEVICES]);
        },
    );
}

/// The node at which the recipient is.
fn recipient(criterion: &mut Criterion) {
    let mut host = Host::new(RECIPIENT);
    host.connect("recipient");
    host.link(ORIGIN);
    host.link(INSTANCE);
    let frames = forwards(&host, Target::Session { epoch: EPOCH });
    turns(
        criterion,
        "recipient",
        &mut host,
        "messages_delivered",
        |host, message| {
            host.receive(ORIGIN, &frames[message % DEVICES]);
        },
    );
}

/// A session of a recipient, as others name it.
const EPOCH: Epoch = Epoch {
    clock: 1 << 56,
    node: RECIPIENT,
};

fn register(host: &mut Host) {
    for name in names("recipient") {
        let register = Register {
            region: REGION,
            device: host.key(&name),
            epoch: EPOCH,
        };
        host.told_by(RECIPIENT, &register);
    }
    host.clear();
}

fn tell_locations(host: &mut Host) {
    for name in names("recipient") {
        let location = Location {
            device: host.key(&name),
            epoch: EPOCH,
        };
        host.told_by(INSTANCE, &location);
    }
    host.clear();
}

/// A message to each recipient, as it leaves the node that took it in.
fn forwards(host: &Host, target: Target) -> Vec<Vec<u8>> {
    let forward = |index| {
        let (sender, recipient) = (device("sender", index), device("recipient", index));
        let forward = Forward {
            recipient: host.key(&recipient),
            target,
            trail: Trail::default().then(ORIGIN).expect("one node fits"),
            sender_key: host.key(&sender),
            sender: sender.borrow(),
            instance: Instance(1),
            number: unconfirmed(0),
            ttl: TtlMs::default(),
            payload: Tail(&PAYLOAD),
        };
        forward.to_vec()
    };
    (0..DEVICES).map(forward).collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Local,
    Direct,
    Region,
}

/// All nodes that a confirmed message passes, and its acknowledgement and report on their way back.
struct Cluster {
    origin: Host,
    instance: Host,
    recipient: Host,
    way: Way,
    senders: Vec<SessionRef>,
    names: Vec<DeviceId>,
    message: usize,
}

impl Cluster {
    fn new(way: Way) -> Cluster {
        let [mut origin, mut instance, mut recipient] = [ORIGIN, INSTANCE, RECIPIENT].map(Host::new);
        match way {
            Way::Local => origin.connect("recipient"),
            Way::Direct | Way::Region => recipient.connect("recipient"),
        };
        let senders = origin.connect("sender");
        origin.link(INSTANCE);
        origin.link(RECIPIENT);
        recipient.link(ORIGIN);
        recipient.link(INSTANCE);
        // The instance has no link to the origin: it gives no hints, so that every message goes by way of it.
        instance.link(RECIPIENT);
        register(&mut instance);
        if way == Way::Direct {
            tell_locations(&mut origin);
        }
        Cluster {
            origin,
            instance,
            recipient,
            way,
            senders,
            names: names("recipient"),
            message: 0,
        }
    }

    fn turn(&mut self) {
        let Cluster {
            origin,
            instance,
            recipient,
            ..
        } = self;
        for host in [&mut *origin, &mut *instance, &mut *recipient] {
            host.clear();
            host.turn();
        }
        for message in self.message..self.message + BATCH {
            let (index, number) = (message % DEVICES, (message / DEVICES) as u64);
            // The one before has its report already: nothing below is unresolved.
            let number = Number {
                number,
                confirmed: Some(number),
            };
            origin.send(self.senders[index], &self.names[index], number, &PAYLOAD);
        }
        self.message += BATCH;
        match self.way {
            Way::Local => {}
            Way::Direct => origin.carry(recipient),
            Way::Region => {
                origin.carry(instance);
                instance.carry(recipient);
            }
        }
        recipient.devices_read();
        recipient.carry(origin);
        origin.devices_read();
    }
}

fn confirmed(criterion: &mut Criterion, way: Way) {
    let mut cluster = Cluster::new(way);
    let name = match way {
        Way::Local => "local",
        Way::Direct => "direct",
        Way::Region => "by_region",
    };
    let mut group = criterion.benchmark_group("router/confirmed");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function(name, |bencher| bencher.iter(|| cluster.turn()));
    group.finish();
    assert_eq!(
        cluster.origin.counter("reports_delivered"),
        cluster.message as u64,
        "each was reported delivered"
    );
}
