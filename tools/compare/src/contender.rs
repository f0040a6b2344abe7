//! Who takes part, and the server of each: how it is started, pinned, awaited and ended. Clusters are in [`crate::cluster`].

use std::fmt;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use trunkline_load::protocol::Kind;
use trunkline_load::target::Target;

use crate::cluster;

/// Who takes part, in the order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Contender {
    /// The bare forwarder over io_uring, with which the others are compared.
    Floor,
    /// Trunkline over io_uring.
    Ours,
    /// Trunkline over io_uring, whose thread looks for work for a while before it sleeps.
    OursSpinning,
    /// The bare forwarder over epoll.
    FloorEpoll,
    /// Trunkline over epoll.
    OursEpoll,
    /// NATS.
    Nats,
    /// Redis's publish and subscribe.
    Redis,
    /// Mosquitto, MQTT at quality 0.
    Mosquitto,
    /// rumqttd, MQTT at quality 0.
    Rumqttd,
    /// Two bare forwarders in a row.
    #[value(name = "floor-2")]
    FloorTwo,
    /// Two connection servers with a link between them, and a region's instance.
    OursDirect,
    /// Three bare forwarders in a row.
    #[value(name = "floor-3")]
    FloorThree,
    /// The same without that link: messages go by way of the instance.
    OursRegion,
}

impl Contender {
    /// Whether its messages pass several nodes.
    pub fn is_in_a_row(self) -> bool {
        match self {
            Contender::FloorTwo | Contender::OursDirect | Contender::FloorThree | Contender::OursRegion => true,
            Contender::Floor
            | Contender::Ours
            | Contender::OursSpinning
            | Contender::FloorEpoll
            | Contender::OursEpoll
            | Contender::Nats
            | Contender::Redis
            | Contender::Mosquitto
            | Contender::Rumqttd => false,
        }
    }

    fn protocol(self) -> Kind {
        match self {
            Contender::Floor | Contender::FloorEpoll | Contender::FloorTwo | Contender::FloorThree => Kind::Floor,
            Contender::Ours
            | Contender::OursSpinning
            | Contender::OursEpoll
            | Contender::OursDirect
            | Contender::OursRegion => Kind::Native,
            Contender::Nats => Kind::Nats,
            Contender::Redis => Kind::Redis,
            Contender::Mosquitto | Contender::Rumqttd => Kind::Mqtt,
        }
    }

    /// Starts it on `cores` and waits until it accepts; `None` if it isn't installed.
    ///
    /// # Errors
    /// It is there, and doesn't start; or it is one of ours, and was not built.
    pub fn start(self, cores: &[usize]) -> anyhow::Result<Option<Running>> {
        match self {
            Contender::FloorTwo => return cluster::floors(self, 2, cores).map(Some),
            Contender::FloorThree => return cluster::floors(self, 3, cores).map(Some),
            Contender::OursDirect | Contender::OursRegion => return cluster::ours(self, cores).map(Some),
            Contender::Floor
            | Contender::FloorEpoll
            | Contender::Ours
            | Contender::OursSpinning
            | Contender::OursEpoll
            | Contender::Nats
            | Contender::Redis
            | Contender::Mosquitto
            | Contender::Rumqttd => {}
        }
        let Some(program) = self.program()? else {
            return Ok(None);
        };
        let directory = tempfile::tempdir().context("a directory for a server")?;
        // A port that was free may be taken by somebody else before the server has it: then another.
        for _ in 0..ATTEMPTS {
            let address = free_address()?;
            let mut command = self.command(&program, address, directory.path(), cores)?;
            command.current_dir(directory.path());
            let mut server = Running::new(self);
            server.spawn(&mut command, cores)?;
            if server.accepts(address)? {
                server.addresses.push(address);
                server.directory = Some(directory);
                return Ok(Some(server));
            }
        }
        bail!("{self}: {} ends as soon as it is started", program.display())
    }

    fn program(self) -> anyhow::Result<Option<PathBuf>> {
        let name = match self.protocol() {
            Kind::Floor => return built("floor").map(Some),
            Kind::Native => return built("trunkline").map(Some),
            Kind::Nats => "nats-server",
            Kind::Redis => "redis-server",
            Kind::Mqtt if self == Contender::Rumqttd => "rumqttd",
            Kind::Mqtt => "mosquitto",
        };
        let paths = std::env::var_os("PATH").unwrap_or_default();
        // Where distributions put servers, which not everybody's path names.
        let places = std::env::split_paths(&paths).chain([PathBuf::from("/usr/sbin")]);
        Ok(places.map(|place| place.join(name)).find(|path| path.is_file()))
    }

    fn command(
        self,
        program: &Path,
        address: SocketAddr,
        directory: &Path,
        cores: &[usize],
    ) -> anyhow::Result<Command> {
        let mut command = Command::new(program);
        let port = address.port().to_string();
        match self.protocol() {
            Kind::Floor => {
                let backend = if self == Contender::FloorEpoll {
                    "epoll"
                } else {
                    "uring"
                };
                let core = cores.first().context("a server needs a processor")?.to_string();
                command.args(["--backend", backend, "--listen", &address.to_string(), "--core", &core]);
            }
            Kind::Native => {
                let backend = if self == Contender::OursEpoll { "epoll" } else { "uring" };
                let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
                let other = "127.0.0.1:0";
                command.args(["up", "--backend", backend, "--cores", &cores.join(",")]);
                command.arg("--data-dir").arg(directory);
                command.args(["--device-listen", &address.to_string(), "--peer-listen", other]);
                command.args(["--control-listen", other, "--http-listen", other]);
                if self == Contender::OursSpinning {
                    command.args(["--spin-us", SPIN_US]);
                }
            }
            Kind::Nats => {
                command.args(["-a", "127.0.0.1", "-p", &port]);
            }
            Kind::Redis => {
                // Not protected: the load comes from other addresses of this host's as well. Nothing is saved.
                command.args(["--port", &port, "--bind", "127.0.0.1", "--protected-mode", "no"]);
                command.args(["--save", "", "--appendonly", "no", "--maxclients", "100000"]);
            }
            Kind::Mqtt if self == Contender::Rumqttd => {
                let text = format!(
                    "id = 0\n[router]\nid = 0\nmax_connections = 20000\nmax_outgoing_packet_count = 10000\n\
                     max_segment_size = 104857600\nmax_segment_count = 10\n[v4.1]\nname = \"v4\"\nlisten = \"{address}\"\n\
                     next_connection_delay_ms = 0\n[v4.1.connections]\nconnection_timeout_ms = 60000\n\
                     max_payload_size = 70000\nmax_inflight_count = 10000\ndynamic_filters = true\n"
                );
                command.arg("-c").arg(written(directory, "rumqttd.toml", &text)?);
            }
            Kind::Mqtt => {
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\nmax_queued_messages 0\npersistence false\n"
                );
                command.arg("-c").arg(written(directory, "mosquitto.conf", &text)?);
            }
        }
        Ok(command)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.to_possible_value().expect("every contender has a name").get_name())
    }
}

/// The processes of a server that were started. They end when this is dropped.
pub struct Running {
    /// Which.
    pub contender: Contender,
    children: Vec<Child>,
    /// Where devices connect: of each of its servers one.
    pub addresses: Vec<SocketAddr>,
    /// What they write goes with them.
    pub directory: Option<tempfile::TempDir>,
}

impl Running {
    /// Of no process yet.
    pub fn new(contender: Contender) -> Running {
        Running {
            contender,
            children: Vec::new(),
            addresses: Vec::new(),
            directory: None,
        }
    }

    /// Starts one more process, on `cores`.
    ///
    /// # Errors
    /// It can't be started.
    pub fn spawn(&mut self, command: &mut Command, cores: &[usize]) -> anyhow::Result<()> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command
            .spawn()
            .with_context(|| format!("{}: {command:?} does not start", self.contender))?;
        // Before its threads start, or as they do: they inherit it, and ours pin themselves to the same.
        pin(self.contender, child.id(), cores);
        self.children.push(child);
        Ok(())
    }

    /// From now on it runs on `cores`, each thread of it, those that pinned themselves too.
    pub fn confine(&self, cores: &[usize]) {
        for child in &self.children {
            let threads = std::fs::read_dir(format!("/proc/{}/task", child.id()))
                .into_iter()
                .flatten();
            for thread in threads.flatten() {
                if let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) {
                    pin(self.contender, thread, cores);
                }
            }
        }
    }

    /// As the generator wants it.
    ///
    /// # Panics
    /// If it has no address.
    pub fn target(&self) -> Target {
        let (first, also) = self.addresses.split_first().expect("a server that runs has an address");
        Target {
            name: self.contender.to_string(),
            protocol: self.contender.protocol(),
            address: *first,
            also: also.to_vec(),
            pids: self.children.iter().map(Child::id).collect(),
        }
    }

    /// Waits until the last process that was started accepts; false if it has ended.
    ///
    /// # Errors
    /// It does neither.
    pub fn accepts(&mut self, address: SocketAddr) -> anyhow::Result<bool> {
        self.awaits(&format!("does not accept at {address}"), || {
            TcpStream::connect(address).is_ok()
        })
    }

    /// Waits until `is_so`; false if the last process that was started has ended.
    ///
    /// # Errors
    /// It takes too long: `failure` says what didn't happen.
    pub fn awaits(&mut self, failure: &str, is_so: impl Fn() -> bool) -> anyhow::Result<bool> {
        let end = Instant::now() + START_MAX;
        while self
            .children
            .last_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
        {
            if is_so() {
                return Ok(true);
            }
            if Instant::now() > end {
                bail!("{}: {failure} within {START_MAX:?}", self.contender);
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A program of this workspace, beside this one.
///
/// # Errors
/// It was not built.
pub fn built(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("the path of this program")?;
    let path = own.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not there: cargo build --release --workspace", path.display());
    }
    Ok(path)
}

/// A file with this text.
///
/// # Errors
/// It can't be written.
pub fn written(directory: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = directory.join(name);
    std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    Ok(path)
}

/// An address that nobody has at the moment.
///
/// # Errors
/// There is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("a free port")?;
    Ok(listener.local_addr()?)
}

/// A thread runs where it is told: of a process the first, and with it those that it starts from then on.
fn pin(contender: Contender, thread: u32, cores: &[usize]) {
    let mut set = CpuSet::new();
    let named = cores.iter().all(|&core| set.set(core).is_ok());
    if !named || sched_setaffinity(Pid::from_raw(thread as i32), &set).is_err() {
        eprintln!("{contender} could not be pinned to {cores:?} and runs anywhere");
    }
}

/// Longer than most pauses at 20,000 messages a second, in microseconds.
const SPIN_US: &str = "100";
/// Ports to try.
const ATTEMPTS: usize = 5;
/// A server that takes longer to start doesn't work.
const START_MAX: Duration = Duration::from_secs(30);
/// Between looks at a server that starts.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
