//! A WebSocket over TLS 1.3, for networks that let no UDP through.
//!
//! One TCP connection to the port that QUIC has on UDP: TLS as for QUIC, `GET /v1/link` with
//! `Upgrade: websocket`, then one [`MuxFrame`](super::mux::MuxFrame) in each binary message. A task per
//! connection moves messages between the socket and the [`Mux`](super::mux::Mux); everything else is decided there.
//! No extension is spoken: compressing what is secret beside what is not would give it away.
//!
//! What is on its way is bounded by what has arrived (`way`), which pings ask: TCP alone would fill the
//! network's queue, and before that a beat and its answer took 415 ms on a full link of 1 Mbit/s; now
//! they take 80 ms, and 56 ms on an idle one (`beats_and_upserts_overtake_what_fills_a_websocket_link`).
//!
//! **Invariant:** at most one chunk waits above the socket and little more in it, so that what is
//! urgent overtakes what is not; a message larger than a frame may be is refused before it is read. A
//! peer that asks by pings and does not read the answers makes at most `UNSENT` wait here.

mod accept;
mod connect;
mod connection;
mod driver;
mod halves;
mod shared;
#[cfg(test)]
mod tests;
mod way;

use std::{io::ErrorKind, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::WebSocketConfig};

pub use accept::{accept, secure, wants_link};
pub use connect::connect;

use super::{TransportError, alert::certificate_refused, mux::MAX_MUX_FRAME};
use crate::tls::TlsFault;

/// Where the link is, on the port that enrolment has too.
pub const LINK_PATH: &str = "/v1/link";

/// What may wait in the socket before it takes more: a chunk, the largest at first.
const NOT_SENT: u32 = 16 << 10;
/// tungstenite's own is 128 KiB for each connection.
const READ_BUFFER: usize = 4 << 10;
/// A message and the ping after it go at once, in one TLS record; it grows only as they need.
const WRITE_BUFFER: usize = 2 * MAX_MUX_FRAME;
/// What may wait for a socket that takes nothing: a message, and the answers to pings, which no credit
/// bounds. tungstenite's own bound is none. An honest peer has at most 64 pings on the way, and an
/// answer that does not fit gives way to the next one; a message that does not ends the connection.
const UNSENT: usize = WRITE_BUFFER + MAX_MUX_FRAME;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(UNSENT)
        .max_message_size(Some(MAX_MUX_FRAME))
        .max_frame_size(Some(MAX_MUX_FRAME))
}

/// Frames go at once, and none waits long in the socket.
fn prepare(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    SockRef::from(socket).set_tcp_notsent_lowat(NOT_SENT)
}

/// What a failed socket says.
fn broken(remote: SocketAddr, source: std::io::Error) -> TransportError {
    let tls = source
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    if let Some(rustls::Error::AlertReceived(alert)) = tls
        && let Some(refused) = certificate_refused(u8::from(*alert))
    {
        return refused;
    }
    if tls.is_some() {
        return TransportError::Tls(TlsFault::Other(source.to_string()));
    }
    if matches!(source.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) {
        TransportError::Reset
    } else {
        TransportError::Socket { remote, source }
    }
}
