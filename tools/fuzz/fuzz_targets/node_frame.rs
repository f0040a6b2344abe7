//! What a node sends to the control plane.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::control::NodeFrame;

fuzz_target!(|data: &[u8]| trunkline_fuzz::frame::<NodeFrame>(data, |frame, out| frame.encode(out)));
