//! What the control plane sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::control::ControlFrame;

fuzz_target!(|data: &[u8]| trunkline_fuzz::frame::<ControlFrame>(data, |frame, out| frame.encode(out)));
