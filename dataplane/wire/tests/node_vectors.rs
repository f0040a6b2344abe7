//! Known bytes of the frames between nodes, and between nodes and the control plane. They were computed by another program from the tables
//! of `PROTOCOL.md`: if one of these fails, the format has changed, and nodes of two versions no longer understand each other.

use std::fmt::Debug;

use trunkline_wire::affinity::{Acquaintance, AffinityEntry, AffinityList, AffinityVersion, AffinityWeight};
use trunkline_wire::codec::{Tail, Text};
use trunkline_wire::control::{
    Admin, AdminAnswer, ControlFrame, Join, Joined, Leave, MapAck, MapBegin, MapId, MapNack, MapPart, MapRequest,
    MapSettled, Names, NodeFrame, Renew, Renewed, Roles,
};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, Epoch, Incarnation, Instance, NodeId, RegionId};
use trunkline_wire::peer::{
    LinkChallenge, LinkClose, LinkClosed, LinkHello, LinkProof, LinkReady, Locate, Located, Location, MapTaken,
    MapVersion, Outdated, PeerFrame, Recall, Register, Registered, Relay, Remember, Reply, SyncBegin, SyncEnd, Synced,
    Unregister, WhereIs,
};
use trunkline_wire::preface::VERSION_MIN;
use trunkline_wire::report::{Answer, Outcome, RetryReason, Trail, Way};

const LINEAGE: u64 = 0x1122_3344_5566_7788;
const INSTANCE: Instance = Instance(LINEAGE);
const CLOCK: u64 = 1_700_000_000_000 << 16 | 3;
const ALICE: DeviceKey = DeviceKey(0x372b_f231_b160_8771_2c20_4492_3c4a_dcc1);
const BOB: DeviceKey = DeviceKey(0xf4ca_5f60_988b_5f19_b8a5_e557_afb4_306b);
const REGION: RegionId = RegionId(2);
const EPOCH: Epoch = Epoch {
    clock: CLOCK,
    node: NodeId(5),
};
const NEWER: Epoch = Epoch {
    clock: CLOCK + 1,
    node: NodeId(6),
};

fn unhex<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    bytes.collect()
}

/// `frame` has these bytes, and these bytes are `frame`. They are leaked: a frame may borrow from what it was read from.
fn check<F, T>(frame: F, wrap: impl Fn(F) -> T, known: &str)
where
    F: Encode + Copy,
    T: Decode<'static> + PartialEq + Debug,
{
    let known: &'static [u8] = bytes(known).leak();
    assert_eq!(frame.to_vec(), known);
    let (header, body) = known.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(*header);
    assert_eq!(header.length as usize, body.len());
    assert_eq!(T::decode(VERSION_MIN, header.ty, body), Ok(Some(wrap(frame))));
}

#[test]
fn the_opening_of_a_link() {
    let (nonce, key_check) = ([1; 32], unhex("b9505c23f7dd1210"));
    let proof = unhex("2b98f47ec16db6204dbbeee98c6e39bd1c2a56f99d5d21223d53a72c78fca0dc");
    let hello = LinkHello {
        node: NodeId(1),
        incarnation: Incarnation(10),
        nonce,
        key_check,
    };
    check(
        hello,
        PeerFrame::LinkHello,
        "34000001010000000a000000000000000101010101010101010101010101010101010101010101010101010101010101b950\
 5c23f7dd1210",
    );
    let challenge = LinkChallenge {
        version: 1,
        node: NodeId(2),
        incarnation: Incarnation(20),
        nonce: [2; 32],
        proof,
    };
    check(
        challenge,
        PeerFrame::LinkChallenge,
        "4d0000020102000000140000000000000002020202020202020202020202020202020202020202020202020202020202022b\
 98f47ec16db6204dbbeee98c6e39bd1c2a56f99d5d21223d53a72c78fca0dc",
    );
    let proof = unhex("2a5f371a49892ac50c305456306ebaa272a6f7bcf9aaed3db1e18bbe9aa4c3dc");
    check(
        LinkProof { proof },
        PeerFrame::LinkProof,
        "200000032a5f371a49892ac50c305456306ebaa272a6f7bcf9aaed3db1e18bbe9aa4c3dc",
    );
    check(LinkReady { doubled: true }, PeerFrame::LinkReady, "0100000401");
}

#[test]
fn the_end_of_a_link() {
    check(LinkClose {}, PeerFrame::LinkClose, "00000005");
    check(LinkClosed {}, PeerFrame::LinkClosed, "00000006");
}

#[test]
fn a_reply() {
    let back = Trail::default().then(NodeId(1)).unwrap();
    let reply = Reply {
        sender_key: ALICE,
        instance: INSTANCE,
        recipient: BOB,
        number: 7,
        answer: Answer::Final(Outcome::Delivered { late: true }),
        way: Way::Direct,
        back,
    };
    check(
        reply,
        PeerFrame::Reply,
        "3a000021c1dc4a3c9244202c718760b131f22b3788776655443322116b30b4af57e5a5b8195f8b98605fcaf4070000000000\
 000000010100020101000000",
    );
    let answer = Answer::Retry {
        reason: RetryReason::NotInSync,
        maybe_delivered: true,
    };
    let reply = Reply {
        answer,
        way: Way::Unknown,
        back: back.then(NodeId(3)).unwrap(),
        ..reply
    };
    check(
        reply,
        PeerFrame::Reply,
        "3c000021c1dc4a3c9244202c718760b131f22b3788776655443322116b30b4af57e5a5b8195f8b98605fcaf4070000000000\
 0000010100020100000003000000",
    );
}

#[test]
fn where_a_device_is() {
    check(
        Location {
            device: BOB,
            epoch: EPOCH,
        },
        PeerFrame::Location,
        "1c0000226b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b0105000000",
    );
    check(
        WhereIs { device: BOB.partner() },
        PeerFrame::WhereIs,
        "080000506b30b4af195fcaf4",
    );
    check(
        Locate {
            region: REGION,
            device: BOB,
        },
        PeerFrame::Locate,
        "1200003702006b30b4af57e5a5b8195f8b98605fcaf4",
    );
    let located = Located {
        region: REGION,
        device: BOB,
        epoch: EPOCH,
        in_sync: true,
    };
    check(
        located,
        PeerFrame::Located,
        "1f00003802006b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b010500000001",
    );
}

#[test]
fn whom_a_device_has_to_do_with() {
    let version = AffinityVersion {
        clock: CLOCK,
        counter: 7,
    };
    let mut list = AffinityList::new(1_700_000_000, 100);
    list.push(AffinityEntry {
        partner: ALICE.partner(),
        weight: AffinityWeight::of(Acquaintance {
            unanswered: true,
            sent: 3,
            received: 1,
            earlier: 100,
        }),
    });
    let device = BOB;
    let body = "6b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b01070000f153656401c1dc4a3c71872b3739a2";
    let remember = Remember { device, version, list };
    check(remember, PeerFrame::Remember, &format!("2a000051{body}"));
    let recall = Recall { device, version, list };
    check(recall, PeerFrame::Recall, &format!("2a000052{body}"));
}

#[test]
fn a_session_begins_and_ends() {
    let (region, device, epoch, highest) = (REGION, BOB, EPOCH, NEWER);
    check(
        Register { region, device, epoch },
        PeerFrame::Register,
        "1e00003002006b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b0105000000",
    );
    check(
        Registered {
            region,
            device,
            epoch,
            highest,
        },
        PeerFrame::Registered,
        "2a00003102006b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b010500000004000068e5cf8b0106000000",
    );
    check(
        Unregister { region, device, epoch },
        PeerFrame::Unregister,
        "1e00003202006b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b0105000000",
    );
    check(
        Outdated { device, epoch, highest },
        PeerFrame::Outdated,
        "280000336b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b010500000004000068e5cf8b0106000000",
    );
}

#[test]
fn a_stream_of_sessions() {
    let (region, sync) = (REGION, 9);
    check(
        SyncBegin { region, sync },
        PeerFrame::SyncBegin,
        "0a00003402000900000000000000",
    );
    check(
        SyncEnd {
            region,
            sync,
            shards: 4,
        },
        PeerFrame::SyncEnd,
        "0c000035020009000000000000000400",
    );
    check(
        Synced { region, sync },
        PeerFrame::Synced,
        "0a00003602000900000000000000",
    );
}

#[test]
fn a_map_s_version_and_a_relay() {
    check(
        MapVersion { version: 5, newest: 6 },
        PeerFrame::MapVersion,
        "1000004005000000000000000600000000000000",
    );
    check(MapTaken { version: 5 }, PeerFrame::MapTaken, "080000410500000000000000");
    let relay = Relay {
        region: REGION,
        device: BOB,
        epoch: EPOCH,
        ended: true,
    };
    check(
        relay,
        PeerFrame::Relay,
        "1f00004202006b30b4af57e5a5b8195f8b98605fcaf403000068e5cf8b010500000001",
    );
}

/// That of the example map in `PROTOCOL.md`.
fn map() -> MapId {
    MapId {
        lineage: LINEAGE,
        version: 1,
        digest: unhex("b37d6bf1d655a555ba275b40faf5a076"),
    }
}

#[test]
fn a_membership() {
    let space = Box::leak(Box::default());
    let join = Join {
        name: Text::clipped("edge-1"),
        roles: Roles {
            connection: true,
            messaging: true,
            region: false,
        },
        device_address: Some("10.0.0.1:7400".parse().unwrap()),
        peer_address: Some("[::1]:7401".parse().unwrap()),
        http_address: None,
        map: map(),
        regions: Names::new(["north", "south"], space).unwrap(),
        #[cfg(feature = "next-version")]
        build: trunkline_wire::codec::Newer::new(VERSION_MIN, Text::clipped("no byte of this")),
    };
    check(
        join,
        NodeFrame::Join,
        "5000005006656467652d3103040a000001e81c0600000000000000000000000000000001e91c008877665544332211010000\
 0000000000b37d6bf1d655a555ba275b40faf5a07602056e6f72746805736f757468",
    );
    let joined = Joined {
        node: NodeId(5),
        lease_ms: 15_000,
        lineage: LINEAGE,
    };
    check(joined, ControlFrame::Joined, "1000006005000000983a00008877665544332211");
    check(Renew { sessions: 18_000 }, NodeFrame::Renew, "080000515046000000000000");
    check(Renewed {}, ControlFrame::Renewed, "00000061");
    check(Leave {}, NodeFrame::Leave, "00000055");
}

#[test]
fn a_map_on_its_way() {
    let begin = MapBegin {
        map: map(),
        base: MapId::default(),
        bytes: 88,
        #[cfg(feature = "next-version")]
        whole: trunkline_wire::codec::Newer::new(VERSION_MIN, [0; 32]),
    };
    check(
        begin,
        ControlFrame::MapBegin,
        "4400006288776655443322110100000000000000b37d6bf1d655a555ba275b40faf5a0760000000000000000000000000000\
 00000000000000000000000000000000000058000000",
    );
    check(
        MapPart { bytes: Tail(b"TKM1") },
        ControlFrame::MapPart,
        "04000063544b4d31",
    );
    check(
        MapAck { map: map() },
        NodeFrame::MapAck,
        "2000005288776655443322110100000000000000b37d6bf1d655a555ba275b40faf5a076",
    );
    let reason = Text::clipped("the disk is full");
    check(
        MapNack { map: map(), reason },
        NodeFrame::MapNack,
        "3100005388776655443322110100000000000000b37d6bf1d655a555ba275b40faf5a07610746865206469736b2069732066\
 756c6c",
    );
    check(MapRequest {}, NodeFrame::MapRequest, "00000054");
    check(
        MapSettled { version: 5 },
        NodeFrame::MapSettled,
        "080000580500000000000000",
    );
}

#[test]
fn an_operator_s_request() {
    let json = Tail(br#"{"op":"status"}"#);
    check(
        Admin { request: 3, json },
        NodeFrame::Admin,
        "13000056030000007b226f70223a22737461747573227d",
    );
    let json = Tail(br#"{"error":"no"}"#);
    check(
        AdminAnswer {
            request: 3,
            ok: false,
            json,
        },
        ControlFrame::AdminAnswer,
        "1300006403000000007b226572726f72223a226e6f227d",
    );
}
