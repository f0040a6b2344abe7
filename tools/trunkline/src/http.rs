//! Asks nodes over their HTTP port.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

const TIMEOUT: Duration = Duration::from_secs(3);

/// The JSON that a node answers at `path` (with its query).
///
/// # Errors
/// If nobody answers, or the answer is an error.
pub fn json(address: SocketAddr, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Value> {
    let (status, text) = text(address, path, query)?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("http://{address}{path} gave no JSON"))?;
    if status != 200 {
        let said = value.get("error").and_then(Value::as_str).unwrap_or(&text);
        bail!("http://{address}{path}: {said}");
    }
    Ok(value)
}

/// The status and the text that a node answers.
///
/// # Errors
/// If nobody answers.
pub fn text(address: SocketAddr, path: &str, query: &[(&str, &str)]) -> anyhow::Result<(u16, String)> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .build()
        .into();
    let request = agent
        .get(format!("http://{address}{path}"))
        .query_pairs(query.iter().copied());
    let mut response = request
        .call()
        .with_context(|| format!("no node answers at http://{address}; name its HTTP port with --http"))?;
    let text = response
        .body_mut()
        .read_to_string()
        .with_context(|| format!("http://{address}{path}"))?;
    Ok((response.status().as_u16(), text))
}
