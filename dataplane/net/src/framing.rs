//! Cuts a byte stream into frames.
//!
//! A frame is a [`Header`], which names its type and the length of its body (the header not counted), and then the body. What the
//! types mean is the business of `trunkline-wire`.
//!
//! Pure, and frugal: whole frames are seen in place, in the buffer that the driver lent; only the tail of a partial frame is
//! copied. The copy grows with the bytes that arrived, never with the length that a header claims, and is freed when the
//! frame is complete: an idle connection holds nothing. A length is checked against the caller's limit for its type before a
//! byte of the body is looked at; the limit may change from one frame to the next.

use std::ops::ControlFlow;

use trunkline_wire::frame::{HEADER_BYTES, Header};

/// The peer announced a frame that is longer than its type may be now. The stream can't be read on: close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame of type {ty} with {length} bytes, where {limit} are allowed")]
pub struct FrameTooLong {
    /// The frame's type.
    pub ty: u8,
    /// The length that its header claims.
    pub length: usize,
    /// The most that its type may have in the connection's state.
    pub limit: usize,
}

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The frame's type.
    pub ty: u8,
    /// The frame without its header.
    pub body: &'a [u8],
}

/// What is left of a stream between two receives: the part of a frame whose rest is still to come.
#[derive(Debug, Default)]
pub struct Framer {
    /// Unparsed bytes, oldest first. Without capacity when empty.
    tail: Vec<u8>,
}

impl Framer {
    /// At the start of a frame.
    pub fn new() -> Framer {
        Framer::default()
    }

    /// Bytes held.
    pub fn held(&self) -> usize {
        self.tail.len()
    }

    /// The bytes that are not part of a frame yet, oldest first: for a stream that is handed over to another owner.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tail)
    }

    /// The frames that end in `input`, one by one. When the result is dropped, what was not taken is kept: what is left of
    /// `input` after an early stop comes first the next time.
    pub fn frames<'a>(&'a mut self, input: &'a [u8]) -> Frames<'a> {
        Frames {
            framer: self,
            parsed: 0,
            input,
        }
    }

    /// Hands the frames that end in `input` to `sink`, until it breaks; what follows is kept for the next time.
    ///
    /// # Errors
    /// A frame longer than `limit` says for its type. No later frame is ever seen.
    pub fn feed<B>(
        &mut self,
        input: &[u8],
        mut limit: impl FnMut(u8) -> usize,
        mut sink: impl FnMut(u8, &[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, FrameTooLong> {
        let mut frames = self.frames(input);
        while let Some(Frame { ty, body }) = frames.next(&mut limit)? {
            if let ControlFlow::Break(why) = sink(ty, body) {
                return Ok(ControlFlow::Break(why));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Walks over the frames of one input. See [`Framer::frames`].
#[derive(Debug)]
pub struct Frames<'a> {
    framer: &'a mut Framer,
    /// How much of the tail was given out.
    parsed: usize,
    input: &'a [u8],
}

impl Frames<'_> {
    /// The next frame; `None` when the input is used up.
    ///
    /// # Errors
    /// A frame longer than `limit` says for its type. The walk stays at that frame.
    #[allow(clippy::should_implement_trait)] // A frame borrows from the walk, and the limit may differ from call to call.
    pub fn next(&mut self, limit: impl FnOnce(u8) -> usize) -> Result<Option<Frame<'_>>, FrameTooLong> {
        if self.parsed == self.framer.tail.len() {
            self.framer.tail.clear();
            self.parsed = 0;
            return self.next_in_place(limit);
        }
        // The tail starts with a frame: complete it from the input, byte-exact, and no further.
        if !self.top_up(HEADER_BYTES) {
            return Ok(None);
        }
        let (ty, length) = checked_header(&self.framer.tail[self.parsed..], limit)?;
        if !self.top_up(HEADER_BYTES + length) {
            return Ok(None);
        }
        let start = self.parsed + HEADER_BYTES;
        self.parsed = start + length;
        let body = &self.framer.tail[start..self.parsed];
        Ok(Some(Frame { ty, body }))
    }

    fn next_in_place(&mut self, limit: impl FnOnce(u8) -> usize) -> Result<Option<Frame<'_>>, FrameTooLong> {
        if self.input.len() < HEADER_BYTES {
            return Ok(None);
        }
        let (ty, length) = checked_header(self.input, limit)?;
        if self.input.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        let (frame, rest) = self.input.split_at(HEADER_BYTES + length);
        self.input = rest;
        let body = &frame[HEADER_BYTES..];
        Ok(Some(Frame { ty, body }))
    }

    /// Moves input to the tail until `bytes` of it are unparsed; false if the input ends before.
    fn top_up(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.framer.tail.len() - self.parsed);
        let (now, rest) = self.input.split_at(missing.min(self.input.len()));
        if trunkline_wire::planted!(LoseFrameTail) && now.len() < missing && !self.framer.tail.is_empty() {
            self.input = rest;
            return false;
        }
        self.framer.tail.extend_from_slice(now);
        self.input = rest;
        now.len() == missing
    }
}

impl Drop for Frames<'_> {
    fn drop(&mut self) {
        let tail = &mut self.framer.tail;
        tail.drain(..self.parsed);
        tail.extend_from_slice(self.input);
        if tail.is_empty() {
            *tail = Vec::new();
        }
    }
}

/// Type and length of the frame that `bytes` (at least a header) start with.
fn checked_header(bytes: &[u8], limit: impl FnOnce(u8) -> usize) -> Result<(u8, usize), FrameTooLong> {
    let header = bytes.first_chunk().expect("the caller saw a whole header");
    let Header { ty, length } = Header::decode(*header);
    let length = length as usize;
    let limit = limit(ty);
    if length > limit {
        return Err(FrameTooLong { ty, length, limit });
    }
    Ok((ty, length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use trunkline_wire::frame::BODY_BYTES_MAX;

    use super::*;

    fn header(ty: u8, length: usize) -> [u8; HEADER_BYTES] {
        let length = length as u32;
        Header { ty, length }.encode()
    }

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (ty, body) in frames {
            stream.extend_from_slice(&header(*ty, body.len()));
            stream.extend_from_slice(body);
        }
        stream
    }

    fn collect(framer: &mut Framer, input: &[u8], into: &mut Vec<(u8, Vec<u8>)>) {
        let end = framer.feed(
            input,
            |_| BODY_BYTES_MAX,
            |ty, body| {
                into.push((ty, body.to_vec()));
                ControlFlow::<()>::Continue(())
            },
        );
        assert_eq!(end, Ok(ControlFlow::Continue(())));
    }

    proptest! {
        #[test]
        fn any_chopping_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1usize..200, 1..100),
        ) {
            let stream = encode(&frames);
            let (mut framer, mut seen, mut rest) = (Framer::new(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                collect(&mut framer, now, &mut seen);
                rest = later;
            }
            prop_assert_eq!(seen, frames);
            prop_assert_eq!(framer.tail.capacity(), 0);
        }

        #[test]
        fn stopping_anywhere_keeps_every_byte_that_follows(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 1..20),
            first in 0usize..100,
            stop_after in 1usize..20,
        ) {
            let stream = encode(&frames);
            let (early, late) = stream.split_at(first.min(stream.len()));
            let (mut framer, mut seen) = (Framer::new(), Vec::new());
            for part in [early, late] {
                let mut walk = framer.frames(part);
                while seen.len() < stop_after {
                    let Some(frame) = walk.next(|_| BODY_BYTES_MAX).unwrap() else { break };
                    seen.push((frame.ty, frame.body.to_vec()));
                }
            }
            let rest = framer.take_rest();
            prop_assert_eq!(framer.held(), 0);
            collect(&mut Framer::new(), &rest, &mut seen);
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn no_input_makes_it_panic_or_hold_more_than_it_was_given(
            inputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..20),
        ) {
            let (mut framer, mut given) = (Framer::new(), 0);
            for input in &inputs {
                given += input.len();
                if framer.feed(input, usize::from, |_, _| ControlFlow::<()>::Continue(())).is_err() {
                    break;
                }
                prop_assert!(framer.held() <= given);
                prop_assert!(framer.held() < HEADER_BYTES + 255);
            }
        }
    }

    #[test]
    fn a_frame_over_its_limit_is_refused_at_its_header() {
        let mut framer = Framer::new();
        let claim = header(9, 1001);
        let too_long = FrameTooLong {
            ty: 9,
            length: 1001,
            limit: 1000,
        };
        let refuse =
            |framer: &mut Framer, bytes: &[u8]| framer.feed(bytes, |_| 1000, |_, _| ControlFlow::<()>::Continue(()));
        assert_eq!(refuse(&mut Framer::new(), &claim), Err(too_long));
        assert_eq!(refuse(&mut framer, &claim[..3]), Ok(ControlFlow::Continue(())));
        assert_eq!(refuse(&mut framer, &claim[3..]), Err(too_long));
        assert!(framer.tail.capacity() < 1000, "nothing was reserved for a claim");
    }

    #[test]
    fn a_limit_may_change_between_two_frames_of_one_input() {
        let stream = encode(&[(1, vec![0; 10]), (2, vec![0; 100]), (2, vec![0; 101])]);
        let mut framer = Framer::new();
        let mut walk = framer.frames(&stream);
        assert_eq!(walk.next(|_| 10).unwrap().unwrap().ty, 1);
        assert_eq!(walk.next(|_| 100).unwrap().unwrap().ty, 2);
        let refused = walk.next(|_| 100);
        assert_eq!(
            refused,
            Err(FrameTooLong {
                ty: 2,
                length: 101,
                limit: 100
            })
        );
    }

    #[test]
    fn a_whole_frame_is_seen_in_place() {
        let stream = encode(&[(1, b"body".to_vec())]);
        let mut framer = Framer::new();
        let mut walk = framer.frames(&stream);
        let frame = walk.next(|_| 10).unwrap().unwrap();
        assert_eq!(frame.body.as_ptr(), stream[HEADER_BYTES..].as_ptr());
    }
}
