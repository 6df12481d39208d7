//! A narrow link between the two ends: so many bits a second each way, a delay, a short queue.
//!
//! UDP is dropped when the queue is full; TCP is not read then, which its sender sees as a window
//! that is full. It needs no rights and no kernel module, and is the same on every machine.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpSocket, TcpStream, UdpSocket,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What a link is like.
#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// What one byte takes.
    pub(crate) byte: Duration,
    /// One way.
    pub(crate) delay: Duration,
    /// What waits before it, at most.
    pub(crate) queue: u32,
    /// One of so many datagrams is lost; none, when 0. What TCP carries is never lost.
    pub(crate) loses: u32,
}

/// 1 Mbit/s, whose queue holds an eighth of a second.
pub(crate) const MEGABIT: Link = Link {
    byte: Duration::from_micros(8),
    delay: Duration::from_millis(25),
    queue: 16 << 10,
    loses: 0,
};
/// A timer may be so late; the link is not idle meanwhile.
const EARLY: Duration = Duration::from_millis(3);
/// IP and UDP or TCP.
const HEADERS: usize = 40;
/// IPv4 and UDP.
const UDP: usize = 28;

/// One direction: when what is sent next will have arrived.
struct Direction {
    link: Link,
    free_at: Instant,
}

impl Direction {
    fn new(link: Link) -> Self {
        Self {
            link,
            free_at: Instant::now(),
        }
    }

    /// How long what comes now waits.
    fn waiting(&self) -> Duration {
        self.free_at.saturating_duration_since(Instant::now())
    }

    /// Sends: when it is on the wire, and when it arrives.
    fn send(&mut self, bytes: usize) -> (Instant, Instant) {
        let takes = self.link.byte * u32::try_from(bytes + HEADERS).unwrap();
        self.free_at = self.free_at.max(Instant::now()) + takes;
        (self.free_at, self.free_at + self.link.delay)
    }
}

/// How long what came waited before the link; UDP only, since TCP's queue is the kernel's.
#[derive(Clone, Default)]
struct Waits(Arc<Mutex<(Duration, u32)>>);

/// What was sent both ways, lost or not: datagrams, and their bytes with what is around them. UDP only.
#[derive(Clone, Default)]
struct Traffic(Arc<Mutex<(usize, usize)>>);

/// A port that leads to `cloud` over a narrow link, for one edge.
pub(crate) struct Narrow {
    pub(crate) address: SocketAddr,
    waits: Waits,
    traffic: Traffic,
    _tasks: JoinSet<()>,
}

impl Narrow {
    pub(crate) async fn to(cloud: SocketAddr, link: Link) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Inherited by what is accepted: the kernel's buffers are a part of the queue.
        socket.set_recv_buffer_size(link.queue / 2).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let tcp = socket.listen(1).unwrap();
        let address = tcp.local_addr().unwrap();
        let near = Arc::new(UdpSocket::bind(address).await.unwrap());
        let far = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        far.connect(cloud).await.unwrap();
        let edge = Arc::new(Mutex::new(None));
        let (mut tasks, waits, traffic) = (JoinSet::new(), Waits::default(), Traffic::default());
        let (up, down) = ((Arc::clone(&near), Arc::clone(&far)), (far, near));
        tasks.spawn(datagrams(
            up,
            Arc::clone(&edge),
            (waits.clone(), traffic.clone()),
            (link, true),
        ));
        tasks.spawn(datagrams(
            down,
            edge,
            (waits.clone(), traffic.clone()),
            (link, false),
        ));
        tasks.spawn(async move {
            while let Ok((near, _)) = tcp.accept().await {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(link.queue / 2).unwrap();
                let far = socket.connect(cloud).await.unwrap();
                join(near, far, link).await;
            }
        });
        Self {
            address,
            waits,
            traffic,
            _tasks: tasks,
        }
    }

    /// How long a datagram has waited before the link since this was asked last: the mean.
    pub(crate) fn waited(&self) -> Duration {
        let (all, count) = std::mem::take(&mut *self.waits.0.lock());
        all / count.max(1)
    }

    /// Datagrams and their bytes at the IP layer, both ways, since this was asked last.
    pub(crate) fn went(&self) -> (usize, usize) {
        std::mem::take(&mut *self.traffic.0.lock())
    }
}

async fn datagrams(
    (from, to): (Arc<UdpSocket>, Arc<UdpSocket>),
    edge: Arc<Mutex<Option<SocketAddr>>>,
    (waits, traffic): (Waits, Traffic),
    (link, up): (Link, bool),
) {
    let (mut direction, mut buffer, mut count) = (Direction::new(link), [0; 2048], 0_u32);
    let mut on_way = JoinSet::new();
    loop {
        tokio::select! {
            Ok((bytes, sender)) = from.recv_from(&mut buffer) => {
                if up {
                    *edge.lock() = Some(sender);
                }
                count = count.wrapping_add(1);
                {
                    let mut traffic = traffic.0.lock();
                    *traffic = (traffic.0 + 1, traffic.1 + bytes + UDP);
                }
                let lost = count.checked_rem(link.loses) == Some(0);
                if lost || direction.waiting() > link.byte * link.queue {
                    continue;
                }
                {
                    let mut waits = waits.0.lock();
                    *waits = (waits.0 + direction.waiting(), waits.1 + 1);
                }
                let (_, at) = direction.send(bytes);
                let (to, edge, datagram) = (Arc::clone(&to), Arc::clone(&edge), buffer[..bytes].to_vec());
                on_way.spawn(async move {
                    sleep_until(at).await;
                    let edge = *edge.lock();
                    let _ = match edge {
                        Some(edge) if !up => to.send_to(&datagram, edge).await,
                        _ => to.send(&datagram).await,
                    };
                });
            }
            Some(_) = on_way.join_next() => {}
        }
    }
}

async fn join(near: TcpStream, far: TcpStream, link: Link) {
    for socket in [&near, &far] {
        socket.set_nodelay(true).unwrap();
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::join!(
        bytes(near_read, far_write, link),
        bytes(far_read, near_write, link)
    );
}

/// Reads a segment when the link has taken the one before; hands it over when it has arrived.
async fn bytes(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link) {
    let on_way = Arc::new((Mutex::new(VecDeque::new()), Notify::new()));
    let arriving = Arc::clone(&on_way);
    let read = async move {
        let (mut direction, mut buffer) = (Direction::new(link), [0; 1400]);
        loop {
            let bytes = from.read(&mut buffer).await.unwrap_or(0);
            let (sent, at) = direction.send(bytes);
            on_way.0.lock().push_back((at, buffer[..bytes].to_vec()));
            on_way.1.notify_one();
            if bytes == 0 {
                return;
            }
            sleep_until(sent.checked_sub(EARLY).unwrap()).await;
        }
    };
    let write = async move {
        loop {
            let next = arriving.0.lock().pop_front();
            let Some((at, bytes)) = next else {
                arriving.1.notified().await;
                continue;
            };
            sleep_until(at).await;
            if bytes.is_empty() || to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
