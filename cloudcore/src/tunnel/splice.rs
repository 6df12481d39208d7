//! `kube-api-tcp`: bytes to the API server and back, half-close kept.

use std::{io, time::Duration};

use protocol::{
    transport::{ByteReader, ByteWriter},
    wire::{DialRefusal, DialReply, FrameWriter},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{TunnelFault, accept};

/// A Service that does not answer by then has no endpoint.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

pub(super) async fn serve(
    address: &str,
    recv: ByteReader,
    mut writer: FrameWriter<ByteWriter>,
) -> Result<(), TunnelFault> {
    match connect(address).await {
        Ok(socket) => {
            let send = accept(writer).await?;
            let (from_api, to_api) = socket.into_split();
            Ok(both_ways(recv, send, from_api, to_api).await?)
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
    Ok(socket)
}

/// Copies until both directions have ended; the end of one closes only that one.
async fn both_ways(
    near_recv: impl AsyncRead + Unpin,
    near_send: impl AsyncWrite + Unpin,
    far_recv: impl AsyncRead + Unpin,
    far_send: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    tokio::try_join!(one_way(near_recv, far_send), one_way(far_recv, near_send))?;
    Ok(())
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
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
}
