//! The control plane's HTTP port: `/metrics`, `/healthz`, `/readyz`, `/status`.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use trunkline_node::http::{METRICS_TYPE, Server, serve};

use crate::control_plane::{ControlPlane, Seen};

type Shared = Arc<Mutex<Seen>>;

/// Serves on `address`, if there is one.
///
/// # Errors
/// A port in use.
pub fn start(address: Option<SocketAddr>, control: &ControlPlane) -> anyhow::Result<Option<Server>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).with_context(|| format!("http_listen {address}: cannot be bound"))?;
    let routes = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .with_state(control.seen());
    Ok(Some(serve(listener, routes).context("the HTTP port")?))
}

fn seen(shared: &Shared) -> Seen {
    shared.lock().expect("nobody panics with it").clone()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let seen = seen(&shared);
    let mut registry = Registry::default();
    for (name, help, value) in seen.counters.all() {
        // The encoder appends what every counter's name ends with.
        let name = name.strip_suffix("_total").unwrap_or(name);
        registry.register(name, help.trim_end_matches('.'), ConstCounter::new(value));
    }
    let version = ConstGauge::new(seen.version as i64);
    registry.register(
        "trunkline_control_map_version",
        "The published version of the map",
        version,
    );
    let connections = ConstGauge::new(seen.connections as i64);
    registry.register(
        "trunkline_control_connections",
        "Connections of nodes and tools",
        connections,
    );
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(shared): State<Shared>) -> Response {
    match seen(&shared).ended {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let seen = seen(&shared);
    match (seen.ended, seen.version) {
        (Some(reason), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
        (None, 0) => {
            let text = "no map is published yet: the first regions have to join\n";
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        (None, _) => "ok\n".into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> Response {
    Json(seen(&shared).status).into_response()
}
