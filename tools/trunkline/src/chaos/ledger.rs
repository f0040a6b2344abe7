//! What senders and recipients saw, appended to two files as it happens, and handed to the judge.
//!
//! A line is seconds, a word, and numbers. What is in the files is what was judged: a breach can be looked up there.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::judge::{End, Judge, Record};

/// See the module's text.
pub struct Ledger {
    started: Instant,
    senders: BufWriter<File>,
    recipients: BufWriter<File>,
    judge: Judge,
}

impl Ledger {
    /// New files `senders.log` and `recipients.log` in `directory`.
    ///
    /// # Errors
    /// If they can't be made.
    pub fn open(directory: &Path, devices: usize, servers: usize) -> anyhow::Result<Ledger> {
        let file = |name: &str| {
            let path = directory.join(name);
            let file = File::options().create(true).append(true).open(&path);
            file.map(BufWriter::new).with_context(|| path.display().to_string())
        };
        Ok(Ledger {
            started: Instant::now(),
            senders: file("senders.log")?,
            recipients: file("recipients.log")?,
            judge: Judge::new(devices, servers),
        })
    }

    /// Since the ledger was opened.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Appends what was seen.
    ///
    /// # Errors
    /// If it can't be written: then nothing is known of this run.
    pub fn append(&mut self, record: &Record) -> anyhow::Result<()> {
        let at = self.elapsed();
        let (senders, recipients) = (&mut self.senders, &mut self.recipients);
        let seconds = at.as_secs_f64();
        let written = match record {
            Record::Sent {
                index,
                sender,
                recipient,
            } => writeln!(senders, "{seconds:.6} sent {index} {sender} {recipient}"),
            Record::Reported { index, end } => match end {
                End::Delivered => writeln!(senders, "{seconds:.6} delivered {index}"),
                End::Not(why, maybe) => writeln!(senders, "{seconds:.6} {} {index} maybe={maybe}", why.name()),
            },
            Record::Shown {
                device,
                says,
                number,
                late,
            } => match says {
                Some((index, sender)) => {
                    writeln!(
                        recipients,
                        "{seconds:.6} shown {index} {sender} {device} {number} late={late}"
                    )
                }
                None => writeln!(recipients, "{seconds:.6} nonsense {device}"),
            },
            Record::Connected(device, server) => writeln!(recipients, "{seconds:.6} connected {device} {server}"),
            Record::Disconnected(device) => writeln!(recipients, "{seconds:.6} disconnected {device}"),
            Record::Struck(servers) => writeln!(recipients, "{seconds:.6} struck {servers:?}"),
            Record::Healed(servers) => writeln!(recipients, "{seconds:.6} healed {servers:?}"),
            Record::Torn(why) => writeln!(recipients, "{seconds:.6} torn {why}"),
        };
        written.context("the ledger")?;
        self.judge.take(at, record);
        Ok(())
    }

    /// All is over. The judge's verdict.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn close(mut self) -> anyhow::Result<Judge> {
        self.senders.flush().context("the ledger")?;
        self.recipients.flush().context("the ledger")?;
        self.judge.finish(self.started.elapsed());
        Ok(self.judge)
    }
}
