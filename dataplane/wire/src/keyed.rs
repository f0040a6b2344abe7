//! Tables keyed by device: the key is a keyed hash already, so that it is not hashed again.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::{Equivalent, HashMap};

use crate::id::{DeviceKey, PartnerKey};

/// A table keyed by device, in which a device is found by its [`PartnerKey`] too. Nobody without the cluster secret can aim at a
/// collision.
pub type KeyMap<V> = HashMap<DeviceKey, V, BuildHasherDefault<KeyHasher>>;

impl Equivalent<DeviceKey> for PartnerKey {
    fn equivalent(&self, key: &DeviceKey) -> bool {
        key.partner() == *self
    }
}

/// Passes on the 64 bits that [`DeviceKey`] and [`PartnerKey`] hash themselves to.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_found_by_the_part_of_its_key_that_partners_are_kept_by() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut table = KeyMap::default();
        let keys: Vec<DeviceKey> = (0..10_000).map(|_| DeviceKey(rng.u128(..))).collect();
        for (at, &key) in keys.iter().enumerate() {
            table.insert(key, at);
        }
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(table.get_key_value(&key.partner()), Some((key, &at)));
            assert_eq!(key.partner().slot(), key.slot());
            assert_eq!(key.partner().shard(7), key.shard(7));
        }
        assert_eq!(table.get(&DeviceKey(rng.u128(..)).partner()), None);
    }
}
