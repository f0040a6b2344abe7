//! `trunkline load`: load over real sockets, and what it cost.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use trunkline_load::plan::{PAYLOAD_BYTES_MAX, PAYLOAD_BYTES_MIN, Plan, Spacing, Work};
use trunkline_load::protocol::Kind;
use trunkline_load::run::{raise_descriptors, run as play};
use trunkline_load::summary::Summary;
use trunkline_load::target::Target;
use trunkline_load::{plot, report};

use crate::output::Progress;
use crate::signals::Stop;

/// Loads one or more servers over real sockets: throughput, latency, loss and order, and what it cost the server.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("work").args(["rate", "idle", "connects", "outstanding"]),
    after_help = "Examples:
  trunkline load                                               200 connections, 32 messages outstanding each
  trunkline load --rate 50000 --pid 123 --svg load.svg         50,000 messages a second, whatever comes of them
  trunkline load --idle 10000 --pid 123                        the server's memory for each idle connection
  trunkline load --connects                                    connect, hello, welcome, close, again and again
  trunkline load --target ours=native:127.0.0.1:7400,pid=123 \\
                 --target floor=floor:127.0.0.1:9000,pid=456 \\
                 --rounds 5 --base floor --core 1              two servers in turn: medians and ratios

The closed loop's latency is mostly waiting behind its own messages; for latency use --rate, where it counts from the time at which a
message was meant to be sent."
)]
pub struct Args {
    /// A server: NAME=PROTOCOL:ADDRESS:PORT[,also=ADDRESS:PORT][,pid=PID], PROTOCOL being native, floor, nats, redis or mqtt; with `also`
    /// a cluster's several servers; with several `pid` the sum of these processes is reported. Several targets are loaded in turn.
    #[arg(long = "target", value_name = "TARGET", conflicts_with_all = ["server", "pid"])]
    targets: Vec<Target>,
    /// A Trunkline server's device port, if no target is named.
    #[arg(long, env = "TRUNKLINE_SERVER", default_value = super::DEVICE_ADDRESS)]
    server: SocketAddr,
    /// Its process, on this host: its processor time and memory are reported.
    #[arg(long)]
    pid: Option<u32>,
    /// How many rounds each target has.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// The target that the others are compared with, by name; the first otherwise.
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// How many connections; with --connects, how many are under way at a time.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// Closed loop: how many messages each connection has outstanding [default: 32].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024))]
    outstanding: Option<u32>,
    /// Open loop: how many messages a second are sent, over all connections.
    #[arg(long, value_parser = rate)]
    rate: Option<f64>,
    /// Sends the open loop's messages evenly, not at random times.
    #[arg(long, requires = "rate")]
    even: bool,
    /// Holds so many connections open, and sends nothing.
    #[arg(long, value_name = "CONNECTIONS", conflicts_with = "connections", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    idle: Option<u32>,
    /// Opens and closes connections as fast as they are welcomed.
    #[arg(long)]
    connects: bool,
    /// Asks for reports, where the protocol has them.
    #[arg(long)]
    confirmed: bool,
    /// Sends only to connections of the target's next server (see `also`), so that each message passes two of them.
    #[arg(long)]
    across: bool,
    /// Bytes of payload.
    #[arg(long, default_value_t = 128, value_parser = payload)]
    payload: usize,
    /// How long is measured in each round, in seconds.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How long it runs before that, in seconds.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warm_up: f64,
    /// Ends a round when so many messages were delivered.
    #[arg(long, value_name = "MESSAGES")]
    messages: Option<u64>,
    /// Threads; connections send to others of their own thread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// The processors of the threads, in turn.
    #[arg(long, value_name = "N", value_delimiter = ',')]
    core: Vec<usize>,
    /// Seeds who sends to whom, and when.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draws latency by percentile and throughput into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=100e6).contains(&rate) => Ok(rate),
        _ => Err("use messages a second, from 0.1 to 100000000".into()),
    }
}

fn payload(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX) => Ok(bytes),
        _ => Err(format!("use {PAYLOAD_BYTES_MIN} to {PAYLOAD_BYTES_MAX} bytes")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=3_000.0).contains(&seconds) => Ok(seconds),
        _ => Err("use seconds, from 0 to 3000".into()),
    }
}

impl Args {
    fn targets(&self) -> Vec<Target> {
        if !self.targets.is_empty() {
            return self.targets.clone();
        }
        vec![Target {
            name: Kind::Native.name().into(),
            protocol: Kind::Native,
            address: self.server,
            also: Vec::new(),
            pids: self.pid.into_iter().collect(),
        }]
    }

    fn plan(&self) -> Plan {
        let spacing = if self.even { Spacing::Fixed } else { Spacing::Poisson };
        let work = match (self.rate, self.idle) {
            (Some(rate), _) => Work::Open { rate, spacing },
            (None, Some(_)) => Work::Idle,
            (None, None) if self.connects => Work::Connects,
            (None, None) => Work::Closed {
                outstanding: self.outstanding.unwrap_or(32),
            },
        };
        Plan {
            work,
            connections: self.idle.unwrap_or(self.connections) as usize,
            threads: self.threads.into(),
            payload_bytes: self.payload,
            confirmed: self.confirmed,
            across: self.across,
            measured: Duration::from_secs_f64(self.seconds),
            warm_up: Duration::from_secs_f64(self.warm_up),
            messages_max: self.messages,
            seed: self.seed,
            cores: self.core.clone(),
        }
    }
}

/// Loads them, and prints what it found.
///
/// # Errors
/// A setting that can't be, a target that can't be used; or messages that were lost, doubled or out of order.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (targets, plan) = (args.targets(), args.plan());
    if args.seconds == 0.0 {
        bail!("--seconds 0: nothing would be measured");
    }
    for (place, target) in targets.iter().enumerate() {
        if targets[..place].iter().any(|other| other.name == target.name) {
            bail!(
                "--target {}: two targets have this name; use NAME=PROTOCOL:ADDRESS:PORT",
                target.name
            );
        }
        if plan.confirmed && !target.protocol.confirms() {
            bail!("--confirmed: {} has no confirmed messages", target.protocol.name());
        }
    }
    let base = match &args.base {
        None => 0,
        Some(name) => targets
            .iter()
            .position(|target| target.name == *name)
            .with_context(|| format!("--base {name}: no target has this name"))?,
    };
    raise_descriptors(plan.connections)?;
    // Before anything is measured, not after it.
    let picture = args.svg.as_ref().map(|path| {
        let file = std::fs::File::create(path);
        file.with_context(|| format!("--svg {}: cannot be written", path.display()))
    });
    let picture = picture.transpose()?;

    let stop = Stop::listen()?;
    let mut bar = Progress::new("load", targets.len() * usize::from(args.rounds) * STEPS);
    let shown = std::io::stderr().is_terminal();
    let rounds = play(&plan, &targets, args.rounds.into(), &mut |progress| {
        if shown {
            bar.at(progress.done * STEPS + (progress.part * STEPS as f64) as usize);
        }
        if stop.is_asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    bar.end();

    let summary = Summary::new(plan, targets, rounds, base);
    if let (Some(mut file), Some(path)) = (picture, &args.svg) {
        file.write_all(plot::svg(&summary).as_bytes())
            .with_context(|| format!("--svg {}: cannot be written", path.display()))?;
    }
    if args.json {
        println!("{}", report::json(&summary));
    } else {
        println!("{summary}");
    }
    let faults = summary.faults();
    if !faults.is_clean() {
        bail!(
            "{} messages were lost, {} out of order, {} doubled, {} stray",
            faults.lost,
            faults.out_of_order,
            faults.doubled,
            faults.stray
        );
    }
    Ok(())
}

/// A round's progress, in steps of the bar.
const STEPS: usize = 100;
