//! Metrics, health and explanations over HTTP: one thread of its own, off the messages' way.
//!
//! `/metrics`, `/healthz`, `/readyz`, `/status`, `/explain?device=ID`. Reads shared numbers; only `/status` and `/explain` ask the
//! shards, by their mailboxes.

mod explain;
mod metrics;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::oneshot;
use trunkline_core::link::LinkStatus;

use crate::mesh::{Mailbox, Order, Reply};
use crate::run::{Shared, lock};

/// What metrics are, for whoever asks.
pub const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The running server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; requests under way are cut after a moment.
    pub fn stop(self) {
        let _ = self.stop.send(());
        if self.thread.join().is_err() {
            tracing::error!("the HTTP thread had panicked");
        }
    }
}

/// Serves `routes` on `listener` from a thread of its own.
///
/// # Errors
/// What the system said.
pub fn serve(listener: TcpListener, routes: Router) -> io::Result<Server> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let (stop, stopped) = oneshot::channel();
    let thread = thread::Builder::new().name("http".into()).spawn(move || {
        let served = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                served = async { axum::serve(listener, routes).await } => served,
                _ = stopped => Ok(()),
            }
        });
        if let Err(error) = served {
            tracing::error!("HTTP ended: {error}");
        }
    })?;
    Ok(Server { address, stop, thread })
}

/// What a node answers.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/explain", get(explain::explain))
        .with_state(shared)
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match metrics::encode(&shared) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    verdict(unhealthy(&shared))
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    verdict(not_ready(&shared))
}

fn verdict(reasons: Vec<String>) -> Response {
    if reasons.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

/// Shards that have not turned for a while: only a restart helps.
fn unhealthy(shared: &Shared) -> Vec<String> {
    let mut reasons = Vec::new();
    for (index, shard) in shared.stats.shards().iter().enumerate() {
        match shard.age(shared.clock.now()) {
            None => reasons.push(format!("shard {index} has not started")),
            Some(age) if age > STALLED_AFTER => {
                reasons.push(format!("shard {index} has not turned for {} s", age.as_secs()));
            }
            Some(_) => {}
        }
    }
    reasons
}

/// Why no traffic should be sent here yet. The control plane need not be there.
pub(crate) fn not_ready(shared: &Shared) -> Vec<String> {
    let mut reasons = unhealthy(shared);
    let shards = shared.stats.shards();
    if lock(&shared.agent.map).id().version == 0 {
        let trouble = lock(&shared.agent.trouble).clone();
        let trouble = trouble.unwrap_or_else(|| "none was published".into());
        reasons.push(format!("there is no map yet: {trouble}"));
    } else if shards
        .iter()
        .any(|shard| shard.map_version.load(Ordering::Relaxed) == 0)
    {
        reasons.push("a shard does not use the map yet".into());
    }
    if shared.stats.draining() {
        reasons.push("its devices are being sent elsewhere, and it lets none in".into());
    }
    let missing: u64 = shards
        .iter()
        .map(|shard| shard.links_missing.load(Ordering::Relaxed))
        .sum();
    if missing > 0 {
        reasons.push(format!("{missing} required links to other nodes are missing"));
    }
    reasons
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let map = Arc::clone(&lock(&shared.agent.map));
    let mut links = Vec::new();
    let mut per_shard = Vec::new();
    for (index, mailbox) in shared.mailboxes.iter().enumerate() {
        let asked = ask(mailbox, |reply| Order::Links { reply }).await;
        let answered = asked.is_some();
        for link in asked.unwrap_or_default() {
            links.push(link_json(&link, index, &map));
        }
        let stats = &shared.stats.shards()[index];
        per_shard.push(json!({
            "shard": index,
            "core": shared.cores.get(index),
            "backend": shared.backend.to_string(),
            "answers": answered,
            "sessions": stats.sessions.load(Ordering::Relaxed),
            "sockets": stats.sockets.load(Ordering::Relaxed),
            "unresolved": stats.unresolved.load(Ordering::Relaxed),
            "map_version": stats.map_version.load(Ordering::Relaxed),
            "map_settled": stats.map_settled.load(Ordering::Relaxed),
            "in_sync": stats.in_sync.load(Ordering::Relaxed),
            "turned_ms_ago": stats.age(shared.clock.now()).map(|age| age.as_millis() as u64),
        }));
    }
    let sessions: u64 = shared
        .stats
        .shards()
        .iter()
        .map(|shard| shard.sessions.load(Ordering::Relaxed))
        .sum();
    Json(json!({
        "node": shared.node.0,
        "name": shared.name,
        "incarnation": shared.incarnation.0,
        "roles": {
            "connection": shared.roles.connection,
            "messaging": shared.roles.messaging,
            "region": shared.roles.region,
        },
        "device_address": shared.device_address,
        "peer_address": shared.peer_address,
        "map": { "version": map.id().version, "lineage": format!("{:016x}", map.id().lineage) },
        "member": shared.agent.member.load(Ordering::Relaxed),
        "control_trouble": *lock(&shared.agent.trouble),
        "sessions": sessions,
        "draining": shared.stats.draining(),
        "ready": not_ready(&shared).is_empty(),
        "not_ready": not_ready(&shared),
        "links": links,
        "shards": per_shard,
    }))
    .into_response()
}

fn link_json(link: &LinkStatus, shard: usize, map: &trunkline_wire::map::Map) -> serde_json::Value {
    #[cfg_attr(
        not(feature = "next-version"),
        expect(unused_mut, reason = "only the next version has more to say")
    )]
    let mut shown = json!({
        "node": link.node.0,
        "name": map.node(link.node).map(|node| node.name.as_str()),
        "shard": shard,
        "state": link.state.name(),
        "required": link.required,
        "dialled": link.dialled,
        "protocol": link.version,
        "worth_per_mille": link.worth.map(|worth| worth.to_per_mille()),
        "wished_by": link.wished_by.map(|device| device.to_string()),
        "heard_ms_ago": link.heard_ms,
        "failures": link.failures,
        "trouble": link.trouble,
    });
    #[cfg(feature = "next-version")]
    {
        shown["build"] = json!(link.build);
    }
    shown
}

/// Asks a shard and waits for its answer; `None` if it has none in time.
async fn ask<T: Send + 'static>(mailbox: &Mailbox, order: impl FnOnce(Reply<T>) -> Order) -> Option<T> {
    let (tell, told) = oneshot::channel();
    let reply: Reply<T> = Box::new(move |answer| {
        let _ = tell.send(answer);
    });
    if !mailbox.send(order(reply)) {
        return None;
    }
    tokio::time::timeout(ANSWER_TIMEOUT, told).await.ok()?.ok()
}

/// A shard turns every second at least.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How long a shard may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
