//! Which of two connections to one node is kept. Both ends come to the same answer, whichever of them finishes first.

use trunkline_wire::id::{Incarnation, NodeId};

/// What a decision needs to know of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// Who dialled it.
    pub(super) dialler: NodeId,
    /// Which start of the other node it leads to.
    pub(super) incarnation: Incarnation,
}

/// What becomes of a connection whose handshake is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// It's the link.
    Take,
    /// It's the link; what was the link before is dead.
    ReplaceAtOnce,
    /// It's the link; what was the link before is closed without losing a frame.
    ReplaceGently,
    /// The other one stays.
    Doubled,
    /// It leads to a start of the other node that is over.
    Stale,
}

/// Whether `new` becomes the link, while `current` is one.
pub(super) fn choose(me: NodeId, node: NodeId, new: Candidate, current: Option<Candidate>) -> Choice {
    let Some(current) = current else {
        return Choice::Take;
    };
    if new.incarnation != current.incarnation {
        return if new.incarnation > current.incarnation {
            Choice::ReplaceAtOnce
        } else {
            Choice::Stale
        };
    }
    if new.dialler == current.dialler {
        // Nobody dials a node to which it has a link: it has lost it, and we haven't noticed.
        return Choice::ReplaceAtOnce;
    }
    if new.dialler == me.min(node) {
        Choice::ReplaceGently
    } else {
        Choice::Doubled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId(1);
    const HIGH: NodeId = NodeId(2);

    fn by(dialler: NodeId, incarnation: u64) -> Candidate {
        Candidate {
            dialler,
            incarnation: Incarnation(incarnation),
        }
    }

    #[test]
    fn the_table() {
        for (me, node) in [(LOW, HIGH), (HIGH, LOW)] {
            let choose = |new, current| choose(me, node, new, current);
            assert_eq!(choose(by(HIGH, 1), None), Choice::Take);
            assert_eq!(choose(by(LOW, 1), Some(by(HIGH, 1))), Choice::ReplaceGently);
            assert_eq!(choose(by(HIGH, 1), Some(by(LOW, 1))), Choice::Doubled);
            assert_eq!(choose(by(HIGH, 1), Some(by(HIGH, 1))), Choice::ReplaceAtOnce);
            assert_eq!(choose(by(HIGH, 2), Some(by(LOW, 1))), Choice::ReplaceAtOnce);
            assert_eq!(choose(by(LOW, 1), Some(by(HIGH, 2))), Choice::Stale);
        }
    }
}
