//! How many instructions each step takes, held against the committed table.
//!
//! callgrind counts the process that runs a step N times and 2 N times; the difference by N is one run's, whatever the preparation
//! takes. The same program counts the same on every run, so that a small change shows, which it doesn't in times. Another compiler
//! counts otherwise: then `--update`, and say so in the commit.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use trunkline_benches::steps::{self, Entry};

/// Counts the instructions of each step by callgrind.
#[derive(Parser)]
struct Args {
    /// Fails if a step takes more or fewer than the table says, by more than 3 %, or isn't in it.
    #[arg(long, conflicts_with = "update")]
    check: bool,
    /// Writes the table.
    #[arg(long)]
    update: bool,
}

/// What a count may differ by, in percent: fewer, too, so that what was gained is written down and then kept.
const TOLERANCE_PERCENT: f64 = 3.0;
/// Runs of a step for a single thing.
const RUNS: u64 = 2_000;
/// Runs of a step for a turn: twice this, and each device has had two messages. Tables have grown by then.
const TURNS: u64 = 128;
/// What of that process is counted: the runs alone, not what prepares them.
const MEASURED: &str = "--toggle-collect=*measured_run*";
/// The counts, in instructions a message or look-up.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/instructions.toml");

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if let Err(error) = Command::new("valgrind").arg("--version").output() {
        ensure!(!args.update, "valgrind can't be run: {error}");
        println!("skipped: valgrind can't be run ({error}); it comes with the package of that name");
        return Ok(());
    }
    let program = std::env::current_exe()?.with_file_name("steps");
    ensure!(
        program.exists(),
        "{} is missing: cargo build --release -p trunkline-benches --bins",
        program.display()
    );
    let counts = count_all(&program)?;
    if args.update {
        std::fs::write(TABLE, table(&counts)).context(TABLE)?;
    }
    let text = std::fs::read_to_string(TABLE).context(TABLE)?;
    let known: BTreeMap<String, f64> = toml::from_str(&text).context(TABLE)?;
    let off = compare(&counts, &known);
    if args.check && off > 0 {
        bail!(
            "{off} steps differ from {TABLE} by more than {TOLERANCE_PERCENT} %: mend them, or write the table anew with --update and \
             say why"
        );
    }
    Ok(())
}

/// All counts, by two threads.
fn count_all(program: &Path) -> anyhow::Result<Vec<(String, f64)>> {
    let entries: Vec<&Entry> = steps::all().filter(|entry| entry.counted).collect();
    let halves = thread::scope(|scope| {
        let count_half = |first: usize| {
            let half = entries.iter().skip(first).step_by(2);
            half.map(|entry| Ok((entry.id(), count(program, entry)?)))
                .collect::<anyhow::Result<Vec<_>>>()
        };
        let other = scope.spawn(move || count_half(1));
        let one = count_half(0);
        [one, other.join().expect("it returns errors")]
    });
    let mut counts = Vec::new();
    for half in halves {
        counts.extend(half?);
    }
    counts.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(counts)
}

/// Instructions for one message or look-up.
fn count(program: &Path, entry: &Entry) -> anyhow::Result<f64> {
    let runs = if entry.messages == 1 { RUNS } else { TURNS };
    let (once, twice) = (
        total(program, &entry.id(), runs)?,
        total(program, &entry.id(), 2 * runs)?,
    );
    Ok((twice - once) as f64 / (runs * entry.messages) as f64)
}

/// Instructions of a whole process.
fn total(program: &Path, id: &str, runs: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", MEASURED])
        .arg(program)
        .args([id, &runs.to_string()])
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{id}: {text}");
    // ==123== Collected : 456
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.with_context(|| format!("{id}: callgrind doesn't say what it counted: {text}"))?;
    number.trim().parse().with_context(|| format!("{id}: {number}"))
}

fn table(counts: &[(String, f64)]) -> String {
    let mut text = "# Instructions a message or look-up, as callgrind counts them in the release build. Written by:\n\
                    # cargo run --release -p trunkline-benches --bin instructions -- --update\n"
        .to_owned();
    for (id, count) in counts {
        let _ = writeln!(text, "\"{id}\" = {count:.1}");
    }
    text
}

/// Prints all; how many are off.
fn compare(counts: &[(String, f64)], known: &BTreeMap<String, f64>) -> usize {
    println!("{:<32}{:>12}{:>12}{:>9}", "STEP", "COUNTED", "TABLE", "CHANGE");
    let mut off = 0;
    for (id, count) in counts {
        let Some(before) = known.get(id) else {
            println!("{id:<32}{count:>12.1}{:>12}{:>9}", "-", "new");
            off += 1;
            continue;
        };
        let change = (count / before - 1.0) * 100.0;
        let is_off = change.abs() > TOLERANCE_PERCENT;
        println!(
            "{id:<32}{count:>12.1}{before:>12.1}{change:>+8.1}%{}",
            if is_off { " !" } else { "" }
        );
        off += usize::from(is_off);
    }
    for id in known
        .keys()
        .filter(|id| counts.iter().all(|(counted, _)| counted != *id))
    {
        println!("{id:<32}{:>12}", "gone");
        off += 1;
    }
    off
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_was_written_is_read_alike_and_what_differs_shows() {
        let mut counts = vec![("a/b".to_owned(), 100.0), ("a/c".to_owned(), 1000.0)];
        let known = toml::from_str(&table(&counts)).unwrap();
        assert_eq!(compare(&counts, &known), 0);
        counts[0].1 = 102.9;
        assert_eq!(compare(&counts, &known), 0, "within 3 %");
        counts[0].1 = 103.1;
        counts[1].1 = 900.0;
        assert_eq!(compare(&counts, &known), 2, "more and fewer");
        counts.pop();
        counts.push(("a/d".to_owned(), 1.0));
        assert_eq!(
            compare(&counts, &known),
            3,
            "one that is off, a new one, and one that is gone"
        );
    }
}
