//! Whose output is no longer read ends at once and says nothing.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use support::{stderr, trunkline};

#[test]
fn a_command_whose_reader_has_gone_ends_without_a_word() {
    let mut command = trunkline(["sim", "--seeds", "1", "--hashes"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // As when `head` has seen enough.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.signal(), Some(nix::libc::SIGPIPE), "{output:?}");
    assert_eq!(stderr(&output), "");
}
