//! The caller's side of the drivers' tables: what a shard knows about each connection, found by its [`Token`].
//!
//! Slots of a driver are small and dense, so this is an index into a `Vec`, with the generation compared: a completion for a
//! token that is no longer the slot's finds nothing. Iteration goes by slot, so that it is the same in every run.

use crate::driver::Token;

/// Values by token.
#[derive(Debug)]
pub struct ConnectionTable<T> {
    slots: Vec<Option<(u32, T)>>,
    used: usize,
}

impl<T> Default for ConnectionTable<T> {
    fn default() -> ConnectionTable<T> {
        ConnectionTable::new()
    }
}

impl<T> ConnectionTable<T> {
    /// An empty table. It grows to the highest slot that the driver used, which the driver bounds.
    pub fn new() -> ConnectionTable<T> {
        ConnectionTable {
            slots: Vec::new(),
            used: 0,
        }
    }

    /// Connections held.
    pub fn len(&self) -> usize {
        self.used
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Puts `value` at `token`. What another token left in the slot comes out.
    pub fn insert(&mut self, token: Token, value: T) -> Option<T> {
        let slot = token.slot as usize;
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        let before = self.slots[slot].replace((token.generation, value));
        if before.is_none() {
            self.used += 1;
        }
        before.map(|(_, value)| value)
    }

    /// The value of `token`.
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.slot as usize) {
            Some(Some((generation, value))) if *generation == token.generation => Some(value),
            _ => None,
        }
    }

    /// The value of `token`, to change.
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.slot as usize) {
            Some(Some((generation, value))) if *generation == token.generation => Some(value),
            _ => None,
        }
    }

    /// Takes the value of `token` out.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        self.get(token)?;
        self.used -= 1;
        self.slots[token.slot as usize].take().map(|(_, value)| value)
    }

    /// All connections, in the order of their slots.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| {
            let (generation, value) = entry.as_ref()?;
            Some((token(slot, *generation), value))
        })
    }

    /// All connections, in the order of their slots, to change.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(slot, entry)| {
            let (generation, value) = entry.as_mut()?;
            Some((token(slot, *generation), value))
        })
    }
}

fn token(slot: usize, generation: u32) -> Token {
    Token {
        slot: slot as u32,
        generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_another_generation_finds_nothing() {
        let mut table = ConnectionTable::new();
        let (old, new) = (token(3, 7), token(3, 8));
        assert_eq!(table.insert(old, "old"), None);
        assert_eq!(table.get(new), None);
        assert_eq!(table.remove(new), None);
        assert_eq!(table.insert(new, "new"), Some("old"));
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(new), Some(&mut "new"));
        assert_eq!(table.remove(new), Some("new"));
        assert!(table.is_empty());
    }

    #[test]
    fn iteration_goes_by_slot() {
        let mut table = ConnectionTable::new();
        for slot in [5, 1, 3] {
            table.insert(token(slot, 0), slot);
        }
        assert_eq!(table.iter().map(|(t, _)| t.slot).collect::<Vec<_>>(), [1, 3, 5]);
        for (_, value) in table.iter_mut() {
            *value *= 10;
        }
        assert_eq!(table.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [10, 30, 50]);
        assert_eq!(table.len(), 3);
    }
}
