//! How many system calls a server makes for each message, as the kernel's tracepoint counts them: in a round of its own, because
//! counting costs the server time.
//!
//! By `perf stat`, which knows all of a process's threads; without it, or without the right to use it, there is no figure.

use std::fs::File;
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use trunkline_load::plan::{Plan, Work};
use trunkline_load::run::run as play;
use trunkline_load::target::Target;

/// Plays one more round to the target. `None` where it can't be counted, or where there are no messages.
///
/// # Errors
/// The round fails, or the counter doesn't end.
pub fn per_message(plan: &Plan, target: &Target) -> anyhow::Result<Option<f64>> {
    match plan.work {
        Work::Closed { .. } | Work::Open { .. } => {}
        Work::Idle | Work::Connects => return Ok(None),
    }
    let directory = tempfile::tempdir().context("a directory for the counter")?;
    let Some(mut counter) = Counter::start(directory.path(), &target.pids)? else {
        return Ok(None);
    };
    // From the first message on: all that the server does is counted, and so are all messages.
    let plan = Plan {
        warm_up: Duration::ZERO,
        measured: plan.measured.min(ROUND_MAX),
        ..plan.clone()
    };
    if !counter.say("enable")? {
        return Ok(None);
    }
    let rounds = play(&plan, std::slice::from_ref(target), 1, &mut |_| {
        ControlFlow::Continue(())
    })?;
    let messages: u64 = rounds.iter().flatten().map(|round| round.sent).sum();
    let calls = counter.end()?;
    Ok(calls.map(|calls| calls as f64 / messages.max(1) as f64))
}

/// A `perf stat` that waits to be told when to count.
struct Counter {
    child: Child,
    control: File,
    answers: File,
    output: std::path::PathBuf,
}

impl Counter {
    fn start(directory: &Path, pids: &[u32]) -> anyhow::Result<Option<Counter>> {
        let pipe = |name: &str| -> anyhow::Result<File> {
            let path = directory.join(name);
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| path.display().to_string())?;
            // For both, so that it can be opened before the counter opens its end.
            let opened = File::options()
                .read(true)
                .write(true)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&path);
            opened.with_context(|| path.display().to_string())
        };
        let (control, answers) = (pipe("control")?, pipe("answers")?);
        let output = directory.join("count");
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let mut pipes = std::ffi::OsString::from("fifo:");
        pipes.push(directory.join("control"));
        pipes.push(",");
        pipes.push(directory.join("answers"));
        let started = Command::new("perf")
            .args(["stat", "--event", "raw_syscalls:sys_enter", "--field-separator", ","])
            .args(["--delay", "-1", "--pid", &pids.join(",")])
            .arg("--output")
            .arg(&output)
            .arg("--control")
            .arg(pipes)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Ok(Some(Counter {
                child,
                control,
                answers,
                output,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("perf"),
        }
    }

    /// Returns whether it has done so; it has ended otherwise.
    fn say(&mut self, word: &str) -> anyhow::Result<bool> {
        writeln!(self.control, "{word}").context("perf's control")?;
        let until = Instant::now() + ANSWER_MAX;
        let mut answer = [0; 64];
        while self.child.try_wait()?.is_none() {
            match self.answers.read(&mut answer) {
                Ok(length) if answer[..length].starts_with(b"ack") => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("perf's answers"),
            }
            if Instant::now() > until {
                bail!("perf stat does not answer within {ANSWER_MAX:?}");
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(false)
    }

    fn end(mut self) -> anyhow::Result<Option<u64>> {
        self.say("disable")?;
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let until = Instant::now() + ANSWER_MAX;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("perf stat does not end within {ANSWER_MAX:?}");
            }
            thread::sleep(LOOK_AGAIN);
        }
        Ok(count(&std::fs::read_to_string(&self.output).unwrap_or_default()))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first field of the line that names the event; it is no number where nothing could be counted.
fn count(output: &str) -> Option<u64> {
    let line = output.lines().find(|line| line.contains("raw_syscalls:sys_enter"))?;
    line.split(',').next()?.parse().ok()
}

/// Enough for a ratio.
const ROUND_MAX: Duration = Duration::from_secs(1);
/// An answer takes a moment; without one something is wrong.
const ANSWER_MAX: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_and_what_was_not_counted_is_none() {
        let head = "# started on Thu Nov 26 20:00:00 2026\n\n";
        assert_eq!(
            count(&format!("{head}144,,raw_syscalls:sys_enter,12,100.00,,\n")),
            Some(144)
        );
        assert_eq!(count("<not counted>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
        assert_eq!(count(""), None);
    }
}
