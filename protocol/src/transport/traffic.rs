//! Bytes by class, both ways, counted where streams are read and written.
//!
//! [`counted`] stands between a [`Connection`] and whoever uses it, so that both transports share
//! this one count. What they add around the bytes (frames, TLS, UDP and IP) is not in it. A class may
//! be held to so many bytes a second, both ways together: whoever is over it waits here, and the
//! peer's credit does the rest.
//!
//! **Invariant:** a byte is counted once: when it is handed over to the transport, or read from it.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    BoxFuture, ByteReader, ByteWriter, CloseCode, Connection, Stream, Transport, TransportError, rate::Rate,
};
use crate::{class::Class, tls::PeerIdentity, wire::Open};

/// The length before a frame.
const FRAME_HEAD: usize = 4;

/// What went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// To the peer.
    pub sent: u64,
    /// From the peer.
    pub received: u64,
}

/// What went through the connections that are counted together, by class.
#[derive(Debug, Default)]
pub struct Traffic {
    sent: [AtomicU64; Class::ALL.len()],
    received: [AtomicU64; Class::ALL.len()],
    rates: [Option<Mutex<Rate>>; Class::ALL.len()],
}

impl Traffic {
    /// Nothing so far; the classes named are held to so many bytes a second.
    pub fn limited(rates: impl IntoIterator<Item = (Class, u64)>) -> Self {
        let mut traffic = Self::default();
        for (class, a_second) in rates {
            traffic.rates[class as usize] = Some(Mutex::new(Rate::new(a_second)));
        }
        traffic
    }

    /// Until when nothing of `class` may go.
    fn waits(&self, class: Class) -> Option<Instant> {
        let rate = self.rates[class as usize].as_ref()?;
        rate.lock().waits(Instant::now())
    }

    fn went(&self, class: Class, bytes: usize) {
        if let Some(rate) = &self.rates[class as usize] {
            rate.lock().went(bytes, Instant::now());
        }
    }

    /// The bytes of `class` so far.
    pub fn of(&self, class: Class) -> Carried {
        Carried {
            sent: self.sent[class as usize].load(Ordering::Relaxed),
            received: self.received[class as usize].load(Ordering::Relaxed),
        }
    }

    fn sent(&self, class: Class, bytes: usize) {
        self.went(class, bytes);
        self.sent[class as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn received(&self, class: Class, bytes: usize) {
        self.went(class, bytes);
        self.received[class as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The same connection; what its streams carry is counted.
pub fn counted(inner: Arc<dyn Connection>, traffic: &Arc<Traffic>) -> Arc<dyn Connection> {
    let traffic = Arc::clone(traffic);
    Arc::new(Counted { inner, traffic })
}

struct Counted {
    inner: Arc<dyn Connection>,
    traffic: Arc<Traffic>,
}

impl Counted {
    fn wrap(&self, class: Class, Stream { recv, send }: Stream) -> Stream {
        let half = || Half {
            class,
            traffic: Arc::clone(&self.traffic),
            pause: None,
        };
        Stream {
            recv: Box::new(Reader(recv, half())),
            send: Box::new(Writer(send, half())),
        }
    }
}

impl Connection for Counted {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<Stream, TransportError>> {
        Box::pin(async move {
            let (class, said) = (Class::of(&open), FRAME_HEAD + open.encoded_len());
            let stream = self.inner.open(open).await?;
            self.traffic.sent(class, said);
            Ok(self.wrap(class, stream))
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<(Open, Stream), TransportError>> {
        Box::pin(async move {
            let (open, stream) = self.inner.accept().await?;
            let class = Class::of(&open);
            self.traffic.received(class, FRAME_HEAD + open.encoded_len());
            let stream = self.wrap(class, stream);
            Ok((open, stream))
        })
    }

    fn peer(&self) -> Option<&PeerIdentity> {
        self.inner.peer()
    }

    fn transport(&self) -> Transport {
        self.inner.transport()
    }

    fn remote(&self) -> SocketAddr {
        self.inner.remote()
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.inner.close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        self.inner.closed()
    }
}

struct Half {
    class: Class,
    traffic: Arc<Traffic>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Half {
    /// Ready when the class may go on.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match self.traffic.waits(self.class) {
                Some(until) => self.pause = Some(Box::pin(sleep_until(until))),
                None => return Poll::Ready(()),
            }
        }
    }
}

struct Reader(ByteReader, Half);

struct Writer(ByteWriter, Half);

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.1.poll_turn(cx));
        let before = out.filled().len();
        let read = Pin::new(&mut self.0).poll_read(cx, out);
        self.1.traffic.received(self.1.class, out.filled().len() - before);
        read
    }
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.1.poll_turn(cx));
        let written = Pin::new(&mut self.0).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = written {
            self.1.traffic.sent(self.1.class, bytes);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
