//! Long ways between processes of one host: a proxy in front of a port, which holds back what passes.
//!
//! A connection opens only after a while, and every byte, and the end, comes out as much later as the way is long, in order. The delays
//! are kept by a timer wheel, to the millisecond; the proxy adds what its one thread takes. It loses nothing and reorders nothing.
//!
//! Bounded: of each direction so many pieces are held, then nothing more is read.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

/// How long the way behind a port is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// From a connection's arrival until it goes on.
    pub open: Duration,
    /// Of every byte, each way.
    pub way: Duration,
}

/// Detours, all on one thread; they end with this.
pub struct Detours {
    runtime: Runtime,
}

/// A port that leads elsewhere.
pub struct Detour {
    address: SocketAddr,
    target: oneshot::Sender<SocketAddr>,
}

impl Detours {
    /// None yet.
    ///
    /// # Errors
    /// If there is no thread or no descriptor left.
    pub fn new() -> io::Result<Detours> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("detours")
            .enable_all()
            .build()?;
        Ok(Detours { runtime })
    }

    /// A port on loopback. What connects waits until it's known where it [leads](Detour::lead_to).
    ///
    /// # Errors
    /// If no port is left.
    pub fn open(&self, length: Length) -> io::Result<Detour> {
        let listener = self.runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (target, known) = oneshot::channel();
        self.runtime.spawn(async move {
            // Who drops the detour wants it no more.
            if let Ok(target) = known.await {
                accept(listener, target, length).await;
            }
        });
        Ok(Detour { address, target })
    }
}

impl Detour {
    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who connects is led there.
    pub fn lead_to(self, target: SocketAddr) {
        // The thread ends only with all detours.
        let _ = self.target.send(target);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, length: Length) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    if let Err(error) = pass(stream, target, length).await {
                        tracing::debug!(%target, %error, "a connection on its detour broke");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a detour could not accept");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Both directions of one connection; if either breaks, both ends see the end.
async fn pass(from: TcpStream, target: SocketAddr, length: Length) -> io::Result<()> {
    from.set_nodelay(true)?;
    sleep(length.open).await;
    let to = TcpStream::connect(target).await?;
    to.set_nodelay(true)?;
    let (from_read, from_write) = from.into_split();
    let (to_read, to_write) = to.into_split();
    tokio::try_join!(
        hold(from_read, to_write, length.way),
        hold(to_read, from_write, length.way)
    )?;
    Ok(())
}

/// Hands on what is read, each piece once its time has come. An empty one is the end.
async fn hold(mut read: OwnedReadHalf, mut write: OwnedWriteHalf, way: Duration) -> io::Result<()> {
    let (enter, mut held) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let reader = async move {
        loop {
            let mut piece = vec![0; PIECE_BYTES_MAX];
            let count = read.read(&mut piece).await?;
            piece.truncate(count);
            piece.shrink_to_fit();
            if enter.send((Instant::now() + way, piece)).await.is_err() || count == 0 {
                return Ok(());
            }
        }
    };
    let writer = async move {
        while let Some((due, piece)) = held.recv().await {
            sleep_until(due).await;
            match piece.is_empty() {
                true => return write.shutdown().await,
                false => write.write_all(&piece).await?,
            }
        }
        Ok(())
    };
    tokio::try_join!(reader, writer)?;
    Ok(())
}

/// As much as a link sends at once.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// Of each direction: more than is sent within the longest way that makes sense.
const PIECES_MAX: usize = 1_024;
/// When there was no descriptor for a connection.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const LENGTH: Length = Length {
        open: Duration::from_millis(50),
        way: Duration::from_millis(20),
    };

    fn pair(detours: &Detours) -> (TcpStream, TcpStream, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let detour = detours.open(LENGTH).unwrap();
        let address = detour.address();
        detour.lead_to(listener.local_addr().unwrap());
        let started = std::time::Instant::now();
        let client = TcpStream::connect(address).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server, started.elapsed())
    }

    #[test]
    fn it_opens_after_a_while_and_every_byte_takes_its_time_both_ways() {
        let detours = Detours::new().unwrap();
        let (mut client, mut server, opened) = pair(&detours);
        assert!(opened >= LENGTH.open, "{opened:?}");
        for _ in 0..3 {
            let started = std::time::Instant::now();
            client.write_all(b"ping").unwrap();
            let mut bytes = [0; 4];
            server.read_exact(&mut bytes).unwrap();
            assert!(started.elapsed() >= LENGTH.way);
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"pong");
            assert!(started.elapsed() >= 2 * LENGTH.way);
        }
    }

    #[test]
    fn nothing_is_lost_or_out_of_order_and_the_end_comes_last() {
        let detours = Detours::new().unwrap();
        let (mut client, mut server, _) = pair(&detours);
        let sent: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let sender = std::thread::spawn(move || {
            client.write_all(&copy).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).unwrap();
            rest
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert!(received == sent);
        server.write_all(b"the other way stays open").unwrap();
        drop(server);
        assert_eq!(sender.join().unwrap(), b"the other way stays open");
    }
}
