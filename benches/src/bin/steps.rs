//! Runs one step so many times, for whoever counts what the process does: `steps router/step/local 128`. Without arguments, names them.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use trunkline_benches::steps::{self, Step};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [id, runs] = &arguments[..] else {
        steps::all().for_each(|entry| println!("{}", entry.id()));
        return ExitCode::SUCCESS;
    };
    let (Some(entry), Ok(runs)) = (steps::all().find(|entry| entry.id() == *id), runs.parse::<u64>()) else {
        eprintln!("usage: steps [NAME RUNS]");
        return ExitCode::from(2);
    };
    let mut step = entry.prepare();
    for _ in 0..runs {
        step.prepare_run();
        measured_run(step.as_mut());
    }
    step.check();
    ExitCode::SUCCESS
}

/// What callgrind counts, by this name.
#[inline(never)]
fn measured_run(step: &mut dyn Step) {
    step.run();
}
