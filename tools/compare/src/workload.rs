//! What is done to the servers. 200 connections to random peers, 128 bytes, unless it says otherwise.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use trunkline_load::plan::{Plan, Spacing, Work};

use crate::contender::Contender;

/// A kind of load; some have several cases. In the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// Throughput: 32 messages outstanding on each connection.
    W1,
    /// One message outstanding on each connection: nothing can be batched.
    W5,
    /// Latency under a given rate, from the time at which each message was meant to be sent until it is delivered; for one rate also until
    /// the sender has its report, beside a floor that has none.
    W2,
    /// Memory for idle connections.
    W3,
    /// Connections that come and go.
    W4,
    /// Throughput across two nodes, straight and by way of a region, beside as many floors in a row.
    W6,
    /// Payloads from 16 bytes to 16 KiB.
    W7,
    /// Two shards: on one core, as everything else, and on two, one of which the generator shares. Processor time for each message is what
    /// counts.
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
    /// Where the servers run: some or all of [`Workload::server_cores`].
    pub cores: Vec<usize>,
}

impl Workload {
    /// Who takes part.
    pub fn has(self, contender: Contender) -> bool {
        match self {
            Workload::W2 => !contender.is_in_a_row(),
            // Where there is always work, or none, spinning changes nothing.
            Workload::W1 | Workload::W3 | Workload::W4 | Workload::W5 | Workload::W7 => {
                !contender.is_in_a_row() && contender != Contender::OursSpinning
            }
            Workload::W6 => contender.is_in_a_row(),
            // Those that use a second core, and a floor, which doesn't, as the measure.
            Workload::W8 => matches!(
                contender,
                Contender::Floor | Contender::Ours | Contender::OursEpoll | Contender::Nats
            ),
        }
    }

    /// The processors that the servers are started for: of those that use several, each has as many threads.
    pub fn server_cores(self, server: usize, generator: usize) -> Vec<usize> {
        match self {
            Workload::W8 => vec![server, generator],
            Workload::W1 | Workload::W2 | Workload::W3 | Workload::W4 | Workload::W5 | Workload::W6 | Workload::W7 => {
                vec![server]
            }
        }
    }

    /// What is done, one after the other.
    pub fn cases(self, measured: Duration, server_core: usize, generator_core: usize) -> Vec<Case> {
        let plan = |work| Plan {
            work,
            measured,
            warm_up: Duration::from_millis(500),
            cores: vec![generator_core],
            ..Plan::default()
        };
        let case = |more: &str, title: String, plan: Plan| Case {
            title: format!("{}: {title}", self.to_string().to_uppercase()),
            file: format!("{self}{more}"),
            plan,
            cores: vec![server_core],
        };
        match self {
            Workload::W1 => {
                let title = "32 messages outstanding on each of 200 connections";
                vec![case("", title.into(), plan(Work::Closed { outstanding: 32 }))]
            }
            Workload::W8 => {
                let of = |shards: &str| format!("{shards}, 32 messages outstanding on each of 200 connections");
                let plan = plan(Work::Closed { outstanding: 32 });
                let two = Case {
                    cores: self.server_cores(server_core, generator_core),
                    ..case("-two-cores", of("two shards on two cores"), plan.clone())
                };
                vec![case("", of("two shards on one core"), plan), two]
            }
            Workload::W5 => {
                let title = "1 message outstanding on each of 200 connections";
                vec![case("", title.into(), plan(Work::Closed { outstanding: 1 }))]
            }
            Workload::W2 => {
                let at = |rate| {
                    plan(Work::Open {
                        rate,
                        spacing: Spacing::Poisson,
                    })
                };
                let mut cases: Vec<Case> = RATES
                    .iter()
                    .map(|&rate| case(&format!("-{rate}"), format!("{rate} messages a second"), at(rate)))
                    .collect();
                let confirmed = Plan {
                    confirmed: true,
                    ..at(RATE_CONFIRMED)
                };
                let title = format!(
                    "{RATE_CONFIRMED} messages a second, confirmed where the server can: latency until the report, otherwise until the delivery"
                );
                cases.push(case(&format!("-{RATE_CONFIRMED}-confirmed"), title, confirmed));
                cases
            }
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
        formatter.write_str(self.to_possible_value().expect("every workload has a name").get_name())
    }
}

/// Messages a second.
const RATES: [f64; 3] = [20_000.0, 50_000.0, 100_000.0];
/// Messages a second that ask for a report.
const RATE_CONFIRMED: f64 = 20_000.0;
/// Connections; the generator has as many descriptors, and a limit of 20,000 is common.
const IDLE: [usize; 2] = [10_000, 18_000];
/// Bytes.
const PAYLOADS: [usize; 6] = [16, 64, 256, 1024, 4096, 16_384];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_case_has_a_file_of_its_own() {
        let cases = Workload::value_variants()
            .iter()
            .flat_map(|workload| workload.cases(Duration::from_secs(1), 0, 1));
        let files: Vec<String> = cases.map(|case| case.file).collect();
        let different: HashSet<&String> = files.iter().collect();
        assert_eq!(different.len(), files.len());
    }
}
