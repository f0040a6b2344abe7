//! The control plane on a thread of its own: for `control`, and inside `up`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::Context;
use trunkline_control::config::Config;
use trunkline_control::counters::Counters;
use trunkline_control::server::Server;
use trunkline_control::store::RedbStore;
use trunkline_net::driver::Wake;
use trunkline_net::epoll::{EpollDriver, Options};
use trunkline_wire::auth::{ClusterKeys, Secret, random_bytes};

/// A control plane that runs.
pub struct ControlPlane {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What is to be seen of it from other threads.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What it counted.
    pub counters: Counters,
    /// The published version of the map.
    pub version: u64,
    /// Connections of nodes and tools.
    pub connections: usize,
    /// The answer to `status`.
    pub status: serde_json::Value,
    /// Why it ended, if it did.
    pub ended: Option<String>,
}

impl ControlPlane {
    /// Opens the store in `data_dir` (made if it isn't there), listens, and runs.
    ///
    /// # Errors
    /// A setting that can't be, a store that can't be read, a port in use.
    pub fn start(config: Config, data_dir: &Path, secret: &Secret, listen: SocketAddr) -> anyhow::Result<ControlPlane> {
        std::fs::create_dir_all(data_dir)
            .with_context(|| format!("data_dir {}: cannot be made", data_dir.display()))?;
        let store = RedbStore::open(data_dir)?;
        let options = Options {
            // It dials nobody: one more than it accepts is enough.
            sockets_max: u32::try_from(config.connections_max)
                .unwrap_or(u32::MAX)
                .saturating_add(1),
            sockets_reserved: 1,
            ..Default::default()
        };
        let driver = EpollDriver::new(options).context("the control plane's sockets")?;
        let mut server = Server::new(driver, store, config, ClusterKeys::new(secret), Box::new(random_bytes))?;
        let address = server.listen(listen).with_context(|| {
            format!("control listen {listen}: cannot be bound; is another control plane running, or the port in use?")
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let waker = server.waker();
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::Builder::new().name("control".into()).spawn(move || {
                let result = serve(&mut server, &stop, &seen);
                if let Err(error) = &result {
                    seen.lock().expect("nobody panics with it").ended = Some(format!("{error:#}"));
                }
                result
            })?
        };
        Ok(ControlPlane {
            address,
            stop,
            waker,
            seen,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is to be seen of it, shared with the HTTP port.
    pub fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }

    /// Ends it: what was committed is on disk.
    ///
    /// # Errors
    /// Why it had ended before.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        match self.thread.take().expect("it is taken once").join() {
            Ok(result) => result,
            Err(_) => anyhow::bail!("the control plane's thread panicked: a defect; its log says where"),
        }
    }
}

fn serve(server: &mut Server<EpollDriver, RedbStore>, stop: &AtomicBool, seen: &Mutex<Seen>) -> anyhow::Result<()> {
    while !stop.load(Ordering::Acquire) {
        // Without an end: what is published changes only when something happens, and the waker ends it.
        server.turn(None).context("the control plane's sockets")?;
        let mut seen = seen.lock().expect("nobody panics with it");
        seen.counters = server.counters();
        seen.version = server.version();
        seen.connections = server.connections();
        seen.status = server.status();
    }
    Ok(())
}
