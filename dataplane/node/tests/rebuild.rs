//! A region's instance that starts with nothing is told of all sessions by their connection server, over a real link.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use common::{SECRET, eventually, plan};
use trunkline_net::framing::{Frame, Framer};
use trunkline_wire::auth::{ClusterKeys, LinkEnd, Secret};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::Roles;
use trunkline_wire::frame::{BODY_BYTES_MAX, Decode, Encode};
use trunkline_wire::handshake::Opener;
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Incarnation, NodeId, RegionId};
use trunkline_wire::peer::{Forward, PeerFrame, Register, SyncBegin, SyncEnd, Target};
use trunkline_wire::preface::{Preface, Side, VERSION_MAX, Versions};
use trunkline_wire::report::{Answer, Number, Outcome, RetryReason, Trail, TtlMs};

const SERVER: Roles = Roles {
    connection: true,
    messaging: true,
    region: false,
};
const INSTANCE: Roles = Roles {
    connection: false,
    messaging: false,
    region: true,
};
const REGION: RegionId = RegionId(0);
const ME: NodeId = NodeId(1);

const SESSIONS: usize = 1_000_000;
/// How long it may take, on one processor.
const REBUILD_MAX: Duration = Duration::from_secs(2);

/// What the instance says.
#[derive(Debug, PartialEq)]
enum Said {
    Answer(u64, Answer),
    Synced { registered: usize },
}

/// A connection server's end of a link.
struct Server {
    stream: TcpStream,
    said: mpsc::Receiver<Said>,
}

impl Server {
    /// Dials and proves itself; from then on, what is said is read by a thread of its own.
    fn link(address: std::net::SocketAddr) -> Server {
        let keys = ClusterKeys::new(&Secret::new(SECRET.as_bytes()).unwrap());
        let me = LinkEnd {
            node: ME,
            incarnation: Incarnation(1),
            nonce: [7; 32],
        };
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let (opener, hello) = Opener::new(&keys, me, Versions::BUILD);
        let mut bytes = Preface::new(Side::Peer).encode().to_vec();
        hello.encode(&mut bytes);
        stream.write_all(&bytes).unwrap();
        let (tell, said) = mpsc::channel();
        let (mut reading, mut writing) = (stream.try_clone().unwrap(), stream.try_clone().unwrap());
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let (mut framer, mut registered) = (Framer::new(), 0);
            let mut bytes = vec![0; 256 * 1024];
            loop {
                let Ok(count @ 1..) = reading.read(&mut bytes) else {
                    return;
                };
                let mut frames = framer.frames(&bytes[..count]);
                while let Some(Frame { ty, body }) = frames.next(|_| BODY_BYTES_MAX).unwrap() {
                    let said = match PeerFrame::decode(VERSION_MAX, ty, body).unwrap() {
                        Some(PeerFrame::LinkChallenge(challenge)) => {
                            let (proof, _) = opener.challenge(&keys, &challenge).unwrap();
                            writing.write_all(&proof.to_vec()).unwrap();
                            continue;
                        }
                        Some(PeerFrame::LinkReady(_)) => {
                            ready.send(()).unwrap();
                            continue;
                        }
                        Some(PeerFrame::Registered(answer)) => {
                            assert_eq!(answer.epoch, answer.highest);
                            registered += 1;
                            continue;
                        }
                        Some(PeerFrame::Ping(ping)) => {
                            let pong = trunkline_wire::common::Pong { token: ping.token };
                            writing.write_all(&pong.to_vec()).unwrap();
                            continue;
                        }
                        Some(PeerFrame::Reply(reply)) => Said::Answer(reply.number, reply.answer),
                        Some(PeerFrame::Synced(_)) => Said::Synced { registered },
                        // It tells which map it uses, of which this server has no use.
                        Some(PeerFrame::MapVersion(_)) => continue,
                        // The node shuts down.
                        Some(PeerFrame::LinkClose(_)) => return,
                        other => panic!("{other:?}"),
                    };
                    if tell.send(said).is_err() {
                        return;
                    }
                }
            }
        });
        is_ready.recv_timeout(Duration::from_secs(10)).unwrap();
        Server { stream, said }
    }

    fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// A confirmed message to a device.
    fn ask(&mut self, recipient: DeviceKey, number: u64) {
        let forward = Forward {
            recipient,
            target: Target::Region { gone: Epoch::NONE },
            trail: Trail::default().then(ME).unwrap(),
            sender_key: DeviceKey(1),
            sender: IdRef::new("sender").unwrap(),
            instance: trunkline_wire::id::Instance(1),
            number: Number {
                number,
                confirmed: Some(number),
            },
            ttl: TtlMs::default(),
            payload: Tail(b"hello"),
        };
        self.say(&forward.to_vec());
    }

    fn next(&self) -> Said {
        self.said
            .recv_timeout(Duration::from_secs(30))
            .expect("it says something")
    }
}

#[test]
fn a_million_sessions_are_taken_within_two_seconds_and_nobody_is_offline_before_all_are() {
    let plans = plan(&[SERVER, INSTANCE]);
    let mut config = plans[1].config();
    config.node.cores = Some("0".parse().unwrap());
    let node = trunkline_node::run::Node::start(config).unwrap();
    let mut server = Server::link(plans[1].peer);

    let mut rng = fastrand::Rng::with_seed(1);
    let mut stream = Vec::with_capacity(SESSIONS * 40);
    for clock in 0..SESSIONS as u64 {
        let epoch = Epoch {
            clock: clock + 1,
            node: ME,
        };
        let device = DeviceKey(rng.u128(..));
        Register {
            region: REGION,
            device,
            epoch,
        }
        .encode(&mut stream);
    }
    let unknown = DeviceKey(0);
    let sync = 1;
    let half = stream.len() / SESSIONS * (SESSIONS / 2);

    let began = Instant::now();
    server.say(&SyncBegin { region: REGION, sync }.to_vec());
    server.say(&stream[..half]);
    // In the midst of it nobody can say that a device is nowhere.
    server.ask(unknown, 1);
    server.say(&stream[half..]);
    let shards = 1;
    server.say(
        &SyncEnd {
            region: REGION,
            sync,
            shards,
        }
        .to_vec(),
    );
    let early = server.next();
    assert!(
        matches!(
            early,
            Said::Answer(
                1,
                Answer::Retry {
                    reason: RetryReason::NotInSync,
                    ..
                }
            )
        ),
        "{early:?}"
    );
    assert_eq!(server.next(), Said::Synced { registered: SESSIONS });
    let took = began.elapsed();
    println!(
        "{SESSIONS} sessions in {:.3} s: {:.0} ns each",
        took.as_secs_f64(),
        took.as_nanos() as f64 / SESSIONS as f64
    );

    server.ask(unknown, 2);
    let late = server.next();
    assert!(
        matches!(late, Said::Answer(2, Answer::Final(Outcome::Offline { .. }))),
        "{late:?}"
    );
    eventually("all are counted", || {
        node.stats().sum("presence_registered") == SESSIONS as u64
    });
    assert!(took <= REBUILD_MAX, "{took:?}");
    node.shutdown(Duration::ZERO);
}
