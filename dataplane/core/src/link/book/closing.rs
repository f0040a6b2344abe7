//! How a link ends: asked for, or not.

use trunkline_wire::device::ErrorCode;
use trunkline_wire::id::Incarnation;
use trunkline_wire::map::Map;
use trunkline_wire::peer::{LinkClose, LinkClosed};
use trunkline_wire::time::Instant;

use super::opening::refuse;
use super::{Fault, Link, LinkBook, LinkRef, Passage, Phase, out_of_turn};
use crate::link::backoff::{WAIT_MAX, wait};
use crate::link::{CLOSE_TIMEOUT, LinkEffect, LinkOutbox};
use crate::outbox::ShardEvent;

impl LinkBook {
    /// The connection of `link` has ended, by the other side or by an error. It's the caller's to close.
    pub fn closed(&mut self, now: Instant, link: LinkRef, why: &str, out: &mut LinkOutbox) {
        if let Some(index) = self.index(link) {
            self.forget_link(now, index, why, out);
        }
    }

    /// What came on `link` can't be read, or must not be: says so and closes.
    pub fn broken(&mut self, now: Instant, link: LinkRef, code: ErrorCode, text: &str, out: &mut LinkOutbox) {
        let Some(index) = self.index(link) else { return };
        match code {
            ErrorCode::Malformed | ErrorCode::TooLong | ErrorCode::OutOfTurn => self.counters.links_malformed += 1,
            // Counted where it was found.
            _ => {}
        }
        let of = &self.links[index as usize];
        if let Some(conn) = of.conn {
            refuse(conn, of.node, code, text, out);
        }
        self.forget_link(now, index, text, out);
    }

    /// Every shard has learnt that the link is down: nothing more comes for it.
    pub fn fenced(&mut self, now: Instant, link: LinkRef, out: &mut LinkOutbox) {
        let Some(index) = self.index(link) else { return };
        let of = &self.links[index as usize];
        let (Phase::Fencing { answer }, Some(conn)) = (&of.phase, of.conn) else {
            return;
        };
        if *answer {
            out.send(conn, &LinkClosed {});
            self.drop_link(now, index, "the other side closed the link", out);
        } else {
            self.send_close(now, index, out);
        }
    }

    /// Closes all links without losing a frame, and makes no new ones. Done when [`LinkBook::is_empty`].
    pub fn leave(&mut self, now: Instant, out: &mut LinkOutbox) {
        self.leaving = true;
        let all: Vec<u32> = self.links.iter().map(|(index, _)| index as u32).collect();
        for index in all {
            match self.links[index as usize].phase {
                Phase::Up => self.begin_close(now, index, out),
                Phase::Dialing | Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => {
                    self.drop_link(now, index, "this node is shutting down", out);
                }
                Phase::Fencing { .. } | Phase::AwaitClosed => {}
            }
        }
    }

    /// Nodes that by the map have come back, or are at another address: what leads to where they were is closed without losing a frame, and
    /// they are dialled where they are, at once if they are required, else for the next wish.
    pub(super) fn leave_old_addresses(&mut self, now: Instant, before: &Map, out: &mut LinkOutbox) {
        let stale: Vec<u32> = self
            .links
            .iter()
            .filter(|(_, link)| self.leads_elsewhere(link))
            .map(|(index, _)| index as u32)
            .collect();
        for index in stale {
            match self.links[index as usize].phase {
                Phase::Up => {
                    self.counters.links_moved += 1;
                    self.begin_close(now, index, out);
                }
                Phase::Dialing | Phase::AwaitChallenge(_) | Phase::AwaitReady => {
                    self.counters.links_moved += 1;
                    self.drop_link(now, index, "the node is at another address now", out);
                }
                // Whoever dialled here will show which start it is.
                Phase::AwaitProof(_) => {}
                // On their way out already.
                Phase::Fencing { .. } | Phase::AwaitClosed => {}
            }
        }
        for peer in &mut self.peers {
            let was_at = |map: &Map| map.node(peer.node).map(|node| (node.incarnation, node.peer_address));
            if was_at(before) != was_at(&self.map) {
                // That it could not be reached where it was says nothing of where it is.
                (peer.failures, peer.retry_at) = (0, now);
            }
        }
    }

    /// Whether a link leads to a start of its node that is over, or to an address that isn't its node's any more.
    fn leads_elsewhere(&self, link: &Link) -> bool {
        let Some(node) = self.map.node(link.node) else {
            return false;
        };
        let is_over = link.incarnation != Incarnation(0) && link.incarnation < node.incarnation;
        // One that the other side has dialled comes from wherever it is. A start that the map doesn't know yet has told its address itself.
        let has_moved = link.dialled && link.address != node.peer_address && link.incarnation <= node.incarnation;
        is_over || has_moved
    }

    /// Down for the shards; the close follows when none of them has anything on its way to this link.
    pub(super) fn begin_close(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) {
        self.fence(now, index, false, out);
    }

    fn fence(&mut self, now: Instant, index: u32, answer: bool, out: &mut LinkOutbox) {
        self.take_down(index, out);
        let link = &mut self.links[index as usize];
        link.phase = Phase::Fencing { answer };
        link.deadline = now + CLOSE_TIMEOUT;
        self.next = self.next.min(link.deadline);
        let node = link.node;
        let earlier = self.peer(node).fencing.replace(index);
        debug_assert!(
            earlier.is_none(),
            "nothing is dialled while a link to the node is being fenced"
        );
        out.push(LinkEffect::Fence { link: self.name(index) });
    }

    /// The last frame of this side.
    pub(super) fn send_close(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) {
        self.unfence(now, index);
        let link = &mut self.links[index as usize];
        link.phase = Phase::AwaitClosed;
        link.deadline = now + CLOSE_TIMEOUT;
        self.next = self.next.min(link.deadline);
        if let Some(conn) = link.conn {
            out.send(conn, &LinkClose {});
        }
    }

    pub(super) fn asked_to_close(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) -> Result<Passage, Fault> {
        match &mut self.links[index as usize].phase {
            Phase::Up => {
                self.fence(now, index, true, out);
                Ok(Passage::Taken)
            }
            Phase::Fencing { answer } => {
                *answer = true;
                Ok(Passage::Taken)
            }
            // Both sides close at once, and both have sent their last frame.
            Phase::AwaitClosed => {
                if let Some(conn) = self.links[index as usize].conn {
                    out.send(conn, &LinkClosed {});
                }
                self.drop_link(now, index, "both sides closed the link", out);
                Ok(Passage::Over)
            }
            Phase::Dialing | Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => {
                Err(out_of_turn("close"))
            }
        }
    }

    pub(super) fn answered_close(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) -> Result<Passage, Fault> {
        match self.links[index as usize].phase {
            Phase::AwaitClosed => {
                self.drop_link(now, index, "closed", out);
                Ok(Passage::Over)
            }
            Phase::Dialing
            | Phase::AwaitChallenge(_)
            | Phase::AwaitReady
            | Phase::AwaitProof(_)
            | Phase::Up
            | Phase::Fencing { .. } => Err(out_of_turn("closed")),
        }
    }

    /// Closes the connection, after what was sent, and forgets it.
    pub(super) fn drop_link(&mut self, now: Instant, index: u32, why: &str, out: &mut LinkOutbox) {
        if let Some(conn) = self.links[index as usize].conn {
            out.push(LinkEffect::Close { conn });
        }
        self.forget_link(now, index, why, out);
    }

    /// Forgets a connection, and sees when its node is to be dialled again.
    pub(super) fn forget_link(&mut self, now: Instant, index: u32, why: &str, out: &mut LinkOutbox) {
        self.unfence(now, index);
        let was_current = self.take_down(index, out);
        let link = self.links.remove(index as usize);
        let Ok(at) = self.find(link.node) else { return };
        let peer = &mut self.peers[at];
        let was_dial = peer.dial == Some(index);
        if was_dial {
            peer.dial = None;
            self.counters.links_dial_failed += 1;
        }
        if !was_current && !was_dial {
            return;
        }
        if why != "closed" {
            peer.trouble = Some(why.to_owned());
        }
        // At once, if the link had worked; a link that fails as soon as it's up is no better than a dial that fails.
        if was_current && now - link.up_at >= WAIT_MAX || trunkline_wire::planted!(DialWithoutWait) {
            peer.failures = 0;
            peer.retry_at = now;
        } else {
            peer.failures = peer.failures.saturating_add(1);
            peer.retry_at = now + wait(peer.failures, &mut self.rng);
        }
        // Nothing waits for a wished link: who still wants it will wish again.
        peer.wished = false;
        self.cache.remove(link.node);
        let peer = &self.peers[at];
        self.next = self.next.min(peer.retry_at);
    }

    /// Tells all shards that a link is down, if it was up.
    pub(super) fn take_down(&mut self, index: u32, out: &mut LinkOutbox) -> bool {
        let (node, serial) = {
            let link = &self.links[index as usize];
            (link.node, link.serial)
        };
        let Ok(at) = self.find(node) else { return false };
        if self.peers[at].current != Some(index) {
            return false;
        }
        self.peers[at].current = None;
        self.counters.links_down += 1;
        self.taken.forget(node);
        self.versions_taken.forget(node);
        out.push(LinkEffect::Event(ShardEvent::LinkDown { node, serial }));
        true
    }

    fn unfence(&mut self, now: Instant, index: u32) {
        let node = self.links[index as usize].node;
        if let Ok(at) = self.find(node)
            && self.peers[at].fencing == Some(index)
        {
            let peer = &mut self.peers[at];
            peer.fencing = None;
            // It worked until somebody closed it.
            (peer.failures, peer.wished) = (0, false);
            self.cache.remove(node);
            self.next = self.next.min(now);
        }
    }
}
