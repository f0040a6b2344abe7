//! A cluster is upgraded to another version of the protocol, process by process and under traffic, and goes back again.
//!
//! Needs a build that speaks two versions (`--features next-version`); any other says that it skips this.

mod support;

#[cfg(not(feature = "next-version"))]
#[test]
fn a_cluster_is_upgraded_process_by_process_under_traffic() {
    eprintln!("skipped: this build speaks one version of the protocol; run with --features next-version");
}

#[cfg(feature = "next-version")]
mod two_versions {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;
    use std::time::Instant;

    use serde_json::Value;

    use crate::support::traffic::{Traffic, assert_nothing_is_lost};
    use crate::support::{Place, Running, TIMEOUT, get, last_json, run, stderr, until};

    const ANY: &str = "127.0.0.1:0";
    const SECRET: &str = "secret";

    /// A process that starts again where it was.
    struct Host {
        arguments: Vec<String>,
        running: Running,
    }

    impl Host {
        /// Starts it with these arguments, and `listen`: flags, and the ports that they are for. When it starts again, it listens there.
        fn start(mut arguments: Vec<String>, listen: &[(&str, &str)], version: &str) -> Host {
            let flags = |flags: &mut Vec<String>, address: &dyn Fn(&str) -> String| {
                for (flag, port) in listen {
                    flags.extend([(*flag).to_owned(), address(port)]);
                }
            };
            let mut first = arguments.clone();
            flags(&mut first, &|_| ANY.to_owned());
            let running = spoken(&first, version);
            flags(&mut arguments, &|port| running.address(port));
            Host { arguments, running }
        }

        /// Ends it, and starts it as another version.
        fn restart(&mut self, version: &str) {
            let status = self.running.end();
            assert!(status.success(), "{status}");
            self.running = spoken(&self.arguments, version);
        }
    }

    fn spoken(arguments: &[String], version: &str) -> Running {
        let mut all: Vec<&str> = arguments.iter().map(String::as_str).collect();
        all.extend(["--protocol-max", version]);
        Running::start(&all)
    }

    const NODES: [&str; 5] = ["north-1", "north-2", "edge-1", "edge-2", "edge-3"];

    /// Control, a region of two instances, and three connection servers.
    struct Cluster {
        place: Place,
        control: Host,
        nodes: Vec<Host>,
    }

    impl Cluster {
        fn start(version: &str) -> Cluster {
            let place = Place::new();
            let owned = |arguments: &[&str]| arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
            let (data, secret) = (place.path("control"), place.path(SECRET));
            let arguments = owned(&["control", "--data-dir", &data, "--secret-file", &secret]);
            let listen = [("--listen", "control"), ("--http-listen", "http")];
            let control = Host::start(arguments, &listen, version);
            let address = control.running.address("control");
            let mut nodes = Vec::new();
            for name in NODES {
                let data = place.path(name);
                let mut arguments = owned(&["node", "--name", name, "--control", &address]);
                arguments.extend(owned(&["--data-dir", &data, "--secret-file", &secret, "--cores", "0"]));
                let (roles, ports): (&[&str], &[_]) = if name.starts_with("north") {
                    let ports = [("--peer-listen", "peer"), ("--http-listen", "http")];
                    (&["--roles", "region", "--regions", "north"], &ports.clone())
                } else {
                    let ports = [
                        ("--device-listen", "device"),
                        ("--peer-listen", "peer"),
                        ("--http-listen", "http"),
                    ];
                    (&["--roles", "connection"], &ports.clone())
                };
                arguments.extend(owned(roles));
                nodes.push(Host::start(arguments, ports, version));
            }
            let cluster = Cluster { place, control, nodes };
            cluster.ready();
            cluster
        }

        /// Waits until all nodes serve, and control has heard of each what it has.
        fn ready(&self) {
            for node in &self.nodes {
                let http = node.running.address("http");
                until("a node is ready", || get(&http, "/readyz").0);
            }
            until("all are connected to control", || {
                let nodes = self.status();
                nodes.iter().all(|node| node["connected"] == true) && nodes.len() == self.nodes.len()
            });
        }

        fn ask(&self, request: &[&str]) -> Value {
            let (control, secret) = (self.control.running.address("control"), self.place.path(SECRET));
            let reach = ["--control", &control, "--secret-file", &secret];
            let output = run(request.iter().chain(&reach));
            assert!(output.status.success(), "{}", stderr(&output));
            last_json(&output)
        }

        fn status(&self) -> Vec<Value> {
            self.ask(&["status", "--json"])["nodes"].as_array().unwrap().clone()
        }

        /// Upgrades a node, or takes it back, as an operator would: its devices go elsewhere first.
        fn replace(&mut self, name: &str, version: &str) {
            let has_devices = name.starts_with("edge");
            if has_devices {
                self.ask(&["control", "drain", name]);
            }
            let place = NODES.iter().position(|node| *node == name).unwrap();
            self.nodes[place].restart(version);
            if has_devices {
                // The drain outlasts the start.
                self.ask(&["control", "drain", name, "--undo"]);
            }
            self.ready();
        }

        /// Each link comes to speak what both its ends do, and to say the other's build if that is the next version.
        fn links_come_to_speak(&self, highest: impl Fn(&str) -> u64) {
            let deadline = Instant::now() + TIMEOUT;
            while let Err(wrong) = self.links_speak(&highest) {
                assert!(Instant::now() < deadline, "{wrong}");
                std::thread::yield_now();
            }
        }

        fn links_speak(&self, highest: impl Fn(&str) -> u64) -> Result<(), String> {
            let nodes = self.status();
            let names: BTreeMap<_, _> = nodes
                .iter()
                .map(|node| (node["id"].as_u64(), text(&node["name"])))
                .collect();
            let speaks = |end: &Value, version: u64| {
                let right = end["protocol"] == version && end["build"].is_string() == (version == 2);
                right
                    .then_some(())
                    .ok_or_else(|| format!("not version {version}: {end}"))
            };
            for node in &nodes {
                let own = highest(text(&node["name"]));
                speaks(node, own.min(highest("control")))?;
                let links = node["says"]["links"].as_array().ok_or("no answer")?;
                let mut up = links.iter().filter(|link| link["state"] == "up").peekable();
                up.peek().ok_or_else(|| format!("no link: {node}"))?;
                up.try_for_each(|link| speaks(link, own.min(highest(names[&link["node"].as_u64()]))))?;
            }
            Ok(())
        }

        fn servers(&self) -> Vec<SocketAddr> {
            let edges = self
                .nodes
                .iter()
                .filter(|node| node.running.ready["device"].is_string());
            edges
                .map(|node| node.running.address("device").parse().unwrap())
                .collect()
        }
    }

    fn text(value: &Value) -> &str {
        value.as_str().unwrap()
    }

    #[test]
    fn a_cluster_is_upgraded_process_by_process_under_traffic() {
        let mut cluster = Cluster::start("1");
        cluster.links_come_to_speak(|_| 1);
        let traffic = Traffic::start(&cluster.servers());
        traffic.goes_on();
        for (place, name) in NODES.iter().enumerate() {
            cluster.replace(name, "2");
            traffic.goes_on();
            if place == 2 {
                // Half of the nodes are new, and control is old.
                cluster.links_come_to_speak(|name| if NODES[..=place].contains(&name) { 2 } else { 1 });
                cluster.control.restart("2");
                cluster.ready();
            }
        }
        cluster.links_come_to_speak(|_| 2);
        // And back: an instance, a connection server, control.
        for name in ["north-1", "edge-1"] {
            cluster.replace(name, "1");
            traffic.goes_on();
        }
        cluster.control.restart("1");
        cluster.ready();
        cluster.links_come_to_speak(|name| {
            if ["north-1", "edge-1", "control"].contains(&name) {
                1
            } else {
                2
            }
        });
        traffic.goes_on();
        assert_nothing_is_lost(&traffic.end());
    }

    #[test]
    fn a_version_that_the_build_does_not_speak_is_refused_by_name() {
        let output = run(["node", "--protocol-max", "3"]);
        assert!(!output.status.success());
        let text = stderr(&output);
        assert!(
            text.contains("this build speaks the protocol versions 1 to 2"),
            "{text}"
        );
    }
}
