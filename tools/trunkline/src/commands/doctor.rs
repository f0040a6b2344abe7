//! `trunkline doctor`: what this host lets a node do, found out by trying, and what to change.
//!
//! Each finding is one line. Only what keeps a node from running at all is a failure; what costs speed or connections is a warning.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::bail;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::Pid;
use serde::Serialize;
use serde_json::json;
use trunkline_net::backend::{Backend, Chosen};
use trunkline_net::driver::Driver;
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_node::config::{CONTROL_PORT, CoreList, DEVICE_PORT, HTTP_PORT, LimitsSection, PEER_PORT};
use trunkline_node::topology::{Topology, processor_list};

use crate::advice::{Note, plan};

/// Tries what a node needs of this host, and says what to change: io_uring, limits, processors, ports, the kernel's settings.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline doctor
  trunkline doctor --json
  trunkline doctor --root recorded             what to pin where on a host whose /sys and /proc were copied there

The last lines are commands: what to pin where on this host, and why, follows from its layout, which is read and never changed. The exit code is 0 if a node could run here, whatever the warnings say.")]
pub struct Args {
    /// Reads the layout of a host from below this directory, and tries nothing here.
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warn,
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    state: State,
    /// What was found, and, unless it's fine, what to change.
    says: String,
}

impl Finding {
    fn new(what: &'static str, state: State, says: impl Into<String>) -> Finding {
        let says = says.into();
        Finding { what, state, says }
    }

    fn ok(what: &'static str, says: impl Into<String>) -> Finding {
        Finding::new(what, State::Ok, says)
    }

    fn warn(what: &'static str, says: impl Into<String>) -> Finding {
        Finding::new(what, State::Warn, says)
    }
}

/// Looks at everything.
///
/// # Errors
/// If a node couldn't run here.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(root) = &args.root {
        return layout(root, args.json);
    }
    let plan = plan(&Topology::read(Path::new("/")));
    let mut findings = vec![uring(), epoll(), backend(), descriptors(), locked_memory()];
    findings.extend(processors());
    findings.extend([backlog(), ephemeral_ports(), congestion_control()]);
    findings.extend(PORTS.map(|(what, port)| default_port(what, port)));
    findings.extend(plan.notes.iter().map(advised));
    let failed: Vec<&str> = (findings.iter())
        .filter(|finding| finding.state == State::Fail)
        .map(|finding| finding.what)
        .collect();
    if args.json {
        println!(
            "{}",
            json!({ "can_run": failed.is_empty(), "findings": findings, "plan": plan })
        );
    } else {
        print_findings(&findings);
        print_commands(&plan.commands);
    }
    if !failed.is_empty() {
        bail!("a node can't run here: {}", failed.join(", "));
    }
    Ok(())
}

/// Only what follows from a layout.
fn layout(root: &Path, json: bool) -> anyhow::Result<()> {
    let host = Topology::read(root);
    if host.processors.is_empty() {
        bail!(
            "--root {}: no processors there; it must hold sys/devices/system/cpu/online",
            root.display()
        );
    }
    let plan = plan(&host);
    if json {
        println!("{}", json!({ "plan": plan }));
    } else {
        print_findings(&plan.notes.iter().map(advised).collect::<Vec<_>>());
        print_commands(&plan.commands);
    }
    Ok(())
}

fn advised(note: &Note) -> Finding {
    let state = if note.warns { State::Warn } else { State::Ok };
    Finding::new(note.what, state, note.says.clone())
}

fn print_findings(findings: &[Finding]) {
    for Finding { what, state, says } in findings {
        let state = format!("{state:?}").to_lowercase();
        println!("{state:<6}{what:<22}{says}");
    }
}

fn print_commands(commands: &[String]) {
    for command in commands {
        println!("run   {command}");
    }
}

/// As many as a node would start.
fn threads() -> usize {
    CoreList::allowed().map_or(1, |cores| cores.cores().len())
}

/// The self-test, as a node does it at its start.
fn uring() -> Finding {
    match (
        Backend::Uring.choose(threads(), &Options::default()),
        kernel("kernel/io_uring_disabled").as_deref(),
    ) {
        (Ok(_), _) => Finding::ok("io_uring", "passes its self-test"),
        (Err(error), Some(disabled @ ("1" | "2"))) => Finding::warn(
            "io_uring",
            format!("{error}; kernel.io_uring_disabled is {disabled}: sysctl kernel.io_uring_disabled=0 allows it"),
        ),
        (Err(error), _) => Finding::warn("io_uring", error.to_string()),
    }
}

fn epoll() -> Finding {
    match EpollDriver::new(Options::default()) {
        Ok(driver) => {
            // Its clock is read, so that it's known to be more than a value.
            let _ = driver.now();
            Finding::ok("epoll", "works")
        }
        Err(error) => Finding::new(
            "epoll",
            State::Fail,
            format!("doesn't work, and nothing without it: {error}"),
        ),
    }
}

fn backend() -> Finding {
    match Backend::Auto.choose(threads(), &Options::default()) {
        Ok(Chosen::Uring) => Finding::ok("backend auto", "chooses io_uring, which passes its self-test"),
        Ok(Chosen::Epoll) => Finding::warn(
            "backend auto",
            "chooses epoll, at a higher cost a message, since io_uring fails its self-test",
        ),
        Err(error) => Finding::new("backend auto", State::Fail, error.to_string()),
    }
}

fn descriptors() -> Finding {
    let what = "open files";
    let wanted = u64::from(LimitsSection::default().sockets_max) * allowed().len().max(1) as u64 + DESCRIPTORS_SPARE;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Err(error) => Finding::warn(what, format!("the limit can't be read: {error}")),
        Ok((soft, hard)) => judge_descriptors(soft, hard, wanted),
    }
}

/// A node raises its soft limit up to the hard one by itself.
fn judge_descriptors(soft: u64, hard: u64, wanted: u64) -> Finding {
    let says = format!("limit {soft}, raised by the node up to {}", amount(hard));
    match hard {
        hard if hard >= wanted => Finding::ok("open files", says),
        hard if hard > DESCRIPTORS_SPARE => Finding::warn(
            "open files",
            format!(
                "{says}; by default it takes {wanted}: raise LimitNOFILE (ulimit -Hn), or it stops accepting early"
            ),
        ),
        _ => Finding::new(
            "open files",
            State::Fail,
            format!("{says}, which leaves none for devices: raise LimitNOFILE (ulimit -Hn)"),
        ),
    }
}

/// Newer kernels charge rings to the control group instead, so that a low limit alone is no fault: the self-test tells.
fn locked_memory() -> Finding {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= MEMLOCK_BYTES => Finding::ok("locked memory", format!("limit {} bytes", amount(soft))),
        Ok((soft, _)) => Finding::warn(
            "locked memory",
            format!("limit {soft} bytes; if io_uring gets no memory, raise LimitMEMLOCK (ulimit -l)"),
        ),
        Err(error) => Finding::warn("locked memory", format!("the limit can't be read: {error}")),
    }
}

fn amount(limit: u64) -> String {
    match limit {
        RLIM_INFINITY => "unlimited".to_owned(),
        limit => limit.to_string(),
    }
}

/// The processors that this process may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_else(|_| CpuSet::new());
    (0..CpuSet::count())
        .filter(|&cpu| set.is_set(cpu).unwrap_or(false))
        .collect()
}

fn processors() -> [Finding; 2] {
    let allowed = allowed();
    let present = read("/sys/devices/system/cpu/online").map_or(Vec::new(), |text| processor_list(&text));
    let says = format!("{} of {} may be used, one shard each", allowed.len(), present.len());
    let count = match allowed.len() < present.len() {
        true => Finding::warn(
            "processors",
            format!("{says}; more with a wider CPUAffinity, cpuset or taskset"),
        ),
        false => Finding::ok("processors", says),
    };
    let sibling_lists = allowed.iter().filter_map(|cpu| {
        let text = read(&format!(
            "/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        ))?;
        Some((*cpu, processor_list(&text)))
    });
    [count, judge_siblings(&allowed, &sibling_lists.collect::<Vec<_>>())]
}

fn judge_siblings(allowed: &[usize], siblings: &[(usize, Vec<usize>)]) -> Finding {
    let what = "cores of their own";
    if siblings.is_empty() {
        return Finding::ok(what, "unknown: this system doesn't say which processors share a core");
    }
    let shares = |(cpu, siblings): &&(usize, Vec<usize>)| {
        siblings
            .iter()
            .any(|other| other != cpu && other < cpu && allowed.contains(other))
    };
    let sharing: Vec<String> = siblings.iter().filter(shares).map(|(cpu, _)| cpu.to_string()).collect();
    if sharing.is_empty() {
        return Finding::ok(what, "no two of these processors share one");
    }
    Finding::warn(
        what,
        format!(
            "processors {} share theirs with another: leave them out with --cores if the rest suffice",
            sharing.join(",")
        ),
    )
}

fn backlog() -> Finding {
    let what = "listen backlog";
    let wanted = Options::default().backlog;
    match kernel("net/core/somaxconn").and_then(|text| text.parse::<i32>().ok()) {
        None => Finding::ok(what, "unknown: this system doesn't say"),
        Some(most) if most >= wanted => Finding::ok(what, format!("net.core.somaxconn is {most}")),
        Some(most) => Finding::warn(
            what,
            format!(
                "net.core.somaxconn is {most}: many devices that come at once wait; sysctl net.core.somaxconn={wanted}"
            ),
        ),
    }
}

fn ephemeral_ports() -> Finding {
    let what = "ephemeral ports";
    let Some(text) = kernel("net/ipv4/ip_local_port_range") else {
        return Finding::ok(what, "unknown: this system doesn't say");
    };
    let ports: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    let [first, last] = ports[..] else {
        return Finding::ok(what, format!("unknown: {text}"));
    };
    let inside: Vec<String> = PORTS
        .iter()
        .filter(|(_, port)| (first..=last).contains(port))
        .map(|(_, port)| port.to_string())
        .collect();
    if !inside.is_empty() {
        return Finding::warn(
            what,
            format!(
                "{first} to {last} contain {}, which any client may take: sysctl net.ipv4.ip_local_reserved_ports={}",
                inside.join(", "),
                inside.join(",")
            ),
        );
    }
    Finding::ok(what, format!("{first} to {last}, apart from the default ports"))
}

fn congestion_control() -> Finding {
    match kernel("net/ipv4/tcp_congestion_control") {
        Some(name) => Finding::ok("congestion control", name),
        None => Finding::ok("congestion control", "unknown: this system doesn't say"),
    }
}

fn default_port(what: &'static str, port: u16) -> Finding {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Finding::ok(what, format!("{port} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Finding::warn(
            what,
            format!("{port} is in use: end what listens there (ss -ltnp), or choose another"),
        ),
        Err(error) => Finding::warn(what, format!("{port} can't be used: {error}")),
    }
}

/// One of the kernel's settings.
fn kernel(name: &str) -> Option<String> {
    read(&format!("/proc/sys/{name}"))
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

/// Where everything listens, unless told otherwise.
const PORTS: [(&str, u16); 4] = [
    ("device port", DEVICE_PORT),
    ("peer port", PEER_PORT),
    ("control port", CONTROL_PORT),
    ("http port", HTTP_PORT),
];
/// What a node has open besides sockets of devices and nodes, with room.
const DESCRIPTORS_SPARE: u64 = 256;
/// What rings of one shard take, with room.
const MEMLOCK_BYTES: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_siblings_the_later_is_the_one_to_leave_out_if_both_are_used() {
        let siblings = [(0, vec![0, 2]), (1, vec![1, 3]), (2, vec![0, 2])];
        let finding = judge_siblings(&[0, 1, 2], &siblings);
        assert_eq!(finding.state, State::Warn);
        assert!(finding.says.starts_with("processors 2 share"), "{}", finding.says);
        assert_eq!(judge_siblings(&[0, 1], &siblings[..2]).state, State::Ok);
    }

    #[test]
    fn only_a_limit_that_leaves_no_room_for_devices_is_a_failure() {
        assert_eq!(judge_descriptors(1024, 1 << 20, 100_000).state, State::Ok);
        assert_eq!(judge_descriptors(1024, 4096, 100_000).state, State::Warn);
        assert_eq!(judge_descriptors(64, 64, 100_000).state, State::Fail);
    }
}
