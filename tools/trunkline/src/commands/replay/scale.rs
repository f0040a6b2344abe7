//! The trace over the number of servers: a bounded number of links against a full mesh.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::json;
use trunkline_replay::scale::{self, Comparison, Side, Size, Ways};

use crate::output::Progress;
use crate::workload::Trace;

/// What is compared.
pub struct Plan<'a> {
    /// The most servers.
    pub servers_max: usize,
    /// Links of a server at most, with the predictor.
    pub budget: usize,
    /// From one connection server to another.
    pub way: Duration,
    /// How much longer to or from an instance of a region.
    pub way_to_region: Duration,
    /// The first of the seeds.
    pub seed: u64,
    /// Where the picture goes.
    pub plot: Option<&'a Path>,
}

/// Plays the trace with ever more servers, and prints where a mesh stops winning.
///
/// # Errors
/// If the picture can't be written.
pub fn run(plan: &Plan<'_>, trace: &Trace, json: bool) -> anyhow::Result<()> {
    let ms = |way: Duration| way.as_secs_f64() * 1e3;
    let ways = Ways {
        direct_ms: ms(plan.way),
        region_ms: 2.0 * ms(plan.way + plan.way_to_region),
    };
    let comparison = Comparison {
        trace,
        budget: plan.budget,
        ways,
        seeds: (plan.seed..plan.seed.saturating_add(SEEDS)).collect(),
    };
    let mut counts: Vec<usize> = (2..)
        .map(|power| 1 << power)
        .take_while(|&n| n < plan.servers_max)
        .collect();
    counts.push(plan.servers_max);
    let mut progress = Progress::new("sizes", counts.len());
    let mut sizes = Vec::new();
    for count in counts {
        sizes.push(comparison.at(count));
        progress.at(sizes.len());
    }
    progress.end();
    // Beyond this a mesh has more links than a server's budget.
    let fits = plan.budget + 1;
    let dearer = sizes.iter().position(|size| size.mesh.cost > size.predictor.cost);
    let stops = match dearer {
        None => None,
        Some(0) => Some(sizes[0].servers),
        Some(at) => Some(comparison.crossing(sizes[at - 1].servers, sizes[at].servers)),
    };
    if let Some(path) = plan.plot {
        std::fs::write(path, scale::svg(&sizes)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if json {
        println!(
            "{}",
            json!({
                "messages": trace.messages().len(), "devices": trace.devices().len(), "budget": plan.budget, "ways": ways, "seeds": SEEDS,
                "sizes": sizes, "mesh_fits_until": fits, "mesh_costs_more_from": stops,
            })
        );
        return Ok(());
    }
    println!(
        "{} devices, {} messages, average over {SEEDS} seeds; direct {} ms, by region {} ms; predictor: at most {} links a server",
        trace.devices().len(),
        trace.messages().len(),
        ways.direct_ms,
        ways.region_ms,
        plan.budget
    );
    println!(
        "servers  links     a server: mean  max      all    hit  direct  ms: mean  p50  p99  dials/msg  wasted   cost"
    );
    for Size {
        servers,
        mesh,
        predictor,
    } in &sizes
    {
        println!("{}", row(*servers, "mesh", mesh));
        println!("{}", row(*servers, "predictor", predictor));
    }
    println!(
        "A full mesh wins on up to {fits} servers: there it fits into a server's {} links, and all goes direct.",
        plan.budget
    );
    match stops {
        None => {
            println!("By cost, a miss 1 and a dial 0.1, it wins at all sizes here, for who has room for its links.")
        }
        Some(stops) => println!(
            "By cost, a miss 1 and a dial 0.1, it stops winning at {stops} servers, where {:.0} % of its links carry none of these messages.",
            100.0 * comparison.at(stops).mesh.wasted
        ),
    }
    Ok(())
}

fn row(servers: usize, name: &str, side: &Side) -> String {
    format!(
        "{servers:>7}  {name:<9}       {:>9.2}  {:>3}  {:>7.0}  {:.3}   {:.3}  {:>8.2}  {:>3}  {:>3}  {:>9.3}   {:.3}  {:.3}",
        side.links_mean,
        side.links_max,
        side.links_all,
        side.hit,
        side.direct,
        side.dispatch_ms_mean,
        side.dispatch_ms_p50,
        side.dispatch_ms_p99,
        side.dials_per_message,
        side.wasted,
        side.cost
    )
}

const SEEDS: u64 = 5;
