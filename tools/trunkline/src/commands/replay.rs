//! `trunkline replay`: a message trace through a running cluster.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::bail;

use crate::output::Progress;
use crate::signals::Stop;
use crate::workload::{Door, Pace, Run, Trace, WINDOW_DEFAULT};

/// Plays a message trace through a running cluster, as fast as reports come back.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline replay messages.txt
  trunkline replay messages.txt --server 10.0.0.1:7400,10.0.0.2:7400 --json

A trace has one message a line: sender recipient unix_seconds, in the order of time.")]
pub struct Args {
    /// The trace.
    trace: PathBuf,
    /// Device ports of the connection servers; the devices spread over them.
    #[arg(long = "server", env = "TRUNKLINE_SERVER", value_delimiter = ',', default_value = super::DEVICE_ADDRESS)]
    servers: Vec<SocketAddr>,
    /// Signs the devices' tokens, where the servers ask for them.
    #[arg(long, env = "TRUNKLINE_TOKEN_KEY_FILE")]
    token_key_file: Option<PathBuf>,
    /// How many messages are under way at a time.
    #[arg(long, default_value_t = WINDOW_DEFAULT, value_parser = window)]
    window: usize,
    /// Seeds what the devices draw at random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
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
/// If a message was not delivered, or was lost, misdelivered or out of order.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let trace = Trace::read(&args.trace)?;
    let token_key = args
        .token_key_file
        .as_deref()
        .map(|path| super::secret("--token-key-file", path))
        .transpose()?;
    let door = Door {
        servers: args.servers.clone(),
        token_key,
    };
    let mut progress = Progress::new("devices", trace.devices().len());
    let mut run = Run::connect(&door, &trace, args.seed, &mut |welcomed| progress.at(welcomed))?;
    progress.end();
    let mut progress = Progress::new("messages", trace.messages().len());
    let summary = run.send_all(&trace, Pace::Window(args.window), &mut |summary| {
        progress.at(summary.reported as usize);
        if stop.is_asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
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
