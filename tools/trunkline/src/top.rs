//! What `trunkline top` shows: figures of nodes and of their cores, from what their `/metrics` say at two times.
//!
//! [`sample`] reads the text, [`figures`] makes rates and ratios of two samples, [`view`] makes lines of those. All three are pure; whoever
//! asks the nodes and owns the terminal is the command.

pub mod figures;
pub mod sample;
pub mod view;
