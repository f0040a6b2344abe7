//! A stream gives the same frames, and the same refusal, wherever it is cut; and nothing is held beyond what came.
#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use trunkline_net::framing::{FrameTooLong, Framer};

/// Frames as type and body, and how the stream ended.
type Seen = (Vec<(u8, Vec<u8>)>, Option<FrameTooLong>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Seen {
    let (mut framer, mut seen, mut given) = (Framer::new(), Vec::new(), 0);
    for piece in pieces {
        given += piece.len();
        let fed = framer.feed(
            piece,
            |ty| usize::from(ty),
            |ty, body| {
                seen.push((ty, body.to_vec()));
                ControlFlow::<()>::Continue(())
            },
        );
        if let Err(refused) = fed {
            return (seen, Some(refused));
        }
        assert!(framer.held() <= given && framer.held() < 4 + 255);
    }
    (seen, None)
}

fuzz_target!(|input: (&[u8], Vec<u8>)| {
    let (stream, cuts) = input;
    let mut rest = stream;
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, later) = rest.split_at(usize::from(cut).min(rest.len()));
        pieces.push(piece);
        rest = later;
    }
    pieces.push(rest);
    assert_eq!(read(pieces.into_iter()), read(std::iter::once(stream)));
});
