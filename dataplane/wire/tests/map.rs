//! Maps: found regions, one form of bytes, deltas, and every reason for which one is refused.

mod common;

use common::{LINEAGE, contents, map, small, small_map};
use proptest::prelude::*;
use trunkline_wire::codec::Field;
use trunkline_wire::id::{DeviceKey, NodeId, RegionId};
use trunkline_wire::map::{Contents, MAP_BYTES_MAX, Map, MapError, MapId};

fn key(slot: u16) -> DeviceKey {
    DeviceKey(u128::from(slot) << 112 | 0x1234_5678_9abc)
}

fn refused(change: impl FnOnce(&mut Contents)) -> String {
    let mut contents = small();
    change(&mut contents);
    Map::build(LINEAGE, 1, contents).unwrap_err().to_string()
}

#[test]
fn a_device_belongs_to_its_slots_region_unless_it_has_an_override() {
    let mut contents = small();
    contents.overrides.insert(key(5), RegionId(2));
    let map = Map::build(LINEAGE, 1, contents).unwrap();
    assert_eq!(map.region_of(key(4)), RegionId(1));
    assert_eq!(map.region_of(key(5)), RegionId(2));
    assert_eq!(map.region_of(key(40_000)), RegionId(2));
    assert_eq!(map.instances(RegionId(2)), [NodeId(3), NodeId(4)]);
    assert_eq!(map.instances(RegionId(9)), []);
    assert_eq!(map.overrides(), 1);
}

#[test]
fn a_device_that_moves_has_a_second_region() {
    let mut contents = small();
    contents.slots_also.insert(4, RegionId(2));
    contents.overrides.insert(key(5), RegionId(1));
    contents.overrides_also.insert(key(5), RegionId(2));
    contents.slots_also.insert(6, RegionId(2));
    contents.overrides.insert(key(6), RegionId(1));
    let map = Map::build(LINEAGE, 1, contents).unwrap();
    assert_eq!(map.region_also(key(3)), None);
    assert_eq!(map.region_also(key(4)), Some(RegionId(2)));
    assert_eq!(map.region_also(key(5)), Some(RegionId(2)));
    assert_eq!(
        map.region_also(key(6)),
        None,
        "an override stands for itself, whatever its slot does"
    );
}

#[test]
fn the_empty_map_has_version_0_and_nobody_else_makes_one() {
    let empty = Map::empty();
    assert_eq!(empty.id(), MapId::default());
    assert_eq!(empty.region_of(key(7)), RegionId(0));
    assert_eq!(empty.instances(RegionId(0)), []);
    assert_eq!(Map::build(1, 1, Contents::default()), Err(MapError::NoRegion));
    assert_eq!(Map::build(1, 0, small()), Err(MapError::VersionZero));
    let bytes = empty.encode();
    let id = MapId {
        version: 1,
        ..small_map(1).id()
    };
    assert_eq!(Map::decode(&bytes, id), Err(MapError::Digest));
    assert!(Map::apply(&small_map(1), &Map::delta(&small_map(1), &empty), empty.id()).is_err());
}

#[test]
fn every_broken_reference_is_named() {
    assert_eq!(refused(|c| c.slots[12] = RegionId(7)), "unknown region 7 in slot 12");
    assert_eq!(
        refused(|c| _ = c.overrides.insert(DeviceKey(0xab), RegionId(7))),
        "unknown region 7 in the override of device 000000000000000000000000000000ab"
    );
    assert_eq!(
        refused(|c| _ = c.slots_also.insert(3, RegionId(7))),
        "unknown region 7 in slot 3"
    );
    assert_eq!(
        refused(|c| _ = c.slots_also.insert(3, RegionId(1))),
        "slot 3 moves to the region that it is in"
    );
    assert!(refused(|c| _ = c.overrides_also.insert(DeviceKey(1), RegionId(1))).contains("without an override"));
    assert_eq!(
        refused(|c| _ = c.nodes.remove(&NodeId(3))),
        "unknown node 3 as an instance of region 2"
    );
    assert_eq!(
        refused(|c| c.regions.get_mut(&RegionId(1)).unwrap().instances.push(NodeId(6))),
        "node 6 is an instance of region 1 but has no region role"
    );
    assert!(refused(|c| c.regions.get_mut(&RegionId(1)).unwrap().instances.reverse()).contains("ascending"));
}

#[test]
fn a_standby_is_named_once_and_could_be_an_instance() {
    let standby = |region: u16, nodes: &[u32]| {
        let nodes = nodes.iter().map(|node| NodeId(*node)).collect();
        refused(move |c| _ = c.standbys.insert(RegionId(region), nodes))
    };
    assert_eq!(standby(7, &[3]), "unknown region 7 has standbys");
    assert!(standby(1, &[1]).contains("is its instance as well"));
    assert!(standby(1, &[]).contains("has none"));
    assert!(standby(1, &[4, 3]).contains("ascending"));
    assert!(standby(1, &[6]).contains("no region role"));
    let mut contents = small();
    contents.standbys.insert(RegionId(1), vec![NodeId(3)]);
    let map = Map::build(LINEAGE, 1, contents).unwrap();
    assert_eq!(map.instances(RegionId(1)), [NodeId(1), NodeId(2)]);
    assert_eq!(map.holders(RegionId(1)).collect::<Vec<_>>(), [1, 2, 3].map(NodeId));
    assert!(map.holds(RegionId(1), NodeId(3)) && !map.holds(RegionId(1), NodeId(4)));
}

#[test]
fn nodes_need_names_roles_and_addresses_that_can_be_dialled() {
    fn with(change: impl FnOnce(&mut trunkline_wire::map::Node)) -> String {
        refused(|c| change(c.nodes.get_mut(&NodeId(5)).unwrap()))
    }
    assert_eq!(
        with(|n| n.peer_address = None),
        "node 5 has no peer address, which its roles need"
    );
    assert_eq!(
        with(|n| n.device_address = None),
        "node 5 has no device address, which its roles need"
    );
    assert!(with(|n| n.peer_address = Some("0.0.0.0:7401".parse().unwrap())).contains("nobody can dial"));
    assert!(with(|n| n.http_address = Some("10.0.0.1:0".parse().unwrap())).contains("nobody can dial"));
    assert!(with(|n| n.peer_address = Some("[fe80::1%3]:7401".parse().unwrap())).contains("nobody can dial"));
    assert_eq!(with(|n| n.roles.connection = false), "node 5 has no role");
    assert_eq!(
        with(|n| n.name = "node-2".into()),
        "the name of node 5 is taken by another"
    );
    assert!(with(|n| n.name.clear()).contains("the name of node 5 is empty"));
    assert!(with(|n| n.name = "x".repeat(65)).contains("longer than 64 bytes"));
    assert!(with(|n| n.name = "a\nb".into()).contains("control characters"));
    assert_eq!(
        refused(|c| _ = c.nodes.insert(NodeId::NONE, common::node(0, common::REGION))),
        "node 0 is nobody, and can't be a member"
    );
}

#[test]
fn bytes_that_are_not_the_announced_map_are_refused_with_their_reason() {
    let map = small_map(3);
    let (bytes, id) = (map.encode(), map.id());
    let why = |bytes: &[u8], id| Map::decode(bytes, id).unwrap_err();
    assert_eq!(why(&[], id), MapError::Blank);
    assert_eq!(why(&bytes[..bytes.len() - 1], id), MapError::Truncated);
    assert_eq!(why(b"GET / HTTP/1.1", id), MapError::NotAMap);
    assert_eq!(why(&[&bytes[..], &[0]].concat(), id), MapError::Digest);
    let mut corrupt = bytes.clone();
    corrupt[40] ^= 1;
    assert_eq!(why(&corrupt, id), MapError::Digest);
    let older = small_map(2);
    assert_eq!(why(&older.encode(), id), MapError::Digest);
    let forged = MapId { version: 9, ..id };
    assert_eq!(
        why(&bytes, forged),
        MapError::OtherId {
            found: 3,
            lineage: LINEAGE
        }
    );
    let oversized = vec![0; MAP_BYTES_MAX + 1];
    assert!(matches!(why(&oversized, id), MapError::TooLarge { .. }));
}

#[test]
fn a_delta_fits_only_the_map_that_it_was_made_from() {
    let (one, two, three) = (small_map(1), small_map(2), small_map(3));
    let delta = Map::delta(&one, &two);
    assert_eq!(Map::apply(&one, &delta, two.id()), Ok(two.clone()));
    let why = |base: &Map, delta: &[u8], id| Map::apply(base, delta, id).unwrap_err();
    assert_eq!(why(&three, &delta, two.id()), MapError::WrongBase { delta: 1, have: 3 });
    assert!(matches!(
        why(&one, &delta, three.id()),
        MapError::OtherId { found: 2, .. }
    ));
    assert_eq!(
        why(&two, &Map::delta(&two, &one), one.id()),
        MapError::NotNewer { base: 2, next: 1 }
    );
    let foreign = Map::build(LINEAGE + 1, 2, small()).unwrap();
    assert_eq!(
        why(&one, &Map::delta(&one, &foreign), foreign.id()),
        MapError::OtherLineage
    );
    assert_eq!(why(&one, &delta[..delta.len() - 1], two.id()), MapError::Truncated);
    assert_eq!(why(&one, &[&delta[..], &[7]].concat(), two.id()), MapError::Trailing(1));
    assert_eq!(why(&one, &[], two.id()), MapError::Blank);
    assert_eq!(why(&one, &two.encode(), two.id()), MapError::NotAMap);
}

#[test]
fn a_delta_that_says_more_than_it_changes_is_refused() {
    let (one, two) = (small_map(1), small_map(2));
    let mut delta = Map::delta(&one, &two);
    // The first table, regions: none gone, none set. Let it remove region 9, which never was.
    let at = 4 + 32 + 32;
    assert_eq!(delta[at..at + 4], [0; 4]);
    delta[at] = 1;
    delta.splice(at + 4..at + 4, [9, 0]);
    assert!(matches!(Map::apply(&one, &delta, two.id()), Err(MapError::Form(_))));
}

#[test]
fn a_thousand_overrides_take_less_than_20_kib() {
    let base = small_map(1);
    let mut contents = base.contents();
    for number in 0..1000u128 {
        contents.overrides.insert(
            DeviceKey(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)),
            RegionId(2),
        );
    }
    let next = Map::build(LINEAGE, 2, contents).unwrap();
    let delta = Map::delta(&base, &next);
    assert!(delta.len() <= 20 * 1024, "{} bytes", delta.len());
    assert_eq!(Map::apply(&base, &delta, next.id()), Ok(next));
}

#[test]
fn a_file_holds_a_map_with_its_id() {
    let map = small_map(4);
    let file = map.seal();
    assert_eq!(Map::unseal(&file), Ok(map));
    assert_eq!(Map::unseal(&[]), Err(MapError::Blank));
    for cut in 1..file.len() {
        assert!(Map::unseal(&file[..cut]).is_err());
    }
    let mut damaged = file.clone();
    damaged[60] ^= 0x80;
    assert_eq!(Map::unseal(&damaged), Err(MapError::Digest));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_map_comes_back_from_its_bytes(map in map(1)) {
        let bytes = map.encode();
        prop_assert!(bytes.len() <= MAP_BYTES_MAX);
        let back = Map::decode(&bytes, map.id()).unwrap();
        prop_assert_eq!(back.encode(), bytes);
        prop_assert_eq!(Map::build(LINEAGE, 1, map.contents()).unwrap(), back);
    }

    #[test]
    fn a_delta_leads_from_any_map_to_any_later_one(base in map(1), next in map(2)) {
        let delta = Map::delta(&base, &next);
        prop_assert_eq!(Map::apply(&base, &delta, next.id()).unwrap(), next);
    }

    #[test]
    fn the_id_tells_any_two_contents_apart(a in contents(), b in contents()) {
        let (one, two) = (Map::build(1, 1, a.clone()).unwrap(), Map::build(1, 1, b.clone()).unwrap());
        prop_assert_eq!(one.id() == two.id(), a == b);
    }

    #[test]
    fn damaged_bytes_with_a_digest_that_fits_are_refused_or_canonical(
        map in map(1),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = map.encode();
        for (index, value) in damage {
            *index.get_mut(&mut bytes) = value;
        }
        if let Ok(read) = Map::decode(&bytes, id_of(&bytes)) {
            prop_assert_eq!(read.encode(), bytes);
        }
    }

    #[test]
    fn a_damaged_delta_is_refused_or_the_same(
        base in map(1),
        next in map(2),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let delta = Map::delta(&base, &next);
        let mut bytes = delta.clone();
        for (index, value) in damage {
            *index.get_mut(&mut bytes) = value;
        }
        if Map::apply(&base, &bytes, next.id()).is_ok() {
            prop_assert_eq!(bytes, delta);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), base in map(1)) {
        prop_assert!(Map::decode(&bytes, id_of(&bytes)).is_err());
        prop_assert!(Map::apply(&base, &bytes, base.id()).is_err());
        prop_assert!(Map::unseal(&bytes).is_err());
    }
}

/// The id that a forger would announce with these bytes.
fn id_of(bytes: &[u8]) -> MapId {
    use sha2::Digest;
    let mut header = bytes.get(4..20).unwrap_or(&[0; 16]).to_vec();
    header.extend_from_slice(&sha2::Sha256::digest(bytes)[..16]);
    MapId::take(&mut trunkline_wire::codec::Reader::new(&header)).unwrap()
}
