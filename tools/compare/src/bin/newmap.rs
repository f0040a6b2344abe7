//! What it costs messages that a node takes over a whole map of many devices that are assigned by name: the latency of one open loop before,
//! and of the same while the map comes, is read, written to disk, and handed to the node's thread.
//!
//! The control plane goes away, a million devices are enrolled where the node can't see it, and it comes back where the node looks for it:
//! the node's version is too old for a difference by then.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::{Value, json};
use trunkline_compare::cluster::{get, is_ready};
use trunkline_compare::contender::{Contender, Running, built, free_address, written};
use trunkline_compare::exit;
use trunkline_control::admin::Admin;
use trunkline_load::plan::{Plan, Spacing, Work};
use trunkline_load::run::{Round, run as play};
use trunkline_wire::auth::Secret;

/// Measures latency while a node takes over a map of many assigned devices, and just before.
#[derive(Parser)]
#[command(name = "newmap")]
struct Args {
    /// Devices that the map assigns by name.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    devices: u32,
    /// Messages a second, at random times.
    #[arg(long, default_value_t = 20_000.0)]
    rate: f64,
    /// How long is measured, each time; the map has to be taken over within it. In seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(10..=600))]
    seconds: u64,
    /// The processor of the node.
    #[arg(long, default_value_t = 0)]
    server_core: usize,
    /// The processor of the generator, and of the control plane.
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    exit(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("a directory for the cluster")?;
    let text = "the secret of a cluster that lives for a few minutes";
    let secret_file = written(directory.path(), "secret", text)?;
    std::fs::set_permissions(&secret_file, PermissionsExt::from_mode(0o600)).context("the secret's permissions")?;
    let secret = Secret::new(text.as_bytes()).context("the secret")?;
    let place = Place {
        directory: directory.path(),
        secret_file: &secret_file,
        control_core: args.generator_core,
    };

    // A node that knows a small map, then none to renew it.
    let seen = free_address()?;
    let control = place.control(seen)?;
    let (node, http) = place.node(seen, args.server_core)?;
    drop(control);

    let unseen = free_address()?;
    let control = place.control(unseen)?;
    eprintln!("{} devices are enrolled", args.devices);
    let began = Instant::now();
    enroll(unseen, &secret, args.devices)?;
    eprintln!("that took {:.0} s", began.elapsed().as_secs_f64());
    drop(control);

    let plan = Plan {
        work: Work::Open {
            rate: args.rate,
            spacing: Spacing::Poisson,
        },
        measured: Duration::from_secs(args.seconds),
        warm_up: WARM_UP,
        cores: vec![args.generator_core],
        ..Plan::default()
    };
    let measure = || -> anyhow::Result<Round> {
        let rounds = play(&plan, &[node.target()], 1, &mut |_| ControlFlow::Continue(()))?;
        rounds.into_iter().flatten().next().context("the load had no round")
    };
    eprintln!("{} messages a second, as they are", args.rate);
    let before = measure()?;
    eprintln!("the same while the map comes");
    let old = version(http).context("the node's map")?;
    let (during, taken) = thread::scope(|scope| {
        let taken = scope.spawn(|| -> anyhow::Result<Duration> {
            thread::sleep(WARM_UP + MARGIN);
            let began = Instant::now();
            let _control = place.control(seen)?;
            let end = began + Duration::from_secs(args.seconds) - 2 * MARGIN;
            while version(http).is_none_or(|version| version == old) {
                if Instant::now() > end {
                    bail!(
                        "the node has not taken the map over while latency was measured: try --seconds {}",
                        2 * args.seconds
                    );
                }
                thread::sleep(LOOK_AGAIN);
            }
            let taken = began.elapsed();
            // Control's going is not what is measured.
            thread::sleep(end.saturating_duration_since(Instant::now()));
            Ok(taken)
        });
        let during = measure();
        let taken = taken
            .join()
            .expect("the thread that brings control back does not panic");
        anyhow::Ok((during?, taken?))
    })?;
    show(args, &before, &during, taken);
    Ok(())
}

/// What the processes of the cluster have in common.
struct Place<'a> {
    directory: &'a Path,
    secret_file: &'a Path,
    control_core: usize,
}

impl Place<'_> {
    fn command(&self, kind: &str, data: &str) -> anyhow::Result<Command> {
        let mut command = Command::new(built("trunkline")?);
        command.arg(kind).arg("--data-dir").arg(self.directory.join(data));
        command.arg("--secret-file").arg(self.secret_file);
        Ok(command)
    }

    /// The control plane, always on the same store.
    fn control(&self, listen: SocketAddr) -> anyhow::Result<Running> {
        let mut command = self.command("control", "control")?;
        command.args(["--listen", &listen.to_string(), "--initial-regions", "main"]);
        let mut control = Running::new(Contender::Ours);
        control.spawn(&mut command, &[self.control_core])?;
        if !control.accepts(listen)? {
            bail!("the control plane ends as soon as it is started");
        }
        Ok(control)
    }

    /// A node that is a connection server and the region's instance, and its HTTP port.
    fn node(&self, control: SocketAddr, core: usize) -> anyhow::Result<(Running, SocketAddr)> {
        let (device, http) = (free_address()?, free_address()?);
        let mut command = self.command("node", "node")?;
        command.args([
            "--roles",
            "connection,region",
            "--regions",
            "main",
            "--control",
            &control.to_string(),
        ]);
        command.args(["--cores", &core.to_string(), "--device-listen", &device.to_string()]);
        command.args(["--peer-listen", "127.0.0.1:0", "--http-listen", &http.to_string()]);
        let mut node = Running::new(Contender::Ours);
        node.spawn(&mut command, &[core])?;
        if !node.awaits("is not ready", || is_ready(http))? {
            bail!("the node ends as soon as it is started");
        }
        node.addresses.push(device);
        Ok((node, http))
    }
}

/// Enrols `devices`, over many connections: each commit to the store takes all that were asked for meanwhile.
fn enroll(control: SocketAddr, secret: &Secret, devices: u32) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..ENROLLERS)
            .map(|first| {
                scope.spawn(move || -> anyhow::Result<()> {
                    let mut admin = Admin::connect(control, secret)?;
                    for device in (first..devices).step_by(ENROLLERS as usize) {
                        admin.request(&json!({ "op": "enroll", "device": format!("device-{device}") }))?;
                    }
                    Ok(())
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a thread that enrols does not panic")?;
        }
        Ok(())
    })
}

/// The version of the map that every thread of the node routes by; `None` while it doesn't say.
fn version(http: SocketAddr) -> Option<u64> {
    let answer = get(http, "/status").ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let status: Value = serde_json::from_str(body).ok()?;
    let shards = status["shards"].as_array()?;
    shards.iter().map(|shard| shard["map_version"].as_u64()).min()?
}

fn show(args: &Args, before: &Round, during: &Round, taken: Duration) {
    let at = |round: &Round, quantile| round.latency.value_at_quantile(quantile) as f64 / 1e3;
    let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
    if args.json {
        let latency = |round: &Round| -> Value {
            quantiles
                .iter()
                .map(|(name, quantile)| (format!("{name}_us"), json!(at(round, *quantile))))
                .collect()
        };
        let shown = json!({
            "event": "newmap",
            "devices": args.devices,
            "rate": args.rate,
            "seconds": args.seconds,
            "taken_over_after_s": taken.as_secs_f64(),
            "before": latency(before),
            "during": latency(during),
        });
        println!("{shown}");
        return;
    }
    println!(
        "a map of {} devices, taken over {:.1} s after control came back; {} messages a second for {} s each",
        args.devices,
        taken.as_secs_f64(),
        args.rate,
        args.seconds
    );
    println!("latency µs      before      during");
    for (name, quantile) in quantiles {
        println!(
            "{name:<10} {:>11.0} {:>11.0}",
            at(before, quantile),
            at(during, quantile)
        );
    }
}

/// Before latency is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// After the beginning, and before the end, of what is measured.
const MARGIN: Duration = Duration::from_secs(1);
/// Between looks at the node's map.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Connections over which devices are enrolled.
const ENROLLERS: u32 = 64;
