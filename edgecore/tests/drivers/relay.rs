//! What lies between the node and a broker elsewhere, and can be cut.

use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A port that leads to a broker while it is not cut.
pub(crate) struct Relay {
    pub(crate) port: u16,
    open: watch::Sender<bool>,
    _accept: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (open, is_open) = watch::channel(true);
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if *is_open.borrow() {
                    connections.spawn(relay(near, broker, is_open.clone()));
                }
            }
        });
        Self {
            port,
            open,
            _accept: accept,
        }
    }

    /// Ends all connections, and takes none from now on.
    pub(crate) async fn cut(&self) {
        self.open.send_replace(false);
        while self.open.receiver_count() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) fn mend(&self) {
        self.open.send_replace(true);
    }
}

async fn relay(mut near: TcpStream, broker: u16, mut is_open: watch::Receiver<bool>) {
    let mut far = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => {}
        _ = is_open.wait_for(|open| !open) => {}
    }
}
