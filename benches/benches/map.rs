//! Look-ups in the map: from a device's id to its key, from the key to its region and that region's instances.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use trunkline_benches::{REGION, contents, device, keys};
use trunkline_wire::id::DeviceKey;
use trunkline_wire::map::Map;

/// How many devices are assigned by name.
const OVERRIDES: usize = 100_000;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let keys = keys();
    let of = |stem: &str| -> Vec<DeviceKey> {
        (0..OVERRIDES)
            .map(|index| keys.device_key(device(stem, index).borrow()))
            .collect()
    };
    let (named, unnamed) = (of("named"), of("unnamed"));
    let plain = Map::build(1, 1, contents()).expect("the map is whole");
    let mut contents = contents();
    contents.overrides.extend(named.iter().map(|key| (*key, REGION)));
    let assigned = Map::build(1, 2, contents).expect("the map is whole");

    let name = device("named", 1);
    let mut group = criterion.benchmark_group("map");
    group.bench_function("device_key", |bencher| {
        bencher.iter(|| keys.device_key(black_box(name.borrow())))
    });
    // Each look-up is of another device, so that what is measured is not one cache line.
    for (what, map, devices) in [
        ("slot", &plain, &unnamed),
        ("slot_beside_overrides", &assigned, &unnamed),
        ("override", &assigned, &named),
    ] {
        let mut next = devices.iter().cycle();
        group.bench_function(what, |bencher| {
            bencher.iter(|| map.region_of(black_box(*next.next().expect("they go round"))));
        });
    }
    group.bench_function("instances", |bencher| {
        bencher.iter(|| plain.instances(black_box(REGION)).len())
    });
    group.finish();
    criterion.final_summary();
}
