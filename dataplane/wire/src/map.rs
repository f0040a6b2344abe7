//! The map: which region each device belongs to, which nodes are its instances, and where every node is reached.
//!
//! A [`Map`] is immutable, and whole by construction: [`Map::build`], [`Map::decode`] and [`Map::apply`] check sizes, form and every
//! reference before there is one. What is to be edited is its [`Contents`]; the next version is built from them. Two maps with one
//! [`MapId`] are the same map, since the id holds a digest of everything.
//!
//! The encoding has one form for each map (`PROTOCOL.md`, "The map"). What a node does with an offered map is decided in
//! [`accept`]; how its bytes are collected is [`Assembler`].

mod assembler;
mod check;
mod delta;
mod encoding;
mod error;
mod overrides;
mod replica;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

pub use self::assembler::{Assembler, Transfer, parts};
pub use self::check::{INSTANCES_MAX, NAME_BYTES_MAX, NODES_MAX, OVERRIDES_MAX, REGIONS_MAX};
pub use self::encoding::MAP_BYTES_MAX;
pub use self::error::MapError;
use self::overrides::Overrides;
pub use self::replica::{Plan, Refusal, accept};
pub use crate::control::{MapId, Roles};
use crate::id::{DeviceKey, Incarnation, NodeId, PartnerKey, RegionId};

/// How many slots the keys of devices are spread over.
pub const SLOTS: usize = 65_536;

/// A version of the map. Immutable; share it by reference.
#[derive(Clone, Debug)]
pub struct Map {
    id: MapId,
    slots: Box<[RegionId; SLOTS]>,
    slots_also: BTreeMap<u16, RegionId>,
    overrides: Overrides,
    overrides_also: BTreeMap<DeviceKey, RegionId>,
    regions: BTreeMap<RegionId, Region>,
    standbys: BTreeMap<RegionId, Vec<NodeId>>,
    nodes: BTreeMap<NodeId, Node>,
}

/// A region: who its instances are. It may have none for a while; its devices can't be found until it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// For people; unique, 1 to 64 bytes, no control characters.
    pub name: String,
    /// Ascending, none twice; each is a node with the region role.
    pub instances: Vec<NodeId>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// For people; unique, 1 to 64 bytes, no control characters.
    pub name: String,
    /// The start that it last joined with. A peer that shows a higher one has started since, and is let in.
    pub incarnation: Incarnation,
    /// What it does.
    pub roles: Roles,
    /// Where devices reach it; there if it has the connection or the messaging role.
    pub device_address: Option<SocketAddr>,
    /// Where nodes reach it; there if it has the connection or the region role.
    pub peer_address: Option<SocketAddr>,
    /// Where its metrics are.
    pub http_address: Option<SocketAddr>,
}

/// What a version of the map says, open for editing. [`Map::build`] makes the next version of it.
///
/// A device's sessions are found by way of one region, and may be registered at a second one, while the device moves. A move from R
/// to S takes three versions: route by R, also S; route by S, also R; route by S.
///
/// A *standby* of a region is told of every session, as its instances are, and is not asked where one is: an instance that comes, until
/// all have told it what they have, or one that goes, until nobody asks it any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The region of each slot.
    pub slots: Box<[RegionId; SLOTS]>,
    /// For slots that move: the second region, where their devices are registered as well.
    pub slots_also: BTreeMap<u16, RegionId>,
    /// Devices that belong to another region than their slot's.
    pub overrides: BTreeMap<DeviceKey, RegionId>,
    /// For devices that have an override and move: the second region. For them the slot's second region doesn't count.
    pub overrides_also: BTreeMap<DeviceKey, RegionId>,
    /// The regions.
    pub regions: BTreeMap<RegionId, Region>,
    /// The standbys of regions that have some: ascending, none twice, none an instance; each is a node with the region role.
    pub standbys: BTreeMap<RegionId, Vec<NodeId>>,
    /// The members.
    pub nodes: BTreeMap<NodeId, Node>,
}

impl Default for Contents {
    /// No regions, no nodes, every slot in region 0: to be filled, since no map is built from this.
    fn default() -> Contents {
        Contents {
            slots: Box::new([RegionId(0); SLOTS]),
            slots_also: BTreeMap::new(),
            overrides: BTreeMap::new(),
            overrides_also: BTreeMap::new(),
            regions: BTreeMap::new(),
            standbys: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }
}

impl PartialEq for Map {
    fn eq(&self, other: &Map) -> bool {
        let Map {
            id,
            slots: _,
            slots_also: _,
            overrides: _,
            overrides_also: _,
            regions,
            standbys,
            nodes,
        } = self;
        *id == other.id
            && *regions == other.regions
            && *standbys == other.standbys
            && *nodes == other.nodes
            && self.assigns_as(other)
    }
}

impl Map {
    /// What a node has before it was given a map: version 0, no regions, no nodes. Nothing but this function makes one.
    pub fn empty() -> Map {
        Map::assemble(MapId::default(), Contents::default())
    }

    /// Checks everything, and computes the digest.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn build(lineage: u64, version: u64, contents: Contents) -> Result<Map, MapError> {
        let digest = [0; 16];
        check::contents(version, &contents)?;
        let mut map = Map::assemble(
            MapId {
                lineage,
                version,
                digest,
            },
            contents,
        );
        map.id.digest = encoding::digest(&map.encode());
        Ok(map)
    }

    /// The caller has checked the contents, or wants an empty map.
    fn assemble(id: MapId, contents: Contents) -> Map {
        Map {
            id,
            slots: contents.slots,
            slots_also: contents.slots_also,
            overrides: Overrides::new(contents.overrides.into_iter()),
            overrides_also: contents.overrides_also,
            regions: contents.regions,
            standbys: contents.standbys,
            nodes: contents.nodes,
        }
    }

    /// Which map this is.
    pub fn id(&self) -> MapId {
        self.id
    }

    /// The region by which a device is found: its override's, else its slot's. Region 0 in the empty map.
    #[inline]
    pub fn region_of(&self, key: DeviceKey) -> RegionId {
        let slot = self.slots[usize::from(key.slot())];
        self.overrides.find(key).unwrap_or(slot)
    }

    /// As [`Map::region_of`], of a device that is known by a part of its key.
    pub fn region_of_partner(&self, key: PartnerKey) -> RegionId {
        let region = self.overrides.find_partner(key);
        region.unwrap_or(self.slots[usize::from(key.slot())])
    }

    /// The second region at which a device's sessions are registered, while it moves.
    #[inline]
    pub fn region_also(&self, key: DeviceKey) -> Option<RegionId> {
        if self.slots_also.is_empty() && self.overrides_also.is_empty() {
            return None;
        }
        if self.overrides.find(key).is_some() {
            self.overrides_also.get(&key).copied()
        } else {
            self.slots_also.get(&key.slot()).copied()
        }
    }

    /// Both regions of a device: the one by which it is found, and the second one while it moves.
    #[inline]
    pub fn regions_of(&self, key: DeviceKey) -> impl Iterator<Item = RegionId> + use<> {
        std::iter::once(self.region_of(key)).chain(self.region_also(key))
    }

    /// Whether a device's sessions are registered at `region`.
    #[inline]
    pub fn belongs(&self, key: DeviceKey, region: RegionId) -> bool {
        self.region_of(key) == region || self.region_also(key) == Some(region)
    }

    /// Whether any device has a second region.
    pub fn is_moving(&self) -> bool {
        !self.slots_also.is_empty() || !self.overrides_also.is_empty()
    }

    /// Between which regions devices move, the lower id first. Looks at each moving slot and device.
    pub fn moving_pairs(&self) -> BTreeSet<(RegionId, RegionId)> {
        let slots = self.slots_also.iter().map(|(slot, also)| (self.slot(*slot), *also));
        let devices = self.overrides_also.iter();
        let devices = devices.map(|(key, also)| (self.region_of(*key), *also));
        slots.chain(devices).map(|(a, b)| (a.min(b), a.max(b))).collect()
    }

    /// Whether `other` says the same of every device's regions.
    pub fn assigns_as(&self, other: &Map) -> bool {
        slots::first_difference(&self.slots, &other.slots, 0).is_none()
            && self.slots_also == other.slots_also
            && self.overrides_also == other.overrides_also
            && self.overrides == other.overrides
    }

    /// The second region of a slot, while it moves.
    pub fn slot_also(&self, slot: u16) -> Option<RegionId> {
        self.slots_also.get(&slot).copied()
    }

    /// The instances of a region, ascending. None if there is no such region.
    pub fn instances(&self, region: RegionId) -> &[NodeId] {
        self.regions.get(&region).map_or(&[], |region| &region.instances)
    }

    /// The standbys of a region, ascending: told of every session, and not asked.
    pub fn standbys(&self, region: RegionId) -> &[NodeId] {
        self.standbys.get(&region).map_or(&[], |standbys| standbys)
    }

    /// Who is told of the sessions of a region: its instances, then its standbys.
    pub fn holders(&self, region: RegionId) -> impl Iterator<Item = NodeId> {
        self.instances(region).iter().chain(self.standbys(region)).copied()
    }

    /// Whether a node is told of the sessions of a region.
    pub fn holds(&self, region: RegionId, node: NodeId) -> bool {
        self.holders(region).any(|holder| holder == node)
    }

    /// A region.
    pub fn region(&self, id: RegionId) -> Option<&Region> {
        self.regions.get(&id)
    }

    /// All regions, by ascending id.
    pub fn regions(&self) -> impl Iterator<Item = (RegionId, &Region)> {
        self.regions.iter().map(|(id, region)| (*id, region))
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes, by ascending id.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// Whether the device's region has an instance.
    pub fn has_instances(&self, device: DeviceKey) -> bool {
        !self.instances(self.region_of(device)).is_empty()
    }

    /// The region of a slot.
    pub fn slot(&self, slot: u16) -> RegionId {
        self.slots[usize::from(slot)]
    }

    /// How many devices have an override.
    pub fn overrides(&self) -> usize {
        self.overrides.len()
    }

    /// The memory that the overrides take, in bytes.
    pub fn overrides_bytes(&self) -> usize {
        self.overrides.bytes()
    }

    /// All overrides, by ascending key.
    pub fn overrides_sorted(&self) -> impl ExactSizeIterator<Item = (DeviceKey, RegionId)> + '_ {
        self.overrides.iter()
    }

    /// A copy of what it says, to make the next version of.
    pub fn contents(&self) -> Contents {
        Contents {
            slots: self.slots.clone(),
            slots_also: self.slots_also.clone(),
            overrides: self.overrides_sorted().collect(),
            overrides_also: self.overrides_also.clone(),
            regions: self.regions.clone(),
            standbys: self.standbys.clone(),
            nodes: self.nodes.clone(),
        }
    }

    /// The map as bytes: one form for each map.
    pub fn encode(&self) -> Vec<u8> {
        encoding::encode(self)
    }

    /// All of the SHA-256 of its encoding.
    #[cfg(feature = "next-version")]
    pub fn whole(&self) -> [u8; 32] {
        encoding::whole(&self.encode())
    }

    /// Reads a map, and checks all of it: that it is the expected one, its digest, its form, its sizes, every reference.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(bytes: &[u8], expected: MapId) -> Result<Map, MapError> {
        encoding::decode(bytes, expected)
    }

    /// The map's id and its bytes: for the file from which a node starts.
    pub fn seal(&self) -> Vec<u8> {
        encoding::seal(self)
    }

    /// Reads what [`Map::seal`] wrote, and checks all of it, as [`Map::decode`] does.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn unseal(bytes: &[u8]) -> Result<Map, MapError> {
        encoding::unseal(bytes)
    }

    /// What has to be known to make `next` of `base`. Its one form; longer than `next` itself if little is shared, so send the shorter.
    pub fn delta(base: &Map, next: &Map) -> Vec<u8> {
        delta::encode(base, next)
    }

    /// Makes the next map of `base`, and checks it as [`Map::decode`] does.
    ///
    /// # Errors
    /// The first thing that is wrong. `base` is as it was.
    pub fn apply(base: &Map, delta: &[u8], expected: MapId) -> Result<Map, MapError> {
        delta::apply(base, delta, expected)
    }
}
