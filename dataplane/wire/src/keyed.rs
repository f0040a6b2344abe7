//! Tables keyed by device: the key is a keyed hash already, so that it is not hashed again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::id::DeviceKey;

/// A table keyed by device. Nobody without the cluster secret can aim at a collision.
pub type KeyMap<V> = HashMap<DeviceKey, V, BuildHasherDefault<KeyHasher>>;

/// Passes on the 64 bits that [`DeviceKey`] hashes itself to.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn write(&mut self, _: &[u8]) {
        unreachable!("a device key hashes itself as one u64");
    }

    fn write_u64(&mut self, bits: u64) {
        self.0 = bits;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
