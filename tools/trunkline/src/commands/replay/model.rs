//! The trace through a model of a cluster: one policy, or a table or picture of several.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use trunkline_node::config::DIRECT_LINKS_MAX;
use trunkline_replay::Policy;
use trunkline_replay::model::{self, Setup, Summary};
use trunkline_replay::plot::{self, Point};

use super::cluster::WayArgs;
use super::scale;
use crate::output::Progress;
use crate::workload::Trace;

/// What the model is told; any of these asks for it.
#[derive(clap::Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// How many connection servers the model has [default: 64].
    #[arg(long, value_name = "N", value_parser = nodes, conflicts_with_all = ["token_key_file", "cluster"])]
    nodes: Option<usize>,
    /// How many links a node of the model has at most [default: 8].
    #[arg(long, value_name = "K", value_parser = budget)]
    pub budget: Option<usize>,
    /// Which links there are: none, lru (dial after a miss), mesh (all), predictor (what nodes run); to compare with: recency, frequency,
    /// reply, together, hour [default: predictor].
    #[arg(long)]
    pub policy: Option<Policy>,
    /// Compares the policies at budgets from 1 to 32, on average over five seeds, as a table.
    #[arg(long, conflicts_with_all = ["budget", "policy", "cluster"])]
    compare: bool,
    /// Over the number of servers, from 4 to --nodes [default: 1000]: sockets, hits and latencies of a full mesh, and of the predictor with
    /// --budget links a server [default: 64, as nodes have].
    #[arg(long, conflicts_with_all = ["compare", "policy", "cluster"])]
    scale: bool,
    /// A picture: with --scale of that; else as --compare of none, lru, mesh and predictor, hits and dials over the budget.
    #[arg(long, value_name = "SVG", conflicts_with_all = ["policy", "cluster"])]
    plot: Option<PathBuf>,
}

impl ModelArgs {
    /// Whether the model is meant, and not a cluster.
    pub fn is_asked(&self) -> bool {
        self.nodes.is_some()
            || self.budget.is_some()
            || self.policy.is_some()
            || self.compare
            || self.scale
            || self.plot.is_some()
    }
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(nodes @ 2..=NODES_MAX) => Ok(nodes),
        _ => Err(format!("use a number from 2 to {NODES_MAX}")),
    }
}

fn budget(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("without places there are no links: use 1 or more, or --policy none".into()),
        Ok(budget @ 1..=NODES_MAX) => Ok(budget),
        _ => Err(format!("use a number from 1 to {NODES_MAX}")),
    }
}

/// Plays the trace through the model.
///
/// # Errors
/// If the picture can't be written.
pub fn run(args: &ModelArgs, ways: &WayArgs, trace: &Trace, seed: u64, json: bool) -> anyhow::Result<()> {
    if args.scale {
        let plan = scale::Plan {
            servers_max: args.nodes.unwrap_or(SCALE_NODES_DEFAULT).max(5),
            budget: args.budget.unwrap_or(DIRECT_LINKS_MAX as usize),
            way: ways.way.unwrap_or(SCALE_WAY),
            way_to_region: ways.way_to_region.unwrap_or(SCALE_WAY_TO_REGION),
            seed,
            plot: args.plot.as_deref(),
        };
        return scale::run(&plan, trace, json);
    }
    if args.plot.is_some() && args.budget.is_some() {
        bail!("--plot: it is over all budgets; use it without --budget, or with --scale");
    }
    let nodes = args.nodes.unwrap_or(NODES_DEFAULT);
    if trace.messages().is_empty() {
        bail!("the trace has no messages");
    }
    if args.compare || args.plot.is_some() {
        return compare(args, trace, nodes, seed, json);
    }
    let setup = Setup {
        nodes,
        budget: args.budget.unwrap_or(BUDGET_DEFAULT),
        policy: args.policy.unwrap_or(Policy::Predictor),
        seed,
    };
    let summary = model::run(trace, setup);
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        println!("policy     budget  {HEADER}");
        println!("{:<10} {:>6}  {}", setup.policy.name(), setup.budget, row(&summary));
    }
    Ok(())
}

fn compare(args: &ModelArgs, trace: &Trace, nodes: usize, seed: u64, json: bool) -> anyhow::Result<()> {
    let few = [Policy::None, Policy::Lru, Policy::Mesh, Policy::Predictor];
    let policies: Vec<Policy> = if args.compare {
        Policy::all().collect()
    } else {
        few.into()
    };
    let budgets: Vec<usize> = BUDGETS.into_iter().filter(|&budget| budget < nodes).collect();
    let seeds: Vec<u64> = (seed..seed.saturating_add(SEEDS)).collect();
    let mut progress = Progress::new("runs", policies.len() * budgets.len() * seeds.len());
    let points = plot::sweep(trace, nodes, &policies, &budgets, &seeds, &mut |done| progress.at(done));
    progress.end();
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&points)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if json {
        let rows: Vec<serde_json::Value> = points.iter().map(object).collect();
        println!(
            "{}",
            serde_json::json!({ "nodes": nodes, "seeds": SEEDS, "points": rows })
        );
    } else {
        println!("policy     budget  {HEADER}");
        for point in &points {
            println!(
                "{:<10} {:>6}  {}",
                point.policy.name(),
                point.budget,
                row(&point.summary)
            );
        }
    }
    Ok(())
}

fn object(point: &Point) -> serde_json::Value {
    let mut object = serde_json::to_value(point.summary).expect("numbers have a form in JSON");
    object["policy"] = point.policy.name().into();
    object["budget"] = point.budget.into();
    object
}

const HEADER: &str = "messages    hit  known  dials/msg  wasted  links mean  max   cost";

fn row(summary: &Summary) -> String {
    format!(
        "{:>8}  {:.3}  {:.3}  {:>9.3}  {:>6}  {:>10.2}  {:>3}  {:.3}",
        summary.messages,
        summary.hit,
        summary.location_known,
        summary.dials_per_message,
        summary.wasted_dials,
        summary.links_mean,
        summary.links_max,
        summary.cost
    )
}

const SCALE_NODES_DEFAULT: usize = 1_000;
const SCALE_WAY: Duration = Duration::from_millis(1);
const SCALE_WAY_TO_REGION: Duration = Duration::from_millis(20);
const NODES_DEFAULT: usize = 64;
/// How many links a node has, unless told otherwise.
pub const BUDGET_DEFAULT: usize = 8;
/// The tables of pairs have the square of it: 80 MB.
const NODES_MAX: usize = 4_096;
const BUDGETS: [usize; 6] = [1, 2, 4, 8, 16, 32];
const SEEDS: u64 = 5;
