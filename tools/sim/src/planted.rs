//! Which promise notices each planted defect, in which scenario, and after how many seeds.

use trunkline_wire::planted::{self, Bug};

use crate::promise::Violation;
use crate::scenario::Scenario;
use crate::swarm::{self, Options};

/// A planted defect is to be noticed within so many seeds of its scenario.
pub const SEEDS_MAX: u64 = 200;

/// The scenario in which a defect shows.
pub fn scenario(bug: Bug) -> &'static Scenario {
    let name = match bug {
        Bug::AcceptOlderEpoch
        | Bug::UnregisterAnyEpoch
        | Bug::RaiseWelcomed
        | Bug::IgnoreHigherEpoch
        | Bug::SwallowNotHere
        | Bug::BackWhereItCameFrom
        | Bug::RegisterAtOne
        | Bug::ShowUnordered
        | Bug::NoTombstone
        | Bug::NoUnregister
        | Bug::HeldForever
        | Bug::ReplyToWrongNode
        | Bug::DuplicateForward
        | Bug::ForgetAffinity
        | Bug::BudgetNotRefilled
        | Bug::OldSessionStays
        | Bug::GoneWhichever
        | Bug::OfflineBeforeSync
        | Bug::SupersededLingers
        | Bug::OutdatedUntold
        | Bug::TombstoneShort => "roam",
        Bug::DialWithoutWait | Bug::PassagesUnanswered | Bug::ReconnectAtOnce => "deaths",
        Bug::OfflineUnasked
        | Bug::SiblingIgnored
        | Bug::SiblingAlwaysSure
        | Bug::BehindForever
        | Bug::NeverFollows
        | Bug::GoneAtOnce
        | Bug::LostNeverGone
        | Bug::NeverSuspect
        | Bug::AskForever
        | Bug::RetryUnbounded
        | Bug::IdleNeverClosed
        | Bug::ForgetMaybeDelivered
        | Bug::DroppedForGood => "partitions",
        Bug::NoPauseDoubt | Bug::NoWelcomeTimeout | Bug::WelcomeUnregistered => "pauses",
        Bug::EpochOfWallClock | Bug::RaisedTooLow | Bug::RaisedUntold => "clocks",
        Bug::DropNamed
        | Bug::SyncEndsWithFirstShard
        | Bug::StreamWithoutNew
        | Bug::NoSyncOnNewLink
        | Bug::KeepUnnamed
        | Bug::WrongGeneration
        | Bug::ShowTwice
        | Bug::NoResend
        | Bug::NeverRetry
        | Bug::AbandonIsNoCopy => "storms",
        Bug::DeliveredWhenWritten
        | Bug::QueueUnbounded
        | Bug::AckNextDelivery
        | Bug::ExpireSilently
        | Bug::LoseFrameTail
        | Bug::NoPing
        | Bug::TimersPile
        | Bug::UnresolvedMiscounted
        | Bug::BudgetEarnsMore
        | Bug::ExpireUnmaybe => "slow",
        Bug::StandbyUntold | Bug::LastGoes | Bug::LinkDownUntold => "members",
        Bug::MapNotKept
        | Bug::PublishUncommitted
        | Bug::MapNotAskedAgain
        | Bug::LeaseNotRenewed
        | Bug::VersionNotKept => "control",
        Bug::StraysAtOnce
        | Bug::RelayedDropped
        | Bug::MovedUntold
        | Bug::WithdrawnForGood
        | Bug::StraysForGood
        | Bug::StepEarly
        | Bug::AbsentIsSettled
        | Bug::SettledOnJoin
        | Bug::NeverBehind
        | Bug::HistoryStays
        | Bug::SettledUnsynced
        | Bug::SettledUnannounced
        | Bug::SettledUnconfirmed
        | Bug::SwitchAtOnce => "moves",
        Bug::AnswerAtWrongShard
        | Bug::StreamEndsAtOneShard
        | Bug::SilenceIsNoCopy
        | Bug::AnswerIsNoCopy
        | Bug::RetryForgetsCopy
        | Bug::ReplyOneHop
        | Bug::ReleaseEarly
        | Bug::GapsForgotten
        | Bug::CopyForgotten
        | Bug::DropUncounted
        | Bug::AckWhenHeld
        | Bug::LateUnmarked => "swarm",
        Bug::ExpireOnReturn => "headless",
        Bug::BackoffLong => "overload",
        Bug::LeaveIgnored => "upgrade",
        Bug::HelloForever => "strangers",
        Bug::DigestUnchecked | Bug::OlderMapTaken | Bug::ForkTaken | Bug::ForeignMapTaken => "impostor",
        #[cfg(feature = "next-version")]
        Bug::NewFrameToOld | Bug::MapFormUnasked | Bug::HighestOffered => "mixed",
    };
    Scenario::named(name).expect("a scenario of this name")
}

/// A defect that was noticed.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// Seeds that it took, the one that failed included.
    pub seeds: u64,
    /// What was seen.
    pub violation: Box<Violation>,
}

/// Plays seeds of a scenario with a defect, from `first`, until a promise is broken; `None` if none was within `seeds_max` of them. Before
/// each seed `playing` is told of it.
pub fn hunt(
    bug: Bug,
    scenario: &'static Scenario,
    first: u64,
    seeds_max: u64,
    mut playing: impl FnMut(u64),
) -> Option<Noticed> {
    planted::plant(Some(bug));
    let noticed = (first..first + seeds_max).find_map(|seed| {
        playing(seed);
        let options = Options {
            scenario,
            ..Options::new(seed)
        };
        let violation = swarm::run(&options).err()?;
        let seeds = seed - first + 1;
        Some(Noticed { seeds, violation })
    });
    planted::plant(None);
    noticed
}
