//! `trunkline demo`: a cluster of separate processes on loopback, with traffic through it.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::json;
use trunkline_net::backend::Backend;

use super::replay::window;
use crate::cluster::{Cluster, Place, is_edge, names};
use crate::output::Progress;
use crate::signals::Stop;
use crate::workload::{Door, Pace, Run, Trace, WINDOW_DEFAULT};

/// Runs a cluster of separate processes on this host, and plays messages through it.
///
/// Control, two regions with two instances each, and three connection servers, all on loopback; then a trace of confirmed messages
/// between connected devices, as fast as reports come back. Exit code 1 if a message is lost, misdelivered or out of order.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline demo
  trunkline demo --trace messages.txt
  trunkline demo --kill north-1                 one of two instances dies half way
  trunkline demo --rate 20000 --messages 200000 --kill north-1
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
    /// Sends this many messages a second instead, whatever comes of them. Latency then counts from when one should have been sent.
    #[arg(long, conflicts_with = "window", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
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

impl Args {
    fn pace(&self) -> Pace {
        match self.rate {
            Some(rate) => Pace::Rate(rate.into()),
            None => Pace::Window(self.window),
        }
    }
}

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
    let mut demo = Demo(Cluster::start(directory, args.backend, &|name| place(directory, name))?);
    if !args.json {
        println!(
            "{} processes are ready after {:.1} s; their logs: {}",
            demo.0.nodes.len() + 1,
            started.elapsed().as_secs_f64(),
            directory.display()
        );
    }
    let summary = demo.play(args, &trace, &stop)?;
    let ended = demo.0.end();
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
    let edge_died = args.kill.iter().chain(&args.restart).any(|name| is_edge(name));
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

/// Everything on loopback, at ports that are free.
fn place(directory: &Path, name: &str) -> Place {
    Place {
        data: directory.join(name),
        namespace: None,
        listen: |_, _| SocketAddr::from(([127, 0, 0, 1], 0)),
    }
}

struct Demo(Cluster);

impl Demo {
    fn play(&mut self, args: &Args, trace: &Trace, stop: &Stop) -> anyhow::Result<crate::workload::Summary> {
        let servers = self.0.device_addresses()?;
        let mut progress = Progress::new("devices", trace.devices().len());
        let door = Door {
            servers,
            places: Vec::new(),
            token_key: None,
        };
        let mut run = Run::connect(&door, trace, args.seed, &mut |welcomed| progress.at(welcomed))?;
        progress.end();
        if args.stop_control {
            self.0.control.kill()?;
        }
        let half = trace.messages().len() as u64 / 2;
        let mut faults = Some((&args.kill, &args.restart));
        let mut fault_error = None;
        let mut progress = Progress::new("messages", trace.messages().len());
        let summary = run.send_all(trace, args.pace(), &mut |summary| {
            progress.at(summary.reported as usize);
            if summary.reported >= half
                && let Some((kill, restart)) = faults.take()
                && let Err(error) = self.strike(kill, restart)
            {
                fault_error = Some(error);
                return ControlFlow::Break(());
            }
            stop.flow()
        })?;
        progress.end();
        match fault_error {
            Some(error) => Err(error),
            None => Ok(summary),
        }
    }

    /// The faults that were asked for.
    fn strike(&mut self, kill: &[String], restart: &[String]) -> anyhow::Result<()> {
        for process in &mut self.0.nodes {
            let named = |names: &[String]| names.iter().any(|name| name == process.name());
            let (kill, restart) = (named(kill), named(restart));
            if kill || restart {
                process.kill()?;
            }
            if restart {
                process.restart(&self.0.directory)?;
            }
        }
        Ok(())
    }
}
