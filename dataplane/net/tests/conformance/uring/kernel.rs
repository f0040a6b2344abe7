//! What the kernel must not have to do for the driver, and how its limits are met.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use trunkline_net::uring::{Options, UringDriver};

use super::{Uring, alone};
use crate::cases;
use crate::harness::Bounds;

/// Threads of this process that io_uring started for operations that would block: none of ours may.
fn workers() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("Linux tells the threads");
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("iou-wrk")).collect()
}

#[test]
fn no_operation_needs_a_worker_thread() {
    alone("uring::kernel::no_operation_needs_a_worker_thread", || {
        let cases: [fn(&mut crate::rig::Rig<Uring>) -> crate::harness::Outcome; 5] = [
            cases::streams::streams_are_byte_exact_under_short_reads_short_sends_and_slow_readers,
            cases::closing::close_answers_every_pending_operation_once,
            cases::closing::what_was_sent_before_the_close_is_delivered,
            cases::handover::a_socket_moves_with_what_arrives_before_during_and_after,
            cases::chaos::random_operations_keep_every_promise,
        ];
        for case in cases {
            crate::outcome::<Uring>(case, 1).unwrap();
            assert_eq!(workers(), Vec::<String>::new());
        }
    });
}

#[test]
fn the_limit_of_open_files_bounds_the_table_and_not_the_start() {
    alone(
        "uring::kernel::the_limit_of_open_files_bounds_the_table_and_not_the_start",
        || {
            let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
            setrlimit(Resource::RLIMIT_NOFILE, 1_024, hard).expect("lowering is allowed");
            // 65,536 sockets are asked for.
            UringDriver::new(Options::default()).expect("fewer sockets rather than none");
            setrlimit(Resource::RLIMIT_NOFILE, 100, hard).expect("lowering is allowed");
            let error = UringDriver::new(Options::default()).expect_err("no room for a socket");
            assert!(error.to_string().contains("ulimit -n"), "{error}");
        },
    );
}

#[test]
fn direct_descriptors_are_not_counted_among_the_open_files() {
    alone(
        "uring::kernel::direct_descriptors_are_not_counted_among_the_open_files",
        || {
            crate::outcome::<Uring>(
                |rig| {
                    let node = rig.add(Bounds::default());
                    let address = rig.listen(node)?;
                    let before = crate::os::descriptors_open();
                    for _ in 0..20 {
                        rig.peer(node, address)?;
                    }
                    let peers = 20;
                    assert_eq!(crate::os::descriptors_open(), before + peers);
                    Ok(())
                },
                1,
            )
            .unwrap();
        },
    );
}
