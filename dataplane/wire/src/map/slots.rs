//! Slots that are compared in blocks: they are many, most are as the one before, and most maps have those of the map before.

use super::SLOTS;
use crate::id::RegionId;

/// The regions of all slots.
type Slots = [RegionId; SLOTS];

/// The slot behind the last one of the run of one region that begins at `start`.
pub(super) fn run_end(slots: &Slots, start: usize) -> usize {
    let region = slots[start];
    let blocks = slots[start..].chunks_exact(BLOCK);
    let whole = blocks.take_while(|block| block.iter().fold(true, |all, of| all & (*of == region)));
    let end = start + whole.count() * BLOCK;
    end + slots[end..].iter().take_while(|of| **of == region).count()
}

/// The first slot from `start` on that has another region in `other`.
pub(super) fn first_difference(slots: &Slots, other: &Slots, start: usize) -> Option<usize> {
    let blocks = slots[start..]
        .chunks_exact(BLOCK)
        .zip(other[start..].chunks_exact(BLOCK));
    let whole = blocks.take_while(|(a, b)| a.iter().zip(*b).fold(true, |all, (a, b)| all & (a == b)));
    let from = start + whole.count() * BLOCK;
    let rest = slots[from..].iter().zip(&other[from..]);
    let at = rest.into_iter().position(|(a, b)| a != b)?;
    Some(from + at)
}

/// Slots that are compared at once, without a branch for each: a few vector registers.
const BLOCK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_difference_is_found_wherever_it_is() {
        let one: Box<Slots> = Box::new([RegionId(1); SLOTS]);
        assert_eq!(first_difference(&one, &one, 0), None);
        assert_eq!(first_difference(&one, &one, SLOTS), None);
        let mut other = one.clone();
        let differ = [0, 1, 63, 64, 65, 4_000, SLOTS - 1];
        for slot in differ {
            other[slot] = RegionId(2);
        }
        let (mut found, mut from) = (Vec::new(), 0);
        while let Some(slot) = first_difference(&one, &other, from) {
            found.push(slot);
            from = slot + 1;
        }
        assert_eq!(found, differ);
    }
}
