//! What other shards, the control side and the operator have left for a shard.

use trunkline_core::greeting::Port;
use trunkline_core::link::LinkRef;
use trunkline_core::router::Now;
use trunkline_core::router::drain::Pace;
use trunkline_net::driver::{Driver, Token};
use trunkline_wire::device::{GoAway, GoAwayReason};
use trunkline_wire::id::ShardId;

use super::{Draining, Shard, listener};
use crate::connection::State;
use crate::mesh::{Batch, DrainOrder, Item, Order, Then, count_frames, frames};

impl<D: Driver> Shard<D> {
    pub(super) fn take_mail(&mut self, now: Now) {
        while let Some(order) = self.port.order() {
            self.unpublished = true;
            self.obey(now, order);
        }
        for from in self.port.others() {
            // Bounded: a shard that sends without pause doesn't keep this one from its sockets.
            for _ in 0..BATCHES_A_TURN {
                let Some(mut batch) = self.port.next(from) else {
                    break;
                };
                self.unpublished = true;
                self.take_batch(now, from, &mut batch);
                self.port.recycle(batch);
            }
        }
    }

    fn take_batch(&mut self, now: Now, from: ShardId, batch: &mut Batch<D::Socket>) {
        for item in batch.items.drain(..) {
            match item {
                Item::Frames { from, bytes } => {
                    for (ty, body, _) in frames(&batch.bytes[bytes]) {
                        self.router.shard_frame(now, from, ty, body, &mut self.out);
                    }
                }
                Item::Link { node, bytes } => {
                    self.carry_out(now);
                    let bytes = &batch.bytes[bytes];
                    self.queue_link(now, node, bytes, count_frames(bytes));
                }
                Item::Event(event) => {
                    self.carry_out(now);
                    self.take_event(now, event);
                }
                Item::Wish(wish) => self.book.wish(now.at, &wish, &mut self.link_out),
                Item::WithdrawWish(wish) => self.book.withdraw_wish(wish.0, wish.1),
                Item::Expect(expectation) => self.router.expect(now, &expectation, &mut self.out),
                Item::Socket(transit) => self.adopt(now, *transit),
                Item::Fence(link) => {
                    // What this shard had for the link is on its way when the answer is.
                    self.carry_out(now);
                    self.port.send(from, Item::Fenced(link));
                }
                Item::Fenced(link) => {
                    self.carry_out(now);
                    self.answered(link);
                }
            }
        }
        self.carry_out(now);
    }

    /// One more shard has nothing left for `link`.
    fn answered(&mut self, link: LinkRef) {
        let Some(at) = self.fences.iter().position(|(waiting, _)| *waiting == link) else {
            return;
        };
        self.fences[at].1 -= 1;
        if self.fences[at].1 == 0 {
            self.fences.swap_remove(at);
            self.fenced.push(link);
        }
    }

    fn obey(&mut self, now: Now, order: Order) {
        match order {
            Order::Map(map) => {
                if map.id().version <= self.router.map().id().version
                    && map.id().lineage == self.router.map().id().lineage
                {
                    return;
                }
                self.router.apply_map(now, std::sync::Arc::clone(&map), &mut self.out);
                self.carry_out(now);
                self.book.apply_map(now.at, map, &mut self.link_out);
                self.carry_out(now);
            }
            Order::Explain { device, reply } => reply(self.router.explain(device)),
            Order::Links { reply } => reply(self.book.status(now.at)),
            Order::Drain(order) => self.begin_drain(now, order),
            Order::Stay => {
                if self.draining == Draining::Resting {
                    self.draining = Draining::No;
                    self.router.stay();
                }
            }
            Order::Leave => self.leave(now),
            Order::Stop => self.draining = Draining::Stopped,
        }
    }

    fn begin_drain(&mut self, now: Now, order: DrainOrder) {
        let DrainOrder {
            rate,
            retry_after_ms,
            then,
        } = order;
        match (self.draining, then) {
            (Draining::No | Draining::Resting, Then::Rest) => self.draining = Draining::Resting,
            (Draining::No | Draining::Resting, Then::End(_)) => {
                self.draining = Draining::Devices;
                self.stop_listening(now, retry_after_ms);
            }
            // It ends already.
            (Draining::Devices | Draining::Links | Draining::Stopped, Then::Rest | Then::End(_)) => return,
        }
        let own_rate = rate.div_ceil(self.shards.into());
        let devices_a_second = match then {
            Then::Rest => own_rate,
            Then::End(within) => {
                let sessions = self.router.sessions() as u64 * 1_000;
                let needed = sessions.div_ceil((within.as_millis() as u64).max(1));
                own_rate.max(u32::try_from(needed).unwrap_or(u32::MAX))
            }
        };
        let pace = Pace {
            devices_a_second: devices_a_second.max(1),
            retry_after_ms,
        };
        self.router.drain(now, pace);
    }

    /// Whoever still has devices loses them now: it is time.
    fn leave(&mut self, now: Now) {
        if self.draining == Draining::Devices {
            self.draining = Draining::Links;
            self.carry_out(now);
            self.book.leave(now.at, &mut self.link_out);
        }
    }

    /// Who has not said hello yet need not say it any more.
    fn stop_listening(&mut self, now: Now, retry_after_ms: u32) {
        for listener in std::mem::take(&mut self.listening) {
            self.driver.unlisten(listener);
        }
        debug_assert_ne!(listener(Port::Device), listener(Port::Peer));
        let go = GoAway {
            retry_after_ms,
            reason: GoAwayReason::Shutdown,
        };
        let guests = self
            .table
            .iter()
            .filter(|(_, connection)| matches!(connection.state, State::Greeting(_)));
        let guests: Vec<Token> = guests.map(|(token, _)| token).collect();
        for token in guests {
            self.send_elsewhere(now, token, &go);
        }
    }
}

/// Batches taken from one shard in one turn.
const BATCHES_A_TURN: usize = 16;
