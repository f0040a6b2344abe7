//! Who could reach whom, and since when: what excuses a node for not knowing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use trunkline_core::constants::{GONE_AFTER, SUSPECT_AFTER};
use trunkline_wire::time::Instant;

use crate::cluster::CHECK_INTERVAL;
use crate::node::NodeNo;
use crate::swarm::TTL_MS_MAX;
use crate::watch::OVERDUE;

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    /// When something was last wrong with a node itself: dead, paused, told to go, its connections reset.
    nodes: BTreeMap<NodeNo, Instant>,
    /// When two nodes, the lower one first, were last cut off from each other, either way.
    cuts: BTreeMap<(NodeNo, NodeNo), Instant>,
    /// When something began to be wrong with a node, or between two, each time anew after a break; of long ago, nobody asks.
    began: BTreeMap<(NodeNo, NodeNo), VecDeque<Instant>>,
    /// When a node was last cut off from the control plane.
    from_control: BTreeMap<NodeNo, Instant>,
    /// Since when an instance has had no link to a connection server.
    unlinked: BTreeMap<(NodeNo, NodeNo), Instant>,
    /// Until when the server may count as gone there, though it may be back.
    gone_until: BTreeMap<(NodeNo, NodeNo), Instant>,
}

impl Pairs {
    /// Something is wrong with a node.
    pub(crate) fn trouble(&mut self, node: NodeNo, now: Instant) {
        let before = self.nodes.insert(node, now);
        self.began((node, node), before, now);
    }

    fn began(&mut self, pair: (NodeNo, NodeNo), before: Option<Instant>, now: Instant) {
        if before.is_none_or(|before| now.since(before) > 2 * CHECK_INTERVAL) {
            let began = self.began.entry(pair).or_default();
            began.push_back(now);
            while began.front().is_some_and(|at| now.since(*at) > BEGAN_KEPT) {
                began.pop_front();
            }
        }
    }

    /// Two nodes can't reach each other, one way at least.
    pub(crate) fn cut(&mut self, a: NodeNo, b: NodeNo, now: Instant) {
        let pair = (a.min(b), a.max(b));
        let before = self.cuts.insert(pair, now);
        self.began(pair, before, now);
    }

    /// Whether a server had something wrong at `at` that an instance could not have noticed yet: a link is suspect only when nothing
    /// was heard for a while, and a device that connects meanwhile is welcomed all the same.
    pub(crate) fn just_cut(&self, instance: NodeNo, server: NodeNo, at: Instant) -> bool {
        let pairs = [(instance.min(server), instance.max(server)), (server, server)];
        let began = pairs.iter().filter_map(|pair| self.began.get(pair));
        began
            .flatten()
            .any(|began| *began <= at + SLACK && at <= *began + SUSPECT_AFTER + NOTICE)
    }

    /// A node can't reach the control plane, or that doesn't run.
    pub(crate) fn cut_from_control(&mut self, node: NodeNo, now: Instant) {
        self.from_control.insert(node, now);
    }

    /// Whether a node has had nothing wrong with it for `span`.
    pub(crate) fn node_is_calm(&self, node: NodeNo, now: Instant, span: Duration) -> bool {
        self.nodes.get(&node).is_none_or(|at| now.since(*at) > span)
    }

    /// Whether a node has had nothing wrong with it since `since`.
    pub(crate) fn calm_since(&self, node: NodeNo, since: Instant) -> bool {
        self.nodes.get(&node).is_none_or(|at| *at < since)
    }

    /// An instance's process ended: its next one has heard of nobody, and counts from its own start.
    pub(crate) fn forget(&mut self, instance: NodeNo) {
        self.unlinked.retain(|(of, _), _| *of != instance);
        self.gone_until.retain(|(of, _), _| *of != instance);
    }

    /// Whether two nodes have had nothing wrong with them, and between them, for `span`.
    pub(crate) fn are_calm(&self, a: NodeNo, b: NodeNo, now: Instant, span: Duration) -> bool {
        let cut = self.cuts.get(&(a.min(b), a.max(b)));
        self.node_is_calm(a, now, span) && self.node_is_calm(b, now, span) && cut.is_none_or(|at| now.since(*at) > span)
    }

    /// Whether a node could have renewed its lease all the time for `span`.
    pub(crate) fn reaches_control(&self, node: NodeNo, now: Instant, span: Duration) -> bool {
        let cut = self.from_control.get(&node);
        self.node_is_calm(node, now, span) && cut.is_none_or(|at| now.since(*at) > span)
    }

    /// Whether an instance has a link to a connection server now.
    pub(crate) fn linked(&mut self, instance: NodeNo, server: NodeNo, linked: bool, now: Instant) {
        let pair = (instance, server);
        if linked {
            self.unlinked.remove(&pair);
            return;
        }
        let since = *self.unlinked.entry(pair).or_insert(now);
        if now.since(since) + SLACK >= GONE_AFTER {
            self.gone_until.insert(pair, now + STREAM_MAX);
        }
    }

    /// Whether an instance may take all sessions of a server for gone, and still not have heard of them again.
    pub(crate) fn may_count_as_gone(&self, instance: NodeNo, server: Option<NodeNo>, now: Instant) -> bool {
        let until = server.and_then(|server| self.gone_until.get(&(instance, server)));
        until.is_some_and(|until| *until >= now)
    }
}

/// Links are looked at now and then, and a node sees the end of one a little before that.
const SLACK: Duration = Duration::from_millis(500);
/// How long a server that is back may take to name its sessions: a stream among faults, and a pause before it.
const STREAM_MAX: Duration = Duration::from_secs(25);
/// A link is looked at now and then; what was heard last may have been on its way for a while.
const NOTICE: Duration = Duration::from_millis(2_500);
/// What excuses a message when it is sent may have begun that long before its report.
const BEGAN_KEPT: Duration = Duration::from_secs(25);
const _: () = assert!(
    BEGAN_KEPT.as_millis() > TTL_MS_MAX as u128 + OVERDUE.as_millis() + SUSPECT_AFTER.as_millis() + NOTICE.as_millis()
);
