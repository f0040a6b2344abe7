//! The next version of the protocol, by which it is tested that two versions work together. No release has it.
//!
//! It differs from the one before in one thing of each sort, so that each sort of mistake has something to show in: a new frame
//! ([`crate::peer::Build`]), a new field of a frame that a node sends ([`crate::control::Join::build`]), and one of a frame that control
//! sends to each subscriber in the form that it speaks ([`crate::control::MapBegin::whole`]).

use crate::preface::{VERSION_MAX, VERSION_MIN};

/// Its number.
pub const VERSION: u8 = VERSION_MAX;

const _: () = assert!(VERSION > VERSION_MIN);
