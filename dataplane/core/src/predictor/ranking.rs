//! Who is likely enough to be foreseen, the likeliest first.
//!
//! Without branches that depend on the data: they would go either way, and a wrong guess of the processor takes as long as ten partners.

use super::affinity::PARTNERS_MAX;
use super::model::{NEGLIGIBLE, logistic};
use super::{FORESEEN, Worth};

/// The sum of each place of a list.
#[derive(Debug)]
pub(super) struct Ranking {
    sums: [i32; PARTNERS_MAX],
    len: usize,
}

impl Ranking {
    /// Of a list of that length. Nobody is likely.
    pub(super) fn new(len: usize) -> Ranking {
        Ranking {
            sums: [i32::MIN; PARTNERS_MAX],
            len: len.min(PARTNERS_MAX),
        }
    }

    /// The places whose sums are to be put in.
    pub(super) fn sums_mut(&mut self) -> &mut [i32; PARTNERS_MAX] {
        &mut self.sums
    }

    /// The places with at least that sum, as bits.
    #[inline(never)]
    pub(super) fn places(&self, sum_min: i32) -> u32 {
        let bits = self.sums[..self.len].iter().zip(&BITS);
        bits.fold(0, |places, (&sum, &bit)| places | if sum >= sum_min { bit } else { 0 })
    }

    /// Place and worth of each who is foreseen; of equal ones the first comes first.
    #[inline(always)]
    pub(super) fn for_each_likely(&self, mut tell: impl FnMut(usize, Worth)) {
        let mut places = self.places(LIKELY);
        if places.is_power_of_two() {
            let rank = places.trailing_zeros() as usize;
            return tell(rank, worth(logistic(self.sums[rank])));
        }
        let (mut keys, mut count) = ([0i32; PARTNERS_MAX], 0);
        while places != 0 && count < PARTNERS_MAX {
            let rank = places.trailing_zeros() as usize % RANKS;
            places &= places - 1;
            let worth = i32::from(worth(logistic(self.sums[rank.min(PARTNERS_MAX - 1)])).0);
            keys[count] = worth << RANK_BITS | (RANKS - 1 - rank) as i32;
            count += 1;
        }
        let mut higher = [0; PARTNERS_MAX];
        for &key in &keys[..count] {
            count_lower(&keys, key, &mut higher);
        }
        let mut sorted = [0; PARTNERS_MAX];
        for (&key, &higher) in keys[..count].iter().zip(&higher) {
            sorted[(higher as usize).min(PARTNERS_MAX - 1)] = key;
        }
        for key in &sorted[..count] {
            let rank = RANKS - 1 - *key as usize % RANKS;
            tell(rank, Worth((key >> RANK_BITS) as u16));
        }
    }
}

/// Counts at each key that `key` is higher. A function, because then the compiler sees that it's four at a time.
#[inline(never)]
fn count_lower(keys: &[i32; PARTNERS_MAX], key: i32, higher: &mut [i32; PARTNERS_MAX]) {
    for (higher, &lower) in higher.iter_mut().zip(keys) {
        *higher += i32::from(key > lower);
    }
}

/// A bit for each place.
const BITS: [u32; PARTNERS_MAX] = {
    let mut bits = [0; PARTNERS_MAX];
    let mut at = 0;
    while at < PARTNERS_MAX {
        bits[at] = 1 << at;
        at += 1;
    }
    bits
};

const RANKS: usize = PARTNERS_MAX.next_power_of_two();
const RANK_BITS: u32 = RANKS.ilog2();

/// The worth of a partner with that score.
pub(super) const fn worth(score: i32) -> Worth {
    if score < 0 {
        Worth::NONE
    } else if score < Worth::CERTAIN.0 as i32 {
        Worth(score as u16)
    } else {
        Worth::CERTAIN
    }
}

/// The lowest sum of who is foreseen, which has at least the worth of [`FORESEEN`].
pub(super) const LIKELY: i32 = {
    let (mut unlikely, mut likely) = (NEGLIGIBLE, 0);
    while likely - unlikely > 1 {
        let between = unlikely + (likely - unlikely) / 2;
        if worth(logistic(between)).0 >= FORESEEN.0 {
            likely = between;
        } else {
            unlikely = between;
        }
    }
    likely
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_likely_has_the_worth_of_who_is_foreseen() {
        assert!(worth(logistic(LIKELY)) >= FORESEEN);
        assert!(worth(logistic(LIKELY - 1)) < FORESEEN);
    }

    #[test]
    fn the_likeliest_come_first_and_of_equals_the_first() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..1_000 {
            let mut sums = [0; PARTNERS_MAX];
            sums.fill_with(|| rng.i32(-8..4) << 15);
            let mut ranking = Ranking::new(PARTNERS_MAX);
            *ranking.sums_mut() = sums;
            let likely = sums.iter().enumerate().filter(|&(_, &sum)| sum >= LIKELY);
            let mut expected: Vec<_> = likely.map(|(rank, &sum)| (rank, worth(logistic(sum)))).collect();
            expected.sort_by_key(|&(_, worth)| std::cmp::Reverse(worth));
            let mut told = Vec::new();
            ranking.for_each_likely(|rank, worth| told.push((rank, worth)));
            assert_eq!(told, expected, "{sums:?}");
        }
    }
}
