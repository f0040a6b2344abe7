//! The links of the model: per pair of nodes, both ways. Counts what they cost.

/// Which nodes are linked.
#[derive(Debug)]
pub(crate) struct Network {
    nodes: usize,
    /// By pair, the lower node first.
    links: Vec<Link>,
    degrees: Vec<usize>,
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
            degrees: vec![0; nodes],
            dials: 0,
            wasted: 0,
            links_max: 0,
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
        self.degrees.iter().sum::<usize>() as f64 / self.nodes as f64
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
        for node in [a, b] {
            self.degrees[node] -= 1;
        }
    }

    /// A message goes from `a` to `b`; returns whether over a link.
    pub(crate) fn carry(&mut self, a: usize, b: usize) -> bool {
        let place = self.place(a, b);
        match self.links[place] {
            Link::None => false,
            Link::Unused | Link::Used => {
                self.links[place] = Link::Used;
                true
            }
        }
    }

    fn place(&self, a: usize, b: usize) -> usize {
        a.min(b) * self.nodes + a.max(b)
    }
}
