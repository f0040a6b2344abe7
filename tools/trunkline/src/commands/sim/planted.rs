//! `trunkline sim --planted`: each defect that the simulator can plant, the promise that noticed it, and the seeds that it took.
//!
//! Each defect is hunted in a process of its own: an assertion of ours that it breaks ends that process, and is how it was noticed.

use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use trunkline_sim::planted::{self, SEEDS_MAX, hunt};
use trunkline_sim::scenario::Scenario;
use trunkline_wire::planted::Bug;

use super::PLAYING;

/// Where and for how long a defect is looked for.
#[derive(Clone, Copy)]
struct Hunt {
    /// Rather than its own.
    scenario: Option<&'static Scenario>,
    first: u64,
    seeds_max: u64,
}

impl Hunt {
    fn scenario(self, bug: Bug) -> &'static Scenario {
        self.scenario.unwrap_or_else(|| planted::scenario(bug))
    }
}

/// One defect by its name, or all of them; each in its own scenario, or in this one.
///
/// # Errors
/// If a defect was not noticed, or there is none of that name.
pub fn run(
    name: &str,
    scenario: Option<&'static Scenario>,
    first: u64,
    seeds: Option<u64>,
    as_json: bool,
) -> anyhow::Result<()> {
    let hunt = Hunt {
        scenario,
        first,
        seeds_max: seeds.unwrap_or(SEEDS_MAX),
    };
    match Bug::ALL.iter().find(|bug| bug.name() == name) {
        Some(bug) => one(*bug, hunt, as_json),
        None if name == "all" => all(hunt, as_json),
        None => {
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
            bail!("no such defect; there are {}", known.join(", "))
        }
    }
}

fn one(bug: Bug, within: Hunt, as_json: bool) -> anyhow::Result<()> {
    let quiet = tracing::subscriber::NoSubscriber::new();
    let Hunt { first, seeds_max, .. } = within;
    let scenario = within.scenario(bug);
    let playing = |seed| PLAYING.set(Some(seed));
    let noticed = tracing::subscriber::with_default(quiet, || hunt(bug, scenario, first, seeds_max, playing));
    PLAYING.set(None);
    let Some(noticed) = noticed else {
        bail!(
            "{}: not noticed within {seeds_max} seeds of {}",
            bug.name(),
            scenario.name
        )
    };
    let violation = noticed.violation;
    if as_json {
        let found = found(
            bug,
            scenario,
            noticed.seeds,
            violation.promise.number(),
            violation.promise.name(),
            &violation.what,
        );
        println!("{found}");
    } else {
        println!("{violation}");
    }
    Ok(())
}

fn found(bug: Bug, scenario: &Scenario, seeds: u64, promise: u8, name: &str, what: &str) -> Value {
    json!({
        "defect": bug.name(),
        "scenario": scenario.name,
        "seeds": seeds,
        "promise": promise,
        "name": name,
        "what": what,
    })
}

fn all(within: Hunt, as_json: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let program = std::env::current_exe().context("this program's own path")?;
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(&bug) = Bug::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = hunt_apart(&program, bug, within);
                    if !as_json {
                        println!("{}", line(bug, within.scenario(bug), &row));
                    }
                    rows.lock().expect("no holder panics").push((bug, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no holder panics");
    rows.sort_by_key(|(bug, _)| *bug);
    let missed: Vec<&str> = rows
        .iter()
        .filter(|(_, row)| row.is_err())
        .map(|(bug, _)| bug.name())
        .collect();
    let seconds = started.elapsed().as_secs_f64();
    if as_json {
        let noticed: Vec<&Value> = rows.iter().filter_map(|(_, row)| row.as_ref().ok()).collect();
        println!(
            "{}",
            json!({ "defects": rows.len(), "noticed": noticed, "missed": missed, "seconds": seconds })
        );
    } else {
        println!(
            "{} of {} defects were noticed, in {seconds:.0} s",
            rows.len() - missed.len(),
            rows.len()
        );
    }
    if !missed.is_empty() {
        bail!("not noticed within {} seeds: {}", within.seeds_max, missed.join(", "));
    }
    Ok(())
}

fn line(bug: Bug, scenario: &Scenario, row: &Result<Value, String>) -> String {
    match row {
        Ok(found) => format!(
            "{:<24} {:<11} {:>3} seeds  {:>2} {:<21} {}",
            bug.name(),
            scenario.name,
            found["seeds"],
            found["promise"],
            found["name"].as_str().unwrap_or_default(),
            bug.what(),
        ),
        Err(why) => format!("{:<24} {:<11} missed: {why}", bug.name(), scenario.name),
    }
}

/// In a process of its own.
fn hunt_apart(program: &std::path::Path, bug: Bug, within: Hunt) -> Result<Value, String> {
    let Hunt { first, seeds_max, .. } = within;
    let scenario = within.scenario(bug);
    let output = Command::new(program)
        .args(["sim", "--planted", bug.name(), "--json"])
        .args(["--scenario", scenario.name])
        .args(["--seed", &first.to_string(), "--seeds", &seeds_max.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    if let Some(found) = said.lines().last().and_then(|line| serde_json::from_str(line).ok()) {
        return Ok(found);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    // An assertion of ours, or a panic.
    let seed = errors.lines().find_map(|line| {
        let (seed, _) = line.strip_prefix("seed ")?.split_once(" panicked")?;
        seed.parse::<u64>().ok()
    });
    match seed {
        Some(seed) => {
            let what = errors.lines().nth(1).unwrap_or_default();
            Ok(found(bug, scenario, seed - first + 1, 16, "no remote crash", what))
        }
        None => Err(errors.lines().last().unwrap_or_default().to_owned()),
    }
}
