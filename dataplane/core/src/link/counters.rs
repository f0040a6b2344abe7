//! What a link book counts.

crate::tally! {
    /// Everything that one shard's link book counts, from its start.
    LinkCounters {
        links_dialled => "Dials to other nodes.",
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
        link_wishes_kept => "Wishes for a direct link that was there, or being dialled.",
        link_wishes_unworthy => "Wishes for a direct link that was not worth a dial.",
        link_wishes_refused => "Wishes for a direct link beyond the budget, or to a node that can't be dialled.",
        link_pings => "Pings sent on links.",
    }
}
