//! Defects that the simulator switches on one at a time, to see that a promise's check can fail.
//!
//! [`crate::planted!`] stands where each defect would be. Without the feature `planted` it is the literal `false`, and neither this
//! module nor any branch behind it is compiled. With it, the defect that the running thread has planted is on: a simulated cluster is
//! one thread, so that seeds on several threads don't disturb each other.

use std::cell::Cell;

/// Declares the defects: a name for code, one for the command line, and what is wrong.
macro_rules! bugs {
    ($( $(#[$meta:meta])* $bug:ident => $name:literal, $what:literal; )*) => {
        /// A defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $( #[doc = $what] $(#[$meta])* $bug, )*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Bug] = &[ $( $(#[$meta])* Bug::$bug, )* ];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $( $(#[$meta])* Bug::$bug => $name, )* }
            }

            /// What is wrong, for people.
            pub fn what(self) -> &'static str {
                match self { $( $(#[$meta])* Bug::$bug => $what, )* }
            }
        }
    };
}

bugs! {
    ForgetAffinity => "forget-affinity", "An instance hands no history to the server where a device has turned up.";
    // What an instance knows of its region's devices.
    AcceptOlderEpoch => "accept-older-epoch", "an instance takes a registration with a lower epoch than the one it holds";
    UnregisterAnyEpoch => "unregister-any-epoch", "an unregistration removes the device whatever epoch it names";
    NoTombstone => "no-tombstone", "an instance does not remember what was unregistered";
    DropNamed => "drop-named", "the end of a stream drops what was named in it too";
    SyncEndsWithFirstShard => "sync-ends-with-first-shard", "a stream counts as whole when one of its server's shards has ended it";
    OfflineBeforeSync => "offline-before-sync", "an instance says offline before it has heard every connection server";
    OfflineUnasked => "offline-unasked", "an instance says offline without asking its siblings";
    NoPauseDoubt => "no-pause-doubt", "an instance that was paused goes on as if nothing had been missed";
    GoneAtOnce => "gone-at-once", "a connection server without a link counts as gone at once, not after 10 s";
    LostNeverGone => "lost-never-gone", "a connection server without a link never counts as gone";
    SiblingIgnored => "sibling-ignored", "an instance says offline although a sibling knows where the device is";
    AskForever => "ask-forever", "messages wait without end for a sibling that does not answer";
    KeepUnnamed => "keep-unnamed", "the end of a stream drops nothing of what was not named in it";
    AnswerAtWrongShard => "answer-at-wrong-shard", "a sibling's answer stays at the shard of its link, not of its device";
    StreamEndsAtOneShard => "stream-ends-at-one-shard", "the end of a stream is told to one shard only";
    GoneWhichever => "gone-whichever", "an instance that is told by a message that a session is gone forgets the device's newer one too";
    SiblingAlwaysSure => "sibling-always-sure", "an instance that is asked says that it has heard everybody, whether or not it has";
    NeverBehind => "never-behind", "an instance takes its map for the newest, whatever others have announced";
    StraysAtOnce => "strays-at-once", "a session that has no place by this node's map is forgotten before its server has that map";
    RelayedDropped => "relayed-dropped", "the end of a stream by an older map drops what others have relayed";
    MovedUntold => "moved-untold", "sessions of devices that move are not registered at their new region";
    OutdatedUntold => "outdated-untold", "the server of a session that has lost is not told";
    WithdrawnForGood => "withdrawn-for-good", "a session that has no place here counts as ended";
    TombstoneShort => "tombstone-short", "what was unregistered is remembered for a second";
    DroppedForGood => "dropped-for-good", "a session that was dropped while its server was away does not come back with it";
    HistoryStays => "history-stays", "whom a device has to do with stays at its old region when it moves";
    SettledUnsynced => "settled-unsynced", "an instance has settled a version before it is in sync";
    SettledUnannounced => "settled-unannounced", "an instance has settled a version that others have not announced";
    SettledUnconfirmed => "settled-unconfirmed", "a node has settled a version before instances have taken what it registered there";
    StraysForGood => "strays-for-good", "a session that has no place here stays";
    // A device's session.
    RaiseWelcomed => "raise-welcomed", "a welcomed session whose region knows a higher epoch is raised above it instead of closed";
    IgnoreHigherEpoch => "ignore-higher-epoch", "a session stays open although its region knows a higher epoch";
    WelcomeUnregistered => "welcome-unregistered", "a device is welcomed before its region has taken its registration";
    StandbyUntold => "standby-untold", "a session is registered at its region's instances, and not at its standbys";
    RegisterAtOne => "register-at-one", "a session is registered at one of its region's instances only";
    StreamWithoutNew => "stream-without-new", "a stream of sessions leaves out those that have not been welcomed yet";
    NoUnregister => "no-unregister", "a session that ends is not unregistered";
    EpochOfWallClock => "epoch-of-wall-clock", "an epoch is the wall clock's time, whatever was minted or presented before";
    HeldForever => "held-forever", "a delivery stays open when its session ends";
    NoWelcomeTimeout => "no-welcome-timeout", "a device is not welcomed before every instance has answered, however long that takes";
    IdleNeverClosed => "idle-never-closed", "a session that is not heard stays open";
    QueueUnbounded => "queue-unbounded", "messages wait without a bound for a device that does not read";
    OldSessionStays => "old-session-stays", "a device that connects again at its server leaves its older session open there";
    SupersededLingers => "superseded-lingers", "a session that has lost to a newer one is told so, and goes on until its device closes it";
    RaisedTooLow => "raised-too-low", "a session whose region knows a higher epoch is raised above its own only";
    RaisedUntold => "raised-untold", "a session that was raised is not registered again";
    TimersPile => "timers-pile", "each frame to a device sets one more timer";
    HelloForever => "hello-forever", "a connection that says no hello stays";
    // A message's way.
    DeliveredWhenWritten => "delivered-when-written", "a message is reported delivered when it is written to the device's connection";
    BackWhereItCameFrom => "back-where-it-came-from", "a message may be forwarded to a node that it has passed";
    SwallowNotHere => "swallow-not-here", "a message for a session that is gone is neither forwarded nor answered";
    ForgetMaybeDelivered => "forget-maybe-delivered", "a report does not say that a copy may have been delivered";
    RetryUnbounded => "retry-unbounded", "retries are not held to the budget";
    NeverRetry => "never-retry", "a message that nobody answered is not tried again";
    ExpireSilently => "expire-silently", "a message whose time is over is forgotten without a report";
    ReplyToWrongNode => "reply-to-wrong-node", "an answer goes to the node that forwarded last, as if it had taken the message in";
    AckNextDelivery => "ack-next-delivery", "an acknowledgement is credited to the delivery behind the one that it names";
    DuplicateForward => "duplicate-forward", "an instance forwards a message twice";
    NeverFollows => "never-follows", "a message that has waited behind another is neither sent nor expires when its turn has come";
    BehindForever => "behind-forever", "the end of a message lets none of those go that wait behind it";
    SilenceIsNoCopy => "silence-is-no-copy", "who was not answered takes it that no copy was written";
    AnswerIsNoCopy => "answer-is-no-copy", "who was told that a copy may be with the device forgets it";
    RetryForgetsCopy => "retry-forgets-copy", "a message that was tried again counts as not on its way";
    BudgetNotRefilled => "budget-not-refilled", "time earns no retries";
    ReplyOneHop => "reply-one-hop", "a message that came by way of another node is not answered";
    AbandonIsNoCopy => "abandon-is-no-copy", "what was written to a session that ended counts as not delivered";
    UnresolvedMiscounted => "unresolved-miscounted", "a report does not lower the number of a session's unresolved messages";
    BudgetEarnsMore => "budget-earns-more", "a message earns five times its share of a retry";
    DropUncounted => "drop-uncounted", "a fire-and-forget message that is dropped is not counted";
    PassagesUnanswered => "passages-unanswered", "what was under way on a link that is lost is not answered";
    // Links between nodes.
    NeverSuspect => "never-suspect", "a link on which nothing is heard is never closed";
    DialWithoutWait => "dial-without-wait", "a node that cannot be reached is dialled again at once";
    LinkDownUntold => "link-down-untold", "other shards are not told that a link is down";
    NoSyncOnNewLink => "no-sync-on-new-link", "sessions are not streamed again on a new link";
    // Bytes and sockets.
    LoseFrameTail => "lose-frame-tail", "the rest of a frame that came in two parts is lost when a third part follows";
    WrongGeneration => "wrong-generation", "a socket's slot is another's at once and under the same generation, which is credited with its completions";
    // The map.
    ExpireOnReturn => "expire-on-return", "a control plane that starts ends the leases of all nodes";
    MapNotKept => "map-not-kept", "a map is used without being written to disk";
    PublishUncommitted => "publish-uncommitted", "a map is published although the store did not take it";
    DigestUnchecked => "digest-unchecked", "a map is used that is not what its digest says";
    OlderMapTaken => "older-map-taken", "an older map takes the place of a newer one";
    ForkTaken => "fork-taken", "a map is taken for another one of the same version";
    ForeignMapTaken => "foreign-map-taken", "a map of another lineage is taken without anybody's consent";
    MapNotAskedAgain => "map-not-asked-again", "a map that found no room on disk is not asked for again";
    LeaseNotRenewed => "lease-not-renewed", "a node does not renew its lease";
    StepEarly => "step-early", "a move goes on when the first member has settled its step";
    AbsentIsSettled => "absent-is-settled", "a move does not wait for members that are not connected";
    SettledOnJoin => "settled-on-join", "a node that joins counts as having settled the present version";
    SwitchAtOnce => "switch-at-once", "a move skips the step in which devices are registered at both regions";
    LastGoes => "last-goes", "an instance that is on its way out of a region goes though all others have left it since";
    LeaveIgnored => "leave-ignored", "a node that leaves stays a member";
    VersionNotKept => "version-not-kept", "the number of a new map is not written down";
    // The client library.
    ShowTwice => "show-twice", "a copy of a message that was shown is shown again";
    ShowUnordered => "show-unordered", "messages are shown as they come";
    NoResend => "no-resend", "what is unresolved is not sent again over a new connection";
    NoPing => "no-ping", "an idle device does not ping its server";
    ReleaseEarly => "release-early", "the lowest number that is unresolved is taken for resolved";
    GapsForgotten => "gaps-forgotten", "a device does not remember what it passed over";
    CopyForgotten => "copy-forgotten", "the library forgets that it wrote a message to an earlier connection";
    ReconnectAtOnce => "reconnect-at-once", "a device that lost its connection waits for nothing";
    BackoffLong => "backoff-long", "a device that lost its connection waits for minutes";
    AckWhenHeld => "ack-when-held", "a message that waits for its elders is acknowledged before it is shown";
    LateUnmarked => "late-unmarked", "a message that comes after its window is not marked late";
    ExpireUnmaybe => "expire-unmaybe", "the library says of an expired message that it was written to nobody";
    // Versions of the protocol; needs one that differs.
    #[cfg(feature = "next-version")]
    NewFrameToOld => "new-frame-to-old", "a frame of the next version is sent to a node that speaks the one before";
    #[cfg(feature = "next-version")]
    MapFormUnasked => "map-form-unasked", "control announces maps in the next version's form, whatever was agreed on";
    #[cfg(feature = "next-version")]
    HighestOffered => "highest-offered", "a node that accepts a link speaks the highest version that it was offered, not one that it has";
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a defect in whatever this thread runs from now on; with `None` takes it out.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this thread runs with `bug`. By way of [`crate::planted!`].
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_defect_is_on_where_it_was_planted_and_names_are_unique() {
        assert!(!crate::planted!(ShowTwice));
        plant(Some(Bug::ShowTwice));
        assert!(crate::planted!(ShowTwice) && !crate::planted!(ShowUnordered));
        std::thread::spawn(|| assert!(!crate::planted!(ShowTwice)))
            .join()
            .unwrap();
        plant(None);
        assert!(!crate::planted!(ShowTwice));
        let names: std::collections::BTreeSet<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        assert_eq!(names.len(), Bug::ALL.len());
    }
}
