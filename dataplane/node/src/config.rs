//! A node's settings: a TOML file, every setting with a default that keeps to this machine.
//!
//! Every error is one line that names the file, the line, the setting, and what to do. Unknown settings are errors: a misspelt one would
//! be a default in disguise.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use trunkline_core::admission::{AddressLimits, Rate};
use trunkline_core::constants::AFFINITY_LISTS_MAX;
pub use trunkline_core::link::DIRECT_LINKS_MAX;
pub use trunkline_core::predictor::Mode;
use trunkline_net::backend::Backend;
use trunkline_wire::control::{REGIONS_PER_NODE_MAX, Roles};
use trunkline_wire::map::NAME_BYTES_MAX;
use trunkline_wire::preface::Versions;

use crate::door::AdmissionLimits;

mod tuning;

pub use self::tuning::{Memory, TuningSection};

/// Where devices connect, unless told otherwise.
pub const DEVICE_PORT: u16 = 7400;
/// Where nodes connect.
pub const PEER_PORT: u16 = 7401;
/// Where the control plane listens.
pub const CONTROL_PORT: u16 = 7402;
/// Where metrics, health and explanations are.
pub const HTTP_PORT: u16 = 7480;

/// All settings of a node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who it is and what it does.
    pub node: NodeSection,
    /// Where it listens.
    pub listen: ListenSection,
    /// What the others are told instead, if they reach it elsewhere.
    pub advertise: AdvertiseSection,
    /// How much it takes.
    pub limits: LimitsSection,
    /// How its threads wait, and what its sockets are set to.
    pub tuning: TuningSection,
    /// How it sends its devices elsewhere.
    pub drain: DrainSection,
    /// How it lets devices in.
    pub admission: AdmissionSection,
}

/// Who a node is and what it does.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// For people; unique in the cluster. Empty: the control plane makes one.
    pub name: String,
    /// Any of "connection", "messaging", "region".
    #[serde(deserialize_with = "roles")]
    pub roles: Roles,
    /// The names of the regions that it serves, with the role "region".
    pub regions: Vec<String>,
    /// Where it keeps its id, its count of starts, and the last map.
    pub data_dir: PathBuf,
    /// The control plane's addresses, tried in turn.
    pub control: Vec<String>,
    /// The processors to run on, one thread each, such as "0-3,8". Without it: all that the process may use.
    pub cores: Option<CoreList>,
    /// How its threads reach the kernel: "auto", "uring" or "epoll".
    #[serde(deserialize_with = "backend")]
    pub backend: Backend,
    /// Whether it foresees whom its devices write to next, and makes the way ready: "on" or "off". Off, it dials no link for messages; those that
    /// others dial are used.
    #[serde(deserialize_with = "predictor")]
    pub predictor: Mode,
    /// The file with the cluster secret; `secret` in the data directory by default.
    pub secret_file: Option<PathBuf>,
    /// The file with the key of device tokens. With it, devices must show one.
    pub token_key_file: Option<PathBuf>,
    /// Take a map from another control plane's store than the one on disk: after a restore, once.
    pub accept_lineage: bool,
    /// The protocol versions that it speaks: no setting, but an argument of tests in which two versions meet.
    #[serde(skip)]
    pub versions: Versions,
}

impl Default for NodeSection {
    fn default() -> NodeSection {
        NodeSection {
            name: String::new(),
            roles: Roles {
                connection: true,
                messaging: true,
                region: false,
            },
            regions: Vec::new(),
            data_dir: PathBuf::from("trunkline-data"),
            control: vec![local(CONTROL_PORT).to_string()],
            cores: None,
            backend: Backend::Auto,
            predictor: Mode::On,
            secret_file: None,
            token_key_file: None,
            accept_lineage: false,
            versions: Versions::BUILD,
        }
    }
}

/// Where a node listens.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// For devices.
    pub device: SocketAddr,
    /// For nodes.
    pub peer: SocketAddr,
    /// For metrics, health and explanations.
    pub http: SocketAddr,
}

impl Default for ListenSection {
    fn default() -> ListenSection {
        ListenSection {
            device: local(DEVICE_PORT),
            peer: local(PEER_PORT),
            http: local(HTTP_PORT),
        }
    }
}

/// What the others are told instead of where a node listens.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AdvertiseSection {
    /// For devices.
    pub device: Option<SocketAddr>,
    /// For nodes.
    pub peer: Option<SocketAddr>,
    /// For metrics.
    pub http: Option<SocketAddr>,
}

/// How much a node takes.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    /// Sockets at once, per thread.
    pub sockets_max: u32,
    /// Links to other nodes beyond the required ones.
    pub direct_links_max: u32,
    /// As an instance of regions: of how many devices it remembers whom they have to do with.
    pub affinity_lists_max: usize,
    /// How long a first start waits for the control plane, in seconds.
    pub join_timeout_s: u32,
}

impl Default for LimitsSection {
    fn default() -> LimitsSection {
        LimitsSection {
            sockets_max: 65_536,
            direct_links_max: DIRECT_LINKS_MAX,
            affinity_lists_max: AFFINITY_LISTS_MAX,
            join_timeout_s: 30,
        }
    }
}

/// How a node sends its devices elsewhere: when it is told to end, or an operator asks.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSection {
    /// Devices a second, of the whole node.
    pub rate: u32,
    /// When it is told to end it is gone within this time, in seconds; if need be faster than at `rate`.
    pub seconds_max: u32,
    /// What devices are told to wait before they connect again, in milliseconds. They prefer another server.
    pub retry_after_ms: u32,
}

impl Default for DrainSection {
    fn default() -> DrainSection {
        DrainSection {
            rate: 1_000,
            seconds_max: 10,
            retry_after_ms: 0,
        }
    }
}

/// How a node lets devices in. Connections from this host are exempt, unless it says otherwise.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionSection {
    /// Devices a second, of the whole node; 0: as many as come.
    pub rate: u32,
    /// How long after a start it takes to get to `rate`, from a tenth of it, in seconds.
    pub ramp_s: u32,
    /// Connections that one address may have; 0: as many as it likes.
    pub connections_per_address: u32,
    /// New ones a second; 0: as many as it likes.
    pub connects_per_address: u32,
    /// Whether all this holds for connections from this host as well.
    pub loopback: bool,
}

impl Default for AdmissionSection {
    fn default() -> AdmissionSection {
        AdmissionSection {
            rate: 5_000,
            ramp_s: 10,
            connections_per_address: 10_000,
            connects_per_address: 1_000,
            loopback: false,
        }
    }
}

impl AdmissionSection {
    /// For a node with `shards` threads.
    pub fn limits(&self, shards: u16) -> AdmissionLimits {
        AdmissionLimits {
            rate: Rate {
                devices_a_second: self.rate.div_ceil(shards.max(1).into()),
                ramp: Duration::from_secs(self.ramp_s.into()),
            },
            addresses: AddressLimits {
                connections_max: self.connections_per_address,
                connects_a_second: self.connects_per_address,
            },
            loopback: self.loopback,
        }
    }
}

/// Processors by number, ascending, none twice, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

impl CoreList {
    /// The processors.
    pub fn cores(&self) -> &[usize] {
        &self.0
    }

    /// All that this process may use.
    ///
    /// # Errors
    /// What the system said.
    pub fn allowed() -> std::io::Result<CoreList> {
        let set = sched_getaffinity(Pid::from_raw(0))?;
        let cores = (0..CpuSet::count()).filter(|&core| set.is_set(core).unwrap_or(false));
        Ok(CoreList(cores.collect()))
    }
}

impl std::str::FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<CoreList, String> {
        let wrong = || format!("`{text}` is not a list of processors: write it as \"0-3,8\"");
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|core| *core < CpuSet::count());
        let mut cores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first).ok_or_else(wrong)?, number(last).ok_or_else(wrong)?);
            if first > last {
                return Err(wrong());
            }
            cores.extend(first..=last);
        }
        cores.sort_unstable();
        let before = cores.len();
        cores.dedup();
        if cores.len() != before {
            return Err(format!("`{text}` names a processor twice"));
        }
        Ok(CoreList(cores))
    }
}

impl<'de> Deserialize<'de> for CoreList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CoreList, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A setting that can't be, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{name}: the configuration can't be read: {error}")))?;
        Config::parse(&text, &name.to_string())
    }

    /// Reads and checks `text`; `name` is what its errors call it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, name: &str) -> Result<Config, ConfigError> {
        let config: Config = toml::from_str(text).map_err(|error| located(text, name, &error))?;
        config
            .check()
            .map_err(|wrong| ConfigError(format!("{name}: {wrong}")))?;
        Ok(config)
    }

    /// Checks what goes together: roles and regions, processors and machine.
    ///
    /// # Errors
    /// The first thing that is wrong; it names the setting.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError(text));
        let NodeSection { roles, regions, .. } = &self.node;
        if roles.region && regions.is_empty() {
            return refuse("`node.regions`: the role \"region\" needs the names of the regions to serve".into());
        }
        if !roles.region && !regions.is_empty() {
            return refuse("`node.regions`: regions are served only with \"region\" in `node.roles`".into());
        }
        if regions.len() > REGIONS_PER_NODE_MAX {
            return refuse(format!("`node.regions`: at most {REGIONS_PER_NODE_MAX} names"));
        }
        for (setting, name) in regions
            .iter()
            .map(|name| ("node.regions", name))
            .chain([("node.name", &self.node.name)])
        {
            let empty = name.is_empty() && setting == "node.regions";
            if empty || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                return refuse(format!(
                    "`{setting}`: a name has 1 to {NAME_BYTES_MAX} bytes and no control characters"
                ));
            }
        }
        if self.node.control.is_empty() {
            return refuse("`node.control`: at least one address of the control plane, as \"host:port\"".into());
        }
        for address in &self.node.control {
            if address
                .rsplit_once(':')
                .is_none_or(|(host, port)| host.is_empty() || port.parse::<u16>().is_err())
            {
                return refuse(format!("`node.control`: `{address}` is not \"host:port\""));
            }
        }
        if self.limits.sockets_max < SOCKETS_MIN {
            return refuse(format!("`limits.sockets_max`: at least {SOCKETS_MIN}"));
        }
        if self.drain.rate == 0 {
            return refuse("`drain.rate`: at least 1 device a second".into());
        }
        if self.drain.seconds_max < DRAIN_SECONDS_MIN {
            return refuse(format!("`drain.seconds_max`: at least {DRAIN_SECONDS_MIN}"));
        }
        self.tuning.check().map_err(ConfigError)?;
        self.check_addresses()?;
        self.check_cores()
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let Config { listen, advertise, .. } = self;
        for (setting, listens, told) in [
            ("device", listen.device, advertise.device),
            ("peer", listen.peer, advertise.peer),
        ] {
            let address = told.unwrap_or(listens);
            if address.ip().is_unspecified() || told.is_some_and(|told| told.port() == 0) {
                return Err(ConfigError(format!(
                    "`advertise.{setting}`: nobody can dial {address}; name the address under which others reach this node"
                )));
            }
        }
        Ok(())
    }

    fn check_cores(&self) -> Result<(), ConfigError> {
        let Some(cores) = &self.node.cores else { return Ok(()) };
        let allowed = CoreList::allowed().map_err(|error| ConfigError(format!("`node.cores`: {error}")))?;
        match cores.0.iter().find(|core| !allowed.0.contains(core)) {
            None => Ok(()),
            Some(core) => Err(ConfigError(format!(
                "`node.cores`: processor {core} is not among those that this process may use ({})",
                ranges(&allowed.0)
            ))),
        }
    }
}

/// A list of processors as the setting `cores` takes it: "0-3,8". They are ascending.
pub fn ranges(cores: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => parts.push((core, core)),
        }
    }
    let parts = parts.iter().map(|&(first, last)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    });
    parts.collect::<Vec<_>>().join(",")
}

fn roles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Roles, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    roles_of(names.iter().map(String::as_str)).map_err(D::Error::custom)
}

fn backend<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Backend, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

fn predictor<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// Reads roles as a flag has them: names with commas between.
///
/// # Errors
/// The first name that is no role.
pub fn parse_roles(text: &str) -> Result<Roles, String> {
    roles_of(text.split(',').map(str::trim))
}

fn roles_of<'n>(names: impl Iterator<Item = &'n str>) -> Result<Roles, String> {
    let mut roles = Roles {
        connection: false,
        messaging: false,
        region: false,
    };
    for name in names {
        match name {
            // A connection server takes messages in too.
            "connection" => (roles.connection, roles.messaging) = (true, true),
            "messaging" => roles.messaging = true,
            "region" => roles.region = true,
            other => {
                return Err(format!(
                    "unknown role `{other}`: choose among \"connection\", \"messaging\", \"region\""
                ));
            }
        }
    }
    if !(roles.connection || roles.messaging || roles.region) {
        return Err("at least one role is needed: \"connection\", \"messaging\", \"region\"".into());
    }
    Ok(roles)
}

/// An error of the TOML reader as one line: file, line, setting, reason.
fn located(text: &str, name: &str, error: &toml::de::Error) -> ConfigError {
    let reason = error.message().lines().collect::<Vec<_>>().join("; ");
    let Some(span) = error.span() else {
        return ConfigError(format!("{name}: {reason}"));
    };
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let content = text.lines().nth(line - 1).unwrap_or("");
    let section = before.lines().rev().map(str::trim).find(|line| line.starts_with('['));
    let setting = content.split_once('=').map(|(key, _)| key.trim());
    let setting = match (section, setting) {
        (Some(section), Some(key)) => format!("`{}.{key}`: ", section.trim_matches(['[', ']'])),
        (None, Some(key)) => format!("`{key}`: "),
        (_, None) => String::new(),
    };
    ConfigError(format!("{name}:{line}: {setting}{reason}"))
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port)
}

/// Last words and the close of links take this long.
pub const DRAIN_SECONDS_MIN: u32 = 4;
/// Below this a node couldn't even hold its links.
const SOCKETS_MIN: u32 = 1024;

#[cfg(test)]
mod tests {
    use trunkline_net::tuning::Tuning;

    use super::*;

    fn wrong(text: &str) -> String {
        let error = Config::parse(text, "node.toml").unwrap_err().to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    }

    #[test]
    fn an_empty_file_keeps_to_this_machine() {
        let config = Config::parse("", "node.toml").unwrap();
        assert_eq!(config, Config::default());
        for address in [config.listen.device, config.listen.peer, config.listen.http] {
            assert!(address.ip().is_loopback());
        }
        assert_eq!(config.node.control, ["127.0.0.1:7402"]);
    }

    #[test]
    fn every_setting_is_read() {
        let text = r#"
            [node]
            name = "east-1"
            roles = ["connection", "region"]
            regions = ["east"]
            data_dir = "/var/lib/trunkline"
            control = ["control.example:7402", "10.0.0.2:7402"]
            cores = "0"
            backend = "epoll"
            predictor = "off"
            secret_file = "/etc/trunkline/secret"
            token_key_file = "/etc/trunkline/token-key"
            accept_lineage = true
            [listen]
            device = "0.0.0.0:7400"
            peer = "0.0.0.0:7401"
            http = "127.0.0.1:7480"
            [advertise]
            device = "192.0.2.1:7400"
            peer = "10.0.0.1:7401"
            [limits]
            sockets_max = 10000
            direct_links_max = 8
            affinity_lists_max = 1000
            join_timeout_s = 5
            [tuning]
            spin_us = 50
            busy_poll_us = 20
            nodelay = false
            incoming_cpu = true
            memory = "inherited"
            send_buffer_bytes = 65536
            receive_buffer_bytes = 131072
            device_buffers = 1024
            device_buffer_bytes = 4096
            [drain]
            rate = 50
            seconds_max = 120
            retry_after_ms = 1000
            [admission]
            rate = 100
            ramp_s = 0
            connections_per_address = 50
            connects_per_address = 5
            loopback = true
        "#;
        let config = Config::parse(text, "node.toml").unwrap();
        assert!(config.node.roles.connection && config.node.roles.messaging && config.node.roles.region);
        assert_eq!(config.node.cores.unwrap().cores(), [0]);
        assert_eq!(
            (config.node.backend, config.node.predictor),
            (Backend::Epoll, Mode::Off)
        );
        assert_eq!(config.advertise.peer, Some("10.0.0.1:7401".parse().unwrap()));
        assert_eq!(config.limits.direct_links_max, 8);
        assert_eq!(config.limits.affinity_lists_max, 1_000);
        let options = config.tuning.options(&config.limits, Some(3));
        assert_eq!(
            options.tuning,
            Tuning {
                spin: Duration::from_micros(50),
                busy_poll: Duration::from_micros(20),
                nodelay: false,
                incoming_cpu: Some(3),
            }
        );
        assert_eq!(
            (options.send_buffer_bytes, options.receive_buffer_bytes),
            (Some(65_536), Some(131_072))
        );
        assert_eq!((options.device_buffers, options.device_buffer_bytes), (1024, 4096));
        assert_eq!(config.tuning.memory, Memory::Inherited);
        assert_eq!((config.drain.rate, config.drain.seconds_max), (50, 120));
        let limits = config.admission.limits(4);
        assert_eq!(
            (limits.rate.devices_a_second, limits.addresses.connections_max),
            (25, 50)
        );
        assert!(limits.loopback);
    }

    #[test]
    fn errors_name_file_line_and_setting() {
        let error = wrong("[node]\nname = \"a\"\nrols = [\"region\"]\n");
        assert!(
            error.starts_with("node.toml:3: `node.rols`: unknown field `rols`"),
            "{error}"
        );
        let error = wrong("[listen]\ndevice = \"here\"\n");
        assert!(
            error.starts_with("node.toml:2: `listen.device`: invalid socket address"),
            "{error}"
        );
        let error = wrong("[node]\npredictor = \"maybe\"\n");
        assert!(
            error.starts_with("node.toml:2: `node.predictor`: the predictor can't be `maybe`: choose on or off"),
            "{error}"
        );
        let error = wrong("[node]\nroles = [\"router\"]\n");
        assert!(
            error.starts_with("node.toml:2: `node.roles`: unknown role `router`: choose"),
            "{error}"
        );
        let error = wrong("[node]\nroles = []\n");
        assert!(error.contains("at least one role"), "{error}");
        let error = wrong("[node]\nbackend = \"kqueue\"\n");
        assert!(
            error.starts_with("node.toml:2: `node.backend`: `kqueue` is no back end: choose among"),
            "{error}"
        );
        let error = wrong("[node]\ncores = \"3-1\"\n");
        assert!(
            error.starts_with("node.toml:2: `node.cores`: `3-1` is not a list of processors"),
            "{error}"
        );
        let error = wrong("[node\n");
        assert!(error.starts_with("node.toml:1: "), "{error}");
    }

    #[test]
    fn what_does_not_go_together_is_named() {
        assert!(wrong("[node]\nroles = [\"region\"]\n").contains("`node.regions`: the role \"region\" needs"));
        assert!(wrong("[node]\nregions = [\"a\"]\n").contains("`node.regions`: regions are served only with"));
        assert!(wrong("[node]\ncontrol = [\"nowhere\"]\n").contains("`node.control`: `nowhere` is not \"host:port\""));
        assert!(wrong("[node]\ncontrol = []\n").contains("`node.control`: at least one"));
        assert!(wrong("[listen]\npeer = \"0.0.0.0:1\"\n").contains("`advertise.peer`: nobody can dial 0.0.0.0:1"));
        assert!(wrong("[limits]\nsockets_max = 1\n").contains("`limits.sockets_max`"));
        assert!(wrong("[tuning]\nspin_us = 10001\n").contains("`tuning.spin_us`: at most 10000"));
        assert!(wrong("[tuning]\nbusy_poll_us = 10001\n").contains("`tuning.busy_poll_us`: at most 10000"));
        assert!(wrong("[tuning]\ndevice_buffers = 1\n").contains("`tuning.device_buffers`: 64 to 32768"));
        assert!(wrong("[tuning]\ndevice_buffer_bytes = 1\n").contains("`tuning.device_buffer_bytes`: 256 to 65536"));
        assert!(wrong("[tuning]\nmemory = \"far\"\n").contains("`tuning.memory`: unknown variant `far`"));
        assert!(wrong("[tuning]\nsend_buffer_bytes = 1\n").contains("`tuning.send_buffer_bytes`: at least 4096"));
        assert!(wrong("[drain]\nrate = 0\n").contains("`drain.rate`: at least 1"));
        assert!(wrong("[drain]\nseconds_max = 1\n").contains("`drain.seconds_max`"));
        let error = wrong("[node]\ncores = \"1000\"\n");
        assert!(
            error.contains("`node.cores`: processor 1000 is not among those that this process may use ("),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Config::read(Path::new("/nowhere/node.toml")).unwrap_err().to_string();
        assert!(
            error.starts_with("/nowhere/node.toml: the configuration can't be read"),
            "{error}"
        );
    }

    #[test]
    fn lists_of_processors() {
        let list = |text: &str| text.parse::<CoreList>();
        assert_eq!(list("0-3,8").unwrap().cores(), [0, 1, 2, 3, 8]);
        assert_eq!(list("5").unwrap().cores(), [5]);
        for bad in ["", "a", "1-", "-1", "1,,2", "0-9999999"] {
            assert!(list(bad).is_err(), "{bad}");
        }
        assert!(list("1,1").unwrap_err().contains("twice"));
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0-2,5,7-8");
    }
}
