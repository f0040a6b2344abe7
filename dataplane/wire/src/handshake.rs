//! How two ends of a link prove to each other that they know the cluster secret, before either says anything else.
//!
//! ```text
//! opener                                     acceptor
//!   │ ── preface, LinkHello(nonce, check) ──▶ │  other check: "the cluster secrets differ", by name
//!   │ ◀── LinkChallenge(nonce, proof) ─────── │
//!   │ ── LinkProof(proof) ──────────────────▶ │
//!   │ ◀── LinkReady ───────────────────────── │
//! ```
//!
//! Pure: no sockets, no deadlines, no randomness; nonces come in as part of [`LinkEnd`]. Each step consumes the state before it,
//! so that a frame can't be taken twice. Links between nodes and links to the control plane use the same two machines. What a side
//! does with a [`Refusal`]: send it as a [`crate::common::Failure`] and close.
//!
//! Each proof covers both ends and the side that proves, so that neither can be sent back to who made it, nor be used on
//! another link.

use crate::auth::{ClusterKeys, LinkEnd, LinkSide};
use crate::device::ErrorCode;
use crate::id::{Incarnation, NodeId};
use crate::peer::{LinkChallenge, LinkHello, LinkProof};
use crate::preface::Versions;

/// Who is at the other end of a link, proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node; [`NodeId::NONE`] is the control plane, a tool, or a node without an id.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// The protocol version that both speak from here on.
    pub version: u8,
}

/// Why a link is refused. Its text goes to the other side and to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The key checks are not equal.
    #[error("the cluster secrets differ: both sides need the same secret file")]
    SecretsDiffer,
    /// The key checks are equal, the proof is wrong: somebody who doesn't know the secret.
    #[error("the proof of the cluster secret failed: the other side doesn't know the secret")]
    ProofFailed,
    /// The acceptor chose a version that was not offered.
    #[error("the other side chose protocol version {version}; this side speaks {offered}")]
    Version {
        /// What it chose.
        version: u8,
        /// What it could choose from.
        offered: Versions,
    },
    /// Both ends have one node id.
    #[error("both ends of the link are node {node}: it dialled itself, or its data directory was copied")]
    SameNode {
        /// The id.
        node: NodeId,
    },
}

impl Refusal {
    /// What to put into the [`crate::common::Failure`].
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::SecretsDiffer | Refusal::ProofFailed => ErrorCode::WrongSecret,
            Refusal::Version { .. } => ErrorCode::UnsupportedVersion,
            Refusal::SameNode { .. } => ErrorCode::NotServed,
        }
    }
}

/// The side that dialled, between its hello and the challenge.
#[derive(Clone, Copy, Debug)]
pub struct Opener {
    me: LinkEnd,
    offered: Versions,
}

impl Opener {
    /// Starts: send the hello after the preface, which offers `offered`. `me.nonce` is random and never used again.
    pub fn new(keys: &ClusterKeys, me: LinkEnd, offered: Versions) -> (Opener, LinkHello) {
        let hello = LinkHello {
            node: me.node,
            incarnation: me.incarnation,
            nonce: me.nonce,
            key_check: keys.check(),
        };
        (Opener { me, offered }, hello)
    }

    /// Takes the challenge: send the proof, then wait for [`crate::peer::LinkReady`].
    ///
    /// # Errors
    /// If the acceptor doesn't know the secret, or the link can't be.
    pub fn challenge(self, keys: &ClusterKeys, challenge: &LinkChallenge) -> Result<(LinkProof, Peer), Refusal> {
        let peer = LinkEnd {
            node: challenge.node,
            incarnation: challenge.incarnation,
            nonce: challenge.nonce,
        };
        // First the proof: what comes from somebody without the secret is not worth an opinion.
        if !keys.verify(LinkSide::Acceptor, &self.me, &peer, &challenge.proof) {
            return Err(Refusal::ProofFailed);
        }
        let version = challenge.version;
        if !self.offered.contains(version) {
            return Err(Refusal::Version {
                version,
                offered: self.offered,
            });
        }
        refuse_oneself(&self.me, &peer)?;
        let proof = keys.prove(LinkSide::Opener, &self.me, &peer);
        Ok((LinkProof { proof }, known(&peer, version)))
    }
}

/// The side that accepted, between its challenge and the opener's proof.
#[derive(Clone, Copy, Debug)]
pub struct Acceptor {
    me: LinkEnd,
    peer: LinkEnd,
    version: u8,
}

impl Acceptor {
    /// Takes the hello: send the challenge, then wait for the proof. `version` is what [`Versions::common`]
    /// gave; `me.nonce` is random and never used again.
    ///
    /// # Errors
    /// [`Refusal::SecretsDiffer`] before anything else; or the link can't be.
    pub fn hello(
        keys: &ClusterKeys,
        me: LinkEnd,
        version: u8,
        hello: &LinkHello,
    ) -> Result<(Acceptor, LinkChallenge), Refusal> {
        if hello.key_check != keys.check() {
            return Err(Refusal::SecretsDiffer);
        }
        let peer = LinkEnd {
            node: hello.node,
            incarnation: hello.incarnation,
            nonce: hello.nonce,
        };
        refuse_oneself(&me, &peer)?;
        let challenge = LinkChallenge {
            version,
            node: me.node,
            incarnation: me.incarnation,
            nonce: me.nonce,
            proof: keys.prove(LinkSide::Acceptor, &peer, &me),
        };
        Ok((Acceptor { me, peer, version }, challenge))
    }

    /// Takes the proof: the peer is who it says. Send [`crate::peer::LinkReady`].
    ///
    /// # Errors
    /// [`Refusal::ProofFailed`].
    pub fn proof(self, keys: &ClusterKeys, proof: &LinkProof) -> Result<Peer, Refusal> {
        if !keys.verify(LinkSide::Opener, &self.peer, &self.me, &proof.proof) {
            return Err(Refusal::ProofFailed);
        }
        Ok(known(&self.peer, self.version))
    }
}

fn known(end: &LinkEnd, version: u8) -> Peer {
    Peer {
        node: end.node,
        incarnation: end.incarnation,
        version,
    }
}

fn refuse_oneself(me: &LinkEnd, peer: &LinkEnd) -> Result<(), Refusal> {
    if me.node != NodeId::NONE && me.node == peer.node {
        return Err(Refusal::SameNode { node: me.node });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Secret;
    use crate::preface::VERSION_MIN;

    fn keys(secret: &str) -> ClusterKeys {
        ClusterKeys::new(&Secret::new(secret.as_bytes()).unwrap())
    }

    fn end(node: u32, nonce: u8) -> LinkEnd {
        LinkEnd {
            node: NodeId(node),
            incarnation: Incarnation(u64::from(node) * 10),
            nonce: [nonce; 32],
        }
    }

    const SECRET: &str = "a secret of sixteen bytes or more";

    #[test]
    fn both_ends_learn_who_the_other_is() {
        let keys = keys(SECRET);
        let (opener, hello) = Opener::new(&keys, end(1, 1), Versions::BUILD);
        let (acceptor, challenge) = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap();
        let (proof, acceptor_peer) = opener.challenge(&keys, &challenge).unwrap();
        let opener_peer = acceptor.proof(&keys, &proof).unwrap();
        assert_eq!(acceptor_peer, known(&end(2, 2), 1));
        assert_eq!(opener_peer, known(&end(1, 1), 1));
    }

    #[test]
    fn different_secrets_are_named_at_the_hello() {
        let (_, hello) = Opener::new(&keys(SECRET), end(1, 1), Versions::BUILD);
        let refusal = Acceptor::hello(&keys("quite another secret"), end(2, 2), 1, &hello).unwrap_err();
        assert_eq!(refusal, Refusal::SecretsDiffer);
        assert_eq!(refusal.code(), ErrorCode::WrongSecret);
        assert!(refusal.to_string().contains("the cluster secrets differ"));
    }

    #[test]
    fn an_acceptor_without_the_secret_gets_no_proof() {
        let keys = keys(SECRET);
        let (opener, hello) = Opener::new(&keys, end(1, 1), Versions::BUILD);
        let (_, mut challenge) = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap();
        challenge.proof[0] ^= 1;
        assert_eq!(opener.challenge(&keys, &challenge).unwrap_err(), Refusal::ProofFailed);
    }

    #[test]
    fn an_opener_that_copies_the_key_check_still_fails_its_proof() {
        let keys = keys(SECRET);
        let (_, hello) = Opener::new(&keys, end(1, 1), Versions::BUILD);
        let (acceptor, challenge) = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap();
        // Sending the acceptor its own proof back doesn't do either.
        let proof = LinkProof { proof: challenge.proof };
        assert_eq!(acceptor.proof(&keys, &proof).unwrap_err(), Refusal::ProofFailed);
    }

    #[test]
    fn a_proof_is_worth_nothing_on_another_link() {
        let keys = keys(SECRET);
        let (opener, hello) = Opener::new(&keys, end(1, 1), Versions::BUILD);
        let (_, challenge) = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap();
        let (proof, _) = opener.challenge(&keys, &challenge).unwrap();
        let (later, _) = Acceptor::hello(&keys, end(2, 3), 1, &hello).unwrap();
        assert_eq!(later.proof(&keys, &proof).unwrap_err(), Refusal::ProofFailed);
    }

    #[test]
    fn a_changed_name_breaks_the_proof() {
        let keys = keys(SECRET);
        let (opener, hello) = Opener::new(&keys, end(1, 1), Versions::BUILD);
        let (_, mut challenge) = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap();
        challenge.node = NodeId(3);
        assert_eq!(opener.challenge(&keys, &challenge).unwrap_err(), Refusal::ProofFailed);
    }

    #[test]
    fn a_version_that_was_not_offered_is_refused() {
        let keys = keys(SECRET);
        let offered = Versions::up_to(VERSION_MIN).unwrap();
        let (opener, hello) = Opener::new(&keys, end(1, 1), offered);
        let version = VERSION_MIN + 1;
        let (_, challenge) = Acceptor::hello(&keys, end(2, 2), version, &hello).unwrap();
        let refusal = opener.challenge(&keys, &challenge).unwrap_err();
        assert_eq!(refusal, Refusal::Version { version, offered });
        assert_eq!(refusal.code(), ErrorCode::UnsupportedVersion);
        assert!(
            refusal
                .to_string()
                .ends_with("chose protocol version 2; this side speaks 1")
        );
    }

    #[test]
    fn a_node_refuses_itself_and_nobodies_may_meet() {
        let keys = keys(SECRET);
        let (_, hello) = Opener::new(&keys, end(2, 1), Versions::BUILD);
        let refusal = Acceptor::hello(&keys, end(2, 2), 1, &hello).unwrap_err();
        assert_eq!(refusal, Refusal::SameNode { node: NodeId(2) });
        let (_, hello) = Opener::new(&keys, end(0, 1), Versions::BUILD);
        assert!(Acceptor::hello(&keys, end(0, 2), 1, &hello).is_ok());
    }
}
