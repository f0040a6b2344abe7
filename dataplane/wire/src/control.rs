//! What a node, or an operator's tool, and the control plane say to each other, after the proof of the cluster secret.
//!
//! The opening frames are those of a link between nodes ([`crate::peer`]): hello, challenge, proof, ready. The control plane answers
//! as node [`NodeId::NONE`]; so does a tool, and a node that has not been given an id yet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[cfg(feature = "next-version")]
use crate::codec::Newer;
use crate::codec::{DecodeError, Field, Reader, Tail, Text};
use crate::common::{Failure, Ping, Pong};
use crate::frame::frames;
use crate::id::NodeId;
use crate::peer::{LinkChallenge, LinkHello, LinkProof, LinkReady};

/// The largest body of a frame between a node and the control plane.
pub const CONTROL_BODY_BYTES_MAX: usize = 128 * 1024;

/// The largest part of a map in one frame.
pub const MAP_PART_BYTES_MAX: usize = 64 * 1024;

/// The largest JSON object of a request or an answer: what a body holds beside their number and flag.
pub const ADMIN_JSON_BYTES_MAX: usize = CONTROL_BODY_BYTES_MAX - 5;

/// The most regions that one node serves.
pub const REGIONS_PER_NODE_MAX: usize = 64;

/// What a node does. At least one is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// Holds device connections.
    pub connection: bool,
    /// Takes messages in from back-end senders.
    pub messaging: bool,
    /// Is an instance of at least one region.
    pub region: bool,
}

impl<'a> Field<'a> for Roles {
    fn put(&self, out: &mut Vec<u8>) {
        debug_assert!(*self != Roles::default(), "no role at all");
        out.push(u8::from(self.connection) | u8::from(self.messaging) << 1 | u8::from(self.region) << 2);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let bits = reader.u8()?;
        if !(1..=7).contains(&bits) {
            return Err(DecodeError::Value("roles"));
        }
        Ok(Roles {
            connection: bits & 1 != 0,
            messaging: bits & 2 != 0,
            region: bits & 4 != 0,
        })
    }
}

/// An address, or none: a byte 0, 4 or 6, then the address in network order and the port.
impl<'a> Field<'a> for Option<SocketAddr> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            None => out.push(0),
            Some(address) => {
                match address.ip() {
                    IpAddr::V4(ip) => {
                        out.push(4);
                        out.extend_from_slice(&ip.octets());
                    }
                    IpAddr::V6(ip) => {
                        out.push(6);
                        out.extend_from_slice(&ip.octets());
                    }
                }
                address.port().put(out);
            }
        }
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let ip = match reader.u8()? {
            0 => return Ok(None),
            4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?)),
            6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?)),
            _ => return Err(DecodeError::Value("address family")),
        };
        Ok(Some(SocketAddr::new(ip, reader.u16()?)))
    }
}

/// Names of regions: a count, then each as a [`Text`]; none empty, at most [`REGIONS_PER_NODE_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a> {
    count: u8,
    encoded: &'a [u8],
}

impl<'a> Names<'a> {
    /// Encodes `names` into `space`, which the result borrows. `None` if there are too many, or one is empty or longer than 255 bytes.
    pub fn new<'n>(names: impl IntoIterator<Item = &'n str>, space: &'a mut Vec<u8>) -> Option<Names<'a>> {
        space.clear();
        let mut count = 0;
        for name in names {
            if name.is_empty() || name.len() > 255 || count == REGIONS_PER_NODE_MAX {
                return None;
            }
            count += 1;
            Text::clipped(name).put(space);
        }
        Some(Names {
            count: count as u8,
            encoded: space,
        })
    }

    /// The names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.encoded);
        (0..self.count).map(move |_| Text::take(&mut reader).expect("checked when it was made").as_str())
    }
}

impl<'a> Field<'a> for Names<'a> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.count);
        out.extend_from_slice(self.encoded);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let count = reader.u8()?;
        if usize::from(count) > REGIONS_PER_NODE_MAX {
            return Err(DecodeError::TooLong("names"));
        }
        let mut probe = *reader;
        for _ in 0..count {
            if Text::take(&mut probe)?.as_str().is_empty() {
                return Err(DecodeError::Value("name"));
            }
        }
        let encoded = reader.slice(reader.remaining() - probe.remaining())?;
        Ok(Names { count, encoded })
    }
}

/// A version of the map, and the digest that tells two maps of one version apart. Version 0 is "no map".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapId {
    /// Which store the map comes from: random, drawn when the store is made.
    pub lineage: u64,
    /// Counts up, never back, within a lineage.
    pub version: u64,
    /// The first 128 bits of the SHA-256 of the map's encoding.
    pub digest: [u8; 16],
}

impl<'a> Field<'a> for MapId {
    fn put(&self, out: &mut Vec<u8>) {
        self.lineage.put(out);
        self.version.put(out);
        self.digest.put(out);
    }

    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        Ok(MapId {
            lineage: reader.u64()?,
            version: reader.u64()?,
            digest: reader.array()?,
        })
    }
}

frames! {
    /// What a node or a tool sends to the control plane.
    pub enum NodeFrame {
        /// The node sends its devices elsewhere and lets none in, or no longer does.
        0x49 Draining {
            /// Whether it does.
            on: bool,
        }
        /// A node wants to be a member.
        0x50 Join['a] {
            /// For people; unique in the cluster. Empty: the control plane makes one.
            name: Text<'a>,
            /// What it does.
            roles: Roles,
            /// Where devices reach it.
            device_address: Option<SocketAddr>,
            /// Where nodes reach it.
            peer_address: Option<SocketAddr>,
            /// Where its metrics are.
            http_address: Option<SocketAddr>,
            /// The map that it holds, so that it is sent only what has changed.
            map: MapId,
            /// The regions that it serves.
            regions: Names<'a>,
        }
        next {
            /// What runs there, for people.
            build: Newer<Text<'a>>,
        }
        /// A sign of life, well within the lease.
        0x51 Renew {
            /// How many sessions it has.
            sessions: u64,
        }
        /// A map was taken, and is on the node's disk.
        0x52 MapAck {
            /// Which.
            map: MapId,
        }
        /// A map was refused; the node goes on with the one it had.
        0x53 MapNack['a] {
            /// Which was offered.
            map: MapId,
            /// Why.
            reason: Text<'a>,
        }
        /// Send all of the map: a delta didn't fit what the node has.
        0x54 MapRequest {
        }
        /// A member goes for good, or until it joins again: its lease ends now.
        0x55 Leave {
        }
        /// An operator's request, as JSON.
        0x56 Admin['a] {
            /// Comes back in the answer.
            request: u32,
            /// One JSON object.
            json: Tail<'a, ADMIN_JSON_BYTES_MAX>,
        }
        /// All that a version of the map asks of this node is done: its shards use it, and the instances that it can reach have
        /// taken the sessions that it registered there. A move goes on when every member has said so.
        0x58 MapSettled {
            /// The version.
            version: u64,
        }
    }
    shared { 0x01 LinkHello, 0x03 LinkProof, 0x10 Ping, 0x11 Pong, 0x1e Failure['a] }
}

frames! {
    /// What the control plane sends.
    pub enum ControlFrame {
        /// An operator wants the node's devices elsewhere, or lets devices in again.
        0x48 Drain {
            /// Whether they are to go.
            on: bool,
            /// Devices a second; 0: as the node is set.
            rate: u32,
        }
        /// The node is a member.
        0x60 Joined {
            /// The node's id, to be kept.
            node: NodeId,
            /// How long the membership lasts without a [`Renew`], in milliseconds.
            lease_ms: u32,
            /// The store's lineage.
            lineage: u64,
        }
        /// The lease starts anew.
        0x61 Renewed {
        }
        /// A map follows in parts.
        0x62 MapBegin {
            /// What the parts make.
            map: MapId,
            /// What they are a difference to; version 0: they are all of it.
            base: MapId,
            /// How many bytes all parts have together.
            bytes: u32,
        }
        next {
            /// All of the SHA-256 of the encoding of the map that the parts make, of which its id has the first half.
            whole: Newer<[u8; 32]>,
        }
        /// The next bytes of the map; at most [`MAP_PART_BYTES_MAX`].
        0x63 MapPart['a] {
            /// The bytes.
            bytes: Tail<'a, MAP_PART_BYTES_MAX>,
        }
        /// The answer to [`Admin`], as JSON.
        0x64 AdminAnswer['a] {
            /// The request's number.
            request: u32,
            /// Whether it was done.
            ok: bool,
            /// One JSON object; with `ok` false it has `error`.
            json: Tail<'a, ADMIN_JSON_BYTES_MAX>,
        }
    }
    shared { 0x02 LinkChallenge, 0x04 LinkReady, 0x10 Ping, 0x11 Pong, 0x1e Failure['a] }
}
