//! One shard's router: takes in what devices, links and other shards say, and decides what is done.
//!
//! Which shard does what follows from the device's key ([`DeviceKey::shard`]): its session, its location, its presence (if this
//! node is an instance of its region) and its unresolved messages are all at that one shard.
//!
//! | file | what it decides |
//! |---|---|
//! | `attach` | the life of a device's session: epochs, registration, welcome, superseded, closed |
//! | `drain` | who is sent elsewhere, and when |
//! | `timers` | what is due for sessions: late welcomes, the silent, the slow |
//! | `send` | what becomes of a message that a device sends: retries, and its one report |
//! | `foresee` | what is expected of devices: locations asked for ahead of need, wishes for links |
//! | `remember` | how a device's history follows it from server to server |
//! | `route` | where a message goes next, and its delivery |
//! | `instance` | what this node does as an instance of a region: registrations, streams, "offline" |
//! | `passed` | what is answered at once when the link is lost that a message went over |
//! | `audit` | nothing: it says what must hold between two turns |
//! | `moves` | devices that move between regions, and nodes whose maps differ |
//! | `peers` | which shard a frame from a link is for; links that come and go; maps |

mod attach;
mod audit;
pub mod drain;
mod foresee;
mod instance;
mod locations_told;
mod moves;
mod passed;
mod peers;
mod remember;
mod route;
mod send;
mod timers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::control::Roles;
use trunkline_wire::id::{DeviceKey, Epoch, NodeId, PartnerKey, RegionId, ShardId};
use trunkline_wire::map::Map;
use trunkline_wire::report::{Trail, Way};
use trunkline_wire::time::Instant;

pub use self::audit::{Breach, Doubt};
pub use self::remember::REMEMBER_AFTER;
use crate::archive::Archive;
use crate::budget::RetryBudget;
use crate::constants::{LOCATIONS_MAX, PAUSE_MAX, TOMBSTONE, WATCHES_MAX};
use crate::counters::Counters;
use crate::epoch::EpochClock;
use crate::link::need::partners;
use crate::location::Locations;
use crate::outbox::Outbox;
use crate::predictor::{Explained, Foresight, Mode, Predictor, PredictorCounters};
use crate::presence::Presence;
pub use crate::session::SessionRef;
use crate::session::Sessions;
use crate::sources::Sources;
use crate::unresolved::{self, MessageId};
use crate::watches::Watches;
use foresee::Prefetch;
use instance::Asked;
use locations_told::LocationsTold;
use moves::Versions;
use passed::Passed;
use remember::HandOver;
use timers::Timer;
use trunkline_wire::keyed::{KeyHasher, KeyMap};

/// The present, as a turn of the shard sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On the monotonic clock: all timers.
    pub at: Instant,
    /// Milliseconds since the Unix epoch: a hint for epochs, never trusted alone.
    pub wall_ms: u64,
}

impl Now {
    /// Seconds since the Unix epoch, for what outlives a process and may be off.
    pub fn unix_seconds(self) -> u32 {
        u32::try_from(self.wall_ms / 1_000).unwrap_or(u32::MAX)
    }
}

/// What a router is told once.
#[derive(Clone, Debug)]
pub struct Config {
    /// This node.
    pub node: NodeId,
    /// This shard.
    pub shard: ShardId,
    /// How many shards this node has; at least 1.
    pub shards: u16,
    /// What this node does.
    pub roles: Roles,
    /// Turns device ids into keys.
    pub keys: ClusterKeys,
    /// Whether it foresees its devices' messages.
    pub predictor: Mode,
    /// How many devices' affinity lists this shard remembers, as an instance of regions.
    pub affinity_lists_max: usize,
    /// Where jitter comes from.
    pub seed: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Router {
    config: Config,
    map: Arc<Map>,
    counters: Counters,
    rng: fastrand::Rng,

    // Devices of this node.
    clock: EpochClock,
    sessions: Sessions,
    /// Confirmed deliveries that are open, so that a copy isn't written again.
    held: HashMap<MessageId, u64, ahash::RandomState>,
    session_timers: SessionTimers,
    /// Newer sessions of devices whose session here they ended.
    superseded: KeyMap<Epoch>,
    superseded_forget: VecDeque<(Instant, DeviceKey, Epoch)>,
    drain: Option<drain::Drain>,
    /// Sessions that were sent elsewhere, and when to forget them.
    away: KeyMap<Epoch>,
    away_until: VecDeque<(Instant, DeviceKey, Epoch)>,

    // Messages taken in here.
    unresolved: unresolved::Table,
    retry_budget: RetryBudget,

    // Where others are, and who is expected to write to whom.
    predictor: Predictor,
    /// What was just foreseen and not acted on yet.
    foresights: Vec<Foresight>,
    prefetches: HashMap<PartnerKey, Prefetch, BuildHasherDefault<KeyHasher>>,
    /// As an instance: who is to be told where a device turns up.
    watches: Watches,
    locations: Locations,
    links: BTreeMap<NodeId, LinkView>,
    passed: Passed,

    // As an instance of regions.
    /// Which it serves, by the map.
    served: BTreeSet<RegionId>,
    /// Also of regions that a connection server's newer map says it serves.
    presence: BTreeMap<RegionId, Presence>,
    sources: Sources,
    archive: Archive,
    hand_over: HandOver,
    asked: BTreeMap<DeviceKey, Asked>,
    asked_bytes: usize,
    locations_told: LocationsTold,
    ticked: Instant,
    /// What [`Router::deadline`] said last.
    due: Instant,
    /// When, for what is explained.
    unix_seconds: u32,
    pings: u64,
    versions: Versions,
    /// The instances of regions that devices move to, or from, as this node's regions go.
    partners: BTreeSet<NodeId>,

    /// Streams to begin once this shard's map is new enough.
    syncs_waiting: Vec<(u64, NodeId, RegionId, u64)>,
}

/// What sessions wait for, the soonest first.
type SessionTimers = BinaryHeap<Reverse<(Instant, SessionRef, Timer)>>;

/// A link, as every shard sees it.
#[derive(Clone, Copy, Debug)]
enum LinkView {
    Up {
        serial: u64,
    },
    /// Since when; nodes that never had a link count from when they first mattered.
    Down {
        since: Instant,
    },
}

/// What one shard knows of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Inside the cluster.
    pub key: DeviceKey,
    /// By this node's map.
    pub region: RegionId,
    /// The second one, while it moves.
    pub region_also: Option<RegionId>,
    /// The version of this shard's map.
    pub map_version: u64,
    /// The region's instances, and whether this shard can use a link to each (true for this node itself).
    pub instances: Vec<(NodeId, bool)>,
    /// Its session here.
    pub session: Option<Epoch>,
    /// The newer session that ended the one here, within the last minute.
    pub superseded: Option<Epoch>,
    /// Where a message from here would be sent straight to, and whether the link is ready.
    pub location: Option<(Epoch, bool)>,
    /// As an instance of its region: where it is.
    pub presence: Option<Epoch>,
    /// As an instance of its region: whether "not here" may be believed. `None` if it isn't one.
    pub in_sync: Option<bool>,
    /// The way of the last message that was delivered to it here, and the nodes that it passed.
    pub last_way: Option<(Way, Trail)>,
    /// Whom it has to do with, and how likely it writes to each next; the most recent first.
    pub expected: Vec<Explained>,
    /// As an instance of its region: how many partners it keeps of it.
    pub kept: Option<usize>,
}

impl Router {
    /// A router that knows nobody. Call [`Router::tick`] first in every turn, and at least at each [`Router::deadline`].
    pub fn new(now: Now, config: Config, map: Arc<Map>) -> Router {
        let mut router = Router {
            clock: EpochClock::new(config.node),
            counters: Counters::default(),
            rng: fastrand::Rng::with_seed(config.seed),
            sessions: Sessions::default(),
            held: HashMap::with_hasher(ahash::RandomState::with_seeds(config.seed, 2, 3, 4)),
            session_timers: BinaryHeap::new(),
            superseded: KeyMap::default(),
            superseded_forget: VecDeque::new(),
            drain: None,
            away: KeyMap::default(),
            away_until: VecDeque::new(),
            unresolved: unresolved::Table::new(config.seed),
            retry_budget: RetryBudget::new(now.at, config.shards),
            predictor: Predictor::in_mode(config.predictor),
            foresights: Vec::new(),
            prefetches: HashMap::default(),
            watches: Watches::new(WATCHES_MAX),
            locations: Locations::new(LOCATIONS_MAX),
            links: BTreeMap::new(),
            passed: Passed::default(),
            served: BTreeSet::new(),
            presence: BTreeMap::new(),
            sources: Sources::default(),
            archive: Archive::new(config.affinity_lists_max),
            hand_over: HandOver::default(),
            asked: BTreeMap::new(),
            asked_bytes: 0,
            locations_told: LocationsTold::default(),
            ticked: now.at,
            due: Instant::NEVER,
            unix_seconds: now.unix_seconds(),
            pings: 0,
            versions: Versions::default(),
            partners: partners(&map, config.node),
            syncs_waiting: Vec::new(),
            map: Arc::clone(&map),
            config,
        };
        router.serve_regions(now);
        router
    }

    /// Timers, and the detection of pauses: call it first in every turn.
    pub fn tick(&mut self, now: Now, out: &mut Outbox) {
        if now.at.since(self.ticked) > PAUSE_MAX {
            self.doubt(out);
        }
        if now.at.since(self.due) > PAUSE_MAX {
            self.forgive(now);
        }
        self.ticked = now.at;
        self.unix_seconds = now.unix_seconds();
        self.tick_sessions(now, out);
        self.tick_drain(now, out);
        self.tick_unresolved(now, out);
        self.tick_instance(now, out);
        self.tick_hand_over(out);
        // What the last turn's messages went without; they are on their way by now.
        self.predictor.learn();
        while let Some(&(at, device, epoch)) = self.superseded_forget.front() {
            if at > now.at {
                break;
            }
            self.superseded_forget.pop_front();
            if self.superseded.get(&device) == Some(&epoch) {
                self.superseded.remove(&device);
            }
        }
    }

    /// When [`Router::tick`] is due at the latest.
    pub fn deadline(&mut self) -> Instant {
        let away = self.away_until.front().map_or(Instant::NEVER, |(at, ..)| *at);
        let sessions = self
            .session_timers
            .peek()
            .map_or(Instant::NEVER, |Reverse((at, ..))| *at);
        let unresolved = self.unresolved.deadline();
        self.due = sessions
            .min(unresolved)
            .min(self.instance_deadline())
            .min(self.drain_deadline())
            .min(self.hand_over_deadline())
            .min(away);
        self.due
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was foreseen, and how much of it came true.
    pub fn predictions(&self) -> &PredictorCounters {
        self.predictor.counters()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How many confirmed messages are unresolved.
    pub fn unresolved(&self) -> usize {
        self.unresolved.len()
    }

    /// How many of these have left this node, as far as is known: who sends them again does so within its budget. Looks at all of them.
    pub fn unresolved_left(&self) -> usize {
        self.unresolved.left()
    }

    /// The version of the map that this shard uses.
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Whether every region that this node serves could say "offline" now (true for a node that serves none).
    pub fn in_sync(&self) -> bool {
        self.served.iter().all(|&region| self.sources.in_sync(region))
    }

    /// The sessions that this instance knows of in `region`, by key; `None` if it doesn't serve that region.
    pub fn presence(&self, region: RegionId) -> Option<Vec<(DeviceKey, Epoch)>> {
        self.presence.get(&region).map(Presence::sorted)
    }

    /// Whether it holds sessions of `region` as an instance, or could.
    pub fn has_presence(&self, region: RegionId) -> bool {
        self.presence.contains_key(&region)
    }

    /// The session by which it knows a device as an instance of the device's region.
    pub fn presence_of(&self, device: DeviceKey) -> Option<Epoch> {
        self.presence.get(&self.map.region_of(device))?.find(device)
    }

    /// How many sessions it knows as an instance of their regions.
    pub fn presence_len(&self) -> usize {
        self.presence.values().map(Presence::len).sum()
    }

    /// The highest epoch that this instance knows for a device of `region`, of a session that is or of one that was until lately.
    pub fn presence_highest(&self, region: RegionId, device: DeviceKey) -> Option<Epoch> {
        self.presence.get(&region)?.highest(device)
    }

    /// The session by which a device receives here.
    pub fn session_epoch(&self, device: DeviceKey) -> Option<Epoch> {
        self.sessions.peek(device).map(|session| session.epoch)
    }

    /// Whom the device of a session that receives here has to do with, as far as that is known.
    pub fn session_partners(&self, device: DeviceKey) -> impl Iterator<Item = PartnerKey> {
        let habits = self.sessions.peek(device).and_then(|session| session.habits.as_deref());
        let partners = habits.into_iter().flat_map(|habits| habits.affinity().partners());
        partners.map(|partner| partner.device)
    }

    /// The sessions that receive, in no order that means anything.
    pub fn receiving(&self) -> impl Iterator<Item = (DeviceKey, Epoch)> {
        let all = self.sessions.all();
        all.filter_map(|session| Some((session.key, session.epoch.some()?)))
    }

    /// What this shard knows of `device`, which is its own.
    pub fn explain(&self, device: DeviceKey) -> Explanation {
        let region = self.map.region_of(device);
        let instances = self.map.instances(region);
        let location = self.locations.peek(device);
        let session = self.sessions.peek(device);
        Explanation {
            key: device,
            region,
            region_also: self.map.region_also(device),
            map_version: self.map.id().version,
            instances: instances
                .iter()
                .map(|&node| (node, node == self.config.node || self.ready(node)))
                .collect(),
            session: session.map(|session| session.epoch),
            superseded: self.superseded.get(&device).copied(),
            location: location.map(|epoch| (epoch, self.ready(epoch.node))),
            presence: self.presence_of(device),
            kept: self.kept(device),
            in_sync: self.served.contains(&region).then(|| self.sources.in_sync(region)),
            last_way: session.and_then(|session| Some((session.last_way?, session.last_trail))),
            expected: session
                .and_then(|session| session.habits.as_deref())
                .map_or(Vec::new(), |habits| self.predictor.explain(self.unix_seconds, habits)),
        }
    }

    /// Whether a link to `node` may be used now.
    fn ready(&self, node: NodeId) -> bool {
        matches!(self.links.get(&node), Some(LinkView::Up { .. }))
    }

    fn owner(&self, device: DeviceKey) -> ShardId {
        device.shard(self.config.shards)
    }

    fn is_own(&self, device: DeviceKey) -> bool {
        self.owner(device) == self.config.shard
    }

    /// A newer session of `device` than one that was here: where to send what still comes for the older one.
    fn remember_superseded(&mut self, now: Now, device: DeviceKey, epoch: Epoch) {
        let known = self.superseded.entry(device).or_insert(epoch);
        if *known <= epoch {
            *known = epoch;
            self.superseded_forget.push_back((now.at + TOMBSTONE, device, epoch));
        }
    }

    fn jitter(&mut self) -> u64 {
        self.rng.u64(..)
    }
}

/// How long an instance sleeps at most, so that a longer gap is known to be a pause.
const INSTANCE_TICK: Duration = Duration::from_millis(500);
const _: () = assert!(INSTANCE_TICK.as_millis() < PAUSE_MAX.as_millis());
