//! Connections that come and go, as fast as they are welcomed: connect, hello, welcome, close.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use mio::{Events, Poll, Token};

use crate::connection::{BUFFER_BYTES, Connection};
use crate::error::Error;
use crate::ledger::Faults;
use crate::protocol::{Heard, Protocol};
use crate::shared::{Counts, Shared};
use crate::worker::{Part, Tally, histogram};

/// A connection that is not welcomed yet.
struct Attempt {
    connection: Connection,
    since_ns: u64,
}

/// Keeps `part.connections` attempts under way until the interval is over.
///
/// # Errors
/// The target refused, or ended a connection.
pub fn run<P: Protocol>(protocol: &P, shared: &Shared, address: SocketAddr, part: Part) -> Result<Tally, Error> {
    let mut poll = Poll::new().map_err(Error::system("epoll"))?;
    let mut events = Events::with_capacity(EVENTS);
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut counts = Counts::default();
    let mut tally = Tally {
        latency: histogram(),
        faults: Faults::default(),
        refused: 0,
    };
    // Each attempt is another device, from the next address: no number is used by two workers.
    let mut started = 0;
    let mut start = |poll: &Poll, slot: usize| -> Result<Attempt, Error> {
        let since_ns = shared.now_ns();
        let number = part.worker << 26 | started;
        started = (started + 1) % (1 << 26);
        let mut connection = Connection::open(address, number, poll, Token(slot))?;
        protocol.greet(number as u32, &mut connection.out);
        let closed = |error: std::io::Error| Error::Closed {
            address,
            why: error.to_string(),
        };
        connection.flush().map_err(closed)?;
        Ok(Attempt { connection, since_ns })
    };
    let mut attempts = Vec::new();
    while attempts.len() < part.connections {
        attempts.push(start(&poll, attempts.len())?);
    }
    shared
        .welcomed
        .fetch_add(part.connections, std::sync::atomic::Ordering::Relaxed);
    loop {
        let now_ns = shared.now_ns();
        let (from_ns, to_ns) = shared.interval().unwrap_or((u64::MAX, u64::MAX));
        if now_ns >= to_ns || shared.is_failed() {
            return Ok(tally);
        }
        match poll.poll(&mut events, Some(WAIT)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result.map_err(Error::system("epoll"))?,
        }
        for event in &events {
            let slot = event.token().0;
            let attempt = &mut attempts[slot];
            let mut welcomed = false;
            if event.is_readable() {
                let read = attempt.connection.read(&mut buffer, &mut |input, reply| {
                    let mut used = 0;
                    while let Some((length, heard)) = protocol.hear(&input[used..], reply)? {
                        used += length;
                        welcomed |= heard == Heard::Welcome;
                    }
                    Ok(used)
                });
                match read {
                    // A welcome that came with the end is a welcome.
                    Ok(_) => {}
                    Err(_) if welcomed => {}
                    Err(why) => return Err(Error::Closed { address, why }),
                }
            }
            if welcomed {
                let now_ns = shared.now_ns();
                counts.delivered += 1;
                if (from_ns..to_ns).contains(&now_ns) {
                    tally.latency.saturating_record(now_ns - attempt.since_ns);
                }
                *attempt = start(&poll, slot)?;
            }
        }
        shared.counters(part.worker).publish(&counts);
    }
}

/// What one look at readiness brings at most.
const EVENTS: usize = 1024;
/// The longest that it looks for nothing but readiness.
const WAIT: Duration = Duration::from_millis(5);
