//! The time that each step takes; see `steps`. The throughput is in messages.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use trunkline_benches::steps::{self, Step};

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for entry in steps::all() {
        // Prepared when it's its turn; a step that the filter leaves out is not.
        let mut prepared = None;
        let mut group = criterion.benchmark_group(entry.group);
        group.throughput(Throughput::Elements(entry.messages));
        group.bench_function(entry.name, |bencher| {
            let step = prepared.get_or_insert_with(|| entry.prepare());
            match entry.prepares_runs {
                true => bencher.iter_custom(|runs| (0..runs).map(|_| time_of_one(step.as_mut())).sum()),
                false => bencher.iter(|| step.run()),
            }
        });
        group.finish();
        if let Some(step) = prepared {
            step.check();
        }
    }
    criterion.final_summary();
}

fn time_of_one(step: &mut dyn Step) -> Duration {
    step.prepare_run();
    let start = Instant::now();
    step.run();
    start.elapsed()
}
