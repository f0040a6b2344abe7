//! `trunkline up`: everything in one process, no configuration.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use trunkline_control::config::{Config as ControlConfig, InitialRegion};
use trunkline_net::backend::Backend;
use trunkline_node::config::{Config, CoreList};
use trunkline_node::identity::read_or_make_secret;
use trunkline_node::run::Node;
use trunkline_wire::control::Roles;

use crate::control_plane::ControlPlane;

/// Runs everything in one process on this host: control, one region, and a connection server.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  trunkline up\n\nThen, in two more terminals:
  trunkline listen --device bob
  trunkline send --from alice --to bob hello")]
pub struct Args {
    /// Where it keeps its state; $XDG_STATE_HOME/trunkline or ~/.local/state/trunkline otherwise.
    #[arg(long, env = "TRUNKLINE_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where devices connect.
    #[arg(long, env = "TRUNKLINE_DEVICE_LISTEN", default_value = super::DEVICE_ADDRESS)]
    device_listen: SocketAddr,
    /// Where nodes of a larger cluster connect.
    #[arg(long, env = "TRUNKLINE_PEER_LISTEN", default_value = "127.0.0.1:7401")]
    peer_listen: SocketAddr,
    /// Where nodes and tools reach the control plane.
    #[arg(long, env = "TRUNKLINE_CONTROL_LISTEN", default_value = super::CONTROL_ADDRESS)]
    control_listen: SocketAddr,
    /// Where metrics, health and explanations are.
    #[arg(long, env = "TRUNKLINE_HTTP_LISTEN", default_value = super::HTTP_ADDRESS)]
    http_listen: SocketAddr,
    /// The processors to run on, one pinned thread each, such as 0-3,8. Otherwise all that the process may use.
    #[arg(long, env = "TRUNKLINE_CORES", value_parser = |text: &str| text.parse::<CoreList>())]
    cores: Option<CoreList>,
    /// How its threads reach the kernel: auto, uring or epoll. With auto, uring if it passes its self-test.
    #[arg(long, env = "TRUNKLINE_BACKEND", default_value = "auto")]
    backend: Backend,
    /// The key of device tokens. With it, devices must show one.
    #[arg(long, env = "TRUNKLINE_TOKEN_KEY_FILE")]
    token_key_file: Option<PathBuf>,
    #[command(flatten)]
    tuning: super::tuning::Flags,
    /// Prints one JSON object when it is ready.
    #[arg(long)]
    json: bool,
    /// Ends when standard input is closed, for programs that start it.
    #[arg(long, hide = true)]
    end_with_stdin: bool,
}

/// The name of the one region.
const REGION: &str = "main";

/// Runs until it is told to end.
///
/// # Errors
/// One line that names the setting.
pub fn run(args: Args) -> anyhow::Result<()> {
    let data_dir = match args.data_dir {
        Some(path) => path,
        None => super::state_dir()?,
    };
    std::fs::create_dir_all(&data_dir).with_context(|| format!("--data-dir {}: cannot be made", data_dir.display()))?;
    let secret = read_or_make_secret(&data_dir)?;
    let regions = vec![InitialRegion {
        name: REGION.into(),
        weight: 1,
    }];
    let config = ControlConfig {
        initial_regions: regions,
        ..ControlConfig::default()
    };
    let control = ControlPlane::start(config, &data_dir.join("control"), &secret, args.control_listen)?;

    let mut config = Config::default();
    config.node.name = "up".into();
    config.node.roles = Roles {
        connection: true,
        messaging: true,
        region: true,
    };
    config.node.regions = vec![REGION.into()];
    config.node.data_dir = data_dir.clone();
    config.node.control = vec![control.address().to_string()];
    config.node.cores = args.cores;
    config.node.backend = args.backend;
    config.node.token_key_file = args.token_key_file;
    config.listen.device = args.device_listen;
    config.listen.peer = args.peer_listen;
    config.listen.http = args.http_listen;
    args.tuning.over(&mut config.tuning);
    config.check()?;
    let node = Node::start(config)?;
    wait_ready(&node)?;
    if args.json {
        let mut ready = super::node::ready(&node);
        ready["control"] = control.address().to_string().into();
        println!("{ready}");
    } else {
        let device = node
            .device_address()
            .context("a connection server listens for devices")?;
        let server = if device.to_string() == super::DEVICE_ADDRESS {
            String::new()
        } else {
            format!(" --server {device}")
        };
        println!("{}", super::node::listening(&node));
        println!(
            "control listens on {}; state and secret are in {}",
            control.address(),
            data_dir.display()
        );
        println!();
        println!("Next, in two more terminals:");
        println!("  trunkline listen{server} --device bob");
        println!("  trunkline send{server} --from alice --to bob hello");
        println!();
        println!("Ctrl-C ends it.");
    }
    crate::signals::wait(args.end_with_stdin)?;
    node.shutdown(super::RETRY_AFTER);
    control.end()
}

/// Waits until messages flow.
fn wait_ready(node: &Node) -> anyhow::Result<()> {
    let until = Instant::now() + super::READY_TIMEOUT;
    loop {
        let missing = node.not_ready();
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("it is not ready: {}", missing.join("; "));
        }
        std::thread::sleep(POLL);
    }
}

/// Between two looks at whether it is ready.
const POLL: std::time::Duration = std::time::Duration::from_millis(10);
