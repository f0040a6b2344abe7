//! Drivers under test, with a model beside each that every completion is checked against.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;
use trunkline_net::driver::{Buffer, BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token};

use crate::harness::{Bounds, Failure, Harness, Outcome, Peer, ensure};

/// What the suite knows of one token.
#[derive(Debug, Default)]
pub struct Model {
    pub connected: bool,
    pub connect_failed: Option<io::ErrorKind>,
    armed: Option<ReceiveMode>,
    pub received: Vec<u8>,
    pub pieces: usize,
    /// What the last piece said of what is behind it.
    pub followed: bool,
    pub eof: bool,
    pub receive_failed: Option<io::ErrorKind>,
    /// A copy of what is in flight, to see that it comes back unchanged.
    in_flight: Option<Vec<u8>>,
    pub sent: Vec<Result<(), io::ErrorKind>>,
    closing: bool,
    leaving: bool,
}

impl Model {
    pub fn armed(&self) -> bool {
        self.armed.is_some()
    }

    pub fn sending(&self) -> bool {
        self.in_flight.is_some()
    }

    pub fn closing(&self) -> bool {
        self.closing || self.leaving
    }

    fn receive_ended(&self) -> bool {
        self.eof || self.receive_failed.is_some()
    }
}

/// What happens to received buffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lending {
    /// They go back at once.
    GiveBack,
    /// They are kept until [`Node::give_back`].
    Hold,
}

/// A driver and its model.
pub struct Node<D: Driver> {
    pub driver: D,
    pub lending: Lending,
    /// Tokens that were made known and have not died, by slot.
    pub live: BTreeMap<Token, Model>,
    /// Those that died, as they were then.
    pub dead: BTreeMap<Token, Model>,
    pub accepted: Vec<(ListenerId, Token)>,
    /// By listener and kind of error.
    pub pauses: Vec<(ListenerId, Option<io::ErrorKind>)>,
    /// Sockets that came out of hand-overs, and tokens whose hand-over failed.
    pub handed: Vec<(Token, io::Result<D::Socket>)>,
    pub wakes: usize,
    pub held: Vec<(Buffer, Vec<u8>)>,
    pub waits: u64,
    completions: Vec<Completion<D::Socket>>,
}

impl<D: Driver> Node<D> {
    fn new(driver: D) -> Node<D> {
        Node {
            driver,
            lending: Lending::GiveBack,
            live: BTreeMap::new(),
            dead: BTreeMap::new(),
            accepted: Vec::new(),
            pauses: Vec::new(),
            handed: Vec::new(),
            wakes: 0,
            held: Vec::new(),
            waits: 0,
            completions: Vec::new(),
        }
    }

    /// How many tokens have died.
    pub fn deaths(&self) -> usize {
        self.dead.len()
    }

    /// The model of a token, dead or alive.
    pub fn of(&self, token: Token) -> &Model {
        self.live
            .get(&token)
            .or_else(|| self.dead.get(&token))
            .expect("a known token")
    }

    pub fn connect(&mut self, address: SocketAddr) -> Result<Token, Failure> {
        let token = self
            .driver
            .connect(address)
            .map_err(|error| Failure(format!("connect: {error}")))?;
        self.make_known(token)?;
        Ok(token)
    }

    pub fn adopt(&mut self, socket: D::Socket) -> Result<Token, Failure> {
        let token = self
            .driver
            .adopt(socket)
            .map_err(|(error, _)| Failure(format!("adopt: {error}")))?;
        self.make_known(token)?;
        Ok(token)
    }

    pub fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        self.driver.receive(token, mode, group);
        if let Some(model) = self.live.get_mut(&token)
            && !model.closing()
            && !model.receive_ended()
        {
            model.armed.get_or_insert(mode);
        }
    }

    pub fn send(&mut self, token: Token, bytes: Vec<u8>) {
        if let Some(model) = self.live.get_mut(&token).filter(|model| !model.closing()) {
            model.in_flight = Some(bytes.clone());
        }
        self.driver.send(token, bytes);
    }

    pub fn close(&mut self, token: Token) {
        self.driver.close(token);
        if let Some(model) = self.live.get_mut(&token).filter(|model| !model.leaving) {
            model.closing = true;
            model.armed = None;
        }
    }

    pub fn hand_over(&mut self, token: Token, to: &D::Address) {
        self.driver.hand_over(token, to);
        if let Some(model) = self.live.get_mut(&token).filter(|model| !model.closing) {
            model.leaving = true;
        }
    }

    /// Gives held buffers back, the oldest first, at most `count`; each must be as it was when it came.
    pub fn give_back(&mut self, count: usize) -> Outcome {
        for (buffer, copy) in self.held.drain(..count.min(self.held.len())) {
            ensure!(
                self.driver.bytes(&buffer) == copy,
                "the driver wrote to a buffer that was lent out"
            );
            self.driver.give_back(buffer);
        }
        Ok(())
    }

    fn make_known(&mut self, token: Token) -> Outcome {
        let same_slot = self.live.keys().find(|live| live.slot == token.slot);
        ensure!(
            same_slot.is_none(),
            "{token:?} was made known while {same_slot:?} lives"
        );
        ensure!(
            !self.dead.contains_key(&token),
            "{token:?} was made known again after its death"
        );
        self.live.insert(token, Model::default());
        Ok(())
    }

    fn known(&mut self, token: Token, what: &str) -> Result<&mut Model, Failure> {
        let unknown = || Failure(format!("{what} for {token:?}, which is not alive"));
        self.live.get_mut(&token).ok_or_else(unknown)
    }

    /// One `wait`; whether anything came.
    pub fn turn(&mut self, until: Option<trunkline_wire::time::Instant>) -> Result<bool, Failure> {
        self.wait(until)?;
        self.look()
    }

    /// The half of a turn after which the caller has the completions, and has looked at none.
    pub fn wait(&mut self, until: Option<trunkline_wire::time::Instant>) -> Outcome {
        self.waits += 1;
        let waited = self.driver.wait(until, &mut self.completions);
        waited.map_err(|error| Failure(format!("wait: {error}")))
    }

    /// The other half; whether there was anything to look at.
    pub fn look(&mut self) -> Result<bool, Failure> {
        let mut completions = std::mem::take(&mut self.completions);
        let any = !completions.is_empty();
        for completion in completions.drain(..) {
            self.absorb(completion)?;
        }
        self.completions = completions;
        Ok(any)
    }

    /// Whether the last `wait` brought the end of `token`, which nobody has looked at yet.
    pub fn unseen_end(&self, token: Token) -> bool {
        self.completions.iter().any(|completion| {
            matches!(completion, Completion::Closed { token: ended } | Completion::HandedOver { token: ended, .. } if *ended == token)
        })
    }

    fn absorb(&mut self, completion: Completion<D::Socket>) -> Outcome {
        match completion {
            Completion::Accepted { listener, token, .. } => {
                self.make_known(token)?;
                self.known(token, "")?.connected = true;
                self.accepted.push((listener, token));
            }
            Completion::AcceptPaused { listener, error } => {
                self.pauses.push((listener, error.map(|error| error.kind())));
            }
            Completion::Connected { token } => {
                let model = self.known(token, "Connected")?;
                ensure!(
                    !model.connected && model.connect_failed.is_none(),
                    "{token:?} connected twice"
                );
                ensure!(!model.closing, "Connected after the close of {token:?}");
                model.connected = true;
            }
            Completion::ConnectFailed { token, error } => {
                let model = self.known(token, "ConnectFailed")?;
                ensure!(
                    !model.connected && model.connect_failed.is_none(),
                    "{token:?} was through before"
                );
                ensure!(!model.closing, "ConnectFailed after the close of {token:?}");
                model.connect_failed = Some(error.kind());
            }
            Completion::Received { token, buffer } => {
                let bytes = self.driver.bytes(&buffer).to_vec();
                let model = self.known(token, "Received")?;
                ensure!(
                    !bytes.is_empty() && bytes.len() == buffer.length(),
                    "a buffer without a byte"
                );
                ensure!(!model.closing(), "Received after the close of {token:?}");
                let Some(mode) = model.armed else {
                    return Err(Failure(format!("Received for {token:?}, where nothing is armed")));
                };
                if mode == ReceiveMode::Once {
                    model.armed = None;
                }
                model.received.extend_from_slice(&bytes);
                model.pieces += 1;
                model.followed = buffer.is_followed();
                match self.lending {
                    Lending::GiveBack => self.driver.give_back(buffer),
                    Lending::Hold => self.held.push((buffer, bytes)),
                }
            }
            Completion::Eof { token } => {
                let model = self.known(token, "Eof")?;
                ensure!(!model.closing(), "Eof after the close of {token:?}");
                ensure!(
                    model.armed.take().is_some(),
                    "Eof for {token:?}, where nothing is armed"
                );
                model.eof = true;
            }
            Completion::ReceiveFailed { token, error } => {
                let model = self.known(token, "ReceiveFailed")?;
                ensure!(!model.closing(), "ReceiveFailed after the close of {token:?}");
                ensure!(
                    model.armed.take().is_some(),
                    "ReceiveFailed for {token:?}, where nothing is armed"
                );
                model.receive_failed = Some(error.kind());
            }
            Completion::Sent { token, bytes, result } => {
                let model = self.known(token, "Sent")?;
                ensure!(
                    model.in_flight.as_ref() == Some(&bytes),
                    "{token:?}: another buffer came back than was sent"
                );
                model.in_flight = None;
                model.sent.push(result.map_err(|error| error.kind()));
            }
            Completion::Closed { token } => {
                let model = self.known(token, "Closed")?;
                ensure!(model.closing, "Closed for {token:?}, which nobody closed");
                ensure!(
                    model.in_flight.is_none(),
                    "{token:?}: a send in flight got no answer before Closed"
                );
                self.bury(token);
            }
            Completion::HandedOver { token, result } => {
                let model = self.known(token, "HandedOver")?;
                ensure!(model.leaving, "HandedOver for {token:?}, which nobody handed over");
                match &result {
                    Ok(_) => self.bury(token),
                    Err(_) => model.leaving = false,
                }
                self.handed.push((token, result));
            }
            Completion::Woken => self.wakes += 1,
        }
        Ok(())
    }

    fn bury(&mut self, token: Token) {
        if let Some(model) = self.live.remove(&token) {
            self.dead.insert(token, model);
        }
    }
}

/// What a case runs on.
pub struct Rig<H: Harness> {
    pub nodes: Vec<Node<H::Driver>>,
    pub peers: Vec<H::Peer>,
    pub rng: Rng,
    // Last, so that drivers and peers are gone before what they live in.
    pub harness: H,
}

impl<H: Harness> Rig<H> {
    pub fn new(seed: u64) -> Rig<H> {
        Rig {
            nodes: Vec::new(),
            peers: Vec::new(),
            rng: Rng::with_seed(seed),
            harness: H::new(seed),
        }
    }

    /// Adds a driver; its index.
    pub fn add(&mut self, bounds: Bounds) -> usize {
        self.nodes.push(Node::new(self.harness.driver(bounds)));
        self.nodes.len() - 1
    }

    /// Makes the driver at `node` listen; where.
    pub fn listen(&mut self, node: usize) -> Result<SocketAddr, Failure> {
        let address = SocketAddr::new(self.harness.addresses()[0], 0);
        let bound = self.nodes[node].driver.listen(address, LISTENER);
        bound.map_err(|error| Failure(format!("listen: {error}")))
    }

    /// A peer connected to the driver at `node`: its index, and the driver's token.
    pub fn peer(&mut self, node: usize, address: SocketAddr) -> Result<(usize, Token), Failure> {
        let before = self.nodes[node].accepted.len();
        self.peers.push(self.harness.dial(address));
        self.run("a client is accepted", |rig| rig.nodes[node].accepted.len() > before)?;
        Ok((self.peers.len() - 1, self.nodes[node].accepted[before].1))
    }

    /// A driver that listens, and a peer connected to it.
    pub fn node_with_peer(&mut self, bounds: Bounds) -> Result<(usize, usize, Token), Failure> {
        let node = self.add(bounds);
        let address = self.listen(node)?;
        let (peer, token) = self.peer(node, address)?;
        Ok((node, peer, token))
    }

    /// A connection between the drivers at `from` and `to`: their tokens.
    pub fn connection(&mut self, from: usize, to: usize, address: SocketAddr) -> Result<(Token, Token), Failure> {
        let before = self.nodes[to].accepted.len();
        let token = self.nodes[from].connect(address)?;
        self.run("a connect is through at both ends", |rig| {
            rig.nodes[from].of(token).connected && rig.nodes[to].accepted.len() > before
        })?;
        Ok((token, self.nodes[to].accepted[before].1))
    }

    /// One turn for everyone; whether anything happened.
    pub fn round(&mut self, idle: bool) -> Result<bool, Failure> {
        let mut any = false;
        for node in &mut self.nodes {
            let until = self.harness.until(&node.driver, idle);
            any |= node.turn(until)?;
        }
        for peer in &mut self.peers {
            any |= peer.turn();
        }
        Ok(any)
    }

    /// Runs until `done`, or fails when the harness's patience ends.
    pub fn run(&mut self, what: &str, mut done: impl FnMut(&mut Rig<H>) -> bool) -> Outcome {
        self.drive(what, |rig| Ok(done(rig)))
    }

    /// As [`Rig::run`], with a step that acts and may fail. It is asked before every round.
    pub fn drive(&mut self, what: &str, mut step: impl FnMut(&mut Rig<H>) -> Result<bool, Failure>) -> Outcome {
        let limit = self.now() + self.harness.patience();
        let mut idle = false;
        while !step(self)? {
            let any = self.round(idle)?;
            let now = self.now();
            let stuck = !any && idle && !self.harness.pass(limit);
            ensure!(!stuck, "stuck before: {what}");
            ensure!(now < limit, "too late: {what}");
            idle = !any;
        }
        Ok(())
    }

    /// Runs for `span` of the drivers' time, whatever happens.
    pub fn run_for(&mut self, span: Duration) -> Outcome {
        let end = self.now() + span;
        let mut idle = false;
        while self.now() < end {
            let any = self.round(idle)?;
            if !any && idle && !self.harness.pass(end) {
                return Ok(());
            }
            idle = !any;
        }
        Ok(())
    }

    pub fn now(&self) -> trunkline_wire::time::Instant {
        self.nodes[0].driver.now()
    }

    /// Closes everything: each token must die, and nothing may stay open.
    pub fn clean_up(&mut self) -> Outcome {
        for node in &mut self.nodes {
            node.driver.unlisten(LISTENER);
            node.lending = Lending::GiveBack;
            node.give_back(usize::MAX)?;
        }
        self.run("every closed token dies", |rig| {
            for node in &mut rig.nodes {
                // Those as well that were accepted, or whose hand-over failed, just now.
                let tokens: Vec<Token> = node.live.keys().copied().collect();
                tokens.into_iter().for_each(|token| node.close(token));
                node.handed.clear();
            }
            rig.nodes.iter().all(|node| node.live.is_empty())
        })?;
        for node in &self.nodes {
            ensure!(node.driver.open() == 0, "{} sockets stay open", node.driver.open());
        }
        Ok(())
    }

    /// The slots of all tokens ever known at `node`.
    pub fn slots(&self, node: usize) -> BTreeSet<u32> {
        let node = &self.nodes[node];
        node.live
            .keys()
            .chain(node.dead.keys())
            .map(|token| token.slot)
            .collect()
    }
}

/// The listener of every node under test.
pub const LISTENER: ListenerId = ListenerId(7);

/// The bytes of stream `id` from `offset` on: no two pieces of any streams are alike, so that a splice shows.
pub fn pattern(id: u64, offset: usize, length: usize) -> Vec<u8> {
    let (first, last) = (offset >> 3, (offset + length).div_ceil(8));
    let mut bytes = Vec::with_capacity((last - first) * 8);
    for at in first..last {
        // SplitMix64's finish.
        let mut word = (id << 40 ^ at as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.drain(..offset & 7);
    bytes.truncate(length);
    bytes
}

/// Whether `bytes` are stream `id` from its start.
pub fn ensure_pattern(id: u64, bytes: &[u8]) -> Outcome {
    ensure_pattern_from(id, 0, bytes)
}

/// Whether `bytes` are stream `id`, as far as they were not checked before `offset`.
pub fn ensure_pattern_from(id: u64, offset: usize, bytes: &[u8]) -> Outcome {
    let expected = pattern(id, offset, bytes.len() - offset);
    if bytes[offset..] == expected {
        return Ok(());
    }
    let wrong = bytes[offset..]
        .iter()
        .zip(&expected)
        .position(|(a, b)| a != b)
        .map(|at| offset + at);
    ensure!(
        wrong.is_none(),
        "stream {id} is wrong from byte {} of {}",
        wrong.unwrap_or(0),
        bytes.len()
    );
    Ok(())
}
