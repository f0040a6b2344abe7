//! What makes one device different from another.

use std::net::SocketAddr;
use std::sync::Arc;

use trunkline_core::resequencer::Bounds;
use trunkline_wire::device::{PingIntervalMs, Purpose};
use trunkline_wire::id::{DeviceId, Instance};
use trunkline_wire::preface::Versions;

use crate::outgoing::OutgoingBounds;

/// Who the device is, and where its servers are.
#[derive(Clone, Debug)]
pub struct DeviceOptions {
    /// Tried in turn, from a random one on.
    pub servers: Arc<[SocketAddr]>,
    /// The device's id.
    pub device: DeviceId,
    /// A random number, drawn once per start of the program: with the device and a number it names a message, so that a repeated
    /// one makes others take new messages for old ones.
    pub instance: Instance,
    /// The device's token, or nothing.
    pub credentials: Vec<u8>,
    /// Whether it receives.
    pub purpose: Purpose,
    /// How often the server hears from it.
    pub ping_interval: PingIntervalMs,
    /// How much may wait to be sent.
    pub outgoing: OutgoingBounds,
    /// How much may wait for its elders.
    pub incoming: Bounds,
    /// The protocol versions that it speaks: all of this library's, but in tests in which two versions meet.
    pub versions: Versions,
}

impl DeviceOptions {
    /// A device that sends and receives, without a token.
    pub fn new(servers: Arc<[SocketAddr]>, device: DeviceId, instance: Instance) -> DeviceOptions {
        DeviceOptions {
            servers,
            device,
            instance,
            credentials: Vec::new(),
            purpose: Purpose::Full,
            ping_interval: PingIntervalMs::default(),
            outgoing: OutgoingBounds::default(),
            incoming: Bounds::default(),
            versions: Versions::BUILD,
        }
    }
}
