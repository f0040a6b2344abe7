//! `trunkline send`: a message by hand.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::json;
use trunkline_client::{Client, DeviceId, Event, Guarantee, Outcome, Purpose, Report, TtlMs};

use super::Door;

/// Sends a message, and says how it ended.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  trunkline send --from alice --to bob hello
  date | trunkline send --from clock --to bob --ttl 5s -
  trunkline send --from alice --to bob --count 1000 ping --json")]
pub struct Args {
    #[command(flatten)]
    door: Door,
    /// The sender's device id. The session only sends: a device of this id that listens stays connected.
    #[arg(long)]
    from: DeviceId,
    /// The recipient's device id.
    #[arg(long)]
    to: DeviceId,
    /// What it says; `-` reads standard input, and lets the server know meanwhile that a message to --to is coming.
    message: String,
    /// For how long it is worth delivering: 500ms, 60s, 10m, 2h, at most 7d.
    #[arg(long, default_value = "60s", value_parser = super::duration)]
    ttl: Duration,
    /// Doesn't ask for a report.
    #[arg(long)]
    fire_and_forget: bool,
    /// Sends it so many times.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// How long the server may take to let the device in.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How much longer than its time to live a message's report may take.
const REPORT_GRACE: Duration = Duration::from_secs(10);

/// Sends and waits for the reports.
///
/// # Errors
/// If a message was not reported delivered.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let ms = u32::try_from(args.ttl.as_millis()).ok().and_then(TtlMs::new);
    let ttl = ms.with_context(|| format!("--ttl {:?}: use 1ms to 7d", args.ttl))?;
    let mut options = args.door.options(&args.from)?;
    options.purpose = Purpose::SendOnly;
    let client = Client::connect(options)?;
    let guarantee = if args.fire_and_forget {
        Guarantee::FireAndForget
    } else {
        Guarantee::Confirmed
    };
    client
        .ready(WELCOME_TIMEOUT)
        .context(format!("not let in by {:?}", args.door.servers))?;
    if args.message == "-" {
        // It may take a while to be typed.
        client.intend(&args.to);
    }
    let payload = payload(&args.message)?;
    let mut reports: Vec<Report> = Vec::new();
    let until = Instant::now() + args.ttl + REPORT_GRACE;
    for _ in 0..args.count {
        loop {
            match client.send(&args.to, &payload[..], ttl, guarantee) {
                Ok(_) => break,
                Err(trunkline_client::SendError::Busy { .. }) if Instant::now() < until => {
                    take(&client, &mut reports, Duration::from_millis(100))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    if !args.fire_and_forget {
        while reports.len() < args.count as usize && Instant::now() < until {
            take(&client, &mut reports, Duration::from_millis(100))?;
        }
    }
    client.close();
    report(args, &reports)
}

fn payload(message: &str) -> anyhow::Result<Vec<u8>> {
    if message != "-" {
        return Ok(message.as_bytes().to_vec());
    }
    let mut payload = Vec::new();
    std::io::stdin().read_to_end(&mut payload).context("standard input")?;
    Ok(payload)
}

fn take(client: &Client, reports: &mut Vec<Report>, wait: Duration) -> anyhow::Result<()> {
    match client.event_timeout(wait) {
        Some(Event::Report(report)) => reports.push(report),
        Some(Event::Stopped { reason }) => bail!("{reason}"),
        Some(Event::Disconnected { server, reason, .. }) => tracing::warn!(%server, %reason, "disconnected"),
        Some(Event::Welcomed(_) | Event::Message(_)) | None => {}
    }
    Ok(())
}

fn report(args: &Args, reports: &[Report]) -> anyhow::Result<()> {
    if args.fire_and_forget {
        if args.json {
            println!("{}", json!({ "sent": args.count }));
        } else {
            println!("sent {}, without asking for reports", args.count);
        }
        return Ok(());
    }
    let delivered = reports
        .iter()
        .filter(|r| matches!(r.outcome, Outcome::Delivered { .. }))
        .count();
    if args.json {
        let each = reports.iter().map(|r| {
            json!({
                "number": r.id.number,
                "outcome": r.outcome.name(),
                "maybe_delivered": r.outcome.maybe_delivered(),
                "way": r.way.name(),
                "latency_us": r.latency.as_micros() as u64,
            })
        });
        let each: Vec<_> = each.collect();
        println!(
            "{}",
            json!({ "sent": args.count, "delivered": delivered, "reports": each })
        );
    } else {
        for r in reports {
            let maybe = if r.outcome.maybe_delivered() {
                ", maybe delivered"
            } else {
                ""
            };
            println!(
                "{}{maybe} ({}, {:.2} ms)",
                r.outcome.name(),
                r.way.name(),
                r.latency.as_secs_f64() * 1e3
            );
        }
    }
    match args.count as usize - delivered {
        0 => Ok(()),
        1 if args.count == 1 => bail!("the message was not delivered"),
        failed => bail!("{failed} of {} messages were not delivered", args.count),
    }
}
