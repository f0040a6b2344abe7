//! Who may talk: what is derived from the cluster secret, the proofs of it on links, and the tokens of devices.

use std::fmt;
use std::hash::Hasher;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::id::{DeviceKey, IdRef, Incarnation, NodeId};

/// The shortest cluster secret or token key, in bytes.
pub const SECRET_BYTES_MIN: usize = 16;

/// A secret that an operator gave: the cluster's, or the one that signs device tokens.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

/// A secret that is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a secret has at least 16 bytes, this one has {bytes}; make one with: head -c 32 /dev/urandom | base64")]
pub struct SecretTooShort {
    /// How many bytes it had.
    pub bytes: usize,
}

impl Secret {
    /// Takes the bytes of a secret file; white space around them doesn't count.
    ///
    /// # Errors
    /// If fewer than 16 bytes are left.
    pub fn new(bytes: &[u8]) -> Result<Secret, SecretTooShort> {
        let bytes = bytes.trim_ascii();
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { bytes: bytes.len() });
        }
        Ok(Secret(bytes.into()))
    }

    /// A new random secret, as 64 hexadecimal digits.
    pub fn random() -> Secret {
        let digits: String = random_bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect();
        Secret(digits.into_bytes().into())
    }

    /// What to write to the secret file.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn derive(&self, purpose: &str) -> [u8; 32] {
        hmac(&self.0, &[purpose.as_bytes()])
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Random bytes from the operating system.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random bytes");
    bytes
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    mac(key, parts).finalize().into_bytes().into()
}

/// Everything that is derived from the cluster secret. The same on every machine and in every version.
#[derive(Clone)]
pub struct ClusterKeys {
    device: SipHasher13,
    link: [u8; 32],
    check: [u8; 8],
}

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKeys(..)")
    }
}

/// One end of a link, as the proofs name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEnd {
    /// The node.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// What it drew for this link.
    pub nonce: [u8; 32],
}

/// Which end of a link proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSide {
    /// Who dialled.
    Opener,
    /// Who accepted.
    Acceptor,
}

impl ClusterKeys {
    /// Derives the keys.
    pub fn new(secret: &Secret) -> ClusterKeys {
        let device: [u8; 16] = *secret
            .derive("trunkline device key")
            .first_chunk()
            .expect("32 bytes have 16");
        let check = *secret
            .derive("trunkline key check")
            .first_chunk()
            .expect("32 bytes have 8");
        ClusterKeys {
            device: SipHasher13::new_with_key(&device),
            link: secret.derive("trunkline link proof"),
            check,
        }
    }

    /// A device's key: SipHash-1-3 with 128 bits over its id, so that nobody without the secret can aim at a slot or a collision.
    pub fn device_key(&self, id: IdRef<'_>) -> DeviceKey {
        let mut hasher = self.device;
        hasher.write(id.as_bytes());
        DeviceKey(hasher.finish128().as_u128())
    }

    /// Eight bytes by which two nodes see that their secrets differ, before either proves anything.
    pub fn check(&self) -> [u8; 8] {
        self.check
    }

    /// What `side` sends to prove that it knows the secret.
    pub fn prove(&self, side: LinkSide, opener: &LinkEnd, acceptor: &LinkEnd) -> [u8; 32] {
        self.link_mac(side, opener, acceptor).finalize().into_bytes().into()
    }

    /// Whether `proof` is what `side` has to send; compared in constant time.
    pub fn verify(&self, side: LinkSide, opener: &LinkEnd, acceptor: &LinkEnd, proof: &[u8; 32]) -> bool {
        self.link_mac(side, opener, acceptor).verify_slice(proof).is_ok()
    }

    fn link_mac(&self, side: LinkSide, opener: &LinkEnd, acceptor: &LinkEnd) -> Hmac<Sha256> {
        let side: &[u8] = match side {
            LinkSide::Opener => b"opener",
            LinkSide::Acceptor => b"acceptor",
        };
        let mut mac = mac(&self.link, &[side]);
        for end in [opener, acceptor] {
            mac.update(&end.node.0.to_le_bytes());
            mac.update(&end.incarnation.0.to_le_bytes());
            mac.update(&end.nonce);
        }
        mac
    }
}

/// A device token's length, in bytes: the expiry and an HMAC.
pub const TOKEN_BYTES: usize = 40;

/// What lets one device in until a point in time: its expiry, and an HMAC of id and expiry under a key of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceToken([u8; TOKEN_BYTES]);

/// Why a device is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No credentials were shown.
    #[error("this server asks for a device token; make one with: trunkline token")]
    Missing,
    /// Not a token, or not this device's, or signed with another key.
    #[error("the device token is not valid for this device")]
    Invalid,
    /// It was valid once.
    #[error("the device token has expired; make a new one with: trunkline token")]
    Expired,
}

impl DeviceToken {
    /// Signs a token for `device` that is valid until `expiry` (seconds since the Unix epoch).
    pub fn sign(key: &Secret, device: IdRef<'_>, expiry: u64) -> DeviceToken {
        let mut bytes = [0; TOKEN_BYTES];
        bytes[..8].copy_from_slice(&expiry.to_le_bytes());
        let signature: [u8; 32] = token_mac(key, device, expiry).finalize().into_bytes().into();
        bytes[8..].copy_from_slice(&signature);
        DeviceToken(bytes)
    }

    /// What goes into a hello's credentials.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Checks the credentials of a hello at `now` (seconds since the Unix epoch).
    ///
    /// # Errors
    /// If they don't let `device` in.
    pub fn verify(key: &Secret, device: IdRef<'_>, credentials: &[u8], now: u64) -> Result<(), TokenError> {
        if credentials.is_empty() {
            return Err(TokenError::Missing);
        }
        let token: &[u8; TOKEN_BYTES] = credentials.try_into().map_err(|_| TokenError::Invalid)?;
        let (expiry, signature) = token.split_first_chunk::<8>().expect("40 bytes have 8");
        let expiry = u64::from_le_bytes(*expiry);
        token_mac(key, device, expiry)
            .verify_slice(signature)
            .map_err(|_| TokenError::Invalid)?;
        if expiry <= now {
            Err(TokenError::Expired)
        } else {
            Ok(())
        }
    }
}

/// Tokens are typed and pasted as 80 hexadecimal digits.
impl fmt::Display for DeviceToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for DeviceToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<DeviceToken, TokenError> {
        let mut bytes = [0; TOKEN_BYTES];
        if text.len() != 2 * TOKEN_BYTES || !text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(TokenError::Invalid);
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(pair).expect("hexadecimal digits are ASCII");
            *byte = u8::from_str_radix(digits, 16).expect("checked above");
        }
        Ok(DeviceToken(bytes))
    }
}

fn token_mac(key: &Secret, device: IdRef<'_>, expiry: u64) -> Hmac<Sha256> {
    let key = key.derive("trunkline device token");
    mac(
        &key,
        &[
            &[device.as_bytes().len() as u8],
            device.as_bytes(),
            &expiry.to_le_bytes(),
        ],
    )
}
