//! Known bytes. They were computed by another program from `PROTOCOL.md`, which shows them too: if one of these fails, the format
//! has changed, and with it everything that speaks it.

use std::fmt::Debug;

use trunkline_wire::auth::{ClusterKeys, DeviceToken, LinkEnd, LinkSide, Secret};
use trunkline_wire::codec::{Tail, Text};
use trunkline_wire::common::{Failure, Ping};
use trunkline_wire::control::{ADMIN_JSON_BYTES_MAX, CONTROL_BODY_BYTES_MAX, ControlFrame, Drain, Draining, NodeFrame};
use trunkline_wire::device::*;
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Incarnation, Instance, NodeId, RegionId};
use trunkline_wire::map::{Contents, MAP_BYTES_MAX, Map, NODES_MAX, Node, OVERRIDES_MAX, Region, Roles};
use trunkline_wire::peer::{Forward, PEER_BODY_BYTES_MAX, PeerFrame, Target};
use trunkline_wire::preface::{Preface, Side, VERSION_MAX, VERSION_MIN, Versions};
use trunkline_wire::report::{Number, Outcome, TTL_MS_MAX, Trail, TtlMs, Way};

const INSTANCE: Instance = Instance(0x1122_3344_5566_7788);
const CLOCK: u64 = 1_700_000_000_000 << 16 | 3;

fn unhex(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let bytes = digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    bytes.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `PROTOCOL.md` shows these bytes, with spaces for reading.
fn is_documented(hex: &str) -> bool {
    let document: String = include_str!("../PROTOCOL.md").split_whitespace().collect();
    document.contains(hex)
}

fn check<'a, F, T>(frame: F, wrap: impl Fn(F) -> T, known: &'a [u8])
where
    F: Encode + Copy,
    T: Decode<'a> + PartialEq + Debug,
{
    assert_eq!(hex(&frame.to_vec()), hex(known));
    // The frames of devices are all there; of those between nodes the tables.
    assert!(F::TYPE == Forward::TYPE || is_documented(&hex(known)));
    let (header, body) = known.split_first_chunk::<HEADER_BYTES>().unwrap();
    let header = Header::decode(*header);
    assert_eq!(header.length as usize, body.len());
    assert_eq!(T::decode(VERSION_MAX, header.ty, body), Ok(Some(wrap(frame))));
}

fn id(text: &str) -> IdRef<'_> {
    IdRef::new(text).unwrap()
}

fn first() -> Number {
    Number {
        number: 0,
        confirmed: Some(0),
    }
}

#[test]
fn a_preface() {
    let of = |side| hex(&Preface::offering(side, Versions::up_to(VERSION_MIN).unwrap()).encode());
    assert_eq!(of(Side::Device), "54524b4c01010100");
    assert_eq!(of(Side::Peer), "54524b4c02010100");
    assert_eq!(of(Side::Control), "54524b4c03010100");
}

#[test]
fn a_hello() {
    let known = "2100000105616c69636588776655443322110000000000000000000000000080a903000000";
    let hello = Hello {
        device: id("alice"),
        instance: INSTANCE,
        presented: Epoch::NONE,
        purpose: Purpose::Full,
        ping_interval: PingIntervalMs::default(),
        credentials: Credentials::default(),
    };
    check(hello, ClientFrame::Hello, &unhex(known));
}

#[test]
fn a_welcome() {
    let known = "190000410103000068e5cf8b010500000005000000407e050000040000";
    let welcome = Welcome {
        version: 1,
        epoch: Epoch {
            clock: CLOCK,
            node: NodeId(5),
        },
        node: NodeId(5),
        idle_ms: 360_000,
        unresolved_max: 1024,
    };
    check(welcome, ServerFrame::Welcome, &unhex(known));
}

#[test]
fn a_send() {
    let known = "2300000203626f62000000000000000001000000000000000060ea000068656c6c6f2c20626f62";
    let send = Send {
        recipient: id("bob"),
        number: first(),
        ttl: TtlMs::default(),
        payload: Tail(b"hello, bob"),
    };
    check(send, ClientFrame::Send, &unhex(known));
}

#[test]
fn a_send_that_wants_no_report() {
    let known = "1500000203626f62010000000000000000e80300007469636b";
    let send = Send {
        recipient: id("bob"),
        number: Number {
            number: 1,
            confirmed: None,
        },
        ttl: TtlMs::new(1000).unwrap(),
        payload: Tail(b"tick"),
    };
    check(send, ClientFrame::Send, &unhex(known));
}

#[test]
fn a_delivery() {
    let known =
        "31000042010000000000000005616c6963658877665544332211000000000000000001000000000000000068656c6c6f2c20626f62";
    let deliver = Deliver {
        delivery: 1,
        sender: id("alice"),
        instance: INSTANCE,
        number: first(),
        payload: Tail(b"hello, bob"),
    };
    check(deliver, ServerFrame::Deliver, &unhex(known));
}

#[test]
fn an_intent() {
    let known = "0400000403626f62";
    assert!(is_documented(known));
    let recipient = id("bob");
    check(Intend { recipient }, ClientFrame::Intend, &unhex(known));
}

#[test]
fn an_acknowledgement() {
    let acknowledge = Acknowledge {
        delivery: 1,
        late: false,
    };
    check(
        acknowledge,
        ClientFrame::Acknowledge,
        &unhex("09000003010000000000000000"),
    );
}

#[test]
fn a_report() {
    let report = Report {
        recipient: id("bob"),
        number: 0,
        outcome: Outcome::Delivered { late: false },
        way: Way::Local,
    };
    check(
        report,
        ServerFrame::Report,
        &unhex("1000004303626f62000000000000000001000001"),
    );
}

#[test]
fn a_ping_a_failure_a_go_away_and_a_superseded() {
    check(Ping { token: 7 }, ClientFrame::Ping, &unhex("080000100700000000000000"));
    let failure = Failure {
        code: ErrorCode::OutOfTurn,
        text: Text::clipped("a second hello"),
    };
    check(
        failure,
        ServerFrame::Failure,
        &unhex("1100001e05000e61207365636f6e642068656c6c6f"),
    );
    let go_away = GoAway {
        retry_after_ms: 5000,
        reason: GoAwayReason::Shutdown,
    };
    check(go_away, ServerFrame::GoAway, &unhex("050000448813000001"));
    let epoch = Epoch {
        clock: CLOCK + 1,
        node: NodeId(6),
    };
    check(
        Superseded { epoch },
        ServerFrame::Superseded,
        &unhex("0c00004504000068e5cf8b0106000000"),
    );
}

#[test]
fn error_codes_keep_their_numbers() {
    let names = [
        "bad_preface",
        "unsupported_version",
        "malformed",
        "too_long",
        "out_of_turn",
        "hello_timeout",
        "idle_timeout",
        "unauthorized",
        "wrong_secret",
        "slow_reader",
        "not_served",
        "internal",
    ];
    for (code, (number, name)) in ErrorCode::ALL.iter().zip((1u8..).zip(names)) {
        let text = Text::clipped("");
        assert_eq!((Failure { code: *code, text }).to_vec()[HEADER_BYTES..], [number, 0, 0]);
        assert_eq!(code.name(), name);
    }
    assert_eq!(ErrorCode::ALL.len(), names.len());
}

fn keys() -> ClusterKeys {
    ClusterKeys::new(&Secret::new(b"correct horse battery staple\n").unwrap())
}

#[test]
fn device_keys() {
    assert_eq!(
        keys().device_key(id("alice")).to_string(),
        "372bf231b16087712c2044923c4adcc1"
    );
    assert_eq!(
        keys().device_key(id("bob")).to_string(),
        "f4ca5f60988b5f19b8a5e557afb4306b"
    );
    assert_eq!(keys().device_key(id("alice")).slot(), 0x372b);
}

#[test]
fn a_key_check_and_both_proofs() {
    let end = |node, incarnation, byte| LinkEnd {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        nonce: [byte; 32],
    };
    let (opener, acceptor) = (end(1, 10, 1), end(2, 20, 2));
    assert_eq!(hex(&keys().check()), "b9505c23f7dd1210");
    let known = "2a5f371a49892ac50c305456306ebaa272a6f7bcf9aaed3db1e18bbe9aa4c3dc";
    assert_eq!(hex(&keys().prove(LinkSide::Opener, &opener, &acceptor)), known);
    let known = "2b98f47ec16db6204dbbeee98c6e39bd1c2a56f99d5d21223d53a72c78fca0dc";
    assert_eq!(hex(&keys().prove(LinkSide::Acceptor, &opener, &acceptor)), known);
}

#[test]
fn a_token() {
    let key = Secret::new(b"correct horse battery staple").unwrap();
    let token = DeviceToken::sign(&key, id("alice"), 2_000_000_000);
    let known = "0094357700000000921e4e4b70a7fe9ecd7f80ef442f3eaad294110c7b7c48459e851843722f2eaa";
    assert_eq!(token.to_string(), known);
}

#[test]
fn a_forward() {
    let known = "5f0000206b30b4af57e5a5b8195f8b98605fcaf4000000000000000000000000000101000000c1dc4a3c9244202c718760b131f22b37\
                 05616c6963658877665544332211000000000000000001000000000000000056ea000068656c6c6f2c20626f62";
    let forward = Forward {
        recipient: keys().device_key(id("bob")),
        target: Target::Region { gone: Epoch::NONE },
        trail: Trail::default().then(NodeId(1)).unwrap(),
        sender_key: keys().device_key(id("alice")),
        sender: id("alice"),
        instance: INSTANCE,
        number: first(),
        ttl: TtlMs::new(59_990).unwrap(),
        payload: Tail(b"hello, bob"),
    };
    check(forward, PeerFrame::Forward, &unhex(known));
}

#[test]
fn a_drain_and_what_a_node_says_of_it() {
    let drain = Drain { on: true, rate: 500 };
    check(drain, ControlFrame::Drain, &unhex("0500004801f4010000"));
    let draining = Draining { on: true };
    check(draining, NodeFrame::Draining, &unhex("0100004901"));
}

fn map(version: u64, change: impl FnOnce(&mut Contents)) -> Map {
    let mut contents = Contents::default();
    contents.slots.fill(RegionId(1));
    let region = Region {
        name: "north".into(),
        instances: vec![NodeId(1)],
    };
    contents.regions.insert(RegionId(1), region);
    let node = Node {
        name: "node-1".into(),
        incarnation: Incarnation(3),
        roles: Roles {
            region: true,
            ..Roles::default()
        },
        device_address: None,
        peer_address: Some(([10, 0, 0, 1], 7401).into()),
        http_address: None,
    };
    contents.nodes.insert(NodeId(1), node);
    change(&mut contents);
    Map::build(INSTANCE.0, version, contents).unwrap()
}

#[test]
fn a_map_and_a_delta() {
    let one = map(1, |_| {});
    let known = "544b4d3188776655443322110100000000000000010000000100056e6f72746801010000000100000001000000066e6f6465\
                 2d3103000000000000000400040a000001e91c0001000000ffff010000000000000000000000000000000000";
    assert_eq!(hex(&one.encode()), known);
    assert_eq!(hex(&one.id().digest), "b37d6bf1d655a555ba275b40faf5a076");
    let bob = DeviceKey(0xf4ca_5f60_988b_5f19_b8a5_e557_afb4_306b);
    let two = map(2, |contents| {
        contents.overrides.insert(bob, RegionId(1));
    });
    let known = "544b443188776655443322110100000000000000b37d6bf1d655a555ba275b40faf5a0768877665544332211020000000000\
                 0000299f649932f8b07701d4066a535a53300000000000000000000000000000000000000000000000000000000000000000\
                 010000006b30b4af57e5a5b8195f8b98605fcaf4010000000000000000000000000000000000";
    assert_eq!(hex(&Map::delta(&one, &two)), known);
    assert_eq!(Map::apply(&one, &unhex(known), two.id()), Ok(two));
}

#[test]
fn the_document_names_the_limits() {
    let number = |number: usize| {
        let digits = number.to_string();
        let groups: Vec<&str> = digits
            .as_bytes()
            .rchunks(3)
            .rev()
            .map(|three| std::str::from_utf8(three).unwrap())
            .collect();
        groups.join(",")
    };
    for limit in [
        PAYLOAD_BYTES_MAX,
        HELLO_BODY_BYTES_MAX,
        DEVICE_BODY_BYTES_MAX,
        PEER_BODY_BYTES_MAX,
        CONTROL_BODY_BYTES_MAX,
        ADMIN_JSON_BYTES_MAX,
        MAP_BYTES_MAX,
        NODES_MAX,
        OVERRIDES_MAX,
        TTL_MS_MAX as usize,
        PING_INTERVAL_MS_MAX as usize,
        PING_INTERVAL_MS_DEFAULT as usize,
    ] {
        assert!(
            include_str!("../PROTOCOL.md").contains(&number(limit)),
            "{}",
            number(limit)
        );
    }
}

#[test]
fn the_document_shows_the_keys_the_proofs_the_token_and_the_map() {
    for known in [
        "372bf231b16087712c2044923c4adcc1",
        "f4ca5f60988b5f19b8a5e557afb4306b",
        "b9505c23f7dd1210",
        "2a5f371a49892ac50c305456306ebaa272a6f7bcf9aaed3db1e18bbe9aa4c3dc",
        "2b98f47ec16db6204dbbeee98c6e39bd1c2a56f99d5d21223d53a72c78fca0dc",
        "0094357700000000921e4e4b70a7fe9ecd7f80ef442f3eaad294110c7b7c48459e851843722f2eaa",
    ] {
        assert!(is_documented(known), "{known}");
    }
    let one = map(1, |_| {});
    let shown = [hex(&one.encode()), "digest".into(), hex(&one.id().digest)].concat();
    assert!(is_documented(&shown));
}

#[cfg(feature = "next-version")]
mod next_version {
    use trunkline_wire::codec::{DecodeError, Newer};
    use trunkline_wire::control::{Join, MapBegin, MapId, Names};
    use trunkline_wire::peer::Build;

    use super::*;

    #[test]
    fn its_frame_is_unknown_where_the_older_version_is_spoken() {
        let build = Build {
            label: Text::clipped("two"),
        };
        let known = unhex("040000700374776f");
        assert_eq!(build.to_vec(), known);
        let body = &known[HEADER_BYTES..];
        assert_eq!(
            PeerFrame::decode(VERSION_MAX, 0x70, body),
            Ok(Some(PeerFrame::Build(build)))
        );
        let refused = Err(DecodeError::UnknownType(0x70));
        assert_eq!(PeerFrame::decode(VERSION_MIN, 0x70, body), refused);
    }

    #[test]
    fn its_fields_follow_the_others_and_an_older_version_has_no_byte_of_them() {
        let id = MapId {
            lineage: 1,
            version: 2,
            digest: [3; 16],
        };
        let begin = |version| MapBegin {
            map: id,
            base: MapId::default(),
            bytes: 9,
            whole: Newer::new(version, [0xaa; 32]),
        };
        let mut space = Vec::new();
        let join = |version, regions| Join {
            name: Text::clipped("n"),
            roles: Roles {
                messaging: true,
                ..Roles::default()
            },
            device_address: None,
            peer_address: None,
            http_address: None,
            map: MapId::default(),
            regions,
            build: Newer::new(version, Text::clipped("two")),
        };
        let regions = Names::new([], &mut space).unwrap();
        let (join_old, join_new) = (join(VERSION_MIN, regions), join(VERSION_MAX, regions));
        let joins = (join_old.to_vec(), join_new.to_vec());
        let begins = (begin(VERSION_MIN).to_vec(), begin(VERSION_MAX).to_vec());
        for ((old, new), more) in [(&joins, unhex("0374776f")), (&begins, vec![0xaa; 32])]
            .map(|((old, new), more)| ((&old[HEADER_BYTES..], &new[HEADER_BYTES..]), more))
        {
            assert_eq!(new, [old, &more].concat());
        }
        let (old, new) = (&joins.0[HEADER_BYTES..], &joins.1[HEADER_BYTES..]);
        assert_eq!(
            NodeFrame::decode(VERSION_MAX, 0x50, new),
            Ok(Some(NodeFrame::Join(join_new)))
        );
        assert_eq!(
            NodeFrame::decode(VERSION_MIN, 0x50, old),
            Ok(Some(NodeFrame::Join(join_old)))
        );
        assert_eq!(NodeFrame::decode(VERSION_MIN, 0x50, new), Err(DecodeError::Trailing(4)));
        assert_eq!(NodeFrame::decode(VERSION_MAX, 0x50, old), Err(DecodeError::Truncated));
        let (old, new) = (&begins.0[HEADER_BYTES..], &begins.1[HEADER_BYTES..]);
        assert_eq!(
            ControlFrame::decode(VERSION_MIN, 0x62, new),
            Err(DecodeError::Trailing(32))
        );
        assert_eq!(
            ControlFrame::decode(VERSION_MAX, 0x62, old),
            Err(DecodeError::Truncated)
        );
    }
}
