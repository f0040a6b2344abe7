//! The shell around [`Logic`]: sockets by way of a [`Driver`], commits by way of a [`Store`], deadlines.
//!
//! Runs on one thread: [`Server::turn`] waits once, takes in what came, commits what is due, and sends. A commit blocks the turn for as
//! long as the disk takes; nobody's messages wait for it.
//!
//! Bad input closes the connection that it came by, with a failure that says why, one line in the log, and a count. When the store
//! fails, all connections are closed and the decisions start again from what the store holds, once it does again: nodes go on with
//! the map that they have.

mod connection;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tracing::{debug, error, info, warn};
use trunkline_net::driver::{BufferGroup, Completion, Driver, ListenerId, ReceiveMode, Token, Wake};
use trunkline_net::outbuf::Spares;
use trunkline_net::table::ConnectionTable;
use trunkline_wire::auth::ClusterKeys;
use trunkline_wire::codec::Tail;
use trunkline_wire::control::{Admin, NodeFrame};
use trunkline_wire::device::ErrorCode;
use trunkline_wire::handshake::Peer;
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::time::Instant;

pub use self::connection::Random;
use self::connection::{Connection, Event, Fault};
use crate::config::{Config, ConfigError};
use crate::counters::Counters;
use crate::logic::{ConnectionId, Effect, Input, Logic, Now, Outbox, backup_answer};
use crate::store::{Store, StoreError, backup};

/// How long after a failure of the store it's tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How exact the deadlines of connections are.
const SWEEP: Duration = Duration::from_millis(100);
/// Vectors kept for sending.
const SPARES_MAX: usize = 64;

const LISTENER: ListenerId = ListenerId(0);

/// Why a server can't start. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The control plane, over a driver and a store.
pub struct Server<D: Driver, S: Store> {
    driver: D,
    store: S,
    config: Config,
    keys: ClusterKeys,
    random: Random,
    /// `None` while the store fails.
    logic: Option<Logic>,
    retry_at: Instant,
    connections: ConnectionTable<Connection>,
    tokens: BTreeMap<ConnectionId, Token>,
    connection_next: u64,
    /// When a connection's deadline may have passed.
    sweep_at: Instant,
    /// Connections that may have something to send.
    dirty: Vec<Token>,
    completions: Vec<Completion<D::Socket>>,
    spares: Spares,
    /// What was counted, while there is no `logic` to count on.
    counters: Counters,
}

impl<D: Driver, S: Store> Server<D, S> {
    /// Reads the store; commits nothing yet. `random` draws nonces, and the lineage of a new store.
    ///
    /// # Errors
    /// A wrong setting, or a store that can't be read.
    pub fn new(driver: D, store: S, config: Config, keys: ClusterKeys, random: Random) -> Result<Self, StartError> {
        config.check()?;
        let mut server = Server {
            driver,
            store,
            config,
            keys,
            random,
            logic: None,
            retry_at: Instant::ZERO,
            connections: ConnectionTable::new(),
            tokens: BTreeMap::new(),
            connection_next: 0,
            sweep_at: Instant::NEVER,
            dirty: Vec::new(),
            completions: Vec::new(),
            spares: Spares::new(SPARES_MAX),
            counters: Counters::default(),
        };
        server.load()?;
        Ok(server)
    }

    /// Listens for nodes and tools. Returns the bound address; port 0 picks one.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let bound = self.driver.listen(address, LISTENER)?;
        info!(%bound, "the control plane listens");
        Ok(bound)
    }

    /// Takes in an operator's request that comes from this process. Nobody is told the answer: see what it did by [`Server::logic`].
    pub fn ask(&mut self, json: &[u8]) {
        let (now, inside) = (self.now(), ConnectionId(u64::MAX));
        let mut out = Outbox::new();
        if let Some(logic) = &mut self.logic {
            let request = NodeFrame::Admin(Admin {
                request: 0,
                json: Tail(json),
            });
            let peer = Peer {
                node: NodeId::NONE,
                incarnation: Incarnation(0),
                version: self.config.versions.max(),
            };
            logic.handle(now, inside, Input::Opened(peer), &mut out);
            logic.handle(now, inside, Input::Frame(request), &mut out);
            logic.handle(now, inside, Input::Closed, &mut out);
        }
        self.carry_out(out);
    }

    /// Wakes [`Server::turn`] from another thread.
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.driver.waker()
    }

    /// Waits until something happens, a deadline passes, or `until`; then does all that is due.
    ///
    /// # Errors
    /// Only what makes the driver unusable.
    pub fn turn(&mut self, until: Option<Instant>) -> io::Result<()> {
        let deadline = self.deadline().min(until.unwrap_or(Instant::NEVER));
        let mut completions = std::mem::take(&mut self.completions);
        let until = (deadline != Instant::NEVER).then_some(deadline);
        self.driver.wait(until, &mut completions)?;
        for completion in completions.drain(..) {
            self.complete(completion);
        }
        self.completions = completions;
        self.sweep();
        self.decide();
        self.flush();
        Ok(())
    }

    /// When [`Server::turn`] has something to do, should nothing happen before.
    pub fn deadline(&self) -> Instant {
        let logic = match &self.logic {
            Some(logic) => logic.deadline(self.driver.now()),
            None => self.retry_at,
        };
        logic.min(self.sweep_at)
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.logic.as_ref().map_or(self.counters, |logic| logic.counters)
    }

    fn count(&mut self) -> &mut Counters {
        match &mut self.logic {
            Some(logic) => &mut logic.counters,
            None => &mut self.counters,
        }
    }

    /// The published version of the map; 0 if there is none.
    pub fn version(&self) -> u64 {
        self.logic.as_ref().map_or(0, Logic::version)
    }

    /// As the operator's request `status` answers, first page.
    pub fn status(&self) -> Value {
        match &self.logic {
            Some(logic) => logic.status(self.now(), None),
            None => json!({ "error": STORE_FAILED }),
        }
    }

    /// The decisions; `None` while the store fails.
    pub fn logic(&self) -> Option<&Logic> {
        self.logic.as_ref()
    }

    /// How many connections are open, those that are being closed included.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Ends the server; the driver comes back, with its sockets.
    pub fn into_driver(self) -> D {
        self.driver
    }

    fn now(&self) -> Now {
        Now {
            at: self.driver.now(),
            wall_ms: self.driver.wall_ms(),
        }
    }

    fn load(&mut self) -> Result<(), StoreError> {
        let records = self.store.load()?;
        let lineage = u64::from_le_bytes(*(self.random)().first_chunk().expect("32 bytes have 8"));
        let now = self.now();
        let mut logic = Logic::new(self.config.clone(), self.keys.clone(), &records, lineage, now)?;
        logic.counters = self.counters;
        self.logic = Some(logic);
        Ok(())
    }

    fn complete(&mut self, completion: Completion<D::Socket>) {
        match completion {
            Completion::Accepted { token, peer, .. } => self.accepted(token, peer),
            Completion::Received { token, buffer } => {
                let mut out = Outbox::new();
                let fault = self.received(token, &buffer, &mut out);
                self.driver.give_back(buffer);
                self.carry_out(out);
                if let Err(fault) = fault {
                    self.fail(token, &fault);
                }
                self.dirty.push(token);
            }
            Completion::Sent { token, bytes, result } => {
                let Some(connection) = self.connections.get_mut(token) else {
                    return;
                };
                connection.sent(bytes, &mut self.spares);
                match result {
                    Ok(()) => self.dirty.push(token),
                    Err(error) => self.lost(token, &error),
                }
            }
            Completion::Eof { token } => {
                if self.connections.get_mut(token).is_some_and(Connection::end) {
                    self.close(token);
                }
            }
            Completion::ReceiveFailed { token, error } => self.lost(token, &error),
            Completion::Closed { token } => self.forget(token),
            Completion::AcceptPaused { error, .. } => warn!(?error, "accepting pauses: no room for more connections"),
            Completion::Woken => {}
            Completion::Connected { .. } | Completion::ConnectFailed { .. } | Completion::HandedOver { .. } => {
                unreachable!("the control plane neither dials nor hands over")
            }
        }
    }

    fn accepted(&mut self, token: Token, address: SocketAddr) {
        self.count().connections += 1;
        let now = self.driver.now();
        let id = ConnectionId(self.connection_next);
        self.connection_next += 1;
        let full = self.connections.len() >= self.config.connections_max;
        let connection = Connection::new(now, id, address, self.config.versions);
        self.sweep_at = self.sweep_at.min(connection.deadline);
        self.connections.insert(token, connection);
        self.tokens.insert(id, token);
        self.driver.receive(token, ReceiveMode::Stream, BufferGroup::Link);
        if full {
            self.count().connections_refused += 1;
            let text = format!(
                "the control plane has {} connections: raise `connections_max`",
                self.config.connections_max
            );
            let code = ErrorCode::NotServed;
            self.fail(token, &Fault { code, text });
        } else if self.logic.is_none() {
            self.fail(token, &store_failed());
        }
    }

    fn received(
        &mut self,
        token: Token,
        buffer: &trunkline_net::driver::Buffer,
        out: &mut Outbox,
    ) -> Result<(), Fault> {
        let now = self.now();
        let Some(connection) = self.connections.get_mut(token) else {
            return Ok(());
        };
        let Some(logic) = &mut self.logic else {
            return Ok(());
        };
        let id = connection.id;
        let bytes = self.driver.bytes(buffer);
        connection.feed(now.at, bytes, &self.keys, &mut self.random, &mut self.spares, |event| {
            let input = match event {
                Event::Opened(peer) => Input::Opened(peer),
                Event::Frame(frame) => Input::Frame(frame),
            };
            logic.handle(now, id, input, out);
        })
    }

    /// Closes connections whose deadline has passed.
    fn sweep(&mut self) {
        let now = self.driver.now();
        if now < self.sweep_at {
            return;
        }
        let overdue: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline <= now)
            .map(|(token, connection)| (token, connection.overdue()))
            .collect();
        for (token, fault) in overdue {
            match fault {
                Some(fault) => self.fail(token, &fault),
                None => self.close(token),
            }
        }
        let next = self.connections.iter().map(|(_, connection)| connection.deadline).min();
        self.sweep_at = next.map_or(Instant::NEVER, |next| next.max(now + SWEEP));
    }

    /// Lets time pass for the decisions, and commits what is due.
    fn decide(&mut self) {
        let now = self.now();
        let mut out = Outbox::new();
        let Some(logic) = &mut self.logic else {
            if now.at >= self.retry_at {
                self.retry(now.at);
            }
            return;
        };
        logic.tick(now, &mut out);
        let committed = match logic.take_batch(now.at) {
            Ok(None) => Ok(()),
            Ok(Some(batch)) => self
                .store
                .commit(&batch)
                .or_else(|error| {
                    if trunkline_wire::planted!(PublishUncommitted) {
                        Ok(())
                    } else {
                        Err(error)
                    }
                })
                .map(|()| logic.committed(now, &mut out)),
            Err(error) => Err(StoreError::Failed(format!("the changes make no map: {error}"))),
        };
        self.carry_out(out);
        if let Err(error) = committed {
            self.give_up(&error);
        }
    }

    fn retry(&mut self, now: Instant) {
        match self.load() {
            Ok(()) => info!("the store is back"),
            Err(error) => {
                self.count().store_failures += 1;
                error!(%error, "the store still fails");
                self.retry_at = now + STORE_RETRY;
            }
        }
    }

    /// What is in memory may differ from what is on disk: start again from there.
    fn give_up(&mut self, error: &StoreError) {
        error!(%error, "all nodes are disconnected until the store works again; they go on with the map that they have");
        if let Some(logic) = self.logic.take() {
            self.counters = logic.counters;
        }
        self.count().store_failures += 1;
        self.retry_at = self.driver.now() + STORE_RETRY;
        let tokens: Vec<_> = self.tokens.values().copied().collect();
        for token in tokens {
            self.fail(token, &store_failed());
        }
    }

    fn carry_out(&mut self, out: Outbox) {
        for effect in out {
            match effect {
                Effect::Send { to, frame } => self.send(to, &frame),
                Effect::SendMap { to, transfer } => {
                    if let Some(token) = self.tokens.get(&to).copied() {
                        let connection = self.connections.get_mut(token).expect("tokens are of connections");
                        connection.send_map(transfer);
                        self.dirty.push(token);
                    }
                }
                Effect::Fail { to, code, text } => {
                    if let Some(token) = self.tokens.get(&to).copied() {
                        self.fail(token, &Fault { code, text });
                    }
                }
                Effect::Close { to } => {
                    if let Some(token) = self.tokens.get(&to).copied() {
                        self.close(token);
                    }
                }
                Effect::Backup { to, request, path } => {
                    let written = self.store.load().and_then(|records| backup(&records, Path::new(&path)));
                    self.send(to, &backup_answer(request, written, &path));
                }
            }
        }
    }

    fn send(&mut self, to: ConnectionId, frame: &[u8]) {
        let Some(token) = self.tokens.get(&to).copied() else {
            return;
        };
        let connection = self.connections.get_mut(token).expect("tokens are of connections");
        match connection.send(frame, &mut self.spares) {
            Ok(()) => self.dirty.push(token),
            Err(fault) => self.fail(token, &fault),
        }
    }

    /// Says why to the other side, and closes when it has had time to read it.
    fn fail(&mut self, token: Token, fault: &Fault) {
        let now = self.driver.now();
        let Some(connection) = self
            .connections
            .get_mut(token)
            .filter(|connection| !connection.is_closing())
        else {
            return;
        };
        warn!(peer = %connection.address, code = fault.code.name(), text = fault.text, "a connection is closed");
        let was_open = connection.is_open();
        connection.fail(now, fault, &mut self.spares);
        self.sweep_at = self.sweep_at.min(connection.deadline);
        let id = connection.id;
        self.dirty.push(token);
        self.count().connections_failed += 1;
        if fault.code == ErrorCode::WrongSecret {
            self.count().secrets_refused += 1;
        }
        if was_open {
            self.tell_closed(id);
        }
    }

    fn lost(&mut self, token: Token, error: &io::Error) {
        if let Some(connection) = self.connections.get(token) {
            debug!(peer = %connection.address, %error, "a connection is lost");
        }
        self.close(token);
    }

    fn close(&mut self, token: Token) {
        if let Some(connection) = self.connections.get(token) {
            let (id, was_open) = (connection.id, connection.is_open());
            // Closed once: until the driver says so, the connection stays in the table without an entry here.
            if self.tokens.remove(&id).is_some() {
                self.driver.close(token);
                if was_open {
                    self.tell_closed(id);
                }
            }
        }
    }

    fn forget(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(token) {
            self.tokens.remove(&connection.id);
        }
    }

    fn tell_closed(&mut self, id: ConnectionId) {
        let now = self.now();
        if let Some(logic) = &mut self.logic {
            // A connection that is gone asks for nothing.
            logic.handle(now, id, Input::Closed, &mut Outbox::new());
        }
    }

    fn flush(&mut self) {
        let now = self.driver.now();
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for token in std::mem::take(&mut self.dirty) {
            let Some(connection) = self.connections.get_mut(token) else {
                continue;
            };
            if !self.tokens.contains_key(&connection.id) {
                continue;
            }
            if let Some(bytes) = connection.next_send(now, &mut self.spares) {
                self.driver.send(token, bytes);
            }
            self.sweep_at = self.sweep_at.min(connection.deadline);
        }
    }
}

const STORE_FAILED: &str = "the control plane's store fails: see its log; go on with what you have, and try again";

fn store_failed() -> Fault {
    Fault {
        code: ErrorCode::Internal,
        text: STORE_FAILED.into(),
    }
}
