//! A replica of cloudcore over real QUIC and real `WebSockets`: the cores of the protocol between a socket and a
//! [`Cluster`] in memory. Dropping it cuts every link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::clock::Clock;
use protocol::desired::{Publisher, Request};
use protocol::join::{ChannelValue, EnrollAnswer, RenewRequest};
use protocol::object::Revision;
use protocol::reported::{Class, Intake, Outcome};
use protocol::tls::{self, ClientCertificate};
use protocol::transport::quic::QuicListener;
use protocol::transport::{Connection, ReceiveBudget, Stream, websocket};
use protocol::wire::{
    BeatAck, DesiredUp, FrameReader, FrameWriter, Open, ReportedUp, SessionDown, SessionUp, open,
    session_down, session_up,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::cluster::Cluster;
use crate::pki::Authority;

pub(crate) struct Replica {
    pub(crate) address: SocketAddr,
    /// What every open session is told next.
    word: watch::Sender<Option<session_down::Kind>>,
    _serving: JoinSet<()>,
}

/// More than a test needs.
fn budget() -> ReceiveBudget {
    ReceiveBudget::new(64 << 20)
}

impl Replica {
    /// Listens; the port of one that was just dropped may take a moment to be free.
    pub(crate) async fn listen(authority: &Authority, cluster: &Arc<Cluster>, address: SocketAddr) -> Self {
        Self::listen_by(Clock::system(), authority, cluster, address).await
    }

    /// The same with a clock of its own.
    pub(crate) async fn listen_by(
        clock: Clock,
        authority: &Authority,
        cluster: &Arc<Cluster>,
        address: SocketAddr,
    ) -> Self {
        let config = tls::server(
            &authority.certificate,
            authority.server(),
            ClientCertificate::Required,
            &clock,
        )
        .unwrap();
        // With port 0 the kernel chooses one for UDP; that TCP has it free is luck.
        let (listener, tcp) = loop {
            if let Ok(listener) = QuicListener::bind(address, Arc::clone(&config), [7; 32], &clock, &budget())
                && let Ok(tcp) = TcpListener::bind(listener.local_addr().unwrap()).await
            {
                break (listener, tcp);
            }
            sleep(Duration::from_millis(5)).await;
        };
        let address = listener.local_addr().unwrap();
        let over_tcp = tls::server(
            &authority.certificate,
            authority.server(),
            ClientCertificate::Optional,
            &clock,
        );
        let acceptor = TlsAcceptor::from(over_tcp.unwrap());
        let word = watch::channel(None).0;
        let mut serving = JoinSet::new();
        serving.spawn(accept(listener, Arc::clone(cluster), word.clone()));
        serving.spawn(accept_tcp(tcp, acceptor, Arc::clone(cluster), word.clone()));
        Self {
            address,
            word,
            _serving: serving,
        }
    }

    pub(crate) fn say(&self, word: session_down::Kind) {
        self.word.send_replace(Some(word));
    }
}

async fn accept(
    listener: QuicListener,
    cluster: Arc<Cluster>,
    word: watch::Sender<Option<session_down::Kind>>,
) {
    let mut connections = JoinSet::new();
    while let Some(incoming) = listener.accept().await {
        let Ok(connection) = incoming.handshake().await else {
            continue;
        };
        connections.spawn(serve(connection, Arc::clone(&cluster), word.subscribe()));
    }
}

async fn accept_tcp(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    cluster: Arc<Cluster>,
    word: watch::Sender<Option<session_down::Kind>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((socket, remote)) = listener.accept().await {
        let (acceptor, cluster, word) = (acceptor.clone(), Arc::clone(&cluster), word.subscribe());
        connections.spawn(async move {
            let Ok(mut secured) = websocket::secure(&acceptor, socket, remote).await else {
                return;
            };
            if !websocket::wants_link(&mut secured, remote).await.unwrap_or(false) {
                let _ended = renew(secured, &cluster).await;
                return;
            }
            if let Ok(connection) = websocket::accept(secured, remote, &Clock::system(), &budget()).await {
                serve(connection, cluster, word).await;
            }
        });
    }
}

/// Answers one renewal over HTTP.
async fn renew(stream: TlsStream<TcpStream>, cluster: &Cluster) -> Option<()> {
    let channel = ChannelValue::of_server(stream.get_ref().1).ok()?;
    let mut stream = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        if let Some(told) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = told.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let request: RenewRequest = serde_json::from_slice(&body).ok()?;
    let answer = EnrollAnswer {
        certificate: cluster.renewed(&request, &channel)?,
        authority: String::new(),
        cluster_id: String::new(),
        server_time_ms: 0,
    };
    let body = serde_json::to_string(&answer).ok()?;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

async fn serve(
    connection: Arc<dyn Connection>,
    cluster: Arc<Cluster>,
    word: watch::Receiver<Option<session_down::Kind>>,
) {
    let mut streams = JoinSet::new();
    while let Ok((Open { kind }, stream)) = connection.accept().await {
        let (cluster, word) = (Arc::clone(&cluster), word.clone());
        streams.spawn(async move {
            // Streams end when the other end does.
            let _ended = match kind.unwrap() {
                open::Kind::Session(_) => session(stream, &cluster, word).await,
                open::Kind::Desired(_) => desired(stream, &cluster).await,
                open::Kind::Reported(_) | open::Kind::Events(_) => reported(stream, &cluster).await,
                open::Kind::Dial(_) => None,
            };
        });
    }
}

/// `None` when the stream has failed, as everywhere here.
async fn session(
    stream: Stream,
    cluster: &Cluster,
    mut word: watch::Receiver<Option<session_down::Kind>>,
) -> Option<()> {
    let mut reader = FrameReader::new(stream.recv);
    let mut writer = FrameWriter::new(stream.send);
    word.mark_unchanged();
    loop {
        let answer = tokio::select! {
            frame = reader.read::<SessionUp>() => match frame.ok()??.kind? {
                session_up::Kind::Hello(hello) => Some(cluster.greeted(hello)),
                session_up::Kind::Beat(beat) => Some(session_down::Kind::BeatAck(BeatAck { seq: beat.seq, server_time_ms: 0 })),
                session_up::Kind::Renew(_) => None,
                session_up::Kind::Goodbye(_) => return None,
            },
            changed = word.changed() => {
                changed.ok()?;
                word.borrow_and_update().clone()
            }
        };
        writer.write(&SessionDown { kind: answer }).await.ok()?;
    }
}

async fn desired(stream: Stream, cluster: &Cluster) -> Option<()> {
    let mut reader = FrameReader::new(stream.recv);
    let mut writer = FrameWriter::new(stream.send);
    let mut publisher = Publisher::new();
    let mut changed = cluster.revision();
    loop {
        loop {
            if let Some(frame) = publisher.poll_transmit(cluster) {
                writer.write(&frame).await.ok()?;
            } else if let Some(Request::Consistent(kind)) = publisher.poll_request() {
                publisher.consistent(kind, Revision(*cluster.revision().borrow()));
            } else {
                break;
            }
        }
        tokio::select! {
            frame = reader.read::<DesiredUp>() => publisher.handle_frame(frame.ok()??).unwrap(),
            more = changed.changed() => {
                more.ok()?;
                cluster.every_key().into_iter().for_each(|key| publisher.mark_dirty(key));
            }
        }
    }
}

async fn reported(stream: Stream, cluster: &Cluster) -> Option<()> {
    let mut reader = FrameReader::new(stream.recv);
    let mut writer = FrameWriter::new(stream.send);
    let mut intake = Intake::new();
    loop {
        intake
            .handle_frame(reader.read::<ReportedUp>().await.ok()??)
            .unwrap();
        let classes = [Class::State, Class::Event];
        while let Some(write) = classes.into_iter().find_map(|class| intake.poll_write(class)) {
            let seq = write.seq;
            cluster.take(write);
            intake.done(seq, Outcome::Committed);
        }
        while let Some(frame) = intake.poll_transmit() {
            writer.write(&frame).await.ok()?;
        }
    }
}
