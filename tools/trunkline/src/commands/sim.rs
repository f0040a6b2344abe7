//! `trunkline sim`: whole clusters in virtual time, under faults, by seed.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};
#[cfg(feature = "next-version")]
use trunkline_sim::Course;
use trunkline_sim::swarm::{self, Options, Size, Summary};
use trunkline_sim::{Scenario, Violation};

use self::pace::{Pace, Stopwatch};
use crate::output::Progress;

mod load;
mod pace;
#[cfg(feature = "planted")]
mod planted;
mod propagation;

/// Plays whole clusters in virtual time: the deployed code, with traffic and faults drawn from a seed, held against the promises.
///
/// A seed is a whole run: the same seed makes the same trace, on any machine.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline sim --seed 42                what happened, and the hash of its trace
  trunkline sim --seed 42 --story        the same, line by line
  trunkline sim --seeds 1000             seeds 1 to 1000, on all cores
  trunkline sim --minutes 10 --seed 5000 seed 5000 and on, for ten minutes
  trunkline sim --scenario roam --seeds 100
                                         devices that come back elsewhere while their old servers are cut off
  trunkline sim --servers 8 --devices 200 --devices-min 200 --message-rate 1 --fault-rate 1 --faulty 5m
                                         so much and no other load, and how much faster than real time that goes
  trunkline sim --seeds 20 --hashes      a line for each seed, to compare with another build's or machine's
  trunkline sim --propagation global     what telling every server of every connect would cost, beside what we do
  trunkline sim --planted                which promise notices each planted defect (a build with --features planted)")]
pub struct Args {
    /// The seed, or the first of several.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plays so many seeds.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// Plays seeds for so many minutes.
    #[arg(long, conflicts_with = "seeds", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: Option<u64>,
    /// What happens to each cluster: `swarm` draws a mix of all faults for each seed, the others look for trouble of one sort (roam,
    /// deaths, partitions, pauses, clocks, storms, slow, upgrade, control, headless, strangers, moves, members, overload, impostor;
    /// with the feature `next-version` also mixed).
    ///
    /// Without it `swarm`; with `--planted`, the one in which the defect is known to show.
    #[arg(long, value_parser = scenario)]
    scenario: Option<&'static Scenario>,
    /// Prints a line with seed and trace hash for each seed.
    #[arg(long, requires = "seeds", conflicts_with = "json")]
    hashes: bool,
    #[command(flatten)]
    propagation: propagation::Args,
    /// Plants a defect in each cluster, by name, or one after the other all that there are, and says which promise noticed it.
    #[cfg(feature = "planted")]
    #[arg(
        long,
        num_args = 0..=1,
        default_missing_value = "all",
        value_name = "NAME",
        conflicts_with_all = ["minutes", "hashes", "story", "faulty"]
    )]
    planted: Option<String>,
    /// Who speaks which version of the protocol: `drawn` lets each seed choose how they mix, `lowest` lets all speak the released one.
    #[cfg(feature = "next-version")]
    #[arg(long, default_value = "drawn", value_parser = course)]
    course: Course,
    /// Devices of each cluster, at most.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=2_000))]
    devices: u32,
    #[command(flatten)]
    load: load::Args,
    /// For how long each cluster has faults, in virtual time; it is then healed, and must come to rest.
    #[arg(long, default_value = "30s", value_parser = super::duration)]
    faulty: Duration,
    /// Prints everything that happened in a single seed.
    #[arg(long, conflicts_with_all = ["seeds", "minutes", "json"])]
    story: bool,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Plays what is asked for.
///
/// # Errors
/// If a promise was broken; the line names the seed, and how to play it again.
pub fn run(args: &Args) -> anyhow::Result<()> {
    name_the_seed_of_a_panic();
    if args.propagation.is_asked() {
        return propagation::run(&args.propagation, args.load.servers(), args.seed, args.json);
    }
    args.load.check(args.devices)?;
    #[cfg(feature = "planted")]
    if let Some(name) = &args.planted {
        return planted::run(name, args.scenario, args.seed, args.seeds, args.json);
    }
    match (args.seeds, args.minutes) {
        (None, None) => one(args),
        _ => many(args),
    }
}

fn scenario(name: &str) -> Result<&'static Scenario, String> {
    let known: Vec<&str> = Scenario::ALL.iter().map(|scenario| scenario.name).collect();
    Scenario::named(name).ok_or_else(|| match name {
        "mixed" => {
            "this build speaks one version of the protocol; make one with --features trunkline/next-version".into()
        }
        _ => format!("no such scenario; there are {}", known.join(", ")),
    })
}

fn options(args: &Args, seed: u64) -> Options {
    Options {
        devices: args.devices,
        load: args.load.load(),
        scenario: args.scenario.unwrap_or(Scenario::swarm()),
        faulty: args.faulty,
        #[cfg(feature = "next-version")]
        course: args.course,
        ..Options::new(seed)
    }
}

#[cfg(feature = "next-version")]
fn course(name: &str) -> Result<Course, String> {
    let known: Vec<&str> = Course::ALL.iter().map(|course| course.name()).collect();
    let found = Course::ALL.into_iter().find(|course| course.name() == name);
    found.ok_or_else(|| format!("no such course; there are {}", known.join(", ")))
}

thread_local! {
    /// The seed that this thread plays.
    static PLAYING: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A failed assertion of ours ends the process: it shall say which seed it was.
fn name_the_seed_of_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if let Some(seed) = PLAYING.get() {
            eprintln!("seed {seed} panicked; play it again with: trunkline sim --seed {seed}");
        }
    }));
}

fn play<T>(seed: u64, play: impl FnOnce() -> T) -> T {
    PLAYING.set(Some(seed));
    // The nodes of a simulated cluster complain of its faults, thousands of times.
    let played = tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), play);
    PLAYING.set(None);
    played
}

fn one(args: &Args) -> anyhow::Result<()> {
    let stopwatch = Stopwatch::start();
    let options = options(args, args.seed);
    let played = if args.story {
        let (played, story) = play(args.seed, || swarm::run_with_story(&options));
        for line in story {
            println!("{line}");
        }
        played
    } else {
        play(args.seed, || swarm::run(&options))
    };
    match played {
        Ok(summary) => {
            let pace = stopwatch.pace(summary.span);
            if args.json {
                println!("{}", summary_json(&summary, &pace));
            } else {
                print!("{}", text(&summary, &pace));
            }
            Ok(())
        }
        Err(violation) => {
            if args.json {
                println!(
                    "{}",
                    json!({ "seed": args.seed, "failed": [violation_json(&violation)] })
                );
            }
            Err(broken(args, &violation))
        }
    }
}

/// Prints the history, and makes the one line of the error.
fn broken(args: &Args, violation: &Violation) -> anyhow::Error {
    if !args.json {
        eprintln!("{violation}");
    }
    let size = options_said(args);
    anyhow::anyhow!(
        "seed {}: promise {} ({}) was broken; play it again with: trunkline sim --seed {}{size} --story",
        violation.seed,
        violation.promise.number(),
        violation.promise.name(),
        violation.seed,
    )
}

/// The flags that a replay needs besides the seed.
fn options_said(args: &Args) -> String {
    let usual = Options::new(args.seed);
    let mut said = String::new();
    if let Some(scenario) = args.scenario.filter(|scenario| *scenario != usual.scenario) {
        said += &format!(" --scenario {}", scenario.name);
    }
    #[cfg(feature = "next-version")]
    if args.course != usual.course {
        said += &format!(" --course {}", args.course.name());
    }
    if args.devices != usual.devices {
        said += &format!(" --devices {}", args.devices);
    }
    said += &args.load.said();
    if args.faulty != usual.faulty {
        said += &format!(" --faulty {}ms", args.faulty.as_millis());
    }
    said
}

/// What all seeds together came to.
#[derive(Default)]
struct Sum {
    played: u64,
    virtual_time: Duration,
    sent: u64,
    reported: u64,
    faults: u64,
    turns: u64,
    /// The longest time from the last fault to rest.
    settled_in: Duration,
    /// Trace hashes, by seed.
    traces: Vec<(u64, u64)>,
    broken: Vec<Violation>,
}

impl Sum {
    fn add(&mut self, summary: &Summary) {
        self.virtual_time += summary.span;
        self.sent += summary.totals.sent;
        self.reported += summary.totals.outcomes.values().sum::<u64>();
        self.faults += summary.faults.values().sum::<u64>();
        self.turns += summary.turns;
        self.settled_in = self.settled_in.max(summary.settled_in);
        self.traces.push((summary.seed, summary.trace_hash));
    }

    /// One number for all traces, in the order of their seeds.
    fn trace_hash(&self) -> u64 {
        let hashes = self.traces.iter().map(|(_, hash)| *hash);
        hashes.fold(0, |sum: u64, hash| {
            sum.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash
        })
    }
}

fn many(args: &Args) -> anyhow::Result<()> {
    let (started, stopwatch) = (Instant::now(), Stopwatch::start());
    let deadline = args.minutes.map(|minutes| started + Duration::from_secs(minutes * 60));
    let end = args.seeds.map_or(u64::MAX, |seeds| args.seed.saturating_add(seeds));
    let mut sum = Sum::default();
    let (next, stop) = (AtomicU64::new(args.seed), AtomicBool::new(false));
    let (sender, results) = mpsc::channel();
    let total = args.seeds.unwrap_or_else(|| args.minutes.unwrap_or_default() * 60);
    let mut progress = Progress::new(if args.seeds.is_some() { "seeds" } else { "seconds" }, total as usize);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (next, stop, sender) = (&next, &stop, sender.clone());
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) && deadline.is_none_or(|deadline| Instant::now() < deadline) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || sender.send(play(seed, || swarm::run(&options(args, seed)))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for played in results {
            sum.played += 1;
            match played {
                Ok(summary) => sum.add(&summary),
                Err(violation) => {
                    // The others finish the seed that they are at.
                    stop.store(true, Ordering::Relaxed);
                    sum.broken.push(*violation);
                }
            }
            let position = if args.seeds.is_some() {
                sum.played
            } else {
                started.elapsed().as_secs()
            };
            progress.at(position as usize);
        }
    });
    progress.end();
    sum.traces.sort_unstable();
    sum.broken.sort_by_key(|violation| violation.seed);
    let pace = stopwatch.pace(sum.virtual_time);
    if args.json {
        println!("{}", sum_json(args, &sum, &pace));
    } else {
        if args.hashes {
            for (seed, hash) in &sum.traces {
                println!("{seed} {hash:016x}");
            }
        }
        println!(
            "{} seeds from {}: {} messages, {} reports, {} faults, {pace}",
            sum.played, args.seed, sum.sent, sum.reported, sum.faults,
        );
        println!(
            "at rest {:?} after the last fault at the latest; trace {:016x}",
            sum.settled_in,
            sum.trace_hash()
        );
    }
    match sum.broken.as_slice() {
        [] => Ok(()),
        [violation] => Err(broken(args, violation)),
        [violation, rest @ ..] => {
            let seeds: Vec<String> = rest.iter().map(|violation| violation.seed.to_string()).collect();
            bail!("{}; and seeds {}", broken(args, violation), seeds.join(", "))
        }
    }
}

fn violation_json(violation: &Violation) -> Value {
    json!({
        "seed": violation.seed,
        "promise": violation.promise.number(),
        "name": violation.promise.name(),
        "at_us": violation.at.micros(),
        "what": violation.what,
        "history": violation.history,
    })
}

fn sum_json(args: &Args, sum: &Sum, pace: &Pace) -> Value {
    json!({
        "seed": args.seed,
        "seeds": sum.played,
        "failed": sum.broken.iter().map(violation_json).collect::<Vec<_>>(),
        "trace_hash": format!("{:016x}", sum.trace_hash()),
        "messages": sum.sent,
        "reported": sum.reported,
        "faults": sum.faults,
        "turns": sum.turns,
        "settled_in_ms": sum.settled_in.as_millis() as u64,
        "virtual_seconds": sum.virtual_time.as_secs_f64(),
        "seconds": pace.real_seconds(),
        "cpu_seconds": pace.cpu_seconds(),
    })
}

fn summary_json(summary: &Summary, pace: &Pace) -> Value {
    let totals = &summary.totals;
    json!({
        "seed": summary.seed,
        "failed": [],
        "trace_hash": format!("{:016x}", summary.trace_hash),
        "servers": summary.size.servers,
        "instances": summary.size.instances,
        "messaging": summary.size.messaging,
        "devices": summary.size.devices,
        "messages": totals.sent,
        "messages_faulty": summary.sent_faulty,
        "confirmed": totals.confirmed,
        "shown": totals.shown,
        "late": totals.late,
        "outcomes": totals.outcomes,
        "ways": totals.ways,
        "welcomes": totals.welcomes,
        "disconnects": totals.losses,
        "faults": summary.faults,
        "turns": summary.turns,
        "events": summary.events,
        "settled_in_ms": summary.settled_in.as_millis() as u64,
        "virtual_seconds": summary.span.as_secs_f64(),
        "faulty_seconds": summary.faulty.as_secs_f64(),
        "seconds": pace.real_seconds(),
        "cpu_seconds": pace.cpu_seconds(),
    })
}

/// For people.
fn text(summary: &Summary, pace: &Pace) -> String {
    let list = |counts: &std::collections::BTreeMap<&'static str, u64>| {
        let all: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
        all.join(", ")
    };
    let totals = &summary.totals;
    let Size {
        servers,
        instances,
        messaging,
        devices,
    } = summary.size;
    let faulty = summary.faulty.as_secs_f64().max(1e-9);
    format!(
        "seed {}: no promise was broken; trace {:016x}\n\
         played        {pace}, {} turns\n\
         cluster       {servers} servers, {instances} instances, {messaging} messaging nodes, {devices} devices\n\
         while faulty  {faulty:.1} s with {:.2} messages a second of each device, and {:.2} faults a second\n\
         faults        {}\n\
         messages      {} sent, {} of them confirmed; {} shown, {} of them late\n\
         reports       {}\n\
         ways          {}\n\
         devices       {} welcomes, {} disconnects\n\
         at rest       {:.2} s after the last fault\n",
        summary.seed,
        summary.trace_hash,
        summary.turns,
        summary.sent_faulty as f64 / faulty / f64::from(devices),
        summary.faults.values().sum::<u64>() as f64 / faulty,
        list(&summary.faults),
        totals.sent,
        totals.confirmed,
        totals.shown,
        totals.late,
        list(&totals.outcomes),
        list(&totals.ways),
        totals.welcomes,
        totals.losses,
        summary.settled_in.as_secs_f64(),
    )
}
