//! What protocols made of lines have in common.

/// A line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) text: &'a [u8],
    /// Bytes, with its end.
    pub(super) length: usize,
}

/// The first line of `input`, if it's whole.
///
/// # Errors
/// No line is that long.
pub(super) fn line(input: &[u8]) -> Result<Option<Line<'_>>, String> {
    let window = &input[..input.len().min(LINE_BYTES_MAX)];
    match window.windows(2).position(|end| end == b"\r\n") {
        Some(bytes) => Ok(Some(Line {
            text: &window[..bytes],
            length: bytes + 2,
        })),
        None if input.len() >= LINE_BYTES_MAX => Err(format!("it sent a line of more than {LINE_BYTES_MAX} bytes")),
        None => Ok(None),
    }
}

/// Why a line can't be read.
pub(super) fn unreadable(text: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
    format!("it said {shown:?}, which can't be read")
}

/// A number of decimal digits, and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<usize> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    plain.then(|| std::str::from_utf8(digits).ok()?.parse().ok()).flatten()
}

/// Appends a number.
pub(super) fn decimal(number: usize, out: &mut Vec<u8>) {
    let start = out.len();
    let mut rest = number;
    loop {
        out.push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out[start..].reverse();
}

/// Appends eight digits.
pub(super) fn hexadecimal(number: u32, out: &mut Vec<u8>) {
    out.extend((0..8).rev().map(|place| DIGITS[(number >> (4 * place) & 0xf) as usize]));
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";
/// A server's greeting may be long.
const LINE_BYTES_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_and_read_alike() {
        for value in [0, 7, 10, 128, 65_536] {
            let mut text = Vec::new();
            decimal(value, &mut text);
            assert_eq!(text, value.to_string().as_bytes());
            assert_eq!(number(&text), Some(value));
        }
        assert_eq!(number(b""), None);
        assert_eq!(number(b"-1"), None);
        let mut text = Vec::new();
        hexadecimal(0xabc, &mut text);
        assert_eq!(text, b"00000abc");
    }

    #[test]
    fn a_line_is_taken_whole_or_not_at_all() {
        assert_eq!(line(b"on"), Ok(None));
        let text = &b"one"[..];
        assert_eq!(line(b"one\r\ntwo"), Ok(Some(Line { text, length: 5 })));
        assert!(line(&[b'x'; LINE_BYTES_MAX]).is_err());
    }
}
