//! A message trace: who writes to whom, in the order of time. Read from a file (`sender recipient unix_seconds` a line), or made up.

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::Path;

use trunkline_wire::id::DeviceId;

/// Who writes to whom.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    devices: Vec<DeviceId>,
    /// Sender and recipient, as places in `devices`.
    messages: Vec<(usize, usize)>,
    /// Unix seconds of each message, never back.
    times: Vec<u64>,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file can't be read.
    #[error("cannot read the trace {file}: {error}")]
    Unreadable {
        /// Which file.
        file: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// A line isn't three fields.
    #[error("{file}:{line}: {what}; a line of a trace is: sender recipient unix_seconds")]
    Line {
        /// Which file.
        file: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// There are no messages in it.
    #[error("the trace {file} has no messages")]
    Empty {
        /// Which file.
        file: String,
    },
}

impl Trace {
    /// The devices, in the order of their first appearance.
    pub fn devices(&self) -> &[DeviceId] {
        &self.devices
    }

    /// Sender and recipient of each message, as places in [`Trace::devices`].
    pub fn messages(&self) -> &[(usize, usize)] {
        &self.messages
    }

    /// When each message was sent, in Unix seconds; never back.
    pub fn times(&self) -> &[u64] {
        &self.times
    }

    /// Reads a trace file.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn read(path: &Path) -> Result<Trace, TraceError> {
        let file = path.display().to_string();
        let unreadable = |error| TraceError::Unreadable {
            file: file.clone(),
            error,
        };
        let mut reader = std::io::BufReader::new(std::fs::File::open(path).map_err(unreadable)?);
        let mut builder = Builder::default();
        let mut last = 0;
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            let mut bounded = (&mut reader).take(LINE_BYTES_MAX + 1);
            if bounded.read_until(b'\n', &mut bytes).map_err(unreadable)? == 0 {
                break;
            }
            let wrong = |what: String| TraceError::Line {
                file: file.clone(),
                line,
                what,
            };
            if bytes.len() as u64 > LINE_BYTES_MAX {
                return Err(wrong(format!("it is longer than {LINE_BYTES_MAX} bytes")));
            }
            let line = std::str::from_utf8(&bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [sender, recipient, time] = fields[..] else {
                return Err(wrong(format!("{} fields instead of 3", fields.len())));
            };
            let time: u64 = time.parse().map_err(|_| wrong(format!("{time:?} is not a time")))?;
            if time < last {
                return Err(wrong(format!("the time goes back from {last} to {time}")));
            }
            last = time;
            let [sender, recipient] = [sender, recipient].map(DeviceId::new);
            let sender = sender.map_err(|error| wrong(error.to_string()))?;
            let recipient = recipient.map_err(|error| wrong(error.to_string()))?;
            builder.message(sender, recipient, time);
        }
        if builder.messages.is_empty() {
            return Err(TraceError::Empty { file });
        }
        Ok(builder.build())
    }

    /// Makes up a trace: `messages` between `devices` (at least 2), a second apart, where most messages go to few partners, and many are answers.
    pub fn synthetic(seed: u64, devices: usize, messages: usize) -> Trace {
        let mut rng = fastrand::Rng::with_seed(seed);
        let names: Vec<DeviceId> = (0..devices)
            .map(|n| DeviceId::new(&format!("device-{n:04}")).expect("a short name"))
            .collect();
        let mut last = (0, 1);
        let mut trace = Vec::with_capacity(messages);
        for _ in 0..messages {
            let (sender, recipient) = match rng.u8(..100) {
                // An answer to the last message.
                0..30 => (last.1, last.0),
                chance => {
                    let sender = rng.usize(..devices);
                    // One of a handful of partners, or, seldom, anybody.
                    let reach = if chance < 90 { 5.min(devices - 1) } else { devices - 1 };
                    (sender, (sender + 1 + rng.usize(..reach)) % devices)
                }
            };
            trace.push((sender, recipient));
            last = (sender, recipient);
        }
        Trace {
            devices: names,
            times: (0..messages as u64).collect(),
            messages: trace,
        }
    }
}

/// Two ids, a time, and room for blanks between them: what is longer is no trace, and is not read on.
const LINE_BYTES_MAX: u64 = 1_024;

#[derive(Default)]
struct Builder {
    places: HashMap<DeviceId, usize>,
    devices: Vec<DeviceId>,
    messages: Vec<(usize, usize)>,
    times: Vec<u64>,
}

impl Builder {
    fn message(&mut self, sender: DeviceId, recipient: DeviceId, time: u64) {
        let [sender, recipient] = [sender, recipient].map(|device| {
            *self.places.entry(device.clone()).or_insert_with(|| {
                self.devices.push(device);
                self.devices.len() - 1
            })
        });
        self.messages.push((sender, recipient));
        self.times.push(time);
    }

    fn build(self) -> Trace {
        Trace {
            devices: self.devices,
            messages: self.messages,
            times: self.times,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(text: &str) -> Result<Trace, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Trace::read(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_line_is_a_sender_a_recipient_and_a_time() {
        let trace = read("ann bob 5\nbob ann 5\nann cy 9\n").unwrap();
        assert_eq!(trace.devices().len(), 3);
        assert_eq!(trace.messages(), [(0, 1), (1, 0), (0, 2)]);
        assert_eq!(trace.times(), [5, 5, 9]);
    }

    #[test]
    fn a_line_that_is_wrong_is_named() {
        for (text, what) in [
            ("a b\n", ":1: 2 fields"),
            ("a b 1\na b c d\n", ":2: 4 fields"),
            ("a b soon\n", "\"soon\" is not a time"),
            ("a b 9\na b 8\n", ":2: the time goes back from 9 to 8"),
            ("a b -1\n", ":1: \"-1\" is not a time"),
            ("a b 1\n\na b 2\n", ":2: 0 fields"),
            ("", "has no messages"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{error}");
            assert_eq!(error.lines().count(), 1);
        }
        let long = format!("{} b 1\n", "x".repeat(65));
        assert!(read(&long).unwrap_err().contains("1 to 64 bytes"));
        let endless = format!("a b 1\n{}", "x".repeat(5_000_000));
        assert!(read(&endless).unwrap_err().contains(":2: it is longer than 1024 bytes"));
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a b 1\na \xff 2\n").unwrap();
        let error = Trace::read(file.path()).unwrap_err().to_string();
        assert!(error.contains(":2: it is not UTF-8"), "{error}");
        assert!(
            Trace::read(Path::new("/nowhere"))
                .unwrap_err()
                .to_string()
                .contains("cannot read the trace /nowhere")
        );
    }

    #[test]
    fn a_seed_makes_the_same_trace_again_and_nobody_writes_to_themselves() {
        let trace = Trace::synthetic(7, 50, 2_000);
        assert_eq!(trace, Trace::synthetic(7, 50, 2_000));
        assert_ne!(trace, Trace::synthetic(8, 50, 2_000));
        assert!(trace.messages().iter().all(|(sender, recipient)| sender != recipient));
        assert_eq!(Trace::synthetic(1, 2, 100).messages().len(), 100);
    }
}
