//! Who is let in now, and who is told to come back later: so that a storm of devices costs those who are connected little.
//!
//! - [`Gate`]: so many devices a second, fewer right after a start. Those beyond that are given times to come back, one behind the
//!   other, so that they return at the rate at which they can be let in.
//! - [`Addresses`]: so many connections, and so many new ones a second, from one address.
//!
//! Pure: time and seeds are arguments.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use fastrand::Rng;
use trunkline_wire::time::Instant;

/// How many devices are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A second; 0: as many as come.
    pub devices_a_second: u32,
    /// It takes so long after a start to get there, from a tenth of it.
    pub ramp: Duration,
}

/// Paces devices.
#[derive(Debug)]
pub struct Gate {
    rate: Rate,
    started: Instant,
    /// When the next device is expected, if they come evenly.
    next: Instant,
    /// Until when times to come back are given away.
    booked: Instant,
    rng: Rng,
}

impl Gate {
    /// Opens now; `seed` is for jitter.
    pub fn new(now: Instant, rate: Rate, seed: u64) -> Gate {
        Gate {
            rate,
            started: now,
            next: now,
            booked: now,
            rng: Rng::with_seed(seed),
        }
    }

    /// Lets a device in, or says after how many milliseconds it may come back: at least, and up to a quarter more by chance.
    ///
    /// # Errors
    /// The time to wait.
    pub fn enter(&mut self, now: Instant) -> Result<(), u32> {
        let Some(interval) = self.interval(now) else {
            return Ok(());
        };
        if self.next <= now + BURST {
            self.next = self.next.max(now) + interval;
            return Ok(());
        }
        self.booked = self.booked.max(now + RETRY_AFTER_MIN) + interval;
        let wait = (self.booked - now).min(RETRY_AFTER_MAX).as_millis() as u64;
        Err((wait + self.rng.u64(0..=wait / 4)) as u32)
    }

    /// Between two devices; `None`: there is no limit.
    fn interval(&self, now: Instant) -> Option<Duration> {
        let full = u64::from(self.rate.devices_a_second);
        if full == 0 {
            return None;
        }
        let (age, ramp) = (
            (now - self.started).as_micros() as u64,
            self.rate.ramp.as_micros() as u64,
        );
        // In hundredths: a tenth at first, all of it when the ramp is over.
        let share = match age {
            age if age >= ramp => 100,
            age => 10 + 90 * age / ramp,
        };
        Some(Duration::from_micros(100_000_000 / (full * share).max(1)))
    }
}

/// What one address may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections at once; 0: as many as it likes.
    pub connections_max: u32,
    /// New ones a second; 0: as many as it likes.
    pub connects_a_second: u32,
}

/// An address, as far as it tells one source from another: of IPv6 a host has the lower half to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(u128);

impl Source {
    /// `None` if the address isn't known.
    pub fn new(address: IpAddr) -> Option<Source> {
        match address.to_canonical() {
            address if address.is_unspecified() => None,
            IpAddr::V4(address) => Some(Source(address.to_bits().into())),
            IpAddr::V6(address) => Some(Source(address.to_bits() >> 64 << 64)),
        }
    }
}

/// What each address has. As large as there are addresses with a connection, or one lately.
#[derive(Debug)]
pub struct Addresses {
    limits: AddressLimits,
    known: HashMap<Source, Usage, ahash::RandomState>,
    /// The next time to look for what can be forgotten.
    sweep_at: usize,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    open: u32,
    /// When its next connection is expected, if they come evenly.
    next: Instant,
}

/// What an address has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// Connections at once.
    Open,
    /// New ones a second.
    New,
}

impl Addresses {
    /// Nobody is there. `seed` keys a hash.
    pub fn new(limits: AddressLimits, seed: u64) -> Addresses {
        Addresses {
            limits,
            known: HashMap::with_hasher(ahash::RandomState::with_seeds(seed, 5, 6, 7)),
            sweep_at: SWEEP_MIN,
        }
    }

    /// A connection from `source`. If it is let in, [`Addresses::close`] follows when it is gone.
    ///
    /// # Errors
    /// What it has too much of.
    pub fn open(&mut self, now: Instant, source: Source) -> Result<(), TooMany> {
        if self.known.len() >= self.sweep_at {
            self.known.retain(|_, usage| usage.open > 0 || usage.next > now);
            self.sweep_at = (2 * self.known.len()).max(SWEEP_MIN);
        }
        let AddressLimits {
            connections_max,
            connects_a_second,
        } = self.limits;
        let usage = self.known.entry(source).or_insert(Usage { open: 0, next: now });
        if connections_max > 0 && usage.open >= connections_max {
            return Err(TooMany::Open);
        }
        if connects_a_second > 0 {
            if usage.next > now + ADDRESS_BURST {
                return Err(TooMany::New);
            }
            let interval = Duration::from_micros(1_000_000 / u64::from(connects_a_second));
            usage.next = usage.next.max(now) + interval;
        }
        usage.open += 1;
        Ok(())
    }

    /// A connection that was let in is gone.
    ///
    /// # Panics
    /// If there was none.
    pub fn close(&mut self, now: Instant, source: Source) {
        let usage = self.known.get_mut(&source).expect("it was let in");
        usage.open -= 1;
        if usage.open == 0 && usage.next <= now {
            self.known.remove(&source);
        }
    }

    /// Addresses that are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// Who comes a little early is let in: devices don't come evenly.
const BURST: Duration = Duration::from_millis(100);
/// The same for one address: a second's worth at once.
const ADDRESS_BURST: Duration = Duration::from_secs(1);
/// Sooner it isn't worth the while to come back.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);
/// However many wait: they may find room elsewhere.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Fewer addresses than this are not worth a look.
const SWEEP_MIN: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::ZERO;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn gate(devices_a_second: u32, ramp: Duration) -> Gate {
        Gate::new(T0, Rate { devices_a_second, ramp }, 1)
    }

    /// How many of 10,000 a second are let in between two times.
    fn let_in(gate: &mut Gate, from: Duration, to: Duration) -> u32 {
        let mut count = 0;
        let mut at = T0 + from;
        while at < T0 + to {
            count += u32::from(gate.enter(at).is_ok());
            at = at + Duration::from_micros(100);
        }
        count
    }

    #[test]
    fn devices_are_let_in_at_the_rate() {
        let mut gate = gate(500, Duration::ZERO);
        let first = let_in(&mut gate, ms(0), ms(1_000));
        assert!((545..=555).contains(&first), "a burst, then evenly: {first}");
        let second = let_in(&mut gate, ms(1_000), ms(2_000));
        assert!((495..=505).contains(&second), "{second}");
    }

    #[test]
    fn after_a_start_the_rate_grows_from_a_tenth() {
        let mut gate = gate(1_000, ms(10_000));
        let first = let_in(&mut gate, ms(0), ms(1_000));
        assert!((100..=170).contains(&first), "{first}");
        let later = let_in(&mut gate, ms(10_000), ms(11_000));
        assert!((1_095..=1_105).contains(&later), "a burst, then evenly: {later}");
    }

    #[test]
    fn those_who_are_refused_come_back_at_the_rate() {
        let mut gate = gate(100, Duration::ZERO);
        let mut waits: Vec<u32> = Vec::new();
        for _ in 0..1_000 {
            if let Err(wait) = gate.enter(T0) {
                waits.push(wait);
            }
        }
        assert!(waits.len() > 980);
        // All of them within what the rate takes, and a quarter more.
        let by = |ms: u32| waits.iter().filter(|wait| **wait <= ms).count();
        for seconds in 2..9 {
            let (fewest, most) = (100 * (seconds * 4 / 5 - 1), 100 * (seconds - 1) + 5);
            let come = by(seconds as u32 * 1_000);
            assert!((fewest..=most).contains(&come), "{come} within {seconds} s");
        }
        for _ in 0..100_000 {
            assert!(gate.enter(T0).unwrap_err() <= 60_000 * 5 / 4);
        }
    }

    #[test]
    fn without_a_rate_all_are_let_in() {
        let mut gate = gate(0, ms(10_000));
        assert_eq!(let_in(&mut gate, ms(0), ms(100)), 1_000);
    }

    fn source(text: &str) -> Source {
        Source::new(text.parse().unwrap()).unwrap()
    }

    #[test]
    fn an_address_has_so_many_connections_and_another_its_own() {
        let limits = AddressLimits {
            connections_max: 2,
            connects_a_second: 0,
        };
        let mut addresses = Addresses::new(limits, 1);
        let (one, two) = (source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(addresses.open(T0, one), Ok(()));
        assert_eq!(addresses.open(T0, one), Ok(()));
        assert_eq!(addresses.open(T0, one), Err(TooMany::Open));
        assert_eq!(addresses.open(T0, two), Ok(()));
        addresses.close(T0, one);
        assert_eq!(addresses.open(T0, one), Ok(()));
        for left in [one, one, two] {
            addresses.close(T0, left);
        }
        assert!(addresses.is_empty(), "nothing is kept of who has gone");
    }

    #[test]
    fn an_address_connects_so_often_a_second() {
        let limits = AddressLimits {
            connections_max: 0,
            connects_a_second: 10,
        };
        let mut addresses = Addresses::new(limits, 1);
        let one = source("192.0.2.1");
        let mut count = 0;
        for tenth in 0..100u64 {
            let now = T0 + ms(100 * tenth);
            for _ in 0..5 {
                if addresses.open(now, one).is_ok() {
                    count += 1;
                    addresses.close(now, one);
                }
            }
        }
        assert!((100..=115).contains(&count), "{count} in ten seconds");
    }

    #[test]
    fn addresses_that_have_gone_are_forgotten() {
        let limits = AddressLimits {
            connections_max: 5,
            connects_a_second: 1,
        };
        let mut addresses = Addresses::new(limits, 1);
        for host in 0..10_000u128 {
            let now = T0 + ms(host as u64);
            let source = Source(host + 1);
            addresses.open(now, source).unwrap();
            addresses.close(now, source);
        }
        assert!(addresses.len() < 4 * SWEEP_MIN, "{}", addresses.len());
    }

    #[test]
    fn a_host_s_ipv6_addresses_are_one_source_and_an_unknown_address_is_none() {
        assert_eq!(source("2001:db8:1:2::3"), source("2001:db8:1:2:ffff::4"));
        assert_ne!(source("2001:db8:1:2::3"), source("2001:db8:1:3::3"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(Source::new("0.0.0.0".parse().unwrap()), None);
    }
}
