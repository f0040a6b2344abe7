//! Who sends much, or reads nothing, costs the others little: over real sockets, each against a run of the same without it.
//!
//! Times are compared with each other, never with a clock's absolute: the bounds hold on a busy machine and in a debug build.

mod common;

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::{ALL, Device, Plan, eventually, expect_count, plan, single};
use trunkline_core::constants::DEVICE_QUEUE_BYTES_MAX;
use trunkline_net::backend::Backend;
use trunkline_node::run::Node;
use trunkline_wire::codec::Tail;
use trunkline_wire::common::{Ping, Pong};
use trunkline_wire::device::{Acknowledge, Deliver, Report, Send};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::IdRef;
use trunkline_wire::report::{Number, TtlMs};

/// A device that sends a message once in a while, and what it was told.
struct Trickler {
    device: Device,
    delivered: Option<u64>,
    reported: u64,
}

impl Trickler {
    fn hear(&mut self) {
        let (ty, body) = self.device.next().expect("the server stays");
        match ty {
            Deliver::TYPE => {
                let deliver = Deliver::decode_body(&body).unwrap();
                self.delivered = Some(u64::from_le_bytes(deliver.payload.0.try_into().unwrap()));
                let delivery = deliver.delivery;
                self.device.send(&Acknowledge { delivery, late: false });
            }
            Report::TYPE => {
                let report = Report::decode_body(&body).unwrap();
                assert!(format!("{:?}", report.outcome).contains("Delivered"), "{report:?}");
                self.reported += 1;
            }
            Ping::TYPE => {}
            other => panic!("a frame of type {other}"),
        }
    }
}

/// Many of them, each sending to the next.
struct Trickle {
    all: Vec<Trickler>,
    round: u64,
}

impl Trickle {
    fn connect(address: SocketAddr, count: usize) -> Trickle {
        let connect = |n| Trickler {
            device: Device::welcomed(address, &format!("trickle-{n}")),
            delivered: None,
            reported: 0,
        };
        let all = (0..count).map(connect).collect();
        Trickle { all, round: 0 }
    }

    /// Each sends one message, some together; all are delivered and reported. How long each delivery took.
    fn round(&mut self) -> Vec<Duration> {
        let (count, round) = (self.all.len(), self.round);
        self.round += 1;
        let mut took = Vec::new();
        for first in (0..count).step_by(TOGETHER) {
            let senders = first..(first + TOGETHER).min(count);
            let mut sent = Vec::new();
            for from in senders.clone() {
                let to = format!("trickle-{}", (from + 1) % count);
                sent.push(Instant::now());
                self.all[from].device.message(&to, round, &round.to_le_bytes());
            }
            for (from, sent) in senders.clone().zip(sent) {
                let recipient = &mut self.all[(from + 1) % count];
                while recipient.delivered != Some(round) {
                    recipient.hear();
                }
                took.push(sent.elapsed());
            }
            for from in senders {
                while self.all[from].reported <= round {
                    self.all[from].hear();
                }
            }
        }
        took
    }

    /// Nine in ten messages of these rounds take no longer.
    fn p90(&mut self, rounds: usize) -> Duration {
        let mut took: Vec<Duration> = (0..rounds).flat_map(|_| self.round()).collect();
        took.sort();
        took[took.len() * 9 / 10]
    }
}

/// A thread that sends fire-and-forget messages to one device, as fast as they are taken.
struct Flood {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    stream: TcpStream,
}

impl Flood {
    fn start(address: SocketAddr, to: &str, payload_bytes: usize) -> Flood {
        let device = Device::welcomed(address, "flood");
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let frame = Send {
            recipient: IdRef::new(to).unwrap(),
            number: Number {
                number: 0,
                confirmed: None,
            },
            ttl: TtlMs::default(),
            payload: Tail(&vec![7; payload_bytes]),
        };
        let many = frame.to_vec().repeat(64);
        let stream = device.stream.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let mut stream = device.stream;
            while !ended.load(Ordering::Relaxed) && stream.write_all(&many).is_ok() {}
        });
        Flood { ends, thread, stream }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        // It may be in a write that nobody takes.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.thread.join().unwrap();
    }
}

fn assert_bounded(disturbed: Duration, quiet: Duration) {
    eprintln!("p90: {quiet:?} alone, {disturbed:?} disturbed");
    let most = quiet * FACTOR_MAX + SLACK;
    assert!(disturbed <= most, "{disturbed:?}, more than {most:?}; {quiet:?} alone");
}

#[test]
fn one_connection_that_floods_does_not_starve_a_thousand_that_trickle() {
    flood_beside_a_thousand(Backend::Epoll);
}

#[test]
fn one_connection_that_floods_does_not_starve_a_thousand_that_trickle_over_io_uring() {
    flood_beside_a_thousand(Backend::Uring);
}

/// The flood's threads and the flooded shards take processors from everybody, which is not what is asked. So the time without it is
/// taken while another node is flooded, on the same processors.
fn flood_beside_a_thousand(backend: Backend) {
    let (node, plan) = single_on(backend);
    let mut trickle = Trickle::connect(plan.device, 1000);
    trickle.round();
    let (elsewhere, its_plan) = single_on(backend);
    let (quiet, _) = beside_flood(&elsewhere, its_plan.device, || trickle.p90(1));
    elsewhere.shutdown(Duration::ZERO);
    let (flooded, flood_messages) = beside_flood(&node, plan.device, || trickle.p90(2));
    eprintln!("{flood_messages} messages came in beside 2000");
    // That each was delivered and reported is what a round waits for.
    expect_count(&node, "reports_delivered", 4000);
    assert!(flood_messages > 4000, "{flood_messages} are no flood");
    assert_bounded(flooded, quiet);
    node.shutdown(Duration::ZERO);
}

fn single_on(backend: Backend) -> (Node, Plan) {
    let plan = plan(&[ALL]).pop().unwrap();
    let mut config = plan.config();
    config.node.backend = backend;
    let node = Node::start(config).unwrap();
    eventually("ready", || node.not_ready().is_empty());
    (node, plan)
}

/// Does `what` while one connection floods `node`, and says how many messages came in meanwhile.
fn beside_flood<T>(node: &Node, address: SocketAddr, what: impl FnOnce() -> T) -> (T, u64) {
    let sent = || node.stats().sum("messages_in");
    let mut sink = Device::welcomed(address, "sink");
    let stream = sink.stream.try_clone().unwrap();
    let reads = thread::spawn(move || while sink.next().is_some() {});
    let before = sent();
    let flood = Flood::start(address, "sink", 128);
    eventually("it floods", || sent() > before + 1000);
    let done = what();
    let came = sent() - before;
    flood.end();
    stream.shutdown(Shutdown::Both).unwrap();
    reads.join().unwrap();
    (done, came)
}

#[test]
fn a_device_that_does_not_read_costs_the_others_nothing_and_holds_a_bounded_queue() {
    let (node, plan) = single();
    let mut trickle = Trickle::connect(plan.device, 200);
    trickle.round();
    let quiet = trickle.p90(3);
    let mut deaf = Device::welcomed(plan.device, "deaf");
    let flood = Flood::start(plan.device, "deaf", DEAF_BYTES);
    eventually("its queue is full", || node.stats().sum("dropped_busy") > 0);
    let dropped = node.stats().sum("dropped_busy");
    let disturbed = trickle.p90(5);
    eventually("the rest is dropped, and counted", || {
        node.stats().sum("dropped_busy") > dropped + 1000
    });
    flood.end();
    assert_bounded(disturbed, quiet);
    expect_count(&node, "devices_slow_closed", 0);
    // Once it reads, it gets what was kept for it, which is no more than there are places for, and is served on.
    deaf.send(&Ping { token: 1 });
    let mut kept = 0;
    loop {
        match deaf.next().expect("it is served").0 {
            Deliver::TYPE => kept += 1,
            Pong::TYPE => break,
            // The server wanted to know whether it's there.
            other => assert_eq!(other, Ping::TYPE),
        }
    }
    let (kernel, dropped) = (kernel_bytes_max(), node.stats().sum("dropped_busy"));
    eprintln!("{kept} messages kept, {dropped} dropped; the kernel holds {kernel} bytes at most");
    assert!(kept * DEAF_BYTES <= kernel + DEVICE_QUEUE_BYTES_MAX + DEAF_BYTES);
    node.shutdown(Duration::ZERO);
}

/// What the kernel holds for one connection at most, on its way out and on its way in.
fn kernel_bytes_max() -> usize {
    let most = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).ok()?;
        text.split_whitespace().nth(2)?.parse::<usize>().ok()
    };
    most("tcp_wmem").unwrap_or(KERNEL_BYTES) + most("tcp_rmem").unwrap_or(KERNEL_BYTES)
}

/// How many devices have a message on its way at once.
const TOGETHER: usize = 50;
/// A disturbed message may take this many times as long as it would alone,
const FACTOR_MAX: u32 = 20;
/// and this much more, for a machine that has other work as well.
const SLACK: Duration = Duration::from_millis(50);
/// The payload of a message to the device that does not read.
const DEAF_BYTES: usize = 4096;
/// Where the kernel doesn't say how much it holds.
const KERNEL_BYTES: usize = 32 << 20;
