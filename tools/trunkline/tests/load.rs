//! `trunkline load`: what it measures is what happened, with a real server and with one that errs on purpose.

mod support;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use support::{Place, assert_one_line_error, last_json, run, stderr};

/// What the forwarder does to one in five hundred of the messages.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    None,
    /// It forgets it.
    Drop,
    /// It forwards it after the next to the same destination.
    Swap,
    /// It forwards it twice.
    Double,
}

/// A bare forwarder: a thread a connection, which is what a test can do without.
struct Forwarder {
    mistake: Mistake,
    destinations: HashMap<u64, TcpStream>,
    forwarded: usize,
    held: Option<(u64, Vec<u8>)>,
}

impl Forwarder {
    fn start(mistake: Mistake) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let forwarder = Arc::new(Mutex::new(Forwarder {
            mistake,
            destinations: HashMap::new(),
            forwarded: 0,
            held: None,
        }));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let forwarder = Arc::clone(&forwarder);
                std::thread::spawn(move || serve(stream, &forwarder));
            }
        });
        address
    }

    fn forward(&mut self, frame: Vec<u8>) {
        let destination = u64::from_le_bytes(frame[4..12].try_into().unwrap());
        // A message has a payload; greetings have none and are left alone.
        self.forwarded += usize::from(frame.len() > 12);
        let mistake = if self.forwarded % 500 == 250 && frame.len() > 12 {
            self.mistake
        } else {
            Mistake::None
        };
        match mistake {
            Mistake::Drop => return,
            Mistake::Swap if self.held.is_none() => {
                self.held = Some((destination, frame));
                return;
            }
            Mistake::Double => self.write(destination, &frame),
            Mistake::None | Mistake::Swap => {}
        }
        self.write(destination, &frame);
        // Behind one of the same sender, so that their order can be told.
        if let Some((to, held)) = self.held.take() {
            if to == destination && held[12..16] == frame[12..16] {
                self.write(to, &held);
            } else {
                self.held = Some((to, held));
            }
        }
    }

    fn write(&mut self, destination: u64, frame: &[u8]) {
        if let Some(stream) = self.destinations.get_mut(&destination) {
            let _ = stream.write_all(frame);
        }
    }
}

fn serve(mut stream: TcpStream, forwarder: &Mutex<Forwarder>) {
    let mut known = false;
    loop {
        let mut frame = vec![0; 4];
        if stream.read_exact(&mut frame).is_err() {
            return;
        }
        let length = u32::from_le_bytes(frame[..4].try_into().unwrap()) as usize;
        frame.resize(4 + length, 0);
        if stream.read_exact(&mut frame[4..]).is_err() {
            return;
        }
        let mut forwarder = forwarder.lock().unwrap();
        if known {
            forwarder.forward(frame);
        } else {
            known = true;
            let number = u64::from_le_bytes(frame[4..12].try_into().unwrap());
            forwarder.destinations.insert(number, stream.try_clone().unwrap());
        }
    }
}

/// A short run of few connections.
fn load(more: &[&str]) -> Output {
    let mut arguments = vec!["load", "--json", "--seconds", "0.5", "--warm-up", "0.1"];
    if !more.contains(&"--idle") {
        arguments.extend(["--connections", "5"]);
    }
    arguments.extend(more);
    run(&arguments)
}

fn at(address: SocketAddr) -> String {
    format!("floor=floor:{address}")
}

fn assert_clean(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let report = last_json(output);
    for fault in ["lost", "out_of_order", "doubled", "stray"] {
        assert_eq!(report["faults"][fault], 0, "{report}");
    }
    report
}

fn median(report: &Value, target: usize, metric: &str) -> f64 {
    report["targets"][target]["metrics"][metric]["median"]
        .as_f64()
        .unwrap_or_else(|| panic!("no {metric} in {report}"))
}

#[test]
fn a_forwarder_without_faults_has_none() {
    let report = assert_clean(&load(&[
        "--target",
        &at(Forwarder::start(Mistake::None)),
        "--outstanding",
        "4",
    ]));
    assert!(median(&report, 0, "per_second") > 10.0, "{report}");
    assert!(median(&report, 0, "p50_us") <= median(&report, 0, "p99_us"));
    assert!(median(&report, 0, "frames_per_send") >= 1.0);
}

#[test]
fn an_injected_loss_is_reported() {
    let output = load(&["--target", &at(Forwarder::start(Mistake::Drop)), "--outstanding", "8"]);
    assert_one_line_error(&output, &["messages were lost", "0 out of order", "0 doubled"]);
    assert!(last_json(&output)["faults"]["lost"].as_u64().unwrap() > 0);
}

#[test]
fn a_swapped_pair_and_a_doubled_message_are_reported() {
    let output = load(&["--target", &at(Forwarder::start(Mistake::Swap)), "--outstanding", "8"]);
    assert!(!output.status.success());
    assert!(last_json(&output)["faults"]["out_of_order"].as_u64().unwrap() > 0);

    let output = load(&["--target", &at(Forwarder::start(Mistake::Double)), "--outstanding", "8"]);
    assert_one_line_error(&output, &["0 messages were lost, 0 out of order"]);
    assert!(last_json(&output)["faults"]["doubled"].as_u64().unwrap() > 0);
}

#[test]
fn a_real_server_loses_nothing_in_any_kind_of_load() {
    let place = Place::new();
    let up = place.up(&["--cores", "0"]);
    let target = format!("native=native:{},pid={}", up.address("device"), up.pid());
    let native = ["--target", &target];

    for more in [
        &["--outstanding", "8"][..],
        &["--outstanding", "8", "--confirmed"],
        &["--rate", "500", "--even"],
    ] {
        let report = assert_clean(&load(&[&native[..], more].concat()));
        assert!(median(&report, 0, "per_second") > 10.0, "{report}");
        assert!(median(&report, 0, "server_cpu_us") > 0.0);
        assert_eq!(report["targets"][0]["refused"], 0);
    }
    let report = assert_clean(&load(&[&native[..], &["--idle", "20"]].concat()));
    assert_eq!(report["plan"]["connections"], 20);
    assert!(median(&report, 0, "server_resident_bytes") > 1e6);
    let report = assert_clean(&load(&[&native[..], &["--connects"]].concat()));
    assert!(report["targets"][0]["delivered"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn two_targets_are_loaded_in_turn_compared_and_drawn() {
    let place = Place::new();
    let up = place.up(&[]);
    let picture = place.path("load.svg");
    let (ours, floor) = (
        format!("ours=native:{}", up.address("device")),
        at(Forwarder::start(Mistake::None)),
    );
    let targets = ["--target", &ours, "--target", &floor, "--base", "floor"];
    let rounds = [
        "--rounds",
        "2",
        "--threads",
        "2",
        "--messages",
        "200",
        "--svg",
        &picture,
    ];
    let report = assert_clean(&load(&[&targets[..], &rounds].concat()));
    assert_eq!(report["base"], "floor");
    assert_eq!(report["targets"][0]["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(report["targets"][1]["ratios"]["per_second"]["median"], 1.0);
    assert!(report["targets"][0]["ratios"]["per_second"]["median"].as_f64().unwrap() > 0.0);
    let picture = std::fs::read_to_string(picture).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("polyline") && picture.contains("ours: "));
}

#[test]
fn what_is_wrong_is_said_on_one_line() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    assert_one_line_error(&load(&["--server", &nobody]), &[&nobody, "cannot connect"]);
    assert_one_line_error(
        &load(&["--target", "a=smtp:127.0.0.1:25"]),
        &["smtp", "native or floor or nats or redis or mqtt"],
    );
    let floor = at(Forwarder::start(Mistake::None));
    assert_one_line_error(&load(&["--target", &floor, "--confirmed"]), &["--confirmed"]);
    assert_one_line_error(&load(&["--target", &floor, "--target", &floor]), &["two targets"]);
    assert_one_line_error(&load(&["--target", &floor, "--base", "x"]), &["--base x"]);
    assert_one_line_error(&load(&["--payload", "3"]), &["16 to 65536"]);
    assert_one_line_error(&load(&["--rate", "5", "--connects"]), &["--rate", "--connects"]);
    let gone = format!("{floor},pid=4294967295");
    assert_one_line_error(&load(&["--target", &gone]), &["/proc/4294967295"]);
}
