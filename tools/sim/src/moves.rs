//! Moves in a simulated cluster, of devices and of instances: what an operator asks of the control plane, at its own process.

use trunkline_control::state::moves::Stage;

use crate::cluster::{Cluster, region_name};
use crate::faults::Host;
use crate::journal::DeviceNo;
use crate::ledger::id_of;
use crate::node::NodeNo;

impl Cluster {
    /// Moves slots to a region, by its place. False without control, or if it refuses.
    pub fn move_slots(&mut self, first: u16, last: u16, to: usize) -> bool {
        self.begin_move(&format!(r#"{{"slots":{{"first":{first},"last":{last}}}}}"#), to)
    }

    /// Brings a device to a region, by its place: moves it if it is enrolled, otherwise enrols it there. False without control, or if it
    /// refuses.
    pub fn move_device(&mut self, device: DeviceNo, to: usize) -> bool {
        let id = id_of(device);
        let key = self.devices[device.0 as usize].key;
        let is_enrolled = |cluster: &Cluster| {
            cluster
                .control_logic()
                .is_some_and(|logic| logic.state().devices.contains_key(&key))
        };
        if is_enrolled(self) {
            return self.begin_move(&format!(r#"{{"device":"{id}"}}"#), to);
        }
        let region = region_name(to);
        self.ask_control(&format!(r#"{{"op":"enroll","device":"{id}","region":"{region}"}}"#));
        let enrolled = is_enrolled(self);
        let how = if enrolled { "is enrolled" } else { "can't be enrolled" };
        self.note(format!("{id} {how} in {region}"));
        enrolled
    }

    /// Takes a node out of a region's instances, by the region's place. False without control, or if it refuses.
    pub fn remove_instance(&mut self, node: NodeNo, region: usize) -> bool {
        // However many there are, and went lately.
        self.begin_turn("remove-instance", r#","force":true"#, node, region)
    }

    /// Makes a node an instance of a region, by its place. False without control, or if it refuses.
    pub fn add_instance(&mut self, node: NodeNo, region: usize) -> bool {
        self.begin_turn("add-instance", "", node, region)
    }

    fn begin_turn(&mut self, op: &str, more: &str, node: NodeNo, region: usize) -> bool {
        let (name, region) = (self.host_name(Host::Node(node)), region_name(region));
        let before = self.moves_begun();
        self.ask_control(&format!(r#"{{"op":"{op}","node":"{name}","region":"{region}"{more}}}"#));
        let begun = self.moves_begun() > before;
        let how = if begun { "begun" } else { "refused" };
        self.note(format!("{op} of {name}, {region}: {how}"));
        begun
    }

    fn begin_move(&mut self, what: &str, to: usize) -> bool {
        let region = region_name(to);
        let before = self.moves_begun();
        self.ask_control(&format!(r#"{{"op":"move","what":{what},"to":"{region}"}}"#));
        let begun = self.moves_begun() > before;
        let how = if begun { "move" } else { "can't move" };
        self.note(format!("{what} {how} to {region}"));
        begun
    }

    /// Gives up the latest move. Nothing happens if it has switched.
    pub fn abort_move(&mut self) {
        let id = self.moves_begun();
        self.note(format!("move {id} is given up"));
        self.ask_control(&format!(r#"{{"op":"abort-move","id":{id}}}"#));
    }

    /// The stage of the latest move, as far as it's published; `None` without control, or before the first.
    pub fn move_stage(&self) -> Option<Stage> {
        let moves = &self.control_logic()?.state().moves;
        let (_, latest) = moves.last_key_value()?;
        (latest.since <= self.control_version()).then_some(latest.stage)
    }

    /// How many moves are not over; 0 without control.
    pub fn moves_open(&self) -> usize {
        self.control_logic().map_or(0, |logic| logic.open_moves())
    }

    fn moves_begun(&self) -> u32 {
        let last = self
            .control_logic()
            .and_then(|logic| logic.state().moves.last_key_value());
        last.map_or(0, |(id, _)| *id)
    }
}
