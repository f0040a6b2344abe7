//! `trunkline control move` and its kin: asks for moves between regions, of nodes to and from regions, and shows how far they are.
//!
//! The control plane carries a move out by itself. Whoever looks on may go at any time, and come back with `watch`; the control plane
//! may go as well, and is waited for.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};
use trunkline_client::DeviceId;
use trunkline_control::admin::{Admin, AdminError};
use trunkline_control::logic::SHARE_WHOLE;

use super::control::Reach;
use crate::output::Progress;

/// How a request that moves something is answered.
#[derive(clap::Args)]
pub struct Follow {
    /// Says what would move, and changes nothing.
    #[arg(long)]
    dry_run: bool,
    /// Returns once the move is on the control plane's disk; see it with `moves` and `watch`.
    #[arg(long)]
    detach: bool,
    /// Prints one JSON object, as the move stands in the end.
    #[arg(long)]
    json: bool,
}

/// What to move, and where.
#[derive(clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true).args(["device", "slots", "share"]),
    after_help = "Examples:
  trunkline control move alice --to us
  trunkline control move --slots 0-8191 --to us --dry-run
  trunkline control move --share 25% --from eu --to us --detach"
)]
pub struct MoveArgs {
    /// A device that is enrolled, by its id.
    device: Option<DeviceId>,
    /// Slots, of 0 to 65535: one, or the first and the last.
    #[arg(long, value_name = "FIRST-LAST", value_parser = slots)]
    slots: Option<(u16, u16)>,
    /// A share of the slots of the region that `--from` names.
    #[arg(long, value_name = "PERCENT", value_parser = share, requires = "from")]
    share: Option<u32>,
    /// The region whose slots `--share` counts.
    #[arg(long, value_name = "REGION", requires = "share")]
    from: Option<String>,
    /// The region to move to.
    #[arg(long, value_name = "REGION")]
    to: String,
    #[command(flatten)]
    follow: Follow,
    #[command(flatten)]
    reach: Reach,
}

/// Asks for a move, and follows it.
///
/// # Errors
/// What was refused, or that the move was given up.
pub fn run(args: &MoveArgs) -> anyhow::Result<()> {
    let what = match (&args.device, args.slots, args.share) {
        (Some(device), ..) => json!({ "device": device.as_str() }),
        (None, Some((first, last)), _) => json!({ "slots": { "first": first, "last": last } }),
        (None, None, share) => json!({ "share": { "from": args.from, "share": share } }),
    };
    ask(
        &args.reach,
        json!({ "op": "move", "what": what, "to": args.to }),
        &args.follow,
    )
}

/// Asks for something that makes a move, and follows it.
///
/// # Errors
/// What was refused, or that the move was given up.
pub fn ask(reach: &Reach, mut request: Value, follow: &Follow) -> anyhow::Result<()> {
    request["dry_run"] = follow.dry_run.into();
    let answer = reach.connect()?.request(&request)?;
    let id = answer["move"].as_u64();
    match id {
        Some(id) if !follow.detach => watch(reach, id, follow.json),
        Some(_) | None => {
            print(&answer, follow.json);
            Ok(())
        }
    }
}

/// Prints all moves that are not over, and the latest that are.
///
/// # Errors
/// If the control plane doesn't answer.
pub fn list(reach: &Reach, json: bool) -> anyhow::Result<()> {
    let answer = reach.connect()?.request(&json!({ "op": "moves" }))?;
    if json {
        println!("{answer}");
        return Ok(());
    }
    let moves = answer["moves"].as_array().map_or(&[][..], Vec::as_slice);
    if moves.is_empty() {
        println!("no moves");
    }
    moves.iter().for_each(|one| print(one, false));
    Ok(())
}

/// Shows a move's progress until it is over.
///
/// # Errors
/// If there is no such move, it is given up, or the control plane stays away.
pub fn watch(reach: &Reach, id: u64, json: bool) -> anyhow::Result<()> {
    let mut progress = None;
    let mut told = String::new();
    let mut admin = None;
    loop {
        let state = state(reach, &mut admin, id)?;
        let stage = state["stage"].as_str().unwrap_or_default();
        let (members, waiting) = (count(&state["members"]), count(&state["waiting"]));
        let steps = steps(&state);
        let bar = progress.get_or_insert_with(|| Progress::new("settled by node and step", steps.len() * members));
        let done = steps.iter().position(|(name, _)| *name == stage).unwrap_or(0);
        bar.at(done * members + members.saturating_sub(waiting));
        let over = state["over"] == true;
        let line = line(&state);
        if !json && !over && line != told {
            eprintln!("{line}");
            told = line;
        }
        if over {
            if let Some(bar) = progress {
                bar.end();
            }
            if stage == "aborted" {
                bail!("move {id} was given up: nothing has changed");
            }
            print(&state, json);
            return Ok(());
        }
        thread::sleep(POLL);
    }
}

/// How the move stands. While the control plane is away it is waited for: it goes on where it was.
fn state(reach: &Reach, admin: &mut Option<Admin>, id: u64) -> anyhow::Result<Value> {
    let until = Instant::now() + AWAY_MAX;
    loop {
        let connected = match admin.take() {
            Some(connected) => Ok(connected),
            None => reach.connect(),
        };
        let answer = connected.and_then(|mut connected| {
            let answer = connected.request(&json!({ "op": "move-state", "id": id }))?;
            *admin = Some(connected);
            Ok(answer)
        });
        let error = match answer {
            Ok(state) => return Ok(state),
            Err(error) => error,
        };
        let away = matches!(
            error.downcast_ref::<AdminError>(),
            Some(AdminError::Unreachable { .. } | AdminError::Lost { .. } | AdminError::Closed { .. })
        );
        if !away || Instant::now() >= until {
            return Err(error)
                .with_context(|| format!("move {id} goes on without this; see it with: control watch {id}"));
        }
        thread::sleep(RETRY);
    }
}

fn print(state: &Value, json: bool) {
    if json {
        println!("{state}");
    } else {
        println!("{}", line(state));
    }
}

/// A move, or what would be one, in one line.
fn line(state: &Value) -> String {
    let pairs = state["pairs"].as_array().map_or(&[][..], Vec::as_slice);
    let turns = state["instances"].as_array().map_or(&[][..], Vec::as_slice);
    let pairs: Vec<String> = pairs.iter().map(pair).chain(turns.iter().map(turn)).collect();
    let what = if pairs.is_empty() {
        "nothing moves".to_owned()
    } else {
        pairs.join("; ")
    };
    let Some(id) = state["move"].as_u64() else {
        let how = if state["dry_run"] == true { "dry run: " } else { "" };
        return format!("{how}{what}");
    };
    let stage = match state["stage"].as_str().unwrap_or("?") {
        "pending" => "waits for its turn".to_owned(),
        "back" => "being given up".to_owned(),
        stage => {
            let steps = steps(state);
            let at = steps.iter().position(|(name, _)| *name == stage);
            at.map_or(stage.to_owned(), |at| {
                format!("step {} of {}, {}", at + 1, steps.len(), steps[at].1)
            })
        }
    };
    let named = state["waiting_for"].as_array().map_or(&[][..], Vec::as_slice);
    let named = named.iter().map(|node| {
        let (name, lease) = (
            node["name"].as_str().unwrap_or("?"),
            node["lease"].as_str().unwrap_or("?"),
        );
        format!("{name} ({lease})")
    });
    let named: Vec<String> = named.collect();
    let waiting = match count(&state["waiting"]) {
        0 => String::new(),
        nodes => format!(
            "; waits for {nodes} of {} nodes: {}",
            state["members"],
            named.join(", ")
        ),
    };
    format!("move {id}: {what}: {stage}{waiting}")
}

fn pair(pair: &Value) -> String {
    let mut what = Vec::new();
    for (field, one, many) in [("slots", "slot", "slots"), ("devices", "device", "devices")] {
        match count(&pair[field]) {
            0 => {}
            1 => what.push(format!("1 {one}")),
            more => what.push(format!("{more} {many}")),
        }
    }
    let name = |field: &str| pair[field].as_str().unwrap_or("?").to_owned();
    format!("{} from {} to {}", what.join(" and "), name("from"), name("to"))
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap_or(0) as usize
}

/// The stages in which nodes are waited for, and what happens in each.
fn steps(state: &Value) -> &'static [(&'static str, &'static str)] {
    if state["instances"].as_array().is_some_and(|turns| !turns.is_empty()) {
        &[
            ("both", "told of every session and asked by nobody"),
            ("end", "known by all as what it is now"),
        ]
    } else {
        &[
            ("both", "registering at both regions"),
            ("switch", "found by the new region"),
            ("end", "leaving the old region"),
        ]
    }
}

fn turn(turn: &Value) -> String {
    let text = |field: &str| turn[field].as_str().unwrap_or("?");
    let towards = if turn["way"] == "comes" { "to" } else { "from" };
    format!("{} {} {towards} {}", text("name"), text("way"), text("region"))
}

fn slots(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let slot = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("{text:?} is no slot: use 0 to 65535, such as 0-8191"))
    };
    Ok((slot(first)?, slot(last)?))
}

/// Ten-thousandths of a percentage with two decimals at most.
fn share(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no share: use a percentage such as 25% or 12.5%");
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || part.len() > 2 || !whole.bytes().chain(part.bytes()).all(|digit| digit.is_ascii_digit()) {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
    match whole.checked_mul(100).and_then(|whole| whole.checked_add(part)) {
        Some(share) if (1..=SHARE_WHOLE).contains(&share) => Ok(share),
        Some(_) | None => Err(format!("{text:?} is no share: it is above 0% and at most 100%")),
    }
}

/// How often progress is asked for.
const POLL: Duration = Duration::from_millis(100);
/// How soon a control plane that is away is looked for again.
const RETRY: Duration = Duration::from_millis(500);
/// How long it is waited for.
const AWAY_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_one_or_a_range() {
        assert_eq!(slots("7"), Ok((7, 7)));
        assert_eq!(slots("0-65535"), Ok((0, 65_535)));
        for wrong in ["", "-", "1-", "65536", "a", "1-2-3"] {
            assert!(slots(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_are_percentages_with_two_decimals_at_most() {
        assert_eq!(
            (share("25%"), share("12.5"), share("100%")),
            (Ok(2_500), Ok(1_250), Ok(10_000))
        );
        for wrong in ["", "%", "0%", "100.01%", "1.234%", "-1", "x%", "99999999999%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_move_reads_as_a_line() {
        let state = json!({
            "move": 3, "stage": "both", "members": 7, "waiting": 1,
            "pairs": [{ "from": "eu", "to": "us", "slots": 8192, "devices": 1 }],
            "waiting_for": [{ "node": 2, "name": "edge-1", "lease": "lapsed" }],
        });
        assert_eq!(
            line(&state),
            "move 3: 8192 slots and 1 device from eu to us: step 1 of 3, registering at both regions; \
             waits for 1 of 7 nodes: edge-1 (lapsed)"
        );
        let state = json!({
            "move": 4, "stage": "end", "members": 7, "waiting": 0, "pairs": [],
            "instances": [{ "node": 2, "name": "eu-2", "region": "eu", "way": "goes" }],
        });
        assert_eq!(
            line(&state),
            "move 4: eu-2 goes from eu: step 2 of 2, known by all as what it is now"
        );
    }
}
