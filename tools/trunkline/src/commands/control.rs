//! `trunkline control`: runs the control plane, or asks it for something.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};
use trunkline_client::DeviceId;
use trunkline_control::admin::Admin;
use trunkline_control::config::{Config, InitialRegion, Interval};
use trunkline_control::store::Force;
#[cfg(feature = "next-version")]
use trunkline_wire::preface::Versions;

use super::moves::{self, Follow, MoveArgs};
use crate::control_plane::ControlPlane;
use crate::output::Progress;
use crate::signals::Stop;

/// Runs the control plane: membership, regions, the map. Or, with a subcommand, asks it for something.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  trunkline control --data-dir /var/lib/trunkline --secret-file /etc/trunkline/secret --listen 10.0.0.1:7402
  trunkline control enroll alice --region eu
  trunkline control drain edge-1 --rate 200
  trunkline control move --share 25% --from eu --to us
  trunkline control remove-instance eu-2 --region eu
  trunkline control backup /var/backups/trunkline.bak"
)]
pub struct Args {
    #[command(subcommand)]
    request: Option<Request>,
    #[command(flatten)]
    serve: Serve,
}

impl Args {
    /// Whether it asks a control plane for something, and isn't to be one.
    pub fn asks(&self) -> bool {
        self.request.is_some()
    }
}

#[derive(clap::Args)]
struct Serve {
    /// A TOML file with these settings; flags and environment win over it.
    #[arg(long, env = "TRUNKLINE_CONTROL_CONFIG")]
    config: Option<PathBuf>,
    /// Where nodes and tools reach it.
    #[arg(long, env = "TRUNKLINE_CONTROL_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where its metrics and health are.
    #[arg(long, env = "TRUNKLINE_CONTROL_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Where its store is.
    #[arg(long, env = "TRUNKLINE_CONTROL_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The cluster secret's file.
    #[arg(long, env = "TRUNKLINE_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// Regions that wait for each other before devices are spread over them: name, or name=weight.
    #[arg(long, value_delimiter = ',', value_parser = region)]
    initial_regions: Option<Vec<InitialRegion>>,
    /// A device's region is assigned within this time of its enrolment.
    #[arg(long, value_parser = super::duration)]
    initial_interval: Option<Duration>,
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

/// How to reach the control plane.
#[derive(clap::Args)]
pub struct Reach {
    /// The control plane's address.
    #[arg(long, env = "TRUNKLINE_CONTROL", default_value = super::CONTROL_ADDRESS)]
    pub control: SocketAddr,
    /// The cluster secret's file; the one that `trunkline up` made if it isn't named.
    #[arg(long, env = "TRUNKLINE_SECRET_FILE")]
    pub secret_file: Option<PathBuf>,
}

impl Reach {
    /// Connects, and proves the secret.
    ///
    /// # Errors
    /// If the secret can't be read, nobody is there, or the secrets differ.
    pub fn connect(&self) -> anyhow::Result<Admin> {
        let path = super::secret_file(self.secret_file.as_deref())?;
        Ok(Admin::connect(self.control, &super::secret("--secret-file", &path)?)?)
    }
}

#[derive(Subcommand)]
enum Request {
    /// Assigns a device to a region ahead of its first connect.
    Enroll {
        /// The device's id.
        device: DeviceId,
        /// The region; chosen by weight if it isn't named.
        #[arg(long)]
        region: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Gives a device back to the region of its slot, without a gap.
    Unenroll {
        /// The device's id.
        device: DeviceId,
        #[command(flatten)]
        reach: Reach,
    },
    /// Makes a region, or sets its weight. No device moves before a rebalance.
    Region {
        /// The region's name.
        name: String,
        /// Its share of the devices, against the others'.
        #[arg(long, default_value_t = 1)]
        weight: u32,
        #[command(flatten)]
        reach: Reach,
    },
    /// Spreads the devices over the regions by weight; as few move as possible, without a gap.
    Rebalance {
        #[command(flatten)]
        follow: Follow,
        #[command(flatten)]
        reach: Reach,
    },
    /// Moves a device, slots, or a share of a region's slots to another region, without a gap, and shows how far it is.
    Move(Box<MoveArgs>),
    /// Lists the moves that are not over, and the latest that are.
    Moves {
        /// Prints one JSON object.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Shows how far a move is until it is over.
    Watch {
        /// The move's number.
        id: u32,
        /// Prints one JSON object, as the move stands in the end.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Gives up a move that has not switched yet.
    Abort {
        /// The move's number.
        id: u32,
        #[command(flatten)]
        reach: Reach,
    },
    /// Moves all that a region has to the others, without a gap, then removes it.
    RemoveRegion {
        /// The region's name.
        name: String,
        /// Also if more than a tenth of all instances go with it.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        follow: Follow,
        #[command(flatten)]
        reach: Reach,
    },
    /// Makes a node an instance of a region, also of one that its settings don't name: told of every session first, and asked once it
    /// knows all. Shows how far that is.
    AddInstance {
        /// The node's name or its id.
        node: String,
        /// The region.
        #[arg(long)]
        region: String,
        #[command(flatten)]
        follow: Follow,
        #[command(flatten)]
        reach: Reach,
    },
    /// Makes a node an instance of a region no longer, whatever its settings say: asked by nobody first, then told no more. Shows how
    /// far that is. Take it back with add-instance.
    RemoveInstance {
        /// The node's name or its id.
        node: String,
        /// The region; all that it serves if it isn't named.
        #[arg(long)]
        region: Option<String>,
        /// Also if more than a tenth of all instances have gone then, within a minute.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        follow: Follow,
        #[command(flatten)]
        reach: Reach,
    },
    /// Sends a node's devices elsewhere, so many a second, and lets none in; shows how many are left until none is. It goes on if this is
    /// interrupted, and if the node or the control plane starts anew, until it is undone. No message is lost.
    Drain {
        /// Its name or its id.
        node: String,
        /// Devices a second; as the node's `drain.rate` says if it isn't named.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        rate: Option<u32>,
        /// Lets devices in again.
        #[arg(long, conflicts_with = "rate")]
        undo: bool,
        /// Returns at once.
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Takes a node out of the cluster.
    RemoveNode {
        /// Its name or its id.
        node: String,
        /// Also if it lives, is a region's last instance, or is one of many.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        reach: Reach,
    },
    /// Prints the map: regions, their slots, and the devices that are assigned by name.
    Map {
        #[command(flatten)]
        reach: Reach,
    },
    /// Says to which region a device belongs, and who its instances are.
    Where {
        /// The device's id.
        device: DeviceId,
        #[command(flatten)]
        reach: Reach,
    },
    /// Writes a copy of the store to a new file on the control plane's host, while it runs.
    Backup {
        /// An absolute path.
        path: PathBuf,
        #[command(flatten)]
        reach: Reach,
    },
    /// Makes a store from a backup. The control plane must not run on it.
    Restore {
        /// The backup.
        path: PathBuf,
        /// Where the store is to be.
        #[arg(long)]
        data_dir: PathBuf,
        /// Replaces a store that is there; it is kept beside.
        #[arg(long)]
        force: bool,
    },
}

/// Runs the control plane until it is told to end, or asks for something and prints the answer.
///
/// # Errors
/// One line that names the setting, or what was refused.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.request {
        None => serve(&args.serve),
        Some(request) => ask(request),
    }
}

fn ask(request: Request) -> anyhow::Result<()> {
    let (reach, body) = match request {
        Request::Enroll { device, region, reach } => (
            reach,
            json!({ "op": "enroll", "device": device.as_str(), "region": region }),
        ),
        Request::Unenroll { device, reach } => (reach, json!({ "op": "unenroll", "device": device.as_str() })),
        Request::Region { name, weight, reach } => (reach, json!({ "op": "region", "name": name, "weight": weight })),
        Request::Drain {
            node,
            rate,
            undo,
            no_wait,
            reach,
        } => return drain(&reach, &node, rate, undo, no_wait),
        Request::Rebalance { follow, reach } => return moves::ask(&reach, json!({ "op": "rebalance" }), &follow),
        Request::Move(args) => return moves::run(&args),
        Request::Moves { json, reach } => return moves::list(&reach, json),
        Request::Watch { id, json, reach } => return moves::watch(&reach, id.into(), json),
        Request::Abort { id, reach } => (reach, json!({ "op": "abort-move", "id": id })),
        Request::RemoveRegion {
            name,
            force,
            follow,
            reach,
        } => {
            let body = json!({ "op": "remove-region", "name": name, "force": force });
            return moves::ask(&reach, body, &follow);
        }
        Request::AddInstance {
            node,
            region,
            follow,
            reach,
        } => {
            let body = json!({ "op": "add-instance", "node": node_ref(&node), "region": region });
            return moves::ask(&reach, body, &follow);
        }
        Request::RemoveInstance {
            node,
            region,
            force,
            follow,
            reach,
        } => {
            let node = node_ref(&node);
            let body = json!({ "op": "remove-instance", "node": node, "region": region, "force": force });
            return moves::ask(&reach, body, &follow);
        }
        Request::RemoveNode { node, force, reach } => {
            let node = node_ref(&node);
            (reach, json!({ "op": "remove-node", "node": node, "force": force }))
        }
        Request::Where { device, reach } => (reach, json!({ "op": "where", "device": device.as_str() })),
        Request::Backup { path, reach } => (reach, json!({ "op": "backup", "path": path })),
        Request::Map { reach } => return pages(&reach, "map"),
        Request::Restore { path, data_dir, force } => {
            let force = if force { Force::Yes } else { Force::No };
            let restored = trunkline_control::store::restore(&path, &data_dir, force)?;
            println!(
                "{}",
                json!({
                    "lineage": restored.lineage,
                    "version_backup": restored.version_backup,
                    "version": restored.version,
                })
            );
            return Ok(());
        }
    };
    println!("{}", reach.connect()?.request(&body)?);
    Ok(())
}

/// By its id, if it's a number.
fn node_ref(node: &str) -> Value {
    node.parse::<u32>().map_or_else(|_| json!(node), |id| json!(id))
}

/// Asks for a drain, and shows how many devices are left until none is.
fn drain(reach: &Reach, node: &str, rate: Option<u32>, undo: bool, no_wait: bool) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let mut admin = reach.connect()?;
    let body = json!({ "op": "drain", "node": node_ref(node), "rate": rate, "undo": undo });
    let told = admin.request(&body)?;
    println!("{told}");
    if undo || no_wait {
        return Ok(());
    }
    if told["connected"] != true {
        bail!("the node is not connected to the control plane: it is told when it joins");
    }
    let first = told["sessions"].as_u64().unwrap_or(0);
    let mut progress = Progress::new("devices", first as usize);
    // The first number may be older than the order.
    let mut seen = false;
    loop {
        let said = admin.request_all(&json!({ "op": "status" }), "nodes")?;
        let mut nodes = said["nodes"].as_array().into_iter().flatten();
        let Some(found) = nodes.find(|entry| entry["id"] == told["node"]) else {
            bail!("the node was removed meanwhile");
        };
        if found["connected"] != true {
            bail!("the node is no longer connected to the control plane");
        }
        let left = found["sessions"].as_u64().unwrap_or(0);
        progress.at(first.saturating_sub(left) as usize);
        let draining = found["draining"] == true;
        let ordered = found["drained_by_operator"] == true;
        if !ordered {
            bail!("the drain was undone: {left} devices are left");
        }
        seen |= draining;
        if seen && left == 0 {
            progress.end();
            println!(
                "{}",
                json!({ "node": told["node"], "name": told["name"], "draining": true, "sessions": 0 })
            );
            return Ok(());
        }
        if stop.is_asked() {
            bail!("interrupted; the drain goes on, {left} devices are left; take it back with --undo");
        }
        std::thread::sleep(DRAIN_POLL);
    }
}

/// How often control is asked how far a drain is; the node tells it once a second.
const DRAIN_POLL: Duration = Duration::from_millis(250);

/// Prints all pages of an answer, one JSON object a line.
fn pages(reach: &Reach, op: &str) -> anyhow::Result<()> {
    let mut admin = reach.connect()?;
    let mut after = Value::Null;
    loop {
        let page = admin.request(&json!({ "op": op, "after": after }))?;
        println!("{page}");
        match page.get("next") {
            None | Some(Value::Null) => return Ok(()),
            Some(next) => after = next.clone(),
        }
    }
}

fn region(text: &str) -> Result<InitialRegion, String> {
    let (name, weight) = match text.split_once('=') {
        None => (text, 1),
        Some((name, weight)) => (
            name,
            weight
                .parse()
                .map_err(|_| format!("the weight {weight:?} is no whole number"))?,
        ),
    };
    Ok(InitialRegion {
        name: name.into(),
        weight,
    })
}

/// The file's settings; each may also be a flag.
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    listen: Option<SocketAddr>,
    http_listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    /// Name and weight.
    initial_regions: Option<std::collections::BTreeMap<String, u32>>,
    initial_interval_ms: Option<u64>,
    initial_interval_min_ms: Option<u64>,
    connections_max: Option<usize>,
}

impl File {
    fn read(path: &std::path::Path) -> anyhow::Result<File> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("the configuration file {} cannot be read", path.display()))?;
        toml::from_str(&text).with_context(|| format!("the configuration file {}", path.display()))
    }
}

fn serve(args: &Serve) -> anyhow::Result<()> {
    let file = args.config.as_deref().map(File::read).transpose()?.unwrap_or_default();
    let listen = match args.listen.or(file.listen) {
        Some(address) => address,
        None => super::CONTROL_ADDRESS.parse().expect("a fixed address"),
    };
    let Some(data_dir) = args.data_dir.clone().or(file.data_dir) else {
        bail!("data_dir: name the directory of the control plane's store with --data-dir");
    };
    let Some(secret_file) = args.secret_file.clone().or(file.secret_file) else {
        bail!(
            "secret_file: name the cluster secret's file with --secret-file; make one with: head -c 32 /dev/urandom | base64"
        );
    };
    let secret = super::secret("secret_file", &secret_file)?;
    let mut config = Config::default();
    if let Some(max) = file.connections_max {
        config.connections_max = max;
    }
    let named = file.initial_regions.map(|regions| {
        regions
            .into_iter()
            .map(|(name, weight)| InitialRegion { name, weight })
            .collect::<Vec<_>>()
    });
    #[cfg(feature = "next-version")]
    if let Some(versions) = args.protocol_max {
        config.versions = versions;
    }
    config.initial_regions = args.initial_regions.clone().or(named).unwrap_or_default();
    let max = args
        .initial_interval
        .or(file.initial_interval_ms.map(Duration::from_millis));
    config.initial_interval = Interval {
        min: file
            .initial_interval_min_ms
            .map_or(Duration::ZERO, Duration::from_millis),
        max: max.unwrap_or(config.initial_interval.max),
    };
    let control = ControlPlane::start(config, &data_dir, &secret, listen)?;
    let http = crate::control_http::start(args.http_listen.or(file.http_listen), &control)?;
    if args.json {
        let http = http.as_ref().map(|server| server.address().to_string());
        println!(
            "{}",
            json!({ "event": "ready", "control": control.address().to_string(), "http": http })
        );
    } else {
        println!("control listens on {}", control.address());
    }
    crate::signals::wait(args.end_with_stdin)?;
    if let Some(http) = http {
        http.stop();
    }
    control.end()
}
