//! The driver over mio: the whole suite twice, the second time spinning before it sleeps.

use std::cell::RefCell;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use trunkline_net::driver::{Completion, Driver};
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::time::Instant;

use crate::harness::{Bounds, DEVICE_BUFFER_BYTES, Harness, LINK_BUFFER_BYTES, SPIN_MICROS};
use crate::os::{self, Mute, OsPeer};
use crate::{cases, check, conformance};

/// As it runs by default.
pub type Epoll = Polling<0>;

/// Drivers that spin for so long.
pub struct Polling<const SPIN_MICROS: u64> {
    mute: Mute,
}

impl<const SPIN_MICROS: u64> Harness for Polling<SPIN_MICROS> {
    const NAME: &'static str = "epoll";
    const SEEDS: std::ops::Range<u64> = 1..3;
    const CONNECTIONS: usize = 100_000;
    type Driver = EpollDriver;
    type Peer = OsPeer;

    fn new(_seed: u64) -> Self {
        Polling { mute: Mute::new() }
    }

    fn driver(&self, bounds: Bounds) -> EpollDriver {
        let mut options = Options {
            sockets_max: bounds.sockets_max,
            sockets_reserved: bounds.sockets_reserved,
            device_buffers: bounds.device_buffers,
            device_buffer_bytes: DEVICE_BUFFER_BYTES,
            link_buffers: bounds.link_buffers,
            link_buffer_bytes: LINK_BUFFER_BYTES,
            // Small, so that sends come up short. The other not below loopback's segments of 64 KiB, or TCP waits for a
            // window worth sending into.
            send_buffer_bytes: Some(16 * 1024),
            receive_buffer_bytes: Some(128 * 1024),
            ..Options::default()
        };
        options.tuning.spin = Duration::from_micros(SPIN_MICROS);
        EpollDriver::new(options).expect("descriptors for a driver")
    }

    fn addresses(&self) -> Vec<IpAddr> {
        os::loopbacks()
    }

    fn mute_address(&self) -> SocketAddr {
        self.mute.address()
    }

    fn dial(&self, to: SocketAddr) -> OsPeer {
        OsPeer::dial(to)
    }

    fn until(&self, driver: &EpollDriver, idle: bool) -> Option<Instant> {
        let span = if idle { Duration::from_millis(1) } else { Duration::ZERO };
        Some(driver.now() + span)
    }

    fn pass(&self, _limit: Instant) -> bool {
        true
    }

    fn looks(&self, driver: &EpollDriver) -> u64 {
        match SPIN_MICROS {
            0 => driver.polls(),
            // It looks as often as it can, as it was told to; what counts is that it doesn't go on in place of sleeping.
            _ => driver.calls().sleeps,
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

conformance!(Epoll);

mod spinning {
    use super::{Polling, conformance};
    use crate::harness::SPIN_MICROS;

    type Spinning = Polling<SPIN_MICROS>;

    conformance!(Spinning);
}

#[test]
fn who_spins_finds_what_comes_without_sleeping() {
    let mut options = Options::default();
    options.tuning.spin = Duration::from_secs(10);
    let mut driver = EpollDriver::new(options).unwrap();
    let (waker, (ask, asked)) = (driver.waker(), std::sync::mpsc::channel());
    let thread = std::thread::spawn(move || asked.iter().for_each(|()| waker.wake()));
    let mut completions = Vec::new();
    for _ in 0..100 {
        ask.send(()).unwrap();
        driver.wait(None, &mut completions).unwrap();
        assert!(matches!(completions[..], [Completion::Woken]), "{completions:?}");
        completions.clear();
    }
    drop(ask);
    thread.join().unwrap();
    assert_eq!(driver.calls().sleeps, 0);
}

#[test]
fn who_spins_in_vain_sleeps_until_its_deadline() {
    let mut options = Options::default();
    options.tuning.spin = Duration::from_micros(SPIN_MICROS);
    let mut driver = EpollDriver::new(options).unwrap();
    let mut completions = Vec::new();
    let until = driver.now() + Duration::from_millis(20);
    driver.wait(Some(until), &mut completions).unwrap();
    assert!(
        driver.now() >= until && driver.calls().sleeps > 0,
        "{:?}",
        driver.calls()
    );
}

#[test]
fn without_descriptors_accepting_pauses_and_resumes_by_itself() {
    os::alone(
        "epoll::without_descriptors_accepting_pauses_and_resumes_by_itself",
        || {
            check::<Epoll>(|rig| {
                // Whatever is open now, and the peers and connections of the case.
                let hoard = RefCell::new(Vec::new());
                let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
                setrlimit(Resource::RLIMIT_NOFILE, 256, hard).expect("lowering is allowed");
                let exhaust = |_: &Epoll| {
                    while let Ok(file) = File::open("/dev/null") {
                        hoard.borrow_mut().push(file);
                    }
                };
                let replenish = |_: &Epoll| hoard.borrow_mut().clear();
                cases::accepting::without_descriptors_accepting_pauses(rig, exhaust, replenish)
            });
        },
    );
}

#[test]
fn nothing_leaks_in_100_000_connections() {
    os::alone("epoll::nothing_leaks_in_100_000_connections", || {
        let before = os::descriptors_open();
        crate::outcome::<Epoll>(cases::closing::connections_come_and_go, 1).unwrap();
        assert_eq!(os::descriptors_open(), before);
    });
}
