//! Ours: the deployed routers, a shard a node, over links that are up.

use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_core::link::Origin;
use trunkline_core::outbox::{Conn, Effect, Outbox, ShardEvent};
use trunkline_core::router::{Config, Now, Router, SessionRef};
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{
    Acknowledge, ClientFrame, Credentials, Hello, PingIntervalMs, Purpose, Send, ServerFrame,
};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceId, Epoch, Incarnation, Instance, NodeId, RegionId, ShardId};
use trunkline_wire::map::{Contents, Map, Node, Region};
use trunkline_wire::peer::{Register, SyncBegin};
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::report::{Number, Outcome as End, TtlMs};
use trunkline_wire::time::Instant;

use super::{Agenda, Outcome, PATIENCE, Plan, SPAN, START, Script, Wire};

/// A region of two instances for so many servers: what one instance holds stays the same however many there are.
const SERVERS_A_REGION: usize = 16;
const INSTANCES: usize = 2;

enum Event {
    Connect(usize),
    Frames {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Handled {
        from: usize,
        to: usize,
        bytes: Vec<u8>,
    },
    Message(usize),
    Acknowledge {
        node: usize,
        session: SessionRef,
        delivery: u64,
    },
    LinkUp {
        a: usize,
        b: usize,
    },
    Tick(usize),
}

struct Host {
    router: Router,
    out: Outbox,
    tick_at: Instant,
    /// Who writes from here.
    sender: Option<SessionRef>,
    wished: std::collections::BTreeSet<usize>,
}

struct Cluster<'a> {
    plan: &'a Plan,
    script: &'a Script,
    hosts: Vec<Host>,
    agenda: Agenda<Event>,
    wire: Wire,
    sessions: Vec<Option<SessionRef>>,
    came: Vec<Instant>,
    outcome: Outcome,
}

pub(super) fn run(plan: &Plan, script: &Script) -> Outcome {
    let mut cluster = Cluster::new(plan, script);
    cluster.link_all();
    for server in 0..plan.servers {
        cluster.seat_sender(server);
    }
    for (device, connect) in script.connects.iter().enumerate() {
        cluster.agenda.put(connect.at, Event::Connect(device));
    }
    while let Some((now, event)) = cluster.agenda.next() {
        if now > START + SPAN + PATIENCE {
            break;
        }
        cluster.happen(now, event);
    }
    cluster.sum_up()
}

impl<'a> Cluster<'a> {
    fn new(plan: &'a Plan, script: &'a Script) -> Cluster<'a> {
        let keys = ClusterKeys::new(&Secret::new(b"the secret of a simulated cluster").expect("it is long enough"));
        let map = Arc::new(map(plan.servers));
        let hosts = (0..plan.servers + instances(plan.servers)).map(|index| {
            let config = Config {
                node: node(index),
                shard: ShardId(0),
                shards: 1,
                roles: roles(index, plan.servers),
                keys: keys.clone(),
                predictor: Default::default(),
                affinity_lists_max: 1_000,
                seed: plan.seed.wrapping_add(index as u64),
            };
            Host {
                router: Router::new(present(Instant::ZERO), config, Arc::clone(&map)),
                out: Outbox::new(),
                tick_at: Instant::NEVER,
                sender: None,
                wished: std::collections::BTreeSet::new(),
            }
        });
        Cluster {
            plan,
            script,
            hosts: hosts.collect(),
            agenda: Agenda::new(),
            wire: Wire::new(plan.seed ^ 0x7769_7265),
            sessions: vec![None; script.connects.len()],
            came: vec![Instant::ZERO; script.connects.len()],
            outcome: Outcome {
                connects: script.connects.len() as u64,
                updates: 0,
                messages: 0,
                stranded: 0,
                lost: 0,
                delays_us: Vec::new(),
                records_max: 0,
            },
        }
    }

    /// Every server to every instance, and instances of one region to each other; nobody has a session yet.
    fn link_all(&mut self) {
        let map = Arc::clone(self.hosts[0].router.map());
        let now = present(Instant::ZERO);
        for (region, of) in map.regions() {
            for (place, instance) in of.instances.iter().enumerate() {
                let at = index(*instance);
                for server in 0..self.plan.servers {
                    self.up(Instant::ZERO, server, at);
                    let begin = SyncBegin { region, sync: 1 }.to_vec();
                    let Host { router, out, .. } = &mut self.hosts[at];
                    for (ty, body) in frames(&begin) {
                        let taken = router.link_frame(now, origin(server), ty, body, out);
                        taken.expect("it was encoded here");
                    }
                    let Host { router, out, .. } = &mut self.hosts[server];
                    let map_version = map.id().version;
                    let (node, sync) = (*instance, 1);
                    let start = ShardEvent::SyncStart {
                        node,
                        region,
                        sync,
                        map_version,
                    };
                    router.event(now, start, out);
                    self.carry_out(Instant::ZERO, server);
                }
                for sibling in &of.instances[place + 1..] {
                    self.up(Instant::ZERO, at, index(*sibling));
                }
                self.carry_out(Instant::ZERO, at);
            }
        }
    }

    fn up(&mut self, now: Instant, a: usize, b: usize) {
        for (own, other) in [(a, b), (b, a)] {
            let event = ShardEvent::LinkUp {
                node: node(other),
                serial: 1,
            };
            let Host { router, out, .. } = &mut self.hosts[own];
            router.event(present(now), event, out);
        }
    }

    fn seat_sender(&mut self, server: usize) {
        let id = name("sender", server);
        let session = self.attach(Instant::ZERO, server, &id, Purpose::SendOnly, u64::MAX);
        self.hosts[server].sender = Some(session);
        self.carry_out(Instant::ZERO, server);
    }

    fn attach(&mut self, now: Instant, server: usize, id: &DeviceId, purpose: Purpose, conn: u64) -> SessionRef {
        let hello = Hello {
            device: id.borrow(),
            instance: Instance(1),
            presented: Epoch::NONE,
            purpose,
            ping_interval: PingIntervalMs::default(),
            credentials: Credentials::default(),
        };
        let Host { router, out, .. } = &mut self.hosts[server];
        router.attach(present(now), Conn(conn), 1, &hello, out)
    }

    fn happen(&mut self, now: Instant, event: Event) {
        let host = match event {
            Event::Frames { from, to, bytes } => {
                let count = frames(&bytes).count();
                let at = (0..count).fold(now, |_, _| self.wire.handle(now, to));
                return self.agenda.put(at, Event::Handled { from, to, bytes });
            }
            Event::Tick(host) if self.hosts[host].tick_at != now => return,
            Event::Tick(host) | Event::Handled { to: host, .. } | Event::Acknowledge { node: host, .. } => host,
            Event::Connect(device) => self.script.connects[device].server,
            Event::Message(device) => self.script.connects[device].sender,
            Event::LinkUp { a, b } => {
                self.up(now, a, b);
                a
            }
        };
        let Host { router, out, .. } = &mut self.hosts[host];
        router.tick(present(now), out);
        match event {
            Event::Connect(device) => {
                let id = name("device", device);
                let session = self.attach(now, host, &id, Purpose::Full, device as u64);
                self.sessions[device] = Some(session);
            }
            Event::Handled { from, bytes, .. } => {
                for (ty, body) in frames(&bytes) {
                    let taken = router.link_frame(present(now), origin(from), ty, body, out);
                    taken.expect("it was encoded here");
                }
            }
            Event::Message(device) => {
                self.outcome.messages += 1;
                self.came[device] = now;
                let id = name("device", device);
                let (number, confirmed) = (0, Some(0));
                let send = Send {
                    recipient: id.borrow(),
                    number: Number { number, confirmed },
                    ttl: TtlMs::default(),
                    payload: Tail(b"hello"),
                };
                let session = self.hosts[host].sender.expect("each server has one");
                let Host { router, out, .. } = &mut self.hosts[host];
                router.device_frame(present(now), session, &ClientFrame::Send(send), out);
            }
            Event::Acknowledge { session, delivery, .. } => {
                let acknowledge = Acknowledge { delivery, late: false };
                router.device_frame(present(now), session, &ClientFrame::Acknowledge(acknowledge), out);
            }
            Event::LinkUp { .. } | Event::Tick(_) | Event::Frames { .. } => {}
        }
        self.carry_out(now, host);
        let due = self.hosts[host].router.deadline();
        if due != Instant::NEVER {
            let due = due.max(now + std::time::Duration::from_micros(1));
            self.hosts[host].tick_at = due;
            self.agenda.put(due, Event::Tick(host));
        }
    }

    fn carry_out(&mut self, now: Instant, host: usize) {
        let mut nth = 0;
        loop {
            let out = std::mem::take(&mut self.hosts[host].out);
            if out.is_empty() {
                return;
            }
            for effect in out.effects() {
                match effect {
                    Effect::Device { conn, bytes, .. } => self.tell(now, host, *conn, out.bytes(bytes)),
                    Effect::Link { node, bytes, .. } => {
                        let (to, bytes) = (index(*node), out.bytes(bytes).to_vec());
                        let at = self.wire.deliver(now, nth, host, to);
                        nth += 1;
                        let registers = frames(&bytes).filter(|(ty, _)| *ty == Register::TYPE).count();
                        self.outcome.updates += registers as u64;
                        self.agenda.put(at, Event::Frames { from: host, to, bytes });
                    }
                    Effect::WishLink(wish) => {
                        let to = index(wish.node);
                        if self.hosts[host].wished.insert(to) {
                            // A connect, and a proof of each side.
                            let at = (0..6).fold(now, |at, _| at + self.wire.travel());
                            self.agenda.put(at, Event::LinkUp { a: host, b: to });
                        }
                    }
                    // One shard owns all devices, and links stay.
                    Effect::Expect { .. } | Effect::WithdrawWish { .. } => {}
                    Effect::Event { .. } | Effect::CloseDevice { .. } | Effect::Shard { .. } => {}
                }
            }
        }
    }

    fn tell(&mut self, now: Instant, host: usize, conn: Conn, bytes: &[u8]) {
        for (ty, body) in frames(bytes) {
            let frame = ServerFrame::decode(VERSION_MAX, ty, body).expect("it was encoded here");
            match frame {
                Some(ServerFrame::Welcome(_)) if conn.0 != u64::MAX => {
                    let device = conn.0 as usize;
                    let at = now + self.script.connects[device].answered_after;
                    self.agenda.put(at, Event::Message(device));
                }
                Some(ServerFrame::Deliver(deliver)) => {
                    let device = conn.0 as usize;
                    let delay = now.since(self.came[device]).as_micros() as u64;
                    self.outcome.delays_us.push(delay);
                    let session = self.sessions[device].expect("it has connected");
                    let at = now + self.wire.travel() * 2;
                    let delivery = deliver.delivery;
                    self.agenda.put(
                        at,
                        Event::Acknowledge {
                            node: host,
                            session,
                            delivery,
                        },
                    );
                }
                Some(ServerFrame::Report(report)) if !matches!(report.outcome, End::Delivered { .. }) => {
                    self.outcome.stranded += 1;
                }
                _ => {}
            }
        }
    }

    fn sum_up(mut self) -> Outcome {
        self.outcome.delays_us.sort_unstable();
        self.outcome.lost = self
            .outcome
            .messages
            .saturating_sub(self.outcome.delays_us.len() as u64);
        for host in &self.hosts {
            // A retry is a message that found no way at first.
            self.outcome.stranded += host.router.counters().retries;
            let regions = host.router.map().regions();
            let records = regions.filter_map(|(region, _)| host.router.presence(region));
            let records: usize = records.map(|records| records.len()).sum();
            self.outcome.records_max = self.outcome.records_max.max(records as u64);
        }
        self.outcome
    }
}

fn instances(servers: usize) -> usize {
    servers.div_ceil(SERVERS_A_REGION) * INSTANCES
}

fn roles(index: usize, servers: usize) -> Roles {
    let server = index < servers;
    Roles {
        connection: server,
        messaging: server,
        region: !server,
    }
}

fn map(servers: usize) -> Map {
    let count = servers.div_ceil(SERVERS_A_REGION);
    let address = |at: usize| Some(SocketAddr::from(([10, 1, (at / 250) as u8, (at % 250) as u8], 7401)));
    let nodes = (0..servers + instances(servers)).map(|at| {
        let described = Node {
            name: format!("node-{at}"),
            incarnation: Incarnation(1),
            roles: roles(at, servers),
            device_address: (at < servers).then_some(address(at)).flatten(),
            peer_address: address(at),
            http_address: None,
        };
        (node(at), described)
    });
    let regions = (0..count).map(|region| {
        let first = servers + region * INSTANCES;
        let described = Region {
            name: format!("region-{region}"),
            instances: (first..first + INSTANCES).map(node).collect(),
        };
        (RegionId(region as u16 + 1), described)
    });
    let contents = Contents {
        slots: Box::new(std::array::from_fn(|slot| RegionId((slot % count) as u16 + 1))),
        regions: regions.collect(),
        nodes: nodes.collect(),
        ..Contents::default()
    };
    Map::build(1, 1, contents).expect("a map of these nodes is whole")
}

fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let Header { ty, length } = Header::decode(*header);
        let (body, rest) = rest.split_at(length as usize);
        bytes = rest;
        Some((ty, body))
    })
}

fn present(at: Instant) -> Now {
    Now {
        at,
        wall_ms: 1_800_000_000_000 + at.micros() / 1_000,
    }
}

fn name(stem: &str, number: usize) -> DeviceId {
    DeviceId::new(&format!("{stem}-{number}")).expect("a short name is an id")
}

fn origin(index: usize) -> Origin {
    Origin {
        node: node(index),
        current: true,
        version: VERSION_MAX,
    }
}

fn node(index: usize) -> NodeId {
    NodeId(index as u32 + 1)
}

fn index(node: NodeId) -> usize {
    node.0 as usize - 1
}
