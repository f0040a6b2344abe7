//! How a confirmed message ends: the outcomes that a sender is told, and the numbers by which a message is named.

use crate::codec::{DecodeError, Field, Reader};
use crate::id::NodeId;

/// A message's number, and whether its sender wants to be told how it ended.
///
/// Numbers count from 0 per sender instance and recipient. A confirmed message also names the lowest number to that recipient that
/// is still unresolved: below it nobody needs to wait for anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The message's own number.
    pub number: u64,
    /// `None` for fire-and-forget; for confirmed the lowest unresolved number, at most the message's own.
    pub confirmed: Option<u64>,
}

impl<'a> Field<'a> for Number {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.number.put(out);
        match self.confirmed {
            None => out.push(0),
            Some(lowest) => {
                debug_assert!(
                    lowest <= self.number,
                    "{lowest} is unresolved, and only {} was sent",
                    self.number
                );
                out.push(1);
                lowest.put(out);
            }
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let number = reader.u64()?;
        let confirmed = if bool::take(reader)? {
            let lowest = reader.u64()?;
            if lowest > number {
                return Err(DecodeError::Value("lowest unresolved number"));
            }
            Some(lowest)
        } else {
            None
        };
        Ok(Number { number, confirmed })
    }
}

/// The longest time to live: a week, in milliseconds.
pub const TTL_MS_MAX: u32 = 7 * 24 * 3600 * 1000;

/// The time to live of a message whose sender names none.
pub const TTL_MS_DEFAULT: u32 = 60_000;

/// What is left of a message's time to live, in milliseconds: 1 to a week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TtlMs(u32);

impl TtlMs {
    /// `None` if `ms` is 0 or more than a week.
    pub fn new(ms: u32) -> Option<TtlMs> {
        (1..=TTL_MS_MAX).contains(&ms).then_some(TtlMs(ms))
    }

    /// Milliseconds.
    #[inline]
    pub fn ms(self) -> u32 {
        self.0
    }
}

impl Default for TtlMs {
    fn default() -> TtlMs {
        TtlMs(TTL_MS_DEFAULT)
    }
}

impl<'a> Field<'a> for TtlMs {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        TtlMs::new(reader.u32()?).ok_or(DecodeError::Value("time to live"))
    }
}

/// Why a message was refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectReason {
    /// The recipient's queue, or the sender's allowance of unresolved messages, is full.
    Busy,
    /// The recipient's device refused it.
    Refused,
    /// The sender may not send this.
    NotPermitted,
}

/// How a confirmed message ended. Exactly one of these reaches its sender's user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The recipient's device acknowledged it; `late` if it came after messages with higher numbers had been shown.
    Delivered {
        /// It was shown out of order.
        late: bool,
    },
    /// The recipient isn't connected anywhere.
    Offline {
        /// Not every instance of its region could be asked.
        unreachable: bool,
        /// A copy was written to a device that has not acknowledged it.
        maybe_delivered: bool,
    },
    /// Its time to live ran out first.
    Expired {
        /// A copy was written to a device that has not acknowledged it.
        maybe_delivered: bool,
    },
    /// It was refused.
    Rejected {
        /// Why.
        reason: RejectReason,
        /// A copy was written to a device that has not acknowledged it.
        maybe_delivered: bool,
    },
}

impl Outcome {
    /// The same outcome, with `maybe_delivered` set if `maybe` is true and the outcome can say so.
    pub fn or_maybe(self, maybe: bool) -> Outcome {
        match self {
            Outcome::Delivered { late } => Outcome::Delivered { late },
            Outcome::Offline {
                unreachable,
                maybe_delivered,
            } => Outcome::Offline {
                unreachable,
                maybe_delivered: maybe_delivered || maybe,
            },
            Outcome::Expired { maybe_delivered } => Outcome::Expired {
                maybe_delivered: maybe_delivered || maybe,
            },
            Outcome::Rejected {
                reason,
                maybe_delivered,
            } => Outcome::Rejected {
                reason,
                maybe_delivered: maybe_delivered || maybe,
            },
        }
    }

    /// One word for logs, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Offline { .. } => "offline",
            Outcome::Expired { .. } => "expired",
            Outcome::Rejected { .. } => "rejected",
        }
    }

    /// Whether a device may have it although nobody knows; false for `delivered`, which is certain.
    pub fn maybe_delivered(self) -> bool {
        match self {
            Outcome::Delivered { .. } => false,
            Outcome::Offline { maybe_delivered, .. }
            | Outcome::Expired { maybe_delivered }
            | Outcome::Rejected { maybe_delivered, .. } => maybe_delivered,
        }
    }
}

// Three bytes: what, detail, maybe_delivered.
impl<'a> Field<'a> for Outcome {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        let (status, detail) = match *self {
            Outcome::Delivered { late } => (1, u8::from(late)),
            Outcome::Offline { unreachable, .. } => (2, u8::from(unreachable)),
            Outcome::Expired { .. } => (3, 0),
            Outcome::Rejected { reason, .. } => (
                4,
                match reason {
                    RejectReason::Busy => 1,
                    RejectReason::Refused => 2,
                    RejectReason::NotPermitted => 3,
                },
            ),
        };
        out.extend_from_slice(&[status, detail, u8::from(self.maybe_delivered())]);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let [status, detail, maybe] = reader.array()?;
        let maybe_delivered = match maybe {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Value("maybe_delivered")),
        };
        match (status, detail) {
            (1, 0 | 1) if !maybe_delivered => Ok(Outcome::Delivered { late: detail == 1 }),
            (2, 0 | 1) => Ok(Outcome::Offline {
                unreachable: detail == 1,
                maybe_delivered,
            }),
            (3, 0) => Ok(Outcome::Expired { maybe_delivered }),
            (4, 1) => Ok(Outcome::Rejected {
                reason: RejectReason::Busy,
                maybe_delivered,
            }),
            (4, 2) => Ok(Outcome::Rejected {
                reason: RejectReason::Refused,
                maybe_delivered,
            }),
            (4, 3) => Ok(Outcome::Rejected {
                reason: RejectReason::NotPermitted,
                maybe_delivered,
            }),
            _ => Err(DecodeError::Value("outcome")),
        }
    }
}

/// Why a node could not bring a message further now; the node that took it in tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RetryReason {
    /// The instance has not heard from all connection servers yet.
    NotInSync,
    /// No ready link to where the message has to go.
    NoLink,
    /// An instance of the region can't be asked.
    Unreachable,
    /// The hop limit was reached, or the next hop is where it came from.
    Hops,
    /// The session ended while the message was on its way.
    SessionGone,
    /// A queue on the way is full.
    Busy,
    /// This node does not serve the region.
    WrongRegion,
}

impl RetryReason {
    /// All of them, in the order of their numbers on the wire, which start at 1.
    pub const ALL: [RetryReason; 7] = [
        RetryReason::NotInSync,
        RetryReason::NoLink,
        RetryReason::Unreachable,
        RetryReason::Hops,
        RetryReason::SessionGone,
        RetryReason::Busy,
        RetryReason::WrongRegion,
    ];

    /// One word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            RetryReason::NotInSync => "not_in_sync",
            RetryReason::NoLink => "no_link",
            RetryReason::Unreachable => "unreachable",
            RetryReason::Hops => "hops",
            RetryReason::SessionGone => "session_gone",
            RetryReason::Busy => "busy",
            RetryReason::WrongRegion => "wrong_region",
        }
    }
}

/// What a node answers about a message: an end, or "try again".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It has ended.
    Final(Outcome),
    /// It has not; `maybe_delivered` if a copy was written to a device that has not acknowledged it.
    Retry {
        /// Why.
        reason: RetryReason,
        /// A copy was written to a device that has not acknowledged it.
        maybe_delivered: bool,
    },
}

impl<'a> Field<'a> for Answer {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Answer::Final(outcome) => {
                out.push(0);
                outcome.put(out);
            }
            Answer::Retry {
                reason,
                maybe_delivered,
            } => {
                let number = RetryReason::ALL
                    .iter()
                    .position(|&r| r == reason)
                    .expect("ALL lists every reason")
                    + 1;
                out.push(number as u8);
                maybe_delivered.put(out);
            }
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Outcome::take(reader).map(Answer::Final),
            number => {
                let reason = *RetryReason::ALL
                    .get(number as usize - 1)
                    .ok_or(DecodeError::Value("retry reason"))?;
                Ok(Answer::Retry {
                    reason,
                    maybe_delivered: bool::take(reader)?,
                })
            }
        }
    }
}

/// Which way a message took to the device that acknowledged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Way {
    /// It reached no device, or nobody knows how.
    Unknown,
    /// Sender and recipient were at the same node.
    Local,
    /// From the sender's node straight to the recipient's.
    Direct,
    /// Through an instance of the recipient's region, or more nodes.
    Region,
}

impl Way {
    /// One word for logs, metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Way::Unknown => "unknown",
            Way::Local => "local",
            Way::Direct => "direct",
            Way::Region => "region",
        }
    }
}

impl<'a> Field<'a> for Way {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Way::Unknown => 0,
            Way::Local => 1,
            Way::Direct => 2,
            Way::Region => 3,
        });
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Way::Unknown),
            1 => Ok(Way::Local),
            2 => Ok(Way::Direct),
            3 => Ok(Way::Region),
            _ => Err(DecodeError::Value("way")),
        }
    }
}

/// The most nodes that a message may pass before it is answered with "try again".
pub const HOPS_MAX: usize = 4;

/// The nodes that a message has passed, first the one that took it in. At most [`HOPS_MAX`], none twice, never [`NodeId::NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// As wide as the nodes, so that a trail which is copied just after it grew is read as it was written.
    length: u32,
    nodes: [NodeId; HOPS_MAX],
}

impl Trail {
    /// The nodes, in the order in which the message passed them.
    #[inline]
    pub fn nodes(&self) -> &[NodeId] {
        &self.nodes[..self.length as usize]
    }

    /// The node that took the message in.
    #[inline]
    pub fn origin(&self) -> Option<NodeId> {
        self.nodes().first().copied()
    }

    /// The node that sent it here.
    #[inline]
    pub fn last(&self) -> Option<NodeId> {
        self.nodes().last().copied()
    }

    /// This trail and `node` behind it; `None` if that would pass the hop limit or a node twice.
    #[inline]
    pub fn then(self, node: NodeId) -> Option<Trail> {
        let length = self.length as usize;
        if length == HOPS_MAX
            || node == NodeId::NONE
            || self.nodes().contains(&node) && !crate::planted!(BackWhereItCameFrom)
        {
            return None;
        }
        // All of them anew: one that is written in place would hold up whoever copies all just after.
        let nodes = std::array::from_fn(|place| if place == length { node } else { self.nodes[place] });
        Some(Trail {
            length: self.length + 1,
            nodes,
        })
    }

    /// This trail without its last node.
    #[inline]
    pub fn back(mut self) -> Trail {
        if let Some(last) = self.length.checked_sub(1) {
            self.length = last;
            self.nodes[last as usize] = NodeId::NONE;
        }
        self
    }
}

impl<'a> Field<'a> for Trail {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.length as u8);
        for node in self.nodes() {
            node.put(out);
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.u8()?;
        let mut trail = Trail::default();
        for _ in 0..length {
            trail = trail.then(NodeId::take(reader)?).ok_or(DecodeError::Value("trail"))?;
        }
        Ok(trail)
    }
}
