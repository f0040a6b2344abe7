//! One shard's links, by node and by connection.

mod closing;
mod opening;
mod timers;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use fastrand::Rng;
use slab::Slab;
use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::common::{Failure, Ping, Pong};
use trunkline_wire::control::Roles;
use trunkline_wire::device::ErrorCode;
use trunkline_wire::frame::Encode;
use trunkline_wire::handshake::{Acceptor, Opener};
use trunkline_wire::id::{DeviceKey, Incarnation, NodeId, RegionId, ShardId};
use trunkline_wire::map::Map;
#[cfg(feature = "next-version")]
use trunkline_wire::next;
#[cfg(feature = "next-version")]
use trunkline_wire::peer::Build;
use trunkline_wire::peer::{
    LinkChallenge, LinkClose, LinkClosed, LinkHello, LinkProof, LinkReady, MapTaken, MapVersion, PEER_BODY_BYTES_MAX,
    SyncBegin, Synced,
};
use trunkline_wire::preface::{VERSION_MIN, Versions};
use trunkline_wire::time::Instant;

use super::cache::{Admission, LinkCache, Reason, Wish};
use super::need;
use super::peer::PeerEntry;
use super::sync::Taken;
use super::{
    LinkCounters, LinkEffect, LinkOutbox, LinkState, LinkStatus, OPENING_BODY_BYTES_MAX, shard_of_node, token,
};
use crate::outbox::{Conn, ShardEvent};

/// What a link book is told once.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// This node.
    pub node: NodeId,
    /// Which of its starts.
    pub incarnation: Incarnation,
    /// What it does.
    pub roles: Roles,
    /// This shard.
    pub shard: ShardId,
    /// How many shards this node has.
    pub shards: u16,
    /// Proves the cluster secret.
    pub keys: ClusterKeys,
    /// Links beyond the required ones, of all shards together.
    pub direct_links_max: u32,
    /// Where jitter comes from.
    pub seed: u64,
    /// The protocol versions that this node speaks.
    pub versions: Versions,
    /// What runs here, for people.
    #[cfg(feature = "next-version")]
    pub build: String,
}

/// A connection's place in its book: an index, and how often it was reused. Dead after [`LinkEffect::Close`] and
/// [`LinkBook::closed`]; using it then does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkRef {
    index: u32,
    generation: u32,
}

/// Whose a frame is that came on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// The book has taken it.
    Taken,
    /// The book has closed the connection; nothing that follows counts.
    Over,
    /// The router's.
    Router(Origin),
}

/// Where a frame for the router comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who said it.
    pub node: NodeId,
    /// Whether it came on the link, and not on one that was replaced or is being closed.
    pub current: bool,
    /// The protocol version that the link speaks.
    pub version: u8,
}

/// One connection.
#[derive(Debug)]
struct Link {
    generation: u32,
    /// `None` until [`LinkBook::dialing`].
    conn: Option<Conn>,
    node: NodeId,
    /// Whether this node dialled,
    dialled: bool,
    /// why, if it can do without,
    dialled_for: Option<Reason>,
    /// and where to.
    address: Option<SocketAddr>,
    incarnation: Incarnation,
    /// The protocol version that both sides speak; the lowest until they have agreed on one.
    version: u8,
    /// What the other side says that it runs.
    #[cfg(feature = "next-version")]
    build: Option<String>,
    phase: Phase,
    /// Until when the phase has to be over; never for a link that is up.
    deadline: Instant,
    /// When anything was received.
    heard: Instant,
    pinged: Instant,
    /// When anything but pings and pongs went either way.
    traffic: Instant,
    /// Whether it has carried a frame of the router's.
    carried: bool,
    up_at: Instant,
    serial: u64,
    /// Of which regions the other side was sent, or is being sent, the sessions on this link.
    synced: Vec<RegionId>,
    /// Of these streams, those that the other side has not confirmed.
    unconfirmed: Vec<(RegionId, u64)>,
    /// The version of the map that the other side has taken all registrations for.
    version_taken: u64,
}

/// How far a connection is; the picture is at the module.
#[derive(Debug)]
enum Phase {
    Dialing,
    AwaitChallenge(Opener),
    AwaitReady,
    AwaitProof(Acceptor),
    Up,
    /// Down for the shards; what they sent before they knew is still on its way here. `answer`: the other side has asked.
    Fencing {
        answer: bool,
    },
    AwaitClosed,
}

/// See the module's text.
#[derive(Debug)]
pub struct LinkBook {
    config: LinkConfig,
    map: Arc<Map>,
    rng: Rng,
    /// By ascending node.
    peers: Vec<PeerEntry>,
    links: Slab<Link>,
    generation: u32,
    serial: u64,
    sync: u64,
    pings: u64,
    taken: Taken,
    /// Which version of the map each shard of this node uses.
    applied: Vec<u64>,
    /// The newest that any shard uses, or is about to.
    newest: u64,
    /// Announcements of other nodes' versions that some shards of this node have taken.
    versions_taken: Taken,
    /// See [`need::partners`].
    partners: BTreeSet<NodeId>,
    /// The links beyond the required ones.
    cache: LinkCache,
    leaving: bool,
    /// No timer is due before this.
    next: Instant,
    counters: LinkCounters,
}

impl LinkBook {
    /// A book without links. Call [`LinkBook::tick`] at least at each [`LinkBook::deadline`].
    pub fn new(now: Instant, config: LinkConfig, map: Arc<Map>) -> LinkBook {
        let share = share(config.direct_links_max, config.shard, config.shards);
        let mut book = LinkBook {
            rng: Rng::with_seed(config.seed),
            peers: Vec::new(),
            links: Slab::new(),
            generation: 0,
            serial: 0,
            // Each start counts in a range of its own, so that an answer to an earlier start's stream fits none of this one's.
            sync: config.incarnation.0 << 24,
            pings: 0,
            taken: Taken::new(config.shards),
            newest: map.id().version,
            applied: vec![map.id().version; usize::from(config.shards)],
            partners: BTreeSet::new(),
            versions_taken: Taken::new(config.shards),
            cache: LinkCache::new(share as usize),
            leaving: false,
            next: now,
            counters: LinkCounters::default(),
            map,
            config,
        };
        book.note_required();
        book
    }

    /// What was counted.
    pub fn counters(&self) -> &LinkCounters {
        &self.counters
    }

    /// The connection that takes frames for `node` now. Counts as traffic.
    pub fn route(&mut self, now: Instant, node: NodeId) -> Option<Conn> {
        let at = self.find(node).ok()?;
        let peer = &self.peers[at];
        let link = &mut self.links[peer.current.or(peer.fencing)? as usize];
        link.traffic = now;
        link.carried = true;
        link.conn
    }

    /// Whether frames of the router's come and go on `link`: both sides have proven themselves.
    pub fn carries(&self, link: LinkRef) -> bool {
        self.index(link)
            .is_some_and(|index| self.links[index as usize].phase.carries())
    }

    /// How long the body of the next frame on `link` may be: before it carries any of the router's, little.
    pub fn body_bytes_max(&self, link: LinkRef) -> usize {
        if self.carries(link) {
            PEER_BODY_BYTES_MAX
        } else {
            OPENING_BODY_BYTES_MAX
        }
    }

    /// A frame that arrived on `link`.
    pub fn frame(&mut self, now: Instant, link: LinkRef, ty: u8, body: &[u8], out: &mut LinkOutbox) -> Passage {
        let Some(index) = self.index(link) else {
            return Passage::Over;
        };
        let link = &mut self.links[index as usize];
        link.heard = now;
        match ty {
            LinkHello::TYPE..=LinkClosed::TYPE | Ping::TYPE | Pong::TYPE | Failure::TYPE => {}
            #[cfg(feature = "next-version")]
            Build::TYPE if link.version >= next::VERSION => {}
            // What every link begins with is no reason to have one.
            Synced::TYPE | MapTaken::TYPE | MapVersion::TYPE => {
                let (confirmed, conn) = (link.confirmed(ty, body), link.conn);
                if let (true, Some(conn)) = (confirmed, conn) {
                    // What was streamed by what an older map says has no place there, if the other side has this map.
                    out.send(conn, &self.announcement());
                }
                return self.pass(now, index, ty, out);
            }
            _ => {
                link.traffic = now;
                link.carried = true;
                return self.pass(now, index, ty, out);
            }
        }
        match self.manage(now, index, ty, body, out) {
            Ok(passage) => passage,
            Err((code, text)) => {
                self.broken(now, self.name(index), code, &text, out);
                Passage::Over
            }
        }
    }

    /// A frame for the router, if the link is one that carries any.
    fn pass(&mut self, now: Instant, index: u32, ty: u8, out: &mut LinkOutbox) -> Passage {
        let link = &self.links[index as usize];
        let origin = |current| Origin {
            node: link.node,
            current,
            version: link.version,
        };
        match link.phase {
            Phase::Up => Passage::Router(origin(true)),
            Phase::Fencing { .. } | Phase::AwaitClosed => Passage::Router(origin(false)),
            Phase::Dialing | Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => {
                let text = format!("a frame of type 0x{ty:02x} before the link is ready");
                self.broken(now, self.name(index), ErrorCode::OutOfTurn, &text, out);
                Passage::Over
            }
        }
    }

    fn manage(
        &mut self,
        now: Instant,
        index: u32,
        ty: u8,
        body: &[u8],
        out: &mut LinkOutbox,
    ) -> Result<Passage, Fault> {
        match ty {
            LinkChallenge::TYPE => self.challenge(now, index, &decode(LinkChallenge::decode_body(body))?, out),
            LinkProof::TYPE => self.proof(now, index, &decode(LinkProof::decode_body(body))?, out),
            LinkReady::TYPE => self.ready(now, index, decode(LinkReady::decode_body(body))?, out),
            LinkClose::TYPE => {
                decode(LinkClose::decode_body(body))?;
                self.asked_to_close(now, index, out)
            }
            LinkClosed::TYPE => {
                decode(LinkClosed::decode_body(body))?;
                self.answered_close(now, index, out)
            }
            Ping::TYPE => {
                let Ping { token } = decode(Ping::decode_body(body))?;
                let link = &self.links[index as usize];
                if let (true, Some(conn)) = (link.phase.carries(), link.conn) {
                    out.send(conn, &Pong { token });
                    return Ok(Passage::Taken);
                }
                Err(out_of_turn("ping"))
            }
            Pong::TYPE => {
                let Pong { token } = decode(Pong::decode_body(body))?;
                match token::is_router(token) {
                    true => Ok(self.pass(now, index, ty, out)),
                    false => Ok(Passage::Taken),
                }
            }
            Failure::TYPE => {
                let failure = decode(Failure::decode_body(body))?;
                let text = format!(
                    "it closed the link: {} ({})",
                    failure.text.as_str(),
                    failure.code.name()
                );
                self.drop_link(now, index, &text, out);
                Ok(Passage::Over)
            }
            #[cfg(feature = "next-version")]
            Build::TYPE => {
                let link = &mut self.links[index as usize];
                let Build { label } = decode(Build::decode_body_of(link.version, body))?;
                if !link.phase.carries() {
                    return Err(out_of_turn("build"));
                }
                link.build = Some(label.as_str().to_owned());
                Ok(Passage::Taken)
            }
            // The hello was read before there was a link.
            _ => Err(out_of_turn("hello")),
        }
    }

    /// A newer map: other nodes may be required, or reached elsewhere, or serve other regions.
    pub fn apply_map(&mut self, now: Instant, map: Arc<Map>, out: &mut LinkOutbox) {
        let before = std::mem::replace(&mut self.map, map);
        self.note_required();
        self.leave_old_addresses(now, &before, out);
        self.next = now;
        for at in 0..self.peers.len() {
            if let Some(index) = self.peers[at].current {
                self.sync_regions(index, out);
            }
        }
        let map = &self.map;
        self.peers.retain(|peer| {
            let linked = peer.current.is_some() || peer.dial.is_some() || peer.fencing.is_some();
            linked || peer.required || map.node(peer.node).is_some()
        });
    }

    /// A link would be of use. It is dialled if it's worth its place, and what it replaces is closed without losing a frame.
    pub fn wish(&mut self, now: Instant, wish: &Wish, out: &mut LinkOutbox) {
        let node = wish.node;
        if node == self.config.node || self.leaving || !self.owns(node) {
            return;
        }
        let known = self.find(node).ok().map(|at| &self.peers[at]);
        let is_needed = self.partners.contains(&node) || need::requires(&self.map, node, self.config.node);
        // What somebody can't do without takes no place.
        if known.is_some_and(|peer| peer.required || peer.current.is_some() && is_needed) {
            return;
        }
        let waits = known.is_some_and(|peer| peer.current.is_none() && peer.retry_at > now);
        let can_be_dialled = self.map.node(node).is_some_and(|node| node.peer_address.is_some());
        if self.cache.find(node).is_none() && (waits || !can_be_dialled) {
            self.counters.link_wishes_refused += 1;
            return;
        }
        match self.cache.wish(now, wish) {
            Admission::Kept => self.counters.link_wishes_kept += 1,
            Admission::NotWorthIt => self.counters.link_wishes_unworthy += 1,
            Admission::Full => self.counters.link_wishes_refused += 1,
            Admission::Admitted => self.dial_wished(now, node),
            Admission::Replaces(gone) => {
                self.evict(now, gone.node, out);
                self.dial_wished(now, node);
            }
        }
    }

    /// What `by` was expected to send to `node` is no longer expected. The link stays until its place is needed.
    pub fn withdraw_wish(&mut self, node: NodeId, by: DeviceKey) {
        self.cache.withdraw(node, by);
    }

    /// How many places for links beyond the required ones are taken, and how many there are.
    pub fn budget(&self) -> (usize, usize) {
        (self.cache.len(), self.cache.budget())
    }

    /// How many of these places are taken for each reason, in the order of [`Reason::ALL`].
    pub fn budget_by_reason(&self) -> [usize; Reason::ALL.len()] {
        Reason::ALL.map(|reason| {
            let entries = self.cache.entries().iter();
            entries.filter(|entry| entry.reason == reason).count()
        })
    }

    fn dial_wished(&mut self, now: Instant, node: NodeId) {
        self.peer(node).wished = true;
        self.next = now;
    }

    /// Closes the link to `node`, or gives up its dial: its place is another's.
    pub(super) fn evict(&mut self, now: Instant, node: NodeId, out: &mut LinkOutbox) {
        self.counters.links_evicted += 1;
        let Ok(at) = self.find(node) else { return };
        self.peers[at].wished = false;
        match (self.peers[at].current, self.peers[at].dial) {
            (Some(index), _) => {
                self.count_waste(index);
                self.begin_close(now, index, out);
            }
            (None, Some(index)) => self.drop_link(now, index, "a better link needed its place", out),
            (None, None) => {}
        }
    }

    pub(super) fn count_waste(&mut self, index: u32) {
        let link = &self.links[index as usize];
        if link.dialled && !link.carried {
            self.counters.wasted(link.dialled_for);
        }
    }

    /// One shard of this node has taken a stream of sessions: [`ShardEvent::SyncTaken`]. When all have, the sender is told.
    pub fn sync_taken(&mut self, node: NodeId, region: RegionId, sync: u64, out: &mut LinkOutbox) {
        if !self.owns(node) || !self.taken.by_one(node, region, sync) {
            return;
        }
        if let Some(conn) = self.current_conn(node) {
            out.send(conn, &Synced { region, sync });
        }
    }

    /// For how long nothing was heard on the link to `node`; `None` without a link, or if another shard owns it.
    pub fn silence(&self, now: Instant, node: NodeId) -> Option<std::time::Duration> {
        let at = self.find(node).ok()?;
        let link = &self.links[self.peers[at].current? as usize];
        Some(now.since(link.heard))
    }

    /// A shard of this node uses another version of the map: [`ShardEvent::MapApplied`]. When all do, the other nodes are told.
    pub fn map_applied(&mut self, shard: ShardId, version: u64, out: &mut LinkOutbox) {
        let before = self.version();
        self.applied[usize::from(shard.0)] = version;
        if self.version() == before {
            return;
        }
        let announcement = self.announcement();
        for peer in &self.peers {
            let conn = peer.current.and_then(|index| self.links[index as usize].conn);
            if let Some(conn) = conn {
                out.send(conn, &announcement);
            }
        }
    }

    /// A shard of this node is about to use another version of the map: [`ShardEvent::MapApplying`].
    pub fn map_applying(&mut self, version: u64) {
        // Another lineage may count lower; then nobody relies on the difference.
        self.newest = self.newest.max(version);
    }

    /// One shard of this node has taken what another node said before it announced a version: [`ShardEvent::VersionTaken`]. When all
    /// have, the other node is told.
    pub fn version_taken(&mut self, node: NodeId, version: u64, out: &mut LinkOutbox) {
        if !self.owns(node) || !self.versions_taken.by_one(node, WHOLE_NODE, version) {
            return;
        }
        if let Some(conn) = self.current_conn(node) {
            out.send(conn, &MapTaken { version });
        }
    }

    /// Whether all that the map asks of this shard's links is done: all shards use it, and the instances that can be reached have taken
    /// the sessions that were registered there.
    pub fn settled(&self) -> bool {
        let version = self.map.id().version;
        let confirmed = |peer: &PeerEntry| {
            let Some(link) = peer.current.map(|index| &self.links[index as usize]) else {
                return true;
            };
            let serves = self.map.node(peer.node).is_some_and(|node| node.roles.region);
            let taken = link.version_taken >= version && link.unconfirmed.is_empty();
            !serves || taken || trunkline_wire::planted!(SettledUnconfirmed)
        };
        self.version() == version && self.peers.iter().all(confirmed)
    }

    pub(super) fn announcement(&self) -> MapVersion {
        let version = self.version();
        let newest = self.newest.max(version);
        MapVersion { version, newest }
    }

    /// The version that all shards use, or a later one.
    fn version(&self) -> u64 {
        self.applied.iter().copied().min().unwrap_or(0)
    }

    /// Required nodes to which there is no link.
    pub fn missing(&self) -> impl Iterator<Item = NodeId> {
        let missing = |peer: &&PeerEntry| peer.required && peer.current.is_none();
        self.peers.iter().filter(missing).map(|peer| peer.node)
    }

    /// How many links are up.
    pub fn up(&self) -> usize {
        self.peers.iter().filter(|peer| peer.current.is_some()).count()
    }

    /// Whether no connection is left: after [`LinkBook::leave`] the node may go.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Every node that has, had or should have a link, by ascending id.
    pub fn status(&self, now: Instant) -> Vec<LinkStatus> {
        let status = |peer: &PeerEntry| {
            let index = peer.current.or(peer.dial).or(peer.fencing);
            let link = index.map(|index| &self.links[index as usize]);
            let carrying = link.filter(|link| link.phase.carries());
            let place = self.cache.find(peer.node);
            LinkStatus {
                worth: place.map(|place| place.worth_at(now)),
                wished_by: place.and_then(|place| place.wished_by),
                node: peer.node,
                state: link.map_or(LinkState::Idle, |link| link.phase.state()),
                required: peer.required,
                dialled: link.is_some_and(|link| link.dialled),
                incarnation: carrying.map(|link| link.incarnation),
                version: carrying.map(|link| link.version),
                #[cfg(feature = "next-version")]
                build: carrying.and_then(|link| link.build.clone()),
                heard_ms: carrying.map(|link| (now - link.heard).as_millis() as u64),
                failures: peer.failures,
                trouble: peer.trouble.clone(),
            }
        };
        self.peers.iter().map(status).collect()
    }

    /// Names all sessions of each region that the other side of `index` serves, if this node has sessions: the begin leaves on the
    /// link before any shard is told.
    fn sync_regions(&mut self, index: u32, out: &mut LinkOutbox) {
        let link = &mut self.links[index as usize];
        let (node, Some(conn)) = (link.node, link.conn) else {
            return;
        };
        if !self.config.roles.connection || trunkline_wire::planted!(NoSyncOnNewLink) && self.counters.links_down > 0 {
            return;
        }
        link.synced.retain(|&region| self.map.holds(region, node));
        link.unconfirmed.retain(|(region, _)| link.synced.contains(region));
        for (region, _) in self.map.regions() {
            if link.synced.contains(&region) || !self.map.holds(region, node) {
                continue;
            }
            link.synced.push(region);
            self.sync += 1;
            let sync = self.sync;
            link.unconfirmed.push((region, sync));
            out.send(conn, &SyncBegin { region, sync });
            out.push(LinkEffect::Event(ShardEvent::SyncStart {
                node,
                region,
                sync,
                map_version: self.map.id().version,
            }));
        }
    }

    fn note_required(&mut self) {
        self.partners = need::partners(&self.map, self.config.node);
        let required = need::required(&self.map, self.config.node, self.config.roles, &self.partners);
        for peer in &mut self.peers {
            peer.required = required.contains(&peer.node);
        }
        for node in required {
            if self.owns(node) {
                self.peer(node).required = true;
            }
        }
    }

    fn owns(&self, node: NodeId) -> bool {
        shard_of_node(node, self.config.shards) == self.config.shard
    }

    fn current_conn(&self, node: NodeId) -> Option<Conn> {
        let at = self.find(node).ok()?;
        self.links[self.peers[at].current? as usize].conn
    }

    fn find(&self, node: NodeId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&node, |peer| peer.node)
    }

    fn peer(&mut self, node: NodeId) -> &mut PeerEntry {
        let at = self.find(node).unwrap_or_else(|at| {
            self.peers.insert(at, PeerEntry::new(node));
            at
        });
        &mut self.peers[at]
    }

    fn index(&self, link: LinkRef) -> Option<u32> {
        let found = self.links.get(link.index as usize)?;
        (found.generation == link.generation).then_some(link.index)
    }

    fn name(&self, index: u32) -> LinkRef {
        LinkRef {
            index,
            generation: self.links[index as usize].generation,
        }
    }

    fn insert(&mut self, now: Instant, node: NodeId, phase: Phase, deadline: Instant) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.next = self.next.min(deadline);
        self.links.insert(Link {
            generation: self.generation,
            conn: None,
            node,
            dialled: matches!(phase, Phase::Dialing),
            dialled_for: self.cache.find(node).map(|place| place.reason),
            address: None,
            incarnation: Incarnation(0),
            version: VERSION_MIN,
            #[cfg(feature = "next-version")]
            build: None,
            phase,
            deadline,
            heard: now,
            pinged: now,
            traffic: now,
            carried: false,
            up_at: now,
            serial: 0,
            synced: Vec::new(),
            unconfirmed: Vec::new(),
            version_taken: 0,
        }) as u32
    }
}

impl Link {
    /// The other side has taken something; what can't be read is the router's to find out. True with the last stream.
    fn confirmed(&mut self, ty: u8, body: &[u8]) -> bool {
        match ty {
            Synced::TYPE => {
                if let Ok(Synced { region, sync }) = Synced::decode_body(body) {
                    let before = self.unconfirmed.len();
                    self.unconfirmed.retain(|stream| *stream != (region, sync));
                    return before > 0 && self.unconfirmed.is_empty();
                }
            }
            MapTaken::TYPE => {
                if let Ok(MapTaken { version }) = MapTaken::decode_body(body) {
                    self.version_taken = self.version_taken.max(version);
                }
            }
            _ => {}
        }
        false
    }
}

/// What an announced version belongs to, in the place of a region: none has this number.
const WHOLE_NODE: RegionId = RegionId(0);

/// One shard's part of the budget: all parts together are the budget, exactly.
fn share(budget: u32, shard: ShardId, shards: u16) -> u32 {
    let shards = u32::from(shards);
    budget / shards + u32::from(u32::from(shard.0) < budget % shards)
}

/// What to tell the other side before the connection is closed.
type Fault = (ErrorCode, String);

fn decode<T>(result: Result<T, trunkline_wire::codec::DecodeError>) -> Result<T, Fault> {
    result.map_err(|error| (ErrorCode::Malformed, error.to_string()))
}

fn out_of_turn(what: &str) -> Fault {
    (ErrorCode::OutOfTurn, format!("a {what} has no place here"))
}

impl Phase {
    /// Whether both sides have proven themselves, and frames of the router's may arrive.
    fn carries(&self) -> bool {
        match self {
            Phase::Up | Phase::Fencing { .. } | Phase::AwaitClosed => true,
            Phase::Dialing | Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => false,
        }
    }

    fn state(&self) -> LinkState {
        match self {
            Phase::Dialing => LinkState::Dialing,
            Phase::AwaitChallenge(_) | Phase::AwaitReady | Phase::AwaitProof(_) => LinkState::Handshaking,
            Phase::Up => LinkState::Up,
            Phase::Fencing { .. } | Phase::AwaitClosed => LinkState::Closing,
        }
    }
}
