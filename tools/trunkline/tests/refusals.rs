//! What an operator can't mean, or is to say twice: refused by the real command line with the reason, before anything changes.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::cluster::Cluster;
use support::{Running, until};

/// The map's version, which every change raises, and what control keeps of nodes and moves.
fn standing(cluster: &Cluster) -> (Value, Value) {
    (
        cluster.status()["version"].clone(),
        cluster.ask(&["moves", "--json"])["moves"].clone(),
    )
}

/// A cluster in which nothing changes by itself any more.
fn settled() -> Cluster {
    let cluster = Cluster::with_edges();
    until("all have the latest map", || {
        let status = cluster.status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.len() == 4 && nodes.iter().all(|node| node["version"] == status["version"])
    });
    cluster
}

/// Each is refused with these words, and afterwards all is as it was.
fn are_refused(cluster: &Cluster, requests: &[(&[&str], &[&str])]) {
    let before = standing(cluster);
    for (request, words) in requests {
        cluster.refused(request, words);
    }
    assert_eq!(standing(cluster), before);
}

fn signal(node: &Running, signal: Signal) {
    kill(Pid::from_raw(node.pid() as i32), signal).unwrap();
}

/// The node's lease, as `status` says it.
fn lease(cluster: &Cluster, name: &str) -> Value {
    let status = cluster.status();
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["name"] == name).unwrap()["lease"].clone()
}

#[test]
fn moves_of_what_is_not_there_and_to_where_nothing_is_are_refused() {
    let cluster = settled();
    are_refused(
        &cluster,
        &[
            (
                &["move", "alice", "--to", "mars"],
                &["no region `mars`", "north, south"],
            ),
            (&["move", "--slots", "0-9", "--to", "mars"], &["no region `mars`"]),
            (
                &["move", "--share", "5%", "--from", "mars", "--to", "south"],
                &["no region `mars`"],
            ),
            (
                &["move", "--share", "5%", "--from", "south", "--to", "south"],
                &["to itself"],
            ),
            (&["unenroll", "alice"], &["device `alice` is not enrolled"]),
            (&["abort", "7"], &["no move 7"]),
            (&["remove-region", "mars"], &["no region `mars`"]),
            (&["add-instance", "mars", "--region", "north"], &["no node `mars`"]),
            (&["add-instance", "edge-1", "--region", "north"], &["no role `region`"]),
            (
                &["remove-instance", "south", "--region", "north"],
                &["no instance of the region `north`"],
            ),
            (&["remove-node", "mars"], &["no node `mars`"]),
            (&["drain", "north"], &["no devices"]),
        ],
    );
}

#[test]
fn moves_that_overlap_are_refused_until_the_first_is_over() {
    let cluster = settled();
    // One that does nothing keeps a move where it is.
    let edge = &cluster.nodes[3];
    signal(edge, Signal::SIGSTOP);
    let slots = ["move", "--slots", "0-40000", "--to", "north", "--detach", "--json"];
    assert_eq!(cluster.ask(&slots)["stage"], "both");
    are_refused(
        &cluster,
        &[
            (
                &["move", "--slots", "40000-50000", "--to", "north"],
                &["slot 40000 is on the way in move 1"],
            ),
            (&["rebalance"], &["move 1 has slots on their way"]),
            (
                &["remove-region", "north"],
                &["region that is being removed is on the way in move 1"],
            ),
        ],
    );
    signal(edge, Signal::SIGCONT);
    assert_eq!(cluster.ask(&["watch", "1", "--json"])["stage"], "done");
    let rest = cluster.ask(&["move", "--slots", "40001-50000", "--to", "north", "--json"]);
    assert_eq!(rest["stage"], "done");
}

#[test]
fn a_region_keeps_its_last_instance_and_more_than_a_tenth_of_all_go_by_force_only() {
    let mut cluster = settled();
    are_refused(
        &cluster,
        &[
            (&["remove-instance", "north"], &["last instance", "32768 slots"]),
            // By force neither.
            (
                &["remove-instance", "north", "--force"],
                &["last instance", "32768 slots"],
            ),
        ],
    );
    cluster.node("north-2", &["--roles", "region", "--regions", "north"]);
    until("it is an instance, and no move is open", || {
        let status = cluster.status();
        let regions = status["regions"].as_array().unwrap();
        let serving = regions
            .iter()
            .map(|region| region["instances"].as_array().unwrap().len());
        serving.sum::<usize>() == 3 && status["moves_open"] == 0
    });
    let share = "2 of 3 nodes instances no longer, and more than 10 %";
    are_refused(
        &cluster,
        &[
            (&["remove-region", "north"], &[share, "--force"]),
            (&["remove-region", "north", "--dry-run"], &[share, "--force"]),
        ],
    );
    let removed = cluster.ask(&["remove-region", "north", "--force", "--json"]);
    assert_eq!((&removed["stage"], &removed["slots"]), (&"done".into(), &32_768.into()));
    cluster.refused(&["remove-region", "south"], &["last one"]);
}

#[test]
fn a_node_that_lives_and_more_than_a_tenth_of_the_nodes_are_removed_by_force_only() {
    let mut cluster = settled();
    are_refused(&cluster, &[(&["remove-node", "edge-1"], &["is alive", "--force"])]);
    for edge in &mut cluster.nodes[2..] {
        edge.kill();
    }
    until("their leases are over", || {
        ["edge-1", "edge-2"]
            .iter()
            .all(|name| lease(&cluster, name) == "lapsed")
    });
    assert_eq!(cluster.ask(&["remove-node", "edge-1"])["name"], "edge-1");
    are_refused(
        &cluster,
        &[(&["remove-node", "edge-2"], &["more than 10 % of the nodes", "--force"])],
    );
    assert_eq!(cluster.ask(&["remove-node", "edge-2", "--force"])["name"], "edge-2");
}
