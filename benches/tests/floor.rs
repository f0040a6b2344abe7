//! The floor forwards every byte in order, however it was cut, over each back end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A floor that ends with the test. `None` where the kernel doesn't let this process have io_uring.
fn start(backend: &str) -> Option<(Child, SocketAddr)> {
    start_beside(backend, None)
}

/// One that has a connection to another.
fn start_beside(backend: &str, next: Option<SocketAddr>) -> Option<(Child, SocketAddr)> {
    let next = next.map(|next| format!("--next={next}"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_floor"))
        .args(["--backend", backend, "--listen", "127.0.0.1:0", "--end-with-stdin"])
        .args(next)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let Some((_, rest)) = line.split_once(r#""address":""#) else {
        let output = child.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("io_uring"), "{error}");
        eprintln!("not tested: {error}");
        return None;
    };
    let address = rest.split('"').next().unwrap().parse().unwrap();
    Some((child, address))
}

fn frame(destination: u64, payload: &[u8]) -> Vec<u8> {
    let length = 8 + payload.len() as u32;
    [&length.to_le_bytes()[..], &destination.to_le_bytes(), payload].concat()
}

/// Connects as `number`, and waits until it is known: until a frame to itself is back.
fn connect(address: SocketAddr, number: u64) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let probe = frame(number, b"probe");
    stream.write_all(&frame(number, b"")).unwrap();
    stream.write_all(&probe).unwrap();
    let mut back = vec![0; probe.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, probe);
    stream
}

fn everything_arrives_in_order(backend: &str) {
    let Some((mut child, address)) = start(backend) else {
        return;
    };
    let (mut one, mut two) = (connect(address, 1), connect(address, u64::MAX));
    // Each frame says which it is; lengths from none to several buffers.
    let frames = (0..2_000u32).map(|index| {
        let payload = index.to_le_bytes().repeat((index as usize * 37) % 5_000);
        frame(u64::MAX, &payload)
    });
    let stream: Vec<u8> = frames.flatten().collect();
    let sent = stream.clone();
    let writer = std::thread::spawn(move || {
        let (mut rest, mut piece) = (&sent[..], 1);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            one.write_all(now).unwrap();
            rest = later;
            piece = piece * 3 % 10_007;
        }
        one
    });
    let mut arrived = vec![0; stream.len()];
    two.read_exact(&mut arrived).unwrap();
    assert!(arrived == stream, "the streams differ");
    let mut one = writer.join().unwrap();

    // Who is out of step is closed; nobody else is.
    two.write_all(&[0xff; 16]).unwrap();
    assert_eq!(two.read(&mut [0; 8]).unwrap_or(0), 0);
    one.write_all(&frame(1, b"still here")).unwrap();
    let mut back = vec![0; frame(1, b"still here").len()];
    one.read_exact(&mut back).unwrap();

    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
}

/// Both ways, over one in the middle that has no devices.
fn three_in_a_row_forward_to_each_other_s_devices(backend: &str) {
    let Some((_middle, middle)) = start(backend) else {
        return;
    };
    let (_left, left) = start_beside(backend, Some(middle)).unwrap();
    let (_right, right) = start_beside(backend, Some(middle)).unwrap();
    let (mut one, mut two) = (connect(left, 1), connect(right, 2));
    for n in 0..100u32 {
        let (there, back) = (frame(2, &n.to_le_bytes()), frame(1, &[n as u8; 3_000]));
        one.write_all(&there).unwrap();
        let mut arrived = vec![0; there.len()];
        two.read_exact(&mut arrived).unwrap();
        assert_eq!(arrived, there);
        two.write_all(&back).unwrap();
        let mut arrived = vec![0; back.len()];
        one.read_exact(&mut arrived).unwrap();
        assert_eq!(arrived, back);
    }
}

#[test]
fn over_epoll_three_in_a_row_forward_to_each_other_s_devices() {
    three_in_a_row_forward_to_each_other_s_devices("epoll");
}

#[cfg(target_os = "linux")]
#[test]
fn over_io_uring_three_in_a_row_forward_to_each_other_s_devices() {
    three_in_a_row_forward_to_each_other_s_devices("uring");
}

#[test]
fn over_epoll_everything_arrives_in_order() {
    everything_arrives_in_order("epoll");
}

#[cfg(target_os = "linux")]
#[test]
fn over_io_uring_everything_arrives_in_order() {
    everything_arrives_in_order("uring");
}
