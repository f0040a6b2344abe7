//! From a dial or an accepted hello to a link that is up.

use trunkline_wire::auth::LinkEnd;
use trunkline_wire::codec::Text;
use trunkline_wire::common::Failure;
use trunkline_wire::device::ErrorCode;
use trunkline_wire::handshake::{Acceptor, Opener, Peer, Refusal};
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::peer::{LinkChallenge, LinkProof, LinkReady};
use trunkline_wire::preface::{Preface, Side};
use trunkline_wire::time::Instant;

use super::{Fault, LinkBook, LinkRef, Passage, Phase, out_of_turn};
use crate::greeting::Introduction;
use crate::link::cache::{Admission, Reason, Wish};
use crate::link::choice::{Candidate, Choice, choose};
use crate::link::{CLOSE_TIMEOUT, DIAL_TIMEOUT, LinkEffect, LinkOutbox, OFFER_HALF_LIFE, OFFER_WORTH, need};
use crate::outbox::{Conn, ShardEvent};

impl LinkBook {
    /// The connection that a [`LinkEffect::Dial`] made has a name now.
    pub fn dialing(&mut self, link: LinkRef, conn: Conn) {
        if let Some(index) = self.index(link) {
            self.links[index as usize].conn = Some(conn);
        }
    }

    /// The dial has succeeded. `nonce` is random and never used again.
    pub fn connected(&mut self, now: Instant, link: LinkRef, nonce: [u8; 32], out: &mut LinkOutbox) {
        let Some(index) = self.index(link) else { return };
        let me = self.end(nonce);
        let link = &mut self.links[index as usize];
        let (Phase::Dialing, Some(conn)) = (&link.phase, link.conn) else {
            return;
        };
        let (opener, hello) = Opener::new(&self.config.keys, me, self.config.versions);
        link.phase = Phase::AwaitChallenge(opener);
        link.heard = now;
        out.send_after(
            conn,
            &Preface::offering(Side::Peer, self.config.versions).encode(),
            &hello,
        );
    }

    /// The dial, or the adoption of its socket, has failed. The connection is the caller's to close.
    pub fn failed(&mut self, now: Instant, link: LinkRef, why: &str, out: &mut LinkOutbox) {
        if let Some(index) = self.index(link) {
            self.forget_link(now, index, why, out);
        }
    }

    /// A connection of another node, its hello read. `None`: it's refused, by effects. What was read behind the hello is the caller's to
    /// pass to [`LinkBook::frame`].
    pub fn accepted(
        &mut self,
        now: Instant,
        conn: Conn,
        introduction: &Introduction,
        nonce: [u8; 32],
        out: &mut LinkOutbox,
    ) -> Option<LinkRef> {
        self.counters.links_accepted += 1;
        let hello = introduction.peer();
        let me = self.end(nonce);
        let answer = match Acceptor::hello(&self.config.keys, me, introduction.version, &hello) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.count_refusal(refusal);
                refuse(conn, hello.node, refusal.code(), &refusal.to_string(), out);
                return None;
            }
        };
        if self.leaving {
            refuse(
                conn,
                hello.node,
                ErrorCode::NotServed,
                "this node is shutting down",
                out,
            );
            return None;
        }
        let (acceptor, challenge) = answer;
        let index = self.insert(now, hello.node, Phase::AwaitProof(acceptor), introduction.deadline);
        self.links[index as usize].conn = Some(conn);
        out.send(conn, &challenge);
        Some(self.name(index))
    }

    pub(super) fn challenge(
        &mut self,
        now: Instant,
        index: u32,
        challenge: &LinkChallenge,
        out: &mut LinkOutbox,
    ) -> Result<Passage, Fault> {
        let link = &mut self.links[index as usize];
        let (Phase::AwaitChallenge(opener), Some(conn)) = (&link.phase, link.conn) else {
            return Err(out_of_turn("challenge"));
        };
        let (proof, peer) = match opener.challenge(&self.config.keys, challenge) {
            Ok(answer) => answer,
            Err(refusal) => {
                self.count_refusal(refusal);
                return Err((refusal.code(), refusal.to_string()));
            }
        };
        if peer.node != link.node {
            let text = format!("node {} was dialled, and node {} answers", link.node, peer.node);
            self.counters.links_refused_other += 1;
            return Err((ErrorCode::NotServed, text));
        }
        (link.incarnation, link.version) = (peer.incarnation, peer.version);
        self.refuse_old(peer)?;
        self.links[index as usize].phase = Phase::AwaitReady;
        self.links[index as usize].heard = now;
        out.send(conn, &proof);
        Ok(Passage::Taken)
    }

    pub(super) fn proof(
        &mut self,
        now: Instant,
        index: u32,
        proof: &LinkProof,
        out: &mut LinkOutbox,
    ) -> Result<Passage, Fault> {
        let link = &mut self.links[index as usize];
        let (Phase::AwaitProof(acceptor), Some(conn)) = (&link.phase, link.conn) else {
            return Err(out_of_turn("proof"));
        };
        let peer = match acceptor.proof(&self.config.keys, proof) {
            Ok(peer) => peer,
            Err(refusal) => {
                self.count_refusal(refusal);
                return Err((refusal.code(), refusal.to_string()));
            }
        };
        (link.incarnation, link.version) = (peer.incarnation, peer.version);
        self.refuse_old(peer)?;
        let choice = self.choice(index);
        let (known, dialled_first) = match self.find(peer.node) {
            Ok(at) => {
                let entry = &self.peers[at];
                // An own dial that has failed before may fail again: what is here is better.
                let preferred = self.config.node < peer.node && entry.dial.is_some() && entry.failures == 0;
                (entry.current.is_some(), entry.current.is_none() && preferred)
            }
            Err(_) => (false, false),
        };
        if choice == Choice::Doubled || (choice == Choice::Take && dialled_first) {
            self.counters.links_doubled += 1;
            out.send(conn, &LinkReady { doubled: true });
            // The other side closes.
            let link = &mut self.links[index as usize];
            link.phase = Phase::AwaitClosed;
            link.deadline = now + CLOSE_TIMEOUT;
            self.next = self.next.min(link.deadline);
            return Ok(Passage::Taken);
        }
        if !known && !self.make_room_for(now, peer.node, out) {
            self.counters.links_refused_budget += 1;
            return Err((ErrorCode::NotServed, "its budget of direct links is full".into()));
        }
        out.send(conn, &LinkReady { doubled: false });
        self.settle(now, index, choice, out)
    }

    pub(super) fn ready(
        &mut self,
        now: Instant,
        index: u32,
        ready: LinkReady,
        out: &mut LinkOutbox,
    ) -> Result<Passage, Fault> {
        if !matches!(self.links[index as usize].phase, Phase::AwaitReady) {
            return Err(out_of_turn("ready"));
        }
        if ready.doubled {
            self.counters.links_doubled += 1;
            self.drop_link(now, index, "the other side keeps another link", out);
            return Ok(Passage::Over);
        }
        let choice = self.choice(index);
        self.settle(now, index, choice, out)
    }

    /// Both sides have proven themselves, and the other one takes this connection for the link.
    fn settle(&mut self, now: Instant, index: u32, choice: Choice, out: &mut LinkOutbox) -> Result<Passage, Fault> {
        let node = self.links[index as usize].node;
        let peer = self.peer(node);
        if peer.dial == Some(index) {
            peer.dial = None;
        }
        let old = peer.current;
        match (choice, old) {
            (Choice::Take, _) | (_, None) => {}
            (Choice::ReplaceAtOnce, Some(old)) => {
                self.counters.links_replaced += 1;
                self.drop_link(now, old, "replaced by a newer link", out);
            }
            (Choice::ReplaceGently, Some(old)) => {
                self.counters.links_replaced += 1;
                self.take_down(old, out);
                self.send_close(now, old, out);
            }
            (Choice::Doubled, Some(_)) => {
                // The other side will come to see it so too: it follows the same rule.
                self.links[index as usize].phase = Phase::Up;
                self.send_close(now, index, out);
                return Ok(Passage::Taken);
            }
            (Choice::Stale, Some(_)) => {
                self.counters.links_refused_incarnation += 1;
                return Err((ErrorCode::NotServed, "a newer start of this node is known".into()));
            }
        }
        self.come_up(now, index, out);
        Ok(Passage::Taken)
    }

    fn come_up(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) {
        self.counters.links_up += 1;
        self.serial += 1;
        let serial = self.serial;
        let link = &mut self.links[index as usize];
        let (node, conn) = (link.node, link.conn);
        #[cfg(feature = "next-version")]
        let version = link.version;
        link.phase = Phase::Up;
        link.deadline = Instant::NEVER;
        (link.heard, link.pinged, link.traffic, link.up_at) = (now, now, now, now);
        link.serial = serial;
        let peer = self.peer(node);
        peer.current = Some(index);
        peer.trouble = None;
        self.next = now;
        let announcement = self.announcement();
        out.push(LinkEffect::Event(ShardEvent::LinkUp { node, serial }));
        // Before the streams: how they are read depends on it.
        if let Some(conn) = conn {
            #[cfg(feature = "next-version")]
            if version >= trunkline_wire::next::VERSION || trunkline_wire::planted!(NewFrameToOld) {
                let label = Text::clipped(&self.config.build);
                out.send(conn, &trunkline_wire::peer::Build { label });
            }
            out.send(conn, &announcement);
        }
        self.sync_regions(index, out);
    }

    fn choice(&self, index: u32) -> Choice {
        let link = &self.links[index as usize];
        let candidate = |of: u32| {
            let of = &self.links[of as usize];
            Candidate {
                dialler: if of.dialled { self.config.node } else { of.node },
                incarnation: of.incarnation,
            }
        };
        let current = self.find(link.node).ok().and_then(|at| self.peers[at].current);
        choose(self.config.node, link.node, candidate(index), current.map(candidate))
    }

    /// A start of a node that the map knows to be over is somebody's forgotten process.
    fn refuse_old(&mut self, peer: Peer) -> Result<(), Fault> {
        let known = self.map.node(peer.node).map_or(Incarnation(0), |node| node.incarnation);
        if peer.incarnation >= known {
            return Ok(());
        }
        self.counters.links_refused_incarnation += 1;
        let text = format!(
            "node {} shows start {}, and the map knows start {known}: this one is over",
            peer.node, peer.incarnation
        );
        Err((ErrorCode::NotServed, text))
    }

    /// Links that nobody needs take a place at both ends; whoever dials has a reason. What is worth less than a dial makes room.
    fn make_room_for(&mut self, now: Instant, node: NodeId, out: &mut LinkOutbox) -> bool {
        let is_required = self.find(node).is_ok_and(|at| self.peers[at].required);
        let is_needed =
            is_required || self.partners.contains(&node) || need::requires(&self.map, node, self.config.node);
        // A node that the map doesn't know yet has just joined.
        if is_needed || self.map.node(node).is_none() {
            return true;
        }
        let offer = Wish {
            node,
            reason: Reason::Offer,
            worth: OFFER_WORTH,
            half_life: OFFER_HALF_LIFE,
            by: None,
        };
        match self.cache.accept(now, &offer) {
            Admission::Kept | Admission::Admitted => true,
            Admission::Replaces(gone) => {
                self.evict(now, gone.node, out);
                true
            }
            Admission::Full | Admission::NotWorthIt => false,
        }
    }

    pub(super) fn dial(&mut self, now: Instant, node: NodeId, out: &mut LinkOutbox) {
        let Some(address) = self.map.node(node).and_then(|node| node.peer_address) else {
            return;
        };
        let index = self.insert(now, node, Phase::Dialing, now + DIAL_TIMEOUT);
        self.counters.dialled(self.links[index as usize].dialled_for);
        self.links[index as usize].address = Some(address);
        self.peer(node).dial = Some(index);
        let link = self.name(index);
        out.push(LinkEffect::Dial { link, node, address });
    }

    fn end(&self, nonce: [u8; 32]) -> LinkEnd {
        LinkEnd {
            node: self.config.node,
            incarnation: self.config.incarnation,
            nonce,
        }
    }

    fn count_refusal(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::SecretsDiffer | Refusal::ProofFailed => self.counters.links_refused_secret += 1,
            Refusal::Version { .. } | Refusal::SameNode { .. } => self.counters.links_refused_other += 1,
        }
    }
}

/// Says why, and closes.
pub(super) fn refuse(conn: Conn, node: NodeId, code: ErrorCode, text: &str, out: &mut LinkOutbox) {
    let failure = Failure {
        code,
        text: Text::clipped(text),
    };
    out.send(conn, &failure);
    out.push(LinkEffect::Close { conn });
    out.push(LinkEffect::Trouble {
        node,
        text: text.to_owned(),
    });
}
