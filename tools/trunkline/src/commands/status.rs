//! `trunkline status`: the cluster as the control plane knows it, and whether its regions are in sync.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::control::Reach;
use crate::http;

/// Shows the cluster: nodes, roles, the map versions that they have, regions and whether they are in sync.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  trunkline status\n  trunkline status --control 10.0.0.1:7402 --secret-file /etc/trunkline/secret --json"
)]
pub struct Args {
    #[command(flatten)]
    reach: Reach,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Asks the control plane, then each node.
///
/// # Errors
/// If the control plane doesn't answer, or refuses.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut admin = args.reach.connect()?;
    let mut said = admin.request(&json!({ "op": "status" }))?;
    let mut next = said["next"].take();
    while !next.is_null() {
        let mut page = admin.request(&json!({ "op": "status", "after": next }))?;
        next = page["next"].take();
        if let (Some(nodes), Some(more)) = (said["nodes"].as_array_mut(), page["nodes"].as_array_mut()) {
            nodes.append(more);
        }
    }
    for node in said["nodes"].as_array_mut().into_iter().flatten() {
        let address = node
            .get("http_address")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<SocketAddr>().ok());
        let Some(address) = address else { continue };
        node["says"] =
            http::json(address, "/status", &[]).unwrap_or_else(|error| json!({ "error": format!("{error:#}") }));
    }
    if args.json {
        println!("{said}");
    } else {
        print!("{}", text(&said));
    }
    Ok(())
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(all) => all.iter().map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn text(said: &Value) -> String {
    let mut text = format!(
        "map version {}, lineage {}\n\n",
        word(&said["version"]),
        word(&said["lineage"])
    );
    text += &format!(
        "{:<6}{:<20}{:<28}{:<10}{:<10}{:<10}{:<10}{}\n",
        "NODE", "NAME", "ROLES", "MEMBER", "PROTOCOL", "MAP", "SESSIONS", "IN SYNC"
    );
    for node in said["nodes"].as_array().into_iter().flatten() {
        let says = &node["says"];
        let shards = says["shards"].as_array();
        let in_sync = match shards {
            None => "no answer",
            Some(shards) if shards.iter().all(|shard| shard["in_sync"] == true) => "yes",
            Some(_) => "no",
        };
        text += &format!(
            "{:<6}{:<20}{:<28}{:<10}{:<10}{:<10}{:<10}{in_sync}\n",
            word(&node["id"]),
            word(&node["name"]),
            word(&node["roles"]),
            if node["draining"] == true {
                "draining".to_owned()
            } else {
                word(&node["lease"])
            },
            word(&node["protocol"]),
            word(&node["version"]),
            word(&says["sessions"]),
        );
    }
    text += &format!("\n{:<20}{:<10}{:<10}{}\n", "REGION", "WEIGHT", "SLOTS", "INSTANCES");
    for region in said["regions"].as_array().into_iter().flatten() {
        text += &format!(
            "{:<20}{:<10}{:<10}{}\n",
            word(&region["name"]),
            word(&region["weight"]),
            word(&region["slots"]),
            word(&region["instances"])
        );
    }
    text
}
