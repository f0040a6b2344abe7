//! Redis's publish and subscribe, in RESP3: there one connection subscribes and publishes, and need not be two.
//!
//! A connection's channel is `load:` and its run and number. Each publish is answered with a count, as always with Redis; that answer is
//! read and means nothing: it isn't the recipient's.

use super::text::{self, Line};
use super::{Heard, Message, Protocol};
use crate::plan::PAYLOAD_BYTES_MAX;

/// Redis's subscribers, of one run.
#[derive(Clone, Copy, Debug)]
pub struct Redis {
    run: u32,
}

impl Redis {
    /// For a run that has this number for itself.
    pub fn new(run: u32) -> Redis {
        Redis { run }
    }

    fn channel(self, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"$22\r\nload:");
        text::hexadecimal(self.run, out);
        out.push(b':');
        text::hexadecimal(number, out);
        out.extend_from_slice(b"\r\n");
    }
}

impl Protocol for Redis {
    fn greet(&self, me: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*2\r\n$9\r\nSUBSCRIBE\r\n");
        self.channel(me, out);
    }

    fn send(&self, message: &Message<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"*3\r\n$7\r\nPUBLISH\r\n");
        self.channel(message.to, out);
        out.push(b'$');
        text::decimal(message.payload.len(), out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(message.payload);
        out.extend_from_slice(b"\r\n");
    }

    fn hear<'a>(&self, input: &'a [u8], _reply: &mut Vec<u8>) -> Result<Option<(usize, Heard<'a>)>, String> {
        let Some((length, value)) = value(input, DEPTH_MAX)? else {
            return Ok(None);
        };
        let heard = match value {
            Value::Push => match strings(input) {
                [Some(b"message"), _, Some(payload)] => Heard::Delivery { payload, number: None },
                [Some(b"subscribe"), ..] => Heard::Welcome,
                _ => Heard::Nothing,
            },
            Value::Error(text) => return Err(format!("it said {}", String::from_utf8_lossy(text))),
            Value::Other => Heard::Nothing,
        };
        Ok(Some((length, heard)))
    }
}

/// What a value is, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    /// What was not asked for: a message, a subscription.
    Push,
    Error(&'a [u8]),
    Other,
}

/// The first value of `input`, with all that is in it: its length, and what it is; `None` if it isn't whole.
fn value(input: &[u8], depth: usize) -> Result<Option<(usize, Value<'_>)>, String> {
    let Some(Line { text, length }) = text::line(input)? else {
        return Ok(None);
    };
    let Some((&kind, rest)) = text.split_first() else {
        return Err(text::unreadable(text));
    };
    let count = || text::number(rest).filter(|&count| count <= PAYLOAD_BYTES_MAX);
    let members = match kind {
        b'+' | b':' | b',' | b'#' | b'_' | b'(' => return Ok(Some((length, Value::Other))),
        b'-' => return Ok(Some((length, Value::Error(rest)))),
        b'$' | b'=' if rest == b"-1" => return Ok(Some((length, Value::Other))),
        b'$' | b'=' => {
            let bytes = count().ok_or_else(|| text::unreadable(text))?;
            let end = length + bytes + 2;
            return Ok((input.len() >= end).then_some((end, Value::Other)));
        }
        b'*' | b'~' | b'>' => count(),
        b'%' => count().map(|pairs| 2 * pairs),
        _ => None,
    };
    let members = members.filter(|_| depth > 0).ok_or_else(|| text::unreadable(text))?;
    let mut end = length;
    for _ in 0..members {
        match value(&input[end..], depth - 1)? {
            Some((length, _)) => end += length,
            None => return Ok(None),
        }
    }
    let value = if kind == b'>' { Value::Push } else { Value::Other };
    Ok(Some((end, value)))
}

/// The first three members of a whole aggregate, where they are strings.
fn strings(input: &[u8]) -> [Option<&[u8]>; 3] {
    let mut rest = after_line(input);
    std::array::from_fn(|_| {
        let bytes = match rest.split_first() {
            Some((b'$', digits)) => text::line(digits).ok()??,
            _ => return None,
        };
        let start = 1 + bytes.length;
        let end = start + text::number(bytes.text)?;
        let string = rest.get(start..end)?;
        rest = rest.get(end + 2..).unwrap_or_default();
        Some(string)
    })
}

fn after_line(input: &[u8]) -> &[u8] {
    match text::line(input) {
        Ok(Some(line)) => &input[line.length..],
        Ok(None) | Err(_) => &[],
    }
}

/// The greeting's answer has lists in a map.
const DEPTH_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_welcomed_by_its_subscription_and_hears_messages() {
        let redis = Redis::new(7);
        let stream = b"%2\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*1\r\n$1\r\nx\r\n\
            >3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$4\r\n\r\nab\r\n";
        let (mut used, mut heard) = (0, Vec::new());
        while let Some((length, what)) = redis.hear(&stream[used..], &mut Vec::new()).unwrap() {
            used += length;
            heard.push(what);
        }
        let payload = b"\r\nab";
        let delivery = Heard::Delivery { payload, number: None };
        assert_eq!(heard, [Heard::Nothing, Heard::Welcome, Heard::Nothing, delivery]);
        assert_eq!(used, stream.len());
        for cut in 0..stream.len() {
            // What isn't whole is waited for.
            let mut used = 0;
            while let Some((length, _)) = redis.hear(&stream[used..cut], &mut Vec::new()).unwrap() {
                used += length;
            }
            assert!(used <= cut);
        }
    }

    #[test]
    fn an_error_and_a_value_that_is_none_end_the_connection() {
        let redis = Redis::new(7);
        let said = redis.hear(b"-NOAUTH Authentication required.\r\n", &mut Vec::new());
        assert!(said.unwrap_err().contains("NOAUTH"));
        assert!(redis.hear(b"INFO {}\r\n", &mut Vec::new()).is_err());
        let deep = b"*1\r\n".repeat(10);
        assert!(redis.hear(&deep, &mut Vec::new()).is_err());
    }
}
