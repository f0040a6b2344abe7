//! What can go wrong in a world, by the hand of a scenario.

use std::net::IpAddr;

use trunkline_wire::time::Instant;

use super::network::{Event, HostNo, Network, Power};
use super::{Death, Descriptors, DriverId, Latency};

/// Which way between two hosts, a and b.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a to b.
    Forward,
    /// From b to a.
    Backward,
    /// Either.
    Both,
}

impl Network {
    pub(super) fn set_latency(&mut self, from: IpAddr, to: IpAddr, latency: Latency) {
        let pair = (self.number(from), self.number(to));
        // The usual one isn't kept: it is looked for with every piece.
        if latency == self.latency_usual(pair.0, pair.1) {
            self.latencies.remove(&pair);
        } else {
            self.latencies.insert(pair, latency);
        }
    }

    pub(super) fn cut(&mut self, a: IpAddr, b: IpAddr, direction: Direction) {
        let (forward, backward) = match direction {
            Direction::Forward => (true, false),
            Direction::Backward => (false, true),
            Direction::Both => (true, true),
        };
        let (a, b) = (self.number(a), self.number(b));
        if forward {
            self.cuts.insert((a, b));
        }
        if backward {
            self.cuts.insert((b, a));
        }
    }

    pub(super) fn heal(&mut self, a: IpAddr, b: IpAddr) {
        let (a, b) = (self.number(a), self.number(b));
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
    }

    pub(super) fn reset_connections(&mut self, host: IpAddr) {
        let host = self.number(host);
        for id in self.ends.tokens() {
            let Some(end) = self.ends.get_mut(id) else { continue };
            if end.here == host || end.there == host {
                // From itself, so that no cut is in the way.
                let from = end.here;
                self.schedule(self.now, Event::Reset { from, to: id });
            }
        }
    }

    pub(super) fn kill(&mut self, host: IpAddr, death: Death) {
        let kernel = self.host_at(host);
        kernel.power = match death {
            Death::Visible => Power::On,
            Death::Silent => Power::Off,
        };
        kernel.paused_until = Instant::ZERO;
        let host = self.number(host);
        for driver in 0..self.drivers.len() {
            if self.drivers[driver].host == host {
                self.end_process(DriverId(driver as u32), death);
            }
        }
        // Those on their way between two drivers, or not accepted yet.
        for id in self.ends.tokens() {
            if self.ends.get_mut(id).is_some_and(|end| end.here == host) {
                self.vanish(id, death);
            }
        }
    }

    /// A driver's thread is gone, and with it all that it owned.
    pub(super) fn end_process(&mut self, driver: DriverId, death: Death) {
        let state = self.state(driver);
        if !std::mem::replace(&mut state.alive, false) {
            return;
        }
        state.queue.clear();
        for token in state.sockets.tokens() {
            if let Some(end) = self.state(driver).sockets.remove(token) {
                self.vanish(end, death);
            }
        }
        self.unlisten_where(|listener| listener.driver == driver, death);
    }

    pub(super) fn pause(&mut self, host: IpAddr, until: Instant) {
        self.host_at(host).paused_until = until;
        let host = self.number(host);
        // In case an earlier pause, which would have lasted longer, is over now.
        for driver in 0..self.drivers.len() {
            if self.drivers[driver].host == host {
                self.announce(DriverId(driver as u32));
            }
        }
    }

    pub(super) fn is_paused(&mut self, host: IpAddr) -> bool {
        let now = self.now;
        self.host_at(host).paused_until > now
    }

    pub(super) fn is_driver_paused(&mut self, driver: DriverId) -> bool {
        let (now, host) = (self.now, self.state(driver).host);
        self.host(host).paused_until > now
    }

    pub(super) fn wall_ms(&mut self, host: HostNo) -> u64 {
        let now = self.now;
        u64::try_from(self.host(host).wall_at(now) / 1000).unwrap_or(0)
    }

    pub(super) fn jump_wall(&mut self, host: IpAddr, ms: i64) {
        self.host_at(host).wall_micros += ms * 1000;
    }

    pub(super) fn drift_wall(&mut self, host: IpAddr, ppm: i64) {
        let now = self.now;
        let host = self.host_at(host);
        host.wall_micros = host.wall_at(now);
        host.wall_since = now;
        host.drift_ppm = ppm;
    }

    pub(super) fn set_descriptors(&mut self, host: IpAddr, descriptors: Descriptors) {
        self.host_at(host).descriptors = descriptors;
    }
}

impl super::network::Host {
    fn wall_at(&self, now: Instant) -> i64 {
        let elapsed = now.micros().saturating_sub(self.wall_since.micros()) as i64;
        self.wall_micros + elapsed + elapsed * self.drift_ppm / 1_000_000
    }
}
