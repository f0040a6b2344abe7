//! A cluster of this very binary's processes on loopback: started, found ready, killed, started again, ended.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a process may take until it says that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a process may take to end when it is asked to: its drain, and a little.
const END_TIMEOUT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// One process of the cluster.
pub struct Process {
    name: String,
    arguments: Vec<String>,
    log: PathBuf,
    namespace: Option<PathBuf>,
    child: Child,
    ready: Value,
}

impl Process {
    /// Starts `trunkline` with these arguments, in the network namespace of that file if one is named, and waits for its line that says
    /// where it listens. Its log goes to a file in `logs`.
    ///
    /// The process ends by itself when this one does, since its standard input is then closed.
    ///
    /// # Errors
    /// If it ends, or isn't ready in time: with the last line of its log.
    pub fn start(
        name: &str,
        arguments: Vec<String>,
        logs: &Path,
        namespace: Option<PathBuf>,
    ) -> anyhow::Result<Process> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| log.display().to_string())?;
        let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
        command
            .args(&arguments)
            .args(["--json", "--end-with-stdin", "--log", "info"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file);
        let spawned = match &namespace {
            None => command.spawn(),
            Some(namespace) => spawn_in(&mut command, namespace),
        };
        let mut child = spawned.with_context(|| format!("{name} could not be started"))?;
        let stdout = child.stdout.take().expect("it is piped");
        let (lines, first) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Once nobody asks for lines, they are read on, so that the process never waits for its output.
                let _ = lines.send(line);
            }
        });
        let ready = first
            .recv_timeout(READY_TIMEOUT)
            .ok()
            .and_then(|line| serde_json::from_str(&line).ok());
        let Some(ready) = ready else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} did not start: {}", last_line(&log));
        };
        Ok(Process {
            name: name.into(),
            arguments,
            log,
            namespace,
            child,
            ready,
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An address that it said it listens on: `device`, `peer`, `control` or `http`.
    ///
    /// # Errors
    /// If it said nothing of the kind.
    pub fn address(&self, port: &str) -> anyhow::Result<SocketAddr> {
        let said = self
            .ready
            .get(port)
            .and_then(Value::as_str)
            .and_then(|text| text.parse().ok());
        said.with_context(|| format!("{} names no {port} address", self.name))
    }

    /// Ends it without a warning, as a power cut would.
    ///
    /// # Errors
    /// What the system said.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("wait for {}", self.name))?;
        Ok(())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as SIGSTOP.
    ///
    /// # Errors
    /// What the system said.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Starts it again where it listened before.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn restart(&mut self, logs: &Path) -> anyhow::Result<()> {
        let mut arguments = self.arguments.clone();
        for (flag, port) in [
            ("--device-listen", "device"),
            ("--peer-listen", "peer"),
            ("--http-listen", "http"),
            ("--listen", "control"),
        ] {
            if let (Some(at), Ok(address)) = (
                arguments.iter().position(|argument| argument == flag),
                self.address(port),
            ) {
                arguments[at + 1] = address.to_string();
            }
        }
        *self = Process::start(&self.name.clone(), arguments, logs, self.namespace.clone())?;
        Ok(())
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// If it doesn't, or fails.
    pub fn end(&mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).with_context(|| format!("end {}", self.name))?;
        let until = Instant::now() + END_TIMEOUT;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("{} ended with {status}: {}", self.name, last_line(&self.log));
                }
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        bail!("{} did not end within {END_TIMEOUT:?}", self.name);
    }

    /// Waits until its `/readyz` says yes.
    ///
    /// # Errors
    /// If it doesn't in time: what it says instead.
    pub fn wait_ready(&self) -> anyhow::Result<()> {
        let http = self.address("http")?;
        let until = Instant::now() + READY_TIMEOUT;
        loop {
            let said = match crate::http::text(http, "/readyz", &[]) {
                Ok((200, _)) => return Ok(()),
                Ok((_, text)) => text,
                Err(error) => format!("{error:#}"),
            };
            if Instant::now() > until {
                bail!("{} is not ready: {}", self.name, said.trim());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process is born into the namespace of the thread that starts it.
fn spawn_in(command: &mut Command, namespace: &Path) -> std::io::Result<Child> {
    std::thread::scope(|scope| {
        let born = scope.spawn(|| {
            let file = File::open(namespace)?;
            setns(file, CloneFlags::CLONE_NEWNET)?;
            command.spawn()
        });
        born.join().expect("spawning does not panic")
    })
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().unwrap_or("it logged nothing").to_owned()
}
