//! `trunkline listen`: shows what a device is sent.

use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::json;
use trunkline_client::{Client, DeviceId, Event, Guarantee, Message, TtlMs};

use super::Door;
use crate::signals::Stop;

/// Connects as a device, and shows the messages that it is sent.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trunkline listen --device bob\n  trunkline listen --device bob --echo --count 10 --json"
)]
pub struct Args {
    #[command(flatten)]
    door: Door,
    /// The device's id.
    #[arg(long)]
    device: DeviceId,
    /// Sends every message back to its sender.
    #[arg(long)]
    echo: bool,
    /// Ends after so many messages.
    #[arg(long)]
    count: Option<u64>,
    /// Ends after this time: 90s, 10m, 2h. It is an error if fewer messages than --count came.
    #[arg(long, value_parser = super::duration)]
    timeout: Option<Duration>,
    /// Prints one JSON object a message, and a line `ready` before.
    #[arg(long)]
    json: bool,
}

/// Between two looks at signals and deadlines.
const STEP: Duration = Duration::from_millis(100);

/// Listens until it is told to end.
///
/// # Errors
/// If the device isn't let in, or too few messages came in time.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let stop = Stop::listen()?;
    let client = Client::connect(args.door.options(&args.device)?)?;
    let until = args.timeout.map(|timeout| Instant::now() + timeout);
    let mut shown = 0;
    while !stop.is_asked() && args.count.is_none_or(|count| shown < count) {
        if until.is_some_and(|until| Instant::now() >= until) {
            if args.count.is_some() {
                bail!(
                    "{shown} messages came in {:?}, {} were expected",
                    args.timeout.unwrap_or_default(),
                    args.count.unwrap_or(0)
                );
            }
            break;
        }
        match client.event_timeout(STEP) {
            Some(Event::Message(message)) => {
                shown += 1;
                show(args, &message);
                if args.echo {
                    let sent = client.send(&message.sender, message.payload, TtlMs::default(), Guarantee::Confirmed);
                    if let Err(error) = sent {
                        eprintln!("not echoed: {error}");
                    }
                }
            }
            Some(Event::Welcomed(welcomed)) if args.json => {
                println!(
                    "{}",
                    json!({ "event": "ready", "epoch": welcomed.epoch.to_string(), "node": welcomed.node.0 })
                );
            }
            Some(Event::Welcomed(welcomed)) => {
                eprintln!(
                    "{} is connected at {} (node {})",
                    args.device, welcomed.server, welcomed.node
                );
            }
            Some(Event::Disconnected {
                server,
                reason,
                retry_in,
            }) => {
                eprintln!("{server}: {reason}; connecting again in {retry_in:.1?}");
            }
            Some(Event::Stopped { reason }) => bail!("{reason}"),
            Some(Event::Report(_)) | None => {}
        }
    }
    client.close();
    Ok(())
}

fn show(args: &Args, message: &Message) {
    let text = String::from_utf8_lossy(&message.payload);
    if args.json {
        let object = json!({
            "event": "message",
            "sender": message.sender.as_str(),
            "number": message.number,
            "late": message.late,
            "confirmed": message.guarantee == Guarantee::Confirmed,
            "payload": text,
        });
        println!("{object}");
    } else {
        println!("{}: {text}", message.sender);
    }
}
