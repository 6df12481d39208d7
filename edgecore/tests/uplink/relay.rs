//! What lies between the edge and the cloud: a network that may let no UDP through, and a proxy.

use std::collections::{HashMap, hash_map::Entry};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One port that leads to a replica, UDP only while that is let through.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) udp: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(replica: SocketAddr, udp: bool) -> Self {
        Self::with(replica, udp, usize::MAX).await
    }

    /// Of each UDP flow only the first datagrams pass, as with some policers.
    pub(crate) async fn that_tires(replica: SocketAddr, datagrams: usize) -> Self {
        Self::with(replica, true, datagrams).await
    }

    async fn with(replica: SocketAddr, udp: bool, datagrams_of_a_flow: usize) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let datagrams = UdpSocket::bind(address).await.unwrap();
        let udp = watch::channel(udp).0;
        let mut tasks = JoinSet::new();
        tasks.spawn(relay_tcp(tcp, replica));
        let pass = Pass {
            open: udp.subscribe(),
            most: datagrams_of_a_flow,
            passed: Arc::default(),
        };
        tasks.spawn(relay_udp(Arc::new(datagrams), replica, pass));
        Self {
            address,
            udp,
            _tasks: tasks,
        }
    }
}

async fn relay_tcp(listener: TcpListener, replica: SocketAddr) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        connections.spawn(async move {
            if let Ok(mut far) = TcpStream::connect(replica).await {
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}

/// What is let through of one UDP flow.
#[derive(Clone)]
struct Pass {
    open: watch::Receiver<bool>,
    most: usize,
    passed: Arc<AtomicUsize>,
}

impl Pass {
    /// The same for another flow.
    fn anew(&self) -> Self {
        let passed = Arc::default();
        Self {
            passed,
            ..self.clone()
        }
    }

    fn lets_one_through(&self) -> bool {
        *self.open.borrow() && self.passed.fetch_add(1, Ordering::Relaxed) < self.most
    }
}

/// Each client gets a socket of its own towards the replica, as a NAT does.
async fn relay_udp(near: Arc<UdpSocket>, replica: SocketAddr, pass: Pass) {
    let (mut back, mut clients) = (JoinSet::new(), HashMap::new());
    let mut datagram = [0; 2048];
    loop {
        let Ok((bytes, client)) = near.recv_from(&mut datagram).await else {
            continue;
        };
        let (far, pass) = match clients.entry(client) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                far.connect(replica).await.unwrap();
                let pass = pass.anew();
                back.spawn(answer(Arc::clone(&far), Arc::clone(&near), client, pass.clone()));
                new.insert((far, pass))
            }
        };
        if pass.lets_one_through() {
            let _ = far.send(&datagram[..bytes]).await;
        }
    }
}

async fn answer(far: Arc<UdpSocket>, near: Arc<UdpSocket>, client: SocketAddr, pass: Pass) {
    let mut datagram = [0; 2048];
    loop {
        let Ok(bytes) = far.recv(&mut datagram).await else {
            continue;
        };
        if pass.lets_one_through() {
            let _ = near.send_to(&datagram[..bytes], client).await;
        }
    }
}

/// An HTTP proxy that leads to one replica, whatever name it is asked for, if it is shown
/// `Basic` with the right words.
pub(crate) struct ConnectProxy {
    pub(crate) address: SocketAddr,
    /// The request lines that were let through.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl ConnectProxy {
    pub(crate) async fn to(replica: SocketAddr, basic: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, replica, basic, Arc::clone(&asked)));
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }
}

async fn serve(
    listener: TcpListener,
    replica: SocketAddr,
    basic: &'static str,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let asked = Arc::clone(&asked);
        connections.spawn(async move {
            let mut near = BufReader::new(socket);
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if near.read_line(&mut line).await.is_err() || line.trim().is_empty() {
                    break;
                }
                head.push(line.trim().to_owned());
            }
            if !head.contains(&format!("Proxy-Authorization: Basic {basic}")) {
                let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
                let _ = near.write_all(refusal).await;
                return;
            }
            asked.lock().push(head[0].clone());
            let mut far = TcpStream::connect(replica).await.unwrap();
            let _ = near
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await;
            let _ = copy_bidirectional(&mut near, &mut far).await;
        });
    }
}
