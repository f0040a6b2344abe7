//! Encoding and decoding of the frames that every message passes as. Decoding leaves the payload where it is: only encoding copies it.

use std::hint::black_box;

use trunkline_wire::codec::Tail;
use trunkline_wire::device::{ClientFrame, Deliver, Send, ServerFrame};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{Epoch, Instance};
use trunkline_wire::peer::{Forward, PeerFrame, Target};
use trunkline_wire::preface::VERSION_MAX;
use trunkline_wire::report::{Number, Trail, TtlMs};

use super::{Entry, Step};
use crate::{ORIGIN, RECIPIENT, device, keys};

pub(super) const ALL: &[Entry] = &[
    Entry::new("frame/encode", "send_64", || encode(send(64))),
    Entry::new("frame/decode", "send_64", || decode(send(64), is_send)),
    Entry::new("frame/encode", "send_4096", || encode(send(4096))),
    Entry::new("frame/decode", "send_4096", || decode(send(4096), is_send)),
    Entry::new("frame/encode", "deliver_64", || encode(deliver(64))),
    Entry::new("frame/decode", "deliver_64", || decode(deliver(64), is_deliver)),
    Entry::new("frame/encode", "deliver_4096", || encode(deliver(4096))),
    Entry::new("frame/decode", "deliver_4096", || decode(deliver(4096), is_deliver)),
    Entry::new("frame/encode", "forward_64", || encode(forward(64))),
    Entry::new("frame/decode", "forward_64", || decode(forward(64), is_forward)),
    Entry::new("frame/encode", "forward_4096", || encode(forward(4096))),
    Entry::new("frame/decode", "forward_4096", || decode(forward(4096), is_forward)),
];

const CONFIRMED: Number = Number {
    number: 1000,
    confirmed: Some(990),
};

/// The steps live as long as the process, and so does what they refer to.
fn payload(bytes: usize) -> Tail<'static> {
    Tail(vec![7; bytes].leak())
}

fn send(bytes: usize) -> Send<'static> {
    Send {
        recipient: Box::leak(Box::new(device("recipient", 1))).borrow(),
        number: CONFIRMED,
        ttl: TtlMs::default(),
        payload: payload(bytes),
    }
}

fn is_send(ty: u8, body: &[u8]) -> bool {
    matches!(
        ClientFrame::decode(VERSION_MAX, ty, body),
        Ok(Some(ClientFrame::Send(_)))
    )
}

fn deliver(bytes: usize) -> Deliver<'static> {
    Deliver {
        delivery: 17,
        sender: Box::leak(Box::new(device("sender", 1))).borrow(),
        instance: Instance(1),
        number: CONFIRMED,
        payload: payload(bytes),
    }
}

fn is_deliver(ty: u8, body: &[u8]) -> bool {
    matches!(
        ServerFrame::decode(VERSION_MAX, ty, body),
        Ok(Some(ServerFrame::Deliver(_)))
    )
}

fn forward(bytes: usize) -> Forward<'static> {
    let (sender, recipient) = (&*Box::leak(Box::new(device("sender", 1))), device("recipient", 1));
    let keys = keys();
    Forward {
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
        payload: payload(bytes),
    }
}

fn is_forward(ty: u8, body: &[u8]) -> bool {
    matches!(
        PeerFrame::decode(VERSION_MAX, ty, body),
        Ok(Some(PeerFrame::Forward(_)))
    )
}

/// Behind each other into one vector, as an outbox does.
fn encode(frame: impl Encode + 'static) -> Box<dyn Step> {
    let mut out = Vec::with_capacity(1 << 20);
    Box::new(move || {
        if out.len() > 1 << 19 {
            out.clear();
        }
        black_box(&frame).encode(&mut out);
    })
}

fn decode(frame: impl Encode, is_read: fn(u8, &[u8]) -> bool) -> Box<dyn Step> {
    let bytes = frame.to_vec();
    Box::new(move || {
        let (header, body) = black_box(&bytes)
            .split_first_chunk::<HEADER_BYTES>()
            .expect("it has a header");
        assert!(is_read(Header::decode(*header).ty, body));
    })
}
