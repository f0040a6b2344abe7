//! Several servers in a row: bare forwarders, and Trunkline's two connection servers with a region's instance and the control plane.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::contender::{Contender, Running, built, free_address, written};

/// So many floors in a row, all on the same processor. Devices connect to both ends.
///
/// # Errors
/// One doesn't start.
pub fn floors(contender: Contender, count: usize, cores: &[usize]) -> anyhow::Result<Running> {
    let program = built("floor")?;
    let core = cores.first().context("a server needs a processor")?.to_string();
    let mut running = Running::new(contender);
    let start = |running: &mut Running, next: Option<SocketAddr>| -> anyhow::Result<SocketAddr> {
        let address = free_address()?;
        let mut command = Command::new(&program);
        command.args(["--backend", "uring", "--listen", &address.to_string(), "--core", &core]);
        if let Some(next) = next {
            command.args(["--next", &next.to_string()]);
        }
        running.spawn(&mut command, cores)?;
        if !running.accepts(address)? {
            bail!("{contender}: a floor ends as soon as it is started");
        }
        Ok(address)
    };
    // The middle one first, if there is one: both ends connect to it.
    let first = start(&mut running, None)?;
    let last = start(&mut running, Some(first))?;
    let other = match count {
        2 => first,
        _ => start(&mut running, Some(first))?,
    };
    running.addresses = vec![other, last];
    Ok(running)
}

/// Trunkline's cluster, all on the same processors: two connection servers, the instance of the one region, and the control plane.
///
/// # Errors
/// One doesn't start.
pub fn ours(contender: Contender, cores: &[usize]) -> anyhow::Result<Running> {
    let program = built("trunkline")?;
    let directory = tempfile::tempdir().context("a directory for a server")?;
    let secret = written(
        directory.path(),
        "secret",
        "the secret of a cluster that lives for a minute",
    )?;
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).context("the secret's permissions")?;
    let mut running = Running::new(contender);
    let control = free_address()?;
    let common = |name: &str, kind: &str| {
        let mut command = Command::new(&program);
        command.arg(kind).arg("--data-dir").arg(directory.path().join(name));
        command.arg("--secret-file").arg(&secret);
        command
    };
    let mut command = common("control", "control");
    command.args(["--listen", &control.to_string(), "--initial-regions", "main"]);
    running.spawn(&mut command, cores)?;
    if !running.accepts(control)? {
        bail!("{contender}: the control plane ends as soon as it is started");
    }
    let cores_named: Vec<String> = cores.iter().map(usize::to_string).collect();
    let mut health = Vec::new();
    for name in ["region", "edge-1", "edge-2"] {
        let (device, http) = (free_address()?, free_address()?);
        let mut command = common(name, "node");
        command.args(["--name", name, "--control", &control.to_string()]);
        command.args(["--backend", "uring", "--cores", &cores_named.join(",")]);
        command.args(["--peer-listen", "127.0.0.1:0", "--http-listen", &http.to_string()]);
        match name {
            "region" => command.args(["--roles", "region", "--regions", "main"]),
            _ => {
                running.addresses.push(device);
                command.args(["--roles", "connection", "--device-listen", &device.to_string()])
            }
        };
        if contender == Contender::OursRegion {
            command.args(["--direct-links-max", "0"]);
        }
        running.spawn(&mut command, cores)?;
        health.push(http);
    }
    if !running.awaits("is not ready", || health.iter().all(|http| is_ready(*http)))? {
        bail!("{contender}: a node ends as soon as it is started");
    }
    running.directory = Some(directory);
    Ok(running)
}

/// What a node's health port says.
pub fn is_ready(http: SocketAddr) -> bool {
    get(http, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A node's answer to this path, head and all.
///
/// # Errors
/// It doesn't answer in time.
pub fn get(http: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&http, ANSWER_MAX)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// A node that doesn't answer by then is asked again.
const ANSWER_MAX: Duration = Duration::from_secs(1);
