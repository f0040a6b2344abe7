//! What a cluster for so many devices takes, worked out from what one core, one connection and one record were measured to take.
//!
//! `tools/sim/SCALE.md` is [`page`], written by `cargo run -p trunkline-sim --bin scale`; a test says when it is no longer. What doesn't
//! follow from a measurement but from the design (how many are told of a connect, what an instance holds) is checked against the deployed
//! routers at the sizes that the simulator reaches: `tests/scale.rs`.
//!
//! It deliberately knows nothing of storms, failures or the network: for these a cluster needs room beyond these figures.

use std::fmt::Write as _;

use trunkline_core::link::DIRECT_LINKS_MAX;
use trunkline_wire::frame::{Encode, HEADER_BYTES};
use trunkline_wire::id::{DeviceKey, Epoch, RegionId};
use trunkline_wire::map::NODES_MAX;
use trunkline_wire::peer::{Register, Registered, Unregister};

/// What was measured, on one of two cores of a virtual machine (AMD EPYC, Linux 6.18), and how.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// A server's processor time for a message that comes alone: a receive, a decision and a send. `compare --workload w2`, 20,000 a second.
    pub hop_us: f64,
    /// For a connect with its hello, its registration with one instance and its close. `compare --workload w4`.
    pub connect_us: f64,
    /// A server's own memory for an idle connection. `compare --workload w3`, 18,000 connections, less the empty server.
    pub connection_bytes: f64,
    /// The kernel's for its end of one, idle.
    pub kernel_bytes: f64,
    /// An instance's for a device. `cargo bench -p trunkline-benches -- presence/find_ten_million` asserts that it is at most 64.
    pub record_bytes: f64,
}

/// See there.
pub const MEASURED: Measured = Measured {
    hop_us: 14.2,
    connect_us: 36.1,
    connection_bytes: 1_620.0,
    kernel_bytes: 5_120.0,
    record_bytes: 62.1,
};

/// What devices do, and what hosts are: assumptions, to be replaced by one's own.
#[derive(Clone, Copy, Debug)]
pub struct Assumed {
    /// Messages that a connected device sends in a day.
    pub messages_a_day: f64,
    /// How often it connects.
    pub connects_a_day: f64,
    /// The busiest minutes, in averages of the day.
    pub peak: f64,
    /// Seconds between two pings of an idle device.
    pub ping_seconds: f64,
    /// Of a thousand messages, how many find a link: the predictor's hits on the student network with eight links a node.
    pub direct_per_mille: f64,
    /// How busy a core may be at the peak.
    pub busy: f64,
    /// Of a host.
    pub cores: f64,
    /// Of a host, of which half is used.
    pub memory_bytes: f64,
    /// Devices at one connection server at most: who loses a host lets so many connect elsewhere.
    pub devices_a_server: u64,
    /// Devices of one region.
    pub devices_a_region: u64,
    /// Instances of a region.
    pub instances: u64,
    /// Devices that are moved to another region in a minute.
    pub moves_a_minute: f64,
}

/// See there.
pub const ASSUMED: Assumed = Assumed {
    messages_a_day: 50.0,
    connects_a_day: 10.0,
    peak: 4.0,
    ping_seconds: 240.0,
    direct_per_mille: 697.0,
    busy: 0.5,
    cores: 32.0,
    memory_bytes: 256.0 * GIB,
    devices_a_server: 1_000_000,
    devices_a_region: 10_000_000,
    instances: 3,
    moves_a_minute: 1_000.0,
};

const GIB: f64 = (1u64 << 30) as f64;

/// What it takes. Everything is at the peak.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Messages that are sent, a second.
    pub messages: f64,
    /// Connects a second.
    pub connects: f64,
    /// Cores for messages, for connects, for pings.
    pub cores: [f64; 3],
    /// Memory of the connections, of the kernel for them, and of all instances' records.
    pub memory: [f64; 3],
    /// Regions.
    pub regions: u64,
    /// Connection servers, a host each.
    pub servers: u64,
    /// Instances, a host each.
    pub instances: u64,
    /// Devices at each connection server.
    pub devices_a_server: f64,
    /// Links of a connection server: one to each instance, and those that it may have beyond.
    pub links_a_server: u64,
    /// What one instance holds.
    pub records_an_instance: f64,
    /// Bytes a second about connects: to all instances, and back.
    pub registration_bytes: f64,
    /// Bytes a second of the map, from the control plane to all nodes.
    pub map_bytes: f64,
    /// Clusters that this has to be divided into, because a map names so many nodes at most.
    pub clusters: u64,
}

/// Updates that one connect causes: all instances of the device's region are told, and nobody else, however large the cluster.
pub fn updates_a_connect(instances: u64) -> u64 {
    instances
}

/// What one instance holds of so many devices, if regions are of one size.
pub fn records_an_instance(devices: u64, regions: u64) -> f64 {
    devices as f64 / regions as f64
}

/// For so many connected devices.
pub fn needs(devices: u64, measured: &Measured, assumed: &Assumed) -> Needs {
    let all = devices as f64;
    let at_peak = |a_day: f64| all * a_day * assumed.peak / 86_400.0;
    let (messages, connects) = (at_peak(assumed.messages_a_day), at_peak(assumed.connects_a_day));
    let pings = all / assumed.ping_seconds;
    // Two servers on the direct way; an instance between them on the other.
    let hops = 3.0 - assumed.direct_per_mille / 1_000.0;
    let further = (updates_a_connect(assumed.instances) - 1) as f64;
    let busy_us = [
        messages * hops * measured.hop_us,
        // Each further instance costs a frame to it and its answer.
        connects * (measured.connect_us + further * 2.0 * measured.hop_us),
        pings * measured.hop_us,
    ];
    let cores = busy_us.map(|us| us / 1e6 / assumed.busy);
    let memory = [
        all * measured.connection_bytes,
        all * measured.kernel_bytes,
        all * measured.record_bytes * assumed.instances as f64,
    ];
    let usable = assumed.memory_bytes / 2.0;
    let servers = [
        devices.div_ceil(assumed.devices_a_server) as f64,
        (memory[0] + memory[1]) / usable,
        (cores[0] + cores[1] + cores[2]) / assumed.cores,
    ];
    let servers = servers.into_iter().fold(1.0, f64::max).ceil() as u64;
    let regions = devices.div_ceil(assumed.devices_a_region);
    let instances = regions * assumed.instances;
    let nodes = servers + instances;
    let clusters = nodes.div_ceil(NODES_MAX as u64);
    let delta_bytes = assumed.moves_a_minute / 60.0 * OVERRIDE_BYTES * MOVE_VERSIONS;
    Needs {
        messages,
        connects,
        cores,
        memory,
        regions,
        servers,
        instances,
        devices_a_server: all / servers as f64,
        links_a_server: instances.div_ceil(clusters) + u64::from(DIRECT_LINKS_MAX),
        records_an_instance: records_an_instance(devices, regions),
        registration_bytes: connects * updates_a_connect(assumed.instances) as f64 * registration_bytes(),
        map_bytes: nodes as f64 * delta_bytes,
        clusters,
    }
}

/// What a connect and the disconnect after it say to one instance, and what it answers.
fn registration_bytes() -> f64 {
    let (region, device, epoch) = (RegionId(1), DeviceKey(1), Epoch::NONE);
    let said = [
        Register { region, device, epoch }.to_vec().len(),
        Registered {
            region,
            device,
            epoch,
            highest: epoch,
        }
        .to_vec()
        .len(),
        Unregister { region, device, epoch }.to_vec().len(),
    ];
    debug_assert!(said.iter().all(|bytes| *bytes > HEADER_BYTES));
    said.iter().sum::<usize>() as f64
}

/// Of a delta, for each device.
const OVERRIDE_BYTES: f64 = 18.0;
/// Both regions, the switch, the end.
const MOVE_VERSIONS: f64 = 3.0;

/// The devices of the page.
pub const SIZES: [u64; 3] = [1_000_000, 100_000_000, 10_000_000_000];

/// The page, as Markdown.
pub fn page() -> String {
    let (measured, assumed) = (&MEASURED, &ASSUMED);
    let mut text = format!(
        "# What a cluster takes\n\n\
         Worked out by [src/scale.rs](src/scale.rs), which also writes this page (`cargo run -p trunkline-sim --bin scale > tools/sim/SCALE.md`). \
         Nothing here was run at this size: the figures follow from what one core and one connection take, and from what the design says is \
         told to whom. The latter is checked against the deployed routers at up to 256 servers (`cargo test -p trunkline-sim --test scale`).\n\n\
         **Measured**, on one of two cores of a virtual machine (AMD EPYC, Linux 6.18): {} µs of a server's core for a message that comes alone, \
         {} µs for a connect with its registration and close, {} B of a server's memory and {} B of the kernel's for an idle connection, {} B of \
         each instance for a device. Under load messages come in batches and cost a thirtieth of that; the page doesn't count on it.\n\n\
         **Assumed** of each connected device: {} messages and {} connects a day, {} times as many in the busiest minutes; a ping each {} s; \
         {:.0} % of its messages find a link. Cores are half busy at the peak, half of a host's {:.0} GiB is used, a connection server has at most {} \
         devices, a region {} and {} instances, and {} devices a minute move to another region. Each instance and each server has a host.\n\n",
        measured.hop_us,
        measured.connect_us,
        measured.connection_bytes,
        measured.kernel_bytes,
        measured.record_bytes,
        assumed.messages_a_day,
        assumed.connects_a_day,
        assumed.peak,
        assumed.ping_seconds,
        assumed.direct_per_mille / 10.0,
        assumed.memory_bytes / GIB,
        short(assumed.devices_a_server as f64),
        short(assumed.devices_a_region as f64),
        assumed.instances,
        assumed.moves_a_minute,
    );
    let needs = SIZES.map(|devices| needs(devices, measured, assumed));
    text.push_str("| devices connected |");
    for devices in SIZES {
        let _ = write!(text, " 10^{} |", devices.ilog10());
    }
    text.push_str("\n|---|---:|---:|---:|");
    let mut row = |name: &str, of: &dyn Fn(&Needs) -> String| {
        let _ = write!(text, "\n| {name} |");
        for needs in &needs {
            let _ = write!(text, " {} |", of(needs));
        }
    };
    row("messages a second", &|n| short(n.messages));
    row("connects a second", &|n| short(n.connects));
    row("cores for messages", &|n| short(n.cores[0]));
    row("cores for connects", &|n| short(n.cores[1]));
    row("cores for pings", &|n| short(n.cores[2]));
    row("memory of connections", &|n| bytes(n.memory[0]));
    row("memory of the kernel for them", &|n| bytes(n.memory[1]));
    row("memory of all instances' records", &|n| bytes(n.memory[2]));
    row("regions", &|n| short(n.regions as f64));
    row("hosts of instances", &|n| short(n.instances as f64));
    row("hosts of connection servers", &|n| short(n.servers as f64));
    row("devices a connection server", &|n| short(n.devices_a_server));
    row("links a connection server", &|n| short(n.links_a_server as f64));
    row("links, if all servers had one to all", &|n| {
        short((n.servers.div_ceil(n.clusters) - 1) as f64)
    });
    row("devices an instance knows", &|n| short(n.records_an_instance));
    row("registrations, bytes a second", &|n| bytes(n.registration_bytes));
    row("the map to all nodes, bytes a second", &|n| bytes(n.map_bytes));
    row("clusters", &|n| short(n.clusters as f64));
    let _ = write!(
        text,
        "\n\nA map names at most {NODES_MAX} nodes. What needs more is divided into several clusters, each with devices of its own, and what \
         goes from one to another is for whoever runs them: Trunkline has nothing for that yet.\n\n\
         A connect is told to {} instances whatever the size. Were every messaging server told, as in the design that this one replaces, it \
         would be told to all of them, and each would hold a record of every device.\n",
        assumed.instances
    );
    text
}

/// Two digits and a letter.
fn short(value: f64) -> String {
    with_units(value, 1_000.0, ["", " k", " M", " G", " T", " P"])
}

fn bytes(value: f64) -> String {
    with_units(value, 1_024.0, [" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

fn with_units(mut value: f64, step: f64, units: [&str; 6]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$}{}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_devices_take_twice_the_cores_and_no_more_of_one_instance() {
        let one = needs(100_000_000, &MEASURED, &ASSUMED);
        let two = needs(200_000_000, &MEASURED, &ASSUMED);
        for (one, two) in one.cores.iter().zip(two.cores) {
            assert!((two / one - 2.0).abs() < 1e-9);
        }
        assert_eq!(one.records_an_instance, two.records_an_instance);
        assert_eq!((two.regions, two.instances), (2 * one.regions, 2 * one.instances));
    }

    #[test]
    fn no_server_has_more_than_it_may() {
        for devices in SIZES {
            let needs = needs(devices, &MEASURED, &ASSUMED);
            assert!(needs.devices_a_server <= ASSUMED.devices_a_server as f64);
            let nodes = (needs.servers + needs.instances).div_ceil(needs.clusters);
            assert!(nodes <= NODES_MAX as u64, "{nodes}");
        }
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(
            [3.0, 45.2, 999.0, 1_234.0, 7.25e9].map(short),
            ["3", "45", "999", "1.2 k", "7.2 G"]
        );
        assert_eq!([100.0, 1_536.0].map(bytes), ["100 B", "1.5 KiB"]);
    }
}
