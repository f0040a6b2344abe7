//! What may be tuned about a driver over the system: spinning before sleeping, polling of network cards, options of sockets; and whether
//! this kernel takes it, found out by trying.
//!
//! By default nothing is tuned that costs something: a thread with nothing to do sleeps.
//!
//! Deliberately absent: TCP_QUICKACK, which the kernel takes back by itself, so that keeping it would cost a system call a receive.

use std::io;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::backend::Chosen;
use crate::epoll;

/// See the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// How long a wait looks for something to do before it sleeps. It saves the time to be woken, some ten microseconds, and costs a
    /// processor. Zero: sleeps at once.
    pub spin: Duration,
    /// How long the kernel polls the network cards' queues in a wait before it sleeps (NAPI busy poll). Zero: not at all.
    pub busy_poll: Duration,
    /// TCP_NODELAY: whether a segment leaves without waiting for the acknowledgement of the one before.
    pub nodelay: bool,
    /// SO_INCOMING_CPU of listeners: of those on one port, the kernel prefers the one whose processor took the packet in.
    pub incoming_cpu: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            spin: Duration::ZERO,
            busy_poll: Duration::ZERO,
            nodelay: true,
            incoming_cpu: None,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// [`epoll::Options::send_buffer_bytes`].
    SendBuffer,
    /// [`epoll::Options::receive_buffer_bytes`].
    ReceiveBuffer,
    /// [`Tuning::busy_poll`].
    BusyPoll,
    /// [`Tuning::incoming_cpu`].
    IncomingCpu,
    /// [`Tuning::nodelay`].
    Nodelay,
}

/// The kernel doesn't take what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// What was asked for.
    pub asked: Asked,
    /// Why it can't be had, and what to do.
    pub why: String,
}

/// Tries everything that `options` ask for, on a socket and a driver of `chosen`'s kind that are closed again.
///
/// # Errors
/// The first thing that this kernel doesn't take.
pub fn try_out(chosen: Chosen, options: &epoll::Options) -> Result<(), Refused> {
    let refused = |asked| move |error: io::Error| refuse(asked, error.to_string());
    let socket = Socket::new(Domain::IPV4, Type::STREAM.cloexec(), Some(Protocol::TCP));
    let socket = socket.map_err(refused(Asked::Nodelay))?;
    let tuning = options.tuning;
    socket
        .set_tcp_nodelay(tuning.nodelay)
        .map_err(refused(Asked::Nodelay))?;
    if let Some(bytes) = options.send_buffer_bytes {
        let asked = Asked::SendBuffer;
        socket.set_send_buffer_size(bytes).map_err(refused(asked))?;
        let granted = socket.send_buffer_size().map_err(refused(asked))?;
        judge_buffer(asked, "net.core.wmem_max", bytes, granted)?;
    }
    if let Some(bytes) = options.receive_buffer_bytes {
        let asked = Asked::ReceiveBuffer;
        socket.set_recv_buffer_size(bytes).map_err(refused(asked))?;
        let granted = socket.recv_buffer_size().map_err(refused(asked))?;
        judge_buffer(asked, "net.core.rmem_max", bytes, granted)?;
    }
    #[cfg(target_os = "linux")]
    if let Some(core) = tuning.incoming_cpu {
        socket.set_cpu_affinity(core).map_err(refused(Asked::IncomingCpu))?;
    }
    if !tuning.busy_poll.is_zero() {
        try_busy_poll(chosen, tuning.busy_poll).map_err(|error| {
            let why =
                format!("{error}: polling of network cards needs Linux 6.9 with CONFIG_NET_RX_BUSY_POLL; set it to 0");
            refuse(Asked::BusyPoll, why)
        })?;
    }
    Ok(())
}

/// The kernel caps what it is asked for in silence, and counts its own needs on top: at least what was asked for must be left.
fn judge_buffer(asked: Asked, limit: &str, bytes: usize, granted: usize) -> Result<(), Refused> {
    // It doubles what it grants.
    let granted = if cfg!(target_os = "linux") {
        granted / 2
    } else {
        granted
    };
    if granted >= bytes {
        return Ok(());
    }
    let why = format!(
        "the kernel grants {granted} bytes of {bytes}: raise its limit (sysctl {limit}={bytes}), or ask for less"
    );
    Err(refuse(asked, why))
}

fn refuse(asked: Asked, why: String) -> Refused {
    Refused { asked, why }
}

#[cfg(target_os = "linux")]
fn try_busy_poll(chosen: Chosen, most: Duration) -> io::Result<()> {
    match chosen {
        Chosen::Epoll => crate::kernel::poll_cards_of_epoll(&mio::Poll::new()?, most),
        Chosen::Uring => crate::kernel::poll_cards_of_uring(&io_uring::IoUring::new(1)?, most),
    }
}

#[cfg(not(target_os = "linux"))]
fn try_busy_poll(_chosen: Chosen, _most: Duration) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Takes the calling thread's memory from the NUMA node `node` from now on, while that has some: what it touches first included.
///
/// # Errors
/// What the kernel said: a sandbox forbids it, or there is no such node.
pub fn prefer_memory_of(node: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return crate::kernel::prefer_memory_of(node);
    #[cfg(not(target_os = "linux"))]
    return Err(io::Error::other(format!(
        "memory of node {node}: this system doesn't say"
    )));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(tuning: Tuning) -> epoll::Options {
        epoll::Options {
            tuning,
            ..epoll::Options::default()
        }
    }

    #[test]
    fn what_is_the_default_is_never_refused() {
        for chosen in [Chosen::Epoll, Chosen::Uring] {
            try_out(chosen, &epoll::Options::default()).unwrap();
        }
    }

    #[test]
    fn a_buffer_beyond_the_kernel_s_limit_is_refused_with_the_limit_s_name() {
        let options = epoll::Options {
            send_buffer_bytes: Some(1 << 30),
            ..epoll::Options::default()
        };
        let refused = try_out(Chosen::Epoll, &options).unwrap_err();
        assert_eq!(refused.asked, Asked::SendBuffer);
        assert!(refused.why.contains("net.core.wmem_max=1073741824"), "{refused}");
        let options = epoll::Options {
            receive_buffer_bytes: Some(1 << 30),
            ..epoll::Options::default()
        };
        assert_eq!(
            try_out(Chosen::Uring, &options).unwrap_err().asked,
            Asked::ReceiveBuffer
        );
    }

    #[test]
    fn a_buffer_s_grant_counts_without_the_kernel_s_own_share() {
        judge_buffer(Asked::SendBuffer, "limit", 4096, 8192).unwrap();
        let refused = judge_buffer(Asked::SendBuffer, "limit", 4097, 8192);
        assert_eq!(refused.is_err(), cfg!(target_os = "linux"));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn polling_of_cards_is_taken_or_refused_by_its_name() {
        for chosen in [Chosen::Epoll, Chosen::Uring] {
            let tuning = Tuning {
                busy_poll: Duration::from_micros(50),
                ..Tuning::default()
            };
            if let Err(refused) = try_out(chosen, &options(tuning)) {
                assert_eq!(refused.asked, Asked::BusyPoll);
                assert!(refused.why.contains("Linux 6.9"), "{refused}");
                println!("{chosen:?}: {refused}");
            }
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_taken_from_a_node_that_is_there_and_not_from_one_that_is_not() {
        // In a thread, whose policy ends with it.
        std::thread::spawn(|| match prefer_memory_of(0) {
            Ok(()) => assert!(prefer_memory_of(1_000_000).is_err()),
            Err(error) => println!("skipped: {error}"),
        })
        .join()
        .unwrap();
    }
}
