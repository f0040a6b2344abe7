//! The program `compare`: see [`trunkline_compare`].
#![forbid(unsafe_code)]

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use trunkline_compare::contender::{Contender, Running};
use trunkline_compare::workload::Workload;
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
  target/release/compare --contender ours,floor --svg-dir pictures --json > compare.json"
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
    /// Draws a picture of each workload into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    svg_dir: Option<PathBuf>,
    /// Prints one JSON object, on one line.
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
    if let Some(directory) = &args.svg_dir {
        let made = std::fs::create_dir_all(directory);
        made.with_context(|| format!("--svg-dir {}: cannot be made", directory.display()))?;
    }
    let mut reports = Vec::new();
    let wanted = |workload: &&Workload| args.workloads.is_empty() || args.workloads.contains(workload);
    for &workload in Workload::value_variants().iter().filter(wanted) {
        let servers = start(args, workload)?;
        if servers.is_empty() {
            eprintln!("{workload}: none of its servers is there");
            continue;
        }
        for case in workload.cases(Duration::from_secs_f64(args.seconds), args.generator_core) {
            eprintln!("{}", case.title);
            raise_descriptors(case.plan.connections)?;
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
            let summary = Summary::new(case.plan, targets, rounds, base.unwrap_or(0));
            if let Some(directory) = &args.svg_dir {
                let path = directory.join(format!("{}.svg", case.file));
                let written = std::fs::write(&path, plot::svg(&summary));
                written.with_context(|| format!("--svg-dir: {} cannot be written", path.display()))?;
            }
            if args.json {
                let mut report = report::json(&summary);
                report["case"] = case.title.clone().into();
                report["workload"] = workload.to_string().into();
                for (target, calls) in report["targets"].as_array_mut().into_iter().flatten().zip(&syscalls) {
                    target["syscalls_per_message"] = (*calls).into();
                }
                reports.push(report);
            } else {
                println!("{}", table::table(&case.title, &summary, &syscalls));
            }
        }
    }
    if reports.is_empty() && args.json {
        bail!("nothing was measured");
    }
    if args.json {
        println!(
            "{}",
            json!({ "event": "compare", "host": table::host(), "cases": reports })
        );
    }
    Ok(())
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
