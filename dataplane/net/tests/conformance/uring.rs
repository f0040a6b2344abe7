//! The driver over io_uring: the whole suite three times, the second time with rings so small that completions overflow all the time, the
//! third spinning before it sleeps; and what only this driver can get wrong.

mod kernel;
mod pressure;
mod selftest;
mod transit;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use trunkline_net::driver::{Completion, Driver};
use trunkline_net::epoll;
use trunkline_net::uring::{self, Options, UringDriver};
use trunkline_wire::time::Instant;

use crate::harness::{Bounds, DEVICE_BUFFER_BYTES, Harness, LINK_BUFFER_BYTES, SPIN_MICROS};
use crate::os::{self, Mute, OsPeer};
use crate::{cases, conformance};

/// As it runs in production.
pub type Uring = Rings<1024, 16_384, 0>;

/// Every batch overflows.
type Tight = Rings<8, 8, 0>;

/// Looks for a while before it sleeps, as long as the waits of this suite or not quite.
type Spinning = Rings<1024, 16_384, SPIN_MICROS>;

/// Drivers with rings of this size, that spin for so long.
pub struct Rings<const SUBMISSIONS: u32, const COMPLETIONS: u32, const SPIN_MICROS: u64> {
    mute: Mute,
}

impl<const SUBMISSIONS: u32, const COMPLETIONS: u32, const SPIN_MICROS: u64> Harness
    for Rings<SUBMISSIONS, COMPLETIONS, SPIN_MICROS>
{
    const NAME: &'static str = "uring";
    const SEEDS: std::ops::Range<u64> = 1..3;
    const CONNECTIONS: usize = 100_000;
    type Driver = UringDriver;
    type Peer = OsPeer;

    fn unusable() -> Option<String> {
        uring::probe().err().map(|why| why.to_string())
    }

    fn new(_seed: u64) -> Self {
        Rings { mute: Mute::new() }
    }

    fn driver(&self, bounds: Bounds) -> UringDriver {
        let mut options = Options {
            submissions: SUBMISSIONS,
            completions: COMPLETIONS,
            ..options(bounds)
        };
        options.bounds.tuning.spin = Duration::from_micros(SPIN_MICROS);
        UringDriver::new(options).expect("the self-test said that io_uring works here")
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

    fn until(&self, driver: &UringDriver, idle: bool) -> Option<Instant> {
        let span = if idle { Duration::from_millis(1) } else { Duration::ZERO };
        Some(driver.now() + span)
    }

    fn pass(&self, _limit: Instant) -> bool {
        true
    }

    fn looks(&self, driver: &UringDriver) -> u64 {
        driver.enters()
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

fn options(bounds: Bounds) -> Options {
    let bounds = epoll::Options {
        sockets_max: bounds.sockets_max,
        sockets_reserved: bounds.sockets_reserved,
        device_buffers: bounds.device_buffers,
        device_buffer_bytes: DEVICE_BUFFER_BYTES,
        link_buffers: bounds.link_buffers,
        link_buffer_bytes: LINK_BUFFER_BYTES,
        // As for epoll.
        send_buffer_bytes: Some(16 * 1024),
        receive_buffer_bytes: Some(128 * 1024),
        ..epoll::Options::default()
    };
    bounds.into()
}

conformance!(Uring);

mod tight {
    use super::{Tight, conformance};

    conformance!(Tight);
}

mod spinning {
    use super::{Spinning, conformance};

    conformance!(Spinning);
}

#[test]
fn who_spins_finds_what_comes_without_sleeping_and_asks_the_kernel_for_nothing_meanwhile() {
    if let Some(why) = Uring::unusable() {
        return println!("skipped: {why}");
    }
    let mut bounds = epoll::Options::default();
    bounds.tuning.spin = Duration::from_secs(10);
    let mut driver = UringDriver::new(bounds.into()).unwrap();
    // Submits what every wait does.
    driver.wait(Some(Instant::ZERO), &mut Vec::new()).unwrap();
    let before = driver.calls();
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
    let calls = driver.calls();
    assert_eq!((calls.enters - before.enters, calls.sleeps), (0, 0));
}

/// As [`os::alone`], where there is an io_uring.
fn alone(test: &str, body: impl FnOnce()) {
    match Uring::unusable() {
        Some(why) => println!("skipped: {why}"),
        None => os::alone(test, body),
    }
}

#[test]
fn nothing_leaks_in_100_000_connections() {
    alone("uring::nothing_leaks_in_100_000_connections", || {
        let before = os::descriptors_open();
        crate::outcome::<Uring>(cases::closing::connections_come_and_go, 1).unwrap();
        assert_eq!(os::descriptors_open(), before);
    });
}
