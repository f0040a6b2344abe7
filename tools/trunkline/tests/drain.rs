//! One device writes to another without pause while the server of either is drained, or told to end: every message is delivered, once,
//! and whatever is shown out of its order says so.

mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::{TIMEOUT, until};
use trunkline_client::{Client, DeviceId, Event, Guarantee, Message, Options, Outcome, TtlMs};

const SENDER: &str = "sender";
const RECIPIENT: &str = "recipient";

/// What a busy host may add to a deadline.
const BUSY_HOST: Duration = Duration::from_secs(3);
/// When the last report comes at the latest: after the time to live, and a little more for the library's own.
const REPORTS_BY: Duration = Duration::from_secs(70);

/// Two connection servers that send devices away for a second, as long as a phone may take to come up elsewhere.
fn cluster() -> Cluster {
    let mut cluster = Cluster::start();
    let settings = cluster.place.write("settings.toml", "[drain]\nretry_after_ms = 1000\n");
    for edge in ["edge-1", "edge-2"] {
        cluster.node(edge, &["--roles", "connection", "--config", &settings]);
    }
    cluster.ready();
    cluster
}

/// Where the devices may be, in the order of [`cluster`].
fn edges(cluster: &Cluster) -> Vec<SocketAddr> {
    let edges = cluster.nodes[2..].iter();
    edges.map(|node| node.address("device").parse().unwrap()).collect()
}

/// A device at `home`, which may go to the other servers later.
fn device(name: &str, home: SocketAddr, servers: &[SocketAddr]) -> Client {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        // It begins with any of its servers.
        let client = Client::connect(Options::new(servers.to_vec(), DeviceId::new(name).unwrap())).unwrap();
        if client.ready(TIMEOUT).unwrap().server == home {
            return client;
        }
        assert!(Instant::now() < deadline, "it never begins with {home}");
    }
}

/// Messages from one device to the other, so many a second.
struct Flow {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
    sender: JoinHandle<BTreeMap<u64, Vec<Outcome>>>,
    recipient: JoinHandle<(Vec<Message>, u64)>,
}

impl Flow {
    fn start(rate: u32, servers: &[SocketAddr], sender: SocketAddr, recipient: SocketAddr) -> Flow {
        let recipient = device(RECIPIENT, recipient, servers);
        let sender = device(SENDER, sender, servers);
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let delivered = Arc::new(AtomicU64::new(0));
        let sends = {
            let (stop, delivered) = (Arc::clone(&stop), Arc::clone(&delivered));
            move || send(&sender, rate, &stop, &delivered)
        };
        let listens = {
            let done = Arc::clone(&done);
            move || listen(&recipient, &done)
        };
        Flow {
            stop,
            done,
            delivered,
            sender: std::thread::spawn(sends),
            recipient: std::thread::spawn(listens),
        }
    }

    /// Waits until so many more were reported to be delivered.
    fn goes_on(&self, more: u64) {
        let before = self.delivered.load(Ordering::Relaxed);
        until("messages are delivered", || {
            self.delivered.load(Ordering::Relaxed) >= before + more
        });
    }

    /// Every message was delivered, shown once, and marked late if one with a higher number was shown before, which was so for few: those that
    /// were under way when the device went.
    fn ends_well(self) {
        self.stop.store(true, Ordering::Relaxed);
        let reports = self.sender.join().unwrap();
        self.done.store(true, Ordering::Release);
        let (shown, forgotten) = self.recipient.join().unwrap();
        let mut ends = BTreeMap::new();
        for outcomes in reports.values() {
            *ends.entry(format!("{outcomes:?}")).or_insert(0) += 1;
        }
        for (number, outcomes) in &reports {
            assert!(
                matches!(outcomes[..], [Outcome::Delivered { .. }]),
                "message {number}: {outcomes:?}; all: {ends:?}"
            );
        }
        let mut highest = None;
        let mut seen = BTreeMap::new();
        let late = shown.iter().filter(|message| message.late).count();
        assert!(late <= shown.len() / 20, "{late} of {} came late", shown.len());
        for message in &shown {
            let overtaken = highest.is_some_and(|highest| highest > message.number);
            assert_eq!(message.late, overtaken, "{} after {highest:?}", message.number);
            highest = highest.max(Some(message.number));
            *seen.entry(message.number).or_insert(0) += 1;
        }
        assert!(seen.values().all(|times| *times == 1), "shown twice: {seen:?}");
        assert!(
            seen.keys().eq(reports.keys()),
            "what was sent was shown, and nothing else"
        );
        assert_eq!(forgotten, 0, "nobody knew whether it had been shown");
    }
}

/// Sends until told to stop, and goes on until each message has its report.
fn send(client: &Client, rate: u32, stop: &AtomicBool, delivered: &AtomicU64) -> BTreeMap<u64, Vec<Outcome>> {
    let mut reports: BTreeMap<u64, Vec<Outcome>> = BTreeMap::new();
    let to = DeviceId::new(RECIPIENT).unwrap();
    let start = Instant::now();
    let (mut unreported, mut last) = (0, start);
    while !stop.load(Ordering::Relaxed) || unreported > 0 {
        let due = start + Duration::from_secs(1) * reports.len() as u32 / rate;
        if !stop.load(Ordering::Relaxed) && due <= Instant::now() {
            let id = client
                .send(&to, "hello", TtlMs::default(), Guarantee::Confirmed)
                .unwrap();
            reports.insert(id.number, Vec::new());
            unreported += 1;
            last = Instant::now();
            continue;
        }
        let wait = if stop.load(Ordering::Relaxed) {
            TIMEOUT
        } else {
            due - Instant::now()
        };
        match client.event_timeout(wait) {
            Some(Event::Report(report)) => {
                let outcomes = reports.get_mut(&report.id.number).expect("it was sent");
                unreported -= usize::from(outcomes.is_empty());
                let success = matches!(report.outcome, Outcome::Delivered { .. });
                delivered.fetch_add(success.into(), Ordering::Relaxed);
                outcomes.push(report.outcome);
            }
            Some(Event::Stopped { reason }) => panic!("{reason}"),
            Some(Event::Message(_) | Event::Welcomed(_) | Event::Disconnected { .. }) => {}
            None => assert!(last.elapsed() < REPORTS_BY, "{unreported} have no report"),
        }
    }
    reports
}

/// What is shown until nothing more is to come, and how much could not be shown.
fn listen(client: &Client, done: &AtomicBool) -> (Vec<Message>, u64) {
    let mut shown = Vec::new();
    loop {
        // In this order: what was reported by then is in the queue, and taken out of it before the end.
        let is_done = done.load(Ordering::Acquire);
        match client.recv_timeout(Duration::from_millis(20)) {
            Some(message) => shown.push(message),
            None if is_done => break,
            None => {}
        }
    }
    (shown, client.counts().expect("it lives").dropped_forgotten)
}

/// Drains the first edge in the midst of a flow.
fn drain_under(rate: u32, sender: usize, recipient: usize) {
    let cluster = cluster();
    let servers = edges(&cluster);
    let flow = Flow::start(rate, &servers, servers[sender], servers[recipient]);
    flow.goes_on(u64::from(rate) / 2);
    assert_eq!(cluster.ask(&["drain", "edge-1"])["sessions"], 0);
    flow.goes_on(u64::from(rate));
    flow.ends_well();
}

/// Tells the first edge to end in the midst of a flow.
fn end_under(rate: u32, sender: usize, recipient: usize) {
    let mut cluster = cluster();
    let servers = edges(&cluster);
    let flow = Flow::start(rate, &servers, servers[sender], servers[recipient]);
    flow.goes_on(u64::from(rate) / 2);
    assert!(cluster.nodes[2].end().success());
    flow.goes_on(u64::from(rate));
    flow.ends_well();
}

#[test]
fn while_the_recipient_s_server_is_drained_all_that_one_device_sends_is_delivered() {
    drain_under(50, 1, 0);
    drain_under(200, 1, 0);
}

#[test]
fn while_the_server_of_both_is_drained_all_that_one_device_sends_is_delivered() {
    drain_under(200, 0, 0);
}

#[test]
fn a_server_that_is_told_to_end_waits_for_its_devices_to_be_elsewhere_and_nothing_is_lost() {
    end_under(200, 1, 0);
    end_under(200, 0, 1);
}

#[test]
fn a_server_that_is_told_to_end_ends_in_time_though_a_device_comes_up_nowhere() {
    let mut cluster = Cluster::start();
    let settings = cluster.place.write("settings.toml", "[drain]\nseconds_max = 5\n");
    for edge in ["edge-1", "edge-2"] {
        cluster.node(edge, &["--roles", "connection", "--config", &settings]);
    }
    cluster.ready();
    let servers = edges(&cluster);
    let _lost = device("lost", servers[0], &servers[..1]);
    let begun = Instant::now();
    assert!(cluster.nodes[2].end().success());
    let took = begun.elapsed();
    // It waits for the device as long as it may, and then still closes its links.
    assert!(
        took > Duration::from_secs(3) && took < Duration::from_secs(5) + BUSY_HOST,
        "{took:?}"
    );
}
