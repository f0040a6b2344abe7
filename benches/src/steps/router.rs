//! What the router takes for a message, on each way that a message can take.
//!
//! `router/step`: the work of one node for fire-and-forget messages. `router/confirmed`: the work of all nodes together for messages
//! with an acknowledgement and a report. Sockets, rings and framing are not in it. Each run is a turn of [`BATCH`] messages, each to
//! another device.

use trunkline_core::router::SessionRef;
use trunkline_wire::codec::Tail;
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{DeviceId, Epoch, Instance};
use trunkline_wire::peer::{Forward, Location, Register, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};

use super::{Entry, Step};
use crate::{BATCH, DEVICES, Host, INSTANCE, ORIGIN, PAYLOAD_BYTES, RECIPIENT, REGION, device};

pub(super) const ALL: &[Entry] = &[
    Entry::turn("router/step", "local", local),
    Entry::turn("router/step", "origin_by_region", || origin("forwards_region")),
    Entry::turn("router/step", "origin_direct", || origin("forwards_direct")),
    Entry::turn("router/step", "instance", instance),
    Entry::turn("router/step", "recipient", recipient),
    Entry::turn("router/confirmed", "local", || Box::new(Cluster::new(Way::Local))),
    Entry::turn("router/confirmed", "direct", || Box::new(Cluster::new(Way::Direct))),
    Entry::turn("router/confirmed", "by_region", || Box::new(Cluster::new(Way::Region))),
];

const PAYLOAD: [u8; PAYLOAD_BYTES] = [7; PAYLOAD_BYTES];

/// One node's turns: `step` is one message, given which.
struct Turns<F> {
    host: Host,
    message: usize,
    counter: &'static str,
    step: F,
}

impl<F: FnMut(&mut Host, usize)> Step for Turns<F> {
    fn run(&mut self) {
        self.host.clear();
        self.host.turn();
        for _ in 0..BATCH {
            (self.step)(&mut self.host, self.message);
            self.message += 1;
        }
        self.host.devices_read();
    }

    fn check(&self) {
        let counted = self.host.counter(self.counter);
        assert_eq!(counted, self.message as u64, "every message went its way");
    }
}

fn turns(host: Host, counter: &'static str, step: impl FnMut(&mut Host, usize) + 'static) -> Box<dyn Step> {
    Box::new(Turns {
        host,
        message: 0,
        counter,
        step,
    })
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

fn sends(host: Host, senders: Vec<SessionRef>, counter: &'static str) -> Box<dyn Step> {
    let names = names("recipient");
    turns(host, counter, move |host, message| {
        let index = message % DEVICES;
        host.send(senders[index], &names[index], unconfirmed(message), &PAYLOAD);
    })
}

fn receives(host: Host, frames: Vec<Vec<u8>>, counter: &'static str) -> Box<dyn Step> {
    turns(host, counter, move |host, message| {
        host.receive(ORIGIN, &frames[message % DEVICES]);
    })
}

/// Sender and recipient are at one node.
fn local() -> Box<dyn Step> {
    let mut host = Host::new(ORIGIN);
    host.connect("recipient");
    let senders = host.connect("sender");
    sends(host, senders, "messages_delivered")
}

/// The node at which the sender is: to an instance of the region, or straight to the recipient's node.
fn origin(counter: &'static str) -> Box<dyn Step> {
    let mut host = Host::new(ORIGIN);
    let senders = host.connect("sender");
    host.link(INSTANCE);
    host.link(RECIPIENT);
    if counter == "forwards_direct" {
        tell_locations(&mut host);
    }
    sends(host, senders, counter)
}

/// An instance of the recipient's region: the message goes on to the recipient's node, and the sender's node learns of it.
fn instance() -> Box<dyn Step> {
    let mut host = Host::new(INSTANCE);
    host.link(ORIGIN);
    host.link(RECIPIENT);
    register(&mut host);
    let frames = forwards(&host, Target::Region { gone: Epoch::NONE });
    receives(host, frames, "forwards_from_region")
}

/// The node at which the recipient is.
fn recipient() -> Box<dyn Step> {
    let mut host = Host::new(RECIPIENT);
    host.connect("recipient");
    host.link(ORIGIN);
    host.link(INSTANCE);
    let frames = forwards(&host, Target::Session { epoch: EPOCH });
    receives(host, frames, "messages_delivered")
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
}

impl Step for Cluster {
    fn run(&mut self) {
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

    fn check(&self) {
        let reported = self.origin.counter("reports_delivered");
        assert_eq!(reported, self.message as u64, "each was reported delivered");
    }
}
