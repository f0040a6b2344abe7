//! One thread's everything: its driver, its connections, its router, its links, its end of the mesh.
//!
//! A turn: wait; timers; what other shards and the control side have left; all that completed on sockets; then carry out the effects,
//! start one send for each socket that has something and none in flight, and hand each other shard one batch.
//!
//! Effects are carried out in the order in which they came to be. The router's are gathered over many frames; before the link book
//! is asked for anything, what was gathered is carried out, so that, say, frames of an older link reach another shard before
//! the news that the link is down.
//!
//! A connection belongs to the shard that its hello names. The shard that accepts it reads with single receives until the hello is
//! complete, and hands socket and bytes over once.

mod effects;
mod feed;
mod mail;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use trunkline_core::admission::Gate;
use trunkline_core::constants::LINGER;
use trunkline_core::greeting::{Doorkeeper, Port, Refusal};
use trunkline_core::link::{LinkBook, LinkConfig, LinkOutbox, LinkRef};
use trunkline_core::outbox::Outbox;
use trunkline_core::predictor::Mode;
use trunkline_core::router::{self, Now, Router};
use trunkline_net::driver::{BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};
use trunkline_net::outbuf::Spares;
use trunkline_net::table::ConnectionTable;
use trunkline_wire::auth::{ClusterKeys, Secret};
use trunkline_wire::codec::Text;
use trunkline_wire::common::Failure;
use trunkline_wire::control::Roles;
use trunkline_wire::device::{ErrorCode, GoAway, GoAwayReason};
use trunkline_wire::frame::Encode;
use trunkline_wire::id::{Incarnation, NodeId, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use crate::connection::{Connection, State};
use crate::door::Door;
use crate::entropy::Entropy;
use crate::mesh::MeshPort;
use crate::stats::{PUBLISH_INTERVAL, ShardCounters, ShardStats};

/// What a shard is told once.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// This node.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// This shard.
    pub shard: ShardId,
    /// How many shards this node has.
    pub shards: u16,
    /// What this node does.
    pub roles: Roles,
    /// From the cluster secret.
    pub keys: ClusterKeys,
    /// With a key, devices must show a token.
    pub token_key: Option<Secret>,
    /// Links beyond the required ones, of all shards together.
    pub direct_links_max: u32,
    /// Whether it foresees its devices' messages.
    pub predictor: Mode,
    /// Devices whose affinity lists are remembered, by all shards together.
    pub affinity_lists_max: usize,
    /// Where jitter comes from; another one for each shard.
    pub seed: u64,
    /// Where nonces come from.
    pub entropy: Entropy,
    /// Who may connect; the same for all shards.
    pub gates: Arc<Door>,
    /// The protocol versions that this node speaks.
    pub versions: Versions,
    /// What runs here, for people.
    #[cfg(feature = "next-version")]
    pub build: String,
}

/// See the module's text.
pub struct Shard<D: Driver> {
    driver: D,
    shard: ShardId,
    shards: u16,
    entropy: Entropy,
    door: Doorkeeper,
    gates: Arc<Door>,
    gate: Gate,
    router: Router,
    book: LinkBook,
    port: MeshPort<D>,
    table: ConnectionTable<Connection>,
    spares: Spares,
    completions: Vec<Completion<D::Socket>>,
    out: Outbox,
    out_spare: Outbox,
    link_out: LinkOutbox,
    link_out_spare: LinkOutbox,
    /// Connections that may have something to send.
    listed: Vec<Token>,
    /// Bytes that wait at connections, those in flight included.
    queued_bytes: usize,
    /// Ends of greetings and lingerings; those that are over already are found to be so.
    timers: BinaryHeap<Reverse<(Instant, Token)>>,
    /// Links that wait for the other shards' answers, and how many are missing.
    fences: Vec<(LinkRef, usize)>,
    /// Links that no shard has anything for any more.
    fenced: Vec<LinkRef>,
    /// What had no room in the mesh is waiting.
    mesh_waits: bool,
    draining: Draining,
    /// The latest version of the map of which all that it asks was found to be done.
    map_settled: u64,
    listening: Vec<ListenerId>,
    counters: ShardCounters,
    stats: Arc<ShardStats>,
    publish_at: Instant,
    /// Something was counted since.
    unpublished: bool,
    log: LogBudget,
    now: Now,
}

/// How far a shutdown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Draining {
    No,
    /// Devices are sent elsewhere, and none is let in; an operator asked for it, and may undo it.
    Resting,
    /// Devices are sent elsewhere; links stay until those of all shards have come up there.
    Devices,
    /// Links are being closed.
    Links,
    Stopped,
}

/// Why a connection is told to come back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// No room.
    Full,
    /// Too many come at once.
    Pace,
    /// Its address has too many.
    Address,
    /// This node sends its devices elsewhere.
    Draining,
}

impl<D: Driver> Shard<D> {
    /// A shard without connections. It listens nowhere yet: [`Shard::listen`].
    pub fn new(
        driver: D,
        config: ShardConfig,
        mut port: MeshPort<D>,
        map: Arc<Map>,
        stats: Arc<ShardStats>,
    ) -> Shard<D> {
        port.attach(&driver);
        let now = Now {
            at: driver.now(),
            wall_ms: driver.wall_ms(),
        };
        let router = router::Config {
            node: config.node,
            shard: config.shard,
            shards: config.shards,
            roles: config.roles,
            keys: config.keys.clone(),
            predictor: config.predictor,
            affinity_lists_max: config.affinity_lists_max.div_ceil(usize::from(config.shards)),
            seed: config.seed,
        };
        let links = LinkConfig {
            node: config.node,
            incarnation: config.incarnation,
            roles: config.roles,
            shard: config.shard,
            shards: config.shards,
            keys: config.keys.clone(),
            direct_links_max: config.direct_links_max,
            seed: config.seed.wrapping_add(1),
            versions: config.versions,
            #[cfg(feature = "next-version")]
            build: config.build,
        };
        let door = Doorkeeper {
            shards: config.shards,
            roles: config.roles,
            keys: config.keys,
            token_key: config.token_key,
            versions: config.versions,
        };
        Shard {
            shard: config.shard,
            shards: config.shards,
            entropy: config.entropy,
            gate: Gate::new(now.at, config.gates.rate(), config.seed.wrapping_add(2)),
            gates: config.gates,
            door,
            router: Router::new(now, router, Arc::clone(&map)),
            book: LinkBook::new(now.at, links, map),
            port,
            driver,
            table: ConnectionTable::new(),
            spares: Spares::new(SPARES_MAX),
            completions: Vec::new(),
            out: Outbox::new(),
            out_spare: Outbox::new(),
            link_out: LinkOutbox::new(),
            link_out_spare: LinkOutbox::new(),
            listed: Vec::new(),
            queued_bytes: 0,
            timers: BinaryHeap::new(),
            fences: Vec::new(),
            fenced: Vec::new(),
            mesh_waits: false,
            draining: Draining::No,
            map_settled: 0,
            listening: Vec::new(),
            counters: ShardCounters::default(),
            stats,
            publish_at: now.at,
            unpublished: true,
            log: LogBudget::default(),
            now,
        }
    }

    /// Accepts devices, or nodes, at `address` from now on. Returns the bound address; port 0 picks one.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen(&mut self, port: Port, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = listener(port);
        let bound = self.driver.listen(address, listener)?;
        self.listening.push(listener);
        Ok(bound)
    }

    /// One turn; waits until something happens, or `until`, or the next timer.
    ///
    /// # Errors
    /// What makes the driver unusable.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        let deadline = self.deadline();
        let until = until.map_or(deadline, |until| until.min(deadline));
        let until = if self.port.about_to_sleep() {
            until
        } else {
            Instant::ZERO
        };
        let mut completions = std::mem::take(&mut self.completions);
        let waited = self.driver.wait(Some(until), &mut completions);
        self.port.awake();
        waited?;
        self.counters.turns += 1;
        let now = Now {
            at: self.driver.now(),
            wall_ms: self.driver.wall_ms(),
        };
        self.now = now;
        self.router.tick(now, &mut self.out);
        self.carry_out(now);
        self.book.tick(now.at, &mut self.link_out);
        self.carry_out(now);
        self.take_mail(now);
        self.unpublished |= !completions.is_empty();
        self.counters.completions += completions.len() as u64;
        for completion in completions.drain(..) {
            self.complete(now, completion);
            if self.out.bytes_len() >= OUT_BYTES_SOFT_MAX {
                self.carry_out(now);
            }
        }
        self.completions = completions;
        self.carry_out(now);
        self.expire(now);
        self.carry_out(now);
        self.start_sends();
        self.mesh_waits = self.port.flush(|at| self.driver.wake(at));
        self.settle_map();
        self.publish(now);
        Ok(())
    }

    /// When the next turn is due at the latest.
    pub fn deadline(&mut self) -> Instant {
        let pending = !self.out.is_empty() || !self.link_out.is_empty() || !self.listed.is_empty();
        if pending || self.port.has_mail() {
            return Instant::ZERO;
        }
        let mut next = self.router.deadline().min(self.book.deadline());
        next = next.min(self.now.at + TURN_INTERVAL_MAX);
        if let Some(Reverse((at, _))) = self.timers.peek() {
            next = next.min(*at);
        }
        if self.mesh_waits {
            next = next.min(self.now.at + MESH_RETRY);
        }
        if self.unpublished {
            next = next.min(self.publish_at);
        }
        next
    }

    /// Whether others have left something for this shard.
    pub fn has_mail(&self) -> bool {
        self.port.has_mail()
    }

    /// Whether this node is to end, and no device of this shard is here any more, nor on its way elsewhere.
    pub fn is_rid_of_devices(&self) -> bool {
        match self.draining {
            Draining::No | Draining::Resting => false,
            Draining::Devices => self.router.sessions() == 0 && self.router.on_their_way() == 0,
            Draining::Links | Draining::Stopped => true,
        }
    }

    /// Whether this node is to end, and all is closed here. Until it's stopped, a shard goes on taking turns: the others may still need
    /// its answers.
    pub fn is_drained(&self) -> bool {
        match self.draining {
            Draining::No | Draining::Resting | Draining::Devices => false,
            Draining::Links => self.book.is_empty() && self.table.is_empty(),
            Draining::Stopped => true,
        }
    }

    /// Whether somebody said stop.
    pub fn is_stopped(&self) -> bool {
        self.draining == Draining::Stopped
    }

    /// What this shard's router decides; for checks.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// Its links; for checks.
    pub fn links(&self) -> &LinkBook {
        &self.book
    }

    /// What the glue counted; for checks.
    pub fn counters(&self) -> &ShardCounters {
        &self.counters
    }

    /// Its sockets; for checks.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Whether a connection that has not said hello in time is still there. Looks at every connection.
    pub fn has_overdue_guest(&self, now: Instant) -> bool {
        self.table.iter().any(|(_, connection)| match &connection.state {
            State::Greeting(guest) => guest.greeting.deadline() < now,
            _ => false,
        })
    }

    /// Timers of connections that the core doesn't know: greetings and lingerings.
    fn expire(&mut self, now: Now) {
        while let Some(&Reverse((at, token))) = self.timers.peek() {
            if at > now.at {
                return;
            }
            self.timers.pop();
            match self.table.get(token).map(|connection| &connection.state) {
                Some(State::Greeting(guest))
                    if guest.greeting.deadline() <= now.at && !trunkline_wire::planted!(HelloForever) =>
                {
                    self.refuse(now, token, Refusal::TimedOut);
                }
                Some(State::Introduced(introduction)) if introduction.deadline <= now.at => {
                    self.refuse(now, token, Refusal::TimedOut);
                }
                Some(State::Lingering { until, .. }) if *until <= now.at => self.close(token),
                _ => {}
            }
        }
    }

    /// Tells a connection that has not been let in why, and closes it.
    fn refuse(&mut self, now: Now, token: Token, refusal: Refusal) {
        let code = refusal.code();
        let counters = &mut self.counters;
        match code {
            ErrorCode::BadPreface => counters.refused_bad_preface += 1,
            ErrorCode::UnsupportedVersion => counters.refused_unsupported_version += 1,
            ErrorCode::Malformed => counters.refused_malformed += 1,
            ErrorCode::TooLong => counters.refused_too_long += 1,
            ErrorCode::OutOfTurn => counters.refused_out_of_turn += 1,
            ErrorCode::HelloTimeout => counters.refused_hello_timeout += 1,
            ErrorCode::Unauthorized => counters.refused_unauthorized += 1,
            ErrorCode::NotServed => counters.refused_not_served += 1,
            ErrorCode::IdleTimeout | ErrorCode::WrongSecret | ErrorCode::SlowReader | ErrorCode::Internal => {
                debug_assert!(false, "a greeting isn't refused with {code:?}");
            }
        }
        let text = refusal.to_string();
        if let Some(State::Greeting(guest)) = self.table.get(token).map(|connection| &connection.state) {
            let address = guest.address;
            self.log
                .warn(now, || tracing::warn!(%address, code = code.name(), "refused: {text}"));
        }
        let failure = Failure {
            code,
            text: Text::clipped(&text),
        };
        self.last_words(now, token, &failure);
    }

    /// Sends one frame to who isn't let in, and lingers.
    fn last_words(&mut self, now: Now, token: Token, frame: &impl Encode) {
        if let Some(connection) = self.table.get_mut(token) {
            let frame = frame.to_vec();
            let pushed = connection.out.push(&frame, &mut self.spares);
            debug_assert!(pushed.is_ok(), "nothing was sent before");
            if pushed.is_ok() {
                self.queued_bytes += frame.len();
                self.counters.frames_sent += 1;
            }
            list(&mut self.listed, token, connection);
        }
        self.linger(now, token);
    }

    /// This connection can't be let in now: it shall come back later, perhaps to another node.
    fn turn_away(&mut self, now: Now, token: Token, why: Refused, retry_after_ms: u32) {
        let counters = &mut self.counters;
        let (counter, reason) = match why {
            Refused::Full => (&mut counters.connections_refused_full, GoAwayReason::Full),
            Refused::Pace => (&mut counters.connections_refused_pace, GoAwayReason::Full),
            Refused::Address => (&mut counters.connections_refused_address, GoAwayReason::Full),
            Refused::Draining => (&mut counters.connections_refused_draining, GoAwayReason::Shutdown),
        };
        *counter += 1;
        let go = GoAway { retry_after_ms, reason };
        self.send_elsewhere(now, token, &go);
    }

    /// Tells a connection that is not let in to come back later: a device in its protocol, a node in its own.
    fn send_elsewhere(&mut self, now: Now, token: Token, go: &GoAway) {
        let port = match self.table.get(token).map(|connection| &connection.state) {
            Some(State::Greeting(guest)) => guest.greeting.port(),
            Some(State::Introduced(introduction) | State::InTransit(introduction)) => introduction.port,
            Some(State::Device { .. } | State::Link { .. } | State::Lingering { .. } | State::Closing) | None => return,
        };
        match port {
            Port::Device => self.last_words(now, token, go),
            Port::Peer => {
                let text = match go.reason {
                    GoAwayReason::Full => "this node has no room for a connection now",
                    GoAwayReason::Shutdown => "this node is shutting down",
                };
                let failure = Failure {
                    code: ErrorCode::NotServed,
                    text: Text::clipped(text),
                };
                self.last_words(now, token, &failure);
            }
        }
    }

    /// Closes once what was sent is written and the other side has had time to read it.
    fn linger(&mut self, now: Now, token: Token) {
        let Some(connection) = self.table.get_mut(token) else {
            return;
        };
        let written = connection.out.pending() == 0;
        let until = now.at + if written { LINGER } else { LINGER_WRITE };
        connection.state = State::Lingering {
            until,
            eof: false,
            written,
        };
        self.timers.push(Reverse((until, token)));
        // To see its end; what comes before is discarded.
        self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Device);
    }

    fn close(&mut self, token: Token) {
        if let Some(connection) = self.table.get_mut(token) {
            connection.state = State::Closing;
            self.driver.close(token);
        }
    }

    /// One send for each connection that has something and none in flight.
    fn start_sends(&mut self) {
        for token in self.listed.drain(..) {
            let Some(connection) = self.table.get_mut(token) else {
                continue;
            };
            connection.listed = false;
            if matches!(connection.state, State::Closing) {
                continue;
            }
            if let Some(bytes) = connection.out.next_send() {
                self.counters.sends += 1;
                self.driver.send(token, bytes);
            }
        }
    }

    /// Whether all that the map asks of this shard is done. Asked until it is.
    fn settle_map(&mut self) {
        let version = self.router.map().id().version;
        if self.map_settled != version && self.book.settled() && self.router.settled(self.now) {
            self.map_settled = version;
            self.stats.map_settled.store(version, Ordering::Release);
        }
    }

    fn publish(&mut self, now: Now) {
        self.stats.turned_at.store(now.at.micros().max(1), Ordering::Relaxed);
        self.stats
            .devices_gone
            .store(self.is_rid_of_devices(), Ordering::Release);
        self.stats.drained.store(self.is_drained(), Ordering::Release);
        self.stats
            .draining
            .store(self.draining != Draining::No, Ordering::Relaxed);
        if now.at < self.publish_at {
            return;
        }
        self.publish_at = now.at + PUBLISH_INTERVAL;
        self.unpublished = false;
        let shed = self.port.shed();
        let counters = &mut self.counters;
        (counters.mesh_messages_shed, counters.mesh_frames_shed) = (shed.messages, shed.frames);
        let calls = self.driver.calls();
        (counters.enters, counters.sleeps) = (calls.enters, calls.sleeps);
        (counters.reads, counters.writes) = (calls.reads, calls.writes);
        let stats = &self.stats;
        stats.publish(
            self.router.counters(),
            self.router.predictions(),
            self.book.counters(),
            &self.counters,
        );
        let set = |gauge: &std::sync::atomic::AtomicU64, value: usize| gauge.store(value as u64, Ordering::Relaxed);
        set(&stats.sessions, self.router.sessions());
        set(&stats.sockets, self.table.len());
        set(&stats.links_up, self.book.up());
        let (taken, places) = self.book.budget();
        set(&stats.direct_links, taken);
        set(&stats.direct_links_max, places);
        for (gauge, taken) in stats.direct_links_for.iter().zip(self.book.budget_by_reason()) {
            set(gauge, taken);
        }
        let (kept, places) = self.router.affinities();
        set(&stats.affinities, kept);
        set(&stats.affinities_max, places);
        set(&stats.links_missing, self.book.missing().count());
        set(&stats.unresolved, self.router.unresolved());
        set(&stats.queued_bytes, self.queued_bytes);
        set(&stats.mesh_queued_bytes, self.port.queued_bytes());
        set(&stats.presence, self.router.presence_len());
        stats
            .map_version
            .store(self.router.map().id().version, Ordering::Relaxed);
        stats.in_sync.store(self.router.in_sync(), Ordering::Relaxed);
    }
}

/// Puts a connection into the list of those that may have something to send.
fn list(listed: &mut Vec<Token>, token: Token, connection: &mut Connection) {
    if !connection.listed {
        connection.listed = true;
        listed.push(token);
    }
}

fn listener(port: Port) -> ListenerId {
    ListenerId(match port {
        Port::Device => 0,
        Port::Peer => 1,
    })
}

/// Lines about strangers are bounded: who floods the port doesn't get to flood the log.
#[derive(Debug, Default)]
struct LogBudget {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogBudget {
    fn warn(&mut self, now: Now, write: impl FnOnce()) {
        if now.at - self.since >= Duration::from_secs(1) {
            if self.suppressed > 0 {
                tracing::warn!(suppressed = self.suppressed, "more lines like these");
            }
            *self = LogBudget {
                since: now.at,
                ..LogBudget::default()
            };
        }
        if self.lines < LOG_LINES_A_SECOND {
            self.lines += 1;
            write();
        } else {
            self.suppressed += 1;
        }
    }
}

/// A shard turns at least so often, so that one that hangs is seen.
const TURN_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// How soon what had no room in the mesh is tried again: the other shard is busy, not asleep.
const MESH_RETRY: Duration = Duration::from_millis(1);
/// How long a connection's last words may take to be written: a slow phone with a full queue.
const LINGER_WRITE: Duration = Duration::from_secs(5);
/// What a client is told that finds no room; it adds jitter of its own.
const FULL_RETRY_AFTER_MS: u32 = 1_000;
/// What a client is told that comes to a node which sends its devices elsewhere: others are there at once, and this one isn't soon.
const DRAINING_RETRY_AFTER_MS: u32 = 1_000;
/// Lines about strangers, per shard and second.
const LOG_LINES_A_SECOND: u32 = 10;
/// Frames that are gathered before they are copied to where they leave: while they are in the nearest cache. A turn may bring a megabyte.
const OUT_BYTES_SOFT_MAX: usize = 16 << 10;
/// Vectors kept for sends; 32 MiB in the worst case.
const SPARES_MAX: usize = 256;

#[cfg(test)]
mod tests;
