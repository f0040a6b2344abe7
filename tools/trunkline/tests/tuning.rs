//! A node that is tuned serves as any other, over both back ends, and shows what its threads do.

mod support;

use support::{Place, get, last_json, metric, run};

fn a_message_passes(backend: &str) {
    let place = Place::new();
    let tuned = [
        "--backend",
        backend,
        "--spin-us",
        "50",
        "--incoming-cpu",
        "true",
        "--nodelay",
        "true",
        "--device-buffers",
        "256",
        "--device-buffer-bytes",
        "1024",
        "--memory",
        "local",
    ];
    let up = place.up(&tuned);
    let server = up.address("device");
    let output = run([
        "load",
        "--server",
        &server,
        "--connections",
        "4",
        "--seconds",
        "0.3",
        "--warm-up",
        "0",
        "--rate",
        "500",
        "--json",
    ]);
    assert!(output.status.success(), "{}", support::stderr(&output));
    assert!(last_json(&output)["targets"].is_array());
    let http = up.address("http");
    support::until("the shards have published", || {
        metric(&http, "trunkline_frames_sent_total") > 0.0
    });
    for counted in ["receives", "frames_received", "enters", "completions"] {
        let name = format!("trunkline_{counted}_total");
        assert!(metric(&http, &name) > 0.0, "{name}");
    }
    let calls = metric(&http, "trunkline_reads_total") + metric(&http, "trunkline_writes_total");
    assert_eq!(calls > 0.0, backend == "epoll", "over io_uring they are no calls");
    let (_, text) = get(&http, "/metrics");
    assert!(text.contains(&format!("backend=\"{backend}\"")), "{text}");
    assert!(text.contains("trunkline_shard_info{"), "{text}");
    if std::path::Path::new("/proc/self/schedstat").exists() {
        assert!(metric(&http, "trunkline_cpu_seconds_total") > 0.0, "{text}");
    }
}

#[test]
fn over_epoll() {
    a_message_passes("epoll");
}

#[test]
fn over_io_uring() {
    match trunkline_net::backend::Backend::Uring.choose(1, &trunkline_net::epoll::Options::default()) {
        Ok(_) => a_message_passes("uring"),
        Err(error) => println!("skipped: {error}"),
    }
}
