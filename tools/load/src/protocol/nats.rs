//! NATS: lines of text, and payloads of a length that they name. A connection's subject is `load.` and its run and number.
//!
//! Asks for no acknowledgement of what it publishes, as client libraries don't.

use super::text::{self, Line};
use super::{Heard, Message, Protocol};
use crate::plan::PAYLOAD_BYTES_MAX;

/// NATS's subscribers, of one run.
#[derive(Clone, Copy, Debug)]
pub struct Nats {
    run: u32,
}

impl Nats {
    /// For a run that has this number for itself.
    pub fn new(run: u32) -> Nats {
        Nats { run }
    }

    fn subject(self, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"load.");
        text::hexadecimal(self.run, out);
        out.push(b'.');
        text::hexadecimal(number, out);
    }
}

impl Protocol for Nats {
    fn greet(&self, me: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\"}\r\nSUB ",
        );
        self.subject(me, out);
        // Answered when the subscription is in place.
        out.extend_from_slice(b" 1\r\nPING\r\n");
    }

    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PUB ");
        self.subject(message.to, out);
        out.push(b' ');
        text::decimal(message.payload.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(message.payload);
        out.extend_from_slice(b"\r\n");
    }

    fn hear<'a>(&self, input: &'a [u8], reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some(Line { text, length }) = text::line(input)? else {
            return Ok(None);
        };
        let heard = match text.split(|&byte| byte == b' ').next().unwrap_or_default() {
            b"MSG" => {
                let bytes = text.rsplit(|&byte| byte == b' ').next().and_then(text::number);
                let bytes = bytes.filter(|&bytes| bytes <= PAYLOAD_BYTES_MAX);
                let bytes = bytes.ok_or_else(|| text::unreadable(text))?;
                let end = length + bytes;
                let Some(payload) = input.get(length..end).filter(|_| input.len() >= end + 2) else {
                    return Ok(None);
                };
                let heard = Heard::Delivery { payload, number: None };
                return Ok(Some((end + 2, heard)));
            }
            b"PONG" => Heard::Welcome,
            b"PING" => {
                reply.extend_from_slice(b"PONG\r\n");
                Heard::Nothing
            }
            b"INFO" | b"+OK" => Heard::Nothing,
            b"-ERR" => return Err(format!("it said {}", String::from_utf8_lossy(text))),
            _ => return Err(text::unreadable(text)),
        };
        Ok(Some((length, heard)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_welcomed_by_the_answer_to_its_ping_and_hears_messages() {
        let nats = Nats::new(7);
        let stream =
            b"INFO {\"max_payload\":1048576}\r\nPONG\r\nMSG load.00000007.00000001 1 7\r\npay\r\nld\r\nPING\r\n";
        let (mut used, mut heard, mut reply) = (0, Vec::new(), Vec::new());
        while let Some((length, what)) = nats.hear(&stream[used..], &mut reply).unwrap() {
            used += length;
            heard.push(what);
        }
        let payload = b"pay\r\nld";
        let delivery = Heard::Delivery { payload, number: None };
        assert_eq!(heard, [Heard::Nothing, Heard::Welcome, delivery, Heard::Nothing]);
        assert_eq!((used, &reply[..]), (stream.len(), &b"PONG\r\n"[..]));
    }

    #[test]
    fn an_error_and_a_line_of_another_protocol_end_the_connection() {
        let nats = Nats::new(7);
        let said = nats.hear(b"-ERR 'Authorization Violation'\r\n", &mut Vec::new());
        assert!(said.unwrap_err().contains("Authorization"));
        assert!(nats.hear(b"HTTP/1.1 400 Bad Request\r\n", &mut Vec::new()).is_err());
        assert!(nats.hear(b"MSG a 1 99999999\r\n", &mut Vec::new()).is_err());
    }
}
