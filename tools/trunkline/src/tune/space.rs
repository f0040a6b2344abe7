//! The candidates: settings that differ from the defaults in one thing each, and combinations of those that won.
//!
//! One thing at a time, so that the number of measurements grows with the settings and not with their product, and a result can be put
//! down to its cause.

use serde::Serialize;
use trunkline_net::backend::{Backend, Chosen};
use trunkline_node::config::{TuningSection, ranges};

/// What this host has to choose from.
#[derive(Clone, Debug)]
pub struct Host {
    /// Processors for the server under test.
    pub server_cores: Vec<usize>,
    /// What the plan for this host gives to shards, when nobody generates load on it.
    pub planned_cores: Vec<usize>,
    /// The back ends that work here, the one that `auto` chooses first.
    pub backends: Vec<Chosen>,
    /// Whether the generator has processors of its own. Without, spinning only takes its time.
    pub apart: bool,
    /// The largest socket buffer that the kernel grants, in bytes.
    pub socket_buffer_bytes_max: u32,
}

/// One thing that may be set otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The other back end.
    Epoll,
    /// Half as many shards.
    HalfTheShards,
    /// Spinning for so many microseconds.
    Spin(u32),
    /// Receive buffers of so many bytes, as much memory in all.
    DeviceBuffers(u32),
    /// Socket buffers of so many bytes.
    SocketBuffers(u32),
}

/// Settings to be measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Candidate {
    /// For people.
    pub name: String,
    /// In what it differs from the defaults.
    pub changes: Vec<Change>,
    /// Its back end.
    #[serde(skip)]
    pub backend: Backend,
    /// Its processors.
    pub cores: Vec<usize>,
    /// The rest.
    pub tuning: TuningSection,
}

impl Host {
    /// The defaults first, then everything that differs in one thing.
    pub fn candidates(&self) -> Vec<Candidate> {
        let mut changes = Vec::new();
        if self.backends.len() > 1 {
            changes.push(Change::Epoll);
        }
        if self.server_cores.len() > 1 {
            changes.push(Change::HalfTheShards);
        }
        if self.apart {
            changes.extend(SPINS_US.map(Change::Spin));
        }
        changes.extend(DEVICE_BUFFER_BYTES.map(Change::DeviceBuffers));
        let sizes = SOCKET_BUFFER_BYTES
            .into_iter()
            .filter(|bytes| *bytes <= self.socket_buffer_bytes_max);
        changes.extend(sizes.map(Change::SocketBuffers));
        let single = changes.into_iter().map(|change| self.candidate(&[change]));
        std::iter::once(self.candidate(&[])).chain(single).collect()
    }

    /// The defaults with these changes.
    pub fn candidate(&self, changes: &[Change]) -> Candidate {
        let defaults = TuningSection::default();
        let memory = u64::from(defaults.device_buffers) * u64::from(defaults.device_buffer_bytes);
        let mut candidate = Candidate {
            name: "defaults".to_owned(),
            changes: changes.to_vec(),
            backend: backend(self.backends.first().copied().unwrap_or(Chosen::Epoll)),
            cores: self.server_cores.clone(),
            tuning: defaults,
        };
        for change in changes {
            match *change {
                Change::Epoll => candidate.backend = Backend::Epoll,
                Change::HalfTheShards => candidate.cores.truncate(self.server_cores.len().div_ceil(2)),
                Change::Spin(us) => candidate.tuning.spin_us = us,
                Change::DeviceBuffers(bytes) => {
                    candidate.tuning.device_buffer_bytes = bytes;
                    candidate.tuning.device_buffers = (memory / u64::from(bytes)) as u32;
                }
                Change::SocketBuffers(bytes) => {
                    candidate.tuning.send_buffer_bytes = Some(bytes);
                    candidate.tuning.receive_buffer_bytes = Some(bytes);
                }
            }
        }
        let names: Vec<String> = changes.iter().map(Change::name).collect();
        if !names.is_empty() {
            candidate.name = names.join(", ");
        }
        candidate
    }

    /// Of these changes, those that can be made together: of two to one setting, the first.
    pub fn together(&self, changes: &[Change]) -> Vec<Change> {
        let mut kept: Vec<Change> = Vec::new();
        for change in changes {
            if !kept
                .iter()
                .any(|other| std::mem::discriminant(other) == std::mem::discriminant(change))
            {
                kept.push(*change);
            }
        }
        kept
    }

    /// The file that `trunkline node --config` takes for it, the cores as they are when nobody generates load beside the node.
    pub fn file(&self, candidate: &Candidate) -> String {
        #[derive(Serialize)]
        struct File<'c> {
            node: Node,
            tuning: &'c TuningSection,
        }
        #[derive(Serialize)]
        struct Node {
            cores: String,
            backend: String,
        }
        let half = candidate.changes.contains(&Change::HalfTheShards);
        let mut cores = self.planned_cores.clone();
        if half {
            cores.truncate(cores.len().div_ceil(2));
        }
        let file = File {
            node: Node {
                cores: ranges(&cores),
                backend: candidate.backend.to_string(),
            },
            tuning: &candidate.tuning,
        };
        toml::to_string(&file).expect("plain values have a form in TOML")
    }
}

impl Change {
    fn name(&self) -> String {
        match self {
            Change::Epoll => "epoll".to_owned(),
            Change::HalfTheShards => "half the shards".to_owned(),
            Change::Spin(us) => format!("spin {us} us"),
            Change::DeviceBuffers(bytes) => format!("receive buffers of {bytes} B"),
            Change::SocketBuffers(bytes) => format!("socket buffers of {} KiB", bytes >> 10),
        }
    }
}

fn backend(chosen: Chosen) -> Backend {
    match chosen {
        Chosen::Uring => Backend::Uring,
        Chosen::Epoll => Backend::Epoll,
    }
}

/// Short enough for a busy host, and long enough for messages every hundred microseconds.
const SPINS_US: [u32; 2] = [20, 100];
/// More buffers, for many devices that send little at a time.
const DEVICE_BUFFER_BYTES: [u32; 1] = [2_048];
/// What bounds a slow reader, without holding up a fast one on a local network.
const SOCKET_BUFFER_BYTES: [u32; 1] = [128 << 10];

#[cfg(test)]
mod tests {
    use trunkline_node::config::Config;

    use super::*;

    fn host() -> Host {
        Host {
            // Processor 0 is one that every host has: the file is checked against this one.
            server_cores: vec![0, 1],
            planned_cores: vec![0],
            backends: vec![Chosen::Uring, Chosen::Epoll],
            apart: true,
            socket_buffer_bytes_max: 1 << 20,
        }
    }

    #[test]
    fn every_candidate_is_a_configuration_that_a_node_takes() {
        let host = host();
        for candidate in host.candidates() {
            let file = host.file(&candidate);
            let config = Config::parse(&file, "tuned.toml").unwrap_or_else(|error| panic!("{error}: {file}"));
            assert_eq!(config.tuning, candidate.tuning);
            assert_eq!(config.node.backend, candidate.backend);
            assert_eq!(config.node.cores.unwrap().cores(), [0]);
        }
    }

    #[test]
    fn candidates_differ_from_the_defaults_in_one_thing_and_only_in_what_the_host_has() {
        let candidates = host().candidates();
        assert!(candidates[0].changes.is_empty());
        assert!(candidates[1..].iter().all(|candidate| candidate.changes.len() == 1));
        let small = Host {
            server_cores: vec![0],
            backends: vec![Chosen::Epoll],
            apart: false,
            socket_buffer_bytes_max: 4096,
            ..host()
        };
        let left = small.candidates();
        assert_eq!(left.len(), 2, "{left:?}");
        assert_eq!(left[1].changes, [Change::DeviceBuffers(2_048)]);
    }

    #[test]
    fn of_two_changes_to_one_setting_the_better_is_kept() {
        let together = host().together(&[Change::Spin(100), Change::Epoll, Change::Spin(20)]);
        assert_eq!(together, [Change::Spin(100), Change::Epoll]);
    }
}
