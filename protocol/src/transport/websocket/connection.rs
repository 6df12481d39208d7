//! The [`Connection`] seam over the core.

use std::{net::SocketAddr, sync::Arc};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::Mutex, task::JoinSet, time::timeout};

use super::{
    Socket, driver,
    halves::{Reader, Writer},
    shared::Shared,
};
use crate::{
    class::Class,
    tls::PeerIdentity,
    transport::{
        BoxFuture, CloseCode, Connection, HANDSHAKE_LIMIT, Stream, Transport, TransportError,
        budget::Share,
        mux::{NotOpened, Side},
    },
    wire::{FrameReader, FrameWriter, Open},
};

type Opening = BoxFuture<'static, Option<(Open, Stream)>>;

/// A WebSocket connection.
pub(super) struct WebSocket {
    shared: Arc<Shared>,
    peer: Option<PeerIdentity>,
    /// Streams whose first frame has not come.
    opening: Mutex<FuturesUnordered<Opening>>,
    /// The one task of the connection.
    task: JoinSet<()>,
}

impl WebSocket {
    pub(super) fn edge(socket: Socket, remote: SocketAddr) -> Self {
        Self::new(Shared::new(Side::Edge, remote, None), socket, None)
    }

    pub(super) fn cloud(
        socket: Socket,
        remote: SocketAddr,
        peer: Option<PeerIdentity>,
        share: Share,
    ) -> Self {
        Self::new(Shared::new(Side::Cloud, remote, Some(share)), socket, peer)
    }

    fn new(shared: Shared, socket: Socket, peer: Option<PeerIdentity>) -> Self {
        let shared = Arc::new(shared);
        let mut task = JoinSet::new();
        task.spawn(driver::drive(Arc::clone(&shared), socket));
        Self {
            shared,
            peer,
            opening: Mutex::default(),
            task,
        }
    }

    async fn next_id(&self, class: Class) -> Result<u32, TransportError> {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            if self.shared.over.is_cancelled() {
                return Err(self.shared.why());
            }
            match self.shared.with(|mux| mux.open(class)) {
                Ok(id) => return Ok(id),
                Err(NotOpened::NoRoom) => return Err(TransportError::NoRoom),
                Err(NotOpened::TooMany) => {}
            }
            tokio::select! {
                () = room => {}
                () = self.shared.over.cancelled() => {}
            }
        }
    }

    async fn next_arrival(&self) -> Result<u32, TransportError> {
        loop {
            if self.shared.over.is_cancelled() {
                return Err(self.shared.why());
            }
            if let Some(id) = self.shared.with(crate::transport::mux::Mux::accept) {
                return Ok(id);
            }
            tokio::select! {
                () = self.shared.arrived.notified() => {}
                () = self.shared.over.cancelled() => {}
            }
        }
    }

    fn halves(&self, id: u32) -> (Reader, Writer) {
        halves(&self.shared, id)
    }
}

fn halves(shared: &Arc<Shared>, id: u32) -> (Reader, Writer) {
    let reader = Reader {
        shared: Arc::clone(shared),
        id,
        code: CloseCode::Done,
    };
    let writer = Writer {
        shared: Arc::clone(shared),
        id,
    };
    (reader, writer)
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        self.shared.close(CloseCode::Done, "");
        // It has a last word to say, and a second for it.
        self.task.detach_all();
    }
}

impl Connection for WebSocket {
    fn open(&self, open: Open) -> BoxFuture<'_, Result<Stream, TransportError>> {
        Box::pin(async move {
            let id = self.next_id(Class::of(&open)).await?;
            let (recv, send) = self.halves(id);
            let mut writer = FrameWriter::new(send);
            writer.write(&open).await?;
            Ok(Stream {
                recv: Box::new(recv),
                send: Box::new(writer.into_inner()),
            })
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<(Open, Stream), TransportError>> {
        Box::pin(async move {
            let mut opening = self.opening.lock().await;
            loop {
                tokio::select! {
                    arrived = self.next_arrival() => {
                        opening.push(Box::pin(first_frame(Arc::clone(&self.shared), arrived?)));
                    }
                    Some(opened) = opening.next(), if !opening.is_empty() => {
                        if let Some(opened) = opened {
                            return Ok(opened);
                        }
                    }
                }
            }
        })
    }

    fn peer(&self) -> Option<&PeerIdentity> {
        self.peer.as_ref()
    }

    fn transport(&self) -> Transport {
        Transport::WebSocket
    }

    fn remote(&self) -> SocketAddr {
        self.shared.remote
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.shared.close(code, reason);
    }

    fn closed(&self) -> BoxFuture<'_, TransportError> {
        Box::pin(async move {
            self.shared.gone.cancelled().await;
            self.shared.why()
        })
    }
}

/// Reads the frame that says what a stream is; `None` when it is late or not one.
async fn first_frame(shared: Arc<Shared>, id: u32) -> Option<(Open, Stream)> {
    let (recv, send) = halves(&shared, id);
    let mut reader = FrameReader::new(recv);
    let read = timeout(HANDSHAKE_LIMIT, reader.read::<Open>()).await;
    let Ok(Ok(Some(open))) = read else {
        tracing::debug!(outcome = ?read.map(|frame| frame.map(drop)), "a stream did not say what it is");
        let refused = CloseCode::Protocol;
        reader.into_inner().code = refused;
        shared.with(|mux| mux.reset(id, refused as u32));
        return None;
    };
    shared.with(|mux| mux.classify(id, Class::of(&open)));
    Some((
        open,
        Stream {
            recv: Box::new(reader.into_inner()),
            send: Box::new(send),
        },
    ))
}
