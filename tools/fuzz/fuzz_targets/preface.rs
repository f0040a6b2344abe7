//! How a connection starts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trunkline_wire::preface::{PREFACE_BYTES, Preface, VERSION_MAX, VERSION_MIN, Versions, check_prefix};

fuzz_target!(|bytes: [u8; PREFACE_BYTES]| {
    if let Ok(preface) = Preface::decode(bytes) {
        assert_eq!(preface.encode(), bytes);
        assert!((0..=PREFACE_BYTES).all(|end| check_prefix(&bytes[..end]).is_ok()));
        if let Ok(version) = Versions::BUILD.common(preface.versions) {
            assert!((VERSION_MIN..=VERSION_MAX).contains(&version) && preface.versions.contains(version));
        }
    }
});
