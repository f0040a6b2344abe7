//! Devices that write to each other through their libraries while servers come and go, and what they have seen of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use trunkline_client::{Client, DeviceId, Event, Guarantee, MessageId, Options, Outcome, TtlMs};

use super::until;

/// What a device has seen: whom it wrote to, under which numbers and how that ended, and what it was shown.
#[derive(Default)]
pub struct Seen {
    reports: BTreeMap<MessageId, Vec<Outcome>>,
    /// From whom, which, and whether it was marked late.
    shown: Vec<(DeviceId, u64, bool)>,
}

/// Devices that write to each other, round and round.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    delivered: Arc<AtomicU64>,
    devices: Vec<JoinHandle<Seen>>,
}

const DEVICES: usize = 6;

fn device(index: usize) -> DeviceId {
    DeviceId::new(&format!("device-{}", index % DEVICES)).unwrap()
}

impl Traffic {
    pub fn start(servers: &[SocketAddr]) -> Traffic {
        let (stop, delivered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        // Devices that still wait for reports.
        let waiting = Arc::new(AtomicUsize::new(DEVICES));
        let clients = (0..DEVICES).map(|index| Client::connect(Options::new(servers.to_vec(), device(index))));
        let clients: Vec<Client> = clients.map(Result::unwrap).collect();
        for client in &clients {
            client.ready(Duration::from_secs(20)).unwrap();
        }
        let run = |(index, client)| {
            let (stop, delivered, waiting) = (Arc::clone(&stop), Arc::clone(&delivered), Arc::clone(&waiting));
            std::thread::spawn(move || chat(&client, index, &stop, &delivered, &waiting))
        };
        let devices = clients.into_iter().enumerate().map(run).collect();
        Traffic {
            stop,
            delivered,
            devices,
        }
    }

    /// Waits until more has been delivered.
    pub fn goes_on(&self) {
        let before = self.delivered.load(Ordering::Relaxed);
        until("messages are delivered", || {
            self.delivered.load(Ordering::Relaxed) >= before + 50
        });
    }

    /// What all have seen, once every report has come.
    pub fn end(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        self.devices.into_iter().map(|device| device.join().unwrap()).collect()
    }
}

/// Sends a message every [`PACE`] until told to stop; then stays until nobody waits for a report any more.
fn chat(client: &Client, index: usize, stop: &AtomicBool, delivered: &AtomicU64, waiting: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    let (mut turn, mut due) = (0, true);
    while due || waiting.load(Ordering::Relaxed) > 0 {
        let goes_on = !stop.load(Ordering::Relaxed);
        if goes_on {
            turn += 1;
            let to = device(index + 1 + turn % (DEVICES - 1));
            // It is refused while the device has no server for long: what was not taken is not lost.
            if let Ok(id) = client.send(&to, "hello", TtlMs::default(), Guarantee::Confirmed) {
                seen.reports.insert(id, Vec::new());
            }
        }
        let until = Instant::now() + PACE;
        while let Some(event) = client.event_timeout(until.saturating_duration_since(Instant::now())) {
            match event {
                Event::Report(report) => {
                    let delivered_now = matches!(report.outcome, Outcome::Delivered { .. });
                    delivered.fetch_add(delivered_now.into(), Ordering::Relaxed);
                    seen.reports
                        .get_mut(&report.id)
                        .expect("it was sent")
                        .push(report.outcome);
                }
                Event::Message(message) => seen.shown.push((message.sender, message.number, message.late)),
                Event::Stopped { reason } => panic!("{reason}"),
                Event::Welcomed(_) | Event::Disconnected { .. } => {}
            }
        }
        if due && !goes_on && !seen.reports.values().any(Vec::is_empty) {
            due = false;
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
    seen
}

/// Between two messages of a device: while one changes its server, dozens come to wait for it.
const PACE: Duration = Duration::from_millis(10);

/// Each message was delivered, as its sender was told once; nobody saw one twice, or out of order without being told so.
pub fn assert_nothing_is_lost(seen: &[Seen]) {
    let mut shown = BTreeSet::new();
    for (index, device_seen) in seen.iter().enumerate() {
        let mut highest = BTreeMap::new();
        for (sender, number, late) in &device_seen.shown {
            assert!(shown.insert((sender.clone(), device(index), *number)), "shown twice");
            let before = highest.get(sender).copied();
            let in_order = before.is_none_or(|before| before < *number);
            assert_eq!(*late, !in_order, "number {number} from {sender} after {before:?}");
            highest.insert(sender, before.unwrap_or(0).max(*number));
        }
    }
    let mut delivered = 0;
    for (index, device_seen) in seen.iter().enumerate() {
        for (id, outcomes) in &device_seen.reports {
            let (from, to, number) = (device(index), &id.recipient, id.number);
            let arrived = shown.contains(&(from.clone(), to.clone(), number));
            let is_delivered = matches!(outcomes[..], [Outcome::Delivered { .. }]);
            let what = format!("number {number} from {from} to {to}: {outcomes:?}, and it was shown: {arrived}");
            assert!(is_delivered && arrived, "{what}");
            delivered += 1;
        }
    }
    assert_eq!(shown.len(), delivered, "what was shown was sent");
}
