//! Every value has one way to be written: what is encoded comes back, and what can be decoded encodes to the same bytes.

mod common;

use std::fmt::Debug;
use std::net::SocketAddr;

use common::frames::*;
use proptest::prelude::*;
use trunkline_wire::auth::{DeviceToken, TOKEN_BYTES};
use trunkline_wire::codec::{Field, Reader, Text};
use trunkline_wire::common::CommonFrame;
use trunkline_wire::control::{ControlFrame, MapId, Names, NodeFrame, Roles};
use trunkline_wire::device::{ClientFrame, Credentials, ErrorCode, GoAwayReason, PingIntervalMs, Purpose, ServerFrame};
use trunkline_wire::frame::{Decode, HEADER_BYTES, Header, is_ignorable};
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, NodeId};
use trunkline_wire::peer::{PeerFrame, Target};
use trunkline_wire::preface::{PREFACE_BYTES, Preface, VERSION_MAX, check_prefix};
use trunkline_wire::report::{Answer, Number, Outcome, Trail, TtlMs, Way};

/// One frame that fills `bytes`, whichever side's.
fn decode<'a, F: Decode<'a>>(bytes: &'a [u8]) -> Option<F> {
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let header = Header::decode(*header);
    assert_eq!(header.length as usize, body.len());
    F::decode(VERSION_MAX, header.ty, body).unwrap()
}

/// Whatever a field makes of bytes, it writes back just those.
fn field<'a, F: Field<'a> + Debug>(bytes: &'a [u8]) {
    let mut reader = Reader::new(bytes);
    if let Ok(value) = F::take(&mut reader) {
        let mut out = Vec::new();
        value.put(&mut out);
        assert_eq!(out, bytes[..bytes.len() - reader.remaining()], "{value:?}");
    }
}

macro_rules! frames {
    ($($test:ident, $arbitrary:ident, $values:expr, $enum:ident;)*) => {
        proptest! {
            $(
                #[test]
                fn $test(frame in $values) {
                    let mut bytes = Vec::new();
                    frame.encode(&mut bytes);
                    prop_assert_eq!(decode::<$enum>(&bytes), Some(frame));
                }

                #[test]
                fn $arbitrary(ty: u8, body in short_or_long(), valid in $values, damage in damage()) {
                    check_frame::<$enum>(ty, &body, |frame, out| frame.encode(out));
                    // Bytes that are almost a frame reach deeper than any bytes.
                    let mut bytes = Vec::new();
                    valid.encode(&mut bytes);
                    let ty = bytes[HEADER_BYTES - 1];
                    let mut body = bytes.split_off(HEADER_BYTES);
                    apply(damage, &mut body);
                    check_frame::<$enum>(ty, &body, |frame, out| frame.encode(out));
                }
            )*
        }
    };
}

frames! {
    client_frames_come_back, any_bytes_to_a_server_are_one_frame_or_refused, client_frame(), ClientFrame;
    server_frames_come_back, any_bytes_to_a_device_are_one_frame_or_refused, server_frame(), ServerFrame;
    peer_frames_come_back, any_bytes_to_a_peer_are_one_frame_or_refused, peer_frame(), PeerFrame;
    node_frames_come_back, any_bytes_to_control_are_one_frame_or_refused, node_frame(), NodeFrame;
    control_frames_come_back, any_bytes_to_a_node_are_one_frame_or_refused, control_frame(), ControlFrame;
    common_frames_come_back, any_bytes_are_one_common_frame_or_refused, common_frame(), CommonFrame;
}

fn check_frame<'a, F: Decode<'a>>(ty: u8, body: &'a [u8], encode: impl Fn(&F, &mut Vec<u8>)) {
    match F::decode(VERSION_MAX, ty, body) {
        Ok(Some(frame)) => {
            let mut bytes = Vec::new();
            encode(&frame, &mut bytes);
            assert_eq!(bytes[HEADER_BYTES..], *body);
            assert_eq!(bytes[HEADER_BYTES - 1], ty);
        }
        Ok(None) => assert!(is_ignorable(ty)),
        Err(_) => assert!(!is_ignorable(ty)),
    }
}

fn common_frame() -> impl Strategy<Value = CommonFrame<'static>> {
    client_frame().prop_filter_map("shared", |frame| match frame {
        ClientFrame::Ping(ping) => Some(CommonFrame::Ping(ping)),
        ClientFrame::Pong(pong) => Some(CommonFrame::Pong(pong)),
        ClientFrame::Failure(failure) => Some(CommonFrame::Failure(failure)),
        ClientFrame::Hello(_) | ClientFrame::Send(_) | ClientFrame::Acknowledge(_) | ClientFrame::Intend(_) => None,
    })
}

fn short_or_long() -> impl Strategy<Value = Vec<u8>> {
    let small = prop::num::u8::ANY.prop_map(|byte| byte % 8);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        prop::collection::vec(small, 0..80), // flags, tags and lengths are small numbers
    ]
}

/// Bytes to overwrite, and how many to cut off or to append.
type Damage = (Vec<(prop::sample::Index, u8)>, usize, usize);

fn damage() -> impl Strategy<Value = Damage> {
    let overwrite = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (overwrite, 0..3usize, 0..3usize)
}

fn apply((overwrite, cut, append): Damage, body: &mut Vec<u8>) {
    for (index, value) in overwrite {
        if !body.is_empty() {
            *index.get_mut(body) = value;
        }
    }
    body.truncate(body.len().saturating_sub(cut));
    body.resize(body.len() + append, 0);
}

proptest! {
    #[test]
    fn any_field_writes_back_the_bytes_that_it_took(bytes in short_or_long()) {
        field::<bool>(&bytes);
        field::<IdRef>(&bytes);
        field::<Text>(&bytes);
        field::<DeviceKey>(&bytes);
        field::<Epoch>(&bytes);
        field::<Number>(&bytes);
        field::<TtlMs>(&bytes);
        field::<Outcome>(&bytes);
        field::<Answer>(&bytes);
        field::<Way>(&bytes);
        field::<Trail>(&bytes);
        field::<Target>(&bytes);
        field::<Credentials>(&bytes);
        field::<Purpose>(&bytes);
        field::<ErrorCode>(&bytes);
        field::<GoAwayReason>(&bytes);
        field::<PingIntervalMs>(&bytes);
        field::<Roles>(&bytes);
        field::<Option<SocketAddr>>(&bytes);
        field::<Names>(&bytes);
        field::<MapId>(&bytes);
    }

    #[test]
    fn names_come_back_in_their_order(list in prop::collection::vec("\\PC{1,20}", 0..64)) {
        let mut space = Vec::new();
        let names = Names::new(list.iter().map(String::as_str), &mut space).unwrap();
        prop_assert!(names.iter().eq(list.iter().map(String::as_str)));
    }

    #[test]
    fn a_trail_grows_and_shrinks_by_its_end(nodes in prop::collection::btree_set(1u32.., 0..=4)) {
        let grown = nodes.iter().fold(Trail::default(), |trail, node| trail.then(NodeId(*node)).unwrap());
        prop_assert_eq!(grown.nodes().len(), nodes.len());
        prop_assert_eq!(grown.then(NodeId(0)), None);
        for node in &nodes {
            prop_assert_eq!(grown.then(NodeId(*node)), None);
        }
        let mut rest = grown;
        for _ in &nodes {
            let last = rest.last().unwrap();
            prop_assert_eq!(rest.back().then(last), Some(rest));
            rest = rest.back();
        }
        prop_assert_eq!(rest, Trail::default());
    }

    #[test]
    fn a_header_comes_back(bytes: [u8; HEADER_BYTES]) {
        prop_assert_eq!(Header::decode(bytes).encode(), bytes);
    }

    #[test]
    fn a_preface_has_one_form(random: [u8; PREFACE_BYTES], near in near_preface()) {
        for bytes in [random, near] {
            if let Ok(preface) = Preface::decode(bytes) {
                prop_assert_eq!(preface.encode(), bytes);
                prop_assert!((0..=PREFACE_BYTES).all(|end| check_prefix(&bytes[..end]).is_ok()));
            }
        }
    }

    #[test]
    fn a_token_has_one_text(text in "[0-9a-f]{80}", other in "\\PC{0,90}") {
        let token: DeviceToken = text.parse().unwrap();
        prop_assert_eq!(token.to_string(), text);
        prop_assert_eq!(token.bytes().len(), TOKEN_BYTES);
        if let Ok(token) = other.parse::<DeviceToken>() {
            prop_assert_eq!(token.to_string(), other);
        }
    }
}

fn near_preface() -> impl Strategy<Value = [u8; PREFACE_BYTES]> {
    (0..5u8, 0..4u8, 0..4u8, 0..2u8).prop_map(|(side, min, max, zero)| [b'T', b'R', b'K', b'L', side, min, max, zero])
}
