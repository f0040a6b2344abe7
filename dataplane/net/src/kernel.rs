//! Calls to the kernel that no crate of ours wraps: polling of network cards by epoll and io_uring, and whose memory a thread is given.
//!
//! Each takes plain values, keeps no pointer beyond the call, and says what the kernel said.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

/// `struct epoll_params` of the kernel's header.
#[repr(C)]
struct EpollParams {
    busy_poll_usecs: u32,
    /// Packets at once; 0 is the kernel's own choice.
    busy_poll_budget: u16,
    prefer_busy_poll: u8,
    pad: u8,
}

nix::ioctl_write_ptr!(set_epoll_params, 0x8a, 0x01, EpollParams);

/// `struct io_uring_napi` of the kernel's header.
#[repr(C)]
struct UringNapi {
    busy_poll_to: u32,
    prefer_busy_poll: u8,
    /// 0 registers.
    opcode: u8,
    pad: [u8; 2],
    op_param: u32,
    reserved: u32,
}

/// Has waits of `epoll` poll the queues of its sockets' network cards for so long before they sleep.
///
/// # Errors
/// ENOTTY or EINVAL before Linux 6.9.
pub(crate) fn poll_cards_of_epoll(epoll: &impl AsRawFd, most: Duration) -> io::Result<()> {
    let params = EpollParams {
        busy_poll_usecs: micros(most),
        busy_poll_budget: 0,
        prefer_busy_poll: 0,
        pad: 0,
    };
    // SAFETY: the descriptor is open while it's borrowed, and the kernel reads a whole `EpollParams` during the call only.
    unsafe { set_epoll_params(epoll.as_raw_fd(), &raw const params) }?;
    Ok(())
}

/// Has waits of the io_uring `ring` poll the queues of its sockets' network cards for so long before they sleep.
///
/// # Errors
/// EINVAL before Linux 6.9, or without CONFIG_NET_RX_BUSY_POLL.
pub(crate) fn poll_cards_of_uring(ring: &impl AsRawFd, most: Duration) -> io::Result<()> {
    let mut napi = UringNapi {
        busy_poll_to: micros(most),
        prefer_busy_poll: 0,
        opcode: 0,
        pad: [0; 2],
        op_param: 0,
        reserved: 0,
    };
    // SAFETY: the descriptor is open while it's borrowed. The kernel reads one `UringNapi`, and writes the settings before into it,
    // during the call only.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring.as_raw_fd(),
            REGISTER_NAPI,
            &raw mut napi,
            1,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Takes the calling thread's memory from the NUMA node `node` from now on, while there is some.
///
/// # Errors
/// EPERM from a sandbox, ENOSYS without CONFIG_NUMA, EINVAL if there is no such node.
pub(crate) fn prefer_memory_of(node: u32) -> io::Result<()> {
    let mut mask = [0 as libc::c_ulong; NODES_MAX / BITS];
    let at = node as usize;
    let Some(word) = mask.get_mut(at / BITS) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    *word |= 1 << (at % BITS);
    // SAFETY: the kernel reads `NODES_MAX` bits of the mask, which has as many, during the call only. One more is said, since it takes
    // one off.
    let result = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            mask.as_ptr(),
            NODES_MAX + 1,
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

/// `IORING_REGISTER_NAPI` of the kernel's header; the crate knows the number and has no call for it.
const REGISTER_NAPI: libc::c_uint = 27;
/// NUMA nodes of the largest kernels (`MAX_NUMNODES`).
const NODES_MAX: usize = 1024;
const BITS: usize = libc::c_ulong::BITS as usize;

const _: () = assert!(size_of::<EpollParams>() == 8, "as the kernel lays it out");
const _: () = assert!(size_of::<UringNapi>() == 16, "as the kernel lays it out");
