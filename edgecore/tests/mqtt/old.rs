//! A broker of before MQTT 5, for the bridge's tests and the drivers': mosquitto with something in front
//! of it that refuses the newer version.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is no packet in any version.
const NONSENSE: [u8; 2] = [0xf0, 0];

/// A port where a broker speaks 3.1.1 alone.
pub(crate) struct Old {
    pub(crate) port: u16,
    accepted: Arc<AtomicUsize>,
    spoil: watch::Sender<()>,
    _accept: JoinSet<()>,
}

impl Old {
    /// One that tells whoever asks for more so, and hangs up.
    pub(crate) async fn of(broker: u16) -> Self {
        Self::with(broker, true).await
    }

    /// One that leaves it to the other side to hang up.
    pub(crate) async fn patient(broker: u16) -> Self {
        Self::with(broker, false).await
    }

    async fn with(broker: u16, hangs_up: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (spoil, spoilt) = watch::channel(());
        let (accepted, mut accept) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&accepted);
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (count, mut spoilt) = (Arc::clone(&count), spoilt.clone());
                spoilt.mark_unchanged();
                connections.spawn(relay(client, broker, hangs_up, (count, spoilt)));
            }
        });
        Self {
            port,
            accepted,
            spoil,
            _accept: accept,
        }
    }

    /// How many connections were let through so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many were.
    pub(crate) async fn until_accepted(&self, count: usize) {
        for _ in 0..3000 {
            if self.accepted() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} connections, not {count}", self.accepted());
    }

    /// Says on every connection what nobody can read.
    pub(crate) fn spoil(&self) {
        self.spoil.send_replace(());
    }
}

type Watched = (Arc<AtomicUsize>, watch::Receiver<()>);

async fn relay(mut client: TcpStream, broker: u16, hangs_up: bool, (count, mut spoilt): Watched) {
    // Fixed header (a short packet), length and name of the protocol, level.
    let mut head = [0; 9];
    let mut read = 0;
    while read < head.len() {
        read = client.peek(&mut head).await.unwrap();
    }
    if head[8] == 5 {
        let _ = client.write_all(&[0x20, 2, 0, 1]).await;
        if !hangs_up {
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
        return;
    }
    count.fetch_add(1, Ordering::Relaxed);
    let mut upstream = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut upstream) => {}
        Ok(()) = spoilt.changed() => {
            drop(upstream);
            let _ = client.write_all(&NONSENSE).await;
        }
    }
}
