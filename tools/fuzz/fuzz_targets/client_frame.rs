//! What a device sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::device::ClientFrame;

fuzz_target!(|data: &[u8]| trunkline_fuzz::frame::<ClientFrame>(data, |frame, out| frame.encode(out)));
