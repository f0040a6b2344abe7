//! One file a subcommand: its flags, and what it does with them.

pub mod chaos;
pub mod control;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod listen;
pub mod load;
pub mod moves;
pub mod node;
pub mod replay;
pub mod send;
pub mod sim;
pub mod status;
pub mod token;
pub mod top;
pub mod tune;
pub mod tuning;
pub mod up;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use trunkline_client::DeviceId;
use trunkline_wire::auth::{DeviceToken, Secret};
#[cfg(feature = "next-version")]
use trunkline_wire::preface::Versions;

/// Where devices connect, unless told otherwise.
pub const DEVICE_ADDRESS: &str = "127.0.0.1:7400";
/// Where the control plane listens, unless told otherwise.
pub const CONTROL_ADDRESS: &str = "127.0.0.1:7402";
/// Where a node's metrics, health and `explain` are, unless told otherwise.
pub const HTTP_ADDRESS: &str = "127.0.0.1:7480";

/// When devices may come back to a server that is shutting down: time enough to start it again.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);
/// How long everything in one process may take until messages flow.
pub const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// Reads a secret file.
///
/// # Errors
/// If it can't be read, or is too short; the line names the setting.
pub fn secret(setting: &str, path: &Path) -> anyhow::Result<Secret> {
    let bytes = std::fs::read(path).with_context(|| format!("{setting} {}: cannot be read", path.display()))?;
    Secret::new(&bytes).with_context(|| format!("{setting} {}", path.display()))
}

/// Where `up` keeps its state, unless told otherwise: `$XDG_STATE_HOME/trunkline`, or `~/.local/state/trunkline`.
///
/// # Errors
/// If neither is known.
pub fn state_dir() -> anyhow::Result<PathBuf> {
    let of = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let Some(base) = of("XDG_STATE_HOME").or_else(|| of("HOME").map(|home| home.join(".local/state"))) else {
        bail!("neither XDG_STATE_HOME nor HOME is set: name a directory with --data-dir");
    };
    Ok(base.join("trunkline"))
}

/// The cluster secret's file, unless told otherwise: the one that `up` made.
///
/// # Errors
/// If it can't be told where that would be.
pub fn secret_file(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    match given {
        Some(path) => Ok(path.to_owned()),
        None => Ok(state_dir()?.join("secret")),
    }
}

/// How a device gets in; shared by `send` and `listen`.
#[derive(clap::Args)]
pub struct Door {
    /// A connection or messaging server's device port; name several to have a choice.
    #[arg(long = "server", env = "TRUNKLINE_SERVER", value_delimiter = ',', default_value = DEVICE_ADDRESS)]
    pub servers: Vec<SocketAddr>,
    /// The device's token, as `trunkline token` prints it, where the servers ask for one.
    #[arg(long, env = "TRUNKLINE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

impl Door {
    /// The library's options for `device`.
    ///
    /// # Errors
    /// A token that is none.
    pub fn options(&self, device: &DeviceId) -> anyhow::Result<trunkline_client::Options> {
        let mut options = trunkline_client::Options::new(self.servers.clone(), device.clone());
        if let Some(token) = &self.token {
            let token: DeviceToken = token.trim().parse().map_err(|_| {
                anyhow::anyhow!(
                    "--token: not a token; make one with: trunkline token --device {device} --key-file FILE"
                )
            })?;
            options.token = token.bytes().to_vec();
        }
        Ok(options)
    }
}

/// A duration such as `90s`, `10m`, `2h`, `7d` or `250ms`.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "use a number and a unit, such as 90s, 10m, 2h or 7d".to_owned())?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is no unit: use ms, s, m, h or d")),
    };
    number
        .checked_mul(ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "too long".to_owned())
}

/// The highest protocol version that a process is to speak.
///
/// # Errors
/// If this build doesn't speak it.
#[cfg(feature = "next-version")]
pub fn versions(text: &str) -> Result<Versions, String> {
    let spoken = Versions::BUILD;
    let versions = text.parse().ok().and_then(Versions::up_to);
    versions.ok_or_else(|| format!("this build speaks the protocol versions {spoken}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn a_duration_is_a_number_and_a_unit() {
        assert_eq!(super::duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(super::duration("2h"), Ok(Duration::from_secs(7_200)));
        for wrong in ["", "5", "s", "5w", "-1s", "99999999999999999d"] {
            assert!(super::duration(wrong).is_err(), "{wrong}");
        }
    }
}
