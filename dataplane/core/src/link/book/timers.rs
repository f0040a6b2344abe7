//! What happens because time passes: dials, pings, suspicion, idle closes, deadlines.

use trunkline_wire::common::Ping;
use trunkline_wire::id::NodeId;
use trunkline_wire::time::Instant;

use super::{LinkBook, Phase};
use crate::constants::{LINK_PING_INTERVAL, PAUSE_MAX, SUSPECT_AFTER};
use crate::link::{IDLE_CLOSE, LinkEffect, LinkOutbox, need, token};

impl LinkBook {
    /// When [`LinkBook::tick`] is due at the latest.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Timers. Cheap if nothing is due.
    pub fn tick(&mut self, now: Instant, out: &mut LinkOutbox) {
        if now < self.next {
            return;
        }
        if now - self.next > PAUSE_MAX {
            self.forgive(now);
        }
        self.next = Instant::NEVER;
        let all: Vec<u32> = self.links.iter().map(|(index, _)| index as u32).collect();
        for index in all {
            self.tick_link(now, index, out);
        }
        self.dial_due(now, out);
        self.next = self
            .links
            .iter()
            .fold(self.next, |next, (_, link)| next.min(link.deadline));
    }

    /// This process was paused: the silence was its own. What the others have sent meanwhile is about to be read.
    fn forgive(&mut self, now: Instant) {
        for (_, link) in &mut self.links {
            if matches!(link.phase, Phase::Up) && now - link.heard > LINK_PING_INTERVAL {
                link.heard = Instant::from_micros(now.micros().saturating_sub(LINK_PING_INTERVAL.as_micros() as u64));
            }
        }
    }

    fn tick_link(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) {
        let link = &self.links[index as usize];
        match link.phase {
            Phase::Dialing => self.expire(now, index, "no connection in time", out),
            Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => {
                self.expire(now, index, "the handshake was not completed in time", out);
            }
            Phase::Fencing { .. } | Phase::AwaitClosed => {
                self.expire(now, index, "the close was not answered in time", out)
            }
            Phase::Up => self.tick_up(now, index, out),
        }
    }

    fn expire(&mut self, now: Instant, index: u32, why: &str, out: &mut LinkOutbox) {
        let link = &self.links[index as usize];
        if now >= link.deadline {
            let node = link.node;
            self.drop_link(now, index, why, out);
            let text = why.to_owned();
            out.push(LinkEffect::Trouble { node, text });
        }
    }

    fn tick_up(&mut self, now: Instant, index: u32, out: &mut LinkOutbox) {
        let link = &self.links[index as usize];
        let node = link.node;
        if now - link.heard >= SUSPECT_AFTER && !trunkline_wire::planted!(NeverSuspect) {
            self.counters.links_suspect += 1;
            self.drop_link(now, index, "nothing was heard: the node is suspect", out);
            let text = "nothing was heard: suspect".to_owned();
            out.push(LinkEffect::Trouble { node, text });
            return;
        }
        if link.dialled && now - link.traffic >= IDLE_CLOSE && !self.is_needed(node) {
            self.counters.links_idle_closed += 1;
            self.count_waste(index);
            self.begin_close(now, index, out);
            return;
        }
        let link = &mut self.links[index as usize];
        let quiet_since = link.heard.max(link.pinged);
        if now - quiet_since >= LINK_PING_INTERVAL
            && let Some(conn) = link.conn
        {
            link.pinged = now;
            self.pings += 1;
            self.counters.link_pings += 1;
            let token = token::of_book(self.config.shard, self.pings);
            out.send(conn, &Ping { token });
        }
        let link = &self.links[index as usize];
        let ping = link.heard.max(link.pinged) + LINK_PING_INTERVAL;
        self.next = self.next.min(ping).min(link.heard + SUSPECT_AFTER);
    }

    fn is_needed(&self, node: NodeId) -> bool {
        let by_us = self.find(node).is_ok_and(|at| self.peers[at].required);
        by_us || need::requires(&self.map, node, self.config.node)
    }

    fn dial_due(&mut self, now: Instant, out: &mut LinkOutbox) {
        if self.leaving {
            return;
        }
        for at in 0..self.peers.len() {
            let peer = &self.peers[at];
            if !peer.wants_dial() {
                continue;
            }
            if peer.retry_at <= now {
                let node = peer.node;
                self.dial(now, node, out);
            } else {
                self.next = self.next.min(peer.retry_at);
            }
        }
    }
}
