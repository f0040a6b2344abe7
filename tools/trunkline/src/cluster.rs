//! The cluster of `demo` and `chaos`: control, two regions with two instances each, three connection servers; a process each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use trunkline_net::backend::Backend;

use crate::processes::Process;

/// The regions' names.
pub const REGIONS: [&str; 2] = ["north", "south"];
const INSTANCES: usize = 2;
const EDGES: usize = 3;

/// The nodes' names: first the regions' instances, then the connection servers.
pub fn names() -> impl Iterator<Item = String> {
    let instances = REGIONS
        .iter()
        .flat_map(|region| (1..=INSTANCES).map(move |n| format!("{region}-{n}")));
    instances.chain((1..=EDGES).map(|n| format!("edge-{n}")))
}

/// Whether a node of this name is a connection server.
pub fn is_edge(name: &str) -> bool {
    name.starts_with("edge-")
}

/// Where a process of the cluster lives.
pub struct Place {
    /// Its data directory.
    pub data: PathBuf,
    /// The file of its network namespace; `None`: this process's.
    pub namespace: Option<PathBuf>,
    /// Where it listens, by port: `device`, `peer`, `http`, `control`.
    pub listen: fn(&str, &str) -> SocketAddr,
}

/// A running cluster. Its processes end with it.
pub struct Cluster {
    /// Where the logs are, and the secret.
    pub directory: PathBuf,
    /// The control plane.
    pub control: Process,
    /// The nodes, in the order of [`names`].
    pub nodes: Vec<Process>,
}

impl Cluster {
    /// Starts all processes, each at its place, and waits until they are ready. Their logs, and the secret, are in `directory`.
    ///
    /// # Errors
    /// The first process that doesn't start: with the last line of its log.
    pub fn start(directory: &Path, backend: Backend, place: &dyn Fn(&str) -> Place) -> anyhow::Result<Cluster> {
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        trunkline_node::identity::read_or_make_secret(directory)?;
        let secret = directory.join("secret").display().to_string();
        let start = |name: &str, command: &str, more: &[(&str, &str)]| {
            let at = place(name);
            let listen = |port| (at.listen)(name, port).to_string();
            let (data, http) = (at.data.display().to_string(), listen("http"));
            let mut arguments = vec![command.to_owned()];
            let common = [
                ("--data-dir", &data[..]),
                ("--secret-file", &secret),
                ("--http-listen", &http),
            ];
            let ports: &[(&str, &str)] = match command {
                "control" => &[("--listen", "control")],
                _ if is_edge(name) => &[("--device-listen", "device"), ("--peer-listen", "peer")],
                _ => &[("--peer-listen", "peer")],
            };
            let flags = common.iter().chain(more);
            arguments.extend(flags.flat_map(|(flag, value)| [flag.to_string(), value.to_string()]));
            arguments.extend(ports.iter().flat_map(|(flag, port)| [flag.to_string(), listen(port)]));
            Process::start(name, arguments, directory, at.namespace)
        };
        let control = start("control", "control", &[("--initial-regions", &REGIONS.join(","))])?;
        let address = control.address("control")?.to_string();
        let backend = backend.to_string();
        let mut nodes = Vec::new();
        for name in names() {
            let mut more = vec![("--name", &name[..]), ("--control", &address), ("--backend", &backend)];
            match name.rsplit_once('-') {
                Some((region, _)) if !is_edge(&name) => more.extend([("--roles", "region"), ("--regions", region)]),
                _ => more.push(("--roles", "connection")),
            }
            nodes.push(start(&name, "node", &more)?);
        }
        for node in &nodes {
            node.wait_ready()?;
        }
        Ok(Cluster {
            directory: directory.to_owned(),
            control,
            nodes,
        })
    }

    /// Where devices connect.
    ///
    /// # Errors
    /// If a connection server named no such address.
    pub fn device_addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        let edges = self.nodes.iter().filter(|node| is_edge(node.name()));
        edges.map(|edge| edge.address("device")).collect()
    }

    /// Ends all processes in order.
    ///
    /// # Errors
    /// If one of them doesn't end, or fails.
    pub fn end(&mut self) -> anyhow::Result<()> {
        let ended: Vec<_> = self.nodes.iter_mut().rev().map(Process::end).collect();
        self.control.end()?;
        ended.into_iter().collect()
    }
}
