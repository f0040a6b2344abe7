//! What the kernel accounts: a server's processor time and memory, and the host's TCP segments.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A process on this host.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

/// Nanoseconds on a processor, by thread.
#[derive(Clone, Debug, Default)]
pub struct Time(HashMap<u32, u64>);

impl Time {
    /// Adds another process's threads.
    pub fn join(&mut self, other: Time) {
        self.0.extend(other.0);
    }

    /// How much more it is than `earlier`. What a thread used that ended in between is not seen.
    pub fn since(&self, earlier: &Time) -> u64 {
        let used = |(thread, now): (&u32, &u64)| now.saturating_sub(earlier.0.get(thread).copied().unwrap_or(0));
        self.0.iter().map(used).sum()
    }
}

impl Process {
    fn path(self, rest: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{rest}", self.0))
    }

    /// What its threads have used, from their `schedstat`: the kernel's own clock, not samples.
    ///
    /// # Errors
    /// There is no such process, or it is another user's.
    pub fn time(self) -> Result<Time, Error> {
        let tasks = self.path("task");
        let entries = fs::read_dir(&tasks).map_err(|error| Error::Account { path: tasks, error })?;
        let mut time = Time::default();
        for entry in entries.flatten() {
            // A thread may end while the directory is read.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else {
                continue;
            };
            let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(thread), Some(used)) = (thread, on_processor(&text)) {
                time.0.insert(thread, used);
            }
        }
        Ok(time)
    }

    /// The bytes of its memory that are resident.
    ///
    /// # Errors
    /// There is no such process.
    pub fn resident_bytes(self) -> Result<u64, Error> {
        let path = self.path("status");
        let text = read(&path)?;
        resident(&text).ok_or_else(|| Error::Account {
            path,
            error: std::io::ErrorKind::InvalidData.into(),
        })
    }
}

/// TCP segments that this host has sent, acknowledgements included, whoever sent them; `None` where the kernel doesn't say.
pub fn segments_sent() -> Option<u64> {
    out_segments(&fs::read_to_string("/proc/net/snmp").ok()?)
}

/// What the kernel's own objects that are in use take of this host's memory, sockets and files among them; `None` where it doesn't say, or
/// only to root. Not `Slab` of `/proc/meminfo`, which holds on to what was freed.
pub fn kernel_bytes() -> Option<u64> {
    objects(&fs::read_to_string("/proc/slabinfo").ok()?)
}

/// The congestion control of this host's TCP, for the record.
pub fn congestion_control() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").ok()?;
    Some(name.trim().to_owned())
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|error| Error::Account {
        path: path.to_owned(),
        error,
    })
}

/// The first of `schedstat`'s three numbers.
fn on_processor(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The sum over lines of a name, the objects in use, all of them, and the bytes of each; the first two lines are headings.
fn objects(slabinfo: &str) -> Option<u64> {
    let mut sum = None;
    for line in slabinfo.lines().skip(2) {
        let mut words = line.split_whitespace().skip(1).map(str::parse::<u64>);
        let (active, _, bytes) = (words.next()?.ok()?, words.next()?, words.next()?.ok()?);
        *sum.get_or_insert(0) += active * bytes;
    }
    sum
}

/// The value under the heading `OutSegs` of the two lines that start with `Tcp:`.
fn out_segments(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (heads, values) = (lines.next()?, lines.next()?);
    let place = heads.split_whitespace().position(|head| head == "OutSegs")?;
    values.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        assert_eq!(on_processor("123456 78 9\n"), Some(123_456));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let slabs = "slabinfo - version: 2.1\n# name <active_objs> <num_objs>\nTCP 3 4 2560 : x\nfilp 10 20 256 : x\n";
        assert_eq!(objects(slabs), Some(3 * 2560 + 10 * 256));
        assert_eq!(objects(""), None);
        let snmp = "Ip: A\nIp: 1\nTcp: InSegs OutSegs RetransSegs\nTcp: 10 20 30\nUdp: B\nUdp: 1\n";
        assert_eq!(out_segments(snmp), Some(20));
        assert_eq!(out_segments(""), None);
    }

    #[test]
    fn time_is_summed_over_threads_and_new_ones_count_from_nothing() {
        let earlier = Time(HashMap::from([(1, 100), (2, 50)]));
        let later = Time(HashMap::from([(1, 160), (3, 7)]));
        assert_eq!(later.since(&earlier), 67);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_a_past_and_nobody_has_none() {
        let process = Process(std::process::id());
        assert!(process.resident_bytes().unwrap() > 0);
        assert!(process.time().unwrap().0.len() > 1);
        let error = Process(u32::MAX).time().unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295/task"), "{error}");
    }
}
