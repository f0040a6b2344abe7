//! What completed on sockets: clients, bytes, ends.

use std::cmp::Reverse;

use trunkline_core::admission::TooMany;
use trunkline_core::constants::LINGER;
use trunkline_core::greeting::{Greeting, Introduction, Port, Refusal};
use trunkline_core::link::{LinkBook, LinkOutbox, LinkRef, Passage};
use trunkline_core::outbox::Outbox;
use trunkline_core::router::{Now, Router, SessionRef};
use trunkline_net::driver::{Buffer, BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};
use trunkline_net::framing::{Frame, Framer};
use trunkline_wire::device::{ClientFrame, DEVICE_BODY_BYTES_MAX, ErrorCode};
use trunkline_wire::frame::Decode;

use super::{DRAINING_RETRY_AFTER_MS, Draining, FULL_RETRY_AFTER_MS, Refused, Shard, list, listener};
use crate::connection::{Connection, Guest, State, Transit, conn};
use crate::mesh::Item;
use crate::stats::ShardCounters;

impl<D: Driver> Shard<D> {
    pub(super) fn complete(&mut self, now: Now, completion: Completion<D::Socket>) {
        match completion {
            Completion::Accepted { listener, token, peer } => self.accepted(now, listener, token, peer),
            Completion::AcceptPaused { error, .. } => {
                self.counters.accepts_paused += 1;
                let why = error.map_or("the connection table is full".to_owned(), |error| error.to_string());
                self.log.warn(now, || tracing::warn!("accepting pauses: {why}"));
            }
            Completion::Connected { token } => self.connected(now, token),
            Completion::ConnectFailed { token, error } => self.gone(now, token, &error.to_string()),
            Completion::Received { token, buffer } => self.received(now, token, buffer),
            Completion::Eof { token } => self.eof(now, token),
            Completion::ReceiveFailed { token, error } => self.gone(now, token, &error.to_string()),
            Completion::Sent { token, bytes, result } => match result {
                Ok(()) => self.sent(now, token, bytes),
                Err(error) => self.gone(now, token, &error.to_string()),
            },
            Completion::Closed { token } => {
                if let Some(connection) = self.table.remove(token) {
                    self.queued_bytes -= connection.out.pending();
                }
                debug_assert!(
                    self.queued_bytes == 0 || !self.table.is_empty(),
                    "what waits, waits at a connection"
                );
            }
            Completion::HandedOver { token, result } => self.handed_over(now, token, result),
            Completion::Woken => {}
        }
    }

    fn accepted(&mut self, now: Now, at: ListenerId, token: Token, address: std::net::SocketAddr) {
        self.counters.connections_accepted += 1;
        let port = if at == listener(Port::Peer) {
            Port::Peer
        } else {
            Port::Device
        };
        let place = match port {
            Port::Device => self.gates.enter(now.at, address.ip()),
            Port::Peer => Ok(None),
        };
        let greeting = Greeting::new(now.at, port);
        self.timers.push(Reverse((greeting.deadline(), token)));
        let guest = Box::new(Guest { greeting, address });
        let mut connection = Connection::new(State::Greeting(guest));
        match place {
            Ok(place) => connection.place = place,
            Err(too_many) => {
                self.table.insert(token, connection);
                return self.too_many(now, token, address, too_many);
            }
        }
        self.table.insert(token, connection);
        // Once: nothing may be armed when the socket moves to another shard.
        self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device);
    }

    /// One address may not have everything.
    fn too_many(&mut self, now: Now, token: Token, address: std::net::SocketAddr, too_many: TooMany) {
        let setting = match too_many {
            TooMany::Open => "admission.connections_per_address",
            TooMany::New => "admission.connects_per_address",
        };
        self.log.warn(
            now,
            || tracing::warn!(%address, "refused: its address has too many connections; see `{setting}`"),
        );
        self.turn_away(now, token, Refused::Address, FULL_RETRY_AFTER_MS);
    }

    fn connected(&mut self, now: Now, token: Token) {
        let Some(State::Link { link, .. }) = self.state(token) else {
            return;
        };
        let (link, nonce) = (*link, self.entropy.nonce());
        self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
        self.carry_out(now);
        self.book.connected(now.at, link, nonce, &mut self.link_out);
        self.carry_out(now);
    }

    fn received(&mut self, now: Now, token: Token, buffer: Buffer) {
        self.counters.bytes_received += buffer.length() as u64;
        self.counters.receives += 1;
        if let Some(State::Link { link, .. }) = self.state(token)
            && !self.book.carries(*link)
        {
            // What comes may bring the link up in the place of another. What was gathered for that one would go on this one, ahead of the
            // frame that says so.
            self.carry_out(now);
        }
        let bytes = self.driver.bytes(&buffer);
        match self.table.get_mut(token).map(|connection| &mut connection.state) {
            Some(State::Device {
                session,
                version,
                framer,
            }) => {
                let over = feed_device(
                    now,
                    &mut self.router,
                    &mut self.counters,
                    *session,
                    *version,
                    framer,
                    bytes,
                    &mut self.out,
                );
                self.driver.give_back(buffer);
                if over {
                    self.carry_out(now);
                }
            }
            Some(State::Link { link, framer, .. }) => {
                let link = *link;
                let mut framer = std::mem::take(framer);
                let (book, router) = (&mut self.book, &mut self.router);
                let part = feed_link(
                    now,
                    router,
                    book,
                    &mut self.counters,
                    link,
                    &mut framer,
                    bytes,
                    &mut self.out,
                    &mut self.link_out,
                );
                self.driver.give_back(buffer);
                self.go_on(now, token, link, framer, part);
            }
            Some(State::Greeting(guest)) => {
                let followed = buffer.is_followed();
                let answer = guest.greeting.feed(now.wall_ms, &self.door, bytes);
                self.driver.give_back(buffer);
                match answer {
                    Ok(Some(introduction)) if followed => self.introduced(token, introduction),
                    answer => self.greeted(now, token, answer),
                }
            }
            Some(State::Introduced(introduction)) => {
                let look_on = introduction.take_rest(bytes) && buffer.is_followed();
                let introduction = (!look_on).then(|| introduction.as_ref().clone());
                self.driver.give_back(buffer);
                match introduction {
                    None => self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device),
                    Some(introduction) => self.greeted(now, token, Ok(Some(introduction))),
                }
            }
            Some(State::Lingering { .. } | State::InTransit(_) | State::Closing) | None => {
                self.driver.give_back(buffer)
            }
        }
    }

    /// The hello is complete, and more is there. A connection that waited long to be accepted and read may have been given up, and its
    /// device be connected elsewhere by now: nobody is let in before it is known that the end isn't there.
    fn introduced(&mut self, token: Token, introduction: Introduction) {
        if let Some(connection) = self.table.get_mut(token) {
            connection.state = State::Introduced(Box::new(introduction));
            self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device);
        }
    }

    fn greeted(&mut self, now: Now, token: Token, answer: Result<Option<Introduction>, Refusal>) {
        match answer {
            Ok(None) => self.driver.receive(token, ReceiveMode::Once, BufferGroup::Device),
            Ok(Some(introduction)) if introduction.owner == self.shard => self.admit(now, token, &introduction),
            Ok(Some(introduction)) => match self.port.address(introduction.owner) {
                Some(address) => {
                    if let Some(connection) = self.table.get_mut(token) {
                        connection.state = State::InTransit(Box::new(introduction));
                        self.driver.hand_over(token, &address);
                    }
                }
                // That shard has not started yet.
                None => self.turn_away(now, token, Refused::Full, FULL_RETRY_AFTER_MS),
            },
            Err(refusal) => self.refuse(now, token, refusal),
        }
    }

    fn handed_over(&mut self, now: Now, token: Token, result: std::io::Result<D::Socket>) {
        match result {
            Ok(socket) => {
                let left = self.table.remove(token);
                if let Some((State::InTransit(introduction), place)) = left.map(|left| (left.state, left.place)) {
                    self.counters.connections_handed_over += 1;
                    let (owner, introduction) = (introduction.owner, *introduction);
                    let transit = Transit {
                        socket,
                        introduction,
                        place,
                    };
                    self.port.send(owner, Item::Socket(Box::new(transit)));
                }
            }
            Err(error) => {
                self.log
                    .warn(now, || tracing::warn!("a connection could not be handed over: {error}"));
                self.turn_away(now, token, Refused::Full, FULL_RETRY_AFTER_MS);
            }
        }
    }

    /// A connection that another shard has accepted.
    pub(super) fn adopt(&mut self, now: Now, transit: Transit<D::Socket>) {
        let Transit {
            socket,
            introduction,
            place,
        } = transit;
        match self.driver.adopt(socket) {
            Ok(token) => {
                self.counters.connections_adopted += 1;
                // As a stranger until it's admitted; its owner is this shard, so that it doesn't travel on.
                let mut connection = Connection::new(State::InTransit(Box::new(introduction.clone())));
                connection.place = place;
                self.table.insert(token, connection);
                self.admit(now, token, &introduction);
            }
            Err((error, _)) => {
                self.counters.connections_refused_full += 1;
                self.log
                    .warn(now, || tracing::warn!("no room for a connection: {error}"));
            }
        }
    }

    /// The hello is complete, and this shard owns the connection.
    fn admit(&mut self, now: Now, token: Token, introduction: &Introduction) {
        let refused = match (self.draining, introduction.port) {
            (Draining::No, _) | (Draining::Resting, Port::Peer) => false,
            (Draining::Resting, Port::Device) => true,
            (Draining::Devices | Draining::Links | Draining::Stopped, _) => true,
        };
        if refused {
            self.turn_away(now, token, Refused::Draining, DRAINING_RETRY_AFTER_MS);
            return;
        }
        let counts = self
            .table
            .get(token)
            .is_some_and(|connection| connection.place.is_some());
        if counts && let Err(retry_after_ms) = self.gate.enter(now.at) {
            self.turn_away(now, token, Refused::Pace, retry_after_ms);
            return;
        }
        let Some(connection) = self.table.get_mut(token) else {
            return;
        };
        let name = conn(token);
        match introduction.port {
            Port::Device => {
                let version = introduction.version;
                let session = self
                    .router
                    .attach(now, name, version, &introduction.device(), &mut self.out);
                let mut framer = Framer::new();
                let rest = introduction.rest();
                let over = feed_device(
                    now,
                    &mut self.router,
                    &mut self.counters,
                    session,
                    version,
                    &mut framer,
                    rest,
                    &mut self.out,
                );
                connection.becomes(State::Device {
                    session,
                    version,
                    framer,
                });
                self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
                if over {
                    self.carry_out(now);
                }
            }
            Port::Peer => {
                let nonce = self.entropy.nonce();
                self.carry_out(now);
                let link = self
                    .book
                    .accepted(now.at, name, introduction, nonce, &mut self.link_out);
                if let Some(link) = link
                    && let Some(connection) = self.table.get_mut(token)
                {
                    connection.becomes(State::link(link));
                    self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
                    self.carry_out(now);
                    let mut framer = Framer::new();
                    let (book, router, rest) = (&mut self.book, &mut self.router, introduction.rest());
                    let part = feed_link(
                        now,
                        router,
                        book,
                        &mut self.counters,
                        link,
                        &mut framer,
                        rest,
                        &mut self.out,
                        &mut self.link_out,
                    );
                    self.go_on(now, token, link, framer, part);
                } else {
                    self.carry_out(now);
                }
            }
        }
    }

    /// Carries out what the frames of a link have asked for, and goes on with those behind, until all are taken.
    fn go_on(&mut self, now: Now, token: Token, link: LinkRef, mut framer: Framer, mut part: Part) {
        while part == Part::Paused {
            self.carry_out(now);
            let (book, router) = (&mut self.book, &mut self.router);
            part = feed_link(
                now,
                router,
                book,
                &mut self.counters,
                link,
                &mut framer,
                &[],
                &mut self.out,
                &mut self.link_out,
            );
        }
        if part == Part::Over {
            self.carry_out(now);
        }
        if let Some(State::Link { framer: place, .. }) =
            self.table.get_mut(token).map(|connection| &mut connection.state)
        {
            *place = framer;
        }
    }

    fn sent(&mut self, now: Now, token: Token, bytes: Vec<u8>) {
        let Some(connection) = self.table.get_mut(token) else {
            return;
        };
        let length = bytes.len();
        self.counters.bytes_sent += length as u64;
        match &mut connection.state {
            State::Closing => return,
            State::Device { session, .. } => self.router.device_sent(now, *session, length),
            State::Link { bound, .. } => bound.carried(now.at, length, connection.out.pending() - length),
            State::Greeting(_) | State::Introduced(_) | State::InTransit(_) | State::Lingering { .. } => {}
        }
        connection.out.sent(bytes, &mut self.spares);
        self.queued_bytes -= length;
        if connection.out.pending() > 0 {
            list(&mut self.listed, token, connection);
            return;
        }
        if let State::Lingering { until, eof, written } = &mut connection.state {
            *written = true;
            *until = now.at + LINGER;
            self.timers.push(Reverse((*until, token)));
            if *eof {
                self.close(token);
            }
        }
    }

    fn eof(&mut self, now: Now, token: Token) {
        match self.table.get_mut(token).map(|connection| &mut connection.state) {
            // Who has ended its side may still read what is being written.
            Some(State::Lingering {
                eof, written: false, ..
            }) => *eof = true,
            _ => self.gone(now, token, "the other side closed the connection"),
        }
    }

    /// The connection has ended without our doing.
    pub(super) fn gone(&mut self, now: Now, token: Token, why: &str) {
        match self.state(token) {
            None | Some(State::Closing) => return,
            Some(State::Greeting(_)) => self.counters.hellos_incomplete += 1,
            Some(State::Introduced(_)) => self.counters.hellos_abandoned += 1,
            // The socket itself is being handed over; its new owner will see the end.
            Some(State::InTransit(_)) => return,
            Some(State::Device { session, .. }) => {
                let session = *session;
                self.router.device_closed(now, session, &mut self.out);
            }
            Some(State::Link { link, .. }) => {
                let link = *link;
                self.carry_out(now);
                self.book.closed(now.at, link, why, &mut self.link_out);
                self.close(token);
                self.carry_out(now);
                return;
            }
            Some(State::Lingering { .. }) => {}
        }
        self.close(token);
    }

    fn state(&self, token: Token) -> Option<&State> {
        self.table.get(token).map(|connection| &connection.state)
    }
}

/// Hands the frames in `input` to the router; true if the session is over because of one.
#[allow(clippy::too_many_arguments)] // Fields of one shard, of which the input borrows another.
fn feed_device(
    now: Now,
    router: &mut Router,
    counters: &mut ShardCounters,
    session: SessionRef,
    version: u8,
    framer: &mut Framer,
    input: &[u8],
    out: &mut Outbox,
) -> bool {
    let mut frames = framer.frames(input);
    loop {
        match frames.next(|_| DEVICE_BODY_BYTES_MAX) {
            Ok(None) => return false,
            Ok(Some(Frame { ty, body })) => {
                counters.frames_received += 1;
                match ClientFrame::decode(version, ty, body) {
                    Ok(Some(frame)) => router.device_frame(now, session, &frame, out),
                    // Unknown, and said to be ignorable.
                    Ok(None) => {}
                    Err(error) => {
                        counters.devices_malformed += 1;
                        router.device_fault(now, session, ErrorCode::Malformed, &error.to_string(), out);
                        return true;
                    }
                }
            }
            Err(error) => {
                counters.devices_too_long += 1;
                router.device_fault(now, session, ErrorCode::TooLong, &error.to_string(), out);
                return true;
            }
        }
    }
}

/// How far the frames of a link were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// All of them.
    Done,
    /// Effects are to be carried out before the next frame.
    Paused,
    /// The connection is over.
    Over,
}

#[allow(clippy::too_many_arguments)] // Fields of one shard, of which the input borrows another.
fn feed_link(
    now: Now,
    router: &mut Router,
    book: &mut LinkBook,
    counters: &mut ShardCounters,
    link: LinkRef,
    framer: &mut Framer,
    input: &[u8],
    out: &mut Outbox,
    link_out: &mut LinkOutbox,
) -> Part {
    let mut frames = framer.frames(input);
    loop {
        let limit = book.body_bytes_max(link);
        let broken = match frames.next(|_| limit) {
            Ok(None) => return Part::Done,
            Ok(Some(Frame { ty, body })) => {
                counters.frames_received += 1;
                match book.frame(now.at, link, ty, body, link_out) {
                    Passage::Taken => None,
                    Passage::Over => return Part::Over,
                    Passage::Router(origin) => router
                        .link_frame(now, origin, ty, body, out)
                        .err()
                        .map(|error| (ErrorCode::Malformed, error.to_string())),
                }
            }
            Err(error) => Some((ErrorCode::TooLong, error.to_string())),
        };
        if let Some((code, text)) = broken {
            book.broken(now.at, link, code, &text, link_out);
            return Part::Over;
        }
        if !link_out.is_empty() {
            return Part::Paused;
        }
    }
}
