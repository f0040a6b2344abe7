//! How many retries a shard may send: a share of its new messages, plus a few a second. The excess waits.
//!
//! Retries answer overload with more load; the bound keeps a fault from feeding itself.

use std::time::Duration;

use trunkline_wire::time::Instant;

use crate::constants::{RETRIES_A_SECOND, RETRIES_PERCENT};

/// For how long a new message's share of a retry may be used, at least: half the span of the promise.
const WINDOW: Duration = Duration::from_secs(5);

/// Counts in hundredths of a retry.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// Earned by messages in this window and in the one before.
    earned: [u64; 2],
    window_ends: Instant,
    /// Earned by time.
    timed: u64,
    timed_until: Instant,
    /// Hundredths earned a second.
    rate: u64,
}

impl RetryBudget {
    /// The budget of one of a node's `shards`.
    pub fn new(now: Instant, shards: u16) -> RetryBudget {
        let rate = RetryBudget::rate(shards);
        RetryBudget {
            earned: [0, 0],
            window_ends: now + WINDOW,
            timed: rate,
            timed_until: now,
            rate,
        }
    }

    /// What one of a node's `shards` may retry whether or not there are new messages, in hundredths a second.
    pub fn rate(shards: u16) -> u64 {
        // What can be saved up is subtracted from what is earned in ten seconds, so that their sum keeps the bound.
        (RETRIES_A_SECOND * 100 / u64::from(shards) * 9 / 10).max(1)
    }

    /// A new message was taken in.
    pub fn earn(&mut self) {
        self.earned[0] += RETRIES_PERCENT
            * if trunkline_wire::planted!(BudgetEarnsMore) {
                5
            } else {
                1
            };
    }

    /// Takes one retry, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        self.advance(now);
        let [new, old] = &mut self.earned;
        for purse in [old, new, &mut self.timed] {
            if *purse >= 100 {
                *purse -= 100;
                return true;
            }
        }
        false
    }

    fn advance(&mut self, now: Instant) {
        while now >= self.window_ends {
            self.earned = [0, self.earned[0]];
            // After a long idle time both windows are empty: skip what would only rotate zeros.
            self.window_ends = if self.earned == [0, 0] {
                now + WINDOW
            } else {
                self.window_ends + WINDOW
            };
        }
        let micros = now.since(self.timed_until).as_micros() as u64;
        let earned = micros.saturating_mul(self.rate) / 1_000_000;
        if earned > 0 && !trunkline_wire::planted!(BudgetNotRefilled) {
            // One second's worth can be saved up, but at least one retry.
            self.timed = (self.timed + earned).min(self.rate.max(100));
            self.timed_until = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_ten_seconds_no_more_than_a_tenth_of_the_messages_and_ten_a_second() {
        let start = Instant::ZERO;
        let mut budget = RetryBudget::new(start, 1);
        let mut taken = 0;
        for ms in 0..10_000u64 {
            budget.earn();
            let now = start + Duration::from_millis(ms);
            while budget.take(now) {
                taken += 1;
            }
        }
        assert!(taken <= 10_000 / 10 + 100, "{taken}");
        assert!(taken >= 1_000, "{taken}");
    }

    #[test]
    fn a_quiet_node_may_still_retry() {
        let mut budget = RetryBudget::new(Instant::ZERO, 4);
        let later = Instant::ZERO + Duration::from_secs(100);
        assert!(budget.take(later));
    }
}
