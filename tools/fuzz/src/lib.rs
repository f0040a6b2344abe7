//! What the fuzz targets share.
#![forbid(unsafe_code)]

use trunkline_wire::frame::{Decode, HEADER_BYTES, is_ignorable};
use trunkline_wire::preface::VERSION_MAX;

/// A frame's type, and its body: decodes to a frame that encodes to just these bytes, is skipped, or is refused.
pub fn frame<'a, F: Decode<'a>>(data: &'a [u8], encode: impl Fn(&F, &mut Vec<u8>)) {
    let Some((&ty, body)) = data.split_first() else { return };
    match F::decode(VERSION_MAX, ty, body) {
        Ok(Some(frame)) => {
            let mut bytes = Vec::new();
            encode(&frame, &mut bytes);
            assert_eq!(bytes[HEADER_BYTES - 1], ty);
            assert_eq!(bytes[HEADER_BYTES..], *body);
        }
        Ok(None) => assert!(is_ignorable(ty)),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
}
