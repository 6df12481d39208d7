//! A mapper's connection, its bytes behind the [`Rewriter`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::authority::Rewriter;

/// Bytes that are read at once.
const CHUNK: usize = 8 * 1024;

/// A connection whose `:authority` is one that h2 takes, whatever the client sent.
pub(super) struct Lenient<S> {
    inner: S,
    rewriter: Rewriter,
    /// Rewritten and not read yet.
    ready: BytesMut,
    /// The connection's place among those that may be open.
    _place: tokio::sync::OwnedSemaphorePermit,
}

impl<S> Lenient<S> {
    pub(super) fn new(inner: S, place: tokio::sync::OwnedSemaphorePermit) -> Self {
        Self {
            inner,
            rewriter: Rewriter::new(),
            ready: BytesMut::new(),
            _place: place,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() {
            let mut room = [0; CHUNK];
            let mut chunk = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.inner).poll_read(context, &mut chunk))?;
            if chunk.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.rewriter
                .feed(chunk.filled(), &mut this.ready)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        let taken = this.ready.len().min(out.remaining());
        out.put_slice(&this.ready[..taken]);
        this.ready.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for Lenient<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}
