//! A driver with a planted bug, to show that the suite can fail: two sends are in flight on one socket and splice.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use trunkline_net::driver::{Buffer, BufferGroup, Calls, Completion, Driver, ListenerId, ReceiveMode, Token, Wake};
use trunkline_wire::time::Instant;

use crate::cases::streams::streams_are_byte_exact_under_short_reads_short_sends_and_slow_readers as byte_exact;
use crate::epoll::Epoll;
use crate::harness::{Bounds, Harness};
use crate::outcome;
use crate::sim::Sim;
use crate::uring::Uring;

/// Answers every send at once and goes on sending behind the caller's back, in two halves. A later send is put before (`SPLICES`)
/// or, as a control, after the second half of the one before it.
pub struct Mutant<D: Driver, const SPLICES: bool> {
    inner: D,
    /// What the inner driver still has to send; present while it has a send in flight.
    behind: BTreeMap<Token, VecDeque<Vec<u8>>>,
    answers: Vec<Completion<D::Socket>>,
}

impl<D: Driver, const SPLICES: bool> Driver for Mutant<D, SPLICES> {
    type Socket = D::Socket;
    type Address = D::Address;

    fn send(&mut self, token: Token, bytes: Vec<u8>) {
        match self.behind.get_mut(&token) {
            Some(behind) if SPLICES => behind.push_front(bytes.clone()),
            Some(behind) => behind.push_back(bytes.clone()),
            None => {
                let (first, second) = bytes.split_at(bytes.len().div_ceil(2));
                let behind = (!second.is_empty()).then(|| second.to_vec());
                self.behind.insert(token, behind.into_iter().collect());
                self.inner.send(token, first.to_vec());
            }
        }
        let result = Ok(());
        self.answers.push(Completion::Sent { token, bytes, result });
    }

    fn wait(&mut self, until: Option<Instant>, completions: &mut Vec<Completion<D::Socket>>) -> io::Result<()> {
        let mut inner = Vec::new();
        let until = if self.answers.is_empty() {
            until
        } else {
            Some(Instant::ZERO)
        };
        completions.append(&mut self.answers);
        self.inner.wait(until, &mut inner)?;
        for completion in inner {
            match completion {
                Completion::Sent { token, result, .. } => match self.behind.get_mut(&token).map(VecDeque::pop_front) {
                    Some(Some(next)) if result.is_ok() => self.inner.send(token, next),
                    _ => drop(self.behind.remove(&token)),
                },
                other => completions.push(other),
            }
        }
        Ok(())
    }

    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn wall_ms(&self) -> u64 {
        self.inner.wall_ms()
    }

    fn address(&self) -> D::Address {
        self.inner.address()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }

    fn wake(&mut self, at: &D::Address) {
        self.inner.wake(at);
    }

    fn listen(&mut self, address: SocketAddr, listener: ListenerId) -> io::Result<SocketAddr> {
        self.inner.listen(address, listener)
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.inner.unlisten(listener);
    }

    fn connect(&mut self, address: SocketAddr) -> io::Result<Token> {
        self.inner.connect(address)
    }

    fn receive(&mut self, token: Token, mode: ReceiveMode, group: BufferGroup) {
        self.inner.receive(token, mode, group);
    }

    fn close(&mut self, token: Token) {
        self.inner.close(token);
    }

    fn hand_over(&mut self, token: Token, to: &D::Address) {
        self.inner.hand_over(token, to);
    }

    fn adopt(&mut self, socket: D::Socket) -> Result<Token, (io::Error, D::Socket)> {
        self.inner.adopt(socket)
    }

    fn bytes<'a>(&'a self, buffer: &'a Buffer) -> &'a [u8] {
        self.inner.bytes(buffer)
    }

    fn give_back(&mut self, buffer: Buffer) {
        self.inner.give_back(buffer);
    }

    fn open(&self) -> usize {
        self.inner.open()
    }

    fn calls(&self) -> Calls {
        self.inner.calls()
    }
}

/// A harness whose drivers have the bug.
pub struct Mutants<H: Harness, const SPLICES: bool>(H);

impl<H: Harness, const SPLICES: bool> Harness for Mutants<H, SPLICES> {
    const NAME: &'static str = H::NAME;
    const SEEDS: std::ops::Range<u64> = H::SEEDS;
    const CONNECTIONS: usize = H::CONNECTIONS;
    type Driver = Mutant<H::Driver, SPLICES>;
    type Peer = H::Peer;

    fn new(seed: u64) -> Mutants<H, SPLICES> {
        Mutants(H::new(seed))
    }

    fn driver(&self, bounds: Bounds) -> Mutant<H::Driver, SPLICES> {
        Mutant {
            inner: self.0.driver(bounds),
            behind: BTreeMap::new(),
            answers: Vec::new(),
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        self.0.addresses()
    }

    fn mute_address(&self) -> SocketAddr {
        self.0.mute_address()
    }

    fn dial(&self, to: SocketAddr) -> H::Peer {
        self.0.dial(to)
    }

    fn until(&self, driver: &Self::Driver, idle: bool) -> Option<Instant> {
        self.0.until(&driver.inner, idle)
    }

    fn pass(&self, limit: Instant) -> bool {
        self.0.pass(limit)
    }

    fn looks(&self, driver: &Self::Driver) -> u64 {
        self.0.looks(&driver.inner)
    }

    fn patience(&self) -> Duration {
        self.0.patience()
    }
}

/// The wrapper without the splice must pass, or it would be the wrapper that fails.
fn assert_caught<H: Harness>() {
    if let Some(why) = H::unusable() {
        println!("skipped: {why}");
        return;
    }
    for seed in H::SEEDS {
        outcome::<Mutants<H, false>>(byte_exact, seed).unwrap();
        let failure = outcome::<Mutants<H, true>>(byte_exact, seed).expect_err("two sends in flight were not noticed");
        assert!(
            failure.0.contains("is wrong from byte"),
            "caught for another reason: {failure}"
        );
    }
}

#[test]
fn two_sends_in_flight_that_splice_are_caught_in_sim() {
    assert_caught::<Sim>();
}

#[test]
fn two_sends_in_flight_that_splice_are_caught_over_epoll() {
    assert_caught::<Epoll>();
}

#[test]
fn two_sends_in_flight_that_splice_are_caught_over_uring() {
    assert_caught::<Uring>();
}
