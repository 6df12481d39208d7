//! What lies between the node and a broker elsewhere. It can be cut, and it can go dead: what is sent into it then comes
//! nowhere, and neither side is told.

use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Open,
    Cut,
    Dead,
}

/// A port that leads to a broker while the line is open.
pub(crate) struct Relay {
    pub(crate) port: u16,
    line: watch::Sender<Line>,
    _accept: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(broker: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (line, watched) = watch::channel(Line::Open);
        let mut accept = JoinSet::new();
        accept.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                if *watched.borrow() != Line::Cut {
                    connections.spawn(carry(near, broker, watched.clone()));
                }
            }
        });
        Self {
            port,
            line,
            _accept: accept,
        }
    }

    /// Ends all connections, and takes none from now on.
    pub(crate) async fn cut(&self) {
        self.line.send_replace(Line::Cut);
        while self.line.receiver_count() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// From now on nothing gets through.
    pub(crate) fn dies(&self) {
        self.line.send_replace(Line::Dead);
    }

    /// What was dead ends, and new connections get through.
    pub(crate) fn mend(&self) {
        self.line.send_replace(Line::Open);
    }
}

async fn carry(mut near: TcpStream, broker: u16, mut line: watch::Receiver<Line>) {
    let mut far = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
    let is_dead = tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => false,
        line = line.wait_for(|line| *line != Line::Open) => line.is_ok_and(|line| *line == Line::Dead),
    };
    if is_dead {
        let _ = line.wait_for(|line| *line != Line::Dead).await.is_ok();
    }
}
