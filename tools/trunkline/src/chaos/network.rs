//! Network namespaces joined by a bridge, and what can go wrong between them.
//!
//! ```text
//! devices: br0 10.77.0.1 ──┬── port-control ══ eth0 control 10.77.0.2
//!                          ├── port-north-1 ══ eth0 north-1 10.77.0.3      ══ is a pair of virtual Ethernet devices
//!                          └── …
//! ```
//! All of it exists only inside of a sandbox: a process in network, mount and process namespaces of its own. When that process
//! ends, however it does, the kernel ends all of its children and takes everything apart; the host never sees any of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::cluster::names;

/// What the error says first where none of this is possible.
pub const NOT_HERE: &str = "chaos can't run on this host";

/// Where the sandbox keeps what shall not outlive it.
const ROOT: &str = "/run/trunkline";
/// An Ethernet address that nobody has: frames to it reach nobody.
const NOBODY: &str = "02:00:00:00:00:01";

/// The far end of a path through the network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All devices.
    Devices,
    /// A process of the cluster, by its name.
    Process(String),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Devices => write!(f, "devices"),
            End::Process(name) => write!(f, "{name}"),
        }
    }
}

/// Runs this program again with the same arguments and `--inside`, in a sandbox, and waits for its end.
///
/// # Errors
/// [`NOT_HERE`] and the reason.
pub fn run_inside() -> anyhow::Result<ExitStatus> {
    if !nix::unistd::geteuid().is_root() {
        bail!("{NOT_HERE}: it makes network namespaces, which needs root");
    }
    if let Err(error) = Command::new("ip").arg("-V").output() {
        bail!("{NOT_HERE}: `ip` can't be run ({error}): install iproute2");
    }
    let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    unshare(flags).with_context(|| format!("{NOT_HERE}: it grants no namespaces"))?;
    let program = std::env::current_exe().context("the path of this program")?;
    let status = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--inside")
        .status();
    status.context("the sandbox could not be started")
}

/// The network, from the inside of the sandbox.
pub struct Network(());

/// Control and the nodes: each has a namespace of its own.
pub fn processes() -> impl Iterator<Item = String> {
    std::iter::once("control".to_owned()).chain(names())
}

/// The file of a process's namespace.
pub fn namespace(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Where a process listens, by port: `device`, `peer`, `control` or `http`.
pub fn socket(name: &str, port: &str) -> SocketAddr {
    let port = match port {
        "device" => 7400,
        "peer" => 7401,
        "control" => 7402,
        _ => 7480,
    };
    SocketAddr::from((address_of(name), port))
}

fn address_of(name: &str) -> Ipv4Addr {
    let place = processes().position(|known| known == name);
    address(place.expect("a process of the cluster") as u8 + 2)
}

impl Network {
    /// Makes a namespace for each process.
    ///
    /// # Errors
    /// What the system refused.
    pub fn make() -> anyhow::Result<Network> {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
        let none = None::<&str>;
        let private = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
        private.with_context(|| format!("{NOT_HERE}: its mounts can't be made private"))?;
        let proc = mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none);
        proc.with_context(|| format!("{NOT_HERE}: /proc can't be mounted"))?;
        memory(Path::new("/run"), "64m")?;
        std::fs::create_dir_all(ROOT).context(ROOT)?;
        ip("link set lo up")?;
        ip("link add br0 type bridge")?;
        ip(&format!("addr add {}/24 dev br0", address(1)))?;
        ip("link set br0 up")?;
        for name in processes() {
            ip(&format!("netns add {name}"))?;
            ip(&format!("link add port-{name} type veth peer name eth0 netns {name}"))?;
            ip(&format!("link set port-{name} master br0 up"))?;
            ip(&format!("-n {name} addr add {}/24 dev eth0", address_of(&name)))?;
            ip(&format!("-n {name} link set eth0 up"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        Ok(Network(()))
    }

    /// What `from` sends to `to` is lost from now on, silently.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn drop_from(&self, from: &End, to: &End) -> anyhow::Result<()> {
        let (within, device, to) = path(from, to);
        ip(&format!(
            "{within} neigh replace {to} lladdr {NOBODY} nud permanent dev {device}"
        ))
    }

    /// What `from` sends to `to` arrives again.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn pass_from(&self, from: &End, to: &End) -> anyhow::Result<()> {
        let (within, device, to) = path(from, to);
        ip(&format!("{within} neigh del {to} dev {device}"))
    }

    /// Takes a process's cable out.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn unplug(&self, name: &str) -> anyhow::Result<()> {
        ip(&format!("link set port-{name} down"))
    }

    /// Puts it back.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn plug(&self, name: &str) -> anyhow::Result<()> {
        ip(&format!("link set port-{name} up"))
    }

    /// Lets a process send this many kilobits a second at most, behind a queue of 400 ms.
    ///
    /// # Errors
    /// What `tc` said.
    pub fn slow(&self, name: &str, kilobits: u32) -> anyhow::Result<()> {
        run(
            "tc",
            &format!("-n {name} qdisc replace dev eth0 root tbf rate {kilobits}kbit burst 16kb latency 400ms"),
        )
    }

    /// Lets it send as fast as it can.
    ///
    /// # Errors
    /// What `tc` said.
    pub fn hasten(&self, name: &str) -> anyhow::Result<()> {
        run("tc", &format!("-n {name} qdisc del dev eth0 root"))
    }
}

/// A small disk of its own for a process, which can be filled.
///
/// # Errors
/// What the system said.
pub fn small_disk(name: &str) -> anyhow::Result<PathBuf> {
    let path = Path::new(ROOT).join(name);
    std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
    memory(&path, "8m")?;
    Ok(path)
}

fn memory(at: &Path, size: &str) -> anyhow::Result<()> {
    let size = format!("size={size},mode=0755");
    let mounted = mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(size.as_str()));
    mounted.with_context(|| format!("{NOT_HERE}: no tmpfs at {}", at.display()))
}

fn path(from: &End, to: &End) -> (String, &'static str, Ipv4Addr) {
    let to = match to {
        End::Devices => address(1),
        End::Process(name) => address_of(name),
    };
    match from {
        End::Devices => (String::new(), "br0", to),
        End::Process(name) => (format!("-n {name}"), "eth0", to),
    }
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, host)
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    run("ip", arguments)
}

/// Runs a tool to its end.
///
/// # Errors
/// What it said.
pub fn run(tool: &str, arguments: &str) -> anyhow::Result<()> {
    let output = Command::new(tool)
        .args(arguments.split_whitespace())
        .output()
        .with_context(|| format!("`{tool}` can't be run"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{tool} {arguments}`: {}", said.trim());
    }
    Ok(())
}
