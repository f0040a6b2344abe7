//! How the state becomes records: numbers as on the wire, keys in an order of their own.
//!
//! A record's key is a letter and a big-endian number, so that records of a kind lie together in the order of their numbers.

use std::collections::BTreeSet;

use trunkline_wire::codec::{DecodeError, Field, Reader, Text};
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::map::SLOTS;

use super::{Change, Device, Node, Region, Slots, State};
use crate::store::{Records, StoreError};

/// Names one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// Lineage, version, highest node id, highest region id.
    Meta,
    /// The region of each slot.
    Slots,
    /// A node.
    Node(NodeId),
    /// A region.
    Region(RegionId),
    /// A device.
    Device(DeviceKey),
    /// A move.
    Move(u32),
    /// What an operator has said of a node.
    Orders(NodeId),
    /// A step back from this version ([`crate::history`]).
    Step(u64),
}

impl Key {
    /// The record's key.
    pub fn bytes(self) -> Vec<u8> {
        let (letter, number): (u8, &[u8]) = match &self {
            Key::Meta => (b'm', &[]),
            Key::Slots => (b's', &[]),
            Key::Node(id) => (b'n', &id.0.to_be_bytes()),
            Key::Region(id) => (b'r', &id.0.to_be_bytes()),
            Key::Device(key) => (b'd', &key.0.to_be_bytes()),
            Key::Move(id) => (b'v', &id.to_be_bytes()),
            Key::Orders(id) => (b'o', &id.0.to_be_bytes()),
            Key::Step(version) => (b'h', &version.to_be_bytes()),
        };
        [&[letter], number].concat()
    }

    /// Reads a record's key.
    pub fn parse(bytes: &[u8]) -> Option<Key> {
        let (letter, number) = bytes.split_first()?;
        Some(match letter {
            b'm' if number.is_empty() => Key::Meta,
            b's' if number.is_empty() => Key::Slots,
            b'n' => Key::Node(NodeId(u32::from_be_bytes(number.try_into().ok()?))),
            b'v' => Key::Move(u32::from_be_bytes(number.try_into().ok()?)),
            b'r' => Key::Region(RegionId(u16::from_be_bytes(number.try_into().ok()?))),
            b'd' => Key::Device(DeviceKey(u128::from_be_bytes(number.try_into().ok()?))),
            b'o' => Key::Orders(NodeId(u32::from_be_bytes(number.try_into().ok()?))),
            b'h' => Key::Step(u64::from_be_bytes(number.try_into().ok()?)),
            _ => return None,
        })
    }

    /// The record that a change touches.
    pub fn of(change: &Change) -> Key {
        match change {
            Change::Slots(_) => Key::Slots,
            Change::Node(id, _) => Key::Node(*id),
            Change::Region(id, _) => Key::Region(*id),
            Change::Device(key, _) => Key::Device(*key),
            Change::Move(id, _) => Key::Move(*id),
            Change::Orders(id, _) => Key::Orders(*id),
        }
    }
}

/// The value of a record of the state; `None` where there is none.
pub(super) fn value_of(state: &State, key: Key) -> Option<Vec<u8>> {
    match key {
        Key::Meta => {
            let mut out = Vec::new();
            state.lineage.put(&mut out);
            state.version.put(&mut out);
            state.node_highest.put(&mut out);
            state.region_highest.put(&mut out);
            Some(out)
        }
        Key::Slots => state.slots.as_ref().map(written),
        Key::Node(id) => state.nodes.get(&id).map(written),
        Key::Region(id) => state.regions.get(&id).map(written),
        Key::Device(key) => state.devices.get(&key).map(written),
        Key::Move(id) => state.moves.get(&id).map(written),
        Key::Orders(id) => state.orders.get(&id).map(written),
        Key::Step(_) => unreachable!("steps belong to the history"),
    }
}

pub(super) fn state_from(records: &Records) -> Result<State, StoreError> {
    let mut state = State::default();
    for (key, value) in records {
        let unreadable = || StoreError::Record(format!("key {key:02x?}"));
        let key = Key::parse(key).ok_or_else(unreadable)?;
        let mut reader = Reader::new(value);
        let read = take_record(&mut state, key, &mut reader).and_then(|_| reader.finish());
        read.map_err(|_| unreadable())?;
    }
    Ok(state)
}

fn take_record(state: &mut State, key: Key, reader: &mut Reader<'_>) -> Result<(), DecodeError> {
    match key {
        Key::Meta => {
            state.lineage = reader.u64()?;
            state.version = reader.u64()?;
            state.node_highest = reader.u32()?;
            // A store that was made before regions could be removed has none.
            state.region_highest = if reader.remaining() > 0 { reader.u16()? } else { 0 };
        }
        Key::Slots => state.slots = Some(take(reader)?),
        Key::Node(id) => drop(state.nodes.insert(id, take(reader)?)),
        Key::Region(id) => drop(state.regions.insert(id, take(reader)?)),
        Key::Device(key) => drop(state.devices.insert(key, take(reader)?)),
        Key::Move(id) => drop(state.moves.insert(id, take(reader)?)),
        Key::Orders(id) => drop(state.orders.insert(id, take(reader)?)),
        // The history reads these.
        Key::Step(_) => drop(reader.rest()),
    }
    Ok(())
}

/// Appends a list of changes.
pub(crate) fn put_changes(changes: &[Change], out: &mut Vec<u8>) {
    (changes.len() as u32).put(out);
    for change in changes {
        let key = Key::of(change).bytes();
        (key.len() as u8).put(out);
        out.extend_from_slice(&key);
        match change {
            Change::Slots(value) => put_option(value, out),
            Change::Node(_, value) => put_option(value, out),
            Change::Region(_, value) => put_option(value, out),
            Change::Device(_, value) => put_option(value, out),
            Change::Move(_, value) => put_option(value, out),
            Change::Orders(_, value) => put_option(value, out),
        }
    }
}

/// Reads such a list.
pub(crate) fn take_changes(reader: &mut Reader<'_>) -> Result<Vec<Change>, DecodeError> {
    let count = reader.u32()?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let length = reader.u8()?;
        let key = Key::parse(reader.slice(length.into())?).ok_or(DecodeError::Value("record key"))?;
        changes.push(match key {
            Key::Slots => Change::Slots(take_option(reader)?),
            Key::Node(id) => Change::Node(id, take_option(reader)?),
            Key::Region(id) => Change::Region(id, take_option(reader)?),
            Key::Device(key) => Change::Device(key, take_option(reader)?),
            Key::Move(id) => Change::Move(id, take_option(reader)?),
            Key::Orders(id) => Change::Orders(id, take_option(reader)?),
            Key::Meta | Key::Step(_) => return Err(DecodeError::Value("record key")),
        });
    }
    Ok(changes)
}

/// A value of a record. Not [`Field`], which is the wire's.
pub(super) trait Value: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

fn written(value: &impl Value) -> Vec<u8> {
    let mut out = Vec::new();
    value.put(&mut out);
    out
}

fn take<V: Value>(reader: &mut Reader<'_>) -> Result<V, DecodeError> {
    V::take(reader)
}

fn put_option(value: &Option<impl Value>, out: &mut Vec<u8>) {
    Field::put(&value.is_some(), out);
    if let Some(value) = value {
        value.put(out);
    }
}

fn take_option<V: Value>(reader: &mut Reader<'_>) -> Result<Option<V>, DecodeError> {
    bool::take(reader)?.then(|| V::take(reader)).transpose()
}

pub(super) fn put_text(text: &str, out: &mut Vec<u8>) {
    debug_assert!(text.len() <= 255, "names and ids are shorter");
    Text::clipped(text).put(out);
}

pub(super) fn take_text(reader: &mut Reader<'_>) -> Result<String, DecodeError> {
    Ok(Text::take(reader)?.as_str().to_owned())
}

/// Runs of slots: how many follow, less one, and their region.
impl Value for Slots {
    fn put(&self, out: &mut Vec<u8>) {
        for run in self.chunk_by(|a, b| a == b) {
            Field::put(&((run.len() - 1) as u16), out);
            Field::put(&run[0], out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Slots, DecodeError> {
        let mut slots = Box::new([RegionId(0); SLOTS]);
        let mut rest = &mut slots[..];
        while !rest.is_empty() {
            let length = usize::from(reader.u16()?) + 1;
            let region = RegionId::take(reader)?;
            let (run, after) = rest.split_at_mut_checked(length).ok_or(DecodeError::Value("slots"))?;
            run.fill(region);
            rest = after;
        }
        Ok(slots)
    }
}

impl Value for Node {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(&self.name, out);
        self.incarnation.put(out);
        self.roles.put(out);
        self.device_address.put(out);
        self.peer_address.put(out);
        self.http_address.put(out);
        Field::put(&(self.regions.len() as u16), out);
        self.regions.iter().for_each(|region| region.put(out));
        Field::put(&self.member, out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Node, DecodeError> {
        Ok(Node {
            name: take_text(reader)?,
            incarnation: Field::take(reader)?,
            roles: Field::take(reader)?,
            device_address: Field::take(reader)?,
            peer_address: Field::take(reader)?,
            http_address: Field::take(reader)?,
            regions: {
                let count = reader.u16()?;
                (0..count)
                    .map(|_| RegionId::take(reader))
                    .collect::<Result<BTreeSet<_>, _>>()?
            },
            member: Field::take(reader)?,
        })
    }
}

impl Value for Region {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(&self.name, out);
        Field::put(&self.weight, out);
    }

    fn take(reader: &mut Reader<'_>) -> Result<Region, DecodeError> {
        Ok(Region {
            name: take_text(reader)?,
            weight: reader.u32()?,
        })
    }
}

impl Value for Device {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(&self.id, out);
        Field::put(&self.enrolled_ms, out);
        Field::put(&self.wanted.is_some(), out);
        if let Some(region) = self.wanted {
            region.put(out);
        }
        Field::put(&self.assigned.is_some(), out);
        if let Some((region, at_ms)) = self.assigned {
            region.put(out);
            Field::put(&at_ms, out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Device, DecodeError> {
        Ok(Device {
            id: take_text(reader)?,
            enrolled_ms: reader.u64()?,
            wanted: bool::take(reader)?.then(|| RegionId::take(reader)).transpose()?,
            assigned: if bool::take(reader)? {
                Some((RegionId::take(reader)?, reader.u64()?))
            } else {
                None
            },
        })
    }
}
