//! Where a trace is played: servers that run already, or a cluster of its own on this host: control, one region with two instances, and
//! so many connection servers of one thread each, with ways between them as long as one likes.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use trunkline_net::backend::Backend;
use trunkline_node::config::{CoreList, Mode};

use crate::detour::{Detours, Length};
use crate::processes::Process;

/// What is started.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many connection servers.
    pub servers: usize,
    /// Links that each keeps beyond those to the instances.
    pub budget: usize,
    /// Whether they foresee messages.
    pub predictor: Mode,
    /// How their threads reach the kernel.
    pub backend: Backend,
    /// How long a link takes to open.
    pub open: Duration,
    /// How long every byte takes from one connection server to another.
    pub way: Duration,
    /// And how much longer to or from an instance.
    pub way_to_region: Duration,
}

/// The servers that a trace is played through. Those that were started end with this.
pub struct Ground {
    /// Their device ports.
    pub devices: Vec<SocketAddr>,
    /// Their HTTP ports, as far as they are known.
    pub http: Vec<SocketAddr>,
    own: Option<Own>,
}

struct Own {
    /// In the order in which they end: connection servers, then instances, then control.
    processes: Vec<Process>,
    _detours: Detours,
    _directory: tempfile::TempDir,
}

impl Ground {
    /// Servers that run already.
    pub fn running(devices: Vec<SocketAddr>, http: Vec<SocketAddr>) -> Ground {
        Ground {
            devices,
            http,
            own: None,
        }
    }

    /// Starts a cluster, and waits until it's ready.
    ///
    /// # Errors
    /// The first process that doesn't start: with the last line of its log.
    pub fn start(plan: &Plan) -> anyhow::Result<Ground> {
        let directory = tempfile::tempdir().context("a temporary directory")?;
        let path = directory.path();
        trunkline_node::identity::read_or_make_secret(path)?;
        let secret = path.join("secret").display().to_string();
        let detours = Detours::new().context("the ways between the processes")?;
        let cores = CoreList::allowed().context("the processors of this process")?;
        let start = |name: &str, command: &str, more: &[(&str, &str)]| {
            let data = path.join(name).display().to_string();
            let common = [
                ("--data-dir", &data[..]),
                ("--secret-file", &secret),
                ("--http-listen", ANY_PORT),
            ];
            let flags = common.iter().chain(more);
            let flags = flags.flat_map(|(flag, value)| [flag.to_string(), value.to_string()]);
            let arguments = [command.to_owned()].into_iter().chain(flags);
            Process::start(name, arguments.collect(), path, None)
        };
        let control = start(
            "control",
            "control",
            &[("--listen", ANY_PORT), ("--initial-regions", REGION)],
        )?;
        let address = control.address("control")?.to_string();
        let [backend, budget, predictor] = [
            plan.backend.to_string(),
            plan.budget.to_string(),
            plan.predictor.to_string(),
        ];
        let mut processes = Vec::new();
        for at in 0..INSTANCES + plan.servers {
            let (name, way, role) = match at.checked_sub(INSTANCES) {
                None => (format!("{REGION}-{}", at + 1), plan.way + plan.way_to_region, "region"),
                Some(edge) => (format!("edge-{}", edge + 1), plan.way, "connection"),
            };
            let length = Length { open: plan.open, way };
            let detour = detours.open(length).context("a port for the way to a node")?;
            let advertised = detour.address().to_string();
            let core = cores.cores()[at % cores.cores().len()].to_string();
            let mut flags = vec![
                ("--name", &name[..]),
                ("--control", &address),
                ("--backend", &backend),
                ("--cores", &core),
                ("--roles", role),
                ("--peer-listen", ANY_PORT),
                ("--peer-advertise", &advertised),
                ("--predictor", &predictor),
                ("--direct-links-max", &budget),
            ];
            match role {
                "region" => flags.push(("--regions", REGION)),
                _ => flags.push(("--device-listen", ANY_PORT)),
            }
            let process = start(&name, "node", &flags)?;
            detour.lead_to(process.address("peer")?);
            processes.push(process);
        }
        for process in &processes {
            process.wait_ready()?;
        }
        let edges = &processes[INSTANCES..];
        let ports = |port| edges.iter().map(move |edge| edge.address(port)).collect();
        let (devices, http): (anyhow::Result<_>, anyhow::Result<_>) = (ports("device"), ports("http"));
        let (devices, http) = (devices?, http?);
        processes.reverse();
        processes.push(control);
        Ok(Ground {
            devices,
            http,
            own: Some(Own {
                processes,
                _detours: detours,
                _directory: directory,
            }),
        })
    }

    /// Ends what was started.
    ///
    /// # Errors
    /// If a process doesn't end, or fails.
    pub fn end(self) -> anyhow::Result<()> {
        let Some(mut own) = self.own else {
            return Ok(());
        };
        // Nobody waits for a drain: there are no devices left.
        own.processes.iter_mut().try_for_each(Process::end)
    }

    /// What the servers have counted under a name so far, together; nothing if their HTTP ports aren't known.
    ///
    /// # Errors
    /// If one of them doesn't answer.
    pub fn counts(&self, names: &[&str]) -> anyhow::Result<Option<Vec<u64>>> {
        if self.http.is_empty() {
            return Ok(None);
        }
        let mut sums = vec![0; names.len()];
        for &http in &self.http {
            let (_, text) = crate::http::text(http, "/metrics", &[])?;
            for (sum, name) in sums.iter_mut().zip(names) {
                *sum += counted(&text, &format!("trunkline_{name}_total"));
            }
        }
        Ok(Some(sums))
    }
}

/// The sum of a counter over its shards.
fn counted(metrics: &str, name: &str) -> u64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with('{') || rest.starts_with(' ');
        is_it.then(|| rest.rsplit(' ').next()?.parse::<u64>().ok())?
    });
    values.sum()
}

const REGION: &str = "region";
const INSTANCES: usize = 2;
const ANY_PORT: &str = "127.0.0.1:0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_summed_over_its_shards_and_not_taken_for_another() {
        let text = "# HELP trunkline_links Links\ntrunkline_links_total{shard=\"0\"} 3\ntrunkline_links_total{shard=\"1\"} 4\n\
                    trunkline_links_total_more{shard=\"0\"} 9\n";
        assert_eq!(counted(text, "trunkline_links_total"), 7);
        assert_eq!(counted(text, "trunkline_nothing_total"), 0);
    }
}
