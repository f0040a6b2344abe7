//! `trunkline node`: one process of a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_net::backend::Backend;
use trunkline_node::config::{Config, CoreList, Mode};
use trunkline_node::run::Node;
use trunkline_wire::control::Roles;
#[cfg(feature = "next-version")]
use trunkline_wire::preface::Versions;

/// Runs one node of a cluster: a connection server, a messaging server, an instance of regions, or several of these.
///
/// A flag wins over its environment variable, and that over the file.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline node --config /etc/trunkline/node.toml
  trunkline node --roles connection --control 10.0.0.1:7402 --secret-file secret --data-dir data \\
      --device-listen 10.0.0.2:7400 --peer-listen 10.0.0.2:7401
  trunkline node --roles region --regions eu,us --cores 0-3,8 ...")]
pub struct Args {
    /// A TOML file with these settings.
    #[arg(long, env = "TRUNKLINE_CONFIG")]
    config: Option<PathBuf>,
    /// For people; unique in the cluster. Otherwise control makes one.
    #[arg(long, env = "TRUNKLINE_NAME")]
    name: Option<String>,
    /// What it does: any of connection, messaging, region.
    #[arg(long, env = "TRUNKLINE_ROLES", value_parser = trunkline_node::config::parse_roles)]
    roles: Option<Roles>,
    /// The regions that it serves, with the role region.
    #[arg(long, env = "TRUNKLINE_REGIONS", value_delimiter = ',')]
    regions: Option<Vec<String>>,
    /// Where it keeps its id, its count of starts and the last map.
    #[arg(long, env = "TRUNKLINE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The control plane's addresses, tried in turn.
    #[arg(long, env = "TRUNKLINE_CONTROL", value_delimiter = ',')]
    control: Option<Vec<String>>,
    /// The processors to run on, one pinned thread each, such as 0-3,8. Otherwise all that the process may use.
    #[arg(long, env = "TRUNKLINE_CORES", value_parser = cores)]
    cores: Option<CoreList>,
    /// How its threads reach the kernel: auto, uring or epoll. With auto, uring if it passes its self-test.
    #[arg(long, env = "TRUNKLINE_BACKEND")]
    backend: Option<Backend>,
    /// Whether it foresees whom its devices write to next, and makes the way ready: on or off. Off, it dials no link for messages.
    #[arg(long, env = "TRUNKLINE_PREDICTOR", value_name = "on|off")]
    predictor: Option<Mode>,
    /// The cluster secret's file.
    #[arg(long, env = "TRUNKLINE_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// The key of device tokens. With it, devices must show one.
    #[arg(long, env = "TRUNKLINE_TOKEN_KEY_FILE")]
    token_key_file: Option<PathBuf>,
    /// Takes a map from another control plane's store than before, once.
    #[arg(long)]
    accept_lineage: bool,
    /// Where devices connect.
    #[arg(long, env = "TRUNKLINE_DEVICE_LISTEN")]
    device_listen: Option<SocketAddr>,
    /// Where nodes connect.
    #[arg(long, env = "TRUNKLINE_PEER_LISTEN")]
    peer_listen: Option<SocketAddr>,
    /// Where metrics, health and explanations are.
    #[arg(long, env = "TRUNKLINE_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// How many links to other nodes it keeps beyond those that it can't do without, dialled and accepted ones together; with 0,
    /// none.
    #[arg(long, env = "TRUNKLINE_DIRECT_LINKS_MAX")]
    direct_links_max: Option<u32>,
    /// As an instance of regions: of how many devices it remembers whom they write to and hear from, at 200 bytes each.
    #[arg(long, env = "TRUNKLINE_AFFINITY_LISTS_MAX")]
    affinity_lists_max: Option<usize>,
    /// What devices are told, if they reach it elsewhere.
    #[arg(long)]
    device_advertise: Option<SocketAddr>,
    /// What nodes are told, if they reach it elsewhere.
    #[arg(long)]
    peer_advertise: Option<SocketAddr>,
    #[command(flatten)]
    tuning: super::tuning::Flags,
    /// Speaks no protocol version above this one.
    #[cfg(feature = "next-version")]
    #[arg(long, hide = true, value_parser = super::versions)]
    protocol_max: Option<Versions>,
    /// Prints one JSON object when it is ready.
    #[arg(long)]
    json: bool,
    /// Ends when standard input is closed, for programs that start it.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

fn cores(text: &str) -> Result<CoreList, String> {
    text.parse()
}

impl Args {
    /// The file's settings with the flags over them.
    fn settings(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        fn set<T: Clone>(setting: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *setting = value.clone();
            }
        }
        fn set_some<T: Clone>(setting: &mut Option<T>, flag: &Option<T>) {
            if flag.is_some() {
                *setting = flag.clone();
            }
        }
        let node = &mut config.node;
        set(&mut node.name, &self.name);
        set(&mut node.roles, &self.roles);
        set(&mut node.regions, &self.regions);
        set(&mut node.data_dir, &self.data_dir);
        set(&mut node.control, &self.control);
        set_some(&mut node.cores, &self.cores);
        set(&mut node.backend, &self.backend);
        set(&mut node.predictor, &self.predictor);
        set_some(&mut node.secret_file, &self.secret_file);
        set_some(&mut node.token_key_file, &self.token_key_file);
        node.accept_lineage |= self.accept_lineage;
        set(&mut config.listen.device, &self.device_listen);
        set(&mut config.listen.peer, &self.peer_listen);
        set(&mut config.listen.http, &self.http_listen);
        set(&mut config.limits.direct_links_max, &self.direct_links_max);
        #[cfg(feature = "next-version")]
        set(&mut config.node.versions, &self.protocol_max);
        set(&mut config.limits.affinity_lists_max, &self.affinity_lists_max);
        set_some(&mut config.advertise.device, &self.device_advertise);
        set_some(&mut config.advertise.peer, &self.peer_advertise);
        self.tuning.over(&mut config.tuning);
        config.check()?;
        Ok(config)
    }
}

/// Runs the node until it is told to end.
///
/// # Errors
/// One line that names the setting.
pub fn run(args: Args) -> anyhow::Result<()> {
    let node = Node::start(args.settings()?)?;
    if args.json {
        println!("{}", ready(&node));
    } else {
        println!("{}", listening(&node));
    }
    crate::signals::wait(args.end_with_stdin)?;
    node.shutdown(Duration::ZERO);
    Ok(())
}

/// Where a node listens, for programs.
pub fn ready(node: &Node) -> Value {
    let text = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    json!({
        "event": "ready",
        "node": node.id().0,
        "device": text(node.device_address()),
        "peer": text(node.peer_address()),
        "http": node.http_address().to_string(),
    })
}

/// Where a node listens, for people.
pub fn listening(node: &Node) -> String {
    let mut text = format!("node {} listens", node.id());
    let ports = [
        ("devices", node.device_address()),
        ("nodes", node.peer_address()),
        ("http", Some(node.http_address())),
    ];
    for (what, address) in ports.into_iter().filter_map(|(what, address)| Some((what, address?))) {
        text += &format!(", {what} {address}");
    }
    text
}
