//! Real processes of the real binary, for tests: started, read, ended.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod cluster;
pub mod traffic;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The binary with these arguments, and an environment in which nothing is set but the back end, if the tests are told of one.
pub fn trunkline<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkline"));
    command.args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TRUNKLINE_")) {
        command.env_remove(name);
    }
    if let Some(backend) = std::env::var_os("TRUNKLINE_TEST_BACKEND") {
        command.env("TRUNKLINE_BACKEND", backend);
    }
    command
}

/// Runs it to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    trunkline(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs")
}

/// The last line of standard output, as JSON.
pub fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text
        .lines()
        .last()
        .unwrap_or_else(|| panic!("no output; {}", stderr(output)));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// It failed, with one line on standard error that says all of this.
pub fn assert_one_line_error(output: &Output, parts: &[&str]) {
    let text = stderr(output);
    assert!(!output.status.success(), "it succeeded: {text}");
    assert_eq!(text.trim_end().lines().count(), 1, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

/// A process that runs; killed when dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    pub ready: Value,
}

impl Running {
    /// Starts it, with its JSON lines on, and waits for its `ready` line.
    pub fn start(arguments: &[&str]) -> Running {
        let mut child = trunkline(arguments)
            .arg("--json")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let mut running = Running {
            child,
            lines,
            ready: Value::Null,
        };
        running.ready = running.json();
        assert_eq!(running.ready["event"], "ready", "{}", running.ready);
        running
    }

    /// Its next line.
    pub fn line(&mut self) -> String {
        self.lines.recv_timeout(TIMEOUT).unwrap_or_else(|_| {
            let _ = self.child.kill();
            let mut text = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut stderr, &mut text);
            }
            panic!("no further line came; it logged: {text}");
        })
    }

    /// Its next line, as JSON.
    pub fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// An address of its `ready` line.
    pub fn address(&self, port: &str) -> String {
        self.ready[port]
            .as_str()
            .unwrap_or_else(|| panic!("no {port} in {}", self.ready))
            .to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and what it exits with.
    pub fn end(&mut self) -> std::process::ExitStatus {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        let until = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it did not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory with a secret, for a cluster.
pub struct Place {
    pub directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        let place = Place {
            directory: tempfile::tempdir().unwrap(),
        };
        place.write("secret", "a secret of the tests, long enough");
        place
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path.display().to_string()
    }

    /// `up` in this place, on ports of the system's choice.
    pub fn up(&self, more: &[&str]) -> Running {
        let data = self.path("up");
        let mut arguments = vec!["up", "--data-dir", &data];
        for flag in ["--device-listen", "--peer-listen", "--control-listen", "--http-listen"] {
            arguments.extend([flag, "127.0.0.1:0"]);
        }
        arguments.extend(more);
        Running::start(&arguments)
    }
}

/// The body of a page of an HTTP port, and whether its status was 200.
pub fn get(address: &str, path: &str) -> (bool, String) {
    use std::io::Read;
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.starts_with("HTTP/1.1 200"), body.to_owned())
}

/// The sum of a counter over its shards, from `/metrics`.
pub fn metric(address: &str, name: &str) -> f64 {
    let (_, text) = get(address, "/metrics");
    let of_name = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
    };
    text.lines()
        .filter(of_name)
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// Asks until the condition holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
