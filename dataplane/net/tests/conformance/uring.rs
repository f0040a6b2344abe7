//! The driver over io_uring.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use trunkline_net::driver::Driver;
use trunkline_net::epoll;
use trunkline_net::uring::{self, Options, UringDriver};
use trunkline_wire::time::Instant;

use crate::harness::{Bounds, DEVICE_BUFFER_BYTES, Harness, LINK_BUFFER_BYTES};
use crate::os::{self, Mute, OsPeer};
use crate::{cases, conformance};

pub struct Uring {
    mute: Mute,
}

impl Harness for Uring {
    const NAME: &'static str = "uring";
    const SEEDS: std::ops::Range<u64> = 1..3;
    const CONNECTIONS: usize = 100_000;
    type Driver = UringDriver;
    type Peer = OsPeer;

    fn unusable() -> Option<String> {
        uring::probe().err().map(|why| why.to_string())
    }

    fn new(_seed: u64) -> Uring {
        Uring { mute: Mute::new() }
    }

    fn driver(&self, bounds: Bounds) -> UringDriver {
        UringDriver::new(options(bounds)).expect("the self-test said that io_uring works here")
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

#[test]
fn nothing_leaks_in_100_000_connections() {
    if let Some(why) = Uring::unusable() {
        println!("skipped: {why}");
        return;
    }
    os::alone("uring::nothing_leaks_in_100_000_connections", || {
        let before = os::descriptors_open();
        crate::outcome::<Uring>(cases::closing::connections_come_and_go, 1).unwrap();
        assert_eq!(os::descriptors_open(), before);
    });
}
