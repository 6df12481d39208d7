//! The task of one connection: messages between the socket and the core.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::{
    NOT_SENT, Socket, broken,
    shared::{End, Shared},
    way::{May, Way},
};
use crate::transport::{
    CloseCode, TransportError,
    mux::{MAX_CHUNK, Mux},
};

/// What the last word may take to arrive.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves the connection to its end. It outlives the last handle by [`LAST_WORD`] at most.
pub(super) async fn drive(shared: Arc<Shared>, socket: Socket) {
    let _gone = shared.gone.clone().drop_guard();
    let mut driver = Driver {
        shared: &shared,
        socket,
        sending: false,
        way: Way::new(Instant::now()),
        ask: None,
        pause: None,
        not_sent: NOT_SENT,
    };
    let end = tokio::select! {
        biased;
        () = shared.over.cancelled() => End::Here,
        end = std::future::poll_fn(|cx| driver.poll(cx)) => end,
    };
    shared.end(end);
    // However that goes, the socket is dropped next.
    let _ = timeout(LAST_WORD, say_last(&shared, &mut driver.socket)).await;
}

struct Driver<'a> {
    shared: &'a Shared,
    socket: Socket,
    /// A message is on its way into the socket.
    sending: bool,
    way: Way,
    /// What the next ping says.
    ask: Option<[u8; 4]>,
    /// Until something may go again.
    pause: Option<Pin<Box<Sleep>>>,
    /// What may wait in the socket before it takes more.
    not_sent: u32,
}

impl Driver<'_> {
    /// Moves what can be moved, both ways; ready at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let sent = match self.poll_send(cx) {
                Ok(sent) => sent,
                Err(error) => return Poll::Ready(failed(self.shared, error)),
            };
            match self.socket.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    if let Message::Pong(pong) = &message {
                        self.way.answered(pong, Instant::now());
                    }
                    if let Err(end) = heard(self.shared, cx, &message) {
                        return Poll::Ready(end);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(failed(self.shared, error)),
                Poll::Ready(None) => return Poll::Ready(failed(self.shared, WsError::ConnectionClosed)),
                Poll::Pending if sent => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Hands down one message, once the one before has reached the socket; true when something
    /// moved.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Result<bool, WsError> {
        if self.sending {
            match self.socket.poll_flush_unpin(cx) {
                Poll::Ready(flushed) => flushed?,
                Poll::Pending => return Ok(false),
            }
            self.sending = false;
        }
        let Some(message) = self.next(cx) else {
            return Ok(false);
        };
        self.sending = true;
        self.socket.start_send_unpin(message)?;
        if let Some(question) = self.ask.take() {
            let ping = Message::Ping(Bytes::copy_from_slice(&question));
            self.socket.start_send_unpin(ping)?;
        }
        Ok(true)
    }

    fn next(&mut self, cx: &mut Context<'_>) -> Option<Message> {
        let may = self.may(cx);
        let chunk = self.way.chunk();
        self.keep_little(chunk);
        let (frame, holds) = self.shared.drive(cx, |mux| {
            mux.set_chunk(chunk);
            mux.hold(may != May::Go);
            (mux.poll_transmit(), mux.holds())
        });
        if holds {
            self.way.held();
        }
        let frame = frame?;
        self.ask = self.way.went(frame.len(), Instant::now());
        Some(Message::Binary(frame))
    }

    /// Whether bytes may go; the task is woken when they may.
    fn may(&mut self, cx: &mut Context<'_>) -> May {
        loop {
            let may = self.way.may(Instant::now());
            let May::At(at) = may else {
                return may;
            };
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep_until(at)));
            pause.as_mut().reset(at);
            if pause.as_mut().poll(cx).is_pending() {
                return may;
            }
        }
    }

    /// On a narrow link less may wait in the socket than on a wide one: it goes before whatever is
    /// urgent.
    fn keep_little(&mut self, chunk: usize) {
        let wanted = u32::try_from(chunk.min(MAX_CHUNK)).unwrap_or(NOT_SENT);
        if wanted.abs_diff(self.not_sent) > self.not_sent / 4 {
            let (tcp, _) = self.socket.get_ref().get_ref();
            // Where it is refused the link works as before; only what is urgent waits longer.
            let _ = SockRef::from(tcp).set_tcp_notsent_lowat(wanted);
            self.not_sent = wanted;
        }
    }
}

fn heard(shared: &Shared, cx: &Context<'_>, message: &Message) -> Result<(), End> {
    match message {
        Message::Binary(bytes) => {
            let taken = shared.drive(cx, |mux| {
                mux.handle_frame(bytes)
                    .inspect_err(|violation| mux.close(CloseCode::Protocol, &violation.to_string()))
                    .map(|()| mux.closed_by_peer().cloned())
            });
            match taken {
                Ok(None) => Ok(()),
                Ok(Some((code, reason))) => Err(End::ByPeer(code, reason)),
                Err(violation) => Err(End::Failed(TransportError::Failed(format!(
                    "the peer broke the protocol: {violation}"
                )))),
            }
        }
        // tungstenite answers a ping by itself.
        Message::Ping(_) | Message::Pong(_) => Ok(()),
        Message::Close(_) | Message::Text(_) | Message::Frame(_) => Err(End::Failed(TransportError::Failed(
            "the peer sent what is no frame of the link".to_owned(),
        ))),
    }
}

fn failed(shared: &Shared, error: WsError) -> End {
    End::Failed(if let WsError::Io(source) = error {
        broken(shared.remote, source)
    } else if matches!(error, WsError::ConnectionClosed | WsError::AlreadyClosed) {
        TransportError::Failed("the peer went away without a word".to_owned())
    } else {
        TransportError::Failed(error.to_string())
    })
}

/// Sends what is left to say, which is a close, and waits until the peer has hung up: closing a
/// socket that was not read to its end would throw away what is on its way.
async fn say_last(shared: &Shared, socket: &mut Socket) -> Option<()> {
    let close = shared.with(Mux::poll_transmit)?;
    socket.send(Message::Binary(close)).await.ok()?;
    socket.get_mut().shutdown().await.ok()?;
    while let Some(Ok(_)) = socket.next().await {}
    Some(())
}
