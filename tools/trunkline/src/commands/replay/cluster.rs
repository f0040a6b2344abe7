//! The trace through a real cluster, by the clock: the same devices at the same servers as in the model, and every message held against
//! what the model says of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use trunkline_net::backend::Backend;
use trunkline_node::config::Mode;
use trunkline_replay::Policy;
use trunkline_replay::model::{self, Setup, Verdict};
use trunkline_replay::schedule::{Act, After, SILENT_SECONDS, Step, Why, schedule};
use trunkline_wire::auth::Secret;

use super::figures::{COUNTED, Figures};
use super::ground::{Ground, Plan};
use super::model::{BUDGET_DEFAULT, ModelArgs};
use crate::output::Progress;
use crate::signals::Stop;
use crate::workload::{Deed, Door, Run, Trace};

/// How long the ways are, in a cluster that is started, or in the model.
#[derive(clap::Args)]
#[command(next_help_heading = "Ways")]
pub struct WayArgs {
    /// With --start or --scale: how long the way from one connection server to another takes [default: 0ms; with --scale 1ms].
    #[arg(long, value_name = "TIME", value_parser = delay)]
    pub way: Option<Duration>,
    /// With --start or --scale: how much longer the way to or from an instance of a region takes [default: 0ms; with --scale 20ms].
    #[arg(long, value_name = "TIME", value_parser = delay)]
    pub way_to_region: Option<Duration>,
}

/// How a real cluster is played through.
#[derive(clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Plays in the trace's time through a real cluster: devices attach to its servers (--server, one each) as in the model.
    #[arg(long)]
    cluster: bool,
    /// Starts a cluster of its own on this host, with so many connection servers; with --budget links each. Without --policy once with none
    /// (the predictor off), and once with predictor.
    #[arg(long, value_name = "N", requires = "cluster", conflicts_with_all = ["servers", "http"], value_parser = servers)]
    start: Option<usize>,
    /// How many times faster than the trace.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "cluster", value_parser = speed)]
    speed: f64,
    /// The servers' HTTP ports, for what they count: dials, and locations that were known.
    #[arg(long, value_name = "ADDRESS", requires = "cluster", value_delimiter = ',')]
    http: Vec<SocketAddr>,
    /// A device attaches at least so long before its message, however fast the trace is played: links don't open faster for it.
    #[arg(long, value_name = "TIME", default_value = "500ms", requires = "cluster", value_parser = crate::commands::duration)]
    lead: Duration,
    /// Who comes back says whom it is about to write to, half of --lead before.
    #[arg(long, requires = "cluster")]
    hints: bool,
    /// With --start: how long a link takes to open.
    #[arg(long, value_name = "TIME", default_value = "0ms", requires = "start", value_parser = delay)]
    link_open: Duration,
    /// With --start: how the nodes' threads reach the kernel: auto, uring or epoll.
    #[arg(long, env = "TRUNKLINE_BACKEND", default_value = "auto", requires = "cluster")]
    backend: Backend,
}

fn servers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(servers @ 2..=SERVERS_MAX) => Ok(servers),
        _ => Err(format!("use a number from 2 to {SERVERS_MAX}")),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.001..=1e6).contains(&speed) => Ok(speed),
        _ => Err("use a number from 0.001 to 1000000".into()),
    }
}

fn delay(text: &str) -> Result<Duration, String> {
    match text.strip_suffix("ms").and_then(|ms| ms.parse().ok()) {
        Some(ms @ 0..=1_000) => Ok(Duration::from_millis(ms)),
        _ => Err("use 0ms to 1000ms".into()),
    }
}

impl ClusterArgs {
    /// Whether the trace is to be played by the clock.
    pub fn is_asked(&self) -> bool {
        self.cluster
    }

    /// The settings of the node to be told apart in what is printed; one run each.
    fn policies(&self, model: &ModelArgs) -> anyhow::Result<Vec<Option<Mode>>> {
        match (self.start, model.policy) {
            (None, None) => Ok(vec![None]),
            (None, Some(_)) => bail!("--policy: servers that run already have theirs; use it with --start"),
            (Some(_), None) => Ok(vec![Some(Mode::Off), Some(Mode::On)]),
            (Some(_), Some(Policy::None)) => Ok(vec![Some(Mode::Off)]),
            (Some(_), Some(Policy::Predictor)) => Ok(vec![Some(Mode::On)]),
            (Some(_), Some(other)) => bail!("--policy {other}: nodes know none and predictor"),
        }
    }
}

/// Where devices connect, for a cluster that runs.
pub struct Gate {
    /// Device ports of connection servers.
    pub servers: Vec<SocketAddr>,
    /// Signs the devices' tokens.
    pub token_key: Option<Secret>,
}

/// Plays the trace through the cluster, with each policy, and prints the figures.
///
/// # Errors
/// If the cluster doesn't start, or a message is lost, misdelivered or out of order.
pub fn run(
    args: &ClusterArgs,
    ways: &WayArgs,
    model_args: &ModelArgs,
    gate: Gate,
    trace: &Trace,
    seed: u64,
    json: bool,
) -> anyhow::Result<()> {
    let policies = args.policies(model_args)?;
    let nodes = args.start.unwrap_or(gate.servers.len());
    if nodes < 2 {
        bail!("--server: one server has no links; name two or more, or use --start");
    }
    let timetable = timetable(args, trace, &schedule(trace, nodes, seed))?;
    let setup = Setup {
        nodes,
        budget: model_args.budget.unwrap_or(BUDGET_DEFAULT),
        policy: Policy::Predictor,
        seed,
    };
    let mut forecast = Vec::new();
    let model = model::play(trace, setup, &mut |_, verdict| forecast.push(verdict));
    let game = Game {
        trace,
        timetable,
        forecast,
        seed,
    };
    let stop = Stop::listen()?;
    let mut all = Vec::new();
    for policy in policies {
        let ground = match (args.start, policy) {
            (Some(servers), Some(predictor)) => Ground::start(&Plan {
                servers,
                budget: setup.budget,
                predictor,
                backend: args.backend,
                open: args.link_open,
                way: ways.way.unwrap_or_default(),
                way_to_region: ways.way_to_region.unwrap_or_default(),
            })?,
            _ => Ground::running(gate.servers.clone(), args.http.clone()),
        };
        let name = match policy {
            None => "as it is",
            Some(Mode::Off) => "none",
            Some(Mode::On) => "predictor",
        };
        let door = Door {
            servers: ground.devices.clone(),
            places: game.timetable.places.clone(),
            token_key: gate.token_key.clone(),
        };
        let figures = game.play(name, &ground, &door, &stop)?;
        ground.end()?;
        if !json {
            if all.is_empty() {
                println!(
                    "model         {nodes} servers, {} links each: hit {:.3}, location known {:.3}, dials/msg {:.3}",
                    setup.budget, model.hit, model.location_known, model.dials_per_message
                );
            }
            println!("{figures}");
        }
        all.push(figures);
    }
    let gain = gain(&all);
    if json {
        let runs: Vec<Value> = all.iter().map(Figures::json).collect();
        println!(
            "{}",
            json!({
                "servers": nodes, "budget": setup.budget, "speed": args.speed, "seed": seed, "model": model, "runs": runs,
                "first_latency_gain": gain,
            })
        );
    } else if let Some(gain) = gain {
        println!(
            "gain          first messages that the model calls hits: median latency {gain:.1} times lower than with none"
        );
    }
    match all.iter().find(|figures| !figures.summary.is_sound()) {
        Some(figures) => bail!(
            "policy {}: messages were lost, misdelivered, out of order or without their one report",
            figures.policy
        ),
        None => Ok(()),
    }
}

/// How many times lower the median latency of the model's first hits is with the predictor than without.
fn gain(all: &[Figures]) -> Option<f64> {
    let of = |name| all.iter().find(|figures| figures.policy == name)?.first.hits_p50_ms();
    Some(of("none")? / of("predictor")?)
}

/// What is played, whatever the policy.
struct Game<'a> {
    trace: &'a Trace,
    timetable: Timetable,
    /// What the model says of each message.
    forecast: Vec<Verdict>,
    seed: u64,
}

impl Game<'_> {
    fn play(&self, policy: &'static str, ground: &Ground, door: &Door, stop: &Stop) -> anyhow::Result<Figures> {
        let mut progress = Progress::new("devices", self.trace.devices().len());
        let mut run = Run::connect(door, self.trace, self.seed, &mut |welcomed| progress.at(welcomed))?;
        progress.end();
        let before = ground.counts(&COUNTED)?;
        let mut progress = Progress::new("messages", self.trace.messages().len());
        let summary = run.keep_to(self.trace, &self.timetable.deeds, &mut |summary| {
            progress.at(summary.reported as usize);
            stop.flow()
        })?;
        progress.end();
        let counts = before.zip(ground.counts(&COUNTED)?).map(|(before, after)| {
            let both = after.iter().zip(&before);
            both.map(|(after, before)| after.saturating_sub(*before)).collect()
        });
        let mut figures = Figures::new(policy, summary, counts);
        for (index, &verdict) in self.forecast.iter().enumerate() {
            if let Verdict::Remote { link, known } = verdict {
                figures.remote(run.delivery(index), link, known, self.timetable.afters[index]);
            }
        }
        Ok(figures)
    }
}

/// The schedule, by the real clock.
struct Timetable {
    /// Where each device begins.
    places: Vec<usize>,
    deeds: Vec<(Duration, Deed)>,
    /// Of each message.
    afters: Vec<After>,
}

fn timetable(args: &ClusterArgs, trace: &Trace, steps: &[Step]) -> anyhow::Result<Timetable> {
    let silence = Duration::from_secs_f64(SILENT_SECONDS as f64 / args.speed);
    if args.lead >= silence {
        bail!(
            "--speed {}: silences last {silence:.1?} then, and who comes back can't be there --lead {:.1?} before its message; use \
             {} at most",
            args.speed,
            args.lead,
            (SILENT_SECONDS as f64 / args.lead.as_secs_f64()).ceil() - 1.0
        );
    }
    let start = *trace.times().first().context("the trace has no messages")?;
    let mut table = Timetable {
        places: vec![0; trace.devices().len()],
        deeds: Vec::new(),
        afters: vec![After::Activity; trace.messages().len()],
    };
    let real = |at: u64| args.lead + Duration::from_secs_f64((at - start) as f64 / args.speed);
    // Where who comes back attaches, until its message is seen.
    let mut backs = BTreeMap::new();
    for step in steps {
        match step.act {
            Act::Attach {
                device,
                node,
                why: Why::First,
            } => table.places[device] = node,
            Act::Attach {
                device,
                node,
                why: Why::Back,
            } => {
                backs.insert(device, (node, step.at));
            }
            Act::Message { index, after } => {
                let due = real(step.at);
                if after == After::Silence {
                    let device = trace.messages()[index].0;
                    let (server, at) = backs.remove(&device).expect("who was silent attaches before");
                    let ahead = Duration::from_secs_f64((step.at - at) as f64 / args.speed).max(args.lead);
                    table.deeds.push((due - ahead, Deed::Attach { device, server }));
                    if args.hints {
                        table.deeds.push((due - args.lead / 2, Deed::Intend { index }));
                    }
                }
                table.afters[index] = after;
                table.deeds.push((due, Deed::Send { index }));
            }
        }
    }
    table.deeds.sort_by_key(|&(due, _)| due);
    Ok(table)
}

/// Processes of one host; beyond that, their number is what is measured.
const SERVERS_MAX: usize = 32;
