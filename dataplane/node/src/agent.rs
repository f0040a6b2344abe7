//! The node's subscription to the control plane: it joins, renews its lease, and takes maps.
//!
//! ```text
//! Idle ─▶ Connecting ─▶ Opening ─▶ Proving ─▶ Joining ─▶ Member
//!   ▲__________________ anything that goes wrong ____________│
//! ```
//!
//! What it can't do is stop the node: with the control plane gone, or saying nonsense, the last good map stays in use. A map is
//! taken only if the policy says so ([`map::accept`]) and all of it checks out; it's on disk before it's acknowledged, and before any
//! shard sees it.
//!
//! As a shard, it knows no thread: it takes turns.

mod maps;
mod session;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use trunkline_core::tally;
use trunkline_net::driver::{Completion, Driver};
use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::control::Roles;
use trunkline_wire::device::ErrorCode;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::map::Map;
use trunkline_wire::preface::Versions;
use trunkline_wire::time::Instant;

use self::maps::Maps;
use self::session::Session;
use crate::entropy::Entropy;
use crate::identity;
use crate::storage::Storage;

/// What an agent is told once.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Where the control plane is: `host:port`, tried in turn.
    pub control: Vec<String>,
    /// The node's id; [`NodeId::NONE`] asks for one.
    pub node: NodeId,
    /// Which of the node's starts.
    pub incarnation: Incarnation,
    /// For people; empty: the control plane makes one.
    pub name: String,
    /// What the node does.
    pub roles: Roles,
    /// The regions that it serves.
    pub regions: Vec<String>,
    /// Where devices reach it.
    pub device_address: Option<SocketAddr>,
    /// Where nodes reach it.
    pub peer_address: Option<SocketAddr>,
    /// Where its metrics are.
    pub http_address: Option<SocketAddr>,
    /// From the cluster secret.
    pub keys: ClusterKeys,
    /// The operator's consent to a map of another lineage than the one on disk.
    pub accept_lineage: bool,
    /// Where jitter comes from.
    pub seed: u64,
    /// Where nonces come from.
    pub entropy: Entropy,
    /// The protocol versions that this node speaks.
    pub versions: Versions,
    /// What runs here, for people.
    #[cfg(feature = "next-version")]
    pub build: String,
}

/// What an agent has to tell.
#[derive(Clone, Debug)]
pub enum News {
    /// The control plane knows the node by this id, which is on disk.
    Joined(NodeId),
    /// Use this map; it's on disk.
    Map(Arc<Map>),
    /// An operator wants the node's devices elsewhere.
    Drain {
        /// Devices a second; 0: as the node is set.
        rate: u32,
    },
    /// An operator lets devices in again.
    Stay,
    /// The session with the control plane failed; it's tried again.
    Trouble {
        /// The other side's code, if it said one.
        code: Option<ErrorCode>,
        /// One line.
        text: String,
    },
}

tally! {
    /// What an agent counts, from its start.
    AgentCounters {
        control_dials => "Connections tried to the control plane.",
        control_sessions => "Sessions with the control plane that were joined.",
        control_sessions_lost => "Sessions, or attempts at one, that failed.",
        lease_renewals => "Leases that were renewed.",
        maps_taken => "Maps that were taken and written to disk.",
        maps_refused => "Maps that were refused.",
        maps_requested => "Whole maps asked for because a difference did not fit.",
        maps_unwritable => "Maps that were refused because they could not be written to disk.",
    }
}

/// See the module's text.
pub struct Agent<D: Driver> {
    driver: D,
    config: AgentConfig,
    storage: Box<dyn Storage + Send>,
    rng: Rng,
    session: Session,
    maps: Maps,
    /// A map could not be written to disk: it's asked for again with each renewal.
    map_owed: bool,
    sessions: u64,
    draining: bool,
    /// The rate of the drain that an operator wants, as the disk has it; `None` without one.
    drain_ordered: Option<u32>,
    /// The version of the map that is settled, and the one that this session's control plane was told of.
    settled: u64,
    settled_told: u64,
    failures: u32,
    dials: usize,
    leaving: bool,
    news: Vec<News>,
    counters: AgentCounters,
    completions: Vec<Completion<D::Socket>>,
}

impl<D: Driver> Agent<D> {
    /// An agent with the last good map of `storage`, if there is one, and the drain that was ordered. What is wrong with either is news.
    pub fn new(driver: D, config: AgentConfig, storage: Box<dyn Storage + Send>) -> Agent<D> {
        let (maps, trouble) = Maps::load(&*storage, config.accept_lineage);
        let (drain_ordered, unread) = match identity::read_drain(&*storage) {
            Ok(ordered) => (ordered, None),
            Err(error) => (
                None,
                Some(format!(
                    "whether this node is drained can't be read from the data directory: {error}"
                )),
            ),
        };
        let news = trouble.into_iter().chain(unread);
        let news = news.map(|text| News::Trouble { code: None, text });
        Agent {
            rng: Rng::with_seed(config.seed),
            session: Session::Idle { retry_at: driver.now() },
            maps,
            map_owed: false,
            sessions: 0,
            draining: false,
            drain_ordered,
            settled: 0,
            settled_told: 0,
            failures: 0,
            dials: 0,
            leaving: false,
            news: news.collect(),
            counters: AgentCounters::default(),
            completions: Vec::new(),
            driver,
            config,
            storage,
        }
    }

    /// The map in use: the empty one if there never was one.
    pub fn map(&self) -> &Arc<Map> {
        self.maps.current()
    }

    /// The drain that an operator has ordered and not taken back, as far as the node was told: its rate, 0 as the node is set.
    pub fn drain_ordered(&self) -> Option<u32> {
        self.drain_ordered
    }

    /// The node's id, as far as it's known.
    pub fn node(&self) -> NodeId {
        self.config.node
    }

    /// Whether the control plane knows the node now.
    pub fn is_member(&self) -> bool {
        matches!(self.session, Session::Member { .. })
    }

    /// What was counted.
    pub fn counters(&self) -> &AgentCounters {
        &self.counters
    }

    /// What happened since the last question.
    pub fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// What the control plane is told of this node's load.
    pub fn set_sessions(&mut self, sessions: u64) {
        self.sessions = sessions;
    }

    /// Whether the node sends its devices elsewhere; the control plane is told when that changes.
    pub fn set_draining(&mut self, draining: bool) {
        if self.draining != draining {
            self.draining = draining;
            self.tell_draining();
        }
    }

    /// The version of the map of which all that it asks of this node is done. True if the control plane has yet to be told: a turn is
    /// due.
    pub fn set_settled(&mut self, version: u64) -> bool {
        self.settled = version;
        self.is_member() && self.settled != self.settled_told
    }

    /// Where it waits; to wake it.
    pub fn driver(&self) -> &D {
        &self.driver
    }

    /// Ends the membership. Done when [`Agent::has_left`].
    pub fn leave(&mut self) {
        self.leaving = true;
        self.end_membership();
    }

    /// Whether nothing is left to do after [`Agent::leave`].
    pub fn has_left(&self) -> bool {
        self.leaving && matches!(self.session, Session::Idle { .. })
    }

    /// One turn; waits until something happens, or `until`, or the next timer.
    ///
    /// # Errors
    /// What makes the driver unusable.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        let deadline = self.deadline();
        let until = until.map_or(deadline, |until| until.min(deadline));
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.wait(Some(until), &mut completions)?;
        let now = self.driver.now();
        for completion in completions.drain(..) {
            self.complete(now, completion);
        }
        self.completions = completions;
        self.tick(now);
        Ok(())
    }

    /// When the next turn is due at the latest.
    pub fn deadline(&self) -> Instant {
        match &self.session {
            Session::Idle { .. } if self.leaving => Instant::NEVER,
            session => session.deadline(),
        }
    }

    /// The next of the control plane's addresses. Names are looked up here, on the agent's own thread.
    fn address(&mut self) -> Result<SocketAddr, String> {
        let Some(name) = self.config.control.get(self.dials % self.config.control.len().max(1)) else {
            return Err("no address of the control plane is set (setting `node.control`)".to_owned());
        };
        self.dials += 1;
        if let Ok(address) = name.parse() {
            return Ok(address);
        }
        let mut found = name.to_socket_addrs().map_err(|error| format!("{name}: {error}"))?;
        found.next().ok_or_else(|| format!("{name}: no address"))
    }
}

/// How long a connection to the control plane may take until the join is answered.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// The first wait before another attempt; doubled each time.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest wait: how long a returning control plane waits for its nodes.
const RETRY_MAX: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
