//! The thread of the node's agent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as SystemInstant};

use trunkline_net::driver::{Driver, Wake};
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::auth::{ClusterKeys, random_bytes};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::id::NodeId;

use super::ports::Ports;
use super::{AgentView, Clock, StartError, lock};
use crate::agent::{Agent, AgentConfig, News};
use crate::config::{Config, DrainSection};
use crate::entropy::Entropy;
use crate::identity::Identity;
use crate::mesh::{DrainOrder, Mailbox, Order, Then};
use crate::stats::Stats;

/// A running agent.
pub(super) struct AgentThread {
    thread: JoinHandle<()>,
    wake: Arc<dyn Wake>,
    pub(super) view: Arc<AgentView>,
    clock: Clock,
    joins: mpsc::Receiver<Result<NodeId, (Option<ErrorCode>, String)>>,
}

impl AgentThread {
    /// The drivers' clock, as of the start.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Leaves the control plane, and ends the thread.
    pub(super) fn stop(self) {
        self.view.leave.store(true, Ordering::Release);
        self.wake.wake();
        if self.thread.join().is_err() {
            tracing::error!("the agent had panicked");
        }
    }

    /// The node's id: from the data directory, or, on the first start, from the control plane.
    pub(super) fn node_id(&self, config: &Config, known: NodeId) -> Result<NodeId, StartError> {
        if known != NodeId::NONE {
            return Ok(known);
        }
        let end = SystemInstant::now() + Duration::from_secs(config.limits.join_timeout_s.into());
        let mut reason = "no answer".to_owned();
        loop {
            let left = end.saturating_duration_since(SystemInstant::now());
            match self.joins.recv_timeout(left) {
                Ok(Ok(node)) => return Ok(node),
                // Waiting doesn't help.
                Ok(Err((Some(ErrorCode::WrongSecret), text))) => reason = text,
                Ok(Err((_, text))) => {
                    reason = text;
                    continue;
                }
                Err(_) => {}
            }
            return Err(StartError::NotJoined {
                addresses: config.node.control.clone(),
                reason,
            });
        }
    }
}

pub(super) fn start_agent(
    config: &Config,
    identity: &Identity,
    ports: &Ports,
    keys: ClusterKeys,
    stats: &Stats,
    mailboxes: &[Mailbox],
) -> Result<AgentThread, StartError> {
    // One connection.
    let options = Options {
        sockets_max: 8,
        sockets_reserved: 1,
        device_buffers: 1,
        link_buffers: 4,
        ..Options::default()
    };
    let driver = EpollDriver::new(options).map_err(StartError::System)?;
    let wake = driver.waker();
    let clock = Clock {
        at: SystemInstant::now(),
        shows: driver.now(),
    };
    let http = ports.http.local_addr().map_err(StartError::System)?;
    let agent_config = AgentConfig {
        control: config.node.control.clone(),
        node: identity.node,
        incarnation: identity.incarnation,
        name: config.node.name.clone(),
        roles: config.node.roles,
        regions: config.node.regions.clone(),
        device_address: ports.device.map(|bound| config.advertise.device.unwrap_or(bound)),
        peer_address: ports.peer.map(|bound| config.advertise.peer.unwrap_or(bound)),
        http_address: Some(config.advertise.http.unwrap_or(http)).filter(|address| !address.ip().is_unspecified()),
        keys,
        accept_lineage: config.node.accept_lineage,
        seed: u64::from_le_bytes(random_bytes()),
        entropy: Entropy::System,
        versions: config.node.versions,
        #[cfg(feature = "next-version")]
        build: super::build(config.node.versions),
    };
    let agent = Agent::new(driver, agent_config, Box::new(identity.directory.clone()));
    let view = Arc::new(AgentView {
        map: Mutex::new(Arc::clone(agent.map())),
        member: AtomicBool::new(false),
        counters: Mutex::default(),
        trouble: Mutex::default(),
        sessions: AtomicU64::new(0),
        draining: AtomicBool::new(false),
        leave: AtomicBool::new(false),
    });
    if let Some(rate) = agent.drain_ordered() {
        tracing::info!(rate, "an operator wanted the devices elsewhere, before this start");
        // Ahead of the first device.
        order_drain(rate, &config.drain, mailboxes);
    }
    let (tell, joins) = mpsc::channel();
    let (theirs, mailboxes, drain) = (Arc::clone(&view), mailboxes.to_vec(), config.drain.clone());
    let stats = stats.clone();
    let thread = thread::Builder::new()
        .name("agent".into())
        .spawn(move || run_agent(agent, &theirs, &stats, &mailboxes, &drain, &tell))
        .map_err(StartError::System)?;
    Ok(AgentThread {
        thread,
        wake,
        view,
        clock,
        joins,
    })
}

/// Sends devices elsewhere, so many a second; with 0 as the node is set.
fn order_drain(rate: u32, drain: &DrainSection, mailboxes: &[Mailbox]) {
    let order = DrainOrder {
        rate: if rate == 0 { drain.rate } else { rate },
        retry_after_ms: drain.retry_after_ms,
        then: Then::Rest,
    };
    for mailbox in mailboxes {
        mailbox.send(Order::Drain(order));
    }
}

type Tell = mpsc::Sender<Result<NodeId, (Option<ErrorCode>, String)>>;

fn run_agent(
    mut agent: Agent<EpollDriver>,
    view: &AgentView,
    stats: &Stats,
    mailboxes: &[Mailbox],
    drain: &DrainSection,
    tell: &Tell,
) {
    let mut leaving = false;
    while !agent.has_left() {
        for news in agent.news() {
            match news {
                News::Joined(node) => {
                    tracing::info!(%node, "joined the cluster");
                    *lock(&view.trouble) = None;
                    // Nobody listens after the start.
                    let _ = tell.send(Ok(node));
                }
                News::Map(map) => {
                    tracing::info!(version = map.id().version, "a newer map");
                    *lock(&view.map) = Arc::clone(&map);
                    for mailbox in mailboxes {
                        mailbox.send(Order::Map(Arc::clone(&map)));
                    }
                }
                News::Drain { rate } => {
                    tracing::info!(rate, "an operator wants the devices elsewhere");
                    order_drain(rate, drain, mailboxes);
                }
                News::Stay => {
                    tracing::info!("no operator wants the devices elsewhere any more");
                    for mailbox in mailboxes {
                        mailbox.send(Order::Stay);
                    }
                }
                News::Trouble { code, text } => {
                    tracing::warn!("control plane: {text}");
                    *lock(&view.trouble) = Some(text.clone());
                    let _ = tell.send(Err((code, text)));
                }
            }
        }
        *lock(&view.counters) = agent.counters().clone();
        view.member.store(agent.is_member(), Ordering::Relaxed);
        agent.set_sessions(view.sessions.load(Ordering::Relaxed));
        agent.set_draining(view.draining.load(Ordering::Relaxed));
        agent.set_settled(stats.map_settled());
        if view.leave.load(Ordering::Acquire) && !leaving {
            leaving = true;
            agent.leave();
            continue;
        }
        let settling = stats.map_settled() != agent.map().id().version;
        let wait = if settling { AGENT_TURN_SETTLING } else { AGENT_TURN_MAX };
        let soon = agent.driver().now() + wait;
        if let Err(error) = agent.turn(Some(soon)) {
            tracing::error!("the agent's driver failed, and maps no longer come: {error}");
            return;
        }
    }
}

/// How often the agent looks whether a newer map is settled, which others wait for.
const AGENT_TURN_SETTLING: Duration = Duration::from_millis(20);
/// How often the agent's view is refreshed.
const AGENT_TURN_MAX: Duration = Duration::from_millis(500);
