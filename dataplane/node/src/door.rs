//! Who may connect: what all shards share of it, and each connection's place in that.
//!
//! Taken when a connection comes and when it goes, never for a message: hence a lock will do.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use trunkline_core::admission::{AddressLimits, Addresses, Rate, Source, TooMany};
use trunkline_wire::time::Instant;

use crate::run::lock;

/// How devices are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Of one shard.
    pub rate: Rate,
    /// Of the whole node.
    pub addresses: AddressLimits,
    /// Whether they hold for connections from this host as well.
    pub loopback: bool,
}

/// What all shards of a node share.
#[derive(Debug)]
pub struct Door {
    limits: AdmissionLimits,
    addresses: Mutex<Addresses>,
}

/// A connection that counts. Its end is counted when this is dropped, wherever the connection has gone meanwhile.
#[derive(Debug)]
pub(crate) struct Place {
    door: Arc<Door>,
    source: Option<Source>,
}

impl Door {
    /// Nobody is there. `seed` keys a hash.
    pub fn new(limits: AdmissionLimits, seed: u64) -> Arc<Door> {
        Arc::new(Door {
            limits,
            addresses: Mutex::new(Addresses::new(limits.addresses, seed)),
        })
    }

    /// At how many devices a second a shard lets in.
    pub(crate) fn rate(&self) -> Rate {
        self.limits.rate
    }

    /// A connection from `address`; `None`: it's exempt.
    ///
    /// # Errors
    /// What that address has too much of.
    pub(crate) fn enter(self: &Arc<Door>, now: Instant, address: IpAddr) -> Result<Option<Place>, TooMany> {
        if address.to_canonical().is_loopback() && !self.limits.loopback {
            return Ok(None);
        }
        let source = Source::new(address);
        if let Some(source) = source {
            lock(&self.addresses).open(now, source)?;
        }
        let door = Arc::clone(self);
        Ok(Some(Place { door, source }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(source) = self.source {
            // When it is forgotten doesn't matter to the limits: the next sweep does it.
            lock(&self.door.addresses).close(Instant::ZERO, source);
        }
    }
}
