//! What two nodes say to each other on a link, after the proof of the cluster secret ([`crate::auth`]).
//!
//! Links are multiplexed: one carries the messages of all devices of both nodes. Every frame names the device it concerns by its
//! key, so that the receiver finds the shard that owns it.

use crate::affinity::{AffinityList, AffinityVersion};
#[cfg(feature = "next-version")]
use crate::codec::Text;
use crate::codec::{DecodeError, Field, Reader, Tail};
use crate::common::{Failure, Ping, Pong};
use crate::device::PAYLOAD_BYTES_MAX;
use crate::frame::frames;
use crate::id::{DeviceKey, Epoch, IdRef, Incarnation, Instance, NodeId, PartnerKey, RegionId};
use crate::report::{Answer, Number, Trail, TtlMs, Way};

/// The largest body of a frame on a link: a payload and what surrounds it.
pub const PEER_BODY_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + 512;

// The longest frame, a forward, fits: two keys, a target, a trail, an id, an instance, a number and a time to live.
const _: () = assert!(16 + 16 + 13 + 17 + 65 + 8 + 17 + 4 + PAYLOAD_BYTES_MAX <= PEER_BODY_BYTES_MAX);

/// To what a message is being forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// To an instance of the recipient's region. `gone` names a session that the sender found to be no more ([`Epoch::NONE`] if none).
    Region {
        /// Removed, exactly, by the instance that reads this.
        gone: Epoch,
    },
    /// To the node that holds this session.
    Session {
        /// The session, at the receiving node as far as the sender knows.
        epoch: Epoch,
    },
}

impl<'a> Field<'a> for Target {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        let (tag, epoch) = match self {
            Target::Region { gone } => (0, gone),
            Target::Session { epoch } => (1, epoch),
        };
        out.push(tag);
        epoch.put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let tag = reader.u8()?;
        let epoch = Epoch::take(reader)?;
        match tag {
            0 => Ok(Target::Region { gone: epoch }),
            1 if epoch != Epoch::NONE => Ok(Target::Session { epoch }),
            _ => Err(DecodeError::Value("target")),
        }
    }
}

frames! {
    /// What a node sends to another.
    pub enum PeerFrame {
        /// The opener's first frame.
        0x01 LinkHello {
            /// Who opens; never nobody on a link between nodes.
            node: NodeId,
            /// Which of its starts.
            incarnation: Incarnation,
            /// Random.
            nonce: [u8; 32],
            /// Tells two different secrets apart, by name ([`crate::auth::ClusterKeys::check`]).
            key_check: [u8; 8],
        }
        /// The answer: who is here, and its proof.
        0x02 LinkChallenge {
            /// The protocol version that both speak from here on.
            version: u8,
            /// Who answers.
            node: NodeId,
            /// Which of its starts.
            incarnation: Incarnation,
            /// Random.
            nonce: [u8; 32],
            /// HMAC over both nonces and both names.
            proof: [u8; 32],
        }
        /// The opener's proof.
        0x03 LinkProof {
            /// HMAC over both nonces and both names.
            proof: [u8; 32],
        }
        /// The link may be used: the first frame after it is either side's.
        0x04 LinkReady {
            /// True if the answering node keeps another link to the opener, and this one is to be closed.
            doubled: bool,
        }
        /// No more frames follow from this side on this link; answer with [`LinkClosed`] when all that you had is sent.
        0x05 LinkClose {
        }
        /// The answer to [`LinkClose`], after this side's last frame.
        0x06 LinkClosed {
        }

        /// A message on its way.
        0x20 Forward['a] {
            /// To which device.
            recipient: DeviceKey,
            /// To a region's instance, or to the node of a session.
            target: Target,
            /// Which nodes it has passed, the sending one included.
            trail: Trail,
            /// From which device, inside the cluster.
            sender_key: DeviceKey,
            /// From which device, as its recipient will be told.
            sender: IdRef<'a>,
            /// Which start of the sender's library.
            instance: Instance,
            /// Which of its messages to this recipient.
            number: Number,
            /// What is left of its time.
            ttl: TtlMs,
            /// At most [`PAYLOAD_BYTES_MAX`] bytes.
            payload: Tail<'a>,
        }
        /// What became of a confirmed message.
        0x21 Reply {
            /// The message's sender.
            sender_key: DeviceKey,
            /// Which start of the sender's library.
            instance: Instance,
            /// The message's recipient.
            recipient: DeviceKey,
            /// The message's number.
            number: u64,
            /// What became of it.
            answer: Answer,
            /// Which way it took.
            way: Way,
            /// The nodes back to the one that took it in, that one first, the receiving node last.
            back: Trail,
        }
        /// Where a device is: its session's epoch names the node.
        0x22 Location {
            /// The device.
            device: DeviceKey,
            /// Its session, or none: forget what you know.
            epoch: Epoch,
        }
        /// Somebody is expected to write to a device. To an instance of its region, which answers with a [`Location`] if it knows one.
        0x50 WhereIs {
            /// The device.
            device: PartnerKey,
        }
        /// A device's affinity list as its session at the sender has learnt it, for every instance of the device's region; also from an
        /// instance of the region that a device leaves to those of the one that it moves to.
        0x51 Remember {
            /// The device.
            device: DeviceKey,
            /// Which state of the list: of two, the later one counts.
            version: AffinityVersion,
            /// The list.
            list: AffinityList,
        }
        /// What the region remembers of a device that has registered with it, for the connection server where it is now.
        0x52 Recall {
            /// The device.
            device: DeviceKey,
            /// Which state of the list.
            version: AffinityVersion,
            /// The list.
            list: AffinityList,
        }

        /// A session exists. From its connection server to every instance of the device's region.
        0x30 Register {
            /// The device's region, by the sender's map.
            region: RegionId,
            /// The device.
            device: DeviceKey,
            /// Its session.
            epoch: Epoch,
        }
        /// The answer to [`Register`].
        0x31 Registered {
            /// The region.
            region: RegionId,
            /// The device.
            device: DeviceKey,
            /// The epoch that was registered.
            epoch: Epoch,
            /// The highest epoch that the instance knows for the device: the same, or a higher one.
            highest: Epoch,
        }
        /// A session is no more. Removes exactly this epoch.
        0x32 Unregister {
            /// The region.
            region: RegionId,
            /// The device.
            device: DeviceKey,
            /// The session that ended.
            epoch: Epoch,
        }
        /// From an instance to the node of an older session: a newer one exists.
        0x33 Outdated {
            /// The device.
            device: DeviceKey,
            /// The older session.
            epoch: Epoch,
            /// The newer one.
            highest: Epoch,
        }
        /// From here to [`SyncEnd`] the sender names every session that it has in this region.
        0x34 SyncBegin {
            /// The region.
            region: RegionId,
            /// Names this stream; counts up on each link.
            sync: u64,
        }
        /// One shard of the sender has named all its sessions. When all shards have, what was not named is dropped.
        0x35 SyncEnd {
            /// The region.
            region: RegionId,
            /// The stream, from [`SyncBegin`].
            sync: u64,
            /// How many shards the sender has: as many of these frames follow each [`SyncBegin`].
            shards: u16,
        }
        /// The stream was taken in whole: the instance is in sync with the sender.
        0x36 Synced {
            /// The region.
            region: RegionId,
            /// The stream.
            sync: u64,
        }
        /// Instances ask each other before they say that a device is offline.
        0x37 Locate {
            /// The region.
            region: RegionId,
            /// The device.
            device: DeviceKey,
        }
        /// The answer to [`Locate`].
        0x38 Located {
            /// The region.
            region: RegionId,
            /// The device.
            device: DeviceKey,
            /// Its session, or none.
            epoch: Epoch,
            /// The answering instance has heard from all connection servers, so that "none" means none.
            in_sync: bool,
        }

        /// All shards of the sender use this version of the map, and what they registered for it came before this frame.
        0x40 MapVersion {
            /// The version; 0 before the sender has a map.
            version: u64,
            /// The newest that any of its shards uses, or is about to: what came before this frame was said by none that is newer.
            newest: u64,
        }
        /// The answer to [`MapVersion`]: all shards of the receiver have taken what came before it.
        0x41 MapTaken {
            /// The version that was announced.
            version: u64,
        }
        /// From an instance of the region that a device leaves to those of the one that it moves to: what an older map's node said.
        0x42 Relay {
            /// The receiver's region.
            region: RegionId,
            /// The device.
            device: DeviceKey,
            /// Its session, at the epoch's node.
            epoch: Epoch,
            /// The session ended; otherwise it exists.
            ended: bool,
        }
    }
    shared { 0x10 Ping, 0x11 Pong, 0x1e Failure['a] }
    next {
        /// What runs at the sender: its first word on a link that is ready.
        0x70 Build['a] {
            /// For people.
            label: Text<'a>,
        }
    }
}
