//! What only the WebSocket does.

use std::time::Duration;

use bytes::BufMut;
use futures::{SinkExt, StreamExt};
use prost::Message as _;
use protocol::{
    clock::Clock,
    tls::SERVER_NAME,
    transport::{
        CloseCode, TransportError,
        mux::{MAX_MUX_FRAME, MuxFrame},
        websocket::LINK_PATH,
    },
    wire::Open,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message},
};

use crate::{
    carriers::{Carrier, Connected, WebSocket},
    pki::{Authority, edge, valid},
};

type Raw = Result<WebSocketStream<TlsStream<TcpStream>>, Error>;

/// A client of the test's own at `path`, and what the cloud made of it.
async fn raw(path: &str) -> (Raw, Connected) {
    let authority = Authority::new();
    let (listener, address) = WebSocket::listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    let client = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = SERVER_NAME.try_into().unwrap();
        let secured = TlsConnector::from(tls.over_tcp()).connect(name, socket).await;
        let upgraded = client_async(format!("wss://{SERVER_NAME}{path}"), secured.unwrap()).await;
        upgraded.map(|(socket, _)| socket)
    };
    tokio::join!(client, listener.accept())
}

async fn say(socket: &mut WebSocketStream<TlsStream<TcpStream>>, frame: MuxFrame<'_>) {
    socket.send(Message::Binary(frame.encode())).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_never_says_what_it_is_delays_no_other() {
    let (socket, cloud) = raw(LINK_PATH).await;
    let (mut socket, cloud) = (socket.unwrap(), cloud.unwrap());
    say(&mut socket, MuxFrame::Open { stream: 0 }).await;
    let bytes = &[0, 0];
    say(
        &mut socket,
        MuxFrame::Data {
            stream: 0,
            bytes,
            last: false,
        },
    )
    .await;
    say(&mut socket, MuxFrame::Open { stream: 2 }).await;
    let open = Open::desired().encode_to_vec();
    let mut frame = Vec::new();
    frame.put_u32(u32::try_from(open.len()).unwrap());
    frame.put_slice(&open);
    say(
        &mut socket,
        MuxFrame::Data {
            stream: 2,
            bytes: &frame,
            last: false,
        },
    )
    .await;
    let (said, _stream) = timeout(Duration::from_secs(5), cloud.accept())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said, Open::desired());
}

/// What the cloud says of a client that sends `message`, and what it tells it.
async fn offended(message: Message) -> (TransportError, Option<(u32, String)>) {
    let (socket, cloud) = raw(LINK_PATH).await;
    let (mut socket, cloud) = (socket.unwrap(), cloud.unwrap());
    socket.send(message).await.unwrap();
    let ending = async {
        let mut told = None;
        while let Some(Ok(message)) = socket.next().await {
            if let Ok(MuxFrame::Close { code, reason }) = MuxFrame::decode(&message.into_data()) {
                told = Some((code, String::from_utf8_lossy(reason).into_owned()));
            }
        }
        told
    };
    let told = timeout(Duration::from_secs(5), ending).await.unwrap();
    (cloud.closed().await, told)
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_so_and_closed() {
    let much = Message::Binary(MuxFrame::Credit { stream: 8, more: 1 }.encode());
    let (error, told) = offended(much).await;
    assert!(error.to_string().contains("stream 8 was never opened"), "{error}");
    let (code, reason) = told.unwrap();
    assert_eq!(code, CloseCode::Protocol as u32);
    assert!(reason.contains("stream 8"), "{reason}");
}

#[tokio::test]
async fn a_message_that_is_too_large_or_no_frame_ends_the_connection() {
    let (error, _) = offended(Message::Binary(vec![1; MAX_MUX_FRAME + 1].into())).await;
    assert!(error.to_string().contains("too l"), "{error}");
    let (error, _) = offended(Message::Text("hello".into())).await;
    assert!(error.to_string().contains("no frame"), "{error}");
}

#[tokio::test]
async fn another_path_is_not_the_link() {
    let authority = Authority::new();
    let (listener, address) = WebSocket::listen(&authority, valid());
    let (credentials, _) = authority.node("system:node:edge-1", valid());
    let tls = edge(&authority, &credentials, &Clock::system());
    let client = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = SERVER_NAME.try_into().unwrap();
        let secured = TlsConnector::from(tls.over_tcp()).connect(name, socket).await;
        client_async(format!("wss://{SERVER_NAME}/v1/linked"), secured.unwrap()).await
    };
    let (client, cloud) = tokio::join!(client, listener.accept());
    assert!(matches!(client, Err(Error::Http(response)) if response.status() == 404));
    assert!(cloud.is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_that_it_is_nobody() {
    let authority = Authority::new();
    let (listener, address) = WebSocket::listen(&authority, valid());
    let client = async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = SERVER_NAME.try_into().unwrap();
        let secured = TlsConnector::from(authority.anonymous())
            .connect(name, socket)
            .await;
        let (mut socket, _) = client_async(format!("wss://{SERVER_NAME}{LINK_PATH}"), secured.unwrap())
            .await
            .unwrap();
        let told = socket.next().await.unwrap().unwrap().into_data();
        assert!(matches!(
            MuxFrame::decode(&told),
            Ok(MuxFrame::Close { code: 2, .. })
        ));
    };
    let ((), cloud) = tokio::join!(client, listener.accept());
    assert!(matches!(cloud.err().unwrap(), TransportError::Nobody { .. }));
}
