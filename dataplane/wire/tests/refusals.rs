//! What a decoder refuses, and what it says.

use trunkline_wire::auth::{DeviceToken, Secret, TokenError};
use trunkline_wire::codec::{DecodeError, Field, Reader, Tail, Text};
use trunkline_wire::common::Ping;
use trunkline_wire::control::{ADMIN_JSON_BYTES_MAX, CONTROL_BODY_BYTES_MAX, Names, NodeFrame, REGIONS_PER_NODE_MAX};
use trunkline_wire::device::*;
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES};
use trunkline_wire::id::{Epoch, IdError, IdRef, Instance, NodeId};
use trunkline_wire::peer::{PeerFrame, Target};
use trunkline_wire::preface::{Preface, PrefaceError, Side, VERSION_MAX, VERSION_MIN, Versions, check_prefix};
use trunkline_wire::report::{HOPS_MAX, Number, Outcome, TTL_MS_MAX, Trail, TtlMs};

fn client(ty: u8, body: &[u8]) -> Result<Option<ClientFrame<'_>>, DecodeError> {
    ClientFrame::decode(VERSION_MAX, ty, body)
}

fn take<'a, F: Field<'a>>(bytes: &'a [u8]) -> Result<F, DecodeError> {
    F::take(&mut Reader::new(bytes))
}

fn hello_body() -> Vec<u8> {
    let hello = Hello {
        device: IdRef::new("alice").unwrap(),
        instance: Instance(7),
        presented: Epoch::NONE,
        purpose: Purpose::Full,
        ping_interval: PingIntervalMs::default(),
        credentials: Credentials::new(b"some").unwrap(),
    };
    hello.to_vec().split_off(HEADER_BYTES)
}

#[test]
fn a_preface_with_another_magic_is_refused_at_its_first_wrong_byte() {
    assert_eq!(check_prefix(b""), Ok(()));
    assert_eq!(check_prefix(b"TRK"), Ok(()));
    assert_eq!(check_prefix(b"TRX"), Err(PrefaceError::Magic));
    assert_eq!(check_prefix(b"G"), Err(PrefaceError::Magic));
    assert_eq!(Preface::decode(*b"GET / HT"), Err(PrefaceError::Magic));
    assert_eq!(Preface::decode(*b"trkl\x01\x01\x01\x00"), Err(PrefaceError::Magic));
}

#[test]
fn a_malformed_preface_is_refused() {
    for bad in [
        *b"TRKL\x00\x01\x01\x00", // no side 0
        *b"TRKL\x04\x01\x01\x00", // no side 4
        *b"TRKL\x01\x00\x01\x00", // no version 0
        *b"TRKL\x01\x02\x01\x00", // lowest above highest
        *b"TRKL\x01\x01\x01\x01", // the last byte is 0
    ] {
        assert_eq!(Preface::decode(bad), Err(PrefaceError::Malformed));
    }
}

#[test]
fn versions_are_negotiated_down_or_not_at_all() {
    let offered = |min, max| {
        let preface = Preface::decode([b'T', b'R', b'K', b'L', 1, min, max, 0]).unwrap();
        assert_eq!(preface.side, Side::Device);
        preface.versions
    };
    assert_eq!(Versions::BUILD.common(offered(1, VERSION_MAX)), Ok(VERSION_MAX));
    assert_eq!(Versions::BUILD.common(offered(1, 255)), Ok(VERSION_MAX));
    for max in VERSION_MIN..=VERSION_MAX {
        let older = Versions::up_to(max).unwrap();
        assert_eq!(
            (older.common(Versions::BUILD), Versions::BUILD.common(older)),
            (Ok(max), Ok(max))
        );
    }
    assert_eq!((Versions::up_to(0), Versions::up_to(VERSION_MAX + 1)), (None, None));
    let refusal = Versions::up_to(1).unwrap().common(offered(3, 5)).unwrap_err();
    let line = "no common protocol version: this side speaks 1, the other offers 3 to 5; upgrade the older one first";
    assert_eq!(refusal.to_string(), line);
}

#[test]
fn a_device_id_has_1_to_64_bytes() {
    assert_eq!(IdRef::new(""), Err(IdError { bytes: 0 }));
    assert_eq!(IdRef::new(&"x".repeat(65)), Err(IdError { bytes: 65 }));
    assert!(IdRef::new(&"x".repeat(64)).is_ok());
    assert!(IdRef::new(&"é".repeat(33)).is_err(), "bytes count, not characters");
    assert_eq!(take::<IdRef>(&[0]), Err(DecodeError::IdLength(0)));
    assert_eq!(take::<IdRef>(&[65; 66]), Err(DecodeError::IdLength(65)));
    assert_eq!(take::<IdRef>(&[2, b'a']), Err(DecodeError::Truncated));
    assert_eq!(take::<IdRef>(&[1, 0xff]), Err(DecodeError::Utf8));
}

#[test]
fn a_frame_that_ends_early_is_truncated_wherever_it_ends() {
    let body = hello_body();
    assert!(client(0x01, &body).is_ok());
    for end in 0..body.len() {
        assert_eq!(client(0x01, &body[..end]), Err(DecodeError::Truncated), "at {end}");
    }
}

#[test]
fn bytes_after_the_last_field_are_refused() {
    let mut body = hello_body();
    body.extend_from_slice(b"xy");
    assert_eq!(client(0x01, &body), Err(DecodeError::Trailing(2)));
    assert_eq!(client(0x10, &[0; 9]), Err(DecodeError::Trailing(1)));
    assert_eq!(
        PeerFrame::decode(VERSION_MAX, 0x05, &[1]),
        Err(DecodeError::Trailing(1))
    );
}

#[test]
fn an_unknown_type_is_refused_and_an_ignorable_one_is_skipped() {
    assert_eq!(client(0x00, &[]), Err(DecodeError::UnknownType(0)));
    assert_eq!(client(0x7f, &[]), Err(DecodeError::UnknownType(0x7f)));
    assert_eq!(client(0x80, b"whatever"), Ok(None));
    assert_eq!(client(0xff, &[]), Ok(None));
    // What the server says is not for a device to say.
    assert_eq!(client(0x41, &[0; 25]), Err(DecodeError::UnknownType(0x41)));
}

#[test]
fn flags_are_0_or_1() {
    assert_eq!(
        client(0x03, &[0, 0, 0, 0, 0, 0, 0, 0, 2]),
        Err(DecodeError::Value("flag"))
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    let below = Number {
        number: 5,
        confirmed: Some(5),
    };
    let mut bytes = Vec::new();
    below.put(&mut bytes);
    assert_eq!(take::<Number>(&bytes), Ok(below));
    bytes[0] = 4; // the lowest unresolved number, 5, is now above the message's own
    assert_eq!(
        take::<Number>(&bytes),
        Err(DecodeError::Value("lowest unresolved number"))
    );

    assert_eq!(
        take::<TtlMs>(&0u32.to_le_bytes()),
        Err(DecodeError::Value("time to live"))
    );
    assert!(take::<TtlMs>(&TTL_MS_MAX.to_le_bytes()).is_ok());
    assert!(take::<TtlMs>(&(TTL_MS_MAX + 1).to_le_bytes()).is_err());
    assert!(take::<PingIntervalMs>(&(PING_INTERVAL_MS_MIN - 1).to_le_bytes()).is_err());
    assert!(take::<PingIntervalMs>(&(PING_INTERVAL_MS_MAX + 1).to_le_bytes()).is_err());
    assert_eq!(take::<ErrorCode>(&[0, 0]), Err(DecodeError::Value("error code")));
    assert_eq!(take::<ErrorCode>(&[13, 0]), Err(DecodeError::Value("error code")));
    assert_eq!(take::<Purpose>(&[2]), Err(DecodeError::Value("purpose")));
    assert_eq!(take::<GoAwayReason>(&[0]), Err(DecodeError::Value("go-away reason")));
}

#[test]
fn half_an_epoch_is_refused() {
    let epoch = |clock, node| {
        let mut bytes = Vec::new();
        let node = NodeId(node);
        Epoch { clock, node }.put(&mut bytes);
        take::<Epoch>(&bytes).is_ok()
    };
    assert!(epoch(0, 0) && epoch(1, 1));
    assert!(!epoch(0, 1) && !epoch(1, 0));
}

#[test]
fn a_session_target_names_a_session() {
    let mut bytes = Vec::new();
    Target::Session { epoch: Epoch::NONE }.put(&mut bytes);
    assert_eq!(take::<Target>(&bytes), Err(DecodeError::Value("target")));
}

#[test]
fn an_outcome_has_no_second_form() {
    assert_eq!(take::<Outcome>(&[1, 0, 0]), Ok(Outcome::Delivered { late: false }));
    for bad in [
        [1, 0, 1],
        [1, 2, 0],
        [3, 1, 0],
        [4, 0, 0],
        [4, 4, 0],
        [0, 0, 0],
        [5, 0, 0],
    ] {
        assert_eq!(take::<Outcome>(&bad), Err(DecodeError::Value("outcome")));
    }
    assert_eq!(take::<Outcome>(&[2, 0, 2]), Err(DecodeError::Value("maybe_delivered")));
}

#[test]
fn a_trail_passes_no_node_twice_and_ends_at_the_hop_limit() {
    let trail = |nodes: &[u32]| {
        let mut bytes = vec![nodes.len() as u8];
        nodes.iter().for_each(|node| node.put(&mut bytes));
        take::<Trail>(&bytes).map(|trail| trail.nodes().len())
    };
    assert_eq!(trail(&[1, 2, 3, 4]), Ok(HOPS_MAX));
    assert_eq!(trail(&[1, 2, 3, 4, 5]), Err(DecodeError::Value("trail")));
    assert_eq!(trail(&[1, 2, 1]), Err(DecodeError::Value("trail")));
    assert_eq!(trail(&[0]), Err(DecodeError::Value("trail")));
}

#[test]
fn what_ends_a_frame_has_a_limit_of_its_own() {
    let send = |payload| Send {
        recipient: IdRef::new("b").unwrap(),
        number: Number {
            number: 0,
            confirmed: None,
        },
        ttl: TtlMs::default(),
        payload,
    };
    let largest = vec![7; PAYLOAD_BYTES_MAX];
    let mut body = send(Tail(&largest)).to_vec().split_off(HEADER_BYTES);
    assert!(client(0x02, &body).is_ok());
    body.push(7);
    // The body is still within the frame's limit: nothing but this refuses it.
    assert!(body.len() <= DEVICE_BODY_BYTES_MAX);
    assert_eq!(client(0x02, &body), Err(DecodeError::TooLong("payload")));
    let admin = vec![0; CONTROL_BODY_BYTES_MAX];
    assert!(NodeFrame::decode(VERSION_MAX, 0x56, &admin[..4 + ADMIN_JSON_BYTES_MAX]).is_ok());
    assert!(NodeFrame::decode(VERSION_MAX, 0x56, &[&admin[..], &[0]].concat()).is_err());
}

#[test]
fn credentials_and_lists_of_names_have_limits() {
    assert_eq!(
        take::<Credentials>(&[1, 2, 0]),
        Err(DecodeError::TooLong("credentials"))
    );
    assert_eq!(Credentials::new(&[0; CREDENTIALS_BYTES_MAX + 1]), None);
    assert_eq!(take::<Names>(&[65]), Err(DecodeError::TooLong("names")));
    assert_eq!(take::<Names>(&[1, 0]), Err(DecodeError::Value("name")));
    let mut space = Vec::new();
    assert_eq!(Names::new([""], &mut space), None);
    assert_eq!(Names::new([&*"x".repeat(256)], &mut space), None);
    assert_eq!(Names::new(vec!["x"; REGIONS_PER_NODE_MAX + 1], &mut space), None);
}

#[test]
fn text_is_clipped_at_a_character() {
    let long = "é".repeat(200);
    assert_eq!(Text::clipped(&long).as_str().len(), 254);
    assert_eq!(Text::clipped("short").as_str(), "short");
}

#[test]
fn a_token_lets_in_its_device_until_it_expires() {
    let key = Secret::new(b"0123456789abcdef").unwrap();
    let other = Secret::new(b"another key of 16").unwrap();
    let (alice, bob) = (IdRef::new("alice").unwrap(), IdRef::new("bob").unwrap());
    let token = DeviceToken::sign(&key, alice, 1000);
    let verify = |key, device, bytes: &[u8], now| DeviceToken::verify(key, device, bytes, now);
    assert_eq!(verify(&key, alice, token.bytes(), 999), Ok(()));
    assert_eq!(verify(&key, alice, token.bytes(), 1000), Err(TokenError::Expired));
    assert_eq!(verify(&key, bob, token.bytes(), 999), Err(TokenError::Invalid));
    assert_eq!(verify(&other, alice, token.bytes(), 999), Err(TokenError::Invalid));
    assert_eq!(verify(&key, alice, &[], 999), Err(TokenError::Missing));
    assert_eq!(verify(&key, alice, &token.bytes()[1..], 999), Err(TokenError::Invalid));
    let mut later = token.bytes().to_vec();
    later[1] ^= 0xff; // a later expiry under the old signature
    assert_eq!(verify(&key, alice, &later, 999), Err(TokenError::Invalid));
    assert_eq!("".parse::<DeviceToken>(), Err(TokenError::Invalid));
    assert_eq!(
        token.to_string().to_uppercase().parse::<DeviceToken>(),
        Err(TokenError::Invalid)
    );
}

#[test]
fn a_short_secret_is_refused() {
    assert!(Secret::new(b"  15 bytes at most  \n").is_ok());
    assert!(Secret::new(b"   0123456789abcde \n").is_err());
    assert_eq!(format!("{:?}", Secret::new(b"0123456789abcdef").unwrap()), "Secret(..)");
}

#[test]
fn every_error_is_one_line() {
    for error in [
        DecodeError::Truncated,
        DecodeError::Trailing(3),
        DecodeError::IdLength(0),
        DecodeError::Utf8,
        DecodeError::Value("x"),
        DecodeError::TooLong("x"),
        DecodeError::UnknownType(0x7f),
    ] {
        assert_eq!(error.to_string().lines().count(), 1);
    }
    assert_eq!(DecodeError::UnknownType(0x7f).to_string(), "unknown frame type 0x7f");
    assert_eq!(Ping { token: 0 }.to_vec().len(), HEADER_BYTES + 8);
}
