//! The time that each step takes; see `steps`. The throughput is in messages.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use trunkline_benches::steps;

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
            bencher.iter(|| step.run());
        });
        group.finish();
        if let Some(step) = prepared {
            step.check();
        }
    }
    criterion.final_summary();
}
