//! The floor: what forwarding costs when nothing is decided. One thread reads length-prefixed frames and writes each to the socket of
//! its destination; by it everything that Trunkline adds is judged.
//!
//! ```text
//! cargo run --release -p trunkline-benches --bin floor -- --backend uring --listen 127.0.0.1:9000 --core 0
//! ```
//! A frame is a length (`u32`, of what follows), a destination (`u64`) and a payload, little-endian, and is passed on as it came. The
//! first frame of a connection is its own number and nothing else: "I am 7".
//!
//! It deliberately has no hello to answer, no sessions, no limits but a frame's length, no time. Nothing is dropped: what a reader doesn't
//! take waits in memory without a bound, which the load's own bound on what is under way has to supply. A frame for a number
//! that nobody has said is a mistake of the load's and is told on standard error.
//!
//! Several floors in a row are what several servers in a row are judged by: `--next` has a connection to another floor, and each passes what
//! isn't for a connection of its own on to the floor beside it.
#![deny(unsafe_code)]

#[cfg(target_os = "linux")]
mod buffers;
mod epoll;
mod forwarder;
#[cfg(target_os = "linux")]
mod uring;

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, ValueEnum};
use socket2::{Domain, Protocol, Socket, Type};

/// A bare forwarder of length-prefixed frames: the yardstick for Trunkline.
#[derive(Parser)]
#[command(
    name = "floor",
    after_help = "Example:\n  floor --backend uring --listen 127.0.0.1:9000 --core 0"
)]
struct Args {
    /// How it waits for sockets.
    #[arg(long, value_enum)]
    backend: Backend,
    /// Where it listens; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// Another floor, which accepts already: what isn't for a connection here goes there, and the other way round.
    #[arg(long)]
    next: Option<SocketAddr>,
    /// The processor to run on.
    #[arg(long)]
    core: Option<usize>,
    /// Ends when standard input is closed, for programs that start it.
    #[arg(long)]
    end_with_stdin: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Epoll,
    Uring,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Forwards until a signal ends the process: there is nothing to put in order first.
fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(core) = args.core {
        pin(core).with_context(|| format!("--core {core}"))?;
    }
    let listener = listen(args.listen).with_context(|| format!("--listen {}", args.listen))?;
    if args.end_with_stdin {
        // A thread costs the forwarder its undivided table of descriptors; measure without it.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock().take(u64::MAX), &mut std::io::sink());
            std::process::exit(0);
        });
    }
    let next = args.next.map(next).transpose()?;
    let ready = |address: SocketAddr| {
        println!(
            r#"{{"event":"ready","address":"{address}","pid":{}}}"#,
            std::process::id()
        );
    };
    let address = listener.local_addr()?;
    match args.backend {
        Backend::Epoll => epoll::run(listener, next, || ready(address)).context("epoll"),
        #[cfg(target_os = "linux")]
        Backend::Uring => uring::run(&listener, next.as_ref(), || ready(address)).context("io_uring"),
        #[cfg(not(target_os = "linux"))]
        Backend::Uring => anyhow::bail!("--backend uring: io_uring is Linux's"),
    }
}

fn next(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("--next {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it.
    socket.set_tcp_nodelay(true)?;
    // The kernel takes a moment to end the ring of a floor that was killed, and with it its listener.
    let until = Instant::now() + PORT_WAIT;
    while let Err(error) = socket.bind(&address.into()) {
        if error.kind() != ErrorKind::AddrInUse || Instant::now() > until {
            return Err(error);
        }
        std::thread::sleep(PORT_LOOK);
    }
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(target_os = "linux")]
fn pin(core: usize) -> anyhow::Result<()> {
    use nix::sched::{CpuSet, sched_setaffinity};
    let mut set = CpuSet::new();
    set.set(core)?;
    Ok(sched_setaffinity(nix::unistd::Pid::from_raw(0), &set)?)
}

#[cfg(not(target_os = "linux"))]
fn pin(_core: usize) -> anyhow::Result<()> {
    anyhow::bail!("threads are pinned on Linux only")
}

/// Connections that the kernel may hold before they are accepted; it clips this to its own limit.
const BACKLOG: i32 = 4096;
/// How long a port in use is asked for again, and how often.
const PORT_WAIT: Duration = Duration::from_secs(2);
const PORT_LOOK: Duration = Duration::from_millis(50);
