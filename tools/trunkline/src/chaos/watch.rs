//! Tells when a cluster has come together: no move is open, every node is ready, in sync, and has control's map; every device has one
//! session.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::network::socket;
use crate::cluster::{is_edge, names};
use crate::http;

/// Waits until the cluster has come together with `devices` devices.
///
/// # Errors
/// After [`CONVERGENCE`]: what is still missing.
pub fn come_together(devices: usize) -> Result<(), String> {
    let until = Instant::now() + CONVERGENCE;
    loop {
        match missing(devices) {
            Ok(()) => return Ok(()),
            Err(why) if Instant::now() > until => return Err(why),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

fn missing(devices: usize) -> Result<(), String> {
    let ask = |address: SocketAddr| http::json(address, "/status", &[]).map_err(|error| format!("{error:#}"));
    let said = ask(socket("control", "http"))?;
    if said["moves_open"] != 0 {
        return Err(format!("{} moves are not over", said["moves_open"]));
    }
    let version = said["version"].clone();
    let mut sessions = 0;
    for name in names() {
        let said = ask(socket(&name, "http"))?;
        if said["ready"] != true {
            return Err(format!("{name} is not ready: {}", said["not_ready"]));
        }
        if said["map"]["version"] != version {
            return Err(format!("{name} has the map {}, not {version}", said["map"]["version"]));
        }
        let in_sync = |shard: &Value| shard["in_sync"] == true;
        if !said["shards"]
            .as_array()
            .is_some_and(|shards| shards.iter().all(in_sync))
        {
            return Err(format!("{name} is not in sync"));
        }
        if is_edge(&name) {
            sessions += said["sessions"].as_u64().unwrap_or(0);
        }
    }
    if sessions != devices as u64 {
        return Err(format!("{devices} devices have {sessions} sessions"));
    }
    Ok(())
}

/// Within this time after the last fault everything has come together.
const CONVERGENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
