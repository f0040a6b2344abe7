//! Encoding and decoding of the frames that every message passes as. Decoding leaves the payload where it is: only encoding copies it.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use trunkline_benches::{ORIGIN, RECIPIENT, device, keys};
use trunkline_wire::codec::Tail;
use trunkline_wire::device::{ClientFrame, Deliver, Send, ServerFrame};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{Epoch, Instance};
use trunkline_wire::peer::{Forward, PeerFrame, Target};
use trunkline_wire::report::{Number, Trail, TtlMs};

const CONFIRMED: Number = Number {
    number: 1000,
    confirmed: Some(990),
};
const PAYLOADS: [usize; 2] = [64, 4096];

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    for bytes in PAYLOADS {
        let payload = vec![7; bytes];
        send(&mut criterion, &payload);
        deliver(&mut criterion, &payload);
        forward(&mut criterion, &payload);
    }
    criterion.final_summary();
}

fn send(criterion: &mut Criterion, payload: &[u8]) {
    let recipient = device("recipient", 1);
    let frame = Send {
        recipient: recipient.borrow(),
        number: CONFIRMED,
        ttl: TtlMs::default(),
        payload: Tail(payload),
    };
    encode(criterion, "send", &frame, payload.len());
    decode(criterion, "send", &frame, payload.len(), |ty, body| {
        matches!(ClientFrame::decode(ty, body), Ok(Some(ClientFrame::Send(_))))
    });
}

fn deliver(criterion: &mut Criterion, payload: &[u8]) {
    let sender = device("sender", 1);
    let frame = Deliver {
        delivery: 17,
        sender: sender.borrow(),
        instance: Instance(1),
        number: CONFIRMED,
        payload: Tail(payload),
    };
    encode(criterion, "deliver", &frame, payload.len());
    decode(criterion, "deliver", &frame, payload.len(), |ty, body| {
        matches!(ServerFrame::decode(ty, body), Ok(Some(ServerFrame::Deliver(_))))
    });
}

fn forward(criterion: &mut Criterion, payload: &[u8]) {
    let (sender, recipient, keys) = (device("sender", 1), device("recipient", 1), keys());
    let frame = Forward {
        recipient: keys.device_key(recipient.borrow()),
        target: Target::Session {
            epoch: Epoch {
                clock: 1 << 56,
                node: RECIPIENT,
            },
        },
        trail: Trail::default().then(ORIGIN).expect("one node fits"),
        sender_key: keys.device_key(sender.borrow()),
        sender: sender.borrow(),
        instance: Instance(1),
        number: CONFIRMED,
        ttl: TtlMs::default(),
        payload: Tail(payload),
    };
    encode(criterion, "forward", &frame, payload.len());
    decode(criterion, "forward", &frame, payload.len(), |ty, body| {
        matches!(PeerFrame::decode(ty, body), Ok(Some(PeerFrame::Forward(_))))
    });
}

/// Behind each other into one vector, as an outbox does.
fn encode(criterion: &mut Criterion, name: &str, frame: &impl Encode, payload: usize) {
    let mut out = Vec::with_capacity(1 << 20);
    let mut group = criterion.benchmark_group("frame/encode");
    group.bench_function(BenchmarkId::new(name, payload), |bencher| {
        bencher.iter(|| {
            if out.len() > 1 << 19 {
                out.clear();
            }
            black_box(frame).encode(&mut out);
        });
    });
    group.finish();
}

fn decode(
    criterion: &mut Criterion,
    name: &str,
    frame: &impl Encode,
    payload: usize,
    is_read: impl Fn(u8, &[u8]) -> bool,
) {
    let bytes = frame.to_vec();
    let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().expect("it has a header");
    let ty = Header::decode(*header).ty;
    assert!(is_read(ty, body));
    let mut group = criterion.benchmark_group("frame/decode");
    group.bench_function(BenchmarkId::new(name, payload), |bencher| {
        bencher.iter(|| is_read(black_box(ty), black_box(body)));
    });
    group.finish();
}
