//! Trunkline's protocol for devices: what a client library does, without its queues and timers.
//!
//! It acknowledges every confirmed message at once, answers pings, and promises to be heard once an hour only, so that a run
//! needs no pings of its own.

use trunkline_wire::codec::Tail;
use trunkline_wire::device::{
    Acknowledge, Credentials, DEVICE_BODY_BYTES_MAX, Hello, PING_INTERVAL_MS_MAX, PingIntervalMs, Pong, Purpose, Send,
    ServerFrame,
};
use trunkline_wire::frame::{Decode, Encode, HEADER_BYTES, Header};
use trunkline_wire::id::{Epoch, IdRef, Instance};
use trunkline_wire::preface::{Preface, Side, VERSION_MIN, Versions};
use trunkline_wire::report::{Number, Outcome, TtlMs};

use super::{Heard, Message, Protocol};

/// A connection's device: `load-`, the run, `-`, the connection, both as eight hexadecimal digits.
const NAME_BYTES: usize = 5 + 8 + 1 + 8;

/// Trunkline's devices.
#[derive(Clone, Debug)]
pub struct Native {
    /// The name without its number.
    stem: [u8; NAME_BYTES],
    instance: Instance,
}

impl Native {
    /// For a run that has this number for itself.
    pub fn new(run: u32) -> Native {
        let mut stem = [0; NAME_BYTES];
        stem.copy_from_slice(format!("load-{run:08x}-{:08x}", 0).as_bytes());
        Native {
            stem,
            instance: Instance(u64::from(run) + 1),
        }
    }

    fn name(&self, number: u32) -> [u8; NAME_BYTES] {
        let mut name = self.stem;
        for (place, digit) in name[NAME_BYTES - 8..].iter_mut().rev().enumerate() {
            *digit = HEXADECIMAL[(number >> (4 * place) & 0xf) as usize];
        }
        name
    }

    /// Whose name it is, if it is one of this run's.
    fn number(&self, name: IdRef<'_>) -> Option<u32> {
        let digits = name.as_str().as_bytes().strip_prefix(&self.stem[..NAME_BYTES - 8])?;
        let value = |digit: &u8| char::from(*digit).to_digit(16);
        digits
            .iter()
            .try_fold(0, |number, digit| Some(number << 4 | value(digit)?))
    }
}

fn id(name: &[u8; NAME_BYTES]) -> IdRef<'_> {
    let text = std::str::from_utf8(name).expect("digits and letters");
    IdRef::new(text).expect("a name is shorter than the longest")
}

impl Protocol for Native {
    fn greet(&self, me: u32, out: &mut Vec<u8>) {
        // What is measured has one form in all versions.
        let lowest = Versions::up_to(VERSION_MIN).expect("it is spoken");
        out.extend_from_slice(&Preface::offering(Side::Device, lowest).encode());
        let name = self.name(me);
        let hello = Hello {
            device: id(&name),
            instance: self.instance,
            presented: Epoch::NONE,
            purpose: Purpose::Full,
            ping_interval: PingIntervalMs::new(PING_INTERVAL_MS_MAX).expect("the longest"),
            credentials: Credentials::default(),
        };
        hello.encode(out);
    }

    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        let name = self.name(message.to);
        let send = Send {
            recipient: id(&name),
            number: Number {
                number: message.number.into(),
                confirmed: message.lowest.map(u64::from),
            },
            ttl: TtlMs::default(),
            payload: Tail(message.payload),
        };
        send.encode(out);
    }

    fn hear<'a>(&self, input: &'a [u8], reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some((header, rest)) = input.split_first_chunk() else {
            return Ok(None);
        };
        let Header { ty, length } = Header::decode(*header);
        let length = length as usize;
        if length > DEVICE_BODY_BYTES_MAX {
            return Err(format!("it sent a frame of {length} bytes"));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = ServerFrame::decode(VERSION_MIN, ty, body)
            .map_err(|error| format!("it sent a frame that is none: {error}"))?;
        let heard = match frame {
            Some(ServerFrame::Welcome(_)) => Heard::Welcome,
            Some(ServerFrame::Deliver(deliver)) => {
                if deliver.delivery != 0 {
                    let taken = Acknowledge {
                        delivery: deliver.delivery,
                        late: false,
                    };
                    taken.encode(reply);
                }
                Heard::Delivery {
                    payload: deliver.payload.0,
                    // A number that is none of this run's fits no payload either.
                    number: Some(u32::try_from(deliver.number.number).unwrap_or(u32::MAX)),
                }
            }
            Some(ServerFrame::Report(report)) => match (self.number(report.recipient), u32::try_from(report.number)) {
                (Some(to), Ok(number)) => Heard::Report {
                    to,
                    number,
                    delivered: matches!(report.outcome, Outcome::Delivered { .. }),
                },
                _ => {
                    return Err(format!(
                        "it reported a message to {}, which was not sent",
                        report.recipient
                    ));
                }
            },
            Some(ServerFrame::Ping(ping)) => {
                Pong { token: ping.token }.encode(reply);
                Heard::Nothing
            }
            Some(ServerFrame::Failure(failure)) => return Err(failure.text.as_str().to_owned()),
            Some(ServerFrame::GoAway(away)) => return Err(format!("it sent us away: {:?}", away.reason)),
            Some(ServerFrame::Superseded(_)) => return Err("another connection took its device".to_owned()),
            Some(ServerFrame::Pong(_)) | None => Heard::Nothing,
        };
        Ok(Some((HEADER_BYTES + length, heard)))
    }
}

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_wire::device::{Deliver, Report};
    use trunkline_wire::report::Way;

    #[test]
    fn a_name_tells_its_number_and_its_run() {
        let native = Native::new(0xabc);
        let name = native.name(0x1f2e);
        assert_eq!(&name, b"load-00000abc-00001f2e");
        assert_eq!(native.number(id(&name)), Some(0x1f2e));
        assert_eq!(Native::new(0xabd).number(id(&name)), None);
    }

    #[test]
    fn a_confirmed_delivery_is_acknowledged_and_a_report_read() {
        let native = Native::new(1);
        let name = native.name(5);
        let deliver = Deliver {
            delivery: 77,
            sender: id(&name),
            instance: Instance(2),
            number: Number {
                number: 4,
                confirmed: Some(4),
            },
            payload: Tail(b"payload"),
        };
        let (stream, mut reply) = (deliver.to_vec(), Vec::new());
        let heard = Heard::Delivery {
            payload: b"payload",
            number: Some(4),
        };
        assert_eq!(native.hear(&stream, &mut reply), Ok(Some((stream.len(), heard))));
        let taken = Acknowledge {
            delivery: 77,
            late: false,
        };
        assert_eq!(reply, taken.to_vec());

        let report = Report {
            recipient: id(&name),
            number: 4,
            outcome: Outcome::Delivered { late: false },
            way: Way::Local,
        };
        let heard = Heard::Report {
            to: 5,
            number: 4,
            delivered: true,
        };
        let stream = report.to_vec();
        assert_eq!(native.hear(&stream, &mut reply), Ok(Some((stream.len(), heard))));
        assert_eq!(native.hear(&stream[..stream.len() - 1], &mut reply), Ok(None));
    }
}
