//! No wake-up is lost between shards: all interleavings of who leaves something and who goes to sleep, tried by loom, with the
//! reorderings that the memory model allows.
//!
//! The door is the very file that the mesh uses, compiled against loom's atomics. (A `cfg(loom)` for everything would reach the
//! dependencies too, of which some have no sockets under it.) Around it is modelled: a ring by its counter, written and read as rtrb
//! does; orders by a queue; a driver's waker by a flag. Whoever sleeps without having been woken waits until all others are through;
//! if nobody has woken it then and something is unseen, the wake-up was lost.
//!
//! That the model would notice is shown by mutants of the door, each of which it must catch.

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
}

#[path = "../src/mesh/door.rs"]
mod door;

use std::collections::VecDeque;

use atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use loom::sync::{Arc, Mutex};
use loom::thread::{self, JoinHandle};

/// What the mesh uses of a door for its rings; mutants have it too.
trait Sleep: Default + Send + Sync + 'static {
    fn ring(&self, wake: impl FnOnce());
    fn about_to_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool;
    fn awake(&self);
}

impl Sleep for door::Door {
    fn ring(&self, wake: impl FnOnce()) {
        self.ring(wake);
    }

    fn about_to_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool {
        self.about_to_sleep(is_idle)
    }

    fn awake(&self) {
        self.awake();
    }
}

/// One shard, which sleeps, and what others need to leave something for it.
#[derive(Default)]
struct Shard<D> {
    door: D,
    /// How far each sender's ring was filled.
    rings: [AtomicUsize; 2],
    orders: Mutex<VecDeque<u32>>,
    /// Whether the waker can be called: in the mesh a cell that is written once.
    attached: AtomicBool,
    woken: AtomicBool,
}

impl<D: Sleep> Shard<D> {
    fn push(&self, sender: usize) {
        // One sender each, so that a load and a store are enough.
        let filled = self.rings[sender].load(Ordering::Relaxed);
        self.rings[sender].store(filled + 1, Ordering::Release);
        self.knock();
    }

    fn knock(&self) {
        self.door.ring(|| {
            // Relaxed, so that it's the door that has to make it seen. Without a waker nobody is woken, as in the mesh.
            if self.attached.load(Ordering::Relaxed) {
                self.woken.swap(true, Ordering::AcqRel);
            }
        });
    }

    fn pushed(&self) -> usize {
        self.rings.iter().map(|ring| ring.load(Ordering::Acquire)).sum()
    }

    /// Sleeps until woken. Nothing else happens here meanwhile, so that to be woken soon is the same as to look late.
    fn sleep(&self, others: &mut Vec<JoinHandle<()>>) {
        if self.woken.swap(false, Ordering::AcqRel) {
            return;
        }
        others.drain(..).for_each(|other| other.join().unwrap());
        assert!(self.woken.swap(false, Ordering::AcqRel), "{LOST}");
    }
}

/// What the model says of a mutant.
const LOST: &str = "a wake-up was lost";

/// `senders[n]` items come from the n-th sender; the shard takes turns until it has seen all.
fn explore<D: Sleep>(senders: [usize; 2]) {
    bounded().check(move || {
        let shard = Arc::new(Shard::<D>::default());
        let mut others = Vec::new();
        for (sender, items) in senders.into_iter().enumerate().filter(|&(_, items)| items != 0) {
            let shard = Arc::clone(&shard);
            others.push(thread::spawn(move || (0..items).for_each(|_| shard.push(sender))));
        }
        shard.attached.store(true, Ordering::Relaxed);
        let mut seen = 0;
        while seen < senders.iter().sum() {
            if shard.door.about_to_sleep(|| shard.pushed() == seen) {
                shard.sleep(&mut others);
            }
            shard.door.awake();
            seen = shard.pushed();
        }
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// Three preemptions find what is to be found in protocols of this size, says loom's documentation; it takes seconds.
fn bounded() -> loom::model::Builder {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder
}

#[test]
fn nothing_from_one_sender_stays_unseen() {
    explore::<door::Door>([2, 0]);
}

#[test]
fn nothing_from_two_senders_stays_unseen() {
    explore::<door::Door>([1, 1]);
}

#[test]
fn no_order_stays_unseen() {
    bounded().check(|| {
        let shard = Arc::new(Shard::<door::Door>::default());
        let sender = Arc::clone(&shard);
        let mut others = vec![thread::spawn(move || {
            for order in 0..2 {
                sender.door.announce();
                sender.orders.lock().unwrap().push_back(order);
                sender.knock();
            }
        })];
        shard.attached.store(true, Ordering::Relaxed);
        let mut next = 0;
        while next < 2 {
            if shard.door.about_to_sleep(|| true) {
                shard.sleep(&mut others);
            }
            shard.door.awake();
            if shard.door.has_mail() {
                let order = shard.orders.lock().unwrap().pop_front();
                match order {
                    Some(order) => {
                        assert_eq!(order, next);
                        next += 1;
                        shard.door.taken();
                    }
                    // Announced, not left yet: it takes another turn.
                    None => thread::yield_now(),
                }
            }
        }
        assert!(!shard.door.has_mail());
        others.into_iter().for_each(|other| other.join().unwrap());
    });
}

/// A door that asks for nothing but that its flag is seen at some time.
#[derive(Default)]
struct WithoutFences(AtomicBool);

impl Sleep for WithoutFences {
    fn ring(&self, wake: impl FnOnce()) {
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel) {
            wake();
        }
    }

    fn about_to_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool {
        self.0.swap(true, Ordering::AcqRel);
        is_idle()
    }

    fn awake(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

#[test]
#[should_panic(expected = "a wake-up was lost")]
fn the_model_catches_missing_fences() {
    explore::<WithoutFences>([1, 0]);
}

/// A door whose owner looks first and says that it sleeps afterwards.
#[derive(Default)]
struct LooksFirst(AtomicBool);

impl Sleep for LooksFirst {
    fn ring(&self, wake: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::AcqRel) {
            wake();
        }
    }

    fn about_to_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool {
        let idle = is_idle();
        self.0.swap(idle, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        idle
    }

    fn awake(&self) {
        self.0.swap(false, Ordering::AcqRel);
    }
}

#[test]
#[should_panic(expected = "a wake-up was lost")]
fn the_model_catches_a_flag_set_after_the_look() {
    explore::<LooksFirst>([1, 0]);
}
