//! A bounded slab whose slots carry a generation, so that a [`Token`] of an earlier use of a slot finds nothing.
//!
//! Every driver keeps its sockets in one. A slot's generation is bumped when its value leaves, never when it is taken. The slot itself is
//! free only when the caller has had the chance to see the last completion of who was in it: at the next [`Slots::settle`].

use slab::Slab;

use crate::driver::Token;

/// At most `max` values, found by token or by slot; slots, but for those that are not free yet, are below `max`.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    /// `None` in those whose value has left and that are not free yet.
    values: Slab<Option<T>>,
    left: Vec<u32>,
    /// By slot; as long as the slab has ever been.
    generations: Vec<u32>,
    max: u32,
}

impl<T> Slots<T> {
    pub(crate) fn new(max: u32) -> Slots<T> {
        Slots {
            values: Slab::new(),
            left: Vec::new(),
            generations: Vec::new(),
            max,
        }
    }

    /// Values held.
    pub(crate) fn len(&self) -> usize {
        self.values.len() - self.left.len()
    }

    /// How many more fit.
    pub(crate) fn room(&self) -> usize {
        self.max as usize - self.len()
    }

    /// Takes a free slot, or gives the value back if there is none.
    pub(crate) fn insert(&mut self, value: T) -> Result<Token, T> {
        if self.room() == 0 {
            return Err(value);
        }
        let slot = self.values.insert(Some(value));
        if slot == self.generations.len() {
            self.generations.push(0);
        }
        Ok(Token {
            slot: slot as u32,
            generation: self.generations[slot],
        })
    }

    /// The value of `token`, unless the slot has moved on to another generation.
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let slot = token.slot as usize;
        if *self.generations.get(slot)? != token.generation {
            return None;
        }
        self.values.get_mut(slot)?.as_mut()
    }

    /// The value in `slot`, whatever its generation, and its token.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<(Token, &mut T)> {
        let value = self.values.get_mut(slot as usize)?.as_mut()?;
        let generation = self.generations[slot as usize];
        Some((Token { slot, generation }, value))
    }

    /// The tokens of all values, by slot.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let taken = self.values.iter().filter(|(_, value)| value.is_some());
        let tokens = taken.map(|(slot, _)| Token {
            slot: slot as u32,
            generation: self.generations[slot],
        });
        tokens.collect()
    }

    /// Takes the value of `token` out: the token is dead from now on, and its slot free from the next [`Slots::settle`].
    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let slot = token.slot as usize;
        let generation = self.generations.get_mut(slot)?;
        if *generation != token.generation {
            return None;
        }
        let value = self.values.get_mut(slot)?.take()?;
        if trunkline_wire::planted!(WrongGeneration) {
            self.values.remove(slot);
            return Some(value);
        }
        self.left.push(token.slot);
        // After 2^32 uses of one slot a token would name another socket; at a million closes a second on a single slot
        // that takes more than an hour during which the caller would have had to keep the dead token.
        *generation = generation.wrapping_add(1);
        Some(value)
    }

    /// The caller has seen what became of all that left: their slots are free.
    pub(crate) fn settle(&mut self) {
        for slot in self.left.drain(..) {
            self.values.remove(slot as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_generation_and_the_old_token_finds_nothing() {
        let mut slots = Slots::new(2);
        let first = slots.insert('a').unwrap();
        assert_eq!(slots.remove(first), Some('a'));
        slots.settle();
        let second = slots.insert('b').unwrap();
        assert_eq!(second.slot, first.slot);
        assert_ne!(second.generation, first.generation);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!(slots.at_mut(second.slot), Some((second, &mut 'b')));
    }

    #[test]
    fn a_slot_is_free_only_when_the_caller_has_seen_who_left() {
        let mut slots = Slots::new(2);
        let first = slots.insert('a').unwrap();
        slots.remove(first);
        let second = slots.insert('b').unwrap();
        assert_ne!(second.slot, first.slot);
        assert_eq!((slots.len(), slots.room()), (1, 1));
        assert_eq!(slots.tokens(), [second]);
        assert_eq!(slots.at_mut(first.slot), None);
        slots.settle();
        assert_eq!((slots.len(), slots.room()), (1, 1));
        assert_eq!(slots.insert('c').unwrap().slot, first.slot);
    }

    #[test]
    fn a_full_table_gives_the_value_back() {
        let mut slots = Slots::new(1);
        slots.insert('a').unwrap();
        assert_eq!(slots.insert('b'), Err('b'));
        assert_eq!((slots.len(), slots.room()), (1, 0));
    }
}
