//! Whether io_uring does here what the driver needs, found out by doing it: never by the kernel's version.

use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use io_uring::opcode;
use io_uring::squeue::Flags;
use io_uring::types::Fixed;
use nix::errno::Errno;
use tracing::subscriber::{NoSubscriber, with_default};

use super::UringDriver;
use super::buffers::Pools;
use super::options::Options;
use super::ring::Ring;
use super::start::{RECEIVE_MULTISHOT, RECEIVE_POLL_FIRST};
use crate::driver::BufferGroup;

/// Why io_uring can't be used. One line, for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// EPERM or EACCES.
    #[error(
        "io_uring is forbidden (EPERM at {step}): a container's seccomp profile, or the sysctl kernel.io_uring_disabled; allow \
         io_uring_setup, io_uring_enter and io_uring_register"
    )]
    Forbidden {
        /// What was tried.
        step: &'static str,
    },
    /// ENOSYS.
    #[error("this kernel has no io_uring (ENOSYS at {step}), or a sandbox hides it")]
    Missing {
        /// What was tried.
        step: &'static str,
    },
    /// ENOMEM.
    #[error(
        "io_uring gets no memory (ENOMEM at {step}): raise the limit of locked memory, memlock (ulimit -l, LimitMEMLOCK)"
    )]
    NoMemory {
        /// What was tried.
        step: &'static str,
    },
    /// EINVAL.
    #[error("this kernel's io_uring lacks what is needed (EINVAL at {step}): Linux 6.1 or later has it")]
    TooOld {
        /// What was tried.
        step: &'static str,
    },
    /// Anything else.
    #[error("io_uring failed its self-test at {step}: {error}")]
    Failed {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

impl Unusable {
    fn at(step: &'static str) -> impl FnOnce(io::Error) -> Unusable {
        move |error| match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => Unusable::Forbidden { step },
            Some(Errno::ENOSYS) => Unusable::Missing { step },
            Some(Errno::ENOMEM) => Unusable::NoMemory { step },
            Some(Errno::EINVAL) => Unusable::TooOld { step },
            _ => Unusable::Failed { step, error },
        }
    }
}

/// Makes a ring, a table of direct descriptors and a ring of buffers, and receives twice over a pair of sockets by one operation.
///
/// # Errors
/// What doesn't work, and what to do about it.
pub fn probe() -> Result<(), Unusable> {
    in_a_thread(try_everything)
}

/// [`probe`], and then as many drivers at once as the process will have threads, at their full size: memory or descriptors that are
/// enough for one small ring need not be for all.
///
/// # Errors
/// What doesn't work, and what to do about it.
pub fn probe_for(threads: usize, options: &Options) -> Result<(), Unusable> {
    probe()?;
    let options = options.clone();
    let build = move || {
        let drivers = (0..threads).map(|_| UringDriver::new(options.clone()));
        // What they warn of will be said by those that are used.
        let made = with_default(NoSubscriber::default(), || drivers.collect::<io::Result<Vec<_>>>());
        made.map(drop).map_err(Unusable::at("the rings of all threads"))
    };
    in_a_thread(build)
}

/// In a thread of its own: some time after a ring's end the kernel interrupts the thread that it belonged to, and the caller's may
/// be in a system call by then that it doesn't expect to end with EINTR.
fn in_a_thread(work: impl FnOnce() -> Result<(), Unusable> + Send + 'static) -> Result<(), Unusable> {
    let thread = thread::Builder::new().name("uring-probe".into()).spawn(work);
    let thread = thread.map_err(Unusable::at("a thread"))?;
    let crashed = |_| Err(Unusable::at("a thread")(io::ErrorKind::Other.into()));
    thread.join().unwrap_or_else(crashed)
}

fn try_everything() -> Result<(), Unusable> {
    let mut ring = Ring::new(8, 16).map_err(Unusable::at("the ring"))?;
    let table = ring.submitter().register_files_sparse(2);
    table.map_err(Unusable::at("the table of direct descriptors"))?;
    let pools = Pools::new(&ring, (2, 64), (2, 64));
    let mut pools = pools.map_err(Unusable::at("the ring of buffers"))?;
    let (mut near, far) = UnixStream::pair().map_err(Unusable::at("a pair of sockets"))?;
    let registered = ring.submitter().register_files_update(0, &[far.as_raw_fd()]);
    registered.map_err(Unusable::at("a direct descriptor"))?;
    let entry = opcode::Recv::new(Fixed(0), std::ptr::null_mut(), 0)
        .buf_group(BufferGroup::Device as u16)
        .ioprio(RECEIVE_MULTISHOT | RECEIVE_POLL_FIRST)
        .build()
        .flags(Flags::BUFFER_SELECT)
        .user_data(1);
    // SAFETY: it writes to buffers of the pool, which is dropped after the ring was quieted below; if that fails, it's kept.
    unsafe { ring.push(entry) };
    let received = receive_twice(&mut ring, &mut pools, &mut near);
    if !ring.quiet() {
        pools.keep();
    }
    received
}

fn receive_twice(ring: &mut Ring, pools: &mut Pools, near: &mut UnixStream) -> Result<(), Unusable> {
    let step = "a receive that goes on";
    for text in [b"first", b"again"] {
        near.write_all(text).map_err(Unusable::at("a pair of sockets"))?;
        let end = Instant::now() + TIMEOUT;
        let mut outcomes = Vec::new();
        while outcomes.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Unusable::at(step)(io::ErrorKind::TimedOut.into()));
            }
            ring.enter(Some(left)).map_err(Unusable::at(step))?;
            ring.take(&mut outcomes);
        }
        let outcome = outcomes[0];
        if let Some(error) = outcome.error() {
            return Err(Unusable::at(step)(error.into()));
        }
        let (Some(index), true) = (outcome.buffer, outcome.more && outcome.result as usize == text.len()) else {
            return Err(Unusable::at(step)(io::ErrorKind::InvalidData.into()));
        };
        let pool = pools.of_mut(BufferGroup::Device);
        let buffer = pool.lend(index, outcome.result as u32, outcome.followed);
        let same = pool.bytes(&buffer) == text;
        pool.give_back(buffer);
        if !same {
            return Err(Unusable::at(step)(io::ErrorKind::InvalidData.into()));
        }
    }
    Ok(())
}

/// For what takes microseconds.
const TIMEOUT: Duration = Duration::from_secs(1);
