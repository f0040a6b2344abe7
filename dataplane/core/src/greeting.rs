//! An accepted connection before its owner is known: preface, then one hello, and nothing else.
//!
//! ```text
//! preface ──8 bytes──▶ header ──4 bytes──▶ body ──complete──▶ Introduction: to the shard that owns it
//!    └──── wrong ────────┴───── wrong ───────┴── wrong ──▶ Refusal: say so and close
//! ```
//!
//! Pure: bytes and the time are arguments. What was read, the hello and whatever came behind it, stays together in the
//! [`Introduction`], so that it can travel with the socket to another shard. Everything is refused at the first byte that makes it
//! hopeless, and a connection holds at most [`GREETING_BYTES_MAX`], as many again behind them, and one receive buffer.

use std::ops::Range;

use trunkline_wire::auth::{ClusterKeys, DeviceToken, Secret, TokenError};
use trunkline_wire::codec::DecodeError;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{ErrorCode, HELLO_BODY_BYTES_MAX, Hello, Purpose};
use trunkline_wire::frame::{Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{NodeId, ShardId};
use trunkline_wire::peer::LinkHello;
use trunkline_wire::preface::{NoCommonVersion, PREFACE_BYTES, Preface, PrefaceError, Side, Versions, check_prefix};
use trunkline_wire::time::Instant;

use crate::constants::HELLO_TIMEOUT;
use crate::link::shard_of_node;

/// Beyond so many bytes behind a hello it isn't asked what follows them.
const REST_BYTES_MAX: usize = 1024;
/// The most bytes of preface and hello together.
pub const GREETING_BYTES_MAX: usize = PREFACE_BYTES + HEADER_BYTES + HELLO_BODY_BYTES_MAX;

/// Which port a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Devices.
    Device,
    /// Other nodes.
    Peer,
}

/// Who may come in; the same for all connections of a shard.
#[derive(Clone, Debug)]
pub struct Doorkeeper {
    /// How many shards this node has.
    pub shards: u16,
    /// What this node does: a full session is for connection servers only.
    pub roles: Roles,
    /// Turns device ids into keys.
    pub keys: ClusterKeys,
    /// With a key, devices must show a token.
    pub token_key: Option<Secret>,
    /// The protocol versions that this node speaks.
    pub versions: Versions,
}

/// A connection that has not said all of its hello.
#[derive(Debug)]
pub struct Greeting {
    port: Port,
    deadline: Instant,
    bytes: Vec<u8>,
}

/// A hello that is whole, readable and allowed, with everything that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// The port it came to.
    pub port: Port,
    /// Which shard the connection belongs to.
    pub owner: ShardId,
    /// The protocol version that both speak.
    pub version: u8,
    /// When a link has to have proven itself.
    pub deadline: Instant,
    bytes: Vec<u8>,
    body: Range<usize>,
}

impl Introduction {
    /// A device's hello.
    ///
    /// # Panics
    /// If it came to another port.
    pub fn device(&self) -> Hello<'_> {
        assert_eq!(self.port, Port::Device);
        Hello::decode_body(&self.bytes[self.body.clone()]).expect("it was decoded before")
    }

    /// A node's hello.
    ///
    /// # Panics
    /// If it came to another port.
    pub fn peer(&self) -> LinkHello {
        assert_eq!(self.port, Port::Peer);
        LinkHello::decode_body(&self.bytes[self.body.clone()]).expect("it was decoded before")
    }

    /// What was read behind the hello.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.body.end..]
    }

    /// Takes what was received behind the hello before anybody was let in. False if that is enough: who has sent so much is let in
    /// without a look at what follows.
    pub fn take_rest(&mut self, input: &[u8]) -> bool {
        self.bytes.extend_from_slice(input);
        self.rest().len() < REST_BYTES_MAX
    }
}

/// Why a connection is not let in. Its text goes to who opened it, and to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not the protocol.
    #[error("{0}")]
    Preface(PrefaceError),
    /// The protocol of another port.
    #[error("this port is for {}, and the connection speaks the {} protocol", port_name(*.port), side_name(*.side))]
    WrongSide {
        /// The port it came to.
        port: Port,
        /// What it speaks.
        side: Side,
    },
    /// No version in common.
    #[error("{0}")]
    Version(NoCommonVersion),
    /// The first frame is something else.
    #[error("the first frame must be the hello, this one has type 0x{ty:02x}")]
    NotHello {
        /// Its type.
        ty: u8,
    },
    /// The first frame is too long.
    #[error("a hello has at most {HELLO_BODY_BYTES_MAX} bytes, this one claims {length}")]
    TooLong {
        /// What its header claims.
        length: u32,
    },
    /// The hello can't be read.
    #[error("the hello is malformed: {0}")]
    Malformed(DecodeError),
    /// The token key says no.
    #[error("{0}")]
    Token(TokenError),
    /// A full session at a messaging server.
    #[error("this server takes messages in but holds no devices: connect to a connection server, or to send only")]
    NotServed,
    /// The hello did not come.
    #[error("no hello within {} seconds", HELLO_TIMEOUT.as_secs())]
    TimedOut,
}

impl Refusal {
    /// What to put into the [`trunkline_wire::common::Failure`].
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::Preface(_) | Refusal::WrongSide { .. } => ErrorCode::BadPreface,
            Refusal::Version(_) => ErrorCode::UnsupportedVersion,
            Refusal::NotHello { .. } => ErrorCode::OutOfTurn,
            Refusal::TooLong { .. } => ErrorCode::TooLong,
            Refusal::Malformed(_) => ErrorCode::Malformed,
            Refusal::Token(_) => ErrorCode::Unauthorized,
            Refusal::NotServed => ErrorCode::NotServed,
            Refusal::TimedOut => ErrorCode::HelloTimeout,
        }
    }
}

impl Greeting {
    /// A connection that was accepted now. The deadline is absolute: a byte now and then doesn't move it.
    pub fn new(now: Instant, port: Port) -> Greeting {
        Greeting {
            port,
            deadline: now + HELLO_TIMEOUT,
            bytes: Vec::new(),
        }
    }

    /// The port that the connection came to.
    pub fn port(&self) -> Port {
        self.port
    }

    /// When [`Refusal::TimedOut`] is due.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Takes what was received. `Ok(None)`: more is needed. After a result other than that the greeting is over.
    ///
    /// # Errors
    /// Why the connection is to be closed. `wall_ms` is for the expiry of tokens.
    pub fn feed(&mut self, wall_ms: u64, door: &Doorkeeper, input: &[u8]) -> Result<Option<Introduction>, Refusal> {
        self.bytes.extend_from_slice(input);
        check_prefix(&self.bytes).map_err(Refusal::Preface)?;
        let Some((preface, rest)) = self.bytes.split_first_chunk::<PREFACE_BYTES>() else {
            return Ok(None);
        };
        let version = self.version(door, Preface::decode(*preface).map_err(Refusal::Preface)?)?;
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let Header { ty, length } = Header::decode(*header);
        let expected = match self.port {
            Port::Device => Hello::TYPE,
            Port::Peer => LinkHello::TYPE,
        };
        if ty != expected {
            return Err(Refusal::NotHello { ty });
        }
        if length as usize > HELLO_BODY_BYTES_MAX {
            return Err(Refusal::TooLong { length });
        }
        let Some((body, _)) = rest.split_at_checked(length as usize) else {
            return Ok(None);
        };
        let owner = match self.port {
            Port::Device => device(body, wall_ms, door)?,
            Port::Peer => peer(body, door)?,
        };
        let start = PREFACE_BYTES + HEADER_BYTES;
        Ok(Some(Introduction {
            port: self.port,
            owner,
            version,
            deadline: self.deadline,
            bytes: std::mem::take(&mut self.bytes),
            body: start..start + length as usize,
        }))
    }

    fn version(&self, door: &Doorkeeper, preface: Preface) -> Result<u8, Refusal> {
        let ours = match self.port {
            Port::Device => Side::Device,
            Port::Peer => Side::Peer,
        };
        if preface.side != ours {
            return Err(Refusal::WrongSide {
                port: self.port,
                side: preface.side,
            });
        }
        #[cfg(feature = "next-version")]
        if trunkline_wire::planted!(HighestOffered) {
            return Ok(preface.versions.max());
        }
        door.versions.common(preface.versions).map_err(Refusal::Version)
    }
}

fn device(body: &[u8], wall_ms: u64, door: &Doorkeeper) -> Result<ShardId, Refusal> {
    let hello = Hello::decode_body(body).map_err(Refusal::Malformed)?;
    // Who may not come in isn't told what is served.
    if let Some(key) = &door.token_key {
        DeviceToken::verify(key, hello.device, hello.credentials.bytes(), wall_ms / 1000).map_err(Refusal::Token)?;
    }
    if hello.purpose == Purpose::Full && !door.roles.connection {
        return Err(Refusal::NotServed);
    }
    Ok(door.keys.device_key(hello.device).shard(door.shards))
}

fn peer(body: &[u8], door: &Doorkeeper) -> Result<ShardId, Refusal> {
    let hello = LinkHello::decode_body(body).map_err(Refusal::Malformed)?;
    if hello.node == NodeId::NONE {
        return Err(Refusal::Malformed(DecodeError::Value("node")));
    }
    Ok(shard_of_node(hello.node, door.shards))
}

fn port_name(port: Port) -> &'static str {
    match port {
        Port::Device => "devices",
        Port::Peer => "nodes",
    }
}

fn side_name(side: Side) -> &'static str {
    match side {
        Side::Device => "device",
        Side::Peer => "peer",
        Side::Control => "control",
    }
}

#[cfg(test)]
mod tests {
    use trunkline_wire::device::{Credentials, PingIntervalMs};
    use trunkline_wire::id::{Epoch, IdRef, Incarnation, Instance};

    use super::*;

    const CONNECTION: Roles = Roles {
        connection: true,
        messaging: true,
        region: false,
    };

    fn door() -> Doorkeeper {
        Doorkeeper {
            shards: 4,
            roles: CONNECTION,
            keys: ClusterKeys::new(&Secret::new(b"a secret of sixteen bytes or more").unwrap()),
            token_key: None,
            versions: Versions::BUILD,
        }
    }

    fn hello_to<'a>(device: &'a str, purpose: Purpose, credentials: &'a [u8]) -> Hello<'a> {
        Hello {
            device: IdRef::new(device).unwrap(),
            instance: Instance(1),
            presented: Epoch::NONE,
            purpose,
            ping_interval: PingIntervalMs::default(),
            credentials: Credentials::new(credentials).unwrap(),
        }
    }

    fn device_bytes(purpose: Purpose, credentials: &[u8]) -> Vec<u8> {
        let mut bytes = Preface::new(Side::Device).encode().to_vec();
        hello_to("anna", purpose, credentials).encode(&mut bytes);
        bytes
    }

    fn peer_bytes(node: u32) -> Vec<u8> {
        let mut bytes = Preface::new(Side::Peer).encode().to_vec();
        LinkHello {
            node: NodeId(node),
            incarnation: Incarnation(1),
            nonce: [1; 32],
            key_check: [2; 8],
        }
        .encode(&mut bytes);
        bytes
    }

    fn greet(port: Port, door: &Doorkeeper, bytes: &[u8]) -> Result<Option<Introduction>, Refusal> {
        Greeting::new(Instant::ZERO, port).feed(0, door, bytes)
    }

    #[test]
    fn a_hello_names_its_shard_however_it_is_cut_and_the_rest_travels_along() {
        let door = door();
        let mut bytes = device_bytes(Purpose::Full, b"");
        bytes.extend_from_slice(b"what follows");
        let whole = greet(Port::Device, &door, &bytes).unwrap().unwrap();
        let id = IdRef::new("anna").unwrap();
        assert_eq!(whole.owner, door.keys.device_key(id).shard(4));
        assert_eq!(whole.device().device, id);
        assert_eq!(whole.rest(), b"what follows");
        let hello_end = bytes.len() - b"what follows".len();
        let mut greeting = Greeting::new(Instant::ZERO, Port::Device);
        for (at, byte) in bytes[..hello_end].iter().enumerate() {
            let answer = greeting.feed(0, &door, &[*byte]).unwrap();
            assert_eq!(answer.is_some(), at == hello_end - 1, "at byte {at}");
        }
    }

    #[test]
    fn a_node_s_hello_names_the_shard_of_the_node() {
        let introduction = greet(Port::Peer, &door(), &peer_bytes(7)).unwrap().unwrap();
        assert_eq!(introduction.owner, shard_of_node(NodeId(7), 4));
        assert_eq!(introduction.peer().node, NodeId(7));
    }

    #[test]
    fn nobody_opens_a_link() {
        let refusal = greet(Port::Peer, &door(), &peer_bytes(0)).unwrap_err();
        assert_eq!(refusal, Refusal::Malformed(DecodeError::Value("node")));
    }

    #[test]
    fn the_first_wrong_byte_of_the_magic_is_enough() {
        for wrong in ["G", "TX", "TRX", "TRKX"] {
            let refusal = greet(Port::Device, &door(), wrong.as_bytes()).unwrap_err();
            assert_eq!(refusal.code(), ErrorCode::BadPreface, "{wrong}");
        }
        assert_eq!(greet(Port::Device, &door(), b"TRK"), Ok(None));
    }

    #[test]
    fn another_port_s_protocol_is_refused_by_name() {
        let refusal = greet(Port::Device, &door(), &peer_bytes(7)).unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::BadPreface);
        assert_eq!(
            refusal.to_string(),
            "this port is for devices, and the connection speaks the peer protocol"
        );
    }

    #[test]
    fn without_a_common_version_the_range_is_named() {
        let door = Doorkeeper {
            versions: Versions::up_to(1).unwrap(),
            ..door()
        };
        for (port, mut bytes) in [
            (Port::Device, device_bytes(Purpose::Full, b"")),
            (Port::Peer, peer_bytes(7)),
        ] {
            (bytes[5], bytes[6]) = (2, 4);
            let refusal = greet(port, &door, &bytes).unwrap_err();
            assert_eq!(refusal.code(), ErrorCode::UnsupportedVersion);
            let line =
                "no common protocol version: this side speaks 1, the other offers 2 to 4; upgrade the older one first";
            assert_eq!(refusal.to_string(), line);
        }
    }

    #[test]
    fn the_highest_common_version_is_chosen() {
        let mut bytes = device_bytes(Purpose::Full, b"");
        (bytes[5], bytes[6]) = (1, 255);
        let newest = greet(Port::Device, &door(), &bytes).unwrap().unwrap();
        assert_eq!(newest.version, Versions::BUILD.max());
        (bytes[5], bytes[6]) = (1, 1);
        let oldest = greet(Port::Device, &door(), &bytes).unwrap().unwrap();
        assert_eq!(oldest.version, 1);
    }

    #[test]
    fn a_first_frame_is_judged_by_its_header() {
        let preface = Preface::new(Side::Device).encode();
        let first = |ty, length| {
            let mut bytes = preface.to_vec();
            bytes.extend_from_slice(&Header { ty, length }.encode());
            greet(Port::Device, &door(), &bytes)
        };
        assert_eq!(first(Hello::TYPE, 1025), Err(Refusal::TooLong { length: 1025 }));
        assert_eq!(first(Hello::TYPE, 1024), Ok(None));
        assert_eq!(first(0x02, 10), Err(Refusal::NotHello { ty: 0x02 }));
    }

    #[test]
    fn a_hello_that_cannot_be_read_is_malformed() {
        for id_length in [0, 65] {
            let mut bytes = device_bytes(Purpose::Full, b"");
            bytes[PREFACE_BYTES + HEADER_BYTES] = id_length;
            let refusal = greet(Port::Device, &door(), &bytes).unwrap_err();
            assert_eq!(refusal, Refusal::Malformed(DecodeError::IdLength(id_length.into())));
            assert_eq!(refusal.code(), ErrorCode::Malformed);
        }
    }

    #[test]
    fn with_a_token_key_only_a_valid_token_opens() {
        let key = Secret::new(b"the key that signs tokens").unwrap();
        let door = Doorkeeper {
            token_key: Some(key.clone()),
            ..door()
        };
        let token = DeviceToken::sign(&key, IdRef::new("anna").unwrap(), 100);
        let try_at = |seconds: u64, credentials: &[u8]| {
            Greeting::new(Instant::ZERO, Port::Device).feed(
                seconds * 1000,
                &door,
                &device_bytes(Purpose::Full, credentials),
            )
        };
        assert!(try_at(99, token.bytes()).unwrap().is_some());
        assert_eq!(try_at(100, token.bytes()), Err(Refusal::Token(TokenError::Expired)));
        assert_eq!(try_at(99, b""), Err(Refusal::Token(TokenError::Missing)));
        let refusal = try_at(99, b"nonsense").unwrap_err();
        assert_eq!(refusal.code(), ErrorCode::Unauthorized);
        assert_eq!(refusal.to_string(), TokenError::Invalid.to_string());
    }

    #[test]
    fn a_messaging_server_takes_senders_only() {
        let door = Doorkeeper {
            roles: Roles {
                connection: false,
                ..CONNECTION
            },
            ..door()
        };
        assert_eq!(
            greet(Port::Device, &door, &device_bytes(Purpose::Full, b"")),
            Err(Refusal::NotServed)
        );
        assert!(
            greet(Port::Device, &door, &device_bytes(Purpose::SendOnly, b""))
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn the_deadline_is_absolute() {
        let mut greeting = Greeting::new(Instant::from_micros(7), Port::Device);
        greeting.feed(0, &door(), b"T").unwrap();
        assert_eq!(greeting.deadline(), Instant::from_micros(7) + HELLO_TIMEOUT);
    }
}
