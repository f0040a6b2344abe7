//! What goes between the shards of one node: bounded rings for each pair, one batch a turn, and a mailbox for everybody else.
//!
//! Invariants: what one shard sends another arrives in the order in which it was sent. Nothing is lost but what is counted: when a
//! shard falls behind, messages on their way ([`Forward`]) are shed first, then other frames; events and sockets never.
//! No wake-up is lost: `door` says how, and a model checker that it is so.
//!
//! Independent of threads: the simulator runs all shards of a node in one.

mod door;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};
use trunkline_core::link::{LinkRef, LinkStatus, Wish};
use trunkline_core::outbox::ShardEvent;
use trunkline_core::predictor::Expectation;
use trunkline_core::router::Explanation;
use trunkline_net::driver::{Driver, Wake};
use trunkline_wire::frame::{Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, NodeId, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::peer::Forward;

use self::door::Door;
use crate::connection::Transit;
use crate::run::lock;

/// One thing that a shard tells another.
#[derive(Debug)]
pub(crate) enum Item<S> {
    /// For the router: frames, and which node said them.
    Frames { from: NodeId, bytes: Range<usize> },
    /// For the link to a node, which the receiving shard owns.
    Link { node: NodeId, bytes: Range<usize> },
    /// News.
    Event(ShardEvent),
    /// A link would be of use.
    Wish(Box<Wish>),
    /// What a device was expected to send to a node is no longer expected.
    WithdrawWish(Box<(NodeId, DeviceKey)>),
    /// A device that the receiving shard owns is expected to be written to.
    Expect(Box<Expectation>),
    /// A connection that the receiving shard owns.
    Socket(Box<Transit<S>>),
    /// Answer when everything before is taken in, and what follows from it is on its way.
    Fence(LinkRef),
    /// The answer.
    Fenced(LinkRef),
}

/// What one shard tells another in one turn.
#[derive(Debug)]
pub(crate) struct Batch<S> {
    pub(crate) items: Vec<Item<S>>,
    pub(crate) bytes: Vec<u8>,
}

impl<S> Batch<S> {
    fn new() -> Batch<S> {
        Batch {
            items: Vec::new(),
            bytes: Vec::new(),
        }
    }
}

/// What somebody else than a shard asks of one.
pub enum Order {
    /// Use this map.
    Map(Arc<Map>),
    /// What is known of a device?
    Explain {
        /// The device, which the shard owns.
        device: DeviceKey,
        /// Takes the answer.
        reply: Reply<Explanation>,
    },
    /// How are the links?
    Links {
        /// Takes the answer.
        reply: Reply<Vec<LinkStatus>>,
    },
    /// Send devices elsewhere, and let none in.
    Drain(DrainOrder),
    /// Let devices in again, and keep those that are still there.
    Stay,
    /// All shards are through with their devices: close the links without losing a frame.
    Leave,
    /// Be done now.
    Stop,
}

/// How devices are sent elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainOrder {
    /// Devices a second, of the whole node.
    pub rate: u32,
    /// What the devices are told.
    pub retry_after_ms: u32,
    /// What comes then.
    pub then: Then,
}

/// What a drained node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It goes on without devices.
    Rest,
    /// Within this time it has sent all away, faster than at the set rate if need be; then it waits to be told to leave.
    End(Duration),
}

/// Takes an answer; called on the shard's thread, so it must be quick.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// One shard as the others see it.
#[derive(Default)]
struct Neighbour {
    door: Door,
    /// How threads without a driver wake it; in place before it sleeps for the first time.
    waker: OnceLock<Arc<dyn Wake>>,
}

impl Neighbour {
    /// After something was left for the shard by who is none.
    fn ring(&self) {
        self.door.ring(|| {
            if let Some(waker) = self.waker.get() {
                waker.wake();
            }
        });
    }
}

/// Leaves orders for one shard. Clones may be used from any thread.
#[derive(Clone)]
pub struct Mailbox {
    orders: mpsc::Sender<Order>,
    neighbours: Arc<[Neighbour]>,
    shard: ShardId,
}

impl std::fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mailbox({})", self.shard.0)
    }
}

impl Mailbox {
    /// Leaves an order; false if the shard is no more.
    pub fn send(&self, order: Order) -> bool {
        let neighbour = &self.neighbours[usize::from(self.shard.0)];
        neighbour.door.announce();
        let sent = self.orders.send(order).is_ok();
        neighbour.ring();
        sent
    }
}

/// The way from one shard to another.
struct Lane<S> {
    ring: Producer<Batch<S>>,
    /// What didn't fit into the ring.
    backlog: VecDeque<Batch<S>>,
    backlog_bytes: usize,
    /// This turn's.
    open: Batch<S>,
}

impl<S> Lane<S> {
    fn load(&self) -> Load {
        match self.backlog_bytes + self.open.bytes.len() {
            bytes if self.backlog.is_empty() || bytes < BACKLOG_BYTES_MAX => Load::Fine,
            bytes if bytes < BACKLOG_BYTES_HARD_MAX => Load::Messages,
            _ => Load::Everything,
        }
    }

    /// Hands `open` on, if there is anything in it.
    fn seal(&mut self, spares: &mut Vec<Batch<S>>) {
        if !self.open.items.is_empty() {
            let batch = std::mem::replace(&mut self.open, spares.pop().unwrap_or_else(Batch::new));
            self.backlog_bytes += batch.bytes.len();
            self.backlog.push_back(batch);
        }
    }

    /// Moves what fits into the ring; whether anything moved.
    fn advance(&mut self) -> bool {
        let mut any = false;
        while !self.backlog.is_empty() && !self.ring.is_full() {
            if let Some(batch) = self.backlog.pop_front() {
                self.backlog_bytes -= batch.bytes.len();
                any |= self.ring.push(batch).is_ok();
            }
        }
        any
    }
}

/// What a lane sheds.
enum Load {
    Fine,
    Messages,
    Everything,
}

/// Frames that were not sent on because the other shard has fallen behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shed {
    /// Messages; their senders' nodes try again.
    pub messages: u64,
    /// Other frames.
    pub frames: u64,
}

/// One shard's access to the others.
pub struct MeshPort<D: Driver> {
    me: ShardId,
    neighbours: Arc<[Neighbour]>,
    addresses: Arc<Mutex<Vec<Option<D::Address>>>>,
    outgoing: Vec<Option<Lane<D::Socket>>>,
    incoming: Vec<Option<Consumer<Batch<D::Socket>>>>,
    orders: mpsc::Receiver<Order>,
    spares: Vec<Batch<D::Socket>>,
    shed: Shed,
}

/// Rings between all pairs of `shards` shards, and a mailbox for each.
pub fn mesh<D: Driver>(shards: u16) -> (Vec<MeshPort<D>>, Vec<Mailbox>) {
    let neighbours: Arc<[Neighbour]> = (0..shards).map(|_| Neighbour::default()).collect();
    let addresses = Arc::new(Mutex::new((0..shards).map(|_| None).collect()));
    let mut ports = Vec::new();
    let mut mailboxes = Vec::new();
    for shard in 0..shards {
        let (sender, orders) = mpsc::channel();
        mailboxes.push(Mailbox {
            orders: sender,
            neighbours: Arc::clone(&neighbours),
            shard: ShardId(shard),
        });
        ports.push(MeshPort {
            me: ShardId(shard),
            neighbours: Arc::clone(&neighbours),
            addresses: Arc::clone(&addresses),
            outgoing: (0..shards).map(|_| None).collect(),
            incoming: (0..shards).map(|_| None).collect(),
            orders,
            spares: Vec::new(),
            shed: Shed::default(),
        });
    }
    for from in 0..usize::from(shards) {
        for to in 0..usize::from(shards) {
            if from == to {
                continue;
            }
            let (ring, consumer) = RingBuffer::new(RING_BATCHES);
            ports[from].outgoing[to] = Some(Lane {
                ring,
                backlog: VecDeque::new(),
                backlog_bytes: 0,
                open: Batch::new(),
            });
            ports[to].incoming[from] = Some(consumer);
        }
    }
    (ports, mailboxes)
}

impl<D: Driver> MeshPort<D> {
    /// How the others reach this shard. Once, before its first turn.
    pub(crate) fn attach(&mut self, driver: &D) {
        let at = usize::from(self.me.0);
        let attached = self.neighbours[at].waker.set(driver.waker());
        assert!(attached.is_ok(), "a port belongs to one shard");
        let mut addresses = lock(&self.addresses);
        addresses[at] = Some(driver.address());
    }

    /// Where a hand-over to `shard` goes. `None` until that shard has started.
    pub(crate) fn address(&self, shard: ShardId) -> Option<D::Address> {
        let addresses = lock(&self.addresses);
        addresses[usize::from(shard.0)].clone()
    }

    /// The other shards.
    pub(crate) fn others(&self) -> impl Iterator<Item = ShardId> + use<D> {
        let (me, shards) = (self.me, self.neighbours.len() as u16);
        (0..shards).map(ShardId).filter(move |&shard| shard != me)
    }

    /// What was not sent on.
    pub fn shed(&self) -> Shed {
        self.shed
    }

    /// Bytes that found no room on the way to other shards.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.outgoing.iter().flatten().map(|lane| lane.backlog_bytes).sum()
    }

    /// Sends anything but frames.
    pub(crate) fn send(&mut self, to: ShardId, item: Item<D::Socket>) {
        if let Some(lane) = &mut self.outgoing[usize::from(to.0)] {
            lane.open.items.push(item);
        }
    }

    /// Sends frames to another shard's router.
    pub fn frames(&mut self, to: ShardId, from: NodeId, bytes: &[u8]) {
        self.put(to, bytes, |bytes| Item::Frames { from, bytes });
    }

    /// Sends frames for the link to `node`, which another shard owns.
    pub(crate) fn link(&mut self, to: ShardId, node: NodeId, bytes: &[u8]) {
        self.put(to, bytes, |bytes| Item::Link { node, bytes });
    }

    fn put(&mut self, to: ShardId, bytes: &[u8], item: impl FnOnce(Range<usize>) -> Item<D::Socket>) {
        let Some(lane) = &mut self.outgoing[usize::from(to.0)] else {
            debug_assert!(false, "no shard sends to itself");
            return;
        };
        let start = lane.open.bytes.len();
        match lane.load() {
            Load::Fine => lane.open.bytes.extend_from_slice(bytes),
            Load::Messages => self.shed.messages += without_messages(bytes, &mut lane.open.bytes),
            Load::Everything => self.shed.frames += count_frames(bytes),
        }
        let end = lane.open.bytes.len();
        if start < end {
            lane.open.items.push(item(start..end));
        }
        if end >= BATCH_BYTES_MAX {
            lane.seal(&mut self.spares);
        }
    }

    /// Ends the turn: what was sent leaves, and who sleeps is woken by `wake`. True if something had no room yet.
    pub fn flush(&mut self, mut wake: impl FnMut(&D::Address)) -> bool {
        let mut waiting = false;
        for (shard, lane) in self.outgoing.iter_mut().enumerate() {
            let Some(lane) = lane else { continue };
            lane.seal(&mut self.spares);
            if lane.advance() {
                self.neighbours[shard].door.ring(|| {
                    let addresses = lock(&self.addresses);
                    if let Some(address) = &addresses[shard] {
                        wake(address);
                    }
                });
            }
            waiting |= !lane.backlog.is_empty();
        }
        waiting
    }

    /// The next batch of `from`, if there is one.
    pub(crate) fn next(&mut self, from: ShardId) -> Option<Batch<D::Socket>> {
        self.incoming[usize::from(from.0)].as_mut()?.pop().ok()
    }

    /// Takes the next batch of `from`, says how many bytes of frames are in it, and forgets them: for measurements.
    pub fn take_bytes(&mut self, from: ShardId) -> Option<usize> {
        let batch = self.next(from)?;
        let bytes = batch.bytes.len();
        self.recycle(batch);
        Some(bytes)
    }

    /// A batch that was taken in; its space is used again.
    pub(crate) fn recycle(&mut self, mut batch: Batch<D::Socket>) {
        if self.spares.len() < SPARES_MAX && batch.bytes.capacity() <= 2 * BATCH_BYTES_MAX {
            batch.items.clear();
            batch.bytes.clear();
            self.spares.push(batch);
        }
    }

    /// The next order, if there is one.
    pub(crate) fn order(&mut self) -> Option<Order> {
        if !self.door().has_mail() {
            return None;
        }
        let order = self.orders.try_recv().ok()?;
        self.door().taken();
        Some(order)
    }

    /// Before sleeping; false if there is something to do first. After it, [`MeshPort::awake`].
    pub(crate) fn about_to_sleep(&mut self) -> bool {
        self.door().about_to_sleep(|| self.rings_are_empty())
    }

    /// Whether something waits to be taken in. Who sleeps is woken for it; who only waits for its turn is not.
    pub(crate) fn has_mail(&self) -> bool {
        self.door().has_mail() || !self.rings_are_empty()
    }

    /// After sleeping.
    pub(crate) fn awake(&mut self) {
        self.door().awake();
    }

    fn door(&self) -> &Door {
        &self.neighbours[usize::from(self.me.0)].door
    }

    fn rings_are_empty(&self) -> bool {
        self.incoming.iter().flatten().all(Consumer::is_empty)
    }
}

/// The frames in `bytes`, which this node has encoded or checked: type and body, with the header before it.
pub(crate) fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let header = Header::decode(*bytes.first_chunk()?);
        let (frame, rest) = bytes.split_at_checked(HEADER_BYTES + header.length as usize)?;
        bytes = rest;
        Some((header.ty, &frame[HEADER_BYTES..], frame))
    })
}

/// Appends all frames but messages; returns how many messages there were.
pub(crate) fn without_messages(bytes: &[u8], into: &mut Vec<u8>) -> u64 {
    let mut messages = 0;
    for (ty, _, frame) in frames(bytes) {
        if ty == Forward::TYPE {
            messages += 1;
        } else {
            into.extend_from_slice(frame);
        }
    }
    messages
}

/// How many frames there are.
pub(crate) fn count_frames(bytes: &[u8]) -> u64 {
    frames(bytes).count() as u64
}

/// Batches in a ring: a shard that does not turn for a hundred of the other's turns has other troubles.
const RING_BATCHES: usize = 64;
/// A batch is closed when it has this many bytes; with the ring this bounds a lane to 16 MiB.
const BATCH_BYTES_MAX: usize = 256 << 10;
/// Beyond the ring: messages are shed.
const BACKLOG_BYTES_MAX: usize = 4 << 20;
/// Everything is shed but events and sockets, of which there are few.
const BACKLOG_BYTES_HARD_MAX: usize = 16 << 20;
/// Batches kept for reuse.
const SPARES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use trunkline_net::driver::Completion;
    use trunkline_net::epoll::{EpollDriver, Options};
    use trunkline_wire::common::Ping;
    use trunkline_wire::id::Epoch;
    use trunkline_wire::peer::Location;
    use trunkline_wire::time::Instant;

    use super::*;

    fn port_pair() -> (MeshPort<EpollDriver>, MeshPort<EpollDriver>, Vec<Mailbox>) {
        let (ports, mailboxes) = mesh(2);
        let mut ports = ports.into_iter();
        (ports.next().unwrap(), ports.next().unwrap(), mailboxes)
    }

    fn forward() -> Vec<u8> {
        // Only the type matters here.
        let header = Header {
            ty: Forward::TYPE,
            length: 1000,
        };
        let mut bytes = header.encode().to_vec();
        bytes.resize(HEADER_BYTES + 1000, 0);
        bytes
    }

    fn location() -> Vec<u8> {
        Location {
            device: DeviceKey(1),
            epoch: Epoch::NONE,
        }
        .to_vec()
    }

    #[test]
    fn order_is_kept_across_kinds() {
        let (mut a, mut b, _) = port_pair();
        let to = ShardId(1);
        let down = ShardEvent::LinkDown {
            node: NodeId(5),
            serial: 1,
        };
        a.frames(to, NodeId(5), &location());
        a.send(to, Item::Event(down));
        a.link(to, NodeId(6), &Ping { token: 1 }.to_vec());
        assert!(b.next(ShardId(0)).is_none(), "nothing before the turn ends");
        assert!(!a.flush(|_| {}));
        let batch = b.next(ShardId(0)).unwrap();
        match &batch.items[..] {
            [
                Item::Frames { from: NodeId(5), bytes },
                Item::Event(event),
                Item::Link { node: NodeId(6), .. },
            ] => {
                assert_eq!(&batch.bytes[bytes.clone()], location());
                assert_eq!(*event, down);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_shard_that_falls_behind_loses_messages_first_and_events_never() {
        let (mut a, mut b, _) = port_pair();
        let to = ShardId(1);
        let mut sent = 0;
        while a.shed().messages == 0 {
            a.frames(to, NodeId(5), &forward());
            sent += 1;
            a.flush(|_| {});
            assert!(sent < 100_000, "the backlog is bounded");
        }
        a.frames(to, NodeId(5), &location());
        assert_eq!(a.shed(), Shed { messages: 1, frames: 0 }, "other frames still go");
        while a.shed().frames == 0 {
            a.frames(to, NodeId(5), &location().repeat(1000));
        }
        for serial in 0..1000 {
            a.send(
                to,
                Item::Event(ShardEvent::LinkUp {
                    node: NodeId(1),
                    serial,
                }),
            );
        }
        let (mut messages, mut events) = (0, 0);
        while a.flush(|_| {}) || !b.incoming[0].as_ref().unwrap().is_empty() {
            while let Some(batch) = b.next(ShardId(0)) {
                for item in &batch.items {
                    match item {
                        Item::Frames { bytes, .. } => {
                            messages += frames(&batch.bytes[bytes.clone()])
                                .filter(|(ty, ..)| *ty == Forward::TYPE)
                                .count();
                        }
                        Item::Event(ShardEvent::LinkUp { serial, .. }) => {
                            assert_eq!(*serial, events);
                            events += 1;
                        }
                        other => panic!("{other:?}"),
                    }
                }
                b.recycle(batch);
            }
        }
        assert_eq!((messages, events), (sent - 1, 1000));
        assert_eq!(a.outgoing[1].as_ref().unwrap().backlog_bytes, 0);
    }

    #[test]
    fn a_sleeper_is_woken_and_who_has_work_does_not_sleep() {
        let (mut a, mut b, mailboxes) = port_pair();
        let mut driver = EpollDriver::new(Options::default()).unwrap();
        b.attach(&driver);
        assert!(b.about_to_sleep());
        a.send(ShardId(1), Item::WithdrawWish(Box::new((NodeId(1), DeviceKey(1)))));
        let mut waker = EpollDriver::new(Options::default()).unwrap();
        a.flush(|at| waker.wake(at));
        let mut completions = Vec::new();
        let until = driver.now() + Duration::from_secs(10);
        driver.wait(Some(until), &mut completions).unwrap();
        assert!(matches!(completions[..], [Completion::Woken]));
        b.awake();
        assert!(!b.about_to_sleep(), "the batch is still there");
        assert!(b.next(ShardId(0)).is_some());
        assert!(b.about_to_sleep());
        b.awake();
        assert!(mailboxes[1].send(Order::Stop));
        assert!(!b.about_to_sleep(), "an order is there");
        assert!(matches!(b.order(), Some(Order::Stop)));
        assert!(b.order().is_none());
        assert!(b.about_to_sleep());
    }

    #[test]
    fn two_threads_lose_no_wake_up() {
        play(|| EpollDriver::new(Options::default()).unwrap());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn two_threads_lose_no_wake_up_over_io_uring() {
        use trunkline_net::uring;
        match uring::probe() {
            Ok(()) => play(|| uring::UringDriver::new(uring::Options::default()).unwrap()),
            Err(unusable) => println!("skipped: {unusable}"),
        }
    }

    /// Two threads throw one item to and fro, and each sleeps whenever it has none.
    fn play<D: Driver + 'static>(driver: fn() -> D) {
        let rounds = 20_000;
        let run = |mut port: MeshPort<D>, to: ShardId, starts: bool| {
            move || {
                let mut driver = driver();
                port.attach(&driver);
                let mut completions = Vec::new();
                // Wait for the other to attach: who has no address would not be woken.
                while port.address(to).is_none() {
                    std::thread::yield_now();
                }
                if starts {
                    port.send(to, Item::WithdrawWish(Box::new((NodeId(0), DeviceKey(1)))));
                    port.flush(|at| driver.wake(at));
                }
                let mut seen = 0;
                while seen < rounds {
                    let until = match port.about_to_sleep() {
                        true => driver.now() + Duration::from_secs(10),
                        false => driver.now(),
                    };
                    let before = driver.now();
                    driver.wait(Some(until), &mut completions).unwrap();
                    completions.clear();
                    assert!(driver.now() - before < Duration::from_secs(9), "a wake-up was lost");
                    port.awake();
                    while let Some(batch) = port.next(to) {
                        seen += 1;
                        port.recycle(batch);
                        port.send(to, Item::WithdrawWish(Box::new((NodeId(0), DeviceKey(1)))));
                        port.flush(|at| driver.wake(at));
                    }
                }
                // The last throw leaves too.
                driver.wait(Some(Instant::ZERO), &mut completions).unwrap();
            }
        };
        let mut ports = mesh::<D>(2).0.into_iter();
        let (a, b) = (ports.next().unwrap(), ports.next().unwrap());
        let threads = [
            std::thread::spawn(run(a, ShardId(1), true)),
            std::thread::spawn(run(b, ShardId(0), false)),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
