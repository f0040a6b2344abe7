//! What an operator sets. Checked at start, with an error that names the setting.

use std::time::Duration;

use crate::assignment::WEIGHT_MAX;
use trunkline_wire::map::{NAME_BYTES_MAX, REGIONS_MAX};
use trunkline_wire::preface::Versions;

/// The settings of the control plane that its decisions depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The regions over which the slots are first spread, once each has an instance. Empty: those that have one when the first
    /// region's first instance has been there for [`SETTLE`].
    pub initial_regions: Vec<InitialRegion>,
    /// When a device's region is assigned, counted from its enrolment.
    pub initial_interval: Interval,
    /// Connections at once, of nodes and tools.
    pub connections_max: usize,
    /// The protocol versions that it speaks: no setting, but an argument of tests in which two versions meet.
    pub versions: Versions,
}

/// A region that is to be there before slots are assigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialRegion {
    /// Its name, 1 to 64 bytes.
    pub name: String,
    /// Its share of the slots, against the others'.
    pub weight: u32,
}

/// A span of time: not before `min`, not after `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// The earliest.
    pub min: Duration,
    /// The latest: at least [`INTERVAL_MIN`] above `min`.
    pub max: Duration,
}

/// How long the first region waits for others before the slots are spread.
pub const SETTLE: Duration = Duration::from_secs(2);
/// How long changes are gathered before they are committed and published as one version.
pub const BATCH: Duration = Duration::from_millis(50);
/// The least room between the ends of `initial_interval`: a batch, its commit, its way to the nodes.
pub const INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The latest end of `initial_interval`.
pub const INTERVAL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Nodes at their most ([`trunkline_wire::map::NODES_MAX`]), each twice while it reconnects, and some tools.
pub const CONNECTIONS_MAX_DEFAULT: usize = 2 * trunkline_wire::map::NODES_MAX + 64;

const _: () = assert!(BATCH.as_millis() < INTERVAL_MIN.as_millis());

impl Default for Config {
    fn default() -> Config {
        Config {
            initial_regions: Vec::new(),
            initial_interval: Interval {
                min: Duration::ZERO,
                max: Duration::from_secs(1),
            },
            connections_max: CONNECTIONS_MAX_DEFAULT,
            versions: Versions::BUILD,
        }
    }
}

/// A setting that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the setting `{setting}` {reason}")]
pub struct ConfigError {
    setting: &'static str,
    reason: String,
}

impl Config {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first that can't be.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |setting, reason: String| Err(ConfigError { setting, reason });
        let Interval { min, max } = self.initial_interval;
        if max < min + INTERVAL_MIN || max > INTERVAL_MAX {
            let reason = format!(
                "is {min:?} to {max:?}; its end must be at least {INTERVAL_MIN:?} after its start, and at most {INTERVAL_MAX:?}"
            );
            return refuse("initial_interval", reason);
        }
        if self.connections_max == 0 {
            return refuse("connections_max", "is 0; give it at least 1".into());
        }
        if self.initial_regions.len() > REGIONS_MAX {
            return refuse("initial_regions", format!("names more than {REGIONS_MAX} regions"));
        }
        for (index, region) in self.initial_regions.iter().enumerate() {
            if let Err(reason) = check_name(&region.name).and_then(|()| check_weight(region.weight)) {
                return refuse(
                    "initial_regions",
                    format!("has a region `{}` that {reason}", region.name),
                );
            }
            if self.initial_regions[..index]
                .iter()
                .any(|other| other.name == region.name)
            {
                return refuse("initial_regions", format!("names `{}` twice", region.name));
            }
        }
        if !self.initial_regions.is_empty() && self.initial_regions.iter().all(|region| region.weight == 0) {
            return refuse("initial_regions", "has no region with a weight above 0".into());
        }
        Ok(())
    }
}

/// Whether `name` can be a node's or a region's; else what is wrong with it.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(format!(
            "has a name that is empty, longer than {NAME_BYTES_MAX} bytes, or has control characters"
        ));
    }
    Ok(())
}

/// Whether `weight` can be a region's; else what is wrong with it.
pub(crate) fn check_weight(weight: u32) -> Result<(), String> {
    if weight > WEIGHT_MAX {
        return Err(format!("has weight {weight}, above {WEIGHT_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_fine() {
        Config::default().check().unwrap();
    }

    #[test]
    fn an_error_names_the_setting() {
        let mut config = Config::default();
        config.initial_interval.max = Duration::from_millis(10);
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .starts_with("the setting `initial_interval`")
        );
        let mut config = Config::default();
        let region = InitialRegion {
            name: "eu".into(),
            weight: 1,
        };
        config.initial_regions = vec![region.clone(), region];
        assert!(config.check().unwrap_err().to_string().contains("`eu` twice"));
    }
}
