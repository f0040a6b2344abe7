//! A cluster of separate processes that were told only the control address and the secret, as tests of several files use it.
#![allow(dead_code, reason = "each test file uses its own part")]

use serde_json::Value;

use super::{Place, Running, assert_one_line_error, get, last_json, run, stderr, until};

pub const ANY: &str = "127.0.0.1:0";

pub struct Cluster {
    pub place: Place,
    pub control: Running,
    /// In the order of their start.
    pub nodes: Vec<Running>,
}

impl Cluster {
    /// Control, and the regions north and south with one instance each, of these names.
    pub fn start() -> Cluster {
        let place = Place::new();
        let control = Cluster::control(&place, ANY);
        let mut cluster = Cluster {
            place,
            control,
            nodes: Vec::new(),
        };
        for region in ["north", "south"] {
            cluster.node(region, &["--roles", "region", "--regions", region]);
        }
        cluster
    }

    /// As [`Cluster::start`], with the connection servers edge-1 and edge-2, all of them ready.
    pub fn with_edges() -> Cluster {
        let mut cluster = Cluster::start();
        for edge in ["edge-1", "edge-2"] {
            cluster.node(edge, &["--roles", "connection"]);
        }
        cluster.ready();
        cluster
    }

    /// The control plane, listening there, on the data of this place.
    pub fn control(place: &Place, listen: &str) -> Running {
        let (data, secret) = (place.path("control"), place.path("secret"));
        let mut arguments = vec!["control", "--listen", listen, "--http-listen", ANY, "--data-dir", &data];
        arguments.extend(["--secret-file", &secret, "--initial-regions", "north,south"]);
        Running::start(&arguments)
    }

    /// Kills the control plane, and starts it again where it listened.
    pub fn restart_control(&mut self) {
        let address = self.control.address("control");
        self.control.kill();
        self.control = Cluster::control(&self.place, &address);
    }

    pub fn node(&mut self, name: &str, more: &[&str]) -> &Running {
        let node = self.started(name, more);
        self.nodes.push(node);
        self.nodes.last().unwrap()
    }

    /// A node that the caller keeps.
    pub fn started(&self, name: &str, more: &[&str]) -> Running {
        let (data, secret) = (self.place.path(name), self.place.path("secret"));
        let control = self.control.address("control");
        let mut arguments = vec!["node", "--name", name, "--control", &control];
        arguments.extend(["--data-dir", &data, "--secret-file", &secret]);
        for flag in ["--device-listen", "--peer-listen", "--http-listen"] {
            if !more.contains(&flag) {
                arguments.extend([flag, ANY]);
            }
        }
        arguments.extend(more);
        Running::start(&arguments)
    }

    /// Waits until all say that they are ready.
    pub fn ready(&self) {
        for node in &self.nodes {
            let http = node.address("http");
            until("a node is ready", || get(&http, "/readyz").0);
        }
    }

    pub fn at(&self) -> [String; 2] {
        [self.control.address("control"), self.place.path("secret")]
    }

    /// The command line that asks the control plane there for this.
    pub fn arguments<'a>(&'a self, request: &[&'a str], at: &'a [String; 2]) -> Vec<&'a str> {
        let mut arguments = vec!["control"];
        arguments.extend(request);
        arguments.extend(["--control", &at[0], "--secret-file", &at[1]]);
        arguments
    }

    pub fn ask(&self, request: &[&str]) -> Value {
        let at = self.at();
        let output = run(self.arguments(request, &at));
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)
    }

    /// Waits until control hears all nodes that it knows, as after its restart.
    pub fn until_all_are_back(&self) {
        until("all are back", || {
            let status = self.status();
            let nodes = status["nodes"].as_array().unwrap();
            nodes.iter().all(|node| node["connected"] == true)
        });
    }

    pub fn refused(&self, request: &[&str], parts: &[&str]) {
        let at = self.at();
        assert_one_line_error(&run(self.arguments(request, &at)), parts);
    }

    /// What `status` says.
    pub fn status(&self) -> Value {
        let [control, secret] = self.at();
        let output = run(["status", "--control", &control, "--secret-file", &secret, "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)
    }

    pub fn explain(&self, node: &Running, device: &str) -> Value {
        let output = run(["explain", device, "--http", &node.address("http"), "--json"]);
        assert!(output.status.success(), "{}", stderr(&output));
        last_json(&output)
    }
}

/// A device that listens there.
pub fn listen(node: &Running, device: &str) -> Running {
    Running::start(&["listen", "--server", &node.address("device"), "--device", device])
}
