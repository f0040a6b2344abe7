//! How slots and devices get their regions. Pure arithmetic: whole numbers, no randomness, the same answer everywhere.
//!
//! Slots are spread in proportion to the regions' weights, and as few move as the proportions allow. Devices with an override go to
//! the region that has the fewest for its weight.

use std::collections::BTreeMap;

use trunkline_wire::id::RegionId;
use trunkline_wire::map::SLOTS;

use crate::state::Slots;

/// The largest weight: its product with the slots and with the regions fits 64 bits.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// Weights of the regions that take part.
pub type Weights = BTreeMap<RegionId, u32>;

/// How many slots each region is due: in proportion to the weights, what is left by the largest remainders, the lower id first among
/// equals. `None` if all weights are 0.
pub fn quotas(weights: &Weights) -> Option<BTreeMap<RegionId, usize>> {
    let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
    if total == 0 {
        return None;
    }
    let product = |weight: &u32| u64::from(*weight) * SLOTS as u64;
    let mut quotas: BTreeMap<_, _> = weights
        .iter()
        .map(|(region, weight)| (*region, (product(weight) / total) as usize))
        .collect();
    let mut by_remainder: Vec<_> = weights
        .iter()
        .map(|(region, weight)| (product(weight) % total, *region))
        .collect();
    by_remainder.sort_by(|(a, low), (b, high)| b.cmp(a).then(low.cmp(high)));
    let left = SLOTS - quotas.values().sum::<usize>();
    for (_, region) in by_remainder.into_iter().take(left) {
        *quotas.get_mut(&region).expect("same keys") += 1;
    }
    Some(quotas)
}

/// Spreads the slots anew over the regions in `weights`, moving no slot that may stay. `None` if all weights are 0.
///
/// A region that has too many gives its highest ones away; free slots go to the regions in the order of their ids.
pub fn spread(slots: Option<&Slots>, weights: &Weights) -> Option<Slots> {
    let mut lacking = quotas(weights)?;
    let mut spread = Box::new([RegionId(0); SLOTS]);
    let mut free = Vec::new();
    for slot in 0..SLOTS {
        match slots.and_then(|slots| lacking.get_mut(&slots[slot]).map(|lacking| (slots[slot], lacking))) {
            Some((region, lacking)) if *lacking > 0 => {
                *lacking -= 1;
                spread[slot] = region;
            }
            Some(_) | None => free.push(slot),
        }
    }
    let takers = lacking
        .iter()
        .flat_map(|(region, lacking)| std::iter::repeat_n(*region, *lacking));
    for (slot, region) in free.into_iter().zip(takers) {
        spread[slot] = region;
    }
    Some(spread)
}

/// How many slots each region has.
pub fn counts(slots: &Slots) -> BTreeMap<RegionId, usize> {
    let mut counts = BTreeMap::new();
    for run in slots.chunk_by(|a, b| a == b) {
        *counts.entry(run[0]).or_default() += run.len();
    }
    counts
}

/// How many slots differ.
pub fn moved(before: &Slots, after: &Slots) -> usize {
    before.iter().zip(after.iter()).filter(|(a, b)| a != b).count()
}

/// The region for a device: the one with the fewest devices for its weight, the lower id among equals. `None` if none has a weight.
pub fn choose(weights: &Weights, devices: &BTreeMap<RegionId, usize>) -> Option<RegionId> {
    let count = |region: &RegionId| devices.get(region).copied().unwrap_or(0) as u128;
    let heavy = weights.iter().filter(|(_, weight)| **weight > 0);
    let fewest = heavy.min_by(|(a, wa), (b, wb)| (count(a) * u128::from(**wb)).cmp(&(count(b) * u128::from(**wa))));
    fewest.map(|(region, _)| *region)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(of: &[(u16, u32)]) -> Weights {
        of.iter().map(|(region, weight)| (RegionId(*region), *weight)).collect()
    }

    fn has(slots: &Slots, region: u16) -> usize {
        counts(slots).get(&RegionId(region)).copied().unwrap_or(0)
    }

    #[test]
    fn slots_are_spread_by_weight() {
        let slots = spread(None, &weights(&[(1, 1), (2, 3)])).unwrap();
        assert_eq!((has(&slots, 1), has(&slots, 2)), (SLOTS / 4, SLOTS * 3 / 4));
    }

    #[test]
    fn no_slot_is_lost_whatever_the_weights_are() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..50 {
            let regions = random.u16(1..40);
            let weights: Weights = (1..=regions)
                .map(|region| (RegionId(region), random.u32(0..=WEIGHT_MAX)))
                .collect();
            let Some(quotas) = quotas(&weights) else { continue };
            assert_eq!(quotas.values().sum::<usize>(), SLOTS);
            let total: u64 = weights.values().map(|weight| u64::from(*weight)).sum();
            for (region, quota) in quotas {
                let exact = u64::from(weights[&region]) as f64 * SLOTS as f64 / total as f64;
                assert!((quota as f64 - exact).abs() < 1.0);
            }
        }
    }

    #[test]
    fn a_new_region_takes_its_share_and_no_other_slot_moves() {
        let before = spread(None, &weights(&[(1, 1), (2, 1)])).unwrap();
        let after = spread(Some(&before), &weights(&[(1, 1), (2, 1), (3, 1)])).unwrap();
        assert_eq!(moved(&before, &after), has(&after, 3));
        assert!(has(&after, 3).abs_diff(SLOTS / 3) <= 1);
    }

    #[test]
    fn a_changed_weight_moves_exactly_the_difference() {
        let before = spread(None, &weights(&[(1, 1), (2, 1)])).unwrap();
        let after = spread(Some(&before), &weights(&[(1, 3), (2, 1)])).unwrap();
        assert_eq!(moved(&before, &after), SLOTS / 4);
        assert_eq!(has(&after, 1), SLOTS * 3 / 4);
    }

    #[test]
    fn spreading_again_moves_nothing() {
        let weights = weights(&[(1, 5), (2, 7), (9, 11)]);
        let before = spread(None, &weights).unwrap();
        assert_eq!(moved(&before, &spread(Some(&before), &weights).unwrap()), 0);
    }

    #[test]
    fn a_region_without_weight_has_no_slot_and_none_at_all_is_refused() {
        let before = spread(None, &weights(&[(1, 1), (2, 1)])).unwrap();
        let after = spread(Some(&before), &weights(&[(1, 1), (2, 0)])).unwrap();
        assert_eq!((has(&after, 1), has(&after, 2)), (SLOTS, 0));
        assert_eq!(spread(Some(&before), &weights(&[(1, 0)])), None);
    }

    #[test]
    fn a_device_goes_where_the_fewest_are_for_the_weight() {
        let weights = weights(&[(1, 1), (2, 2), (3, 0)]);
        let mut devices = BTreeMap::new();
        for _ in 0..300 {
            *devices.entry(choose(&weights, &devices).unwrap()).or_default() += 1;
        }
        assert_eq!(devices, BTreeMap::from([(RegionId(1), 100), (RegionId(2), 200)]));
    }
}
