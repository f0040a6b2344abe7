//! Every decision of the control plane, without sockets, clocks or disks.
//!
//! In come frames of connections whose peer is proven, and time. Out come [`Effect`]s, to be carried out in order, and batches to
//! commit. What changes the durable [`State`] is *staged*: gathered for [`BATCH`], then taken as one batch
//! ([`Logic::take_batch`]), and only when that is on disk ([`Logic::committed`]) is anybody told of it: the node that its join
//! was granted, the operator that it was done, all nodes that there is a new version.
//!
//! A failed commit ends a `Logic`: the caller drops it and makes another from what the store holds.

mod join;
mod moves;
mod operator;
mod plan;
mod turns;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::{info, warn};
use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::common::Pong;
use trunkline_wire::control::{ControlFrame, Drain, Joined, NodeFrame, Renewed};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::handshake::Peer;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::map::{Map, MapError, MapId};
use trunkline_wire::time::Instant;

use self::operator::Answer;
use crate::config::{BATCH, Config};
use crate::counters::Counters;
use crate::history::History;
use crate::membership::{LEASE, Leases, Removals};
use crate::publication::{Nack, Publication};
use crate::state::moves::Mover;
use crate::state::{Change, Key, Region, State};
use crate::store::{Batch, Records, StoreError};

/// Names a connection: the caller's number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// The two clocks: deadlines go by `at`, what is written down for people by `wall_ms`.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic clock.
    pub at: Instant,
    /// Milliseconds since the Unix epoch.
    pub wall_ms: u64,
}

/// What happened on a connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// It proved the cluster secret.
    Opened(Peer),
    /// It sent a frame.
    Frame(NodeFrame<'a>),
    /// It's gone.
    Closed,
}

/// What to do.
#[derive(Debug)]
pub enum Effect {
    /// Send a frame, header included.
    Send {
        /// To whom.
        to: ConnectionId,
        /// The frame.
        frame: Vec<u8>,
    },
    /// Send a map in parts; one that is still on its way to the same connection may be dropped for it.
    SendMap {
        /// To whom.
        to: ConnectionId,
        /// The map.
        transfer: crate::publication::Transfer,
    },
    /// Say why, then close.
    Fail {
        /// Whom.
        to: ConnectionId,
        /// For programs.
        code: ErrorCode,
        /// For people, one line.
        text: String,
    },
    /// Close: what was said last has been read.
    Close {
        /// Whom.
        to: ConnectionId,
    },
    /// Write a backup, and answer the operator with [`operator::backup_answer`].
    Backup {
        /// Who asked.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// An absolute path.
        path: String,
    },
}

/// Effects, in order.
pub type Outbox = Vec<Effect>;

pub use self::operator::backup_answer;
pub use self::plan::SHARE_WHOLE;

/// The control plane's decisions. See the module's text.
#[derive(Debug)]
pub struct Logic {
    config: Config,
    keys: ClusterKeys,
    state: State,
    history: History,
    leases: Leases,
    /// Nodes that operators have made instances no longer.
    instances_removed: Removals,
    publication: Publication,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Members that are connected.
    online: BTreeMap<NodeId, Online>,
    /// Devices that were enrolled and have no region yet, by when they are due.
    pending: BTreeSet<(Instant, DeviceKey)>,
    /// Devices that are to move to the region that they were enrolled in, with the next batch, and since when.
    enrolling: Vec<Mover>,
    enrolling_since: Option<Now>,
    /// How many devices each region was given by enrolment.
    devices_by_region: BTreeMap<RegionId, usize>,
    /// The first of them is due, and there is no region to give.
    pending_blocked: bool,
    /// When the slots may be spread over the regions that are there.
    settle: Option<Instant>,
    staged: Option<Staged>,
    /// Too many members are silent at once: said once.
    held: Vec<NodeId>,
    /// What was counted.
    pub counters: Counters,
}

/// A connection whose peer is proven.
#[derive(Debug)]
struct Connection {
    peer: Peer,
    role: Role,
    /// What a node says that it runs.
    #[cfg(feature = "next-version")]
    build: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// An operator's tool; or a node that hasn't joined, or has left.
    Guest,
    /// A join is being committed.
    Joining,
    /// A member.
    Member(NodeId),
}

#[derive(Clone, Copy, Debug)]
struct Online {
    connection: ConnectionId,
    sessions: u64,
    /// It sends its devices elsewhere.
    draining: bool,
    /// The version of the map that it has settled; said anew in each session.
    settled: u64,
}

/// Changes that are not on disk yet.
#[derive(Debug)]
struct Staged {
    due: Instant,
    touched: BTreeSet<Key>,
    undo: Vec<Change>,
    visible: bool,
    waiting: Vec<Waiting>,
    /// The batch was taken: the map that it makes, if it makes one.
    taken: Option<Option<Arc<Map>>>,
}

/// Who is told when the changes are on disk.
#[derive(Debug)]
enum Waiting {
    Join {
        connection: ConnectionId,
        node: NodeId,
        held: MapId,
    },
    Operator {
        connection: ConnectionId,
        request: u32,
        answer: Answer,
    },
}

impl Logic {
    /// Starts from what the store holds. `lineage` is random, and used if the store is empty.
    ///
    /// # Errors
    /// If a record can't be read.
    pub fn new(
        config: Config,
        keys: ClusterKeys,
        records: &Records,
        lineage: u64,
        now: Now,
    ) -> Result<Logic, StoreError> {
        let state = State::from_records(records)?;
        let history = History::from_records(records)?;
        let mut logic = Logic {
            config,
            keys,
            state,
            history,
            leases: Leases::default(),
            instances_removed: Removals::default(),
            publication: Publication::default(),
            connections: BTreeMap::new(),
            online: BTreeMap::new(),
            pending: BTreeSet::new(),
            pending_blocked: false,
            enrolling: Vec::new(),
            enrolling_since: None,
            devices_by_region: BTreeMap::new(),
            settle: None,
            staged: None,
            held: Vec::new(),
            counters: Counters::default(),
        };
        if logic.state.lineage == 0 {
            // 0 is "no lineage" on the wire.
            logic.state.lineage = lineage.max(1);
            logic.stage(now.at).touched.insert(Key::Meta);
            for region in logic.config.initial_regions.clone() {
                logic.add_region(now, region.name, region.weight);
            }
        }
        // Nobody is expired for our own absence: every member starts with a whole lease.
        let members: Vec<_> = logic.state.members().map(|(node, _)| node).collect();
        for node in members {
            logic.leases.renew(now.at, node);
            if trunkline_wire::planted!(ExpireOnReturn) {
                logic.depart(now, node);
            }
        }
        for (key, device) in &logic.state.devices {
            if logic.move_of_device(*key).is_some() {
                // Its region follows from the move.
                if let Some((region, _)) = device.assigned {
                    *logic.devices_by_region.entry(region).or_default() += 1;
                }
                continue;
            }
            match device.assigned {
                Some((region, _)) => *logic.devices_by_region.entry(region).or_default() += 1,
                None => {
                    let waited = now.wall_ms.saturating_sub(device.enrolled_ms);
                    let left = logic
                        .config
                        .initial_interval
                        .min
                        .saturating_sub(std::time::Duration::from_millis(waited));
                    logic.pending.insert((now.at + left, *key));
                }
            }
        }
        if logic.state.version > 0 {
            let contents = logic
                .state
                .contents()
                .ok_or_else(|| StoreError::Record("a version without slots".into()))?;
            let map = Map::build(logic.state.lineage, logic.state.version, contents);
            let map = map.map_err(|error| StoreError::Record(error.to_string()))?;
            logic.publication.publish(Arc::new(map));
        }
        Ok(logic)
    }

    /// Takes in what happened on one connection.
    pub fn handle(&mut self, now: Now, connection: ConnectionId, input: Input<'_>, out: &mut Outbox) {
        match input {
            Input::Opened(peer) => {
                let role = Role::Guest;
                let opened = Connection {
                    peer,
                    role,
                    #[cfg(feature = "next-version")]
                    build: None,
                };
                self.connections.insert(connection, opened);
            }
            Input::Closed => self.closed(connection),
            Input::Frame(frame) => {
                let Some(&Connection { peer, role, .. }) = self.connections.get(&connection) else {
                    return;
                };
                self.frame(now, connection, peer, role, frame, out);
            }
        }
    }

    fn frame(&mut self, now: Now, from: ConnectionId, peer: Peer, role: Role, frame: NodeFrame<'_>, out: &mut Outbox) {
        match (role, frame) {
            (_, NodeFrame::Ping(ping)) => send(out, from, ControlFrame::Pong(Pong { token: ping.token })),
            (_, NodeFrame::Pong(_)) => {}
            (_, NodeFrame::Failure(failure)) => {
                info!(node = %peer.node, text = failure.text.as_str(), "a node or tool gave up");
            }
            (_, NodeFrame::Admin(admin)) => self.operator(now, from, admin.request, admin.json.0, out),
            (Role::Guest, NodeFrame::Join(join)) => self.join(now, from, peer, &join, out),
            (Role::Member(node), NodeFrame::Renew(renew)) => {
                self.counters.renewals += 1;
                self.leases.renew(now.at, node);
                if let Some(online) = self.online.get_mut(&node) {
                    online.sessions = renew.sessions;
                }
                send(out, from, ControlFrame::Renewed(Renewed {}));
            }
            (Role::Member(node), NodeFrame::Draining(draining)) => {
                if let Some(online) = self.online.get_mut(&node) {
                    online.draining = draining.on;
                }
                let ordered = self
                    .state
                    .orders
                    .get(&node)
                    .is_some_and(|orders| orders.drain.is_some());
                if draining.on && !ordered {
                    // It was away when that was undone. One that is about to end goes on with it.
                    send(out, from, ControlFrame::Drain(Drain { on: false, rate: 0 }));
                }
            }
            (Role::Member(node), NodeFrame::MapAck(ack)) => {
                if self.publication.ack(from, ack.map) {
                    self.counters.map_acks += 1;
                    self.publish_to(now.at, from, out);
                } else {
                    warn!(%node, version = ack.map.version, "acknowledged a map that was not on its way");
                }
            }
            (Role::Member(node), NodeFrame::MapNack(nack)) => {
                self.counters.map_nacks += 1;
                let then = self.publication.nack(from, nack.map);
                let reason = nack.reason.as_str();
                match then {
                    Nack::Whole => {
                        warn!(%node, version = nack.map.version, reason, "refused a delta: a snapshot follows")
                    }
                    Nack::GivenUp => {
                        warn!(%node, version = nack.map.version, reason, "refused a map: it keeps what it has")
                    }
                    Nack::Unexpected => {
                        warn!(%node, version = nack.map.version, reason, "refused a map that was not on its way")
                    }
                }
                self.publish_to(now.at, from, out);
            }
            (Role::Member(_), NodeFrame::MapRequest(_)) => {
                self.publication.request(from);
                self.publish_to(now.at, from, out);
            }
            (Role::Member(node), NodeFrame::MapSettled(settled)) => self.map_settled(now, node, settled.version),
            (Role::Member(_), NodeFrame::Leave(_)) if trunkline_wire::planted!(LeaveIgnored) => {}
            (Role::Member(node), NodeFrame::Leave(_)) => {
                self.leave(now, node);
                out.push(Effect::Close { to: from });
            }
            (_, NodeFrame::LinkHello(_) | NodeFrame::LinkProof(_))
            | (Role::Joining | Role::Member(_), NodeFrame::Join(_))
            | (
                Role::Guest | Role::Joining,
                NodeFrame::Renew(_)
                | NodeFrame::Draining(_)
                | NodeFrame::MapAck(_)
                | NodeFrame::MapNack(_)
                | NodeFrame::MapRequest(_)
                | NodeFrame::MapSettled(_)
                | NodeFrame::Leave(_),
            ) => fail(
                out,
                from,
                ErrorCode::OutOfTurn,
                "a frame that has no place here: first join, once".into(),
            ),
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        let Some(Connection { role, .. }) = self.connections.remove(&connection) else {
            return;
        };
        self.publication.unsubscribe(connection);
        match role {
            // The lease goes on: a lost connection is not a lost node.
            Role::Member(node) => self.offline(node, connection),
            Role::Guest | Role::Joining => {}
        }
    }

    /// `node` is no longer there by way of `connection`; perhaps by another.
    fn offline(&mut self, node: NodeId, connection: ConnectionId) {
        if self
            .online
            .get(&node)
            .is_some_and(|online| online.connection == connection)
        {
            self.online.remove(&node);
        }
    }

    /// `node` is a member no more, as far as its connection goes. Returns that.
    fn take_offline(&mut self, node: NodeId) -> Option<ConnectionId> {
        let Online { connection, .. } = self.online.remove(&node)?;
        self.publication.unsubscribe(connection);
        if let Some(entry) = self.connections.get_mut(&connection) {
            entry.role = Role::Guest;
        }
        Some(connection)
    }

    /// The changes that are due, to be committed now. Follow with [`Logic::committed`], or drop this and start anew.
    ///
    /// # Errors
    /// If they make no map: a defect of ours, or a cluster at a limit that was not checked. Start anew.
    pub fn take_batch(&mut self, now: Instant) -> Result<Option<Batch>, MapError> {
        if self.staged.as_ref().is_none_or(|staged| staged.due > now) {
            return Ok(None);
        }
        self.flush_enrolling();
        let staged = self.staged.as_mut().expect("it was just found");
        let before = self.publication.id();
        let contents = if staged.visible { self.state.contents() } else { None };
        let map = match contents {
            None => None,
            Some(contents) => {
                let map = Map::build(self.state.lineage, self.state.version + 1, contents)?;
                self.state.version = map.id().version;
                if !trunkline_wire::planted!(VersionNotKept) {
                    staged.touched.insert(Key::Meta);
                }
                Some(Arc::new(map))
            }
        };
        let mut batch = self.state.batch(&staged.touched);
        if map.is_some() && before.version != 0 {
            let undo = staged.undo.drain(..).rev().collect();
            self.history.push(self.state.version, before, undo, &mut batch);
        }
        staged.taken = Some(map);
        Ok(Some(batch))
    }

    /// What [`Logic::take_batch`] gave is on disk: tell everyone.
    ///
    /// # Panics
    /// If no batch was taken.
    pub fn committed(&mut self, now: Now, out: &mut Outbox) {
        self.counters.commits += 1;
        let staged = self.staged.take().expect("a batch was taken");
        let map = staged.taken.expect("a batch was taken");
        if let Some(map) = map {
            self.counters.versions += 1;
            info!(version = map.id().version, "published");
            self.publication.publish(map);
        }
        for waiting in staged.waiting {
            match waiting {
                Waiting::Join { connection, node, held } => self.joined(now.at, connection, node, held, out),
                Waiting::Operator {
                    connection,
                    request,
                    answer,
                } => self.answer(now, connection, request, answer, out),
            }
        }
        for connection in self.publication.connections() {
            self.publish_to(now.at, connection, out);
        }
    }

    /// The durable state; with changes that may not be on disk yet.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether a member is connected.
    pub fn is_online(&self, node: NodeId) -> bool {
        self.online.contains_key(&node)
    }

    /// How a member is connected: which of its starts, the protocol version, and what it says that it runs.
    #[cfg(feature = "next-version")]
    pub fn spoken(&self, node: NodeId) -> Option<(Peer, Option<&str>)> {
        let online = self.online.get(&node)?;
        let connection = self.connections.get(&online.connection)?;
        Some((connection.peer, connection.build.as_deref()))
    }

    /// The version that is published; 0 if none is.
    pub fn version(&self) -> u64 {
        self.publication.id().version
    }

    fn joined(&mut self, now: Instant, connection: ConnectionId, node: NodeId, held: MapId, out: &mut Outbox) {
        // It may have gone meanwhile.
        let Some(entry) = self.connections.get_mut(&connection) else {
            return;
        };
        entry.role = Role::Member(node);
        self.counters.joins += 1;
        if let Some(before) = self.take_offline(node) {
            let text =
                format!("node {node} has joined by another connection; if it didn't, its data directory was copied");
            fail(out, before, ErrorCode::NotServed, text);
        }
        self.online.insert(
            node,
            Online {
                connection,
                sessions: 0,
                draining: false,
                settled: match trunkline_wire::planted!(SettledOnJoin) {
                    true => self.state.version,
                    false => 0,
                },
            },
        );
        self.publication.subscribe(connection, node, held);
        let joined = Joined {
            node,
            lease_ms: LEASE.as_millis() as u32,
            lineage: self.state.lineage,
        };
        send(out, connection, ControlFrame::Joined(joined));
        if let Some(rate) = self.state.orders.get(&node).and_then(|orders| orders.drain) {
            // It has started anew, or was away when an operator said so.
            send(out, connection, ControlFrame::Drain(Drain { on: true, rate }));
        }
        self.publish_to(now, connection, out);
    }

    fn publish_to(&mut self, now: Instant, to: ConnectionId, out: &mut Outbox) {
        if let Some(transfer) = self.publication.next(now, to, &self.state, &self.history) {
            if transfer.base.version == 0 {
                self.counters.snapshots_sent += 1;
            } else {
                self.counters.deltas_sent += 1;
            }
            out.push(Effect::SendMap { to, transfer });
        }
    }

    /// Applies a change; it's committed with the batch that is being gathered.
    fn change(&mut self, now: Instant, change: Change) {
        let key = Key::of(&change);
        let applied = self.state.apply(change);
        let staged = self.stage(now);
        staged.touched.insert(key);
        staged.visible |= applied.visible;
        staged.undo.push(applied.undo);
    }

    fn stage(&mut self, now: Instant) -> &mut Staged {
        self.staged.get_or_insert_with(|| Staged {
            due: now + BATCH,
            touched: BTreeSet::new(),
            undo: Vec::new(),
            visible: false,
            waiting: Vec::new(),
            taken: None,
        })
    }

    fn add_region(&mut self, now: Now, name: String, weight: u32) -> RegionId {
        let highest = self.state.regions.last_key_value().map_or(0, |(id, _)| id.0);
        // A number is never used twice: nodes may still know it.
        let id = RegionId(highest.max(self.state.region_highest) + 1);
        self.state.region_highest = id.0;
        self.stage(now.at).touched.insert(Key::Meta);
        info!(region = %id, name, weight, "a new region");
        self.change(now.at, Change::Region(id, Some(Region { name, weight })));
        id
    }
}

fn send(out: &mut Outbox, to: ConnectionId, frame: ControlFrame<'_>) {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    out.push(Effect::Send { to, frame: bytes });
}

fn fail(out: &mut Outbox, to: ConnectionId, code: ErrorCode, text: String) {
    out.push(Effect::Fail { to, code, text });
}
