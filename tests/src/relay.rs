//! A plain balancer before cloudcore, as seen from a device: one port, TCP and UDP, and no word to cloudcore
//! about who is behind it.
//!
//! Each UDP flow has a port of its own towards cloudcore, as at a NAT. [`Relay::forget`] is what a NAT does
//! whose table is full, too old or new: connections are closed, and a flow that goes on comes from another
//! port; what cloudcore sends to the old one is lost.

use std::{
    collections::{HashMap, hash_map::Entry},
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinSet,
};

/// The largest datagram.
const DATAGRAM: usize = 65_535;
/// Tries for a port that both protocols have free.
const PORTS: usize = 20;

/// A balancer; dropping it ends it with all that runs through it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddrV4,
    forgetting: watch::Sender<u64>,
    flows: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Relay {
    /// Begins to forward a port of `host` to `target`.
    pub async fn start(host: Ipv4Addr, target: SocketAddrV4) -> Result<Self> {
        let (tcp, udp) = bind(host).await?;
        let address = SocketAddrV4::new(host, tcp.local_addr()?.port());
        let (forgetting, heard) = watch::channel(0);
        let flows = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(carry_tcp(tcp, target, heard.clone()));
        let table = Table {
            socket: Arc::new(udp),
            target,
            made: flows.clone(),
        };
        tasks.spawn(carry_udp(table, heard));
        Ok(Self {
            address,
            forgetting,
            flows,
            _tasks: tasks,
        })
    }

    /// Where devices dial.
    pub const fn address(&self) -> SocketAddrV4 {
        self.address
    }

    /// Forgets every connection and every flow.
    pub fn forget(&self) {
        self.forgetting.send_modify(|times| *times += 1);
    }

    /// How many UDP flows there have been.
    pub fn flows(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }
}

async fn bind(host: Ipv4Addr) -> Result<(TcpListener, UdpSocket)> {
    for _ in 0..PORTS {
        let tcp = TcpListener::bind((host, 0)).await?;
        if let Ok(udp) = UdpSocket::bind((host, tcp.local_addr()?.port())).await {
            return Ok((tcp, udp));
        }
    }
    anyhow::bail!("no port of {host} is free for both protocols")
}

async fn carry_tcp(listener: TcpListener, target: SocketAddrV4, mut forgetting: watch::Receiver<u64>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                connections.spawn(splice(stream, target));
            },
            Some(_) = connections.join_next() => {}
            Ok(()) = forgetting.changed() => connections.abort_all(),
        }
    }
}

async fn splice(mut device: TcpStream, target: SocketAddrV4) {
    if let Ok(mut cloud) = TcpStream::connect(target).await {
        // Either end may close as it likes.
        let _ = copy_bidirectional(&mut device, &mut cloud).await;
    }
}

/// What a UDP flow needs.
struct Table {
    socket: Arc<UdpSocket>,
    target: SocketAddrV4,
    made: Arc<AtomicUsize>,
}

async fn carry_udp(table: Table, mut forgetting: watch::Receiver<u64>) {
    let (mut flows, mut answers) = (HashMap::new(), JoinSet::new());
    let mut datagram = vec![0; DATAGRAM];
    loop {
        tokio::select! {
            received = table.socket.recv_from(&mut datagram) => if let Ok((length, device)) = received {
                // A datagram that cannot be carried is lost, as others are.
                let _ = table.pass(&mut flows, &mut answers, (&datagram[..length], device)).await;
            },
            Some(_) = answers.join_next() => {}
            Ok(()) = forgetting.changed() => {
                flows.clear();
                answers.abort_all();
            }
        }
    }
}

impl Table {
    async fn pass(
        &self,
        flows: &mut HashMap<SocketAddr, Arc<UdpSocket>>,
        answers: &mut JoinSet<()>,
        (datagram, device): (&[u8], SocketAddr),
    ) -> Result<()> {
        let flow = match flows.entry(device) {
            Entry::Occupied(flow) => flow.into_mut(),
            Entry::Vacant(place) => {
                let flow = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?);
                flow.connect(self.target).await?;
                self.made.fetch_add(1, Ordering::Relaxed);
                answers.spawn(answer(flow.clone(), self.socket.clone(), device));
                place.insert(flow)
            }
        };
        flow.send(datagram)
            .await
            .map(drop)
            .context("cannot pass a datagram")
    }
}

async fn answer(flow: Arc<UdpSocket>, device_side: Arc<UdpSocket>, device: SocketAddr) {
    let mut datagram = vec![0; DATAGRAM];
    loop {
        match flow.recv(&mut datagram).await {
            Ok(length) => drop(device_side.send_to(&datagram[..length], device).await),
            // Nobody listens at the other end for now.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::timeout,
    };

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    async fn relay_to(target: SocketAddr) -> Relay {
        let SocketAddr::V4(target) = target else {
            panic!("{target}")
        };
        Relay::start(Ipv4Addr::LOCALHOST, target).await.unwrap()
    }

    /// A word there and one back, and where the first came from.
    async fn said(device: &UdpSocket, cloud: &UdpSocket) -> SocketAddr {
        let mut word = [0; 8];
        device.send(b"there").await.unwrap();
        let (length, from) = timeout(SOON, cloud.recv_from(&mut word)).await.unwrap().unwrap();
        assert_eq!(&word[..length], b"there");
        cloud.send_to(b"back", from).await.unwrap();
        let length = timeout(SOON, device.recv(&mut word)).await.unwrap().unwrap();
        assert_eq!(&word[..length], b"back");
        from
    }

    #[tokio::test]
    async fn a_flow_that_was_forgotten_goes_on_from_another_port() {
        let cloud = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = relay_to(cloud.local_addr().unwrap()).await;
        let device = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        device.connect(relay.address()).await.unwrap();
        let first = said(&device, &cloud).await;
        assert_eq!(said(&device, &cloud).await, first);
        relay.forget();
        // Until it has heard of it.
        let another = async { while said(&device, &cloud).await == first {} };
        timeout(SOON, another).await.unwrap();
        assert_eq!(relay.flows(), 2);
    }

    #[tokio::test]
    async fn a_connection_that_was_forgotten_is_closed_and_another_one_works() {
        let cloud = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = relay_to(cloud.local_addr().unwrap()).await;
        for _ in 0..2 {
            let mut device = TcpStream::connect(relay.address()).await.unwrap();
            let (mut at_cloud, _) = timeout(SOON, cloud.accept()).await.unwrap().unwrap();
            device.write_all(b"x").await.unwrap();
            assert_eq!(at_cloud.read_u8().await.unwrap(), b'x');
            relay.forget();
            let ended = timeout(SOON, device.read(&mut [0])).await.unwrap();
            assert!(matches!(ended, Ok(0) | Err(_)));
        }
    }
}
