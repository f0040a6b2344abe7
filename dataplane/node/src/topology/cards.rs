//! Network cards, their queues and the interrupts of these.

use super::Tree;
use super::processor_list;

/// A network card.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Card {
    /// Its interface's name, such as `eth0`.
    pub name: String,
    /// Its driver's name, where it says so.
    pub driver: Option<String>,
    /// Its NUMA node, where there are several.
    pub node: Option<u32>,
    /// Queues that receive.
    pub receive_queues: usize,
    /// Queues that send.
    pub send_queues: usize,
    /// Its interrupts, by number; none for cards without a bus.
    pub interrupts: Vec<Interrupt>,
}

/// An interrupt of a card.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interrupt {
    /// Its number.
    pub number: u32,
    /// What `/proc/interrupts` calls it, such as `eth0-TxRx-3`.
    pub name: String,
    /// Where it may be handled.
    pub processors: Vec<usize>,
}

pub(super) fn read(tree: &Tree) -> Vec<Card> {
    let names = tree.names("sys/class/net");
    let cards = names.into_iter().filter(|name| {
        // Bridges, tunnels and the like have no device behind them, and nobody's interrupts.
        tree.exists(&format!("sys/class/net/{name}/device"))
    });
    let names = interrupt_names(tree);
    cards.map(|name| card(tree, name, &names)).collect()
}

fn card(tree: &Tree, name: String, names: &[(u32, String)]) -> Card {
    let base = format!("sys/class/net/{name}");
    let queues = |kind| tree.numbered(&format!("{base}/queues"), kind).count();
    let mut numbers: Vec<u32> = (tree.names(&format!("{base}/device/msi_irqs")).iter())
        .filter_map(|number| number.parse().ok())
        .collect();
    if numbers.is_empty() {
        // A virtual card's interrupts belong to the bus above it, or are known by the interface's name alone.
        let above = tree.names(&format!("{base}/device/../msi_irqs"));
        numbers = above.iter().filter_map(|number| number.parse().ok()).collect();
    }
    if numbers.is_empty() {
        numbers = (names.iter())
            .filter(|(_, called)| called.split(['-', '@', ':']).any(|part| part == name))
            .map(|(number, _)| *number)
            .collect();
    }
    numbers.sort_unstable();
    let interrupt = |number| {
        let called = names.iter().find(|(other, _)| *other == number)?;
        let processors = tree
            .text(&format!("proc/irq/{number}/effective_affinity_list"))
            .filter(|text| !text.is_empty())
            .or_else(|| tree.text(&format!("proc/irq/{number}/smp_affinity_list")))?;
        Some(Interrupt {
            number,
            name: called.1.clone(),
            processors: processor_list(&processors),
        })
    };
    Card {
        driver: tree.target(&format!("{base}/device/driver")).and_then(|path| {
            let last = path.file_name()?;
            Some(last.to_str()?.to_owned())
        }),
        node: tree
            .number(&format!("{base}/device/numa_node"))
            .and_then(|node| u32::try_from(node).ok()),
        receive_queues: queues("rx-"),
        send_queues: queues("tx-"),
        interrupts: numbers.into_iter().filter_map(interrupt).collect(),
        name,
    }
}

/// Number and name of every interrupt that has a number.
fn interrupt_names(tree: &Tree) -> Vec<(u32, String)> {
    let text = tree.text("proc/interrupts").unwrap_or_default();
    let lines = text.lines().filter_map(|line| {
        let (number, rest) = line.trim().split_once(':')?;
        Some((number.parse().ok()?, rest.split_whitespace().last()?.to_owned()))
    });
    lines.collect()
}
