//! `trunkline demo`: a cluster of separate processes on loopback, with traffic through it.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;
use trunkline_net::backend::Backend;

use super::replay::window;
use crate::output::Progress;
use crate::processes::Process;
use crate::signals::Stop;
use crate::workload::{Door, Run, Trace, WINDOW_DEFAULT};

/// Runs a cluster of separate processes on this host, and plays messages through it.
///
/// Control, two regions with two instances each, and three connection servers, all on loopback; then a trace of confirmed messages
/// between connected devices, as fast as reports come back. Exit code 1 if a message is lost, misdelivered or out of order.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline demo
  trunkline demo --trace messages.txt
  trunkline demo --kill north-1                 one of two instances dies half way
  trunkline demo --stop-control --restart edge-1

The processes are: control, north-1, north-2, south-1, south-2, edge-1, edge-2, edge-3.")]
pub struct Args {
    /// A trace to play: sender recipient unix_seconds a line. Otherwise one is made up.
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Seeds the made-up trace, and what the devices draw at random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many messages the made-up trace has.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    messages: u32,
    /// How many devices the made-up trace has.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(2..=9_999))]
    devices: u32,
    /// How many messages are under way at a time.
    #[arg(long, default_value_t = WINDOW_DEFAULT, value_parser = window)]
    window: usize,
    /// Kills this process (SIGKILL) when half of the messages are reported. Of a connection server's devices every message must
    /// still be reported, though not all delivered.
    #[arg(long, value_name = "PROCESS")]
    kill: Vec<String>,
    /// Kills this process when half of the messages are reported, and starts it again.
    #[arg(long, value_name = "PROCESS")]
    restart: Vec<String>,
    /// Kills control before the first message.
    #[arg(long)]
    stop_control: bool,
    /// How the nodes' threads reach the kernel: auto, uring or epoll.
    #[arg(long, env = "TRUNKLINE_BACKEND", default_value = "auto")]
    backend: Backend,
    /// Where the processes keep their data and logs; a temporary directory otherwise.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

const REGIONS: [&str; 2] = ["north", "south"];
const INSTANCES: usize = 2;
const EDGES: usize = 3;

/// Runs the cluster and the trace, and prints what became of it.
///
/// # Errors
/// If the cluster doesn't start, or a message is lost, misdelivered or out of order.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let trace = match &args.trace {
        Some(path) => Trace::read(path)?,
        None => Trace::synthetic(args.seed, args.devices as usize, args.messages as usize),
    };
    let temporary;
    let directory = match &args.data_dir {
        Some(path) => path.as_path(),
        None => {
            temporary = tempfile::tempdir().context("a temporary directory")?;
            temporary.path()
        }
    };
    for name in args.kill.iter().chain(&args.restart) {
        if !names().any(|known| known == *name) {
            let all: Vec<String> = names().collect();
            bail!("there is no process {name:?}: use one of {}", all.join(", "));
        }
    }
    let started = Instant::now();
    let mut cluster = Cluster::start(directory, args.backend)?;
    if !args.json {
        println!(
            "{} processes are ready after {:.1} s; their logs: {}",
            cluster.processes.len() + 1,
            started.elapsed().as_secs_f64(),
            directory.display()
        );
    }
    let summary = cluster.play(args, &trace, &stop)?;
    let ended = cluster.end();
    if args.json {
        let mut object = summary.json();
        object["devices"] = json!(trace.devices().len());
        object["killed"] = json!(args.kill);
        object["restarted"] = json!(args.restart);
        println!("{object}");
    } else {
        println!("{summary}");
    }
    // Who was connected to a server that dies may miss messages meanwhile: all must be reported, not all delivered.
    let edge_died = args
        .kill
        .iter()
        .chain(&args.restart)
        .any(|name| name.starts_with("edge-"));
    match (summary.is_sound(), summary.is_complete() || edge_died) {
        (true, true) => ended,
        (true, false) => bail!(
            "{} of {} messages were not delivered",
            summary.messages as u64 - summary.delivered,
            summary.messages
        ),
        (false, _) => bail!("messages were lost, misdelivered, out of order or without their one report"),
    }
}

fn names() -> impl Iterator<Item = String> {
    let instances = REGIONS
        .iter()
        .flat_map(|region| (1..=INSTANCES).map(move |n| format!("{region}-{n}")));
    instances.chain((1..=EDGES).map(|n| format!("edge-{n}")))
}

struct Cluster {
    directory: PathBuf,
    control: Process,
    processes: Vec<Process>,
}

impl Cluster {
    fn start(directory: &Path, backend: Backend) -> anyhow::Result<Cluster> {
        let make = |path: &Path| std::fs::create_dir_all(path).with_context(|| path.display().to_string());
        make(directory)?;
        trunkline_node::identity::read_or_make_secret(directory)?;
        let logs = directory.to_owned();
        let path = |name: &str| directory.join(name).display().to_string();
        let flags = |pairs: &[(&str, &str)]| -> Vec<String> {
            pairs
                .iter()
                .flat_map(|(flag, value)| [flag.to_string(), value.to_string()])
                .collect()
        };
        let loopback = "127.0.0.1:0";
        let mut arguments = vec!["control".to_owned()];
        arguments.extend(flags(&[
            ("--listen", loopback),
            ("--http-listen", loopback),
            ("--data-dir", &path("control")),
            ("--secret-file", &path("secret")),
            ("--initial-regions", &REGIONS.join(",")),
        ]));
        let control = Process::start("control", arguments, &logs)?;
        let address = control.address("control")?.to_string();
        let backend = backend.to_string();
        let mut processes = Vec::new();
        for name in names() {
            let mut arguments = vec!["node".to_owned()];
            arguments.extend(flags(&[
                ("--name", &name),
                ("--control", &address),
                ("--data-dir", &path(&name)),
                ("--secret-file", &path("secret")),
                ("--backend", &backend),
                ("--peer-listen", loopback),
                ("--http-listen", loopback),
            ]));
            arguments.extend(match name.rsplit_once('-') {
                Some(("edge", _)) => flags(&[("--roles", "connection"), ("--device-listen", loopback)]),
                Some((region, _)) => flags(&[("--roles", "region"), ("--regions", region)]),
                None => unreachable!("all names have a number"),
            });
            processes.push(Process::start(&name, arguments, &logs)?);
        }
        for process in &processes {
            process.wait_ready()?;
        }
        Ok(Cluster {
            directory: logs,
            control,
            processes,
        })
    }

    fn play(&mut self, args: &Args, trace: &Trace, stop: &Stop) -> anyhow::Result<crate::workload::Summary> {
        let edges = self
            .processes
            .iter()
            .filter(|process| process.name().starts_with("edge-"));
        let servers = edges
            .map(|edge| edge.address("device"))
            .collect::<Result<Vec<SocketAddr>, _>>()?;
        let mut progress = Progress::new("devices", trace.devices().len());
        let door = Door {
            servers,
            token_key: None,
        };
        let mut run = Run::connect(&door, trace, args.seed, &mut |welcomed| progress.at(welcomed))?;
        progress.end();
        if args.stop_control {
            self.control.kill()?;
        }
        let half = trace.messages().len() as u64 / 2;
        let mut faults = Some((&args.kill, &args.restart));
        let mut fault_error = None;
        let mut progress = Progress::new("messages", trace.messages().len());
        let summary = run.send_all(trace, args.window, &mut |summary| {
            progress.at(summary.reported as usize);
            if summary.reported >= half
                && let Some((kill, restart)) = faults.take()
                && let Err(error) = self.strike(kill, restart)
            {
                fault_error = Some(error);
                return ControlFlow::Break(());
            }
            if stop.is_asked() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })?;
        progress.end();
        match fault_error {
            Some(error) => Err(error),
            None => Ok(summary),
        }
    }

    /// The faults that were asked for.
    fn strike(&mut self, kill: &[String], restart: &[String]) -> anyhow::Result<()> {
        for process in &mut self.processes {
            let named = |names: &[String]| names.iter().any(|name| name == process.name());
            let (kill, restart) = (named(kill), named(restart));
            if kill || restart {
                process.kill()?;
            }
            if restart {
                process.restart(&self.directory)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let ended: Vec<_> = self.processes.iter_mut().rev().map(Process::end).collect();
        self.control.end()?;
        ended.into_iter().collect()
    }
}
