//! What can be wrong with a map. One line each: a node sends it back with its refusal, and an operator reads it.

use crate::codec::DecodeError;
use crate::id::{DeviceKey, NodeId, RegionId};

/// Why something is not a map, or not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// No bytes at all.
    #[error("the map is blank")]
    Blank,
    /// More bytes than any map may have.
    #[error("the map has {bytes} bytes, and {max} are the most that is allowed")]
    TooLarge {
        /// How many it has, or is announced to have.
        bytes: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The bytes end too early.
    #[error("the map is truncated")]
    Truncated,
    /// The bytes go on after the end.
    #[error("the map has {0} bytes after its end")]
    Trailing(usize),
    /// A part of no bytes, of too many, or beyond what was announced.
    #[error("a part of the map with {part} bytes, where 1 to {max} may follow")]
    Part {
        /// How many bytes the part has.
        part: usize,
        /// How many were allowed.
        max: usize,
    },
    /// The first four bytes are others.
    #[error("these bytes are not a map")]
    NotAMap,
    /// A field can't be read.
    #[error("the map can't be read: {0}")]
    Field(DecodeError),
    /// Not in its one form: keys that don't ascend, runs that could be one, a difference that isn't one.
    #[error("the map is not in its canonical form: {0}")]
    Form(&'static str),
    /// The bytes are not what their digest says.
    #[error("the map's digest does not match: it was damaged on its way or at rest")]
    Digest,
    /// The bytes name another version or lineage than was announced.
    #[error("the map says that it is version {found} of lineage {lineage:016x}, and another was announced")]
    OtherId {
        /// The version that the bytes name.
        found: u64,
        /// The lineage that the bytes name.
        lineage: u64,
    },
    /// A delta to a map that isn't the one at hand.
    #[error("the delta starts from version {delta}, and the map at hand is version {have} or differs from it")]
    WrongBase {
        /// The version from which the delta starts.
        delta: u64,
        /// The version at hand.
        have: u64,
    },
    /// A delta from one store's map to another's.
    #[error("the delta leads to a map of another lineage")]
    OtherLineage,
    /// A delta that doesn't lead to a later version.
    #[error("the delta leads from version {base} to version {next}, which is not newer")]
    NotNewer {
        /// Where it starts.
        base: u64,
        /// Where it leads.
        next: u64,
    },
    /// Version 0 is "no map".
    #[error("version 0 is not a map")]
    VersionZero,
    /// Every device has a region; without one there is no map.
    #[error("the map has no region")]
    NoRegion,
    /// Too many of something.
    #[error("the map has {count} {what}, and {max} are the most that is allowed")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// A slot's region doesn't exist.
    #[error("unknown region {region} in slot {slot}")]
    SlotRegion {
        /// The slot.
        slot: u16,
        /// The region.
        region: RegionId,
    },
    /// An override's region doesn't exist.
    #[error("unknown region {region} in the override of device {device}")]
    OverrideRegion {
        /// The device's key.
        device: DeviceKey,
        /// The region.
        region: RegionId,
    },
    /// The second region of a slot is its first.
    #[error("slot {0} moves to the region that it is in")]
    SlotAlso(u16),
    /// The second region of a device is its first, or the device has no override.
    #[error("device {0} moves without an override, or to the region that it is in")]
    OverrideAlso(DeviceKey),
    /// A region's instance isn't a member.
    #[error("unknown node {node} as an instance of region {region}")]
    InstanceUnknown {
        /// The region.
        region: RegionId,
        /// The node.
        node: NodeId,
    },
    /// A region's instance is a node that does something else.
    #[error("node {node} is an instance of region {region} but has no region role")]
    InstanceRole {
        /// The region.
        region: RegionId,
        /// The node.
        node: NodeId,
    },
    /// A region's instances don't ascend.
    #[error("the instances of region {0} are not in ascending order, or one is named twice")]
    InstanceOrder(RegionId),
    /// A region that isn't there has standbys.
    #[error("unknown region {0} has standbys")]
    StandbyRegion(RegionId),
    /// A region's standby is an instance of it already, or a region is named that has none.
    #[error("a standby of region {0} is its instance as well, or it is named and has none")]
    StandbyTwice(RegionId),
    /// Node 0 is nobody.
    #[error("node 0 is nobody, and can't be a member")]
    NodeZero,
    /// A node without a role.
    #[error("node {0} has no role")]
    NoRole(NodeId),
    /// A role needs an address that the node doesn't name.
    #[error("node {node} has no {port} address, which its roles need")]
    NoAddress {
        /// The node.
        node: NodeId,
        /// Which address.
        port: &'static str,
    },
    /// An address that can't be dialled from elsewhere.
    #[error("node {node} names a {port} address that nobody can dial: port 0, an unspecified host, or a scope")]
    BadAddress {
        /// The node.
        node: NodeId,
        /// Which address.
        port: &'static str,
    },
    /// A name that isn't one.
    #[error("the name of {what} {id} is empty, longer than 64 bytes, or has control characters")]
    BadName {
        /// A node's or a region's.
        what: &'static str,
        /// Its number.
        id: u32,
    },
    /// Two of a kind with one name.
    #[error("the name of {what} {id} is taken by another")]
    SameName {
        /// A node's or a region's.
        what: &'static str,
        /// The second one's number.
        id: u32,
    },
}

impl From<DecodeError> for MapError {
    fn from(error: DecodeError) -> MapError {
        match error {
            DecodeError::Truncated => MapError::Truncated,
            DecodeError::Trailing(bytes) => MapError::Trailing(bytes),
            error => MapError::Field(error),
        }
    }
}
