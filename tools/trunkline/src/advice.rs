//! What to pin where on a host, and why: pure, from its topology to a plan.
//!
//! The plan is for one node that has the host to itself. It never asks for more than the process may use, and says of each choice what
//! it rests on.

use serde::Serialize;
use trunkline_node::config::ranges;
use trunkline_node::topology::{Card, Topology};

/// What to do on a host.
#[derive(Debug, Serialize)]
pub struct Plan {
    /// Processors for the shards, for the setting `cores`.
    pub cores: Vec<usize>,
    /// Whether a connection is best accepted where its packets come in.
    pub incoming_cpu: bool,
    /// Reasons and findings, in order of weight.
    pub notes: Vec<Note>,
    /// What to type, as root where it changes the host.
    pub commands: Vec<String>,
}

/// One finding.
#[derive(Debug, PartialEq, Serialize)]
pub struct Note {
    /// What it's about.
    pub what: &'static str,
    /// Whether something should be changed.
    pub warns: bool,
    /// The finding, and why it matters.
    pub says: String,
}

/// Makes the plan.
pub fn plan(host: &Topology) -> Plan {
    let mut notes = vec![layout(host)];
    let usable = usable(host);
    let card = host
        .cards
        .iter()
        .max_by_key(|card| (card.receive_queues, card.interrupts.len()));
    let candidates = candidates(host, &usable, card, &mut notes);
    let cores = within_quota(host, candidates, &mut notes);
    let mut commands = vec![format!("trunkline node --cores {} …", ranges(&cores))];
    let incoming_cpu = card.is_some_and(|card| interrupts(host, &usable, &cores, card, &mut notes, &mut commands));
    if incoming_cpu {
        commands[0] = format!("trunkline node --cores {} --incoming-cpu true …", ranges(&cores));
    }
    spinning(host, &cores, &mut notes);
    limits(host, cores.len(), &mut notes, &mut commands);
    Plan {
        cores,
        incoming_cpu,
        notes,
        commands,
    }
}

fn note(what: &'static str, says: String) -> Note {
    Note {
        what,
        warns: false,
        says,
    }
}

fn warning(what: &'static str, says: String) -> Note {
    Note {
        what,
        warns: true,
        says,
    }
}

fn layout(host: &Topology) -> Note {
    let distinct = |mut all: Vec<Option<u32>>| {
        all.sort_unstable();
        all.dedup();
        all.len().max(1)
    };
    let packages = distinct(host.processors.iter().map(|processor| processor.package).collect());
    let mut cores: Vec<_> = host.processors.iter().map(first_sibling).collect();
    cores.dedup();
    cores.sort_unstable();
    cores.dedup();
    let mut says = format!(
        "{} processors on {} cores in {packages} package{}, {} NUMA node{}",
        host.processors.len(),
        cores.len(),
        plural(packages),
        host.nodes.len().max(1),
        plural(host.nodes.len().max(1)),
    );
    if let Some(bytes) = host.processors.first().and_then(|processor| processor.cache_bytes) {
        let sharers = host.processors[0].cache_sharers.len().max(1);
        says += &format!("; a last-level cache of {} KiB for {sharers}", bytes >> 10);
    }
    note("topology", says)
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn first_sibling(processor: &trunkline_node::topology::Processor) -> usize {
    processor.siblings.iter().min().copied().unwrap_or(processor.number)
}

/// Processors that are on line and that the process may use.
fn usable(host: &Topology) -> Vec<usize> {
    let online = host.processors.iter().map(|processor| processor.number);
    online
        .filter(|number| host.limits.cpus.is_empty() || host.limits.cpus.contains(number))
        .collect()
}

/// Which of the usable ones shards should have, best first.
fn candidates(host: &Topology, usable: &[usize], card: Option<&Card>, notes: &mut Vec<Note>) -> Vec<usize> {
    let mut cores: Vec<usize> = Vec::new();
    let mut taken = Vec::new();
    for &number in usable {
        let core = host.processor(number).map_or(number, first_sibling);
        if !taken.contains(&core) {
            taken.push(core);
            cores.push(number);
        }
    }
    if cores.len() < usable.len() {
        notes.push(note(
            "siblings",
            format!(
                "one shard a core, {} of {} processors: two threads of one core share its units and caches, and slow each other",
                cores.len(),
                usable.len()
            ),
        ));
    }
    let isolated: Vec<usize> = cores
        .iter()
        .filter(|core| host.isolated.contains(core))
        .copied()
        .collect();
    if !isolated.is_empty() {
        notes.push(note(
            "isolated",
            format!(
                "{} are isolated: no other work disturbs shards there",
                ranges(&isolated)
            ),
        ));
        return near(host, isolated, card, notes);
    }
    let mut cores = near(host, cores, card, notes);
    if cores.len() >= CORES_TO_SPARE_ONE {
        let spared = cores.iter().min().copied().unwrap_or(0);
        cores.retain(|core| *core != spared);
        notes.push(note(
            "spared",
            format!("core {spared} is left to the system, and to the node's own threads for control and HTTP"),
        ));
    }
    cores
}

/// Of these, those on the card's NUMA node; or on the one that has most of them.
fn near(host: &Topology, cores: Vec<usize>, card: Option<&Card>, notes: &mut Vec<Note>) -> Vec<usize> {
    if host.nodes.len() < 2 {
        return cores;
    }
    let of = |node: u32| -> Vec<usize> {
        let at = |core: &&usize| host.processor(**core).and_then(|processor| processor.node) == Some(node);
        cores.iter().filter(at).copied().collect()
    };
    let (home, why) = match card.and_then(|card| Some((card, card.node?))) {
        Some((card, node)) if !of(node).is_empty() => (node, format!("{} is attached to it", card.name)),
        _ => {
            let most = host.nodes.iter().rev().max_by_key(|(node, _)| of(*node).len());
            let Some((node, _)) = most else { return cores };
            (
                *node,
                "no card says which it is attached to, and it has the most cores".to_owned(),
            )
        }
    };
    let (here, others) = (of(home), cores.len() - of(home).len());
    if others > 0 {
        let there: Vec<usize> = cores.iter().filter(|core| !here.contains(core)).copied().collect();
        notes.push(note(
            "numa",
            format!(
                "shards on node {home}: {why}, and messages between shards stay in its memory; for more, a second node process with \
                 --cores {}",
                ranges(&there)
            ),
        ));
    }
    here
}

/// No more than the control group has time for: a shard that is throttled stops its devices for the rest of the period.
fn within_quota(host: &Topology, mut cores: Vec<usize>, notes: &mut Vec<Note>) -> Vec<usize> {
    let Some(millis) = host.limits.cpu_millis else {
        return cores;
    };
    let most = (millis / 1000).max(1) as usize;
    let says = format!(
        "the control group has the time of {}.{:02} processors",
        millis / 1000,
        millis % 1000 / 10
    );
    if cores.len() > most {
        cores.truncate(most);
        notes.push(warning(
            "cgroup cpu",
            format!(
                "{says}: more shards than that would be stopped for parts of each period, their devices with them; {most} here, or raise \
                 the quota (cpu.max)"
            ),
        ));
    } else {
        notes.push(note("cgroup cpu", says));
    }
    cores
}

/// Where the card's interrupts should go. True if connections are best accepted where packets come in.
fn interrupts(
    host: &Topology,
    usable: &[usize],
    cores: &[usize],
    card: &Card,
    notes: &mut Vec<Note>,
    commands: &mut Vec<String>,
) -> bool {
    let says = format!("{} has {} receive queues", card.name, card.receive_queues);
    if card.interrupts.is_empty() || cores.is_empty() {
        notes.push(note("card", format!("{says}, and shows no interrupts to place")));
        return false;
    }
    if host.limits.cpu_millis.is_some() {
        notes.push(note(
            "card",
            format!("{says}; its interrupts are the host's to place, not a container's"),
        ));
        return false;
    }
    // A core's other thread takes the packets into the caches that the shard reads from, and doesn't interrupt it.
    let sibling = |core: &usize| {
        let siblings = host.processor(*core).map_or(&[][..], |processor| &processor.siblings);
        siblings
            .iter()
            .find(|other| *other != core && usable.contains(other))
            .copied()
    };
    let siblings: Vec<usize> = cores.iter().filter_map(sibling).collect();
    let on_siblings = siblings.len() == cores.len();
    let targets = if on_siblings { siblings } else { cores.to_vec() };
    let why = if on_siblings {
        "to the other threads of the shards' cores: into the same caches, without interrupting the shards"
    } else {
        "to the shards' own processors: a packet is handled where it's read"
    };
    let placed: Vec<(u32, usize)> = card
        .interrupts
        .iter()
        .zip(targets.iter().cycle())
        .map(|(interrupt, target)| (interrupt.number, *target))
        .collect();
    let changes: Vec<&(u32, usize)> = (placed.iter().zip(&card.interrupts))
        .filter(|((_, target), interrupt)| interrupt.processors != [*target])
        .map(|(placed, _)| placed)
        .collect();
    if changes.is_empty() {
        notes.push(note("card", format!("{says}, whose interrupts go {why} already")));
    } else {
        notes.push(warning(
            "card",
            format!("{says}: let its {} interrupts go {why}", placed.len()),
        ));
        commands.push("systemctl disable --now irqbalance    # where it runs: it would undo the next lines".to_owned());
        let lines = changes
            .iter()
            .map(|(number, target)| format!("echo {target} > /proc/irq/{number}/smp_affinity_list"));
        commands.extend(lines);
    }
    if card.receive_queues > cores.len() {
        let say = format!("ethtool -L {} combined {}", card.name, cores.len());
        notes.push(note(
            "queues",
            format!("more queues than shards only spread the interrupts: {say}"),
        ));
    }
    !on_siblings && card.receive_queues >= cores.len() && cores.len() > 1
}

fn spinning(host: &Topology, cores: &[usize], notes: &mut Vec<Note>) {
    let isolated = !cores.is_empty() && cores.iter().all(|core| host.isolated.contains(core));
    let alone = isolated || (host.limits.cpu_millis.is_none() && cores.len() < host.processors.len());
    notes.push(note(
        "spinning",
        match alone {
            true => "the shards leave processors to others: --spin-us 50 may be worth its processor time; trunkline tune measures it",
            false => "the shards have all the processor time there is: spinning would take it from others, among them the kernel",
        }
        .to_owned(),
    ));
    if isolated && !cores.iter().all(|core| host.tickless.contains(core)) {
        notes.push(note(
            "ticks",
            format!(
                "with nohz_full={} on the kernel's command line the timer doesn't interrupt them either",
                ranges(cores)
            ),
        ));
    }
}

fn limits(host: &Topology, shards: usize, notes: &mut Vec<Note>, commands: &mut Vec<String>) {
    if let Some(bytes) = host.limits.memory_bytes {
        let (wanted, says) = (
            SHARD_BYTES * shards.max(1) as u64,
            format!("the control group has {} MiB", bytes >> 20),
        );
        notes.push(match bytes.checked_sub(wanted) {
            Some(left) => note(
                "cgroup memory",
                format!(
                    "{says}: {} MiB are left for sessions beside {shards} shards",
                    left >> 20
                ),
            ),
            None => warning(
                "cgroup memory",
                format!(
                    "{says}, and {shards} shards want {} MiB: raise it (memory.max), or run fewer",
                    wanted >> 20
                ),
            ),
        });
    }
    if let Some((_, hard)) = host.limits.open_files
        && hard < FILES_WANTED
    {
        notes.push(warning(
            "open files",
            format!("the hard limit is {hard}: io_uring's table of sockets is no larger, and epoll's sockets count"),
        ));
        commands.push(format!(
            "ulimit -Hn {FILES_WANTED}    # or LimitNOFILE={FILES_WANTED} in the service's unit"
        ));
    }
}

/// With fewer, one that does nothing else is too dear.
const CORES_TO_SPARE_ONE: usize = 4;
/// What a shard takes without a session.
const SHARD_BYTES: u64 = 32 << 20;
/// A shard's sockets by default, and some.
const FILES_WANTED: u64 = 1 << 17;
