//! Every frame of the three sides, with any values. Borrowed fields borrow from leaked memory: a test's values may live as long as it.

use proptest::prelude::*;
use proptest::strategy::Union;
use trunkline_wire::affinity::{AFFINITY_ENTRIES_MAX, AffinityEntry, AffinityList, AffinityVersion, AffinityWeight};
#[cfg(feature = "next-version")]
use trunkline_wire::codec::Newer;
use trunkline_wire::codec::{Tail, Text};
use trunkline_wire::common::{Failure, Ping, Pong};
use trunkline_wire::control::*;
use trunkline_wire::device::*;
use trunkline_wire::id::{DeviceKey, Epoch, IdRef, Incarnation, Instance, NodeId, PartnerKey, RegionId};
use trunkline_wire::peer::*;
#[cfg(feature = "next-version")]
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::report::{
    Answer, HOPS_MAX, Number, Outcome, RejectReason, RetryReason, TTL_MS_MAX, Trail, TtlMs, Way,
};

use super::{address, roles};

fn leak<T: ?Sized>(value: impl Into<Box<T>>) -> &'static T {
    Box::leak(value.into())
}

pub fn bytes(max: usize) -> impl Strategy<Value = &'static [u8]> {
    prop::collection::vec(any::<u8>(), 0..=max).prop_map(leak::<[u8]>)
}

pub fn id() -> impl Strategy<Value = IdRef<'static>> {
    let any_text = "\\PC{1,16}".prop_map(leak::<str>);
    let longest = "[a-z]{64}".prop_map(leak::<str>);
    prop_oneof![any_text, longest].prop_map(|text| IdRef::new(text).unwrap())
}

pub fn text() -> impl Strategy<Value = Text<'static>> {
    "\\PC{0,80}".prop_map(|text| Text::clipped(leak::<str>(text)))
}

pub fn key() -> impl Strategy<Value = DeviceKey> {
    any::<u128>().prop_map(DeviceKey)
}

pub fn session() -> impl Strategy<Value = Epoch> {
    (1u64.., 1u32..).prop_map(|(clock, node)| Epoch {
        clock,
        node: NodeId(node),
    })
}

pub fn epoch() -> impl Strategy<Value = Epoch> {
    prop_oneof![1 => Just(Epoch::NONE), 4 => session()]
}

pub fn number() -> impl Strategy<Value = Number> {
    (any::<u64>(), prop::option::of(any::<u64>())).prop_map(|(number, lowest)| Number {
        number,
        confirmed: lowest.map(|lowest| lowest.min(number)),
    })
}

pub fn ttl() -> impl Strategy<Value = TtlMs> {
    (1..=TTL_MS_MAX).prop_map(|ms| TtlMs::new(ms).unwrap())
}

pub fn outcome() -> impl Strategy<Value = Outcome> {
    let reasons = vec![RejectReason::Busy, RejectReason::Refused, RejectReason::NotPermitted];
    let rejected = (prop::sample::select(reasons), any::<bool>());
    prop_oneof![
        any::<bool>().prop_map(|late| Outcome::Delivered { late }),
        any::<(bool, bool)>().prop_map(|(unreachable, maybe_delivered)| Outcome::Offline {
            unreachable,
            maybe_delivered,
        }),
        any::<bool>().prop_map(|maybe_delivered| Outcome::Expired { maybe_delivered }),
        rejected.prop_map(|(reason, maybe_delivered)| Outcome::Rejected {
            reason,
            maybe_delivered,
        }),
    ]
}

pub fn answer() -> impl Strategy<Value = Answer> {
    let retry = (prop::sample::select(&RetryReason::ALL[..]), any::<bool>());
    prop_oneof![
        outcome().prop_map(Answer::Final),
        retry.prop_map(|(reason, maybe_delivered)| Answer::Retry {
            reason,
            maybe_delivered,
        }),
    ]
}

pub fn way() -> impl Strategy<Value = Way> {
    prop::sample::select(&[Way::Unknown, Way::Local, Way::Direct, Way::Region][..])
}

pub fn trail() -> impl Strategy<Value = Trail> {
    prop::collection::vec(1u32.., 0..=HOPS_MAX).prop_map(|nodes| {
        let grown = nodes
            .iter()
            .try_fold(Trail::default(), |trail, node| trail.then(NodeId(*node)));
        grown.unwrap_or_default()
    })
}

pub fn names() -> impl Strategy<Value = Names<'static>> {
    prop::collection::vec("\\PC{1,20}", 0..=REGIONS_PER_NODE_MAX).prop_map(|names| {
        let space = Box::leak(Box::default());
        Names::new(names.iter().map(String::as_str), space).unwrap()
    })
}

pub fn map_id() -> impl Strategy<Value = MapId> {
    any::<(u64, u64, [u8; 16])>().prop_map(|(lineage, version, digest)| MapId {
        lineage,
        version,
        digest,
    })
}

fn node() -> impl Strategy<Value = NodeId> {
    any::<u32>().prop_map(NodeId)
}

fn region() -> impl Strategy<Value = RegionId> {
    any::<u16>().prop_map(RegionId)
}

/// A frame of the enum, made from a strategy for each of its fields.
macro_rules! arm {
    // Tuples of strategies end at 12, and no frame has more fields.
    ($enum:ident :: $frame:ident { $($field:ident : $values:expr),* $(,)? }) => {
        ($($values,)*).prop_map(|($($field,)*)| $enum::$frame($frame { $($field),* })).boxed()
    };
}

/// As `arm!`, for a frame to which the next version adds a field.
macro_rules! grown {
    ($enum:ident :: $frame:ident { $($field:ident : $values:expr),* $(,)? } next { $next:ident : $nexts:expr }) => {{
        #[cfg(feature = "next-version")]
        let arm = arm!($enum::$frame {
            $($field : $values,)*
            $next: $nexts.prop_map(|next| Newer::new(VERSION_MAX, next))
        });
        #[cfg(not(feature = "next-version"))]
        let arm = arm!($enum::$frame { $($field : $values),* });
        arm
    }};
}

macro_rules! shared {
    ($enum:ident) => {
        [
            arm!($enum::Ping { token: any::<u64>() }),
            arm!($enum::Pong { token: any::<u64>() }),
            arm!($enum::Failure {
                code: prop::sample::select(&ErrorCode::ALL[..]),
                text: text()
            }),
        ]
    };
}

pub fn client_frame() -> impl Strategy<Value = ClientFrame<'static>> {
    let interval = (PING_INTERVAL_MS_MIN..=PING_INTERVAL_MS_MAX).prop_map(|ms| PingIntervalMs::new(ms).unwrap());
    let mut arms = vec![
        arm!(ClientFrame::Hello {
            device: id(),
            instance: any::<u64>().prop_map(Instance),
            presented: epoch(),
            purpose: prop::sample::select(&[Purpose::Full, Purpose::SendOnly][..]),
            ping_interval: interval,
            credentials: bytes(CREDENTIALS_BYTES_MAX).prop_map(|bytes| Credentials::new(bytes).unwrap()),
        }),
        arm!(ClientFrame::Send {
            recipient: id(),
            number: number(),
            ttl: ttl(),
            payload: bytes(300).prop_map(Tail),
        }),
        arm!(ClientFrame::Intend { recipient: id() }),
        arm!(ClientFrame::Acknowledge {
            delivery: any::<u64>(),
            late: any::<bool>()
        }),
    ];
    arms.extend(shared!(ClientFrame));
    Union::new(arms)
}

pub fn server_frame() -> impl Strategy<Value = ServerFrame<'static>> {
    let reasons = prop::sample::select(&[GoAwayReason::Shutdown, GoAwayReason::Full][..]);
    let mut arms = vec![
        arm!(ServerFrame::Welcome {
            version: any::<u8>(),
            epoch: epoch(),
            node: node(),
            idle_ms: any::<u32>(),
            unresolved_max: any::<u32>(),
        }),
        arm!(ServerFrame::Deliver {
            delivery: any::<u64>(),
            sender: id(),
            instance: any::<u64>().prop_map(Instance),
            number: number(),
            payload: bytes(300).prop_map(Tail),
        }),
        arm!(ServerFrame::Report {
            recipient: id(),
            number: any::<u64>(),
            outcome: outcome(),
            way: way()
        }),
        arm!(ServerFrame::GoAway {
            retry_after_ms: any::<u32>(),
            reason: reasons
        }),
        arm!(ServerFrame::Superseded { epoch: epoch() }),
    ];
    arms.extend(shared!(ServerFrame));
    Union::new(arms)
}

macro_rules! link {
    ($enum:ident Opener) => {
        [
            arm!($enum::LinkHello {
                node: node(),
                incarnation: any::<u64>().prop_map(Incarnation),
                nonce: any::<[u8; 32]>(),
                key_check: any::<[u8; 8]>(),
            }),
            arm!($enum::LinkProof {
                proof: any::<[u8; 32]>()
            }),
        ]
    };
    ($enum:ident Acceptor) => {
        [
            arm!($enum::LinkChallenge {
                version: any::<u8>(),
                node: node(),
                incarnation: any::<u64>().prop_map(Incarnation),
                nonce: any::<[u8; 32]>(),
                proof: any::<[u8; 32]>(),
            }),
            arm!($enum::LinkReady { doubled: any::<bool>() }),
        ]
    };
}

fn affinity_version() -> impl Strategy<Value = AffinityVersion> {
    (1u64.., any::<u16>()).prop_map(|(clock, counter)| AffinityVersion { clock, counter })
}

fn affinity() -> impl Strategy<Value = AffinityList> {
    let entries = prop::collection::vec((any::<u64>(), any::<u16>()), 0..=AFFINITY_ENTRIES_MAX);
    (any::<u32>(), any::<u8>(), entries).prop_map(|(at, novelty, entries)| {
        let mut list = AffinityList::new(at, novelty);
        for (partner, weight) in entries {
            let (partner, weight) = (PartnerKey(partner), AffinityWeight(weight));
            list.push(AffinityEntry { partner, weight });
        }
        list
    })
}

pub fn peer_frame() -> impl Strategy<Value = PeerFrame<'static>> {
    let target = prop_oneof![
        epoch().prop_map(|gone| Target::Region { gone }),
        session().prop_map(|epoch| Target::Session { epoch }),
    ];
    let mut arms = vec![
        Just(PeerFrame::LinkClose(LinkClose {})).boxed(),
        Just(PeerFrame::LinkClosed(LinkClosed {})).boxed(),
        arm!(PeerFrame::Forward {
            recipient: key(),
            target: target,
            trail: trail(),
            sender_key: key(),
            sender: id(),
            instance: any::<u64>().prop_map(Instance),
            number: number(),
            ttl: ttl(),
            payload: bytes(300).prop_map(Tail),
        }),
        arm!(PeerFrame::Reply {
            sender_key: key(),
            instance: any::<u64>().prop_map(Instance),
            recipient: key(),
            number: any::<u64>(),
            answer: answer(),
            way: way(),
            back: trail(),
        }),
        arm!(PeerFrame::Location {
            device: key(),
            epoch: epoch()
        }),
        arm!(PeerFrame::WhereIs {
            device: any::<u64>().prop_map(PartnerKey)
        }),
        arm!(PeerFrame::Remember {
            device: key(),
            version: affinity_version(),
            list: affinity()
        }),
        arm!(PeerFrame::Recall {
            device: key(),
            version: affinity_version(),
            list: affinity()
        }),
        arm!(PeerFrame::Register {
            region: region(),
            device: key(),
            epoch: epoch()
        }),
        arm!(PeerFrame::Registered {
            region: region(),
            device: key(),
            epoch: epoch(),
            highest: epoch()
        }),
        arm!(PeerFrame::Unregister {
            region: region(),
            device: key(),
            epoch: epoch()
        }),
        arm!(PeerFrame::Outdated {
            device: key(),
            epoch: epoch(),
            highest: epoch()
        }),
        arm!(PeerFrame::SyncBegin {
            region: region(),
            sync: any::<u64>()
        }),
        arm!(PeerFrame::SyncEnd {
            region: region(),
            sync: any::<u64>(),
            shards: any::<u16>()
        }),
        arm!(PeerFrame::Synced {
            region: region(),
            sync: any::<u64>()
        }),
        arm!(PeerFrame::Locate {
            region: region(),
            device: key()
        }),
        arm!(PeerFrame::Located {
            region: region(),
            device: key(),
            epoch: epoch(),
            in_sync: any::<bool>()
        }),
        arm!(PeerFrame::MapVersion {
            version: any::<u64>(),
            newest: any::<u64>()
        }),
        arm!(PeerFrame::MapTaken { version: any::<u64>() }),
        arm!(PeerFrame::Relay {
            region: region(),
            device: key(),
            epoch: epoch(),
            ended: any::<bool>()
        }),
    ];
    #[cfg(feature = "next-version")]
    arms.push(arm!(PeerFrame::Build { label: text() }));
    arms.extend(link!(PeerFrame Opener));
    arms.extend(link!(PeerFrame Acceptor));
    arms.extend(shared!(PeerFrame));
    Union::new(arms)
}

pub fn node_frame() -> impl Strategy<Value = NodeFrame<'static>> {
    let mut arms = vec![
        grown!(NodeFrame::Join {
            name: text(),
            roles: roles(),
            device_address: prop::option::of(address()),
            peer_address: prop::option::of(address()),
            http_address: prop::option::of(address()),
            map: map_id(),
            regions: names(),
        } next { build: text() }),
        arm!(NodeFrame::Draining { on: any::<bool>() }),
        arm!(NodeFrame::Renew { sessions: any::<u64>() }),
        arm!(NodeFrame::MapAck { map: map_id() }),
        arm!(NodeFrame::MapNack {
            map: map_id(),
            reason: text()
        }),
        Just(NodeFrame::MapRequest(MapRequest {})).boxed(),
        Just(NodeFrame::Leave(Leave {})).boxed(),
        arm!(NodeFrame::Admin {
            request: any::<u32>(),
            json: bytes(300).prop_map(Tail)
        }),
        arm!(NodeFrame::MapSettled { version: any::<u64>() }),
    ];
    arms.extend(link!(NodeFrame Opener));
    arms.extend(shared!(NodeFrame));
    Union::new(arms)
}

pub fn control_frame() -> impl Strategy<Value = ControlFrame<'static>> {
    let mut arms = vec![
        arm!(ControlFrame::Joined {
            node: node(),
            lease_ms: any::<u32>(),
            lineage: any::<u64>()
        }),
        arm!(ControlFrame::Drain {
            on: any::<bool>(),
            rate: any::<u32>()
        }),
        Just(ControlFrame::Renewed(Renewed {})).boxed(),
        grown!(ControlFrame::MapBegin {
            map: map_id(),
            base: map_id(),
            bytes: any::<u32>()
        } next { whole: any::<[u8; 32]>() }),
        arm!(ControlFrame::MapPart {
            bytes: bytes(300).prop_map(Tail)
        }),
        arm!(ControlFrame::AdminAnswer {
            request: any::<u32>(),
            ok: any::<bool>(),
            json: bytes(300).prop_map(Tail)
        }),
    ];
    arms.extend(link!(ControlFrame Acceptor));
    arms.extend(shared!(ControlFrame));
    Union::new(arms)
}
