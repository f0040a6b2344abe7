//! How long to wait before the next dial.

use std::time::Duration;

use fastrand::Rng;

/// The wait after the first failure.
pub(super) const WAIT_MIN: Duration = Duration::from_millis(50);
/// The longest wait: a node that comes back is found within this time.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(2);

/// Doubles with each failure in a row (at least 1), and takes half of that, and up to half more by chance: nodes that failed together
/// don't come back together.
pub(super) fn wait(failures: u32, rng: &mut Rng) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let full = WAIT_MIN.saturating_mul(1 << doublings).min(WAIT_MAX).as_micros() as u64;
    Duration::from_micros(rng.u64(full / 2..=full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_stay_bounded() {
        let mut rng = Rng::with_seed(7);
        for failures in 1..100 {
            let wait = wait(failures, &mut rng);
            assert!(wait >= WAIT_MIN / 2 && wait <= WAIT_MAX, "{failures}: {wait:?}");
        }
        assert!(wait(1, &mut rng) <= WAIT_MIN);
        assert!(wait(50, &mut rng) >= WAIT_MAX / 2);
    }
}
