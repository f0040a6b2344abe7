//! How soon the others act on a process that dies or stands still: measured on real processes, from the signal to the dropped links.

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::cluster::Cluster;
use support::{Running, TIMEOUT, metric};

/// Within this time a death that shows (RST, FIN) is acted on.
const VISIBLE: Duration = Duration::from_millis(250);
/// And one that doesn't.
const SILENT: Duration = Duration::from_secs(3);

/// From now until all of these nodes count one more than before. Less what the last look took: it may have happened before that.
fn until_all_count(nodes: &[Running], name: &str, before: &[f64]) -> Duration {
    let start = Instant::now();
    loop {
        let looked = start.elapsed();
        let mut pairs = nodes.iter().zip(before);
        if pairs.all(|(node, before)| metric(&node.address("http"), name) > *before) {
            return looked;
        }
        assert!(start.elapsed() < TIMEOUT, "nobody acts on it");
        std::thread::yield_now();
    }
}

/// What a host with more to do than cores adds, to the processes and to asking them over HTTP. Without it both bounds are held to the
/// millisecond in virtual time, by the simulator's own test of deaths.
const HOST: Duration = Duration::from_millis(500);

fn counts(nodes: &[Running], name: &str) -> Vec<f64> {
    nodes.iter().map(|node| metric(&node.address("http"), name)).collect()
}

#[test]
fn a_process_that_dies_is_noticed_within_250_ms_and_one_that_stands_still_within_three_seconds() {
    let mut cluster = Cluster::with_edges();
    let mut instance = cluster.started("north-2", &["--roles", "region", "--regions", "north"]);
    support::until("all have a link to it", || {
        let http = instance.address("http");
        metric(&http, "trunkline_links_up_total") >= 3.0 && support::get(&http, "/readyz").0
    });
    let edges = cluster.nodes.split_off(2);
    let pid = Pid::from_raw(instance.pid() as i32);

    let before = counts(&edges, "trunkline_links_suspect_total");
    kill(pid, Signal::SIGSTOP).unwrap();
    let took = until_all_count(&edges, "trunkline_links_suspect_total", &before);
    kill(pid, Signal::SIGCONT).unwrap();
    assert!(took <= SILENT + HOST, "{took:?}");

    support::until("all have a link to it again", || {
        metric(&instance.address("http"), "trunkline_links_up_total") >= 5.0
    });
    let before = counts(&edges, "trunkline_links_down_total");
    instance.kill();
    let took = until_all_count(&edges, "trunkline_links_down_total", &before);
    assert!(took <= VISIBLE + HOST, "{took:?}");
}
