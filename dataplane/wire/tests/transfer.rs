//! A map's way to a node: whether it is taken, and how its parts become one.

mod common;

use common::{LINEAGE, small, small_map};
use trunkline_wire::codec::Tail;
use trunkline_wire::control::{MAP_PART_BYTES_MAX, MapBegin, MapPart};
use trunkline_wire::id::{DeviceKey, RegionId};
use trunkline_wire::map::{Assembler, MAP_BYTES_MAX, Map, MapError, MapId, Plan, Refusal, Transfer, accept, parts};

const NONE: MapId = MapId {
    lineage: 0,
    version: 0,
    digest: [0; 16],
};

/// A map that takes several parts.
fn large(version: u64) -> Map {
    let mut contents = small();
    let keys = (0..9000u128).map(|number| DeviceKey(number << 100 | number));
    contents.overrides = keys.map(|key| (key, RegionId(2))).collect();
    Map::build(LINEAGE, version, contents).unwrap()
}

fn announce(map: MapId, bytes: u32) -> MapBegin {
    let (begin, _) = parts(map, NONE, &[]);
    MapBegin { bytes, ..begin }
}

fn transfer(map: MapId, base: MapId, bytes: &[u8]) -> Transfer {
    let (begin, parts) = parts(map, base, bytes);
    let mut assembler = Assembler::begin(begin).unwrap();
    let mut whole = None;
    for part in parts {
        assert_eq!(whole, None, "only the last part completes it");
        whole = assembler.part(part).unwrap();
    }
    assert_eq!(assembler.missing(), 0);
    whole.unwrap()
}

#[test]
fn a_map_in_parts_is_whole_with_its_last() {
    let map = large(1);
    let bytes = map.encode();
    assert!(bytes.len() > 2 * MAP_PART_BYTES_MAX);
    let arrived = transfer(map.id(), NONE, &bytes);
    assert_eq!(arrived.bytes, bytes);
    assert_eq!(arrived.finish(&Map::empty(), Plan::Snapshot), Ok(map));
}

#[test]
fn a_delta_in_parts_makes_the_next_map() {
    let (one, two) = (small_map(1), large(2));
    let arrived = transfer(two.id(), one.id(), &Map::delta(&one, &two));
    assert_eq!(accept(&one, arrived.map, arrived.base), Ok(Plan::Delta));
    assert_eq!(arrived.finish(&one, Plan::Delta), Ok(two));
}

#[test]
fn a_blank_an_oversized_and_a_version_0_map_are_refused_when_announced() {
    let begin = |bytes, map| Assembler::begin(announce(map, bytes)).map(|_| ());
    let id = small_map(1).id();
    assert_eq!(begin(100, id), Ok(()));
    assert_eq!(begin(0, id), Err(MapError::Blank));
    assert_eq!(begin(100, NONE), Err(MapError::VersionZero));
    let bytes = MAP_BYTES_MAX + 1;
    let too_large = MapError::TooLarge {
        bytes,
        max: MAP_BYTES_MAX,
    };
    assert_eq!(begin(bytes as u32, id), Err(too_large));
}

#[test]
fn parts_are_neither_empty_nor_more_than_was_announced() {
    let begin = announce(small_map(1).id(), 100);
    let part = |assembler: &mut Assembler, bytes: &[u8]| assembler.part(MapPart { bytes: Tail(bytes) });
    let mut assembler = Assembler::begin(begin).unwrap();
    assert_eq!(part(&mut assembler, &[]), Err(MapError::Part { part: 0, max: 100 }));
    assert_eq!(part(&mut assembler, &[0; 60]), Ok(None));
    assert_eq!(assembler.missing(), 40);
    assert_eq!(
        part(&mut assembler, &[0; 41]),
        Err(MapError::Part { part: 41, max: 40 })
    );
    assert!(part(&mut assembler, &[0; 40]).unwrap().is_some());
    assert_eq!(part(&mut assembler, &[0]), Err(MapError::Part { part: 1, max: 0 }));
}

#[test]
fn a_part_is_at_most_64_kib() {
    let begin = announce(small_map(1).id(), 1 << 20);
    let long = vec![0; MAP_PART_BYTES_MAX + 1];
    let refused = Assembler::begin(begin).unwrap().part(MapPart { bytes: Tail(&long) });
    assert!(matches!(refused, Err(MapError::Part { .. })));
}

#[test]
fn only_a_newer_map_of_the_same_store_is_taken() {
    let current = small_map(5);
    let have = current.id();
    let offer = |version| MapId {
        version,
        digest: [9; 16],
        ..have
    };
    assert_eq!(accept(&current, offer(6), NONE), Ok(Plan::Snapshot));
    assert_eq!(accept(&current, offer(6), have), Ok(Plan::Delta));
    assert_eq!(accept(&current, offer(900), have), Ok(Plan::Delta));
    assert_eq!(
        accept(&current, offer(4), NONE),
        Err(Refusal::NotNewer { have: 5, offered: 4 })
    );
    assert_eq!(accept(&current, have, NONE), Err(Refusal::Held(5)));
    assert_eq!(accept(&current, offer(5), NONE), Err(Refusal::Fork(5)));
    assert_eq!(accept(&current, NONE, NONE), Err(Refusal::Blank));
    assert_eq!(
        accept(&current, offer(6), offer(4)),
        Err(Refusal::WrongBase { have: 5, base: 4 })
    );
    assert_eq!(
        accept(&current, offer(6), offer(5)),
        Err(Refusal::WrongBase { have: 5, base: 5 }),
        "one version with another digest is another base"
    );
}

#[test]
fn another_lineage_needs_consent() {
    let current = small_map(5);
    let foreign = Map::build(LINEAGE + 1, 900, small()).unwrap();
    let refusal = accept(&current, foreign.id(), NONE).unwrap_err();
    assert_eq!(refusal.name(), "other_lineage");
    assert!(refusal.to_string().contains("operator's consent"));
    // Consent is to begin anew.
    assert_eq!(accept(&Map::empty(), foreign.id(), NONE), Ok(Plan::Snapshot));
}

#[test]
fn the_empty_map_is_replaced_by_a_snapshot_of_any() {
    let map = small_map(1);
    assert_eq!(accept(&Map::empty(), map.id(), NONE), Ok(Plan::Snapshot));
    let refusal = accept(&Map::empty(), map.id(), small_map(2).id()).unwrap_err();
    assert_eq!(refusal, Refusal::WrongBase { have: 0, base: 2 });
    assert!(refusal.wants_snapshot());
    assert!(!accept(&map, NONE, NONE).unwrap_err().wants_snapshot());
}

#[cfg(feature = "next-version")]
#[test]
fn the_next_version_s_whole_hash_has_to_be_the_map_s() {
    let map = small_map(1);
    let bytes = map.encode();
    let arrived = |whole| Transfer {
        whole: Some(whole),
        ..transfer(map.id(), NONE, &bytes)
    };
    assert_eq!(
        arrived(map.whole()).finish(&Map::empty(), Plan::Snapshot).as_ref(),
        Ok(&map)
    );
    let other = small_map(2).whole();
    assert_eq!(
        arrived(other).finish(&Map::empty(), Plan::Snapshot),
        Err(MapError::Digest)
    );
}
