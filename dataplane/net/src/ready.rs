//! Whose turn it is to be read from.

use std::collections::VecDeque;

use crate::driver::BufferGroup;

/// Slots in the order in which they will have their turn. Each stands in it at most once, so that the table bounds it; one that was
/// reused or wants nothing any more by its turn is skipped then.
#[derive(Debug, Default)]
pub(crate) struct ReadyList {
    slots: VecDeque<u32>,
    /// By slot.
    listed: Vec<bool>,
}

impl ReadyList {
    /// Appends `slot`, unless it stands in the list.
    pub(crate) fn push(&mut self, slot: u32) {
        let index = slot as usize;
        if index >= self.listed.len() {
            self.listed.resize(index + 1, false);
        }
        if !std::mem::replace(&mut self.listed[index], true) {
            self.slots.push_back(slot);
        }
    }

    /// The slot whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let slot = self.slots.pop_front()?;
        self.listed[slot as usize] = false;
        Some(slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The lists of a driver, one for each [`BufferGroup`]: a list whose buffers are all out must not hold up the other.
#[derive(Debug, Default)]
pub(crate) struct ReadyLists([ReadyList; 2]);

impl ReadyLists {
    pub(crate) fn of(&self, group: BufferGroup) -> &ReadyList {
        &self.0[group as usize]
    }

    pub(crate) fn of_mut(&mut self, group: BufferGroup) -> &mut ReadyList {
        &mut self.0[group as usize]
    }
}
