//! The frame around every message of the protocol: one 32-bit word, then the body.
//!
//! The word is little-endian: its low 24 bits are the body's length in bytes, its high 8 bits the frame's type. Types from 0x80 up
//! are *ignorable*: who doesn't know one skips it. Every other unknown type ends the connection.

use crate::codec::DecodeError;

/// The header's length, in bytes.
pub const HEADER_BYTES: usize = 4;

/// The largest body that a header can name. Each side's limit is lower.
pub const BODY_BYTES_MAX: usize = (1 << 24) - 1;

/// The type and the length of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the body is.
    pub ty: u8,
    /// How long the body is, in bytes.
    pub length: u32,
}

impl Header {
    /// Reads a header.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Header {
        let word = u32::from_le_bytes(bytes);
        Header {
            ty: (word >> 24) as u8,
            length: word & 0x00ff_ffff,
        }
    }

    /// Writes a header.
    #[inline]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        debug_assert!(self.length as usize <= BODY_BYTES_MAX);
        (u32::from(self.ty) << 24 | self.length).to_le_bytes()
    }
}

/// Whether a frame of an unknown type may be skipped.
pub fn is_ignorable(ty: u8) -> bool {
    ty & 0x80 != 0
}

/// A frame that can be written.
pub trait Encode {
    /// Its type.
    const TYPE: u8;

    /// Appends the body.
    fn put_body(&self, out: &mut Vec<u8>);

    /// Appends header and body.
    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        self.put_body(out);
        let length = out.len() - start - HEADER_BYTES;
        // A longer body would be a defect of ours: every field has a bound, and their sum is below this.
        assert!(length <= BODY_BYTES_MAX, "a frame body of {length} bytes");
        out[start..start + HEADER_BYTES].copy_from_slice(
            &Header {
                ty: Self::TYPE,
                length: length as u32,
            }
            .encode(),
        );
    }

    /// Header and body as a vector of their own.
    fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// A frame, of any type of one direction, that can be read.
pub trait Decode<'a>: Sized {
    /// Reads a frame that came on a connection which speaks `version`. `Ok(None)` is an unknown frame that may be skipped.
    ///
    /// # Errors
    /// If the body is not such a frame, or the type is unknown in this version and may not be ignored.
    fn decode(version: u8, ty: u8, body: &'a [u8]) -> Result<Option<Self>, DecodeError>;
}

/// Declares the frames of one direction: a struct for each, and an enum over them that decodes by type.
///
/// The fields are written in the order in which they are declared, each in its one form ([`crate::codec::Field`]). What stands under
/// `next` is compiled with the feature `next-version` only: fields behind a frame's others ([`crate::codec::Newer`]), and frames
/// that are unknown to who speaks an older version.
macro_rules! frames {
    (
        $(#[$edoc:meta])*
        pub enum $enum:ident {
            $(
                $(#[$doc:meta])*
                $ty:literal $name:ident $([$lt:lifetime])? {
                    $( $(#[$fdoc:meta])* $field:ident : $fty:ty ),* $(,)?
                }
                $( next { $( $(#[$nfdoc:meta])* $nfield:ident : $nfty:ty ),* $(,)? } )?
            )*
        }
        shared { $( $sty:literal $sname:ident $([$slt:lifetime])? ),* $(,)? }
        $(next {
            $(
                $(#[$ndoc:meta])*
                $nty:literal $nname:ident $([$nlt:lifetime])? {
                    $( $(#[$nndoc:meta])* $nnfield:ident : $nnfty:ty ),* $(,)?
                }
            )*
        })?
    ) => {
        $(
            $crate::frame::frame! {
                $(#[$doc])*
                $ty $name $([$lt])? {
                    $( $(#[$fdoc])* $field : $fty, )*
                    $($(
                        $(#[$nfdoc])*
                        #[cfg(feature = "next-version")]
                        $nfield : $nfty,
                    )*)?
                }
            }
        )*
        $($(
            #[cfg(feature = "next-version")]
            $crate::frame::frame! {
                $(#[$ndoc])*
                $nty $nname $([$nlt])? {
                    $( $(#[$nndoc])* $nnfield : $nnfty, )*
                }
            }
        )*)?

        $(#[$edoc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum<'a> {
            $( $(#[$doc])* $name($name $(<$lt>)?), )*
            $( #[doc = "See the type."] $sname($sname $(<$slt>)?), )*
            $($(
                $(#[$ndoc])*
                #[cfg(feature = "next-version")]
                $nname($nname $(<$nlt>)?),
            )*)?
        }

        impl<'a> $crate::frame::Decode<'a> for $enum<'a> {
            fn decode(version: u8, ty: u8, body: &'a [u8]) -> Result<Option<Self>, $crate::codec::DecodeError> {
                match ty {
                    $( $ty => $name::decode_body_of(version, body).map($enum::$name).map(Some), )*
                    $( $sty => $sname::decode_body_of(version, body).map($enum::$sname).map(Some), )*
                    $($(
                        #[cfg(feature = "next-version")]
                        $nty if version >= $crate::next::VERSION => {
                            $nname::decode_body_of(version, body).map($enum::$nname).map(Some)
                        }
                    )*)?
                    ty if $crate::frame::is_ignorable(ty) => Ok(None),
                    ty => Err($crate::codec::DecodeError::UnknownType(ty)),
                }
            }
        }

        impl $enum<'_> {
            /// Appends header and body, whichever frame it is.
            #[inline]
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $( $enum::$name(frame) => $crate::frame::Encode::encode(frame, out), )*
                    $( $enum::$sname(frame) => $crate::frame::Encode::encode(frame, out), )*
                    $($(
                        #[cfg(feature = "next-version")]
                        $enum::$nname(frame) => $crate::frame::Encode::encode(frame, out),
                    )*)?
                }
            }
        }
    };
}

/// Declares one frame, for [`frames!`].
macro_rules! frame {
    (
        $(#[$doc:meta])*
        $ty:literal $name:ident $([$lt:lifetime])? {
            $( $(#[$fmeta:meta])* $field:ident : $fty:ty, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name $(<$lt>)? {
            $( $(#[$fmeta])* pub $field: $fty, )*
        }

        impl $(<$lt>)? $crate::frame::Encode for $name $(<$lt>)? {
            const TYPE: u8 = $ty;

            // The fields' comments come along with what says whether they are compiled.
            #[allow(unused_doc_comments)]
            #[inline]
            fn put_body(&self, _out: &mut Vec<u8>) {
                $(
                    $(#[$fmeta])*
                    {
                        $crate::codec::Field::put(&self.$field, _out);
                    }
                )*
            }
        }

        impl $(<$lt>)? $name $(<$lt>)? {
            /// Reads the body of such a frame, as the lowest version has it: for frames that have one form in all versions.
            ///
            /// # Errors
            /// If the body is not one.
            pub fn decode_body(body: & $($lt)? [u8]) -> Result<Self, $crate::codec::DecodeError> {
                $name::decode_body_of($crate::preface::VERSION_MIN, body)
            }

            /// Reads the body of such a frame, as `version` has it.
            ///
            /// # Errors
            /// If the body is not one.
            #[allow(unused_doc_comments)]
            #[inline]
            pub fn decode_body_of(version: u8, body: & $($lt)? [u8]) -> Result<Self, $crate::codec::DecodeError> {
                let mut _reader = $crate::codec::Reader::of_version(version, body);
                let frame = $name { $( $(#[$fmeta])* $field: $crate::codec::Field::take(&mut _reader)?, )* };
                _reader.finish()?;
                Ok(frame)
            }
        }
    };
}
pub(crate) use {frame, frames};
