//! A server for one test: it accepts when told to, says what it is told to, and reads frame by frame.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use trunkline_client::{DeviceId, Epoch, IdRef, Instance, NodeId, Options, Outcome, Way};
use trunkline_wire::codec::Tail;
use trunkline_wire::device::{ClientFrame, Deliver, ErrorCode, Ping, Report, ServerFrame, Welcome};
use trunkline_wire::frame::{Decode, HEADER_BYTES, Header};
use trunkline_wire::preface::{PREFACE_BYTES, Preface, Side, VERSION_MAX};
use trunkline_wire::report::Number;

/// Far longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Server {
    listener: TcpListener,
}

pub struct Peer {
    stream: TcpStream,
}

/// What a client has written, owned.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    Hello {
        device: String,
        instance: Instance,
        presented: Epoch,
    },
    Send {
        recipient: String,
        number: u64,
        confirmed: Option<u64>,
        payload: Vec<u8>,
    },
    Acknowledge(u64),
    Intend(String),
    Ping,
    Pong,
    Failure(ErrorCode, String),
    Eof,
}

impl Server {
    pub fn new() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Server { listener }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub fn options(&self, device: &str) -> Options {
        Options::new(vec![self.address()], id(device))
    }

    /// The next connection, within [`PATIENCE`].
    pub fn accept(&self) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_nodelay(true).unwrap();
                    return Peer { stream };
                }
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("nobody connects: {error}"),
            }
        }
    }

    /// The next connection, its hello read and answered.
    pub fn welcome(&self, clock: u64) -> Peer {
        let mut peer = self.accept();
        peer.hello();
        peer.say(welcome(clock));
        peer
    }
}

impl Peer {
    pub fn hello(&mut self) -> Said {
        let mut preface = [0; PREFACE_BYTES];
        self.stream.read_exact(&mut preface).unwrap();
        assert_eq!(Preface::decode(preface).unwrap().side, Side::Device);
        let hello = self.next();
        assert!(matches!(hello, Said::Hello { .. }), "{hello:?}");
        hello
    }

    pub fn next(&mut self) -> Said {
        let mut header = [0; HEADER_BYTES];
        if self.stream.read_exact(&mut header).is_err() {
            return Said::Eof;
        }
        let header = Header::decode(header);
        let mut body = vec![0; header.length as usize];
        self.stream.read_exact(&mut body).unwrap();
        match ClientFrame::decode(VERSION_MAX, header.ty, &body).unwrap().unwrap() {
            ClientFrame::Hello(hello) => Said::Hello {
                device: hello.device.as_str().into(),
                instance: hello.instance,
                presented: hello.presented,
            },
            ClientFrame::Send(send) => Said::Send {
                recipient: send.recipient.as_str().into(),
                number: send.number.number,
                confirmed: send.number.confirmed,
                payload: send.payload.0.to_vec(),
            },
            ClientFrame::Acknowledge(acknowledge) => Said::Acknowledge(acknowledge.delivery),
            ClientFrame::Intend(intend) => Said::Intend(intend.recipient.as_str().into()),
            ClientFrame::Ping(_) => Said::Ping,
            ClientFrame::Pong(_) => Said::Pong,
            ClientFrame::Failure(failure) => Said::Failure(failure.code, failure.text.as_str().into()),
        }
    }

    pub fn say(&mut self, frame: ServerFrame<'_>) {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.say_bytes(&bytes);
    }

    pub fn say_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn ping(&mut self) {
        self.say(ServerFrame::Ping(Ping { token: 1 }));
    }

    /// The same connection, to be read by another thread.
    pub fn try_clone(&self) -> Peer {
        let stream = self.stream.try_clone().unwrap();
        Peer { stream }
    }

    pub fn deliver(&mut self, delivery: u64, number: u64, payload: &str) {
        self.deliver_all([(delivery, number)], payload);
    }

    /// Deliveries and numbers, all in one write, so that no pause can come between them.
    pub fn deliver_all(&mut self, messages: impl IntoIterator<Item = (u64, u64)>, payload: &str) {
        let mut bytes = Vec::new();
        for (delivery, number) in messages {
            let confirmed = Some(0);
            let frame = Deliver {
                delivery,
                sender: IdRef::new("bob").unwrap(),
                instance: Instance(9),
                number: Number { number, confirmed },
                payload: Tail(payload.as_bytes()),
            };
            ServerFrame::Deliver(frame).encode(&mut bytes);
        }
        self.say_bytes(&bytes);
    }

    pub fn report(&mut self, recipient: &str, number: u64, outcome: Outcome) {
        self.say(ServerFrame::Report(Report {
            recipient: IdRef::new(recipient).unwrap(),
            number,
            outcome,
            way: Way::Direct,
        }));
    }
}

pub fn id(text: &str) -> DeviceId {
    DeviceId::new(text).unwrap()
}

pub fn epoch(clock: u64) -> Epoch {
    let node = NodeId(1);
    Epoch { clock, node }
}

pub fn welcome(clock: u64) -> ServerFrame<'static> {
    ServerFrame::Welcome(Welcome {
        version: 1,
        epoch: epoch(clock),
        node: NodeId(1),
        idle_ms: 360_000,
        unresolved_max: 1000,
    })
}

pub fn send(recipient: &str, number: u64, lowest: u64, payload: &str) -> Said {
    Said::Send {
        recipient: recipient.into(),
        number,
        confirmed: Some(lowest),
        payload: payload.into(),
    }
}
