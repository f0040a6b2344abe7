//! What a shard counts. Plain numbers, owned by the shard; the node copies them out for its metrics.

/// Declares a struct of plain counters with their help texts.
#[macro_export]
macro_rules! tally {
    ($(#[$sdoc:meta])* $struct:ident { $( $name:ident => $help:literal ),* $(,)? }) => {
        $(#[$sdoc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $struct {
            $( #[doc = $help] pub $name: u64, )*
        }

        impl $struct {
            /// Names and help texts, in the order of the values.
            pub const NAMES: &'static [(&'static str, &'static str)] = &[ $( (stringify!($name), $help), )* ];

            /// The values, in the order of the names.
            pub fn values(&self) -> [u64; $struct::NAMES.len()] {
                [ $( self.$name, )* ]
            }
        }
    };
}

tally! {
    /// Everything that one shard's router counts, from its start.
    Counters {
        sessions_opened => "Sessions that were welcomed.",
        sessions_closed => "Sessions that ended, for whatever reason.",
        sessions_superseded => "Sessions that ended because a newer one exists.",
        sessions_raised => "Sessions whose epoch was raised above a higher one before the welcome.",
        welcomes_alone => "Sessions that were welcomed although no instance of their region had answered.",
        welcomes_late => "Sessions that were welcomed although an instance had not answered in time.",
        drained => "Devices that were sent elsewhere.",
        drained_unfinished => "Of these, those that had not finished what was open in time.",
        devices_idle_closed => "Devices that were not heard in time.",
        devices_slow_closed => "Devices that did not read.",
        devices_out_of_turn => "Frames of devices that had no place in their state.",
        messages_in => "Messages that devices at this node sent, re-sent ones not counted.",
        messages_in_confirmed => "Of these, confirmed ones.",
        messages_refused => "Confirmed messages that found no room here and were reported as rejected at once.",
        messages_held_back => "Confirmed messages that waited behind another one to their recipient, which was to be tried again.",
        messages_resent => "Confirmed messages that devices sent again while they were unresolved here.",
        messages_delivered => "Messages written to a device's connection.",
        messages_delivered_confirmed => "Of these, confirmed ones: they wait for the device's acknowledgement.",
        deliveries_abandoned => "Confirmed deliveries whose session ended before the device acknowledged them.",
        acknowledged => "Deliveries that a device acknowledged.",
        acknowledged_unknown => "Acknowledgements of deliveries that were not open.",
        duplicates_held => "Copies of a message that is already waiting for its acknowledgement; not written again.",
        way_local => "Messages delivered at the node that took them in.",
        way_direct => "Messages that arrived here straight from the node that took them in.",
        way_region => "Messages that arrived here by way of their region.",
        forwards_direct => "Messages sent straight to the recipient's node.",
        direct_missed_location => "Messages that went by way of the region because it was not known where their recipient is.",
        direct_missed_link => "Messages that went by way of the region because no link to the recipient's node was ready.",
        locations_asked => "Locations asked for ahead of need.",
        locations_prefetched => "Locations learnt ahead of need.",
        locations_supposed => "Locations supposed to be where a message came from, because nothing else was known.",
        locations_withdrawn => "Locations forgotten because the device left for which they were asked for.",
        locations_told => "Locations told to nodes that asked ahead of need.",
        locations_told_again => "Locations told to nodes that had asked before, because the device has turned up elsewhere.",
        affinities_told => "Times that a region was told whom one of its devices has to do with.",
        affinities_taken => "Such lists that this instance was told.",
        affinities_evicted => "Lists that this instance forgot because it had room for no more.",
        affinities_handed_out => "Lists that this instance handed to the server where the device has turned up.",
        affinities_recalled => "Lists that a region handed to this server, and that were news.",
        affinities_moved => "Lists that followed their devices to another region.",
        forwards_region => "Messages sent to an instance of the recipient's region.",
        forwards_from_region => "Messages that this instance sent on to the recipient's node.",
        forwards_not_here => "Messages for a session that this node no longer has, sent on.",
        reports_delivered => "Reports to senders: delivered.",
        reports_offline => "Reports to senders: offline.",
        reports_expired => "Reports to senders: expired.",
        reports_rejected => "Reports to senders: rejected.",
        reports_unclaimed => "Reports whose sender had gone.",
        replies_late => "Answers about messages that were resolved already.",
        replies_dropped => "Answers that found no link back.",
        passages_lost => "Confirmed messages answered with: try again, because the link that they went over was lost.",
        replies_relayed => "Answers passed on for other nodes.",
        retries => "Messages tried again.",
        retries_free => "Messages tried again without burdening the retry budget: they had found no way to leave this node.",
        retries_delayed => "Retries that had to wait for the retry budget.",
        retry_not_in_sync => "Messages answered with: try again, not in sync.",
        retry_no_link => "Messages answered with: try again, no link.",
        retry_unreachable => "Messages answered with: try again, an instance is unreachable.",
        retry_hops => "Messages answered with: try again, hop limit.",
        retry_session_gone => "Messages answered with: try again, the session ended.",
        retry_busy => "Messages answered with: try again, busy.",
        retry_wrong_region => "Messages answered with: try again, wrong region.",
        dropped_offline => "Fire-and-forget messages dropped: the recipient is offline.",
        dropped_expired => "Fire-and-forget messages dropped: time to live.",
        dropped_busy => "Fire-and-forget messages dropped: a queue is full.",
        dropped_no_way => "Fire-and-forget messages dropped: no way to the recipient at the moment.",
        rejected_busy => "Confirmed messages refused: a queue is full.",
        rejected_too_large => "Messages refused: the payload is larger than its limit.",
        presence_registered => "Registrations that this instance took.",
        presence_unregistered => "Registrations that were removed by their own server.",
        presence_stale => "Registrations that arrived with an epoch older than the known one.",
        presence_dropped => "Registrations dropped because their server didn't repeat them or is gone.",
        presence_withdrawn => "Registrations forgotten because their devices belong to another region by now.",
        presence_pauses => "Pauses after which this instance validated what it knew.",
        relays_sent => "Sessions of devices that move, told to the other region for a node with an older map.",
        relays_taken => "Such sessions that another region told of.",
        retry_behind => "Messages that would have been answered with offline, had not another node a newer map.",
        locates_sent => "Questions to sibling instances.",
        locates_answered => "Questions of sibling instances answered.",
        locates_sure => "Of these, those answered as one that has heard every connection server.",
        locations_learnt => "Locations learnt from regions.",
        locations_forgotten => "Locations found to be stale.",
        syncs_sent => "Session streams sent to instances.",
        syncs_taken => "Session streams taken in whole.",
        maps_applied => "Maps that this shard took over.",
        frames_stale_link => "Frames of an older link that no longer count.",
    }
}
