//! How long to wait before the next connection.

use std::time::Duration;

use fastrand::Rng;

/// After the first failure.
const DELAY_MIN: Duration = Duration::from_millis(50);
/// However many failures there were.
const DELAY_MAX: Duration = Duration::from_secs(10);
/// The longest that a server may send a device away: a wrong value must not cut it off for days.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Doubles with each failure, and lies between half of that and all of it, so that the devices of a lost server don't come back at
/// once.
pub(crate) fn delay(failures: u32, random: &mut Rng) -> Duration {
    let doubled = DELAY_MIN.saturating_mul(1u32 << failures.saturating_sub(1).min(16));
    let whole = doubled.min(DELAY_MAX);
    whole / 2 + up_to(whole / 2, random)
}

/// Not before the server asked for, and spread over half as much again: those that it sent away must not return together.
pub(crate) fn after_go_away(retry_after: Duration, failures: u32, random: &mut Rng) -> Duration {
    let asked = retry_after.min(RETRY_AFTER_MAX);
    asked + up_to(asked / 2, random) + delay(failures, random)
}

fn up_to(span: Duration, random: &mut Rng) -> Duration {
    Duration::from_micros(random.u64(0..=span.as_micros() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_ten_seconds_and_keep_at_least_half() {
        let mut random = Rng::with_seed(1);
        for (failures, whole_ms) in [
            (1, 50),
            (2, 100),
            (3, 200),
            (8, 6_400),
            (9, 10_000),
            (4_000_000, 10_000),
        ] {
            for _ in 0..100 {
                let delay = delay(failures, &mut random).as_millis();
                assert!((whole_ms / 2..=whole_ms).contains(&delay), "{failures}: {delay}");
            }
        }
    }

    #[test]
    fn a_go_away_is_never_cut_short_and_never_lasts_for_days() {
        let mut random = Rng::with_seed(2);
        let asked = Duration::from_secs(3);
        let spread: Vec<_> = (0..100).map(|_| after_go_away(asked, 1, &mut random)).collect();
        assert!(spread.iter().all(|delay| *delay >= asked && *delay < asked * 2));
        assert!(
            spread
                .iter()
                .max()
                .unwrap()
                .saturating_sub(*spread.iter().min().unwrap())
                > asked / 4
        );
        assert!(after_go_away(Duration::MAX, 1, &mut random) <= RETRY_AFTER_MAX * 2);
    }
}
