//! `trunkline chaos`: faults against a cluster of real processes, and what its devices saw.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Map, Value, json};
use trunkline_net::backend::Backend;

use crate::chaos::network::run_inside;
use crate::chaos::{Breach, Kind, Settings, Verdict, run as play};
use crate::signals::Stop;

/// Breaks a cluster of real processes again and again, under traffic, and checks from outside that it keeps its promises.
///
/// The cluster of `demo`, each process in a network namespace of its own. Faults come one after the other, drawn by seed; after each,
/// the cluster has 30 seconds to come together. Senders and recipients append what they see to a ledger. Exit code 1 if a confirmed
/// message is lost, misdelivered, out of order, without its one report, or not delivered although nothing was in its way.
///
/// Needs root, and `ip`, `tc` and `prlimit`. The host's own network is not touched, and nothing is left behind.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline chaos                               three minutes
  trunkline chaos --minutes 600 --seed 7 --data-dir soak
  trunkline chaos --faults kill,pause --rate 5000")]
pub struct Args {
    /// How long faults come, in minutes.
    #[arg(long, default_value_t = 3.0, value_parser = minutes)]
    minutes: f64,
    /// Seeds the faults, and the traffic.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which faults.
    #[arg(long, value_delimiter = ',', default_values_t = Kind::ALL, hide_default_value = true)]
    faults: Vec<Kind>,
    /// How many messages a second are sent, over all devices.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// How many devices.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(2..=5_000))]
    devices: u32,
    /// How the nodes' threads reach the kernel: auto, uring or epoll.
    #[arg(long, env = "TRUNKLINE_BACKEND", default_value = "auto")]
    backend: Backend,
    /// Where the processes' logs and the ledger are kept; a temporary directory otherwise.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// The sandbox is there.
    #[arg(long, hide = true)]
    inside: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(minutes) if (0.05..=100_000.0).contains(&minutes) => Ok(minutes),
        _ => Err("use minutes, from 0.05 to 100000".into()),
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use clap::ValueEnum;
        let value = self.to_possible_value().expect("no kind is skipped");
        f.write_str(value.get_name())
    }
}

/// Makes a sandbox; in it, plays and judges.
///
/// # Errors
/// If the host doesn't allow it; or a promise was broken.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.inside {
        // It has said why.
        let status = run_inside()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let stop = Stop::listen()?;
    let temporary = tempfile::tempdir().context("a temporary directory")?;
    let directory = args.data_dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let settings = Settings {
        seed: args.seed,
        lasts: Duration::from_secs_f64(60.0 * args.minutes),
        rate: args.rate,
        devices: args.devices as usize,
        kinds: args.faults.clone(),
        backend: args.backend,
        directory,
    };
    let verdict = play(&settings, &stop, &mut |line| {
        if !args.json {
            println!("{line}");
        }
    })?;
    for example in verdict.judge.examples() {
        eprintln!("{example}");
    }
    if args.json {
        println!("{}", as_json(args, &verdict));
    } else {
        println!("{}", as_text(&verdict));
    }
    if !verdict.judge.is_sound() {
        bail!(
            "promises were broken; play them again with --seed {} and a --data-dir for logs and ledger",
            args.seed
        );
    }
    Ok(())
}

fn as_json(args: &Args, verdict: &Verdict) -> Value {
    let judge = &verdict.judge;
    let faults: Map<String, Value> = verdict
        .faults
        .iter()
        .map(|(kind, count)| (kind.to_string(), json!(count)))
        .collect();
    let mut object = json!({
        "seed": args.seed,
        "seconds": verdict.elapsed.as_secs_f64(),
        "devices": args.devices,
        "faults": faults,
        "changes": verdict.changes,
        "sent": verdict.sent,
        "held_back": verdict.held_back,
        "reported": judge.reported_count(),
        "outcomes": judge.outcomes(),
        "late": judge.late(),
        "disconnects": verdict.disconnects,
        "sound": judge.is_sound(),
    });
    for (breach, name) in Breach::ALL {
        object[name] = json!(judge.count(breach));
    }
    object
}

fn as_text(verdict: &Verdict) -> String {
    let judge = &verdict.judge;
    let list = |pairs: &mut dyn Iterator<Item = (String, u64)>| {
        let words: Vec<String> = pairs.map(|(name, count)| format!("{name} {count}")).collect();
        words.join(", ")
    };
    let faults = list(&mut verdict.faults.iter().map(|(kind, count)| (kind.to_string(), *count)));
    let changes = verdict.changes.iter();
    let changes = list(&mut changes.map(|(name, count)| ((*name).to_owned(), *count)));
    let outcomes = judge.outcomes().iter();
    let outcomes = list(&mut outcomes.map(|(name, count)| ((*name).to_owned(), *count)));
    let breaches = Breach::ALL.iter();
    let breaches = list(&mut breaches.map(|(breach, name)| (name.replace('_', " "), judge.count(*breach))));
    format!(
        "faults        {faults}\nchanges       {changes}\nmessages      {} sent, {} reported: {outcomes}; late {}\nconnections   {} lost, over {:.0} s\nchecks        {breaches}",
        verdict.sent,
        judge.reported_count(),
        judge.late(),
        verdict.disconnects,
        verdict.elapsed.as_secs_f64()
    )
}
