//! The sending half of a stream, behind the gate.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use quinn::SendStream;
use tokio::io::AsyncWrite;

use super::gate::Gate;
use crate::class::Class;

/// Writes a stream when it is its turn. Dropping it is the half-close.
pub(super) struct Gated {
    send: SendStream,
    gate: Arc<Gate>,
    class: Class,
    id: u64,
}

impl Gated {
    pub(super) fn new(send: SendStream, gate: Arc<Gate>, class: Class) -> Self {
        let id = gate.writer();
        Self {
            send,
            gate,
            class,
            id,
        }
    }
}

impl AsyncWrite for Gated {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let most = ready!(self.gate.poll_turn(self.class, self.id, cx));
        let most = usize::try_from(most).map_or(bytes.len(), |most| most.min(bytes.len()));
        let written = AsyncWrite::poll_write(Pin::new(&mut self.send), cx, &bytes[..most]);
        let count = match &written {
            Poll::Ready(Ok(count)) => *count,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        self.gate.wrote(self.class, count);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.gate.forget(self.class, self.id);
    }
}
