//! What is done to the servers. 200 connections to random peers, 128 bytes, unless it says otherwise.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use trunkline_load::plan::{Plan, Spacing, Work};

use crate::contender::Contender;

/// A kind of load; some have several cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// Throughput: 32 messages outstanding on each connection.
    W1,
    /// Latency under a given rate, from the time at which each message was meant to be sent.
    W2,
    /// Memory for idle connections.
    W3,
    /// Connections that come and go.
    W4,
    /// One message outstanding on each connection: nothing can be batched.
    W5,
    /// Throughput across two nodes, straight and by way of a region, beside as many floors in a row.
    W6,
    /// Payloads from 16 bytes to 16 KiB.
    W7,
    /// Throughput on two cores, one of which the generator shares: processor time for each message is what counts.
    W8,
}

/// One case of a workload.
#[derive(Clone, Debug)]
pub struct Case {
    /// For people.
    pub title: String,
    /// For names of files.
    pub file: String,
    /// For the generator.
    pub plan: Plan,
}

impl Workload {
    /// All of them.
    pub const ALL: [Workload; 8] = [
        Workload::W1,
        Workload::W5,
        Workload::W2,
        Workload::W3,
        Workload::W4,
        Workload::W6,
        Workload::W7,
        Workload::W8,
    ];

    fn name(self) -> &'static str {
        match self {
            Workload::W1 => "w1",
            Workload::W2 => "w2",
            Workload::W3 => "w3",
            Workload::W4 => "w4",
            Workload::W5 => "w5",
            Workload::W6 => "w6",
            Workload::W7 => "w7",
            Workload::W8 => "w8",
        }
    }

    /// Who takes part.
    pub fn contenders(self) -> &'static [Contender] {
        match self {
            Workload::W1 | Workload::W2 | Workload::W3 | Workload::W4 | Workload::W5 | Workload::W7 => &ALONE,
            Workload::W6 => &IN_A_ROW,
            // Those that use a second core, and a floor, which doesn't, as the measure.
            Workload::W8 => &[Contender::Floor, Contender::Ours, Contender::OursEpoll, Contender::Nats],
        }
    }

    /// Where the servers run.
    pub fn server_cores(self, server: usize, generator: usize) -> Vec<usize> {
        match self {
            Workload::W8 => vec![server, generator],
            Workload::W1 | Workload::W2 | Workload::W3 | Workload::W4 | Workload::W5 | Workload::W6 | Workload::W7 => {
                vec![server]
            }
        }
    }

    /// What is done, one after the other.
    pub fn cases(self, measured: Duration, generator_core: usize) -> Vec<Case> {
        let plan = |work| Plan {
            work,
            measured,
            warm_up: Duration::from_millis(500),
            cores: vec![generator_core],
            ..Plan::default()
        };
        let case = |more: &str, title: String, plan: Plan| Case {
            title: format!("{}: {title}", self.name().to_uppercase()),
            file: format!("{}{more}", self.name()),
            plan,
        };
        match self {
            Workload::W1 | Workload::W8 => {
                let title = match self {
                    Workload::W8 => "two cores, 32 messages outstanding on each of 200 connections",
                    _ => "32 messages outstanding on each of 200 connections",
                };
                vec![case("", title.into(), plan(Work::Closed { outstanding: 32 }))]
            }
            Workload::W5 => {
                let title = "1 message outstanding on each of 200 connections";
                vec![case("", title.into(), plan(Work::Closed { outstanding: 1 }))]
            }
            Workload::W2 => RATES
                .iter()
                .map(|&rate| {
                    let spacing = Spacing::Poisson;
                    let plan = plan(Work::Open { rate, spacing });
                    case(&format!("-{rate}"), format!("{rate} messages a second"), plan)
                })
                .collect(),
            Workload::W3 => IDLE
                .iter()
                .map(|&connections| {
                    let plan = Plan {
                        connections,
                        ..plan(Work::Idle)
                    };
                    case(
                        &format!("-{connections}"),
                        format!("{connections} idle connections"),
                        plan,
                    )
                })
                .collect(),
            Workload::W4 => {
                let title = "connections come and go, 200 at a time";
                vec![case("", title.into(), plan(Work::Connects))]
            }
            Workload::W6 => {
                let plan = Plan {
                    across: true,
                    // Links between the nodes come up.
                    warm_up: Duration::from_secs(3),
                    ..plan(Work::Closed { outstanding: 32 })
                };
                let title = "every message passes two nodes; 32 outstanding on each of 200 connections";
                vec![case("", title.into(), plan)]
            }
            Workload::W7 => PAYLOADS
                .iter()
                .map(|&payload_bytes| {
                    let plan = Plan {
                        payload_bytes,
                        ..plan(Work::Closed { outstanding: 8 })
                    };
                    let title = format!("payloads of {payload_bytes} bytes, 8 messages outstanding on each connection");
                    case(&format!("-{payload_bytes}"), title, plan)
                })
                .collect(),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Workload {
    type Err = String;

    fn from_str(text: &str) -> Result<Workload, String> {
        let found = Workload::ALL.into_iter().find(|workload| workload.name() == text);
        found.ok_or_else(|| format!("{text:?} is none: use {}", Workload::ALL.map(Workload::name).join(", ")))
    }
}

/// One server each.
const ALONE: [Contender; 8] = [
    Contender::Floor,
    Contender::Ours,
    Contender::FloorEpoll,
    Contender::OursEpoll,
    Contender::Nats,
    Contender::Redis,
    Contender::Mosquitto,
    Contender::Rumqttd,
];
/// Several servers, each beside as many floors as its messages pass nodes.
const IN_A_ROW: [Contender; 4] = [
    Contender::FloorTwo,
    Contender::OursDirect,
    Contender::FloorThree,
    Contender::OursRegion,
];
/// Messages a second.
const RATES: [f64; 3] = [20_000.0, 50_000.0, 100_000.0];
/// Connections; the generator has as many descriptors, and a limit of 20,000 is common.
const IDLE: [usize; 2] = [10_000, 18_000];
/// Bytes.
const PAYLOADS: [usize; 6] = [16, 64, 256, 1024, 4096, 16_384];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_read_and_written_alike() {
        for workload in Workload::ALL {
            assert_eq!(workload.to_string().parse(), Ok(workload));
        }
        assert!("w9".parse::<Workload>().is_err());
    }

    #[test]
    fn every_case_has_a_file_of_its_own() {
        let cases = Workload::ALL
            .into_iter()
            .flat_map(|workload| workload.cases(Duration::from_secs(1), 1));
        let files: Vec<String> = cases.map(|case| case.file).collect();
        let different: HashSet<&String> = files.iter().collect();
        assert_eq!(different.len(), files.len());
    }
}
