//! Carries a fault out, and heals it.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use trunkline_control::admin::Admin;

use super::change::{Change, region_of};
use super::network::{self, Network};
use super::plan::Fault;
use crate::cluster::Cluster;
use crate::processes::Process;

/// The cluster, and what is wrong with it.
pub struct Striker {
    /// The processes.
    pub cluster: Cluster,
    network: Network,
    /// Connections that say nothing.
    mute: Vec<TcpStream>,
    /// The limits of descriptors before the fault: soft and hard.
    limits: Option<(u64, u64)>,
    /// Devices that were enrolled so that there is a newer map.
    enrolled: u32,
}

impl Striker {
    /// Nothing is wrong yet.
    pub fn new(cluster: Cluster, network: Network) -> Striker {
        Striker {
            cluster,
            network,
            mute: Vec::new(),
            limits: None,
            enrolled: 0,
        }
    }

    /// Begins what an operator changes; it goes on by itself. An instance may not have to come back: control calls one that is on its way
    /// out back itself when a fault takes the last other one.
    ///
    /// # Errors
    /// If control refuses it.
    pub fn change(&self, change: &Change) -> anyhow::Result<()> {
        if let Change::Add(node) = change
            && self.is_instance(node)?
        {
            tracing::info!("{node} was called back to its region before");
            return Ok(());
        }
        self.order(&change.request())
    }

    /// Whether control counts a node among the instances of the region that it is named after.
    fn is_instance(&self, name: &str) -> anyhow::Result<bool> {
        let status = self.ask(&json!({ "op": "status" }))?;
        let nodes = status["nodes"].as_array();
        let node = nodes.and_then(|nodes| nodes.iter().find(|node| node["name"] == name));
        let node = node.with_context(|| format!("control knows no node {name}"))?;
        let regions = node["regions"].as_array();
        Ok(regions.is_some_and(|regions| regions.iter().any(|region| region == region_of(name))))
    }

    /// Carries a fault out.
    ///
    /// # Errors
    /// What the system refused.
    pub fn strike(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(names) => names.iter().try_for_each(|name| self.process(name)?.kill()),
            Fault::Pause(name) => self.process(name)?.signal(Signal::SIGSTOP),
            Fault::Unplug(name) => self.network.unplug(name),
            Fault::Cut(a, b) => {
                self.network.drop_from(a, b)?;
                self.network.drop_from(b, a)
            }
            Fault::OneWay(from, to) => self.network.drop_from(from, to),
            Fault::Slow(name) => self.network.slow(name, SLOW_KILOBITS),
            Fault::Control => self.cluster.control.kill(),
            Fault::Disk(name) => {
                fill(name)?;
                // With control's disk full it can't publish; with a node's, the node can't keep what is published.
                match self.publish() {
                    Err(_) if name == "control" => Ok(()),
                    published => published,
                }
            }
            Fault::Descriptors(name) => self.take_descriptors(name),
            Fault::Drain(name) => self.order(&json!({ "op": "drain", "node": name, "rate": DRAIN_RATE })),
            Fault::Restart(name) => self.process(name)?.end(),
        }
    }

    /// Heals it.
    ///
    /// # Errors
    /// What the system refused; a process that doesn't start again.
    pub fn heal(&mut self, fault: &Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(names) => names.iter().try_for_each(|name| self.restart(name)),
            Fault::Restart(name) => self.restart(name),
            Fault::Drain(name) => self.order(&json!({ "op": "drain", "node": name, "undo": true })),
            Fault::Pause(name) => self.process(name)?.signal(Signal::SIGCONT),
            Fault::Unplug(name) => self.network.plug(name),
            Fault::Cut(a, b) => {
                self.network.pass_from(a, b)?;
                self.network.pass_from(b, a)
            }
            Fault::OneWay(from, to) => self.network.pass_from(from, to),
            Fault::Slow(name) => self.network.hasten(name),
            Fault::Control => self.restart("control"),
            Fault::Disk(name) => {
                std::fs::remove_file(filler(name)).context("the file that filled the disk")?;
                self.publish_again()
            }
            Fault::Descriptors(name) => {
                self.mute.clear();
                let (soft, hard) = self.limits.take().context("no limits were taken away")?;
                self.limit(name, soft, hard)
            }
        }
    }

    fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        if name == "control" {
            return Ok(&mut self.cluster.control);
        }
        let found = self.cluster.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("there is no process {name}"))
    }

    fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let logs = self.cluster.directory.clone();
        self.process(name)?.restart(&logs)
    }

    /// Makes control publish a newer map: it enrols a device that never connects.
    fn publish(&mut self) -> anyhow::Result<()> {
        self.enrolled += 1;
        self.order(&json!({ "op": "enroll", "device": format!("nobody-{}", self.enrolled) }))
    }

    fn order(&self, request: &Value) -> anyhow::Result<()> {
        self.ask(request).map(drop)
    }

    fn ask(&self, request: &Value) -> anyhow::Result<Value> {
        let secret = crate::commands::secret("secret", &self.cluster.directory.join("secret"))?;
        let mut admin = Admin::connect(self.cluster.control.address("control")?, &secret)?;
        Ok(admin.request(request)?)
    }

    /// As [`Striker::publish`]; control may have to notice first that its store works again.
    fn publish_again(&mut self) -> anyhow::Result<()> {
        let until = std::time::Instant::now() + STORE_TIMEOUT;
        loop {
            match self.publish() {
                Err(_) if std::time::Instant::now() < until => std::thread::sleep(POLL),
                published => return published.context("control publishes nothing, its disk has room again"),
            }
        }
    }

    fn take_descriptors(&mut self, name: &str) -> anyhow::Result<()> {
        let pid = self.process(name)?.pid();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).context("/proc")?.count() as u64;
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).context("/proc")?;
        let line = limits.lines().find(|line| line.starts_with("Max open files"));
        let mut numbers = line.into_iter().flat_map(|line| line.split_whitespace().skip(3));
        let mut number = || numbers.next().and_then(|text| text.parse().ok());
        let (Some(soft), Some(hard)) = (number(), number()) else {
            bail!("/proc/{pid}/limits names no limit of open files");
        };
        self.limits = Some((soft, hard));
        self.limit(name, open + DESCRIPTORS_LEFT, hard)?;
        let address: SocketAddr = network::socket(name, "device");
        for _ in 0..MUTE {
            // Those that find no room any more are part of the fault.
            if let Ok(stream) = TcpStream::connect_timeout(&address, POLL) {
                self.mute.push(stream);
            }
        }
        Ok(())
    }

    fn limit(&mut self, name: &str, soft: u64, hard: u64) -> anyhow::Result<()> {
        let pid = self.process(name)?.pid();
        network::run("prlimit", &format!("--pid {pid} --nofile={soft}:{hard}"))
    }
}

fn filler(name: &str) -> PathBuf {
    PathBuf::from("/run/trunkline").join(name).join("filler")
}

/// Writes a file until nothing more fits.
fn fill(name: &str) -> anyhow::Result<()> {
    let mut file = File::create(filler(name)).context("the file that fills the disk")?;
    let mut block = vec![0; 64 * 1024];
    while !block.is_empty() {
        match file.write_all(&block) {
            Ok(()) => {}
            // Then smaller ones, down to the last byte.
            Err(error) if error.kind() == ErrorKind::StorageFull => block.truncate(block.len() / 16),
            Err(error) => return Err(error).context("the file that fills the disk"),
        }
    }
    Ok(())
}

/// Less than what a node sends under the usual load.
const SLOW_KILOBITS: u32 = 2_000;
/// Devices a second: some have gone and some have not when it is undone.
const DRAIN_RATE: u32 = 15;
/// Descriptors that a node may still open.
const DESCRIPTORS_LEFT: u64 = 8;
/// Connections that ask for more than are left.
const MUTE: usize = 64;
/// Control tries its store again every second.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
