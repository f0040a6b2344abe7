//! What a scenario does to a cluster. Every fault is noted in the journal.

use std::net::IpAddr;
use std::time::Duration;

use trunkline_net::sim::{Death, Descriptors, Direction, Latency};

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

    /// Starts a node anew: at once if it is gone, else after a drain that is cut short. One that serves is left alone.
    pub fn restart_node(&mut self, node: NodeNo) {
        if self.nodes[node.0].draining && self.node_runs(node) {
            self.kill_node(node, Death::Visible);
        }
        if !self.node_runs(node) {
            self.revive_node(node);
        }
    }

    /// Tells a node to go, as SIGTERM does: it sends its devices away, closes its links, leaves, and is gone.
    pub fn drain_node(&mut self, node: NodeNo, retry_after_ms: u32) {
        let name = self.host_name(Host::Node(node));
        self.note(format!(
            "{name} is told to go, its devices to come back after {retry_after_ms} ms"
        ));
        let now = self.now();
        self.nodes[node.0].drain(now, retry_after_ms);
        self.reschedule_node(node);
        self.disturbed();
    }

    /// Whether a node was told to go and is still there.
    pub fn is_draining(&self, node: NodeNo) -> bool {
        self.nodes[node.0].draining
    }

    /// From now on, whether a node's writes to its disk fail.
    pub fn set_disk_full(&mut self, node: NodeNo, full: bool) {
        let name = self.host_name(Host::Node(node));
        let how = if full { "full" } else { "no longer full" };
        self.note(format!("the disk of {name} is {how}"));
        self.nodes[node.0].disk.set_full(full);
    }

    /// The control plane's next commit fails; `reaches_disk`: it is there after a restart all the same.
    pub fn fail_store(&mut self, reaches_disk: bool) {
        self.note(format!(
            "the next commit of control fails; on disk nevertheless: {reaches_disk}"
        ));
        self.store.fail_commit(0, reaches_disk);
        self.watch.steward.disturbed();
    }

    /// Kills the control plane. What it has committed stays on its disk.
    pub fn kill_control(&mut self, death: Death) {
        self.note(format!("control is killed ({death:?})"));
        self.site.world.kill(CONTROL, death);
        self.end_control();
        self.watch.steward.disturbed();
    }

    /// Kills the control plane, and lets one take its place that offers bad maps.
    pub fn replace_control(&mut self) {
        self.kill_control(Death::Visible);
        if self.start_impostor() {
            self.note("somebody who offers bad maps takes control's place".to_owned());
        }
    }

    /// Starts the control plane after it was killed; who has taken its place is killed.
    pub fn revive_control(&mut self) {
        if self.has_impostor() {
            self.kill_control(Death::Visible);
        }
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
        let was_cut = self.cuts.remove(&(a, b)) | self.cuts.remove(&(b, a));
        if was_cut && (a == CONTROL || b == CONTROL) {
            let now = self.now();
            self.watch.steward.healed(if a == CONTROL { b } else { a }, now);
        }
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

    /// Loses everything between the hosts of each pair.
    pub fn split(&mut self, pairs: &[(Host, Host)]) {
        let names: std::collections::BTreeSet<String> = pairs.iter().map(|(a, _)| self.host_name(*a)).collect();
        let names: Vec<String> = names.into_iter().collect();
        self.note(format!("{} are cut off from all others", names.join(", ")));
        for &(a, b) in pairs {
            self.cut_silently(a, b, Direction::Both);
        }
    }

    /// Ends [`Cluster::split`].
    pub fn reunite(&mut self, pairs: &[(Host, Host)]) {
        self.note("the parts can reach each other again".to_owned());
        for &(a, b) in pairs {
            self.heal_silently(a, b);
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
        if let Host::Node(node) = host {
            let now = self.now();
            self.watch.pairs.trouble(node, now);
            self.watch.trouble(now);
            self.watch.steward.disturbed();
        }
    }

    /// Resets all connections of all devices, at once.
    pub fn reset_devices(&mut self) {
        self.note("all devices lose their connections".to_owned());
        for phone in 0..self.phones.len() {
            self.site.world.reset_connections(self.phones[phone].address);
        }
    }

    /// Sets how long what goes between a host and all nodes takes.
    pub fn set_pace(&mut self, host: Host, latency: Latency) {
        let name = self.host_name(host);
        let Latency { base, jitter } = latency;
        self.note(format!(
            "what goes between {name} and the nodes takes {base:?}, and up to {jitter:?} more"
        ));
        let own = self.address_of(host);
        for node in 0..self.nodes.len() {
            let other = self.nodes[node].address;
            if other != own {
                self.site.world.set_latency(own, other, latency);
                self.site.world.set_latency(other, own, latency);
            }
        }
    }

    /// Whether processes of a host get further descriptors.
    pub fn set_descriptors(&mut self, host: Host, descriptors: Descriptors) {
        let name = self.host_name(host);
        self.note(format!("descriptors of {name}: {descriptors:?}"));
        self.site.world.set_descriptors(self.address_of(host), descriptors);
        if let Host::Node(node) = host {
            match descriptors {
                Descriptors::Exhausted => self.starved.insert(node),
                Descriptors::Plenty => self.starved.remove(&node),
            };
        }
        self.disturbed();
    }

    /// Makes a host's wall clock go fast, or slow.
    pub fn drift_clock(&mut self, host: Host, ppm: i64) {
        let name = self.host_name(host);
        self.note(format!("the wall clock of {name} goes wrong by {ppm} millionths"));
        self.site.world.drift_wall(self.address_of(host), ppm);
    }

    /// Somebody whom nobody knows connects.
    pub fn let_stranger_come(&mut self, address: std::net::SocketAddr) {
        self.note(format!("a stranger comes to {address}"));
        self.strange(address);
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
        self.starved.clear();
        self.site.world.heal_all();
        for node in &self.nodes {
            node.disk.set_full(false);
        }
        let hosts = (0..self.nodes.len()).map(|node| Host::Node(NodeNo(node)));
        let hosts: Vec<Host> = hosts
            .chain([Host::Control])
            .chain(self.devices().map(Host::Device))
            .collect();
        let now = self.now();
        let latency = self.spec.network.latency;
        for host in hosts {
            let address = self.address_of(host);
            self.site.world.set_descriptors(address, Descriptors::Plenty);
            self.site.world.drift_wall(address, 0);
            for node in self.nodes.iter().filter(|node| node.address != address) {
                self.site.world.set_latency(address, node.address, latency);
                self.site.world.set_latency(node.address, address, latency);
            }
            if self.site.world.is_paused(address) {
                self.site.world.pause(address, now);
            }
        }
        if !self.control_runs() && !self.headless {
            self.revive_control();
        }
        for node in (0..self.nodes.len()).map(NodeNo) {
            self.restart_node(node);
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
