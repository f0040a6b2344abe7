//! SIGINT and SIGTERM: asked for between steps, so that everything is closed in order. SIGPIPE: ends who only prints.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGPIPE, SIGTERM};
use signal_hook::iterator::Signals;

/// Whether somebody asked the process to end. A second signal ends it at once.
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens for the signals from now on.
    ///
    /// # Errors
    /// What the system said.
    pub fn listen() -> anyhow::Result<Stop> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop)).context("signals")?;
            signal_hook::flag::register(signal, Arc::clone(&stop)).context("signals")?;
        }
        Ok(Stop(stop))
    }

    /// Whether it is time to end.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The same, for who asks at every step whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_asked() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// From now on the process ends, as other programs do, when what it prints is no longer read: by `head`, say. For commands that serve
/// nobody and start no other process.
///
/// # Errors
/// What the system said.
pub fn end_with_the_reader() -> anyhow::Result<()> {
    let always = Arc::new(AtomicBool::new(true));
    signal_hook::flag::register_conditional_default(SIGPIPE, always).context("signals")?;
    Ok(())
}

/// Waits until somebody asks the process to end: by a signal, or, `with_stdin`, by closing its standard input.
///
/// # Errors
/// What the system said.
pub fn wait(with_stdin: bool) -> anyhow::Result<()> {
    let (asked, asks) = mpsc::channel();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("signals")?;
    let by_signal = asked.clone();
    std::thread::spawn(move || {
        signals.forever().next();
        let _ = by_signal.send(());
    });
    if with_stdin {
        std::thread::spawn(move || {
            // What is written to it doesn't matter, only its end.
            let _ = std::io::copy(&mut std::io::stdin().lock().take(u64::MAX), &mut std::io::sink());
            let _ = asked.send(());
        });
    }
    asks.recv().context("signals")
}
