//! How long after a prediction its message comes, if it comes: what is expected loses its worth in that measure.

use std::time::Duration;

/// Follows a quantile of the waits that it's told: of ten, seven are shorter.
#[derive(Clone, Debug)]
pub(super) struct Patience {
    /// Seconds, with 8 bits behind the point.
    wait: u32,
}

impl Patience {
    /// Two hundred seconds, until something is known.
    pub(super) fn new() -> Patience {
        Patience { wait: 200 << 8 }
    }

    /// The message came after so many seconds.
    pub(super) fn learn(&mut self, seconds: u32) {
        let seconds = seconds.clamp(1, WAIT_SECONDS_MAX) << 8;
        // Up by 7 parts as often as down by 3: seven in ten are below.
        if seconds > self.wait {
            self.wait = (self.wait + self.wait / 32 * 7).min(WAIT_SECONDS_MAX << 8);
        } else {
            self.wait = (self.wait - self.wait / 32 * 3).max(1 << 8);
        }
    }

    /// Three times the wait that seven of ten stay below, in seconds.
    pub(super) fn seconds(&self) -> u32 {
        (self.wait * 3) >> 8
    }

    pub(super) fn half_life(&self) -> Duration {
        Duration::from_secs(self.seconds().into())
    }
}

/// Six hours: who waits longer writes on another occasion.
const WAIT_SECONDS_MAX: u32 = 6 * 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_settles_where_seven_of_ten_are_shorter() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut patience = Patience::new();
        let mut sum = 0;
        for step in 0..20_000 {
            patience.learn(rng.u32(0..1_000));
            if step >= 10_000 {
                sum += patience.seconds() / 3;
            }
        }
        let mean = sum / 10_000;
        assert!((600..800).contains(&mean), "{mean}");
        for _ in 0..1_000 {
            patience.learn(u32::MAX);
        }
        assert!((2 * WAIT_SECONDS_MAX..=3 * WAIT_SECONDS_MAX).contains(&patience.seconds()));
        for _ in 0..1_000 {
            patience.learn(0);
        }
        assert!(patience.seconds() >= 3);
    }
}
