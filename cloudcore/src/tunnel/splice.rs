//! `kube-api-tcp`: bytes to the API server and back, half-close kept.
//!
//! A node has only so many tunnels, so none may be kept by an API server that is gone: the kernel asks for it where
//! nothing is on its way, and [`gone`] looks whether what is on its way is answered. As long as the API server lives and
//! the pod is there and waits, that is the pod's own affair: an API server that does not read, as behind `kubectl exec`
//! of a command that is busy, is not gone.

use std::{
    io,
    net::Shutdown,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use protocol::{
    transport::{ByteReader, ByteWriter},
    wire::{DialRefusal, DialReply, FrameWriter},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{
    TunnelFault, accept,
    gone::{Patience, gone},
};
use crate::cluster::{DEAD_AFTER, abandon_soon, ask_whether_alive};

/// A Service that does not answer by then has no endpoint.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// As long as cloudcore's own requests wait for a dead connection.
const PATIENCE: Patience = Patience {
    silence: DEAD_AFTER,
    answer: Duration::from_secs(5),
    look: Duration::from_secs(5),
};

pub(super) async fn serve(
    address: &str,
    recv: ByteReader,
    mut writer: FrameWriter<ByteWriter>,
) -> Result<(), TunnelFault> {
    match connect(address).await {
        Ok(socket) => {
            let send = accept(writer).await?;
            Ok(both_ways(recv, send, &socket, PATIENCE).await?)
        }
        Err(source) => {
            let text = format!("the API server could not be reached: {source}");
            writer
                .write(&DialReply::refused(DialRefusal::Unreachable, text))
                .await?;
            Err(TunnelFault::Unreachable {
                address: address.to_owned(),
                source,
            })
        }
    }
}

async fn connect(address: &str) -> io::Result<TcpStream> {
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let socket = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    socket.set_nodelay(true)?;
    ask_whether_alive(&socket)?;
    Ok(socket)
}

/// Copies until both directions have ended; the end of one closes only that one.
pub(super) async fn both_ways(
    from_pod: impl AsyncRead + Unpin,
    to_pod: impl AsyncWrite + Unpin,
    socket: &TcpStream,
    patience: Patience,
) -> io::Result<()> {
    let copied = async {
        tokio::try_join!(upwards(from_pod, socket), one_way(Api(socket), to_pod))?;
        Ok(())
    };
    tokio::select! {
        copied = copied => copied,
        error = gone(socket, patience) => Err(error),
    }
}

/// Once the pod has left, what the API server does not take is waited for no longer than a dead one is.
async fn upwards(from_pod: impl AsyncRead + Unpin, socket: &TcpStream) -> io::Result<()> {
    one_way(from_pod, Api(socket)).await?;
    abandon_soon(socket)
}

/// Copies to the end, and closes.
async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// One direction of a connection that is looked at meanwhile.
struct Api<'a>(&'a TcpStream);

impl AsyncRead for Api<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_read_ready(context))?;
            match self.0.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read.map(|length| buffer.advance(length))),
            }
        }
    }
}

impl AsyncWrite for Api<'_> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.poll_write_ready(context))?;
            match self.0.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(self.0).shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, duplex, split},
        net::TcpListener,
    };

    use super::*;
    use protocol::wire::FrameReader;

    #[tokio::test]
    async fn the_answer_comes_after_the_question_was_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (edge, cloud) = duplex(64);
        let (cloud_recv, cloud_send) = split(cloud);
        let (edge_recv, mut edge_send) = split(edge);

        let api = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut question = Vec::new();
            socket.read_to_end(&mut question).await.unwrap();
            socket.write_all(&question.repeat(2)).await.unwrap();
        };
        let pod = async {
            edge_send.write_all(b"hello").await.unwrap();
            edge_send.shutdown().await.unwrap();
            let mut reader = FrameReader::new(edge_recv);
            assert_eq!(reader.read().await.unwrap(), Some(DialReply::dialed()));
            let mut answer = Vec::new();
            reader.into_inner().read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"hellohello");
        };
        let tunnel = serve(
            &address,
            Box::new(cloud_recv),
            FrameWriter::new(Box::new(cloud_send)),
        );
        let ((), (), served) = tokio::join!(api, pod, tunnel);
        served.unwrap();
    }

    #[tokio::test]
    async fn an_api_server_that_is_away_is_named_in_the_refusal() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = closed.local_addr().unwrap().to_string();
        drop(closed);
        let (edge, cloud) = duplex(512);
        let (recv, send) = split(cloud);
        let refused = serve(&address, Box::new(recv), FrameWriter::new(Box::new(send))).await;
        assert!(matches!(refused, Err(TunnelFault::Unreachable { .. })));
        let reply: DialReply = FrameReader::new(edge).read().await.unwrap().unwrap();
        assert!(format!("{reply:?}").contains("could not be reached"));
    }

    #[tokio::test]
    async fn an_api_server_that_is_gone_keeps_no_tunnel_and_one_that_does_not_read_loses_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = connect(&listener.local_addr().unwrap().to_string())
            .await
            .unwrap();
        let set = SockRef::from(&socket);
        assert!(set.keepalive().unwrap());
        assert_eq!(set.tcp_user_timeout().unwrap(), None);
        upwards(tokio::io::empty(), &socket).await.unwrap();
        assert!(set.tcp_user_timeout().unwrap().is_some());
    }
}
