//! Devices and their programs: fleets of the client library, and what their users do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use trunkline_client::{
    DeviceIndex, DeviceOptions, Event, Fleet, Guarantee, Instance, Loss, PingIntervalMs, Purpose, StopReason, TtlMs,
};
use trunkline_net::sim::{SimDriver, SimOptions};
use trunkline_wire::id::{DeviceId, DeviceKey};
#[cfg(feature = "next-version")]
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use crate::cluster::Cluster;
use crate::journal::{DeviceNo, MessageNo};
use crate::ledger::id_of;
use crate::node::NodeNo;
use crate::promise::{Checked, Promise};
use crate::versions::Who;

/// A host with a fleet of devices.
pub(crate) struct Phone {
    pub(crate) address: IpAddr,
    pub(crate) fleet: Fleet<SimDriver>,
    /// When it was last seen paused.
    pub(crate) stood_still: Instant,
    /// The devices by their index in the fleet.
    running: std::collections::BTreeMap<DeviceIndex, DeviceNo>,
}

/// A device, whether its program runs or not.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    id: DeviceId,
    pub(crate) key: DeviceKey,
    pub(crate) phone: usize,
    index: Option<DeviceIndex>,
    pub(crate) purpose: Purpose,
    #[cfg(feature = "next-version")]
    pub(crate) versions: Versions,
}

/// How a device's program is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// The servers that it may connect to; empty: all that take such devices.
    pub servers: Vec<NodeNo>,
    /// Whether it receives.
    pub purpose: Purpose,
    /// How often its server hears from it.
    pub ping_ms: u32,
}

impl Default for Start {
    /// A device that sends and receives, connects anywhere, and is heard every five seconds.
    fn default() -> Start {
        Start {
            servers: Vec::new(),
            purpose: Purpose::Full,
            ping_ms: 5_000,
        }
    }
}

impl Cluster {
    pub(crate) fn add_phones(&mut self) {
        let a_host = self.spec.devices_a_host.max(1);
        for phone in 0..self.spec.devices.div_ceil(a_host) {
            let address = IpAddr::V4(Ipv4Addr::new(10, 2, (phone / 250) as u8, (phone % 250 + 1) as u8));
            let options = SimOptions {
                sockets_max: 64,
                sockets_reserved: 0,
                device_buffers: 16,
                link_buffers: 1,
                ..SimOptions::default()
            };
            let driver = self.site.world.driver(address, options);
            let id = driver.id();
            let fleet = Fleet::new(driver, self.rng.u64(..));
            let running = std::collections::BTreeMap::new();
            self.phones.push(Phone {
                address,
                fleet,
                stood_still: Instant::ZERO,
                running,
            });
            self.adopt_phone(phone as usize, id);
        }
        for device in 0..self.spec.devices {
            let id = id_of(DeviceNo(device));
            let key = self.site.keys.device_key(id.borrow());
            self.device_nos.insert(key, DeviceNo(device));
            self.devices.push(Device {
                id,
                key,
                phone: (device / a_host) as usize,
                index: None,
                purpose: Purpose::Full,
                #[cfg(feature = "next-version")]
                versions: Versions::BUILD,
            });
        }
    }

    /// All devices.
    pub fn devices(&self) -> impl Iterator<Item = DeviceNo> + use<> {
        (0..self.devices.len() as u32).map(DeviceNo)
    }

    /// The address of a device's host.
    pub fn device_address(&self, device: DeviceNo) -> IpAddr {
        self.phones[self.devices[device.0 as usize].phone].address
    }

    /// The devices that share its host, itself included.
    pub(crate) fn neighbours(&self, device: DeviceNo) -> std::collections::BTreeSet<DeviceNo> {
        let phone = self.devices[device.0 as usize].phone;
        let all = self.devices();
        all.filter(|other| self.devices[other.0 as usize].phone == phone)
            .collect()
    }

    /// Whether its program runs.
    pub fn device_runs(&self, device: DeviceNo) -> bool {
        self.devices[device.0 as usize].index.is_some()
    }

    /// The session that the device's library holds for open: where it is.
    pub fn connected_at(&self, device: DeviceNo) -> Option<NodeNo> {
        let (_, _, node) = self.ledger.device(device).session?;
        (0..self.nodes.len()).map(NodeNo).find(|no| self.node_id(*no) == node)
    }

    /// Starts a device's program.
    ///
    /// # Panics
    /// If it runs.
    pub fn start_device(&mut self, device: DeviceNo, start: &Start) {
        let now = self.now();
        let wanted = |roles: trunkline_wire::control::Roles| match start.purpose {
            Purpose::Full => roles.connection,
            Purpose::SendOnly => roles.connection || roles.messaging,
        };
        let servers = if start.servers.is_empty() {
            self.nodes_where(wanted)
        } else {
            start.servers.clone()
        };
        let servers: Arc<[SocketAddr]> = servers
            .iter()
            .filter_map(|node| self.nodes[node.0].device_address())
            .collect();
        // 0 is nobody's instance; a library draws 64 bits.
        let instance = Instance(self.rng.u64(1..));
        let mut options = DeviceOptions::new(servers, id_of(device), instance);
        options.purpose = start.purpose;
        options.ping_interval = PingIntervalMs::new(start.ping_ms).expect("a scenario's ping interval is allowed");
        options.versions = self.mix.draw(Who::Device(device));
        let known = &mut self.devices[device.0 as usize];
        #[cfg(feature = "next-version")]
        {
            known.versions = options.versions;
        }
        assert!(known.index.is_none(), "{device} runs");
        known.purpose = start.purpose;
        let phone = &mut self.phones[known.phone];
        let index = phone.fleet.add(options).expect("a scenario's options work");
        known.index = Some(index);
        phone.running.insert(index, device);
        self.ledger.started(now, device, instance);
        self.reschedule_phone(self.devices[device.0 as usize].phone);
    }

    /// Ends a device's program: its connection is closed, what it was told to send is forgotten.
    pub fn end_device(&mut self, device: DeviceNo) {
        let known = &mut self.devices[device.0 as usize];
        let Some(index) = known.index.take() else { return };
        let phone = known.phone;
        self.phones[phone].running.remove(&index);
        self.phones[phone].fleet.remove(index);
        self.ledger.ended(self.site.world.now(), device);
        self.reschedule_phone(phone);
    }

    /// A device's user sends a message. `None` if the library takes none now, or the host is paused.
    pub fn send(
        &mut self,
        sender: DeviceNo,
        recipient: DeviceNo,
        bytes: usize,
        ttl: TtlMs,
        guarantee: Guarantee,
    ) -> Option<MessageNo> {
        let Device { phone, index, .. } = self.devices[sender.0 as usize];
        let (now, index) = (self.now(), index?);
        if self.site.world.is_paused(self.phones[phone].address) {
            return None;
        }
        let (message, payload) = self.ledger.draft(bytes);
        let nobody;
        let id = match self.devices.get(recipient.0 as usize) {
            Some(device) => &device.id,
            None => {
                nobody = id_of(recipient);
                &nobody
            }
        };
        let fleet = &mut self.phones[phone].fleet;
        let taken = fleet.send(index, id.borrow(), payload, ttl, guarantee).ok()?;
        self.ledger
            .sent(now, message, sender, recipient, taken.number, bytes, ttl, guarantee);
        self.reschedule_phone(phone);
        Some(message)
    }

    pub(crate) fn phone_turn(&mut self, phone: usize) -> Checked {
        let now = self.now();
        let (mut suspects, mut welcomed_now) = (Vec::new(), Vec::new());
        #[cfg(feature = "next-version")]
        let mut welcomes = Vec::new();
        let Phone { fleet, running, .. } = &mut self.phones[phone];
        fleet.turn(Some(now)).expect("a simulated driver doesn't fail");
        while let Some((index, event)) = fleet.next_event() {
            let Some(&device) = running.get(&index) else { continue };
            let ledger = &mut self.ledger;
            match event {
                Event::Welcomed(welcomed) => {
                    ledger.welcomed(now, device, &welcomed);
                    welcomed_now.push(device);
                    #[cfg(feature = "next-version")]
                    welcomes.push((device, welcomed));
                }
                Event::Message(message) => ledger.shown(now, device, &message)?,
                Event::Report(report) => suspects.extend(ledger.reported(now, device, &report)?),
                Event::Disconnected { reason, retry_in, .. } => {
                    // Who was told of a newer session, or where to go, knows that it is waited for.
                    let at_once = retry_in.is_zero() && !matches!(reason, Loss::Superseded(_) | Loss::Left);
                    let reason = reason.to_string();
                    if at_once {
                        let what = format!("{device} connects again at once after: {reason}");
                        return Err(ledger.violation(now, Promise::NoMetastability, what, None, &[device]));
                    }
                    ledger.disconnected(now, device, reason);
                }
                Event::Stopped { reason } => {
                    ledger.disconnected(now, device, format!("it stops: {reason}"));
                    let promise = match reason {
                        StopReason::Superseded(_) => Promise::OneWinner,
                        StopReason::Unauthorized(_) | StopReason::UnsupportedVersion(_) => Promise::Convergence,
                    };
                    let what = format!("{device} stops, although nobody else uses its id: {reason}");
                    return Err(ledger.violation(now, promise, what, None, &[device]));
                }
            }
        }
        self.reschedule_phone(phone);
        #[cfg(feature = "next-version")]
        for (device, welcomed) in &welcomes {
            self.check_welcome(*device, welcomed)?;
        }
        for device in welcomed_now {
            self.greet(device);
        }
        suspects
            .into_iter()
            .try_for_each(|(message, unreachable)| self.offline_is_true(message, unreachable))
    }

    /// Who has just been welcomed is written to at once, by somebody who knows of it: that is when news of it may be missing.
    fn greet(&mut self, device: DeviceNo) {
        let sender = DeviceNo(self.rng.u32(..self.devices.len() as u32));
        if self.greetings && sender != device && self.rng.bool() {
            let ttl = TtlMs::new(GREETING_TTL_MS).expect("in range");
            self.send(sender, device, 20, ttl, Guarantee::Confirmed);
        }
    }

    fn reschedule_phone(&mut self, phone: usize) {
        let fleet = &self.phones[phone].fleet;
        let (id, deadline) = (fleet.driver().id(), fleet.deadline());
        self.set_deadline(id, deadline);
    }
}

/// How long a greeting is worth delivering.
const GREETING_TTL_MS: u32 = 8_000;
