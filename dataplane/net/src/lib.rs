//! Sockets, buffers and framing: everything in Trunkline that touches the operating system on a message's way.

pub mod driver;
