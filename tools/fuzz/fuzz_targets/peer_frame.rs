//! What nodes send to each other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::peer::PeerFrame;

fuzz_target!(|data: &[u8]| trunkline_fuzz::frame::<PeerFrame>(data, |frame, out| frame.encode(out)));
