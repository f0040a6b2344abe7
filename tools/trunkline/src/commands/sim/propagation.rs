//! `trunkline sim --propagation`: what it costs that a connect becomes known, and that it isn't yet; ours beside the design that it
//! replaces.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use serde_json::{Value, json};
use trunkline_load::draw::{color, line, text};
use trunkline_sim::propagation::{Design, Outcome, Plan, SPAN, run as play};

/// What the report is about.
#[derive(clap::Args)]
// Its struct has the name of the one that it is flattened into, and so would its group.
#[group(skip)]
pub struct Args {
    /// Instead of faults: compares with telling every messaging server of every connect (`global`), over the number of servers.
    #[arg(long, value_enum, conflicts_with_all = ["seeds", "minutes", "story", "hashes"])]
    propagation: Option<Propagation>,
    /// How many devices connect within a second, all servers together.
    #[arg(long, requires = "propagation", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connects: u32,
    /// Draws the report as a picture.
    #[arg(long, requires = "propagation", value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Propagation {
    /// Every server is told of every connect; ours beside it.
    Global,
    /// Ours alone.
    Regional,
}

impl Args {
    /// Whether the report is asked for.
    pub fn is_asked(&self) -> bool {
        self.propagation.is_some()
    }
}

/// One line of the report.
struct Row {
    design: Design,
    plan: Plan,
    outcome: Outcome,
}

/// Plays all experiments with so many servers each, the usual ones if none are said, and reports.
///
/// # Errors
/// If the picture can't be written.
pub fn run(args: &Args, servers: &[u16], seed: u64, as_json: bool) -> anyhow::Result<()> {
    let designs: &[Design] = match args.propagation {
        Some(Propagation::Regional) => &[Design::Regional],
        Some(Propagation::Global) | None => &[Design::Regional, Design::Global],
    };
    let servers = if servers.is_empty() { SERVERS } else { servers };
    let plans = servers.iter().map(|servers| Plan {
        servers: usize::from(*servers),
        connects: args.connects as usize,
        seed,
    });
    let work: Vec<(Design, Plan)> = plans
        .flat_map(|plan| designs.iter().map(move |design| (*design, plan)))
        .collect();
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(&(design, plan)) = work.get(place) else { return };
                    let outcome = play(design, &plan);
                    let row = Row { design, plan, outcome };
                    rows.lock().expect("no holder panics").push((place, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().expect("no holder panics");
    rows.sort_by_key(|(place, _)| *place);
    let rows: Vec<Row> = rows.into_iter().map(|(_, row)| row).collect();
    if let Some(path) = &args.svg {
        std::fs::write(path, svg(&rows)).with_context(|| format!("can't write {}", path.display()))?;
    }
    if as_json {
        let rows: Vec<Value> = rows.iter().map(row_json).collect();
        println!(
            "{}",
            json!({ "seed": seed, "devices_a_server": DEVICES_A_SERVER, "rows": rows })
        );
    } else {
        print!("{}", table(&rows));
    }
    Ok(())
}

/// How many servers there are in the report, unless somebody says it.
const SERVERS: &[u16] = &[16, 32, 64, 128, 256, 512, 1024];

fn name(design: Design) -> &'static str {
    match design {
        Design::Regional => "ours",
        Design::Global => "global",
    }
}

/// One number of a row.
type Measure = fn(&Row) -> f64;

fn updates(row: &Row) -> f64 {
    row.outcome.updates as f64 / row.outcome.connects.max(1) as f64
}

fn stranded(row: &Row) -> f64 {
    100.0 * row.outcome.stranded as f64 / row.outcome.messages.max(1) as f64
}

fn memory(row: &Row) -> f64 {
    row.outcome.record_bytes(&row.plan, DEVICES_A_SERVER) as f64
}

fn row_json(row: &Row) -> Value {
    json!({
        "design": name(row.design),
        "servers": row.plan.servers,
        "connects": row.outcome.connects,
        "updates": row.outcome.updates,
        "updates_per_connect": updates(row),
        "messages": row.outcome.messages,
        "stranded": row.outcome.stranded,
        "lost": row.outcome.lost,
        "delay_us_p50": row.outcome.delay_us(500),
        "delay_us_p99": row.outcome.delay_us(990),
        "delay_us_max": row.outcome.delay_us(1_000),
        "record_bytes_per_server": memory(row),
    })
}

fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{:>7}  {:<6}  {:>15}  {:>10}  {:>10}  {:>10}  {:>10}  {:>16}\n",
        "servers", "design", "updates/connect", "stranded", "p50", "p99", "max", "records a server"
    );
    for row in rows {
        let ms = |thousandth| format!("{:.2} ms", row.outcome.delay_us(thousandth) as f64 / 1_000.0);
        let _ = writeln!(
            table,
            "{:>7}  {:<6}  {:>15.1}  {:>8.2} %  {:>10}  {:>10}  {:>10}  {:>12.1} MiB",
            row.plan.servers,
            name(row.design),
            updates(row),
            stranded(row),
            ms(500),
            ms(990),
            ms(1_000),
            memory(row) / f64::from(1 << 20),
        );
    }
    let _ = writeln!(
        table,
        "stranded: messages that came just after their recipient had connected, and found no way at first; p50, p99, max: from the \
         sender's server to the recipient; records: with {DEVICES_A_SERVER} devices a server; connects: {SPAN:?}"
    );
    table
}

/// Three panels: updates, stranded messages, memory, each over the number of servers, which is on a logarithmic axis.
fn svg(rows: &[Row]) -> String {
    let mut picture = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let panels: [(&str, Measure, bool); 3] = [
        ("updates for each connect", updates, true),
        ("messages stranded after a connect, %", stranded, false),
        ("records on one server, bytes", memory, true),
    ];
    for (place, (title, value, logarithmic)) in panels.into_iter().enumerate() {
        panel(
            &mut picture,
            rows,
            GAP + place as f64 * (PANEL + GAP),
            title,
            value,
            logarithmic,
        );
    }
    for (place, design) in [Design::Regional, Design::Global].into_iter().enumerate() {
        let x = GAP + 110.0 * place as f64;
        let _ = writeln!(
            picture,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" fill=\"{}\"/>",
            HEIGHT - 22.0,
            color(place)
        );
        text(&mut picture, (x + 18.0, HEIGHT - 12.0), "start", name(design));
    }
    picture.push_str("</svg>\n");
    picture
}

fn panel(picture: &mut String, rows: &[Row], left: f64, title: &str, value: Measure, logarithmic: bool) {
    let (least, most) = rows.iter().fold((usize::MAX, 0), |(least, most), row| {
        (least.min(row.plan.servers), most.max(row.plan.servers))
    });
    let (low, high) = (
        (least as f64).log2(),
        (most as f64).log2().max((least as f64).log2() + 1.0),
    );
    let x = |servers: usize| left + ((servers as f64).log2() - low) / (high - low) * PANEL;
    let top_value = rows.iter().map(value).fold(1.0, f64::max);
    let floor_value = rows.iter().map(value).fold(f64::MAX, f64::min).max(1.0);
    let (bottom, top) = if logarithmic {
        (floor_value.log10().floor(), top_value.log10().ceil())
    } else {
        (0.0, top_value)
    };
    let span = (top - bottom).max(1e-9);
    let y = |value: f64| {
        let value = if logarithmic { value.max(1e-9).log10() } else { value };
        BOTTOM - ((value - bottom) / span).clamp(0.0, 1.0) * (BOTTOM - TOP)
    };
    text(picture, (left, TOP - 14.0), "start", title);
    let steps = if logarithmic { span.round() as u32 } else { 4 };
    for step in 0..=steps {
        let at = bottom + span * f64::from(step) / f64::from(steps.max(1));
        let (value, label) = if logarithmic {
            (10f64.powf(at), format!("10^{at:.0}"))
        } else {
            (at, format!("{at:.0}"))
        };
        line(picture, (left, y(value)), (left + PANEL, y(value)), "#ddd");
        text(picture, (left - 6.0, y(value) + 4.0), "end", &label);
    }
    let mut servers: Vec<usize> = rows.iter().map(|row| row.plan.servers).collect();
    servers.dedup();
    for count in servers {
        line(picture, (x(count), TOP), (x(count), BOTTOM), "#eee");
        text(picture, (x(count), BOTTOM + 16.0), "middle", &count.to_string());
    }
    for (place, design) in [Design::Regional, Design::Global].into_iter().enumerate() {
        let mut points = String::new();
        for row in rows.iter().filter(|row| row.design == design) {
            let _ = write!(points, "{:.1},{:.1} ", x(row.plan.servers), y(value(row)));
        }
        let _ = writeln!(
            picture,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            points.trim_end(),
            color(place)
        );
    }
}

/// For how many devices of each server the records are counted.
const DEVICES_A_SERVER: u64 = 100_000;
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 330.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 270.0;
const GAP: f64 = 60.0;
const PANEL: f64 = 240.0;
