//! How a node ends: devices first, links behind them.
//!
//! ```text
//! Devices ──all are elsewhere, or it is time──▶ Links ──all are closed, or time is over──▶ Over
//! ```
//! A device that was sent away is waited for until it has come up elsewhere: what comes for it here is answered "try again", which
//! nobody would do once the node has left. A shard closes its links only when all shards are through with their devices, since they
//! share them.
//!
//! Pure: the caller says what the shards have got to, and does what is asked.

use std::time::Duration;

use trunkline_wire::time::Instant;

/// What is kept of the time for the last devices to finish, to come up elsewhere, and for links.
pub const ENDING: Duration = Duration::from_secs(3);
/// What is kept of that for links: a round trip or two, and what is queued for them.
const LINKS: Duration = Duration::from_secs(1);
const _: () = assert!(LINKS.as_secs() < ENDING.as_secs());

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Tell all shards to close their links: [`crate::mesh::Order::Leave`].
    CloseLinks,
    /// Stop all shards.
    Stop,
}

/// A shutdown under way.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    end: Instant,
    closing: bool,
}

impl Departure {
    /// One that is over `within` this time, whatever others do.
    pub fn new(now: Instant, within: Duration) -> Departure {
        Departure {
            end: now + within,
            closing: false,
        }
    }

    /// Within which time after the begin all devices are to be told to go.
    pub fn devices_within(within: Duration) -> Duration {
        within.saturating_sub(ENDING).max(LINKS)
    }

    /// What is to be done now. `devices_gone`: no shard has devices, or waits for any to come up elsewhere; `links_closed`: no shard
    /// has a connection.
    pub fn step(&mut self, now: Instant, devices_gone: bool, links_closed: bool) -> Step {
        if self.closing {
            return match links_closed || now >= self.end {
                true => Step::Stop,
                false => Step::Wait,
            };
        }
        if devices_gone || now + LINKS >= self.end {
            self.closing = true;
            return Step::CloseLinks;
        }
        Step::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(10);
    const T0: Instant = Instant::ZERO;

    #[test]
    fn links_are_closed_when_all_devices_are_elsewhere_and_then_it_is_over() {
        let mut departure = Departure::new(T0, WITHIN);
        assert_eq!(departure.step(T0, false, false), Step::Wait);
        assert_eq!(departure.step(T0, true, false), Step::CloseLinks);
        assert_eq!(departure.step(T0, true, false), Step::Wait);
        assert_eq!(departure.step(T0, true, true), Step::Stop);
    }

    #[test]
    fn whoever_stays_it_is_over_in_time_and_links_have_theirs() {
        let mut departure = Departure::new(T0, WITHIN);
        assert_eq!(departure.step(T0 + (WITHIN - LINKS * 2), false, false), Step::Wait);
        assert_eq!(departure.step(T0 + (WITHIN - LINKS), false, false), Step::CloseLinks);
        assert_eq!(departure.step(T0 + (WITHIN - LINKS / 2), false, false), Step::Wait);
        assert_eq!(departure.step(T0 + WITHIN, false, false), Step::Stop);
        assert!(Departure::devices_within(WITHIN) + ENDING <= WITHIN);
    }
}
