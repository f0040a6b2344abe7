//! Deltas: what was changed comes out of them, and a damaged one is refused.
//!
//! A delta names the digest of its result, so that no random bytes would pass. Instead the input is a list of changes, and of damages.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use trunkline_wire::id::{DeviceKey, Incarnation, NodeId, RegionId};
use trunkline_wire::map::{Contents, Map, Node, Region, Roles};

#[derive(Arbitrary, Debug)]
enum Change {
    Slots {
        first: u16,
        last: u16,
        region: u8,
    },
    SlotAlso {
        slot: u16,
        region: Option<u8>,
    },
    Override {
        device: u128,
        region: Option<u8>,
    },
    OverrideAlso {
        device: u128,
        region: Option<u8>,
    },
    Region {
        region: u8,
        name: Option<String>,
        instances: Vec<u8>,
    },
    Standbys {
        region: u8,
        nodes: Option<Vec<u8>>,
    },
    Node {
        node: u8,
        name: Option<String>,
        roles: u8,
        port: u16,
    },
}

#[derive(Arbitrary, Debug)]
struct Input {
    base: Vec<Change>,
    next: Vec<Change>,
    damage: Vec<(u16, u8)>,
    cut: u8,
}

fuzz_target!(|input: Input| {
    let mut contents = start();
    input.base.into_iter().for_each(|change| apply(&mut contents, change));
    let Ok(base) = Map::build(1, 1, contents.clone()) else {
        return;
    };
    input.next.into_iter().for_each(|change| apply(&mut contents, change));
    let Ok(next) = Map::build(1, 2, contents) else { return };

    let delta = Map::delta(&base, &next);
    assert_eq!(Map::apply(&base, &delta, next.id()).as_ref(), Ok(&next));

    let mut damaged = delta.clone();
    damaged.truncate(delta.len() - usize::from(input.cut).min(delta.len()));
    for (at, value) in input.damage {
        if let Some(byte) = damaged.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
    if Map::apply(&base, &damaged, next.id()).is_ok() {
        assert_eq!(damaged, delta);
    }
});

fn start() -> Contents {
    let mut contents = Contents::default();
    let region = Region {
        name: "first".into(),
        instances: Vec::new(),
    };
    contents.regions.insert(RegionId(0), region);
    contents
}

fn apply(contents: &mut Contents, change: Change) {
    fn set<K: Ord, V>(map: &mut std::collections::BTreeMap<K, V>, key: K, value: Option<V>) {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }
    let id = |region: u8| RegionId(region.into());
    match change {
        Change::Slots { first, last, region } if first <= last => {
            contents.slots[usize::from(first)..=usize::from(last)].fill(id(region));
        }
        Change::Slots { .. } => {}
        Change::SlotAlso { slot, region } => set(&mut contents.slots_also, slot, region.map(id)),
        Change::Override { device, region } => set(&mut contents.overrides, DeviceKey(device), region.map(id)),
        Change::OverrideAlso { device, region } => set(&mut contents.overrides_also, DeviceKey(device), region.map(id)),
        Change::Region {
            region,
            name,
            instances,
        } => {
            let instances = instances.into_iter().map(|node| NodeId(node.into())).collect();
            set(
                &mut contents.regions,
                id(region),
                name.map(|name| Region { name, instances }),
            );
        }
        Change::Standbys { region, nodes } => {
            let ids = nodes.map(|nodes| nodes.into_iter().map(|node| NodeId(node.into())).collect());
            set(&mut contents.standbys, id(region), ids);
        }
        Change::Node {
            node,
            name,
            roles,
            port,
        } => {
            let address = Some(([127, 0, 0, 1], port).into());
            let roles = Roles {
                connection: roles & 1 != 0,
                messaging: roles & 2 != 0,
                region: roles & 4 != 0,
            };
            let node_of = |name| Node {
                name,
                incarnation: Incarnation(port.into()),
                roles,
                device_address: address,
                peer_address: address,
                http_address: None,
            };
            set(&mut contents.nodes, NodeId(node.into()), name.map(node_of));
        }
    }
}
