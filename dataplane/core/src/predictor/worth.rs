//! How much a link is worth: the probability that the next message goes over it, in fixed point.

use std::time::Duration;

use trunkline_wire::time::Instant;

/// A probability, in 65,536ths; the highest value stands for certainty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worth(pub u16);

impl Worth {
    /// Nobody expects anything.
    pub const NONE: Worth = Worth(0);
    /// As sure as can be.
    pub const CERTAIN: Worth = Worth(u16::MAX);

    /// From parts of a thousand, for people.
    pub const fn per_mille(parts: u16) -> Worth {
        Worth((parts as u32 * u16::MAX as u32 / 1_000) as u16)
    }

    /// In parts of a thousand, for people.
    pub const fn to_per_mille(self) -> u16 {
        ((self.0 as u32 * 1_000 + u16::MAX as u32 / 2) / u16::MAX as u32) as u16
    }

    /// What is left of it some time later: half after each `half_life`, and on a straight line between. What was expected and hasn't
    /// come is the less likely to come the longer it didn't.
    pub fn after(self, age: Duration, half_life: Duration) -> Worth {
        let half_life = half_life.as_millis().max(1) as u64;
        let age = age.as_millis() as u64;
        let halvings = age / half_life;
        if halvings >= 16 {
            return Worth::NONE;
        }
        let worth = u64::from(self.0 >> halvings);
        Worth((worth - worth * (age % half_life) / (2 * half_life)) as u16)
    }

    /// What it was worth at `since`, now.
    pub fn since(self, since: Instant, now: Instant, half_life: Duration) -> Worth {
        self.after(now.since(since), half_life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_and_never_rises_by_waiting() {
        let half_life = Duration::from_secs(10);
        let after = |seconds| Worth(40_000).after(Duration::from_secs(seconds), half_life);
        assert_eq!(after(0), Worth(40_000));
        assert_eq!(after(10), Worth(20_000));
        assert_eq!(after(15), Worth(15_000));
        assert_eq!(after(20), Worth(10_000));
        assert!((0..300).all(|seconds| after(seconds + 1) <= after(seconds)));
        assert_eq!(after(1_000_000), Worth::NONE);
        assert!(Worth::CERTAIN.after(Duration::MAX / 2, Duration::ZERO) == Worth::NONE);
    }

    #[test]
    fn parts_of_a_thousand_are_for_people() {
        for parts in [0, 1, 50, 500, 999, 1_000] {
            assert_eq!(Worth::per_mille(parts).to_per_mille(), parts);
        }
    }
}
