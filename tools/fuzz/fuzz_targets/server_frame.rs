//! What a connection server sends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::device::ServerFrame;

fuzz_target!(|data: &[u8]| trunkline_fuzz::frame::<ServerFrame>(data, |frame, out| frame.encode(out)));
