//! What the user sees: results on standard output, logs, progress and errors on standard error.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::EnvFilter;

/// Whatever takes longer than this shows its progress.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// Sends logs to standard error.
///
/// # Errors
/// A filter that can't be read.
pub fn log_to_stderr(filter: &str, json: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::builder()
        .parse(filter)
        .with_context(|| format!("--log {filter}: use error, warn, info, debug, trace, or target=level"))?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if json {
        subscriber.json().init();
    } else {
        subscriber.init();
    }
    Ok(())
}

/// One line that says what went wrong, and a failing exit code.
pub fn failed(error: &anyhow::Error) -> ExitCode {
    let line = format!("{error:#}").replace('\n', " ");
    eprintln!("error: {line}");
    ExitCode::FAILURE
}

/// Flags that can't be: what is wrong, on one line, and the exit code for misuse.
pub fn misused(text: &str) -> ExitCode {
    let what: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    eprintln!("{}; see --help", what.join(" "));
    ExitCode::from(2)
}

/// A progress bar that appears on a terminal once two seconds have passed.
pub struct Progress {
    bar: ProgressBar,
    started: std::time::Instant,
    shown: bool,
}

impl Progress {
    /// Counts to `length` of `what`.
    pub fn new(what: &'static str, length: usize) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(length as u64), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} eta {eta}");
        bar.set_style(style.expect("a fixed template"));
        bar.set_message(what);
        Progress {
            bar,
            started: std::time::Instant::now(),
            shown: false,
        }
    }

    /// It has come this far.
    pub fn at(&mut self, position: usize) {
        if !self.shown && self.started.elapsed() > PROGRESS_AFTER {
            self.shown = true;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_position(position as u64);
    }

    /// It is done, or given up: the bar goes.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
