//! `trunkline tune`: which settings suit this host, found out by a short load.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use trunkline_load::plan::{Plan, Spacing, Work};
use trunkline_load::protocol::Kind;
use trunkline_load::run::{Round, raise_descriptors, run as play};
use trunkline_load::target::Target;
use trunkline_net::backend::{Backend, Chosen};
use trunkline_net::epoll::Options;
use trunkline_net::tuning::try_out;
use trunkline_node::config::{CoreList, ranges};
use trunkline_node::topology::Topology;

use crate::advice;
use crate::output::Progress;
use crate::processes::Process;
use crate::signals::Stop;
use crate::tune::rank::{Goal, Measured, Place, Values};
use crate::tune::space::{Candidate, Change, Host};

/// Tries settings on this host under a short load: ranks them, and prints a configuration that `trunkline node --config` takes.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline tune
  trunkline tune --goal latency --seconds 120 --write tuned.toml
  trunkline tune --json

Each candidate is a server of its own on loopback, and differs from the defaults in one setting. All are loaded in turn, round by round, by
a generator on other processors: as fast as they go, then at a rate that the slowest of them bears. Those that were better than the defaults
in every round are then tried together. What no loopback shows is not tried: --busy-poll-us, and where a card's interrupts go (doctor).")]
pub struct Args {
    /// What is to be best.
    #[arg(long, value_enum, default_value = "throughput")]
    goal: Goal,
    /// How long it may take in all, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=3600))]
    seconds: u32,
    /// How often each candidate is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections of the load.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(2..=10_000))]
    connections: u32,
    /// The open loop's messages a second [default: 20,000, or what the slowest candidate bears].
    #[arg(long, value_parser = clap::value_parser!(u32).range(10..=10_000_000))]
    rate: Option<u32>,
    /// Writes the configuration to this file.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what it found.
///
/// # Errors
/// A server that doesn't start, a load that fails; or it was interrupted.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (host, load_cores) = this_host()?;
    let directory = tempfile::tempdir().context("a directory for the servers' state")?;
    let stop = Stop::listen()?;
    let mut candidates = host.candidates();
    raise_descriptors(args.connections as usize)?;
    let mut bench = Bench {
        args,
        load_cores: &load_cores,
        directory: directory.path(),
        stop: &stop,
    };
    let most = Duration::from_secs(args.seconds.into());
    let (first, second) = (most.mul_f64(0.7), most.mul_f64(0.3));
    let mut measured = bench.measure(&candidates, first)?;
    let winners: Vec<Change> = (args.goal.rank(&measured).iter())
        .filter(|place| place.better)
        .flat_map(|place| candidates[place.candidate].changes.clone())
        .collect();
    let together = host.together(&winners);
    if together.len() > 1 {
        // Beside the defaults again, so that it's compared with what was measured at the same time.
        let pair = [candidates[0].clone(), host.candidate(&together)];
        let mut again = bench.measure(&pair, second)?;
        measured[0] = again.remove(0);
        measured.push(again.remove(0));
        let [_, combined] = pair;
        candidates.push(combined);
    }
    let ranked = args.goal.rank(&measured);
    // Only what is better for certain; else what everybody has.
    let best = ranked
        .iter()
        .find(|place| place.better)
        .map_or(0, |place| place.candidate);
    let file = format!(
        "# For {}: {}. Measured on cores {}, the load on {}.\n{}",
        format!("{:?}", args.goal).to_lowercase(),
        candidates[best].name,
        ranges(&candidates[best].cores),
        ranges(&load_cores),
        host.file(&candidates[best])
    );
    if let Some(path) = &args.write {
        std::fs::write(path, &file).with_context(|| format!("--write {}: cannot be written", path.display()))?;
    }
    if args.json {
        let ranked = ranked.iter().map(|place| {
            json!({
                "candidate": candidates[place.candidate], "backend": candidates[place.candidate].backend.to_string(),
                "better": place.better, "noise": place.noise, "measured": measured[place.candidate],
            })
        });
        let said = json!({
            "goal": args.goal, "rounds": args.rounds, "ranked": ranked.collect::<Vec<_>>(),
            "best": candidates[best].name, "config": file,
        });
        println!("{said}");
    } else {
        print_table(&candidates, &measured, &ranked, args);
        println!("\n{file}");
    }
    Ok(())
}

/// What there is to choose from, and the processors that generate the load.
fn this_host() -> anyhow::Result<(Host, Vec<usize>)> {
    let planned = advice::plan(&Topology::read(Path::new("/"))).cores;
    let allowed = CoreList::allowed()
        .context("the processors that may be used")?
        .cores()
        .to_vec();
    let planned: Vec<usize> = planned.into_iter().filter(|core| allowed.contains(core)).collect();
    let planned = if planned.is_empty() { allowed.clone() } else { planned };
    let (server_cores, load_cores) = divide(&planned, &allowed);
    let options = Options::default();
    let threads = server_cores.len();
    let auto = Backend::Auto.choose(threads, &options).context("the back end")?;
    let backends = match auto {
        Chosen::Uring => vec![Chosen::Uring, Chosen::Epoll],
        Chosen::Epoll => vec![Chosen::Epoll],
    };
    let grants = |bytes: &u32| {
        let options = Options {
            send_buffer_bytes: Some(*bytes as usize),
            receive_buffer_bytes: Some(*bytes as usize),
            ..Options::default()
        };
        try_out(auto, &options).is_ok()
    };
    let sizes = (12..24).map(|power| 1u32 << power);
    let host = Host {
        apart: server_cores.iter().all(|core| !load_cores.contains(core)),
        socket_buffer_bytes_max: sizes.take_while(grants).last().unwrap_or(0),
        server_cores,
        planned_cores: planned,
        backends,
    };
    Ok((host, load_cores))
}

/// Which processors serve and which generate load: those that the plan leaves over, or else a quarter of its own.
fn divide(planned: &[usize], allowed: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let over: Vec<usize> = allowed.iter().filter(|core| !planned.contains(core)).copied().collect();
    let wanted = planned.len().div_ceil(3).max(1);
    if over.len() >= wanted {
        return (planned.to_vec(), over[..wanted].to_vec());
    }
    match planned {
        [] => (allowed.to_vec(), allowed.to_vec()),
        [only] => (vec![*only], if over.is_empty() { vec![*only] } else { over }),
        _ => {
            let (server, load) = planned.split_at(planned.len() - planned.len().div_ceil(4));
            (server.to_vec(), load.to_vec())
        }
    }
}

struct Bench<'a> {
    args: &'a Args,
    load_cores: &'a [usize],
    directory: &'a Path,
    stop: &'a Stop,
}

impl Bench<'_> {
    /// Starts a server for each candidate, and loads them in turn, for `most` in all.
    fn measure(&mut self, candidates: &[Candidate], most: Duration) -> anyhow::Result<Vec<Measured>> {
        let mut servers = Vec::new();
        for candidate in candidates {
            servers.push(self.start(servers.len(), candidate)?);
        }
        let targets: Vec<Target> = (servers.iter().enumerate())
            .map(|(number, server)| {
                Ok(Target {
                    name: number.to_string(),
                    protocol: Kind::Native,
                    address: server.address("device")?,
                    also: Vec::new(),
                    pids: vec![server.pid()],
                })
            })
            .collect::<anyhow::Result<_>>()?;
        let steps = 2 * candidates.len() as u32 * self.args.rounds;
        let each = most.div_f64(f64::from(steps)).saturating_sub(CONNECTING);
        let closed = self.play(Work::Closed { outstanding: 32 }, &targets, each)?;
        let throughput = |rounds: &[Round]| {
            Values::of(
                rounds
                    .iter()
                    .map(|round| round.delivered as f64 / round.seconds)
                    .collect(),
            )
        };
        let slowest = closed
            .iter()
            .map(|rounds| throughput(rounds).median)
            .fold(f64::INFINITY, f64::min);
        let rate = self
            .args
            .rate
            .map_or(RATE_MAX.min(slowest * RATE_SHARE).max(10.0), f64::from);
        let spacing = Spacing::Poisson;
        let open = self.play(Work::Open { rate, spacing }, &targets, each)?;
        for server in &mut servers {
            server.end()?;
        }
        let micros = |rounds: &[Round], quantile: f64| {
            let values = rounds
                .iter()
                .map(|round| round.latency.value_at_quantile(quantile) as f64 / 1e3);
            Values::of(values.collect())
        };
        let cpu = |rounds: &[Round]| {
            let values = rounds
                .iter()
                .filter_map(|round| Some(round.server_ns? as f64 / 1e3 / round.delivered.max(1) as f64));
            Values::of(values.collect())
        };
        let all = closed.iter().zip(&open).map(|(closed, open)| Measured {
            throughput: throughput(closed),
            p50_us: micros(open, 0.5),
            p99_us: micros(open, 0.99),
            cpu_us: cpu(open),
        });
        Ok(all.collect())
    }

    fn start(&self, number: usize, candidate: &Candidate) -> anyhow::Result<Process> {
        let data = self.directory.join(number.to_string());
        // Those of the second round have their own.
        let data = if data.exists() {
            self.directory.join(format!("again-{number}"))
        } else {
            data
        };
        let tuning = &candidate.tuning;
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0)).to_string();
        let mut flags = vec![
            ("--data-dir", data.display().to_string()),
            ("--cores", ranges(&candidate.cores)),
            ("--backend", candidate.backend.to_string()),
            ("--spin-us", tuning.spin_us.to_string()),
            ("--device-buffers", tuning.device_buffers.to_string()),
            ("--device-buffer-bytes", tuning.device_buffer_bytes.to_string()),
        ];
        let ports = ["--device-listen", "--peer-listen", "--control-listen", "--http-listen"];
        flags.extend(ports.map(|flag| (flag, anywhere.clone())));
        flags.extend(
            tuning
                .send_buffer_bytes
                .map(|bytes| ("--send-buffer-bytes", bytes.to_string())),
        );
        flags.extend(
            tuning
                .receive_buffer_bytes
                .map(|bytes| ("--receive-buffer-bytes", bytes.to_string())),
        );
        let mut arguments = vec!["up".to_owned()];
        arguments.extend(flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        Process::start(&format!("candidate-{number}"), arguments, self.directory, None)
            .with_context(|| format!("the server with {}", candidate.name))
    }

    fn play(&self, work: Work, targets: &[Target], each: Duration) -> anyhow::Result<Vec<Vec<Round>>> {
        let measured = each.mul_f64(0.8).max(MEASURED_MIN);
        let plan = Plan {
            work,
            connections: self.args.connections as usize,
            threads: self.load_cores.len().min(self.args.connections as usize / 2),
            measured,
            warm_up: measured / 4,
            cores: self.load_cores.to_vec(),
            ..Plan::default()
        };
        let mut bar = Progress::new("tune", targets.len() * self.args.rounds as usize);
        let rounds = play(&plan, targets, self.args.rounds as usize, &mut |progress| {
            bar.at(progress.done);
            match self.stop.is_asked() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        bar.end();
        if self.stop.is_asked() {
            bail!("it was interrupted before there was a result");
        }
        Ok(rounds?)
    }
}

fn print_table(candidates: &[Candidate], measured: &[Measured], ranked: &[Place], args: &Args) {
    println!(
        "{:>4}  {:<44}{:>12}{:>8}{:>10}{:>10}{:>10}  against the defaults",
        "RANK", "SETTINGS", "MESSAGES/S", "+-", "P50 US", "P99 US", "CPU US"
    );
    for (rank, place) in ranked.iter().enumerate() {
        let (candidate, values) = (&candidates[place.candidate], &measured[place.candidate]);
        let spread = 50.0 * (values.throughput.max - values.throughput.min) / values.throughput.median.max(1.0);
        let verdict = match (place.candidate, place.noise, place.better) {
            (0, ..) => "",
            (_, true, _) => "within the noise",
            (_, false, true) => "better",
            (_, false, false) => "worse",
        };
        println!(
            "{:>4}  {:<44}{:>12.0}{:>8}{:>10.1}{:>10.1}{:>10.2}  {verdict}",
            rank + 1,
            candidate.name,
            values.throughput.median,
            format!("{spread:.0} %"),
            values.p50_us.median,
            values.p99_us.median,
            values.cpu_us.median,
        );
    }
    println!(
        "\nmedians of {} rounds, interleaved; ranked by {}; \"better\" is better in every round",
        args.rounds,
        format!("{:?}", args.goal).to_lowercase()
    );
}

/// What connecting and ending takes of each round.
const CONNECTING: Duration = Duration::from_millis(150);
/// Less has too few messages in it.
const MEASURED_MIN: Duration = Duration::from_millis(100);
/// The open loop's rate, and the share of what the slowest candidate does that it is at most: latency, not queueing, is to be seen.
const RATE_MAX: f64 = 20_000.0;
const RATE_SHARE: f64 = 0.4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_and_server_share_no_processor_where_there_are_two() {
        assert_eq!(divide(&[0], &[0]), (vec![0], vec![0]));
        assert_eq!(divide(&[0, 1], &[0, 1]), (vec![0], vec![1]));
        assert_eq!(divide(&[1, 2, 3], &[0, 1, 2, 3]), (vec![1, 2, 3], vec![0]));
        assert_eq!(divide(&[0], &[0, 1]), (vec![0], vec![1]));
        let (server, load) = divide(&[1, 2, 3, 4, 5, 6, 7], &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((server.len(), load), (5, vec![6, 7]));
    }
}
