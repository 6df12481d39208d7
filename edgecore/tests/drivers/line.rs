//! A line to a broker that may go dead: what is sent into it comes nowhere, and neither side is told.

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A port behind which a broker is.
pub(crate) struct Line {
    pub(crate) port: u16,
    dead: watch::Sender<bool>,
    _accept: JoinSet<()>,
}

impl Line {
    pub(crate) async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (dead, watched) = watch::channel(false);
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                connections.spawn(carry(near, broker, watched.clone()));
            }
        });
        Self {
            port,
            dead,
            _accept: accept,
        }
    }

    /// From now on nothing gets through.
    pub(crate) fn dies(&self) {
        self.dead.send_replace(true);
    }

    /// What was dead ends, and new connections get through.
    pub(crate) fn revives(&self) {
        self.dead.send_replace(false);
    }
}

async fn carry(mut near: TcpStream, broker: u16, mut dead: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", broker)).await else {
        return;
    };
    let dies = async { dead.wait_for(|dead| *dead).await.is_ok() };
    let is_dead = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        is_dead = dies => is_dead,
    };
    if is_dead {
        let _ = dead.wait_for(|dead| !*dead).await.is_ok();
    }
}
