//! Moves frames over a byte stream.
//!
//! Neither half keeps more than one frame; neither decides anything.

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Frame;

const PREFIX: usize = 4;
/// Memory follows the bytes that came, not the length that was claimed.
const GROW_AT_MOST: usize = 64 << 10;

/// Why a frame could not be moved.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The frame is larger than its type may be.
    #[error("a frame of {length} bytes is over the limit of {limit}")]
    TooLarge {
        /// What the prefix claims, or the message needs.
        length: usize,
        /// What its type may be.
        limit: usize,
    },
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// The bytes are not the message that they should be.
    #[error("a frame does not decode")]
    Garbage(#[from] prost::DecodeError),
    /// The stream failed.
    #[error("the stream failed")]
    Io(#[from] std::io::Error),
}

/// Reads frames off a stream.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    /// Bytes of the frame that is arriving, its prefix first.
    arrived: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `inner`, of which no byte beyond a frame is taken.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            arrived: BytesMut::new(),
        }
    }

    /// The next message; `None` when the stream ended between frames.
    ///
    /// # Cancel safety
    ///
    /// Safe: what arrived of a frame is kept for the next call.
    pub async fn read<M: Frame>(&mut self) -> Result<Option<M>, WireError> {
        if !self.fill(PREFIX).await? {
            return if self.arrived.is_empty() {
                Ok(None)
            } else {
                Err(WireError::Truncated)
            };
        }
        let length = self.length(M::LIMIT)?;
        if !self.fill(PREFIX + length).await? {
            return Err(WireError::Truncated);
        }
        let mut frame = std::mem::take(&mut self.arrived);
        frame.advance(PREFIX);
        Ok(Some(M::decode(frame.freeze())?))
    }

    /// Gives the stream back; sound between frames only.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn length(&self, limit: usize) -> Result<usize, WireError> {
        let mut prefix = &self.arrived[..PREFIX];
        let length = usize::try_from(prefix.get_u32()).unwrap_or(usize::MAX);
        if length > limit {
            Err(WireError::TooLarge { length, limit })
        } else {
            Ok(length)
        }
    }

    /// Reads until `target` bytes have arrived; false when the stream ends before.
    async fn fill(&mut self, target: usize) -> Result<bool, WireError> {
        while self.arrived.len() < target {
            let missing = target - self.arrived.len();
            self.arrived.reserve(missing.min(GROW_AT_MOST));
            let mut limited = (&mut self.inner).take(missing as u64);
            if limited.read_buf(&mut self.arrived).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Writes frames to a stream.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    encoded: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self {
            inner,
            encoded: BytesMut::new(),
        }
    }

    /// Writes one message and flushes it.
    ///
    /// # Cancel safety
    ///
    /// None: a cancelled write may have sent half a frame, and the stream is of no more use.
    pub async fn write<M: Frame>(&mut self, message: &M) -> Result<(), WireError> {
        let length = message.encoded_len();
        if length > M::LIMIT {
            return Err(WireError::TooLarge {
                length,
                limit: M::LIMIT,
            });
        }
        self.encoded.clear();
        self.encoded.reserve(PREFIX + length);
        self.encoded.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        message.encode_raw(&mut self.encoded);
        self.inner.write_all(&self.encoded).await?;
        self.inner.flush().await?;
        if self.encoded.capacity() > GROW_AT_MOST {
            self.encoded = BytesMut::new();
        }
        Ok(())
    }

    /// Says that no more will follow.
    pub async fn finish(&mut self) -> Result<(), WireError> {
        Ok(self.inner.shutdown().await?)
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;
    use crate::wire::{Beat, DesiredUp, Open, SessionUp, session_up};

    fn beat(seq: u64, progress: u64) -> SessionUp {
        SessionUp {
            kind: Some(session_up::Kind::Beat(Beat { seq, progress })),
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[tokio::test]
    async fn what_was_written_is_read_and_the_bytes_after_it_are_left_alone() {
        let (near, far) = duplex(64);
        let mut writer = FrameWriter::new(near);
        let mut reader = FrameReader::new(far);
        writer.write(&beat(1, 2)).await.unwrap();
        writer.write(&beat(3, 4)).await.unwrap();
        writer.into_inner().write_all(b"raw").await.unwrap();
        assert_eq!(reader.read().await.unwrap(), Some(beat(1, 2)));
        assert_eq!(reader.read().await.unwrap(), Some(beat(3, 4)));
        let mut rest = Vec::new();
        reader.into_inner().read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"raw");
    }

    #[tokio::test]
    async fn an_oversized_frame_is_refused_before_anything_is_allocated_for_it() {
        let claim = u32::MAX.to_be_bytes();
        let mut reader = FrameReader::new(&claim[..]);
        let refused = reader.read::<Open>().await.unwrap_err();
        assert!(matches!(refused, WireError::TooLarge { .. }), "{refused}");
        assert!(reader.arrived.capacity() <= 1024);
    }

    #[tokio::test]
    async fn a_claimed_length_alone_costs_little() {
        let claim = u32::try_from(DesiredUp::LIMIT).unwrap().to_be_bytes();
        let mut reader = FrameReader::new(&claim[..]);
        assert!(matches!(
            reader.read::<DesiredUp>().await,
            Err(WireError::Truncated)
        ));
        assert!(reader.arrived.capacity() <= 2 * GROW_AT_MOST);
    }

    #[tokio::test]
    async fn a_message_over_its_limit_is_not_sent() {
        let open = Open::dial(crate::name::ServiceName::Http, &"x".repeat(8 << 10));
        let refused = FrameWriter::new(Vec::new()).write(&open).await.unwrap_err();
        assert!(matches!(refused, WireError::TooLarge { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (near, far) = duplex(64);
        let mut whole = FrameWriter::new(Vec::new());
        whole.write(&beat(7, 8)).await.unwrap();
        let bytes = whole.into_inner();
        let mut reader = FrameReader::new(far);
        let mut near = near;
        for byte in bytes {
            near.write_all(&[byte]).await.unwrap();
            tokio::select! {
                biased;
                read = reader.read::<SessionUp>() => assert_eq!(read.unwrap(), Some(beat(7, 8))),
                () = std::future::ready(()) => {}
            }
        }
        drop(near);
        assert!(reader.read::<SessionUp>().await.unwrap().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn frames_survive_any_split(beats in prop::collection::vec((any::<u64>(), any::<u64>()), 0..8), pipe in 1_usize..64) {
            let sent: Vec<_> = beats.into_iter().map(|(seq, progress)| beat(seq, progress)).collect();
            let read = block_on(async {
                let (near, far) = duplex(pipe);
                let mut writer = FrameWriter::new(near);
                let mut reader = FrameReader::new(far);
                let send = async {
                    for message in &sent {
                        writer.write(message).await.unwrap();
                    }
                    drop(writer);
                };
                let receive = async {
                    let mut read = Vec::new();
                    while let Some(message) = reader.read::<SessionUp>().await.unwrap() {
                        read.push(message);
                    }
                    read
                };
                tokio::join!(send, receive).1
            });
            prop_assert_eq!(read, sent);
        }

        #[test]
        fn garbage_is_an_error_or_a_message_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
            block_on(async {
                let mut reader = FrameReader::new(&bytes[..]);
                while let Ok(Some(_)) = reader.read::<DesiredUp>().await {}
            });
        }
    }
}
