//! How values become bytes and come back: fixed-width little-endian numbers, so that each has one way to be written.

use crate::device::PAYLOAD_BYTES_MAX;
use crate::preface::VERSION_MIN;

/// Why bytes are not a frame. Always the peer's fault; the session that sent them is closed with this text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ended inside a field.
    #[error("the frame ends inside a field")]
    Truncated,
    /// The body goes on after its last field.
    #[error("the frame has {0} bytes after its last field")]
    Trailing(usize),
    /// A device id of 0 or of more than 64 bytes.
    #[error("a device id has 1 to 64 bytes, this one has {0}")]
    IdLength(usize),
    /// Text that isn't UTF-8.
    #[error("a text is not UTF-8")]
    Utf8,
    /// A field has a value that isn't allowed.
    #[error("the field `{0}` has a value that is not allowed")]
    Value(&'static str),
    /// A list or text longer than its limit.
    #[error("the field `{0}` is longer than its limit")]
    TooLong(&'static str),
    /// A frame type that this side doesn't know and may not ignore.
    #[error("unknown frame type 0x{0:02x}")]
    UnknownType(u8),
}

/// Reads fields from a frame's body. Where limits live.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    #[cfg(feature = "next-version")]
    version: u8,
}

impl<'a> Reader<'a> {
    /// Starts at the first byte of `body`, which has one form in all versions.
    #[inline]
    pub fn new(body: &'a [u8]) -> Reader<'a> {
        Reader::of_version(VERSION_MIN, body)
    }

    /// Starts at the first byte of `body`, which has the form of `version`.
    #[cfg_attr(
        not(feature = "next-version"),
        expect(unused_variables, reason = "all frames have one form")
    )]
    #[inline]
    pub fn of_version(version: u8, body: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: body,
            #[cfg(feature = "next-version")]
            version,
        }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there are fewer.
    #[inline]
    pub fn slice(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if there are fewer.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.chunk().copied()
    }

    /// As [`Reader::array`], where they are: numbers are read from there in one go. A result that holds the bytes themselves is put together
    /// from pieces, for which the number would have to wait.
    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// All that is left.
    #[inline]
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// How many bytes are left.
    #[inline]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Ends the body.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] if bytes are left.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }

    /// A byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end; so for all numbers below.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.chunk::<1>().map(|[byte]| *byte)
    }

    /// 16 bits.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.chunk().map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// 32 bits.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.chunk().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// 64 bits.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    #[inline]
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// 128 bits.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    #[inline]
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        self.chunk().map(|bytes| u128::from_le_bytes(*bytes))
    }
}

/// A value that has exactly one way to be written.
pub trait Field<'a>: Sized {
    /// Appends it.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads it back.
    ///
    /// # Errors
    /// If the bytes are not such a value in its one form.
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError>;
}

macro_rules! plain {
    ($($ty:ty, $read:ident);*) => {$(
        impl<'a> Field<'a> for $ty {
            #[inline]
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
                reader.$read()
            }
        }
    )*};
}
plain!(u8, u8; u16, u16; u32, u32; u64, u64; u128, u128);

impl<'a> Field<'a> for bool {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Value("flag")),
        }
    }
}

impl<'a, const N: usize> Field<'a> for [u8; N] {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        reader.array()
    }
}

/// A field that the next version adds to a frame: there on connections that speak it, and no byte on others.
#[cfg(feature = "next-version")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Newer<T>(Option<T>);

#[cfg(feature = "next-version")]
impl<T> Newer<T> {
    /// For a connection that speaks `version`.
    pub fn new(version: u8, value: T) -> Newer<T> {
        Newer((version >= crate::next::VERSION).then_some(value))
    }

    /// What was said; `None` if the connection's version can't say it.
    pub fn said(self) -> Option<T> {
        self.0
    }
}

#[cfg(feature = "next-version")]
impl<'a, T: Field<'a>> Field<'a> for Newer<T> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        if let Some(value) = &self.0 {
            value.put(out);
        }
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let is_there = reader.version >= crate::next::VERSION;
        is_there.then(|| T::take(reader)).transpose().map(Newer)
    }
}

/// Text for people: a length byte and at most 255 bytes of UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// Takes as much of `text` as fits, cut at a character.
    pub fn clipped(text: &'a str) -> Text<'a> {
        let mut end = text.len().min(255);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Text(&text[..end])
    }

    /// The text.
    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

impl<'a> Field<'a> for Text<'a> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.0.len() as u8);
        out.extend_from_slice(self.0.as_bytes());
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let length = reader.u8()? as usize;
        std::str::from_utf8(reader.slice(length)?)
            .map(Text)
            .map_err(|_| DecodeError::Utf8)
    }
}

/// Bytes that end the frame: a payload, a part of a map. Their length follows from the frame's, and is at most `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail<'a, const MAX: usize = PAYLOAD_BYTES_MAX>(pub &'a [u8]);

impl<'a, const MAX: usize> Field<'a> for Tail<'a, MAX> {
    #[inline]
    fn put(&self, out: &mut Vec<u8>) {
        debug_assert!(self.0.len() <= MAX, "{} bytes end a frame, and {MAX} may", self.0.len());
        out.extend_from_slice(self.0);
    }

    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, DecodeError> {
        if reader.remaining() > MAX {
            return Err(DecodeError::TooLong("payload"));
        }
        Ok(Tail(reader.rest()))
    }
}
