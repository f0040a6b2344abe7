//! The clocks of the drivers that face the operating system.

use std::sync::OnceLock;
use std::time::SystemTime;

use trunkline_wire::time::Instant;

/// Where the monotonic clock of this process starts: at the first question, for all threads alike.
static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();

/// Time since the process's origin.
pub(crate) fn now() -> Instant {
    let micros = ORIGIN.get_or_init(std::time::Instant::now).elapsed().as_micros();
    // 2^64 microseconds are half a million years.
    Instant::from_micros(micros as u64)
}

/// Milliseconds since the Unix epoch; 0 before it.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}
