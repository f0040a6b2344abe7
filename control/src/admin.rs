//! A small blocking client for operators' requests: what the command line uses.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use trunkline_net::framing::{Frame, Framer};
use trunkline_wire::auth::{ClusterKeys, LinkEnd, Secret, random_bytes};
use trunkline_wire::codec::{DecodeError, Tail};
use trunkline_wire::control::{Admin as AdminFrame, CONTROL_BODY_BYTES_MAX, ControlFrame};
use trunkline_wire::frame::{Decode, Encode};
use trunkline_wire::handshake::{Opener, Refusal};
use trunkline_wire::id::{Incarnation, NodeId};
use trunkline_wire::preface::{Preface, Side, VERSION_MIN, Versions};

/// How long a connect, and then each answer, may take. A request is answered when it's on disk.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request was not answered, or refused. One line each.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The control plane isn't there.
    #[error("no control plane at {address}: {error}; check that it runs and the setting `control`")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The connection broke, or nothing came in time.
    #[error("the control plane at {address} gave no answer: {error}")]
    Lost {
        /// Where it is.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The secrets differ, or it doesn't know it.
    #[error("the control plane at {address} and this tool can't trust each other: {refusal}")]
    Secret {
        /// Where it is.
        address: SocketAddr,
        /// What failed.
        refusal: Refusal,
    },
    /// It closed the connection, and said why.
    #[error("the control plane at {address} closed the connection: {text}")]
    Closed {
        /// Where it is.
        address: SocketAddr,
        /// What it said.
        text: String,
    },
    /// It sent something that isn't the protocol.
    #[error("{address} does not speak the control protocol: {reason}")]
    Protocol {
        /// Where it is.
        address: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// The request was refused.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the control plane.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    stream: TcpStream,
    framer: Framer,
    request: u32,
}

/// What the control plane sent, owned.
enum Said {
    Ready,
    Challenge(trunkline_wire::peer::LinkChallenge),
    Answer { request: u32, ok: bool, json: Vec<u8> },
    Failure(String),
    Other,
}

impl Admin {
    /// Connects, and proves the cluster secret.
    ///
    /// # Errors
    /// If nobody is there, or the secrets differ.
    pub fn connect(address: SocketAddr, secret: &Secret) -> Result<Admin, AdminError> {
        let stream = TcpStream::connect_timeout(&address, TIMEOUT)
            .map_err(|error| AdminError::Unreachable { address, error })?;
        let mut admin = Admin {
            address,
            stream,
            framer: Framer::new(),
            request: 0,
        };
        let until = Instant::now() + TIMEOUT;
        admin.stream.set_nodelay(true).map_err(|error| admin.lost(error))?;
        let keys = ClusterKeys::new(secret);
        let me = LinkEnd {
            node: NodeId::NONE,
            incarnation: Incarnation(0),
            nonce: random_bytes(),
        };
        let (opener, hello) = Opener::new(&keys, me, Versions::BUILD);
        let mut bytes = Preface::new(Side::Control).encode().to_vec();
        hello.encode(&mut bytes);
        admin.send(&bytes)?;
        let challenge = match admin.receive(until)? {
            Said::Challenge(challenge) => challenge,
            other => return Err(admin.unexpected(other)),
        };
        let (proof, _) = opener
            .challenge(&keys, &challenge)
            .map_err(|refusal| AdminError::Secret { address, refusal })?;
        admin.send(&proof.to_vec())?;
        match admin.receive(until)? {
            Said::Ready => Ok(admin),
            other => Err(admin.unexpected(other)),
        }
    }

    /// Asks, and waits for the answer. See [`crate::request::Request`] for what can be asked.
    ///
    /// # Errors
    /// If the request is refused, or no answer comes.
    pub fn request(&mut self, request: &Value) -> Result<Value, AdminError> {
        let json = request.to_string();
        if json.len() + 4 > CONTROL_BODY_BYTES_MAX {
            return Err(AdminError::Refused(format!(
                "a request of {} bytes is too long",
                json.len()
            )));
        }
        self.request += 1;
        let frame = AdminFrame {
            request: self.request,
            json: Tail(json.as_bytes()),
        };
        self.send(&frame.to_vec())?;
        let until = Instant::now() + TIMEOUT;
        loop {
            match self.receive(until)? {
                Said::Answer { request, ok, json } if request == self.request => {
                    let value = serde_json::from_slice(&json).map_err(|error| self.protocol(error.to_string()))?;
                    return if ok { Ok(value) } else { Err(refused(&value)) };
                }
                Said::Failure(text) => return Err(self.unexpected(Said::Failure(text))),
                // An answer to a request that was given up, or something new.
                Said::Answer { .. } | Said::Ready | Said::Challenge(_) | Said::Other => {}
            }
        }
    }

    /// Asks for all pages of a list, and joins them: `status` has the list `nodes`, `map` has `devices`.
    ///
    /// # Errors
    /// As [`Admin::request`].
    pub fn request_all(&mut self, request: &Value, list: &str) -> Result<Value, AdminError> {
        let mut all = self.request(request)?;
        while !all["next"].is_null() {
            let mut request = request.clone();
            request["after"] = all["next"].take();
            let mut page = self.request(&request)?;
            if let (Some(entries), Some(more)) = (all[list].as_array_mut(), page[list].as_array_mut()) {
                entries.append(more);
            }
            all["next"] = page["next"].take();
        }
        Ok(all)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), AdminError> {
        let written = self
            .stream
            .set_write_timeout(Some(TIMEOUT))
            .and_then(|()| self.stream.write_all(bytes));
        match written {
            Ok(()) => Ok(()),
            // What it had to say before it closed may still be there to read.
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                match self.receive(Instant::now() + TIMEOUT) {
                    Ok(said) => Err(self.unexpected(said)),
                    Err(_) => Err(self.lost(error)),
                }
            }
            Err(error) => Err(self.lost(error)),
        }
    }

    fn receive(&mut self, until: Instant) -> Result<Said, AdminError> {
        let mut bytes = [0; 4096];
        let mut read = 0;
        loop {
            let mut frames = self.framer.frames(&bytes[..read]);
            let said = match frames.next(|_| CONTROL_BODY_BYTES_MAX) {
                Ok(None) => None,
                Ok(Some(frame)) => Some(understand(frame).map_err(|error| error.to_string())),
                Err(error) => Some(Err(error.to_string())),
            };
            drop(frames);
            match said {
                Some(Ok(said)) => return Ok(said),
                Some(Err(reason)) => return Err(self.protocol(reason)),
                None => {}
            }
            let left = until
                .saturating_duration_since(Instant::now())
                .max(Duration::from_millis(1));
            let outcome = self
                .stream
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read(&mut bytes));
            read = match outcome {
                Ok(0) => return Err(self.lost(ErrorKind::UnexpectedEof.into())),
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(self.lost(ErrorKind::TimedOut.into()));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(self.lost(error)),
            };
            if Instant::now() >= until {
                return Err(self.lost(ErrorKind::TimedOut.into()));
            }
        }
    }

    fn lost(&self, error: io::Error) -> AdminError {
        let address = self.address;
        AdminError::Lost { address, error }
    }

    fn protocol(&self, reason: String) -> AdminError {
        let address = self.address;
        AdminError::Protocol { address, reason }
    }

    fn unexpected(&self, said: Said) -> AdminError {
        match said {
            Said::Failure(text) => AdminError::Closed {
                address: self.address,
                text,
            },
            Said::Ready | Said::Challenge(_) | Said::Answer { .. } | Said::Other => {
                self.protocol("a frame out of turn".into())
            }
        }
    }
}

fn understand(frame: Frame<'_>) -> Result<Said, DecodeError> {
    // What a tool is told has one form in all versions.
    Ok(match ControlFrame::decode(VERSION_MIN, frame.ty, frame.body)? {
        Some(ControlFrame::LinkChallenge(challenge)) => Said::Challenge(challenge),
        Some(ControlFrame::LinkReady(_)) => Said::Ready,
        Some(ControlFrame::AdminAnswer(answer)) => Said::Answer {
            request: answer.request,
            ok: answer.ok,
            json: answer.json.0.to_vec(),
        },
        Some(ControlFrame::Failure(failure)) => Said::Failure(failure.text.as_str().to_owned()),
        Some(
            ControlFrame::Joined(_)
            | ControlFrame::Renewed(_)
            | ControlFrame::Drain(_)
            | ControlFrame::MapBegin(_)
            | ControlFrame::MapPart(_)
            | ControlFrame::Ping(_)
            | ControlFrame::Pong(_),
        )
        | None => Said::Other,
    })
}

fn refused(value: &Value) -> AdminError {
    let text = value["error"]
        .as_str()
        .unwrap_or("the request was refused, without a reason");
    AdminError::Refused(text.to_owned())
}
