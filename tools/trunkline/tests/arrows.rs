//! The arrows between the crates hold, and unsafe code has one place.
//!
//! `wire ← core ← node → net → wire`, `wire ← control → net`, the tools above. What decides has no I/O within reach: that is what
//! lets the simulator run the very code that is deployed.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, TargetKind};

/// Who may know whom, the crates above left out: those at the end of the arrows know everything below them.
const ARROWS: [(&str, &[&str]); 12] = [
    ("trunkline-wire", &[]),
    ("trunkline-core", &["trunkline-wire"]),
    ("trunkline-net", &["trunkline-wire"]),
    ("trunkline-node", &["trunkline-core", "trunkline-net", "trunkline-wire"]),
    ("trunkline-control", &["trunkline-net", "trunkline-wire"]),
    (
        "trunkline-client",
        // The resequencer is one for devices and servers.
        &["trunkline-core", "trunkline-net", "trunkline-wire"],
    ),
    // It speaks the protocol and owns its sockets: the driver and the client library are among what it measures.
    ("trunkline-load", &["trunkline-wire"]),
    // It starts programs, and knows none of them from within; it asks control as an operator's tool does.
    (
        "trunkline-compare",
        &["trunkline-control", "trunkline-load", "trunkline-wire"],
    ),
    // What is deployed, driven by a trace: no sockets.
    ("trunkline-replay", &["trunkline-core", "trunkline-wire"]),
    (
        "trunkline-sim",
        &[
            "trunkline-client",
            "trunkline-control",
            "trunkline-core",
            "trunkline-net",
            "trunkline-node",
            "trunkline-wire",
        ],
    ),
    ("trunkline", EVERYTHING),
    ("trunkline-benches", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "trunkline-client",
    "trunkline-control",
    "trunkline-core",
    "trunkline-load",
    "trunkline-net",
    "trunkline-node",
    "trunkline-replay",
    "trunkline-sim",
    "trunkline-wire",
];

/// What must not be reached from `wire` and `core`, however far down.
const IO: [&str; 6] = ["mio", "socket2", "tokio", "io-uring", "polling", "nix"];

/// The one crate that may hold unsafe code: the driver's system calls and its buffer rings.
const UNSAFE: &str = "trunkline-net";
/// And the one program: the floor uses the kernel's rings bare, because it is what the driver's cost is measured by.
const UNSAFE_PROGRAM: &str = "floor";

/// Each package, with what it needs to be built; what only its tests need is left out.
type Graph = BTreeMap<String, BTreeSet<String>>;

fn metadata() -> Metadata {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let read = MetadataCommand::new().manifest_path(manifest).exec();
    read.expect("cargo describes the workspace")
}

fn graph(metadata: &Metadata) -> Graph {
    let resolve = metadata.resolve.as_ref().expect("the graph was asked for");
    let name = |id| metadata[id].name.to_string();
    let mut graph = Graph::new();
    for node in &resolve.nodes {
        let built = node.deps.iter().filter(|dep| {
            dep.dep_kinds
                .iter()
                .any(|kind| kind.kind != DependencyKind::Development)
        });
        // Two versions of one package are one here: either would be one too many.
        graph
            .entry(name(&node.id))
            .or_default()
            .extend(built.map(|dep| name(&dep.pkg)));
    }
    graph
}

/// What is wrong with the arrows among `members`.
fn wrong_arrows(graph: &Graph, members: &BTreeSet<String>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.into_iter().collect();
    let mut wrong = Vec::new();
    for member in members {
        let Some(allowed) = allowed.get(member.as_str()) else {
            wrong.push(format!("{member} has no place among the arrows yet"));
            continue;
        };
        let known = graph[member].intersection(members);
        wrong.extend(
            known
                .filter(|known| !allowed.contains(&known.as_str()))
                .map(|known| format!("{member} may not know {known}")),
        );
    }
    wrong
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(package) = open.pop() {
        if seen.insert(package.clone()) {
            open.extend(graph.get(&package).into_iter().flatten().cloned());
        }
    }
    seen
}

fn io_within_reach(graph: &Graph) -> Vec<String> {
    let mut wrong = Vec::new();
    for pure in ["trunkline-wire", "trunkline-core"] {
        let reached = reached(graph, pure);
        wrong.extend(
            IO.iter()
                .filter(|io| reached.contains(**io))
                .map(|io| format!("{pure} reaches {io}")),
        );
    }
    wrong
}

/// Whether a crate's root forbids unsafe code, in a line of its own.
fn forbids_unsafe(root: &str) -> bool {
    root.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]")
}

fn members(metadata: &Metadata) -> BTreeSet<String> {
    metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.to_string())
        .collect()
}

#[test]
fn no_crate_knows_another_against_the_arrows() {
    let metadata = metadata();
    assert_eq!(wrong_arrows(&graph(&metadata), &members(&metadata)), [""; 0]);
}

#[test]
fn what_decides_has_no_io_within_reach() {
    assert_eq!(io_within_reach(&graph(&metadata())), [""; 0]);
}

#[test]
fn unsafe_code_is_forbidden_everywhere_but_in_net_and_the_floor() {
    let mut without = Vec::new();
    for package in metadata().workspace_packages() {
        let roots = package.targets.iter().filter(|target| {
            let code = |kind: &TargetKind| matches!(kind, TargetKind::Lib | TargetKind::Bin | TargetKind::ProcMacro);
            let excepted = package.name.as_str() == UNSAFE
                || (package.name.as_str() == "trunkline-benches" && target.name == UNSAFE_PROGRAM);
            !excepted && target.kind.iter().any(code)
        });
        for root in roots {
            let text = std::fs::read_to_string(&root.src_path).expect("the crate's root can be read");
            if !forbids_unsafe(&text) {
                without.push(root.src_path.to_string());
            }
        }
    }
    assert_eq!(without, [""; 0], "these lack #![forbid(unsafe_code)]");
}

#[test]
fn a_planted_arrow_a_planted_driver_and_a_missing_line_are_seen() {
    let metadata = metadata();
    let (mut graph, members) = (graph(&metadata), members(&metadata));
    graph
        .get_mut("trunkline-core")
        .expect("core is a member")
        .insert("trunkline-net".into());
    assert_eq!(
        wrong_arrows(&graph, &members),
        ["trunkline-core may not know trunkline-net"]
    );
    assert!(io_within_reach(&graph).contains(&"trunkline-core reaches mio".to_owned()));
    assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n#![deny(unsafe_code)]"));
}
