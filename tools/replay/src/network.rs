//! The links of the model: per pair of nodes, both ways. Counts what they cost.

use crate::model::Readiness;

/// Which nodes are linked.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    /// By pair, the lower node first.
    links: Vec<Link>,
    /// By pair: in which second it was dialled last, counted from 1 on in those that something happens in.
    dialled: Vec<u32>,
    second: (u64, u32),
    degrees: Vec<usize>,
    /// Links that are up.
    up: usize,
    dials: u64,
    wasted: u64,
    links_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    Unused,
    Used,
}

impl Network {
    pub(crate) fn new(nodes: usize) -> Network {
        Network {
            nodes,
            links: vec![Link::None; nodes * nodes],
            dialled: vec![0; nodes * nodes],
            second: (0, 0),
            degrees: vec![0; nodes],
            up: 0,
            dials: 0,
            wasted: 0,
            links_max: 0,
        }
    }

    /// Time has come to `now`, and never goes back.
    pub(crate) fn turn_to(&mut self, now: u64) {
        if self.second.0 != now || self.second.1 == 0 {
            self.second = (now, self.second.1 + 1);
        }
    }

    pub(crate) fn is_linked(&self, a: usize, b: usize) -> bool {
        self.links[self.place(a, b)] != Link::None
    }

    pub(crate) fn dials(&self) -> u64 {
        self.dials
    }

    /// Dials whose link has carried no message, of links that are still up too.
    pub(crate) fn wasted(&self) -> u64 {
        let unused = self.links.iter().filter(|&&link| link == Link::Unused).count();
        self.wasted + unused as u64
    }

    /// The most links that a node has had.
    pub(crate) fn links_max(&self) -> usize {
        self.links_max
    }

    /// How many links a node has, on average.
    pub(crate) fn links_mean(&self) -> f64 {
        (2 * self.up) as f64 / self.nodes as f64
    }

    /// A dial that was refused by the other side.
    pub(crate) fn dial_in_vain(&mut self) {
        self.dials += 1;
        self.wasted += 1;
    }

    pub(crate) fn dial(&mut self, a: usize, b: usize) {
        assert!(a != b && !self.is_linked(a, b), "nodes {a} and {b} need no dial");
        let place = self.place(a, b);
        self.links[place] = Link::Unused;
        self.dialled[place] = self.second.1;
        self.up += 1;
        self.dials += 1;
        for node in [a, b] {
            self.degrees[node] += 1;
            self.links_max = self.links_max.max(self.degrees[node]);
        }
    }

    pub(crate) fn drop(&mut self, a: usize, b: usize) {
        let place = self.place(a, b);
        match std::mem::replace(&mut self.links[place], Link::None) {
            Link::None => panic!("nodes {a} and {b} have no link"),
            Link::Unused => self.wasted += 1,
            Link::Used => {}
        }
        self.up -= 1;
        for node in [a, b] {
            self.degrees[node] -= 1;
        }
    }

    /// A message goes from `a` to `b`; returns whether there was a link for it.
    pub(crate) fn carry(&mut self, a: usize, b: usize) -> Readiness {
        let place = self.place(a, b);
        match self.links[place] {
            Link::None => Readiness::None,
            Link::Unused | Link::Used => {
                self.links[place] = Link::Used;
                if self.dialled[place] == self.second.1 {
                    Readiness::New
                } else {
                    Readiness::Ready
                }
            }
        }
    }

    fn place(&self, a: usize, b: usize) -> usize {
        a.min(b) * self.nodes + a.max(b)
    }
}
