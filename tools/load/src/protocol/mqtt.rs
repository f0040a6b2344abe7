//! MQTT 3.1.1 at quality of service 0: to the broker and from it, at most once.
//!
//! A connection's topic is `load`, its run and its number, with slashes between them; its client's id has dashes there, since rumqttd
//! takes no slash in one. It asks for the longest keep-alive, which no run outlasts, so that it needs no pings; not for none, which
//! rumqttd refuses. Subscribing doesn't wait for the connection's acknowledgement, which the protocol allows.

use super::text;
use super::{Heard, Message, Protocol};
use crate::plan::PAYLOAD_BYTES_MAX;

/// MQTT's clients, of one run.
#[derive(Clone, Copy, Debug)]
pub struct Mqtt {
    run: u32,
}

/// `load`, the run, the connection, and what is between them.
const NAME_BYTES: usize = 5 + 8 + 1 + 8;

impl Mqtt {
    /// For a run that has this number for itself.
    pub fn new(run: u32) -> Mqtt {
        Mqtt { run }
    }

    /// The topic of a connection.
    fn topic(self, number: u32, out: &mut Vec<u8>) {
        self.name(number, b'/', out);
    }

    /// A string of the protocol: its length, and what names a connection, in parts.
    fn name(self, number: u32, between: u8, out: &mut Vec<u8>) {
        out.extend_from_slice(&(NAME_BYTES as u16).to_be_bytes());
        out.extend_from_slice(b"load");
        out.push(between);
        text::hexadecimal(self.run, out);
        out.push(between);
        text::hexadecimal(number, out);
    }
}

impl Protocol for Mqtt {
    fn greet(&self, me: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&[CONNECT, (CONNECT_HEAD.len() + 2 + NAME_BYTES) as u8]);
        out.extend_from_slice(CONNECT_HEAD);
        self.name(me, b'-', out);
        // Packet 1, one topic, at most quality 0.
        out.extend_from_slice(&[SUBSCRIBE, 2 + 2 + NAME_BYTES as u8 + 1, 0, 1]);
        self.topic(me, out);
        out.push(0);
    }

    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        out.push(PUBLISH);
        let mut length = 2 + NAME_BYTES + message.payload.len();
        while length >= 0x80 {
            out.push(length as u8 | 0x80);
            length >>= 7;
        }
        out.push(length as u8);
        self.topic(message.to, out);
        out.extend_from_slice(message.payload);
    }

    fn hear<'a>(&self, input: &'a [u8], _reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let (mut body_bytes, mut length_bytes) = (0, 0);
        loop {
            let Some(&byte) = rest.get(length_bytes) else {
                return Ok(None);
            };
            body_bytes |= usize::from(byte & 0x7f) << (7 * length_bytes);
            length_bytes += 1;
            if byte & 0x80 == 0 {
                break;
            }
            if length_bytes == LENGTH_BYTES_MAX {
                return Err("it sent a length of more than four bytes".to_owned());
            }
        }
        if body_bytes > PAYLOAD_BYTES_MAX + 2 + NAME_BYTES {
            return Err(format!("it sent a packet of {body_bytes} bytes"));
        }
        let start = 1 + length_bytes;
        let Some(body) = input.get(start..start + body_bytes) else {
            return Ok(None);
        };
        let heard = match (first & 0xf0, body) {
            (CONNACK, [_, 0]) => Heard::Nothing,
            (CONNACK, [_, code]) => return Err(format!("it refused the connection with code {code}")),
            (SUBACK, [0, 1, 0..=2]) => Heard::Welcome,
            (SUBACK, _) => return Err("it refused the subscription".to_owned()),
            (PUBLISH, _) => {
                let topic_bytes = body
                    .first_chunk()
                    .map(|length| usize::from(u16::from_be_bytes(*length)));
                let payload = topic_bytes.and_then(|topic_bytes| body.get(2 + topic_bytes..));
                let payload = payload.ok_or("it sent a message without a topic")?;
                Heard::Delivery { payload, number: None }
            }
            (packet, _) => {
                return Err(format!(
                    "it sent a packet of type {}, which was not asked for",
                    packet >> 4
                ));
            }
        };
        Ok(Some((start + body_bytes, heard)))
    }
}

/// The protocol's name and level, a clean session, a keep-alive of 18 hours.
const CONNECT_HEAD: &[u8] = b"\0\x04MQTT\x04\x02\xff\xff";
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
/// A length has at most so many bytes, of seven bits each.
const LENGTH_BYTES_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_heard_as_it_was_sent_whatever_its_length() {
        let mqtt = Mqtt::new(7);
        for bytes in [16, 100, 16_384, PAYLOAD_BYTES_MAX] {
            let payload = vec![b'x'; bytes];
            let message = Message {
                from: 1,
                to: 2,
                number: 0,
                lowest: None,
                payload: &payload,
            };
            let (mut stream, mut reply) = (Vec::new(), Vec::new());
            mqtt.send(&message, &mut stream);
            let heard = Heard::Delivery {
                payload: &payload,
                number: None,
            };
            assert_eq!(mqtt.hear(&stream, &mut reply), Ok(Some((stream.len(), heard))));
            assert_eq!(mqtt.hear(&stream[..stream.len() - 1], &mut reply), Ok(None));
        }
    }

    #[test]
    fn a_connection_is_welcomed_by_its_subscription_and_a_refusal_ends_it() {
        let mqtt = Mqtt::new(7);
        let hear = |bytes: &'static [u8]| mqtt.hear(bytes, &mut Vec::new());
        assert_eq!(hear(&[0x20, 2, 0, 0]), Ok(Some((4, Heard::Nothing))));
        assert_eq!(hear(&[0x90, 3, 0, 1, 0]), Ok(Some((5, Heard::Welcome))));
        assert!(hear(&[0x20, 2, 0, 5]).unwrap_err().contains("code 5"));
        assert!(hear(&[0x90, 3, 0, 1, 0x80]).is_err());
        assert!(hear(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
        assert!(hear(&[0x30, 1, 0]).is_err());
    }
}
