//! `trunkline load` against the real servers of other protocols, where they are installed: what it sends comes, all of it and in order.

mod support;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{last_json, run, stderr};

/// A server that ends with the test.
struct Server {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts `program` with what `arguments` makes of its port and of a directory; `None`, and why, if it isn't installed.
    fn start(program: &str, arguments: impl Fn(u16, &std::path::Path) -> Vec<String>) -> Option<Server> {
        let directory = tempfile::tempdir().unwrap();
        // Somebody else may take the port before the server does: then the next one.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let started = Command::new(program)
                .args(arguments(address.port(), directory.path()))
                .current_dir(directory.path())
                .env(
                    "PATH",
                    format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
                )
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let Ok(mut child) = started else {
                println!("skipped: {program} is not installed");
                return None;
            };
            let end = Instant::now() + Duration::from_secs(20);
            while child.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Some(Server {
                        child,
                        address,
                        _directory: directory,
                    });
                }
                assert!(Instant::now() < end, "{program} does not listen");
                std::thread::yield_now();
            }
        }
        panic!("{program} ends at once");
    }

    fn takes(&self, protocol: &str, more: &[&str]) {
        let target = format!("{protocol}={protocol}:{},pid={}", self.address, self.child.id());
        let short = [
            "load",
            "--json",
            "--target",
            &target,
            "--seconds",
            "0.5",
            "--warm-up",
            "0.1",
        ];
        let output = run([&short[..], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        let report = last_json(&output);
        for fault in ["lost", "out_of_order", "doubled", "stray"] {
            assert_eq!(report["faults"][fault], 0, "{report}");
        }
        let target = &report["targets"][0];
        assert!(target["delivered"].as_u64().unwrap() > 0, "{report}");
        assert!(target["metrics"]["server_cpu_us"]["median"].as_f64().unwrap() > 0.0);
    }

    fn takes_all(&self, protocol: &str) {
        self.takes(protocol, &["--connections", "10", "--outstanding", "8"]);
        self.takes(protocol, &["--connections", "10", "--rate", "500"]);
        self.takes(
            protocol,
            &["--connections", "4", "--payload", "16384", "--outstanding", "2"],
        );
        self.takes(protocol, &["--connections", "4", "--connects"]);
    }
}

#[test]
fn nats_takes_a_load() {
    let server = Server::start("nats-server", |port, _| {
        ["-a", "127.0.0.1", "-p", &port.to_string()].map(String::from).to_vec()
    });
    if let Some(server) = server {
        server.takes_all("nats");
    }
}

#[test]
fn redis_takes_a_load() {
    let server = Server::start("redis-server", |port, _| {
        // Not protected: the load comes from other addresses of this host's as well.
        let port = port.to_string();
        let settings = [
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--protected-mode",
            "no",
            "--save",
            "",
        ];
        settings.map(String::from).to_vec()
    });
    if let Some(server) = server {
        server.takes_all("redis");
    }
}

#[test]
fn mosquitto_takes_a_load() {
    let server = Server::start("mosquitto", |port, directory| {
        let file = directory.join("mosquitto.conf");
        let settings = format!("listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n");
        std::fs::write(&file, settings).unwrap();
        vec!["-c".to_owned(), file.display().to_string()]
    });
    if let Some(server) = server {
        server.takes_all("mqtt");
    }
}

#[test]
fn rumqttd_takes_a_load() {
    let server = Server::start("rumqttd", |port, directory| {
        let file = directory.join("rumqttd.toml");
        let settings = format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 100\nmax_outgoing_packet_count = 1000\nmax_segment_size = 1048576\n\
             max_segment_count = 10\n[v4.1]\nname = \"v4\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
             [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 70000\nmax_inflight_count = 100\n\
             dynamic_filters = true\n"
        );
        std::fs::write(&file, settings).unwrap();
        vec!["-c".to_owned(), file.display().to_string()]
    });
    if let Some(server) = server {
        server.takes_all("mqtt");
    }
}
