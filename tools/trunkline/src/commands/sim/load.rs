//! How large a simulated cluster is, and how much happens in it, where that is not left to the seed.

use anyhow::bail;
use trunkline_sim::swarm::{Load, Rate};

/// See the module's text. `--devices` is beside it: without any of these it is the size of a run.
#[derive(clap::Args)]
// Its struct has the name of the one that it is flattened into, and so would its group.
#[group(skip)]
pub(super) struct Args {
    /// Devices of each cluster, at least; unless said, a third of --devices.
    #[arg(long, value_name = "N", conflicts_with = "propagation", value_parser = clap::value_parser!(u32).range(2..=2_000))]
    devices_min: Option<u32>,
    /// Connection servers of each cluster; unless said, each seed draws 2 to 4. With --propagation, of several numbers each has its
    /// lines in the report; unless said, 16 to 1,024.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(2..=1_024))]
    servers: Vec<u16>,
    /// Messages of each device, on average, those of bursts included; what faults and greetings make devices send comes on top. Unless
    /// said, a message or a burst a second.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "propagation", value_parser = rate)]
    message_rate: Option<Rate>,
    /// Faults of each cluster, on average; unless said, each seed draws how many.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "propagation", value_parser = rate)]
    fault_rate: Option<Rate>,
}

fn rate(text: &str) -> Result<Rate, String> {
    let rate = text.parse().ok().and_then(Rate::new);
    rate.ok_or_else(|| format!("use a number from {} to {}", Rate::MIN, Rate::MAX))
}

impl Args {
    /// # Errors
    /// If no cluster could be like that.
    pub(super) fn check(&self, devices: u32) -> anyhow::Result<()> {
        if let Some(least) = self.devices_min.filter(|least| *least > devices) {
            bail!("--devices-min {least} is more than --devices {devices}");
        }
        match self.servers[..] {
            [servers] if servers > SERVERS_MAX => bail!("--servers {servers}: a cluster has at most {SERVERS_MAX}"),
            [_, _, ..] => bail!("--servers: a cluster has one number of servers; several are for --propagation"),
            [] | [_] => Ok(()),
        }
    }

    /// As they were said.
    pub(super) fn servers(&self) -> &[u16] {
        &self.servers
    }

    pub(super) fn load(&self) -> Load {
        Load {
            servers: self.servers.first().copied().map(usize::from),
            devices_min: self.devices_min,
            messages: self.message_rate,
            faults: self.fault_rate,
        }
    }

    /// As they are said on the command line.
    pub(super) fn said(&self) -> String {
        let flags = [
            ("devices-min", self.devices_min.map(|least| least.to_string())),
            ("servers", self.servers.first().map(|servers| servers.to_string())),
            (
                "message-rate",
                self.message_rate.map(|rate| rate.a_second().to_string()),
            ),
            ("fault-rate", self.fault_rate.map(|rate| rate.a_second().to_string())),
        ];
        let said = flags
            .into_iter()
            .filter_map(|(flag, value)| Some(format!(" --{flag} {}", value?)));
        said.collect()
    }
}

/// Of a cluster that is played with all its devices and links.
const SERVERS_MAX: u16 = 64;
