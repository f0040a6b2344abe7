//! How much faster than the world virtual time goes.

use std::fmt;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Runs from when something is played.
pub(super) struct Stopwatch {
    started: Instant,
    cpu: Duration,
}

/// What virtual time took: real time, and time of all threads on their processors.
pub(super) struct Pace {
    span: Duration,
    real: Duration,
    cpu: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Stopwatch {
        Stopwatch {
            started: Instant::now(),
            cpu: cpu_time(),
        }
    }

    /// How long `span` of virtual time has taken.
    pub(super) fn pace(&self, span: Duration) -> Pace {
        Pace {
            span,
            real: self.started.elapsed(),
            cpu: cpu_time().saturating_sub(self.cpu),
        }
    }
}

impl Pace {
    pub(super) fn real_seconds(&self) -> f64 {
        self.real.as_secs_f64()
    }

    pub(super) fn cpu_seconds(&self) -> f64 {
        self.cpu.as_secs_f64()
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (span, real, cpu) = (self.span.as_secs_f64(), self.real_seconds(), self.cpu_seconds());
        let times = |seconds: f64| span / seconds.max(1e-9);
        write!(
            f,
            "{span:.0} s of virtual time in {real:.2} s ({:.0} times real time, {:.0} times CPU time)",
            times(real),
            times(cpu)
        )
    }
}

/// What all threads of this process have had so far, in the kernel and outside of it.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
