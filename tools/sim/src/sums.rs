//! What all shards have counted of messages, those of processes that are gone included.

use trunkline_core::counters::Counters;
use trunkline_core::link::LinkCounters;
use trunkline_node::stats::ShardCounters;

use crate::cluster::Cluster;
use crate::node::Process;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) taken_in: u64,
    pub(crate) taken_in_confirmed: u64,
    pub(crate) retries: u64,
    /// Tries of messages that had found no way before.
    pub(crate) retries_free: u64,
    /// Begins and ends of sessions.
    pub(crate) turnover: u64,
    pub(crate) written: u64,
    pub(crate) written_confirmed: u64,
    /// Fire-and-forget messages that were dropped, for whatever reason.
    pub(crate) dropped: u64,
    /// Frames that could not be read, or had no place.
    pub(crate) refused: u64,
    /// Whole messages that were lost with a connection, or shed.
    pub(crate) lost: u64,
    /// Dials of nodes.
    pub(crate) dialled: u64,
    /// Sessions of nodes with the control plane, or attempts at one, that failed.
    pub(crate) control_sessions_lost: u64,
}

impl Sums {
    pub(crate) fn unconfirmed_in(&self) -> u64 {
        self.taken_in - self.taken_in_confirmed
    }

    pub(crate) fn unconfirmed_ended(&self) -> u64 {
        self.written - self.written_confirmed + self.dropped
    }

    /// Adds what a process has counted.
    pub(crate) fn add(&mut self, process: &Process) {
        self.control_sessions_lost += process.agent.counters().control_sessions_lost;
        for shard in &process.shards {
            let Counters {
                messages_in,
                messages_in_confirmed,
                retries,
                retries_free,
                sessions_opened,
                sessions_closed,
                messages_delivered,
                messages_delivered_confirmed,
                dropped_offline,
                dropped_expired,
                dropped_busy,
                dropped_no_way,
                devices_out_of_turn,
                ..
            } = shard.router().counters();
            self.taken_in += messages_in;
            self.taken_in_confirmed += messages_in_confirmed;
            // One that burdened no budget is the first that leaves: no further copy comes of it.
            self.retries += retries;
            self.retries_free += retries_free;
            self.turnover += sessions_opened + sessions_closed;
            self.written += messages_delivered;
            self.written_confirmed += messages_delivered_confirmed;
            self.dropped += dropped_offline + dropped_expired + dropped_busy + dropped_no_way;
            let LinkCounters {
                links_malformed,
                links_dialled,
                links_refused_secret,
                ..
            } = shard.links().counters();
            self.dialled += links_dialled;
            let ShardCounters {
                devices_malformed,
                devices_too_long,
                refused_bad_preface,
                refused_malformed,
                refused_too_long,
                refused_out_of_turn,
                link_frames_lost,
                link_messages_shed,
                mesh_messages_shed,
                ..
            } = shard.counters();
            self.lost += link_frames_lost + link_messages_shed + mesh_messages_shed;
            self.refused += devices_out_of_turn
                + devices_malformed
                + devices_too_long
                + links_malformed
                + links_refused_secret
                + refused_bad_preface
                + refused_malformed
                + refused_too_long
                + refused_out_of_turn;
        }
    }
}

impl Cluster {
    /// What was counted so far.
    pub(crate) fn sums(&self) -> Sums {
        let mut sums = self.watch.dead.clone();
        for process in self.nodes.iter().filter_map(|host| host.process.as_ref()) {
            sums.add(process);
        }
        sums
    }
}
