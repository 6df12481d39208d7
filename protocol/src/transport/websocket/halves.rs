//! The two halves of a stream, as readers and writers of bytes.

use std::{
    io::{Error, ErrorKind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::Shared;
use crate::transport::{CloseCode, mux::Read};

/// What the peer sends. Dropping it tells the peer to stop.
pub(super) struct Reader {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
    /// What the peer is told when it is dropped.
    pub(super) code: CloseCode,
}

/// What this end sends. Dropping it is the half-close.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) id: u32,
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        // First: whoever ends the connection wakes all who are known to wait.
        self.shared.reader(self.id, cx.waker());
        if self.shared.over.is_cancelled() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        let read = self
            .shared
            .with(|mux| mux.read(self.id, out.initialize_unfilled()));
        match read {
            Read::Wait => return Poll::Pending,
            Read::Bytes(bytes) => out.advance(bytes),
            Read::End => {}
            Read::Reset(code) => {
                self.shared.forget_reader(self.id);
                return Poll::Ready(Err(reset(code)));
            }
        }
        self.shared.forget_reader(self.id);
        Poll::Ready(Ok(()))
    }
}

fn reset(code: u32) -> Error {
    let code = CloseCode::from(u64::from(code));
    Error::new(
        ErrorKind::ConnectionReset,
        format!("the peer broke the stream off ({code:?})"),
    )
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.forget_reader(self.id);
        let code = self.code as u32;
        self.shared.with(|mux| mux.release_reader(self.id, code));
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.shared.writer(self.id, cx.waker());
        if self.shared.over.is_cancelled() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        match self.shared.with(|mux| mux.write(self.id, bytes)) {
            Ok(0) => Poll::Pending,
            Ok(taken) => {
                self.shared.forget_writer(self.id);
                Poll::Ready(Ok(taken))
            }
            Err(_stopped) => {
                self.shared.forget_writer(self.id);
                Poll::Ready(Err(ErrorKind::BrokenPipe.into()))
            }
        }
    }

    /// What was written goes by itself.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.shared.over.is_cancelled() {
            return Poll::Ready(Err(ErrorKind::ConnectionAborted.into()));
        }
        self.shared.with(|mux| mux.finish(self.id));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.forget_writer(self.id);
        self.shared.with(|mux| mux.release_writer(self.id));
    }
}
