//! `trunkline explain`: where a device is, and where a message to it would go.

use std::net::SocketAddr;

use anyhow::bail;
use serde_json::Value;
use trunkline_client::DeviceId;

use crate::http;

/// Says where a device is as one node sees it, and what the instances of its region know.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  trunkline explain bob\n  trunkline explain bob --http 10.0.0.2:7480 --json")]
pub struct Args {
    /// The device's id.
    device: DeviceId,
    /// The HTTP port of the node to ask: the one that would send the message.
    #[arg(long, env = "TRUNKLINE_HTTP", default_value = super::HTTP_ADDRESS)]
    http: SocketAddr,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Asks the node, and the instances that it names.
///
/// # Errors
/// If nobody answers.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let query = [("device", args.device.as_str())];
    let mut said = http::json(args.http, "/explain", &query)?;
    let Some(instances) = said.get_mut("instances").and_then(Value::as_array_mut) else {
        bail!("http://{}/explain did not answer as a node does", args.http);
    };
    for instance in instances {
        let own = instance.get("this").and_then(Value::as_bool).unwrap_or(false);
        let address = instance
            .get("http")
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<SocketAddr>().ok());
        let Some(address) = address.filter(|_| !own) else {
            continue;
        };
        instance["says"] = match http::json(address, "/explain", &query) {
            Ok(answer) => serde_json::json!({
                "presence": answer["presence"],
                "in_sync": answer["in_sync"],
                "remembered": answer["remembered"],
            }),
            Err(error) => serde_json::json!({ "error": format!("{error:#}") }),
        };
    }
    if args.json {
        println!("{said}");
    } else {
        print!("{}", text(&args.device, &said));
    }
    Ok(())
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        // An epoch has a text of its own.
        Value::Object(fields) if fields.contains_key("text") => word(&fields["text"]),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{name} {}", word(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn text(device: &DeviceId, said: &Value) -> String {
    let mut text = format!("device      {device} (key {})\n", word(&said["key"]));
    text += &format!(
        "asked       node {}, map version {}\n",
        word(&said["node"]),
        word(&said["map_version"])
    );
    text += &format!("region      {}\n", word(&said["region"]["name"]));
    for instance in said["instances"].as_array().into_iter().flatten() {
        let link = match instance["this"].as_bool() {
            Some(true) => "this node",
            _ => link(instance),
        };
        let says = match &instance["says"] {
            Value::Null => String::new(),
            says if says["error"].is_string() => format!(", {}", word(&says["error"])),
            says => format!(
                ", knows {}, in sync: {}, remembers {} partners",
                word(&says["presence"]),
                word(&says["in_sync"]),
                says["remembered"].as_u64().unwrap_or(0)
            ),
        };
        text += &format!(
            "instance    {} (node {}), {link}{says}\n",
            word(&instance["name"]),
            word(&instance["node"])
        );
    }
    for (label, said) in [
        ("session", word(&said["session"])),
        ("superseded", word(&said["superseded"])),
        ("location", location(&said["location"])),
        ("presence", word(&said["presence"])),
        ("last way", word(&said["last_way"])),
    ] {
        text += &format!("{label:<11} {said}\n");
    }
    for expected in said["expected"].as_array().into_iter().flatten() {
        let per_mille = expected["per_mille"].as_u64().unwrap_or(0);
        let key = word(&expected["key"]);
        text += &format!(
            "expected    to write to {key} next: {}.{} % (known from {})\n",
            per_mille / 10,
            per_mille % 10,
            match expected["from"].as_str() {
                Some("region") => "its region, from earlier sessions",
                _ => "this session",
            }
        );
    }
    text
}

/// Where a message would be sent straight to.
fn location(said: &Value) -> String {
    if said.is_null() {
        return word(said);
    }
    let what = match said["supposed"].as_bool() {
        Some(true) => "supposed, because a message came from there".to_owned(),
        _ => format!("session {}", word(&said["epoch"])),
    };
    format!(
        "{} (node {}), {}: {what}",
        word(&said["name"]),
        word(&said["node"]),
        link(said)
    )
}

/// Whether there is a link to a node of which that is said.
fn link(said: &Value) -> &'static str {
    match said["ready"].as_bool() {
        Some(true) => "link ready",
        _ => "no link",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_location_says_where_and_how_it_is_known() {
        let supposed = json!({ "epoch": null, "node": 3, "name": "edge-2", "ready": false, "supposed": true });
        assert_eq!(
            location(&supposed),
            "edge-2 (node 3), no link: supposed, because a message came from there"
        );
        let known =
            json!({ "epoch": { "text": "5.1@3" }, "node": 3, "name": "edge-2", "ready": true, "supposed": false });
        assert_eq!(location(&known), "edge-2 (node 3), link ready: session 5.1@3");
        assert_eq!(location(&Value::Null), "none");
    }
}
