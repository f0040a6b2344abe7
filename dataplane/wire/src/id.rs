//! Names of things: devices, sessions, nodes, regions, shards. Each is a type of its own, so that none passes for another.

use std::fmt;

use crate::codec::{DecodeError, Field, Reader};

/// The longest device id, in bytes of UTF-8.
pub const DEVICE_ID_BYTES_MAX: usize = 64;

/// A device's name as its user writes it: UTF-8, 1 to 64 bytes. Borrowed.
///
/// Held as bytes: nodes hash and copy names, and only people read them as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdRef<'a>(&'a [u8]);

impl<'a> IdRef<'a> {
    /// Checks the length.
    ///
    /// # Errors
    /// If `text` is empty or longer than 64 bytes.
    pub fn new(text: &'a str) -> Result<IdRef<'a>, IdError> {
        match text.len() {
            1..=DEVICE_ID_BYTES_MAX => Ok(IdRef(text.as_bytes())),
            bytes => Err(IdError { bytes }),
        }
    }

    /// The name. Looks at every byte of it: for the bytes alone there is [`IdRef::as_bytes`].
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.0).expect("it was checked where the name was made")
    }

    /// The name's bytes, which are UTF-8.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// An owned copy.
    pub fn to_owned(self) -> DeviceId {
        DeviceId(self.as_str().into())
    }
}

impl fmt::Debug for IdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl fmt::Display for IdRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A device's name, owned.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Box<str>);

impl DeviceId {
    /// Checks the length.
    ///
    /// # Errors
    /// If `text` is empty or longer than 64 bytes.
    pub fn new(text: &str) -> Result<DeviceId, IdError> {
        IdRef::new(text).map(IdRef::to_owned)
    }

    /// Borrows the name.
    #[inline]
    pub fn borrow(&self) -> IdRef<'_> {
        IdRef(self.0.as_bytes())
    }

    /// The name.
    #[inline]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for DeviceId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<DeviceId, IdError> {
        DeviceId::new(text)
    }
}

/// A device id of a length that isn't allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device id has 1 to 64 bytes of UTF-8, this one has {bytes}")]
pub struct IdError {
    /// How many bytes it had.
    pub bytes: usize,
}

impl<'a> Field<'a> for IdRef<'a> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.0.len() as u8);
        out.extend_from_slice(self.0);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.u8()? as usize;
        if !(1..=DEVICE_ID_BYTES_MAX).contains(&length) {
            return Err(DecodeError::IdLength(length));
        }
        let name = reader.slice(length)?;
        // Most names are ASCII, which shows sooner than that they are UTF-8.
        if !name.is_ascii() && std::str::from_utf8(name).is_err() {
            return Err(DecodeError::Utf8);
        }
        Ok(IdRef(name))
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $read:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $inner);

        impl<'a> Field<'a> for $name {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.0.to_le_bytes());
            }

            #[inline]
            fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                reader.$read().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// A process of the cluster. Given by the control plane, kept in the node's data directory. 0 is nobody.
    NodeId(u32), u32
}
number! {
    /// How often a node has started: a later start wins over an earlier one.
    Incarnation(u64), u64
}
number! {
    /// A region: a set of instances that know where each of the region's devices is.
    RegionId(u16), u16
}
number! {
    /// A client library's random number, drawn once per start: with the sender and a number it names a message.
    Instance(u64), u64
}

impl NodeId {
    /// Nobody: a process that has no id yet.
    pub const NONE: NodeId = NodeId(0);
}

/// One thread of a node. Never travels but in a sync's count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// A device inside the cluster: the keyed hash of its id ([`crate::auth::ClusterKeys::device_key`]).
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceKey(pub u128);

impl DeviceKey {
    /// The slot of the map: the key's top 16 bits.
    #[inline]
    pub fn slot(self) -> u16 {
        (self.0 >> 112) as u16
    }

    /// The shard that owns this device in a process of `shards` threads.
    ///
    /// It uses other bits than [`DeviceKey::slot`], so that the devices of one slot spread over all shards.
    #[inline]
    pub fn shard(self, shards: u16) -> ShardId {
        let low = self.0 as u32;
        ShardId(((u64::from(low) * u64::from(shards)) >> 32) as u16)
    }
}

impl std::hash::Hash for DeviceKey {
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.partner().hash(state);
    }
}

/// The part of a device's key by which others remember it: half as long, enough to find the device's region and shard, and in a
/// table the device itself. Among ten million devices, two have the same one in three of a million clusters; then a prediction is wrong.
///
/// ```text
/// 63        48 47        32 31         0
/// ┌───────────┬────────────┬────────────┐
/// │ slot      │ key, 64–79 │ key, 0–31  │
/// └───────────┴────────────┴────────────┘
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartnerKey(pub u64);

impl DeviceKey {
    /// The part of it by which others remember this device.
    #[inline]
    pub fn partner(self) -> PartnerKey {
        let high = (self.0 >> 112) as u64;
        let middle = (self.0 >> 64) as u64 & 0xffff;
        PartnerKey(high << 48 | middle << 32 | u64::from(self.0 as u32))
    }
}

impl PartnerKey {
    /// As [`DeviceKey::slot`].
    #[inline]
    pub fn slot(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// As [`DeviceKey::shard`].
    #[inline]
    pub fn shard(self, shards: u16) -> ShardId {
        DeviceKey(u128::from(self.0 as u32)).shard(shards)
    }
}

impl std::hash::Hash for PartnerKey {
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        // All bits are of a keyed hash. A table picks the place by the low ones and tells neighbours apart by the top ones: neither may
        // be those that all devices of a region or of a shard have in common.
        let (high, low) = ((self.0 >> 32) as u32, self.0 as u32);
        state.write_u64(u64::from(high.rotate_left(16)) << 32 | u64::from(high ^ low));
    }
}

impl fmt::Debug for PartnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Display for PartnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl<'a> Field<'a> for PartnerKey {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.u64().map(PartnerKey)
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl<'a> Field<'a> for DeviceKey {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.u128().map(DeviceKey)
    }
}

/// Which of a device's sessions: a hybrid logical clock's value, and the node that minted it and holds the session.
///
/// Ordered; the highest wins everywhere, so that the order in which records arrive doesn't matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch {
    /// 48 bits of milliseconds since the Unix epoch, 16 bits of counter.
    pub clock: u64,
    /// The connection server of the session.
    pub node: NodeId,
}

impl Epoch {
    /// No session. Lower than every session's.
    pub const NONE: Epoch = Epoch {
        clock: 0,
        node: NodeId::NONE,
    };

    /// `None` for [`Epoch::NONE`].
    #[inline]
    pub fn some(self) -> Option<Epoch> {
        (self != Epoch::NONE).then_some(self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.clock >> 16, self.clock & 0xffff, self.node)
    }
}

impl<'a> Field<'a> for Epoch {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.clock.put(out);
        self.node.put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let epoch = Epoch {
            clock: reader.u64()?,
            node: NodeId(reader.u32()?),
        };
        // A session without a node, or a node without a clock, doesn't exist.
        if (epoch.clock == 0) != (epoch.node == NodeId::NONE) {
            return Err(DecodeError::Value("epoch"));
        }
        Ok(epoch)
    }
}
