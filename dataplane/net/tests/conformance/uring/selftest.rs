//! The self-test where io_uring is not to be had: it says so by name, and what to do.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, setrlimit};
use trunkline_net::backend::{Backend, Chosen};
use trunkline_net::epoll;
use trunkline_net::uring::{Unusable, probe};

use super::alone;

/// Makes the three system calls of io_uring answer `errno` in this thread, as a container's default profile does.
fn forbid(errno: Errno) {
    let instruction = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let compare = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
    let answer = libc::BPF_RET | libc::BPF_K;
    let (first, last) = (libc::SYS_io_uring_setup as u32, libc::SYS_io_uring_register as u32);
    let mut filter = [
        // The system call's number is the first field of what a filter sees.
        instruction(load, 0, 0, 0),
        instruction(compare, first, 0, 2),
        instruction(compare, last + 1, 1, 0),
        instruction(answer, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0),
        instruction(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    let on: libc::c_ulong = 1;
    // SAFETY: this option takes plain numbers.
    let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, 0, 0, 0) };
    assert_eq!(done, 0, "{}", Errno::last());
    // SAFETY: `program` and the instructions that it points to live until the call returns; the kernel copies them.
    let done = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
            0,
            0,
        )
    };
    assert_eq!(done, 0, "{}", Errno::last());
}

#[test]
fn a_seccomp_profile_is_named() {
    alone("uring::selftest::a_seccomp_profile_is_named", || {
        forbid(Errno::EPERM);
        let why = probe().expect_err("it's forbidden");
        assert!(matches!(why, Unusable::Forbidden { .. }), "{why}");
        let text = why.to_string();
        assert!(
            text.contains("EPERM") && text.contains("seccomp") && text.contains("kernel.io_uring_disabled"),
            "{text}"
        );
    });
}

#[test]
fn a_kernel_without_it_is_named() {
    alone("uring::selftest::a_kernel_without_it_is_named", || {
        forbid(Errno::ENOSYS);
        let why = probe().expect_err("there is none");
        assert!(matches!(why, Unusable::Missing { .. }), "{why}");
        assert!(why.to_string().contains("ENOSYS"), "{why}");
    });
}

/// Whose memory counts for rings is the kernel's version's and the user's privileges' affair: it works, or memlock is named.
#[test]
fn too_little_locked_memory_is_named_where_it_matters() {
    alone(
        "uring::selftest::too_little_locked_memory_is_named_where_it_matters",
        || {
            setrlimit(Resource::RLIMIT_MEMLOCK, 64 * 1024, 64 * 1024).expect("lowering is allowed");
            match probe() {
                Ok(()) => println!("64 KiB of memlock are enough here"),
                Err(why) => assert!(why.to_string().contains("memlock"), "{why}"),
            }
        },
    );
}

/// One small ring works where the rings of all threads don't: `auto` takes epoll instead of failing at the start.
#[test]
fn a_limit_that_only_the_full_size_meets_makes_auto_take_epoll() {
    alone(
        "uring::selftest::a_limit_that_only_the_full_size_meets_makes_auto_take_epoll",
        || {
            setrlimit(Resource::RLIMIT_NOFILE, 300, 300).expect("lowering is allowed");
            probe().expect("a small ring fits");
            let bounds = epoll::Options::default();
            assert_eq!(Backend::Auto.choose(2, &bounds).unwrap(), Chosen::Epoll);
            let why = Backend::Uring
                .choose(2, &bounds)
                .expect_err("it doesn't fit")
                .to_string();
            assert!(why.contains("limit of 300 open files") && !why.contains('\n'), "{why}");
        },
    );
}

#[test]
fn every_reason_says_what_to_do() {
    let step = "the ring";
    let told = [
        (Unusable::Forbidden { step }, "seccomp"),
        (Unusable::Missing { step }, "no io_uring"),
        (Unusable::NoMemory { step }, "memlock"),
        (Unusable::TooOld { step }, "Linux 6.1"),
    ];
    for (why, what) in told {
        let text = why.to_string();
        assert!(
            text.contains(what) && text.contains(step) && !text.contains('\n'),
            "{text}"
        );
    }
}
