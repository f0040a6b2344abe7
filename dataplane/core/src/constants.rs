//! Times and bounds that more than one part relies on, and the inequalities between them, checked when this is compiled.

use std::time::Duration;

/// How long an accepted connection may take to say hello. Long enough for a phone on a slow link, short enough that mute sockets
/// can't pile up.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// How often an idle link is pinged.
pub const LINK_PING_INTERVAL: Duration = Duration::from_secs(1);
/// A link that was silent for this long is closed and dialled anew; its node is suspect.
pub const SUSPECT_AFTER: Duration = Duration::from_secs(3);
/// A node without a link for this long is gone: its sessions are forgotten, and nobody waits for it before saying "offline".
pub const GONE_AFTER: Duration = Duration::from_secs(10);

/// How long a membership lasts without a sign of life. It informs the control plane only: nobody stops serving over it.
pub const LEASE: Duration = Duration::from_secs(15);

/// A session that lost to a newer one is closed within this time.
pub const FENCING: Duration = Duration::from_secs(5);

/// A device is welcomed after this time, even if not all instances of its region have answered.
pub const WELCOME_TIMEOUT: Duration = Duration::from_millis(250);
/// If none has, the first one's answer is waited for so long: until a link that says nothing is found to be silent at both its ends, and no
/// instance any longer calls offline whoever it has not heard of. Less than a device waits for its welcome.
pub const WELCOME_ALONE: Duration = SUSPECT_AFTER;

/// A gap between two turns that makes an instance doubt what it knows: it was paused, and missed what came meanwhile.
pub const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long an instance remembers which session was unregistered, and a server which newer session superseded its own.
pub const TOMBSTONE: Duration = Duration::from_secs(60);

/// How long an instance waits for its siblings before it answers "try again".
pub const LOCATE_TIMEOUT: Duration = Duration::from_secs(1);

/// A device that is to be sent elsewhere may finish what is open for this long: longer than a round trip to a phone.
pub const DRAIN_FINISH: Duration = Duration::from_secs(1);
/// How often the next slice of a drain is sent elsewhere.
pub const DRAIN_STEP: Duration = Duration::from_millis(20);
/// A device that was sent elsewhere counts as on its way there for this long.
pub const AWAY: Duration = Duration::from_secs(10);

/// A device that has bytes waiting and takes none of them for this long is closed.
pub const SLOW_READER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection is closed when nothing was heard for this many halves of the ping interval that its device promised.
pub const IDLE_HALVES: u32 = 3;

/// After the last frame before a close, what still arrives is read and discarded for this long, so that the frame isn't lost to a
/// reset.
pub const LINGER: Duration = Duration::from_secs(1);

/// The first wait before a message that was answered "try again" is tried again; doubled each time up to [`RETRY_WAIT_MAX`].
pub const RETRY_WAIT_MIN: Duration = Duration::from_millis(20);
/// The longest wait after a "try again".
pub const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);
/// The first wait for an answer; doubled each time up to [`ANSWER_WAIT_MAX`].
pub const ANSWER_WAIT_MIN: Duration = Duration::from_secs(1);
/// The longest wait for an answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(8);

/// For how long it is kept in mind which link a confirmed message went over: until a silent link is given up, and its sender's node
/// would ask again by itself.
pub const PASSED_KEPT: Duration = Duration::from_secs(4);
/// How many of these one shard keeps in mind: three seconds of 20,000 messages each; at 80 bytes, 5 MiB.
pub const PASSED_MAX: usize = 65_536;

/// Retries that are allowed a second and node, whatever the load.
pub const RETRIES_A_SECOND: u64 = 10;
/// Further retries that are allowed for each hundred new messages.
pub const RETRIES_PERCENT: u64 = 10;

/// How many of one device's confirmed messages may be unresolved at a time.
pub const UNRESOLVED_PER_SESSION_MAX: u32 = 1024;
/// How many bytes of unresolved messages one shard keeps for retries: 4,096 of the largest, two million small ones.
pub const UNRESOLVED_BYTES_MAX: usize = 256 << 20;

/// How many bytes may wait for one device to read them: four of the largest messages, or a second of a slow phone's link.
pub const DEVICE_QUEUE_BYTES_MAX: usize = 256 << 10;
/// How many confirmed messages may wait for one device's acknowledgement.
pub const UNACKNOWLEDGED_PER_SESSION_MAX: usize = 4096;

/// How many locations of devices at other nodes one shard remembers: at 28 bytes and their table, 4 MiB.
pub const LOCATIONS_MAX: usize = 65_536;

/// How many devices' affinity lists an instance remembers unless told otherwise, all shards together: at 200 bytes, 1 GB if so many
/// devices ever connected.
pub const AFFINITY_LISTS_MAX: usize = 5_000_000;

/// How long a location that was asked for ahead of need is believed before it's asked for again.
pub const LOCATION_FRESH: Duration = Duration::from_secs(10);
/// How long it is, if there is a reason to doubt it or to want to be sure: a message from elsewhere, a sender who has just connected. A
/// recipient of whom many of a node's devices are reminded at once is asked for four times a second.
pub const LOCATION_DOUBTED: Duration = Duration::from_millis(250);
/// How many locations one shard has asked for ahead of need, or remembers to have: at 100 bytes, under 2 MiB.
pub const PREFETCHES_MAX: usize = 16_384;
/// Of how many devices one shard of an instance remembers who has asked where they are: at 64 bytes, 4 MiB.
pub const WATCHES_MAX: usize = 65_536;

/// How often an instance tells a node that sends by way of it where the same device is. A node that has forgotten sends by way of the
/// region for as long.
pub const LOCATION_TOLD_AGAIN: Duration = Duration::from_secs(1);
/// Of how many pairs of a node and a device an instance's shard knows that it has told them: 256 KiB, once it has told one.
pub const LOCATIONS_TOLD_MAX: usize = 4096;

/// How many messages may wait in one shard for the siblings' answers about their recipients.
pub const LOCATING_MESSAGES_MAX: usize = 4096;
/// And how many bytes of them.
pub const LOCATING_BYTES_MAX: usize = 16 << 20;

const _: () = assert!(
    LINK_PING_INTERVAL.as_millis() * 2 < SUSPECT_AFTER.as_millis(),
    "one lost ping is no suspicion"
);
const _: () = assert!(SUSPECT_AFTER.as_millis() < GONE_AFTER.as_millis());
const _: () = assert!(
    GONE_AFTER.as_millis() < LEASE.as_millis(),
    "nodes act on each other's silence before control does"
);
const _: () = assert!(
    PAUSE_MAX.as_millis() < SUSPECT_AFTER.as_millis(),
    "who was paused doubts itself before others forget it"
);
const _: () = assert!(WELCOME_TIMEOUT.as_millis() + WELCOME_ALONE.as_millis() < HELLO_TIMEOUT.as_millis());
const _: () = assert!(FENCING.as_millis() < GONE_AFTER.as_millis());
const _: () = assert!(
    AWAY.as_millis() <= GONE_AFTER.as_millis(),
    "a node that ends after a drain is gone when its devices are"
);
const _: () = assert!(GONE_AFTER.as_millis() < TOMBSTONE.as_millis());
const _: () = assert!(
    LOCATE_TIMEOUT.as_millis() <= ANSWER_WAIT_MIN.as_millis(),
    "an instance answers before the sender's node asks again"
);
const _: () = assert!(PASSED_KEPT.as_millis() >= SUSPECT_AFTER.as_millis() + ANSWER_WAIT_MIN.as_millis());
const _: () = assert!(ANSWER_WAIT_MAX.as_millis() < trunkline_wire::report::TTL_MS_DEFAULT as u128);
