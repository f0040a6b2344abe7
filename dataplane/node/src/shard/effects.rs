//! Carries out what the router and the link book want done.

use std::ops::Range;

use trunkline_core::link::{LinkEffect, shard_of_node};
use trunkline_core::outbox::{Conn, Effect, ShardEvent};
use trunkline_core::router::Now;
use trunkline_net::driver::{Driver, Token};
use trunkline_wire::id::NodeId;

use super::{Shard, list};
use crate::connection::{Connection, State, conn, token};
use crate::mesh::{Item, count_frames, without_messages};

impl<D: Driver> Shard<D> {
    /// Everything that is to be done, what follows from it included. Asked several times a turn, and mostly there is nothing.
    #[inline]
    pub(super) fn carry_out(&mut self, now: Now) {
        if !self.out.is_empty() || !self.link_out.is_empty() || !self.fenced.is_empty() {
            self.carry_out_all(now);
        }
    }

    fn carry_out_all(&mut self, now: Now) {
        loop {
            if !self.out.is_empty() {
                let spare = std::mem::take(&mut self.out_spare);
                let mut out = std::mem::replace(&mut self.out, spare);
                for effect in out.effects() {
                    self.effect(now, effect, |bytes| out.bytes(bytes));
                }
                out.clear();
                self.out_spare = out;
            } else if !self.link_out.is_empty() {
                let spare = std::mem::take(&mut self.link_out_spare);
                let mut out = std::mem::replace(&mut self.link_out, spare);
                for effect in out.effects() {
                    self.link_effect(now, effect, |bytes| out.bytes(bytes));
                }
                out.clear();
                self.link_out_spare = out;
            } else if let Some(link) = self.fenced.pop() {
                self.book.fenced(now.at, link, &mut self.link_out);
            } else {
                return;
            }
        }
    }

    fn effect<'a>(&mut self, now: Now, effect: &Effect, bytes: impl Fn(&Range<usize>) -> &'a [u8]) {
        match effect {
            Effect::Device {
                conn,
                bytes: range,
                frames,
            } => self.queue_device(now, *conn, bytes(range), *frames),
            Effect::CloseDevice { conn } => {
                let token = token(*conn);
                if let Some(State::Device { .. }) = self.table.get(token).map(|connection| &connection.state) {
                    self.linger(now, token);
                }
            }
            Effect::Link {
                node,
                bytes: range,
                frames,
            } => {
                let owner = shard_of_node(*node, self.shards);
                if owner == self.shard {
                    self.queue_link(now, *node, bytes(range), (*frames).into());
                } else {
                    self.port.link(owner, *node, bytes(range));
                }
            }
            Effect::Shard {
                shard,
                from,
                bytes: range,
            } => self.port.frames(*shard, *from, bytes(range)),
            Effect::Event { shard, event } => {
                if shard.is_none_or(|shard| shard == self.shard) {
                    self.take_event(now, *event);
                }
                for other in self.port.others() {
                    if shard.is_none_or(|shard| shard == other) {
                        self.port.send(other, Item::Event(*event));
                    }
                }
            }
            Effect::WishLink(wish) => {
                let owner = shard_of_node(wish.node, self.shards);
                if owner == self.shard {
                    self.book.wish(now.at, wish, &mut self.link_out);
                } else {
                    self.port.send(owner, Item::Wish(Box::new(*wish)));
                }
            }
            Effect::WithdrawWish { node, by } => {
                let owner = shard_of_node(*node, self.shards);
                if owner == self.shard {
                    self.book.withdraw_wish(*node, *by);
                } else {
                    self.port.send(owner, Item::WithdrawWish(Box::new((*node, *by))));
                }
            }
            Effect::Expect { shard, expectation } => {
                self.port.send(*shard, Item::Expect(Box::new(*expectation)));
            }
        }
    }

    fn link_effect<'a>(&mut self, now: Now, effect: &LinkEffect, bytes: impl Fn(&Range<usize>) -> &'a [u8]) {
        match effect {
            LinkEffect::Dial { link, node, address } => match self.driver.connect(*address) {
                Ok(token) => {
                    self.table.insert(token, Connection::new(State::link(*link)));
                    self.book.dialing(*link, conn(token));
                }
                Err(error) => {
                    self.log
                        .warn(now, || tracing::warn!(%node, "no connection could be opened: {error}"));
                    self.book.failed(now.at, *link, &error.to_string(), &mut self.link_out);
                }
            },
            LinkEffect::Send { conn, bytes: range } => {
                let token = token(*conn);
                if let Some(connection) = self.table.get_mut(token) {
                    // The book's own frames are few and small: beyond the bound only a broken link goes without them.
                    if connection.out.push(bytes(range), &mut self.spares).is_ok() {
                        self.queued_bytes += range.len();
                        self.counters.frames_sent += count_frames(bytes(range));
                    }
                    list(&mut self.listed, token, connection);
                }
            }
            LinkEffect::Close { conn } => self.close_link(now, token(*conn)),
            LinkEffect::Event(event) => {
                self.take_event(now, *event);
                if trunkline_wire::planted!(LinkDownUntold) && matches!(event, ShardEvent::LinkDown { .. }) {
                    return;
                }
                for other in self.port.others() {
                    self.port.send(other, Item::Event(*event));
                }
            }
            LinkEffect::Fence { link } => {
                let others = self.port.others().count();
                if others == 0 {
                    self.fenced.push(*link);
                    return;
                }
                self.fences.push((*link, others));
                for other in self.port.others() {
                    self.port.send(other, Item::Fence(*link));
                }
            }
            LinkEffect::Trouble { node, text } => {
                self.log.warn(now, || tracing::warn!(%node, "link: {text}"));
            }
        }
    }

    /// A connection that the book has forgotten: lingers if it can still say something.
    fn close_link(&mut self, now: Now, token: Token) {
        let Some(connection) = self.table.get(token) else {
            return;
        };
        match connection.state {
            State::Closing | State::Lingering { .. } => {}
            // Never connected, perhaps: the driver tells by failing the send.
            State::Link { .. } if connection.out.pending() == 0 => self.close(token),
            State::Link { .. } | State::Greeting(_) | State::Introduced(_) | State::InTransit(_) => {
                self.linger(now, token)
            }
            State::Device { .. } => debug_assert!(false, "the book closes no device"),
        }
    }

    /// News for this shard.
    pub(super) fn take_event(&mut self, now: Now, event: ShardEvent) {
        match event {
            ShardEvent::SyncTaken { node, region, sync } => {
                self.book.sync_taken(node, region, sync, &mut self.link_out);
            }
            ShardEvent::MapApplying { version, .. } => self.book.map_applying(version),
            ShardEvent::MapApplied { shard, version } => self.book.map_applied(shard, version, &mut self.link_out),
            ShardEvent::VersionTaken { node, version } => self.book.version_taken(node, version, &mut self.link_out),
            ShardEvent::LinkUp { .. } | ShardEvent::LinkDown { .. } | ShardEvent::SyncStart { .. } => {
                self.router.event(now, event, &mut self.out);
            }
        }
    }

    fn queue_device(&mut self, now: Now, conn: Conn, bytes: &[u8], frames: u32) {
        let token = token(conn);
        let Some(connection) = self.table.get_mut(token) else {
            return;
        };
        let State::Device { session, .. } = connection.state else {
            return;
        };
        if connection.out.push(bytes, &mut self.spares).is_err() {
            // The router bounds what waits; this is the glue's own net.
            self.counters.devices_overflowed += 1;
            self.router.device_closed(now, session, &mut self.out);
            self.close(token);
            return;
        }
        self.queued_bytes += bytes.len();
        self.counters.frames_sent += u64::from(frames);
        list(&mut self.listed, token, connection);
    }

    /// So many frames for the link to `node`, which this shard owns.
    pub(super) fn queue_link(&mut self, now: Now, node: NodeId, bytes: &[u8], frames: u64) {
        let route = self.book.route(now.at, node).map(token);
        let Some(token) = route else {
            self.counters.link_frames_lost += frames;
            return;
        };
        let Some(connection) = self.table.get_mut(token) else {
            return;
        };
        let State::Link { bound, .. } = &connection.state else {
            self.counters.link_frames_lost += frames;
            return;
        };
        let bytes_max = bound.bytes();
        let before = connection.out.pending();
        let pushed = if before + bytes.len() <= bytes_max {
            self.counters.frames_sent += frames;
            connection.out.push(bytes, &mut self.spares)
        } else {
            let mut kept = self.spares.take();
            self.counters.link_messages_shed += without_messages(bytes, &mut kept);
            self.counters.frames_sent += count_frames(&kept);
            let pushed = connection.out.push(&kept, &mut self.spares);
            self.spares.put(kept);
            pushed
        };
        self.queued_bytes += connection.out.pending() - before;
        list(&mut self.listed, token, connection);
        if pushed.is_err() {
            self.counters.links_overflowed += 1;
            self.gone(now, token, "too much waits for the other side");
        }
    }
}
