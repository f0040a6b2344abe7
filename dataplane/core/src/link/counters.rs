//! What a link book counts.

use super::Reason;

crate::tally! {
    /// Everything that one shard's link book counts, from its start.
    LinkCounters {
        links_dialled => "Dials to other nodes.",
        links_dialled_required => "Dials to nodes that this one can't do without.",
        links_dialled_attach => "Dials for whom a device had written to before it connected.",
        links_dialled_send => "Dials for whom a device might write to after what it had sent.",
        links_dialled_reply => "Dials for who waited for an answer.",
        links_dialled_hint => "Dials for whom a client had named.",
        links_dialled_move => "Dials for devices that move to another region.",
        links_dial_failed => "Dials and handshakes of this node's that failed.",
        links_accepted => "Connections from other nodes whose hello was read.",
        links_up => "Links that came up.",
        links_down => "Links that went down, for whatever reason.",
        links_doubled => "Second links to one node that were not kept.",
        links_replaced => "Links that a newer one replaced.",
        links_suspect => "Links closed because nothing was heard.",
        links_idle_closed => "Links closed because they carried nothing.",
        links_refused_secret => "Links refused: the cluster secrets differ, or a proof failed.",
        links_refused_incarnation => "Links refused: a newer start of the node is known.",
        links_refused_budget => "Links refused: the budget of direct links is full.",
        links_refused_other => "Links refused for another reason.",
        links_malformed => "Links closed because of a frame that can't be read or has no place.",
        links_evicted => "Links beyond the required ones that were closed because a better one needed their place.",
        links_moved => "Links that were closed, and dials that were given up, because their node is at another address now, or has started anew.",
        links_wasted => "Links that this node dialled beyond the required ones, and that carried nothing.",
        links_wasted_attach => "Links dialled in vain for whom a device had written to before it connected.",
        links_wasted_send => "Links dialled in vain for whom a device might write to after what it had sent.",
        links_wasted_reply => "Links dialled in vain for who waited for an answer.",
        links_wasted_hint => "Links dialled in vain for whom a client had named.",
        links_wasted_move => "Links dialled in vain for devices that move to another region.",
        link_wishes_kept => "Wishes for a direct link that was there, or being dialled.",
        link_wishes_unworthy => "Wishes for a direct link that was not worth a dial.",
        link_wishes_refused => "Wishes for a direct link beyond the budget, or to a node that can't be dialled.",
        link_pings => "Pings sent on links.",
    }
}

impl LinkCounters {
    /// A dial for this reason; for none, to a node that this one can't do without.
    pub(super) fn dialled(&mut self, reason: Option<Reason>) {
        self.links_dialled += 1;
        *match reason {
            // Who has dialled here is dialled only if it is required by now.
            None | Some(Reason::Offer) => &mut self.links_dialled_required,
            Some(Reason::Attach) => &mut self.links_dialled_attach,
            Some(Reason::Send) => &mut self.links_dialled_send,
            Some(Reason::Reply) => &mut self.links_dialled_reply,
            Some(Reason::Hint) => &mut self.links_dialled_hint,
            Some(Reason::Move) => &mut self.links_dialled_move,
        } += 1;
    }

    /// A link that was dialled for this reason, and carried nothing.
    pub(super) fn wasted(&mut self, reason: Option<Reason>) {
        *match reason {
            // That was no prediction.
            None | Some(Reason::Offer) => return,
            Some(Reason::Attach) => &mut self.links_wasted_attach,
            Some(Reason::Send) => &mut self.links_wasted_send,
            Some(Reason::Reply) => &mut self.links_wasted_reply,
            Some(Reason::Hint) => &mut self.links_wasted_hint,
            Some(Reason::Move) => &mut self.links_wasted_move,
        } += 1;
        self.links_wasted += 1;
    }
}
