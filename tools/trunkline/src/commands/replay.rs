//! `trunkline replay`: a message trace through a running cluster, or through a model of one.

mod cluster;
mod figures;
mod ground;
mod model;
mod scale;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::bail;

use self::cluster::{ClusterArgs, Gate, WayArgs};
use self::model::ModelArgs;
use crate::output::Progress;
use crate::signals::Stop;
use crate::workload::{Door, Pace, Run, Trace, WINDOW_DEFAULT};

/// Plays a message trace: through a running cluster, as fast as reports come back; with --cluster, through a real one by the clock; or, with
/// --nodes, --budget or --policy, through a model of one, in the trace's own time.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline replay messages.txt
  trunkline replay messages.txt --server 10.0.0.1:7400,10.0.0.2:7400 --json
  trunkline replay messages.txt --nodes 64 --budget 8 --policy predictor --seed 1 --json
  trunkline replay messages.txt --nodes 64 --plot policies.svg
  trunkline replay messages.txt --scale --plot scale.svg
  trunkline replay messages.txt --cluster --speed 60 --server 10.0.0.2:7400,10.0.0.3:7400 --http 10.0.0.2:7480,10.0.0.3:7480
  trunkline replay messages.txt --cluster --start 4 --speed 600 --link-open 50ms --way 1ms --way-to-region 20ms

A trace has one message a line: sender recipient unix_seconds, in the order of time.

The model says how often the link to the recipient's server was there before the message (hit), whether the recipient's place was
known (location_known), and what that took: dials_per_message, wasted_dials (whose link never carried a message), links_mean and
links_max of a node, and cost = (1 - hit) + 0.1 x dials_per_message.

With --cluster, hit is the share of messages between two servers that went direct. Whoever was silent for half an hour of the trace comes
back at another server; of its first message (first) it is also said what the model says of it. What the servers count while others use
them too is counted in.")]
pub struct Args {
    /// The trace.
    #[arg(value_name = "TRACE", required_unless_present = "trace_file")]
    trace: Option<PathBuf>,
    /// The trace, by name.
    #[arg(
        long = "trace",
        value_name = "FILE",
        conflicts_with = "trace",
        hide_short_help = true
    )]
    trace_file: Option<PathBuf>,
    /// Device ports of the connection servers; the devices spread over them.
    #[arg(long = "server", env = "TRUNKLINE_SERVER", value_delimiter = ',', default_value = super::DEVICE_ADDRESS)]
    servers: Vec<SocketAddr>,
    /// Signs the devices' tokens, where the servers ask for them.
    #[arg(long, env = "TRUNKLINE_TOKEN_KEY_FILE")]
    token_key_file: Option<PathBuf>,
    /// How many messages are under way at a time.
    #[arg(long, default_value_t = WINDOW_DEFAULT, value_parser = window)]
    window: usize,
    /// Seeds what the devices draw at random: jitter, or where they attach in the model.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    ways: WayArgs,
    #[command(flatten)]
    model: ModelArgs,
}

/// At least one message has to be under way.
pub fn window(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(window @ 1..=1_000_000) => Ok(window),
        _ => Err("use a number from 1 to 1000000".into()),
    }
}

/// Plays the trace and prints what became of it.
///
/// # Errors
/// If a message was not delivered, or was lost, misdelivered or out of order; in the model, if the trace can't be read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let path: &Path = args
        .trace
        .as_deref()
        .or(args.trace_file.as_deref())
        .expect("one of the two is required");
    let trace = Trace::read(path)?;
    if args.model.is_asked() && !args.cluster.is_asked() {
        return self::model::run(&args.model, &args.ways, &trace, args.seed, args.json);
    }
    let token_key = args
        .token_key_file
        .as_deref()
        .map(|path| super::secret("--token-key-file", path))
        .transpose()?;
    if args.cluster.is_asked() {
        let gate = Gate {
            servers: args.servers.clone(),
            token_key,
        };
        return self::cluster::run(
            &args.cluster,
            &args.ways,
            &args.model,
            gate,
            &trace,
            args.seed,
            args.json,
        );
    }
    let stop = Stop::listen()?;
    let door = Door {
        servers: args.servers.clone(),
        places: Vec::new(),
        token_key,
    };
    let mut progress = Progress::new("devices", trace.devices().len());
    let mut run = Run::connect(&door, &trace, args.seed, &mut |welcomed| progress.at(welcomed))?;
    progress.end();
    let mut progress = Progress::new("messages", trace.messages().len());
    let summary = run.send_all(&trace, Pace::Window(args.window), &mut |summary| {
        progress.at(summary.reported as usize);
        stop.flow()
    })?;
    progress.end();
    if args.json {
        println!("{}", summary.json());
    } else {
        println!("{summary}");
    }
    if !summary.is_complete() {
        bail!("not all messages were delivered, each once and in order");
    }
    Ok(())
}
