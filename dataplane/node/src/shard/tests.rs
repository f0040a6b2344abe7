//! Two shards of one node, taking turns in one thread.

use std::io::Read;
use std::net::TcpStream;

use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::common::Ping;
use trunkline_wire::device::{Credentials, Hello, PingIntervalMs, Purpose};
use trunkline_wire::id::{Epoch, IdRef, Instance};
use trunkline_wire::peer::LinkProof;
use trunkline_wire::preface::{Preface, Side, Versions};

use super::*;
use crate::mesh::{DrainOrder, Mailbox, Order, Then, mesh};
use crate::stats::Stats;

const ROLES: Roles = Roles {
    connection: true,
    messaging: true,
    region: false,
};

struct Pair {
    shards: Vec<Shard<EpollDriver>>,
    mailboxes: Vec<Mailbox>,
    address: SocketAddr,
    keys: ClusterKeys,
}

/// The first shard listens, the second one has room for this many sockets.
fn pair(sockets_max: u32) -> Pair {
    let keys = ClusterKeys::new(&Secret::new(b"a secret of sixteen bytes or more").unwrap());
    let (ports, mailboxes) = mesh(2);
    let stats = Stats::new(2);
    let gates = Door::new(crate::config::AdmissionSection::default().limits(2), 1);
    let mut shards = Vec::new();
    for (index, port) in ports.into_iter().enumerate() {
        let options = Options {
            sockets_max: if index == 0 { 100 } else { sockets_max },
            sockets_reserved: 1,
            ..Options::default()
        };
        let config = ShardConfig {
            node: NodeId(1),
            incarnation: Incarnation(1),
            shard: ShardId(index as u16),
            shards: 2,
            roles: ROLES,
            keys: keys.clone(),
            token_key: None,
            direct_links_max: 1,
            predictor: Default::default(),
            affinity_lists_max: 10,
            seed: 1,
            entropy: Entropy::seeded(1),
            gates: Arc::clone(&gates),
            versions: Versions::BUILD,
            #[cfg(feature = "next-version")]
            build: "this one".into(),
        };
        let driver = EpollDriver::new(options).unwrap();
        let stats = Arc::clone(&stats.shards()[index]);
        shards.push(Shard::new(driver, config, port, Arc::new(Map::empty()), stats));
    }
    let address = shards[0].listen(Port::Device, "127.0.0.1:0".parse().unwrap()).unwrap();
    Pair {
        shards,
        mailboxes,
        address,
        keys,
    }
}

impl Pair {
    fn turns(&mut self, until: impl Fn(&Pair) -> bool) {
        let end = self.shards[0].driver.now() + Duration::from_secs(10);
        while !until(self) {
            for shard in &mut self.shards {
                let soon = shard.driver.now() + Duration::from_millis(1);
                assert!(soon < end, "not in time");
                shard.turn(Some(soon)).unwrap();
            }
        }
    }

    /// The first `count` ids that belong to this shard.
    fn devices_of(&self, shard: u16, count: usize) -> Vec<String> {
        let ids = (0..).map(|n| format!("d{n}"));
        let own = ids.filter(|id| self.keys.device_key(IdRef::new(id).unwrap()).shard(2) == ShardId(shard));
        own.take(count).collect()
    }

    fn connect(&self, id: &str) -> TcpStream {
        use std::io::Write;

        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut bytes = Preface::new(Side::Device).encode().to_vec();
        Hello {
            device: IdRef::new(id).unwrap(),
            instance: Instance(1),
            presented: Epoch::NONE,
            purpose: Purpose::Full,
            ping_interval: PingIntervalMs::default(),
            credentials: Credentials::default(),
        }
        .encode(&mut bytes);
        stream.write_all(&bytes).unwrap();
        stream
    }
}

#[test]
fn a_connection_moves_once_to_the_shard_that_owns_its_device() {
    let mut pair = pair(100);
    let streams: Vec<TcpStream> = (0..2)
        .flat_map(|shard| pair.devices_of(shard, 3))
        .map(|id| pair.connect(&id))
        .collect();
    pair.turns(|pair| pair.shards.iter().all(|shard| shard.router.sessions() == 3));
    assert_eq!(pair.shards[0].counters.connections_handed_over, 3);
    assert_eq!(pair.shards[1].counters.connections_adopted, 3);
    assert_eq!((pair.shards[0].table.len(), pair.shards[1].table.len()), (3, 3));
    drop(streams);
    pair.turns(|pair| {
        pair.shards
            .iter()
            .all(|shard| shard.table.is_empty() && shard.driver.open() == 0)
    });
}

#[test]
fn who_has_left_before_the_hello_was_read_is_not_let_in_wherever_the_device_belongs() {
    let mut pair = pair(100);
    let ids: Vec<String> = (0..2).flat_map(|shard| pair.devices_of(shard, 2)).collect();
    for (index, id) in ids.iter().enumerate() {
        let mut stream = pair.connect(id);
        if index % 2 == 1 {
            use std::io::Write;

            stream.write_all(&Ping { token: 1 }.to_vec()).unwrap();
        }
        // Its end is behind what it said, and all of it is there before anybody looks.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    pair.turns(|pair| pair.shards[0].counters.hellos_abandoned == 4);
    assert_eq!(pair.shards[0].counters.connections_handed_over, 0);
    pair.turns(|pair| pair.shards[0].table.is_empty());
    for shard in &pair.shards {
        assert_eq!(shard.router.counters().sessions_closed, 0, "there never was a session");
    }
}

#[test]
fn a_full_shard_costs_only_the_connection_that_finds_no_room() {
    let mut pair = pair(2);
    let ids = pair.devices_of(1, 3);
    let kept: Vec<TcpStream> = ids[..2].iter().map(|id| pair.connect(id)).collect();
    pair.turns(|pair| pair.shards[1].router.sessions() == 2);
    let mut refused = pair.connect(&ids[2]);
    pair.turns(|pair| pair.shards[1].counters.connections_refused_full == 1);
    let mut bytes = [0; 100];
    assert!(matches!(refused.read(&mut bytes), Ok(0) | Err(_)), "closed");
    assert_eq!(pair.shards[1].router.sessions(), 2);
    assert_eq!(pair.shards[0].table.len(), 0);
    // With room again, it's let in.
    drop(kept);
    pair.turns(|pair| pair.shards[1].router.sessions() == 0);
    let _again = pair.connect(&ids[2]);
    pair.turns(|pair| pair.shards[1].router.sessions() == 1);
}

/// What is full are the queues between the shards: sockets go all the same, and who gave up on the way is found out there.
#[test]
fn a_connection_moves_through_a_full_mesh_and_one_that_closed_on_the_way_is_forgotten() {
    use trunkline_wire::id::DeviceKey;
    use trunkline_wire::peer::Location;

    let mut pair = pair(100);
    let ids = pair.devices_of(1, 2);
    // The second shard takes no turn, and its own device's key is as good as any.
    let filler = Location {
        device: DeviceKey(1),
        epoch: Epoch::NONE,
    };
    let filler = filler.to_vec().repeat(1000);
    while pair.shards[0].port.shed().frames == 0 {
        pair.shards[0].port.frames(ShardId(1), NodeId(2), &filler);
        pair.shards[0].port.flush(|_| {});
    }
    let (stays, gives_up) = (pair.connect(&ids[0]), pair.connect(&ids[1]));
    let end = pair.shards[0].driver.now() + Duration::from_secs(10);
    while pair.shards[0].counters.connections_handed_over < 2 {
        let soon = pair.shards[0].driver.now() + Duration::from_millis(1);
        assert!(soon < end, "not in time");
        pair.shards[0].turn(Some(soon)).unwrap();
    }
    drop(gives_up);
    pair.turns(|pair| pair.shards[1].counters.connections_adopted == 2 && pair.shards[1].router.sessions() == 1);
    pair.turns(|pair| pair.shards[1].driver.open() == 1 && pair.shards[1].table.len() == 1);
    assert_eq!((pair.shards[0].driver.open(), pair.shards[0].table.len()), (0, 0));
    drop(stays);
    pair.turns(|pair| pair.shards[1].table.is_empty());
}

#[test]
fn a_drained_shard_still_turns_until_it_is_stopped() {
    let mut pair = pair(100);
    let ids = pair.devices_of(1, 1);
    let mut device = pair.connect(&ids[0]);
    pair.turns(|pair| pair.shards[1].router.sessions() == 1);
    for mailbox in &pair.mailboxes {
        let order = DrainOrder {
            rate: 10,
            retry_after_ms: 1,
            then: Then::End(Duration::from_secs(1)),
        };
        assert!(mailbox.send(Order::Drain(order)));
    }
    pair.turns(|pair| pair.shards.iter().all(Shard::is_rid_of_devices));
    for mailbox in &pair.mailboxes {
        mailbox.send(Order::Leave);
    }
    pair.turns(|pair| pair.shards.iter().all(Shard::is_drained));
    let mut said = Vec::new();
    device.read_to_end(&mut said).unwrap();
    assert!(said.windows(4).any(|bytes| bytes[3] == GoAway::TYPE), "{said:?}");
    assert!(TcpStream::connect(pair.address).is_err(), "nobody listens");
    assert!(!pair.shards.iter().any(Shard::is_stopped));
    for mailbox in &pair.mailboxes {
        mailbox.send(Order::Stop);
    }
    pair.turns(|pair| pair.shards.iter().all(Shard::is_stopped));
}

#[test]
fn who_floods_the_port_does_not_flood_the_log() {
    let mut log = LogBudget::default();
    let at = |seconds| Now {
        at: Instant::ZERO + Duration::from_secs(seconds),
        wall_ms: 0,
    };
    let mut written = 0;
    for _ in 0..1000 {
        log.warn(at(10), || written += 1);
    }
    assert_eq!((written, log.suppressed), (LOG_LINES_A_SECOND, 990));
    log.warn(at(11), || written += 1);
    assert_eq!((written, log.suppressed), (LOG_LINES_A_SECOND + 1, 0));
}

/// A node whose links the first shard owns.
fn peer() -> NodeId {
    let mut nodes = (2..).map(NodeId);
    let of_first = |node: &NodeId| trunkline_core::link::shard_of_node(*node, 2) == ShardId(0);
    nodes.find(of_first).unwrap()
}

/// A start of that node has dialled and been challenged. What it proves itself with is still to be written.
fn challenged(pair: &mut Pair, address: SocketAddr, incarnation: Incarnation) -> (TcpStream, LinkProof) {
    use std::io::Write;

    use trunkline_wire::auth::LinkEnd;
    use trunkline_wire::handshake::Opener;
    use trunkline_wire::peer::LinkChallenge;

    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let me = LinkEnd {
        node: peer(),
        incarnation,
        nonce: [9; 32],
    };
    let (opener, hello) = Opener::new(&pair.keys, me, Versions::BUILD);
    let mut bytes = Preface::new(Side::Peer).encode().to_vec();
    hello.encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
    arrives(pair, &stream);
    let mut challenge = vec![0; 200];
    let count = stream.read(&mut challenge).unwrap();
    let challenge = LinkChallenge::decode_body(&challenge[4..count]).unwrap();
    let (proof, _) = opener.challenge(&pair.keys, &challenge).unwrap();
    (stream, proof)
}

/// Takes turns until there is something to read.
fn arrives(pair: &mut Pair, stream: &TcpStream) {
    stream.set_nonblocking(true).unwrap();
    pair.turns(|_| stream.peek(&mut [0]).is_ok());
    stream.set_nonblocking(false).unwrap();
}

/// That node's first start has a link, and reads nothing from then on. Also where others can dial.
fn deaf_peer(pair: &mut Pair) -> (TcpStream, SocketAddr) {
    use std::io::Write;

    let address = pair.shards[0]
        .listen(Port::Peer, "127.0.0.1:0".parse().unwrap())
        .unwrap();
    let (mut stream, proof) = challenged(pair, address, Incarnation(1));
    stream.write_all(&proof.to_vec()).unwrap();
    pair.turns(|pair| pair.shards[0].book.up() == 1);
    (stream, address)
}

#[test]
fn what_was_gathered_for_a_link_does_not_go_ahead_on_the_one_that_replaces_it() {
    use std::io::Write;

    use trunkline_wire::frame::{HEADER_BYTES, Header};
    use trunkline_wire::id::DeviceKey;
    use trunkline_wire::peer::{LinkReady, Location};

    let mut pair = pair(100);
    let (_before, address) = deaf_peer(&mut pair);
    let (mut stream, proof) = challenged(&mut pair, address, Incarnation(2));
    stream.write_all(&proof.to_vec()).unwrap();
    let shard = &mut pair.shards[0];
    let mut completions = Vec::new();
    let is_read = |completion: &Completion<_>| matches!(completion, Completion::Received { .. });
    while !completions.iter().any(is_read) {
        let soon = shard.driver.now() + Duration::from_millis(10);
        shard.driver.wait(Some(soon), &mut completions).unwrap();
    }
    let (device, epoch) = (DeviceKey(1), Epoch::NONE);
    shard.out.link(peer(), &Location { device, epoch });
    for completion in completions {
        shard.complete(shard.now, completion);
    }
    shard.carry_out(shard.now);
    shard.start_sends();
    assert_eq!(shard.book.counters().links_replaced, 1);
    arrives(&mut pair, &stream);
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).unwrap();
    assert_eq!(Header::decode(header).ty, LinkReady::TYPE);
}

#[test]
fn a_link_whose_other_side_does_not_read_sheds_messages_then_is_closed() {
    use trunkline_wire::frame::Header;
    use trunkline_wire::peer::{Forward, Location};

    let mut pair = pair(100);
    let _peer = deaf_peer(&mut pair);
    let node = peer();
    let frame = |ty| {
        let mut bytes = Header { ty, length: 60_000 }.encode().to_vec();
        bytes.resize(60_004, 0);
        bytes
    };
    let shard = &mut pair.shards[0];
    let now = shard.now;
    let mut queued = 0;
    while shard.counters.link_messages_shed == 0 {
        shard.queue_link(now, node, &frame(Forward::TYPE), 1);
        shard.start_sends();
        queued += 60_004;
    }
    let bound = crate::congestion::QUEUE_BYTES_MAX;
    assert!(queued > bound && queued < 2 * bound, "{queued}");
    assert_eq!(shard.book.up(), 1);
    // What is not a message is still taken, up to the hard bound.
    while shard.counters.links_overflowed == 0 {
        shard.queue_link(now, node, &frame(Location::TYPE), 1);
        queued += 60_004;
        assert!(queued < 100 << 20, "bounded");
    }
    assert_eq!(shard.counters.link_messages_shed, 1);
    assert_eq!(shard.book.up(), 0);
    shard.queue_link(now, node, &frame(Forward::TYPE), 1);
    assert_eq!(shard.counters.link_frames_lost, 1);
    pair.turns(|pair| pair.shards[0].table.is_empty());
}
