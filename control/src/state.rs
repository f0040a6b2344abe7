//! What the control plane must never forget, and the one way to change it.
//!
//! A [`State`] changes by [`Change`]s: each sets one thing or removes it, and applying it returns the change that undoes it. From
//! changes follow the records to commit ([`State::batch`]), the older maps that nodes still hold ([`crate::history`]), and whether a
//! new version of the map is due ([`Applied::visible`]).

mod encoding;
pub mod moves;
pub mod orders;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use trunkline_wire::id::{DeviceKey, Incarnation, NodeId, RegionId};
use trunkline_wire::map::{self, Contents, Roles, SLOTS};

pub use self::encoding::Key;
pub(crate) use self::encoding::{put_changes, take_changes};
pub use self::moves::Move;
use self::moves::Way;
pub use self::orders::Orders;
use crate::store::{Batch, Records, StoreError};

/// The region of each slot.
pub type Slots = Box<[RegionId; SLOTS]>;

/// Everything durable but the history of versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Drawn when the store was made: tells this cluster's maps from another's. 0: nothing was committed yet.
    pub lineage: u64,
    /// The map's version; 0 until the slots are first assigned.
    pub version: u64,
    /// The highest node id that was ever given, or brought along.
    pub node_highest: u32,
    /// `None` until the first regions are there.
    pub slots: Option<Slots>,
    /// All nodes that are known: members, and those that left and may return.
    pub nodes: BTreeMap<NodeId, Node>,
    /// The highest region id that was ever given.
    pub region_highest: u16,
    /// All regions.
    pub regions: BTreeMap<RegionId, Region>,
    /// All devices that were enrolled.
    pub devices: BTreeMap<DeviceKey, Device>,
    /// What operators have said of nodes.
    pub orders: BTreeMap<NodeId, Orders>,
    /// Moves that are under way, and the latest that are over, by their numbers.
    pub moves: BTreeMap<u32, Move>,
}

/// A node that joined once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Unique.
    pub name: String,
    /// The highest that it joined with.
    pub incarnation: Incarnation,
    /// What it does.
    pub roles: Roles,
    /// Where devices reach it.
    pub device_address: Option<SocketAddr>,
    /// Where nodes reach it.
    pub peer_address: Option<SocketAddr>,
    /// Where its metrics are.
    pub http_address: Option<SocketAddr>,
    /// The regions that it is an instance of.
    pub regions: BTreeSet<RegionId>,
    /// Whether it is in the map.
    pub member: bool,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Unique.
    pub name: String,
    /// Its share of the slots, against the others'.
    pub weight: u32,
}

/// A device that an operator enrolled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its id, as people write it.
    pub id: String,
    /// The region that the operator asked for.
    pub wanted: Option<RegionId>,
    /// When it was enrolled, in milliseconds since the Unix epoch.
    pub enrolled_ms: u64,
    /// Its region, and when that was assigned; `None` within the initial interval.
    pub assigned: Option<(RegionId, u64)>,
}

/// One thing set, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The region of each slot.
    Slots(Option<Slots>),
    /// A node.
    Node(NodeId, Option<Node>),
    /// A region.
    Region(RegionId, Option<Region>),
    /// A device.
    Device(DeviceKey, Option<Device>),
    /// A move.
    Move(u32, Option<Move>),
    /// What an operator has said of a node.
    Orders(NodeId, Option<Orders>),
}

/// What applying a [`Change`] did.
#[derive(Debug)]
pub struct Applied {
    /// The change that takes it back.
    pub undo: Change,
    /// The map says something else now.
    pub visible: bool,
}

impl State {
    /// Reads what was committed. Of an empty store, the empty state.
    ///
    /// # Errors
    /// If a record can't be read.
    pub fn from_records(records: &Records) -> Result<State, StoreError> {
        encoding::state_from(records)
    }

    /// All of it as records.
    pub fn records(&self) -> Records {
        let nodes = self.nodes.keys().map(|id| Key::Node(*id));
        let regions = self.regions.keys().map(|id| Key::Region(*id));
        let devices = self.devices.keys().map(|key| Key::Device(*key));
        let moves = self.moves.keys().map(|id| Key::Move(*id));
        let orders = self.orders.keys().map(|id| Key::Orders(*id));
        let keys: BTreeSet<Key> = [Key::Meta, Key::Slots]
            .into_iter()
            .chain(nodes)
            .chain(regions)
            .chain(devices)
            .chain(moves)
            .chain(orders)
            .collect();
        let batch = self.batch(&keys);
        batch
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect()
    }

    /// What has to be committed when `keys` have changed.
    pub fn batch(&self, keys: &BTreeSet<Key>) -> Batch {
        keys.iter()
            .map(|key| (key.bytes(), encoding::value_of(self, *key)))
            .collect()
    }

    /// Sets one thing.
    pub fn apply(&mut self, change: Change) -> Applied {
        match change {
            Change::Slots(slots) => {
                let visible = self.slots != slots;
                let undo = Change::Slots(std::mem::replace(&mut self.slots, slots));
                Applied { undo, visible }
            }
            Change::Node(id, node) => {
                let new = node.as_ref().and_then(in_map);
                let old = replace(&mut self.nodes, id, node);
                let visible = new != old.as_ref().and_then(in_map);
                let undo = Change::Node(id, old);
                Applied { undo, visible }
            }
            Change::Region(id, region) => {
                let new = region.as_ref().map(|region| region.name.clone());
                let old = replace(&mut self.regions, id, region);
                let visible = new != old.as_ref().map(|region| region.name.clone());
                let undo = Change::Region(id, old);
                Applied { undo, visible }
            }
            Change::Device(key, device) => {
                let region_of = |device: &Option<Device>| {
                    device
                        .as_ref()
                        .and_then(|device| device.assigned)
                        .map(|(region, _)| region)
                };
                let new = region_of(&device);
                let old = replace(&mut self.devices, key, device);
                let visible = new != region_of(&old);
                let undo = Change::Device(key, old);
                Applied { undo, visible }
            }
            Change::Move(id, moved) => {
                let old = self.moves.remove(&id);
                let visible = Move::differs(old.as_ref(), moved.as_ref());
                self.moves.extend(moved.map(|moved| (id, moved)));
                let undo = Change::Move(id, old);
                Applied { undo, visible }
            }
            Change::Orders(id, orders) => {
                let undo = Change::Orders(id, replace(&mut self.orders, id, orders));
                Applied { undo, visible: false }
            }
        }
    }

    /// What the map says. `None` until the slots are assigned.
    pub fn contents(&self) -> Option<Contents> {
        let slots = self.slots.clone()?;
        let nodes: BTreeMap<_, _> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((*id, in_map(node)?.0)))
            .collect();
        let mut instances: BTreeMap<RegionId, Vec<NodeId>> = BTreeMap::new();
        for (id, node) in self.members() {
            for region in &node.regions {
                instances.entry(*region).or_default().push(id);
            }
        }
        let regions = self.regions.iter().map(|(id, region)| {
            let region = map::Region {
                name: region.name.clone(),
                instances: instances.remove(id).unwrap_or_default(),
            };
            (*id, region)
        });
        let overrides = self
            .devices
            .iter()
            .filter_map(|(key, device)| Some((*key, device.assigned?.0)));
        let mut contents = Contents {
            slots,
            overrides: overrides.collect(),
            regions: regions.collect(),
            nodes,
            ..Contents::default()
        };
        self.moves.values().for_each(|moved| moved.show(&mut contents));
        Some(contents)
    }

    /// The nodes that are in the map.
    pub fn members(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes
            .iter()
            .filter(|(_, node)| node.member)
            .map(|(id, node)| (*id, node))
    }

    /// The members that are instances of `region`.
    pub fn instances(&self, region: RegionId) -> impl Iterator<Item = NodeId> {
        self.members()
            .filter(move |(_, node)| node.regions.contains(&region))
            .map(|(id, _)| id)
    }

    /// The members that are to be instances of `region`, and are told of its sessions by now, or soon.
    pub fn arriving(&self, region: RegionId) -> impl Iterator<Item = NodeId> {
        let open = self.moves.values().filter(|moved| !moved.stage.is_over());
        let turns = open.flat_map(|moved| &moved.turns);
        turns
            .filter(move |turn| turn.region == region && turn.way == Way::Comes)
            .map(|turn| turn.node)
    }

    /// The region of that name.
    pub fn region_named(&self, name: &str) -> Option<RegionId> {
        self.regions
            .iter()
            .find(|(_, region)| region.name == name)
            .map(|(id, _)| *id)
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().find(|(_, node)| node.name == name).map(|(id, _)| *id)
    }
}

/// What the map says of a node: itself, and the regions that name it.
fn in_map(node: &Node) -> Option<(map::Node, BTreeSet<RegionId>)> {
    if !node.member {
        return None;
    }
    let member = map::Node {
        name: node.name.clone(),
        incarnation: node.incarnation,
        roles: node.roles,
        device_address: node.device_address,
        peer_address: node.peer_address,
        http_address: node.http_address,
    };
    Some((member, node.regions.clone()))
}

fn replace<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> State {
        let roles = Roles {
            connection: true,
            messaging: false,
            region: true,
        };
        let node = Node {
            name: "n1".into(),
            incarnation: Incarnation(3),
            roles,
            device_address: Some("10.0.0.1:7400".parse().unwrap()),
            peer_address: Some("[::1]:7401".parse().unwrap()),
            http_address: None,
            regions: BTreeSet::from([RegionId(1)]),
            member: true,
        };
        let mut slots = Box::new([RegionId(1); SLOTS]);
        slots[17] = RegionId(2);
        let device = Device {
            id: "d".into(),
            wanted: None,
            enrolled_ms: 5,
            assigned: Some((RegionId(2), 6)),
        };
        let waiting = Device {
            id: "e".into(),
            wanted: Some(RegionId(1)),
            enrolled_ms: 7,
            assigned: None,
        };
        State {
            lineage: 77,
            version: 9,
            node_highest: 4,
            slots: Some(slots),
            nodes: BTreeMap::from([(NodeId(4), node)]),
            regions: BTreeMap::from([
                (
                    RegionId(1),
                    Region {
                        name: "eu".into(),
                        weight: 1,
                    },
                ),
                (
                    RegionId(2),
                    Region {
                        name: "us".into(),
                        weight: 3,
                    },
                ),
            ]),
            devices: BTreeMap::from([(DeviceKey(1 << 100), device), (DeviceKey(2), waiting)]),
            region_highest: 5,
            moves: BTreeMap::from([(3, moving())]),
            orders: BTreeMap::from([(
                NodeId(4),
                Orders {
                    drain: Some(20),
                    regions: BTreeMap::from([("us".into(), false)]),
                },
            )]),
        }
    }

    fn moving() -> Move {
        Move {
            stage: moves::Stage::Both,
            since: 9,
            slots: vec![moves::Run {
                first: 17,
                last: 17,
                from: RegionId(2),
                to: RegionId(1),
            }],
            devices: Vec::new(),
            turns: Vec::new(),
            retire: None,
            asked_ms: 8,
            stage_ms: 8,
        }
    }

    #[test]
    fn records_give_back_the_state() {
        assert_eq!(State::from_records(&sample().records()).unwrap(), sample());
        assert_eq!(State::from_records(&Records::new()).unwrap(), State::default());
    }

    #[test]
    fn a_record_that_cannot_be_read_is_an_error() {
        for key in sample().records().into_keys() {
            let mut records = sample().records();
            records.get_mut(&key).unwrap().push(0);
            assert!(State::from_records(&records).is_err(), "key {key:?}");
        }
    }

    #[test]
    fn every_change_can_be_undone() {
        let mut state = sample();
        let mut undo = Vec::new();
        let mut node = state.nodes[&NodeId(4)].clone();
        node.member = false;
        for change in [
            Change::Node(NodeId(4), Some(node)),
            Change::Node(NodeId(4), None),
            Change::Slots(None),
            Change::Region(
                RegionId(3),
                Some(Region {
                    name: "ap".into(),
                    weight: 1,
                }),
            ),
            Change::Device(DeviceKey(2), None),
            Change::Orders(NodeId(4), None),
            Change::Move(3, None),
            Change::Move(4, Some(moving())),
        ] {
            undo.push(state.apply(change).undo);
        }
        let mut encoded = Vec::new();
        put_changes(&undo, &mut encoded);
        let mut reader = trunkline_wire::codec::Reader::new(&encoded);
        assert_eq!(take_changes(&mut reader).unwrap(), undo);
        for change in undo.into_iter().rev() {
            state.apply(change);
        }
        assert_eq!(state, sample());
    }

    #[test]
    fn only_what_the_map_says_is_visible() {
        let mut state = sample();
        let heavier = Region {
            name: "eu".into(),
            weight: 2,
        };
        assert!(!state.apply(Change::Region(RegionId(1), Some(heavier))).visible);
        let mut device = state.devices[&DeviceKey(2)].clone();
        assert!(!state.apply(Change::Device(DeviceKey(2), Some(device.clone()))).visible);
        device.assigned = Some((RegionId(1), 8));
        assert!(state.apply(Change::Device(DeviceKey(2), Some(device))).visible);
    }

    #[test]
    fn the_contents_make_a_map() {
        let map = map::Map::build(1, 1, sample().contents().unwrap()).unwrap();
        assert_eq!(map.instances(RegionId(1)), [NodeId(4)]);
        assert_eq!(map.region_of(DeviceKey(1 << 100)), RegionId(2));
        assert_eq!(map.region_of(DeviceKey(17 << 112)), RegionId(2));
    }
}
