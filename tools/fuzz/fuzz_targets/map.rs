//! The map's encoding, announced with the id that fits the bytes: the digest stops chance, not a forger.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use trunkline_wire::map::{Map, MapId};

fuzz_target!(|data: &[u8]| {
    let number = |at: usize| {
        data.get(at..at + 8)
            .map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("eight")))
    };
    let hash = Sha256::digest(data);
    let id = MapId {
        lineage: number(4),
        version: number(12),
        digest: hash[..16].try_into().expect("sixteen"),
    };
    match Map::decode(data, id) {
        Ok(map) => {
            assert_eq!(map.encode(), data);
            assert_eq!(Map::build(id.lineage, id.version, map.contents()), Ok(map));
        }
        Err(error) => assert_eq!(error.to_string().lines().count(), 1),
    }
    assert!(Map::unseal(data).is_err() || data.len() > 32);
});
