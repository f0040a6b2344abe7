//! Which of a sender's numbers were passed over: ranges, the lowest forgotten first.

use std::ops::Range;

/// Ranges of numbers that were not shown, ascending and apart.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    ranges: Vec<Range<u64>>,
    /// Below this a number that is in no range may or may not have been shown.
    forgotten_below: u64,
}

/// What is known of a number that was passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was shown.
    Shown,
    /// It was passed over.
    Gap,
    /// One of both.
    Forgotten,
}

impl Gaps {
    /// How many ranges are remembered.
    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Remembers `range`, which lies above all others; at most `gaps_max` ranges stay.
    pub(super) fn add(&mut self, range: Range<u64>, gaps_max: usize) {
        if range.is_empty() {
            return;
        }
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => self.ranges.push(range),
        }
        self.forget(gaps_max);
    }

    pub(super) fn look_up(&self, number: u64) -> Known {
        match self.position(number) {
            Some(_) => Known::Gap,
            None if number < self.forgotten_below => Known::Forgotten,
            None => Known::Shown,
        }
    }

    /// `number` was shown after all: the range that held it shrinks, or splits.
    pub(super) fn fill(&mut self, number: u64, gaps_max: usize) {
        let Some(at) = self.position(number) else {
            return;
        };
        let Range { start, end } = self.ranges[at].clone();
        let parts = [start..number, number + 1..end];
        self.ranges
            .splice(at..=at, parts.into_iter().filter(|part| !part.is_empty()));
        self.forget(gaps_max);
    }

    fn forget(&mut self, gaps_max: usize) {
        while self.ranges.len() > gaps_max || trunkline_wire::planted!(GapsForgotten) && !self.ranges.is_empty() {
            self.forgotten_below = self.ranges.remove(0).end;
        }
    }

    fn position(&self, number: u64) -> Option<usize> {
        let after = self.ranges.partition_point(|range| range.end <= number);
        let range = self.ranges.get(after)?;
        range.contains(&number).then_some(after)
    }
}
