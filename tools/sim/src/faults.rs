//! What a scenario does to a cluster. Every fault is noted in the journal.

use std::net::IpAddr;
use std::time::Duration;

use trunkline_net::sim::{Death, Direction};

use crate::cluster::{CONTROL, Cluster};
use crate::journal::DeviceNo;
use crate::node::NodeNo;

/// A host, by what runs on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The control plane.
    Control,
    /// A node.
    Node(NodeNo),
    /// The host of a device, and of those that share it.
    Device(DeviceNo),
}

impl Cluster {
    /// Where a host is.
    pub fn address_of(&self, host: Host) -> IpAddr {
        match host {
            Host::Control => CONTROL,
            Host::Node(node) => self.node_address(node),
            Host::Device(device) => self.device_address(device),
        }
    }

    /// For people.
    pub fn host_name(&self, host: Host) -> String {
        match host {
            Host::Control => "control".to_owned(),
            Host::Node(node) => self.nodes[node.0].spec.name.clone(),
            Host::Device(device) => format!("the host of {device}"),
        }
    }

    /// Kills a node. It is gone until [`Cluster::revive_node`].
    pub fn kill_node(&mut self, node: NodeNo, death: Death) {
        let name = self.host_name(Host::Node(node));
        self.note(format!("{name} is killed ({death:?})"));
        self.site.world.kill(self.node_address(node), death);
        self.end_node(node);
        self.disturbed();
    }

    /// Starts a node that was killed.
    pub fn revive_node(&mut self, node: NodeNo) {
        let name = self.host_name(Host::Node(node));
        self.note(format!("{name} is started"));
        self.start_node(node);
        self.disturbed();
    }

    /// Kills the control plane. What it has committed stays on its disk.
    pub fn kill_control(&mut self, death: Death) {
        self.note(format!("control is killed ({death:?})"));
        self.site.world.kill(CONTROL, death);
        self.end_control();
    }

    /// Starts the control plane after it was killed.
    pub fn revive_control(&mut self) {
        self.note("control is started".to_owned());
        self.start_control();
    }

    /// Loses everything between two hosts that goes in a direction.
    pub fn cut(&mut self, a: Host, b: Host, direction: Direction) {
        let names = (self.host_name(a), self.host_name(b));
        self.note(format!(
            "between {} and {} all is lost ({direction:?})",
            names.0, names.1
        ));
        self.cut_silently(a, b, direction);
    }

    fn cut_silently(&mut self, a: Host, b: Host, direction: Direction) {
        let (a, b) = (self.address_of(a), self.address_of(b));
        if direction != Direction::Backward {
            self.cuts.insert((a, b));
        }
        if direction != Direction::Forward {
            self.cuts.insert((b, a));
        }
        self.site.world.cut(a, b, direction);
        self.disturbed();
    }

    /// Ends a cut.
    pub fn heal(&mut self, a: Host, b: Host) {
        let names = (self.host_name(a), self.host_name(b));
        self.note(format!("between {} and {} nothing is lost any more", names.0, names.1));
        self.heal_silently(a, b);
    }

    fn heal_silently(&mut self, a: Host, b: Host) {
        let (a, b) = (self.address_of(a), self.address_of(b));
        self.cuts.remove(&(a, b));
        self.cuts.remove(&(b, a));
        self.site.world.heal(a, b);
    }

    /// Cuts a node off from control and all other nodes, not from its devices.
    pub fn isolate(&mut self, node: NodeNo) {
        let name = self.host_name(Host::Node(node));
        self.note(format!("{name} is cut off from control and all other nodes"));
        for other in self.others(node) {
            self.cut_silently(Host::Node(node), other, Direction::Both);
        }
    }

    /// Ends [`Cluster::isolate`].
    pub fn join(&mut self, node: NodeNo) {
        let name = self.host_name(Host::Node(node));
        self.note(format!("{name} is no longer cut off"));
        for other in self.others(node) {
            self.heal_silently(Host::Node(node), other);
        }
    }

    fn others(&self, node: NodeNo) -> Vec<Host> {
        let nodes = (0..self.nodes.len()).map(NodeNo).filter(|other| *other != node);
        std::iter::once(Host::Control).chain(nodes.map(Host::Node)).collect()
    }

    /// Resets all connections of a host.
    pub fn reset(&mut self, host: Host) {
        let name = self.host_name(host);
        self.note(format!("all connections of {name} are reset"));
        self.site.world.reset_connections(self.address_of(host));
        if let Host::Node(_) = host {
            let now = self.now();
            self.watch.trouble(now);
        }
    }

    /// Stops a host's process for a while, as SIGSTOP does.
    pub fn pause(&mut self, host: Host, span: Duration) {
        let name = self.host_name(host);
        self.note(format!("{name} is paused for {span:?}"));
        let until = self.now() + span;
        self.site.world.pause(self.address_of(host), until);
        self.disturbed();
    }

    /// Sets a host's wall clock forward, or back.
    pub fn jump_clock(&mut self, host: Host, ms: i64) {
        let name = self.host_name(host);
        self.note(format!("the wall clock of {name} jumps by {ms} ms"));
        self.site.world.jump_wall(self.address_of(host), ms);
    }

    /// Ends every cut and every pause, and starts whatever was killed.
    pub fn heal_all(&mut self) {
        self.note("all faults end".to_owned());
        self.cuts.clear();
        self.site.world.heal_all();
        let hosts = (0..self.nodes.len()).map(|node| Host::Node(NodeNo(node)));
        let hosts: Vec<Host> = hosts
            .chain([Host::Control])
            .chain(self.devices().map(Host::Device))
            .collect();
        let now = self.now();
        for host in hosts {
            let address = self.address_of(host);
            if self.site.world.is_paused(address) {
                self.site.world.pause(address, now);
            }
        }
        if !self.control_runs() {
            self.revive_control();
        }
        for node in (0..self.nodes.len()).map(NodeNo) {
            if !self.node_runs(node) {
                self.revive_node(node);
            }
        }
    }

    /// Notes a step of a scenario.
    pub fn note(&mut self, text: String) {
        let now = self.now();
        self.ledger.note(now, text);
    }

    /// From now on the checks know of it; they'd see it themselves a little later.
    fn disturbed(&mut self) {
        let now = self.now();
        self.note_trouble(now);
    }
}
