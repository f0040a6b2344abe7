//! The program `compare`: see [`trunkline_compare`].
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use trunkline_compare::contender::{Contender, Running};
use trunkline_compare::workload::{Case, Workload};
use trunkline_compare::{exit, syscalls, table};
use trunkline_load::run::{raise_descriptors, run as play};
use trunkline_load::summary::Summary;
use trunkline_load::{plot, report};

/// Compares Trunkline with a bare forwarder and with the servers of other protocols that are installed: one generator, the same cores, in
/// turn.
#[derive(Parser)]
#[command(
    name = "compare",
    after_help = "Examples:
  cargo build --release --workspace && target/release/compare     everything, which takes half an hour
  target/release/compare --workload w1,w5 --rounds 5               two of the workloads
  target/release/compare --contender ours,floor --results results  also as JSON and as pictures"
)]
struct Args {
    /// Which workloads; all otherwise.
    #[arg(long = "workload", value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<Workload>,
    /// Which servers; otherwise all that are installed.
    #[arg(long = "contender", value_name = "NAME", value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Rounds of each server in each workload.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: u16,
    /// How long is measured in each round, in seconds.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// The processor of the servers.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The processor of the generator.
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Writes `compare.json`, and a picture of each case, into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    results: Option<PathBuf>,
    /// Prints one JSON object, on one line, instead of tables.
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.1..=600.0).contains(&seconds) => Ok(seconds),
        _ => Err("use seconds, from 0.1 to 600".into()),
    }
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    if args.server_core == args.generator_core {
        bail!(
            "--server-core and --generator-core are both {}: give each a processor of its own",
            args.server_core
        );
    }
    if let Some(directory) = &args.results {
        let made = std::fs::create_dir_all(directory);
        made.with_context(|| format!("--results {}: cannot be made", directory.display()))?;
    }
    let measured = Duration::from_secs_f64(args.seconds);
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    let wanted = |workload: &&Workload| args.workloads.is_empty() || args.workloads.contains(workload);
    for &workload in Workload::value_variants().iter().filter(wanted) {
        let servers = start(args, workload)?;
        if servers.is_empty() {
            eprintln!("{workload}: none of its servers is there");
            continue;
        }
        for case in workload.cases(measured, args.server_core, args.generator_core) {
            eprintln!("{}", case.title);
            // What has been measured by then, and what others do, isn't lost for one that fails.
            match measure(args, workload, &case, &servers) {
                Ok(report) => reports.push(report),
                Err(error) => {
                    eprintln!("{}: {error:#}", case.file);
                    failed.push(case.file);
                }
            }
        }
    }
    let report = json!({ "event": "compare", "host": table::host(), "cases": reports });
    if args.json {
        println!("{report}");
    }
    if let Some(directory) = &args.results {
        let path = directory.join("compare.json");
        let written = std::fs::write(&path, format!("{report}\n"));
        written.with_context(|| format!("--results: {} cannot be written", path.display()))?;
    }
    if !failed.is_empty() {
        bail!("not measured: {}", failed.join(", "));
    }
    if reports.is_empty() {
        bail!("nothing was measured");
    }
    Ok(())
}

/// One case: all servers in turn, shown as it is done.
fn measure(args: &Args, workload: Workload, case: &Case, servers: &[Running]) -> anyhow::Result<Value> {
    raise_descriptors(case.plan.connections)?;
    for server in servers {
        server.confine(&case.cores);
    }
    let targets: Vec<_> = servers.iter().map(Running::target).collect();
    let rounds = play(&case.plan, &targets, args.rounds.into(), &mut |_| {
        ControlFlow::Continue(())
    })?;
    let base = servers
        .iter()
        .position(|server| matches!(server.contender, Contender::Floor | Contender::FloorTwo));
    let mut syscalls = Vec::new();
    for target in &targets {
        syscalls.push(syscalls::per_message(&case.plan, target)?);
    }
    let summary = Summary::new(case.plan.clone(), targets, rounds, base.unwrap_or(0));
    if let Some(directory) = &args.results {
        let path = directory.join(format!("{}.svg", case.file));
        let written = std::fs::write(&path, plot::svg(&summary));
        written.with_context(|| format!("--results: {} cannot be written", path.display()))?;
    }
    if !args.json {
        println!("{}", table::table(&case.title, &summary, &syscalls));
    }
    let mut report = report::json(&summary);
    report["case"] = case.title.clone().into();
    report["workload"] = workload.to_string().into();
    for (target, calls) in report["targets"].as_array_mut().into_iter().flatten().zip(&syscalls) {
        target["syscalls_per_message"] = (*calls).into();
    }
    Ok(report)
}

/// The servers that take part and are there; who isn't is named.
fn start(args: &Args, workload: Workload) -> anyhow::Result<Vec<Running>> {
    let mut running = Vec::new();
    let wanted = |contender: &&Contender| args.contenders.is_empty() || args.contenders.contains(contender);
    for &contender in Contender::value_variants().iter().filter(wanted) {
        if !workload.has(contender) {
            continue;
        }
        let cores = workload.server_cores(args.server_core, args.generator_core);
        match contender.start(&cores)? {
            Some(server) => running.push(server),
            None => eprintln!("{workload}: without {contender}, which is not installed"),
        }
    }
    Ok(running)
}
