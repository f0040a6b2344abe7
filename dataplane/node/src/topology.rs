//! The host's layout as the kernel shows it below `/sys` and `/proc`: processors, packages, caches, siblings, NUMA nodes, network cards
//! and their interrupts, isolated processors, limits.
//!
//! Only reads, below a root that the caller names, so that trees that were recorded elsewhere are read alike. What a system doesn't show
//! is missing here, never guessed. What follows from it is decided elsewhere.

use std::fs;
use std::path::{Path, PathBuf};

mod cards;
mod limits;

pub use self::cards::{Card, Interrupt};
pub use self::limits::Limits;

/// See the module's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// Processors that are on line, by number.
    pub processors: Vec<Processor>,
    /// NUMA nodes and their processors; empty where the kernel has none.
    pub nodes: Vec<(u32, Vec<usize>)>,
    /// Processors that the scheduler leaves alone (`isolcpus`).
    pub isolated: Vec<usize>,
    /// Processors without a timer tick while one thread runs (`nohz_full`).
    pub tickless: Vec<usize>,
    /// Network cards, the loopback not counted.
    pub cards: Vec<Card>,
    /// What the process's control group and its limits leave it.
    pub limits: Limits,
}

/// One processor, as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Processor {
    /// Its number.
    pub number: usize,
    /// The package (socket) that it's in.
    pub package: Option<u32>,
    /// Processors that share its core, itself included; empty where the kernel doesn't say.
    pub siblings: Vec<usize>,
    /// Processors that share its last level of cache, itself included; empty where the kernel doesn't say.
    pub cache_sharers: Vec<usize>,
    /// Bytes of that cache.
    pub cache_bytes: Option<u64>,
    /// Its NUMA node.
    pub node: Option<u32>,
}

impl Topology {
    /// Reads what is below `root`: `/` for this host.
    pub fn read(root: &Path) -> Topology {
        let tree = Tree(root.to_owned());
        let nodes = nodes(&tree);
        let online = tree.list("sys/devices/system/cpu/online");
        let processors = online.into_iter().map(|number| processor(&tree, number, &nodes));
        Topology {
            processors: processors.collect(),
            isolated: tree.list("sys/devices/system/cpu/isolated"),
            tickless: tree.list("sys/devices/system/cpu/nohz_full"),
            cards: cards::read(&tree),
            limits: limits::read(&tree),
            nodes,
        }
    }

    /// The processor of this number.
    pub fn processor(&self, number: usize) -> Option<&Processor> {
        self.processors.iter().find(|processor| processor.number == number)
    }
}

/// The NUMA node whose memory a thread on `core` should have; `None` where there is but one, or none is known to have the core.
pub fn memory_home(nodes: &[(u32, Vec<usize>)], core: usize) -> Option<u32> {
    if nodes.len() < 2 {
        return None;
    }
    let home = nodes.iter().find(|(_, processors)| processors.contains(&core));
    home.map(|(node, _)| *node)
}

/// The NUMA nodes of this host and their processors.
pub fn memory_nodes() -> Vec<(u32, Vec<usize>)> {
    nodes(&Tree(PathBuf::from("/")))
}

fn nodes(tree: &Tree) -> Vec<(u32, Vec<usize>)> {
    let found = tree.numbered("sys/devices/system/node", "node");
    let found = found.map(|(number, path)| (number, tree.list(&format!("{path}/cpulist"))));
    found.collect()
}

fn processor(tree: &Tree, number: usize, nodes: &[(u32, Vec<usize>)]) -> Processor {
    let base = format!("sys/devices/system/cpu/cpu{number}");
    let last = tree
        .numbered(&format!("{base}/cache"), "index")
        .filter_map(|(_, path)| Some((tree.number(&format!("{path}/level"))?, path)))
        .max_by_key(|(level, _)| *level)
        .map(|(_, path)| path);
    let home = nodes.iter().find(|(_, processors)| processors.contains(&number));
    Processor {
        number,
        package: tree
            .number(&format!("{base}/topology/physical_package_id"))
            .and_then(|package| u32::try_from(package).ok()),
        siblings: tree.list(&format!("{base}/topology/thread_siblings_list")),
        cache_sharers: (last.as_ref()).map_or(Vec::new(), |path| tree.list(&format!("{path}/shared_cpu_list"))),
        cache_bytes: last.and_then(|path| size(&tree.text(&format!("{path}/size"))?)),
        node: home.map(|(node, _)| *node),
    }
}

/// `32768K`, as the kernel writes a cache's size.
fn size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    Some(digits.parse::<u64>().ok()? * unit)
}

/// Files below a root.
struct Tree(PathBuf);

impl Tree {
    /// A file's text, without the space around it.
    fn text(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.0.join(path)).ok()?.trim().to_owned())
    }

    /// A number alone in a file. Negative ones, by which the kernel says "unknown", are none.
    fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.parse().ok()
    }

    /// A file with a list of processors; empty if there is none.
    fn list(&self, path: &str) -> Vec<usize> {
        self.text(path).map_or(Vec::new(), |text| processor_list(&text))
    }

    /// Names in a directory, sorted.
    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.0.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names
    }

    /// Entries of a directory with `name` and a number, such as `node3`, by number.
    fn numbered(&self, path: &str, name: &str) -> impl Iterator<Item = (u32, String)> + use<> {
        let mut found: Vec<(u32, String)> = self
            .names(path)
            .into_iter()
            .filter_map(|entry| {
                let number = entry.strip_prefix(name)?.parse().ok()?;
                Some((number, format!("{path}/{entry}")))
            })
            .collect();
        found.sort_unstable();
        found.into_iter()
    }

    fn exists(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// Where a link points to.
    fn target(&self, path: &str) -> Option<PathBuf> {
        fs::read_link(self.0.join(path)).ok()
    }
}

/// `0-3,8`, as the kernel writes lists of processors; what is none is left out.
pub fn processor_list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_read_as_the_kernel_writes_them() {
        assert_eq!(processor_list("0-3,8\n"), [0, 1, 2, 3, 8]);
        assert_eq!(processor_list("5"), [5]);
        assert!(processor_list("").is_empty() && processor_list("(null)").is_empty());
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(size("32768K"), Some(32 << 20));
        assert_eq!(size("64"), Some(64));
        assert_eq!(size("K"), None);
    }

    #[test]
    fn memory_has_a_home_only_where_there_is_a_choice() {
        let two = [(0, vec![0, 2]), (1, vec![1, 3])];
        assert_eq!(memory_home(&two, 3), Some(1));
        assert_eq!(memory_home(&two, 9), None, "a processor that no node has");
        assert_eq!(memory_home(&two[..1], 0), None, "one node is no choice");
        assert_eq!(memory_home(&[], 0), None);
    }

    #[test]
    fn a_system_that_shows_nothing_is_read_as_that() {
        let read = Topology::read(Path::new("/nowhere"));
        assert_eq!(read, Topology::default());
    }
}
