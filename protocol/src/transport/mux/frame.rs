//! The multiplexer's frames: one per WebSocket message.
//!
//! ```text
//! Open    0 | stream                 Stop    4 | stream | code
//! Data    1 | stream | bytes         Credit  5 | stream | more bytes
//! Last    2 | stream | bytes         Streams 6 | more streams
//! Reset   3 | stream | code          Close   7 | code | reason (UTF-8)
//! ```
//!
//! The kind is one byte, numbers are varints of at most five bytes, and what comes last takes the
//! rest of the message.
//!
//! **Invariant:** decoding borrows; nothing is allocated for a frame that does not pass.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The most bytes of a stream in one frame.
pub const MAX_CHUNK: usize = 16 << 10;
/// The longest reason of a close.
const MAX_REASON: usize = 256;
/// The kind and one number.
const MAX_HEAD: usize = 1 + 5;
/// The largest frame there is.
pub const MAX_MUX_FRAME: usize = MAX_HEAD + MAX_CHUNK;

/// One frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MuxFrame<'a> {
    /// The sender opens the stream; ids of one opener follow each other.
    Open {
        /// Which.
        stream: u32,
    },
    /// Bytes of a stream.
    Data {
        /// Which.
        stream: u32,
        /// At least one, at most [`MAX_CHUNK`].
        bytes: &'a [u8],
        /// No more will follow; then there may be no bytes.
        last: bool,
    },
    /// The sender sends no more on the stream, and what it sent may be thrown away.
    Reset {
        /// Which.
        stream: u32,
        /// Why.
        code: u32,
    },
    /// The sender reads no more of the stream.
    Stop {
        /// Which.
        stream: u32,
        /// Why.
        code: u32,
    },
    /// The sender takes more bytes of the stream.
    Credit {
        /// Which.
        stream: u32,
        /// So many.
        more: u32,
    },
    /// The sender takes more streams.
    Streams {
        /// So many.
        more: u32,
    },
    /// The sender ends the connection.
    Close {
        /// Why.
        code: u32,
        /// In words.
        reason: &'a [u8],
    },
}

/// The bytes are not a frame.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum MuxFrameError {
    /// No frame begins so.
    #[error("there is no frame of kind {0}")]
    Kind(u8),
    /// It ends too early, or a number in it does not.
    #[error("a frame is cut short, or a number in it is too large")]
    Number,
    /// Something follows that should not.
    #[error("a frame is longer than it may be")]
    TooLong,
    /// It says nothing.
    #[error("a frame says nothing")]
    Empty,
}

impl<'a> MuxFrame<'a> {
    /// Reads one message.
    pub fn decode(message: &'a [u8]) -> Result<Self, MuxFrameError> {
        let (&kind, rest) = message.split_first().ok_or(MuxFrameError::Empty)?;
        let (first, rest) = number(rest)?;
        match kind {
            0 => nothing(rest, Self::Open { stream: first }),
            1 | 2 => Self::data(first, rest, kind == 2),
            3..=5 => {
                let (second, rest) = number(rest)?;
                let (stream, code) = (first, second);
                match kind {
                    3 => nothing(rest, Self::Reset { stream, code }),
                    4 => nothing(rest, Self::Stop { stream, code }),
                    _ => nothing(rest, Self::Credit { stream, more: code }),
                }
            }
            6 => nothing(rest, Self::Streams { more: first }),
            7 if rest.len() > MAX_REASON => Err(MuxFrameError::TooLong),
            7 => Ok(Self::Close {
                code: first,
                reason: rest,
            }),
            other => Err(MuxFrameError::Kind(other)),
        }
    }

    fn data(stream: u32, bytes: &'a [u8], last: bool) -> Result<Self, MuxFrameError> {
        if bytes.len() > MAX_CHUNK {
            Err(MuxFrameError::TooLong)
        } else if bytes.is_empty() && !last {
            Err(MuxFrameError::Empty)
        } else {
            Ok(Self::Data { stream, bytes, last })
        }
    }

    /// Writes one message. A reason that is too long is cut.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(2 * MAX_HEAD + self.tail().len());
        match *self {
            Self::Open { stream } => head(&mut out, 0, stream),
            Self::Data { stream, last, .. } => head(&mut out, if last { 2 } else { 1 }, stream),
            Self::Reset { stream, code } => pair(&mut out, 3, stream, code),
            Self::Stop { stream, code } => pair(&mut out, 4, stream, code),
            Self::Credit { stream, more } => pair(&mut out, 5, stream, more),
            Self::Streams { more } => head(&mut out, 6, more),
            Self::Close { code, .. } => head(&mut out, 7, code),
        }
        out.put_slice(self.tail());
        out.freeze()
    }

    fn tail(&self) -> &'a [u8] {
        match self {
            Self::Data { bytes, .. } => bytes,
            Self::Close { reason, .. } => &reason[..reason.len().min(MAX_REASON)],
            Self::Open { .. }
            | Self::Reset { .. }
            | Self::Stop { .. }
            | Self::Credit { .. }
            | Self::Streams { .. } => &[],
        }
    }
}

fn nothing<'a>(rest: &[u8], frame: MuxFrame<'a>) -> Result<MuxFrame<'a>, MuxFrameError> {
    if rest.is_empty() {
        Ok(frame)
    } else {
        Err(MuxFrameError::TooLong)
    }
}

/// A varint, seven bits a byte, the lowest first.
fn number(bytes: &[u8]) -> Result<(u32, &[u8]), MuxFrameError> {
    let mut value = 0_u64;
    for (place, &byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| MuxFrameError::Number)?;
            return Ok((value, &bytes[place + 1..]));
        }
    }
    Err(MuxFrameError::Number)
}

fn head(out: &mut BytesMut, kind: u8, number: u32) {
    out.put_u8(kind);
    put(out, number);
}

fn pair(out: &mut BytesMut, kind: u8, first: u32, second: u32) {
    head(out, kind, first);
    put(out, second);
}

fn put(out: &mut BytesMut, mut value: u32) {
    loop {
        let [low, ..] = (value & 0x7f).to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_a_frame_is_refused() {
        let refused = |bytes: &[u8]| MuxFrame::decode(bytes).unwrap_err();
        assert_eq!(refused(&[]), MuxFrameError::Empty);
        assert_eq!(refused(&[9, 0]), MuxFrameError::Kind(9));
        assert_eq!(refused(&[0]), MuxFrameError::Number);
        assert_eq!(refused(&[0, 0x80, 0x80, 0x80, 0x80, 0x80]), MuxFrameError::Number);
        assert_eq!(refused(&[0, 0xff, 0xff, 0xff, 0xff, 0x7f]), MuxFrameError::Number);
        assert_eq!(refused(&[0, 2, 1]), MuxFrameError::TooLong);
        assert_eq!(refused(&[1, 2]), MuxFrameError::Empty);
        assert_eq!(refused(&vec![1; 3 + MAX_CHUNK]), MuxFrameError::TooLong);
        assert_eq!(refused(&[7; 3 + MAX_REASON]), MuxFrameError::TooLong);
    }

    proptest! {
        #[test]
        fn a_frame_reads_as_it_was_written(
            kind in 0..7_u8, stream: u32, number: u32, bytes in prop::collection::vec(any::<u8>(), 1..300), last: bool
        ) {
            let reason = &bytes[..bytes.len().min(MAX_REASON)];
            let frame = match kind {
                0 => MuxFrame::Open { stream },
                1 => MuxFrame::Data { stream, bytes: &bytes, last },
                2 => MuxFrame::Reset { stream, code: number },
                3 => MuxFrame::Stop { stream, code: number },
                4 => MuxFrame::Credit { stream, more: number },
                5 => MuxFrame::Streams { more: number },
                _ => MuxFrame::Close { code: number, reason },
            };
            let message = frame.encode();
            prop_assert_eq!(MuxFrame::decode(&message), Ok(frame));
        }
    }
}
