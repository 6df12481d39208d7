//! Whether the other end of a connection is gone although something is on its way to it.
//!
//! What is idle the kernel asks about (`ask_whether_alive`), and it asks nothing while something is not acknowledged:
//! that it sends again for a quarter of an hour. Its own limit for it, `TCP_USER_TIMEOUT`, also ends a connection whose
//! other end lives and does not read: tcp(7) says so, and the kernel counts the probes of a closed window as it counts
//! what was sent again, answered or not. So the kernel is asked what it has heard.
//!
//! **Invariant:** an end that acknowledges whatever was sent last, be it a probe of its closed window, is not gone.

use std::{future::pending, io, time::Duration};

use nix::{libc, sys::socket::getsockopt};
use tokio::{net::TcpStream, time::interval};

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Since the last word of the other end, whatever it was.
    pub(super) silence: Duration,
    /// Since something was sent last, perhaps again: the answer may be on its way.
    pub(super) answer: Duration,
    /// Between two looks.
    pub(super) look: Duration,
}

/// The head of the kernel's `struct tcp_info`, which only grows at its end. Times are in milliseconds, and ago.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    states: [u8; 8],
    sizes: [u32; 4],
    /// Segments on their way.
    unacked: u32,
    lost: [u32; 4],
    data_sent: u32,
    ack_sent: u32,
    data_heard: u32,
    ack_heard: u32,
}

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    Shown,
    nix::sys::socket::sockopt::GetStruct<Shown>
);

/// The kernel's words about a connection.
#[derive(Clone, Copy, Debug)]
struct TcpInfo;

impl Shown {
    fn is_gone(&self, patience: Patience) -> bool {
        let ago = |millis: u32| Duration::from_millis(millis.into());
        self.unacked > 0
            && self.ack_heard > self.data_sent
            && ago(self.ack_heard) >= patience.silence
            && ago(self.data_sent) >= patience.answer
    }
}

/// Ends when the other end is gone.
pub(super) async fn gone(socket: &TcpStream, patience: Patience) -> io::Error {
    let mut looks = interval(patience.look);
    loop {
        looks.tick().await;
        match getsockopt(socket, TcpInfo) {
            Ok(shown) if shown.is_gone(patience) => return io::ErrorKind::TimedOut.into(),
            Ok(_) => {}
            // Without it the kernel's own limit is all there is.
            Err(_) => return pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, process::Command};

    use socket2::{Domain, Socket, Type};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
        net::TcpListener,
        time::{sleep, timeout},
    };

    use super::super::splice::both_ways;
    use super::*;

    const SHORT: Patience = Patience {
        silence: Duration::from_millis(500),
        answer: Duration::from_millis(100),
        look: Duration::from_millis(20),
    };
    const LONG: Duration = Duration::from_secs(20);

    fn shown(unacked: u32, data_sent: u32, ack_heard: u32) -> Shown {
        Shown {
            unacked,
            data_sent,
            ack_heard,
            ..Shown::default()
        }
    }

    #[test]
    fn gone_is_who_has_long_been_silent_and_has_not_answered_what_was_sent_last() {
        assert!(shown(1, 200, 500).is_gone(SHORT));
        for (alive, why) in [
            (shown(0, 200, 500), "nothing is on its way"),
            (shown(1, 200, 499), "it was heard a moment ago"),
            (shown(1, 99, 500), "its answer may be on its way"),
            (shown(1, 700, 700), "it has answered, and the next try is far"),
            (shown(1, 900, 700), "it has answered since"),
        ] {
            assert!(!alive.is_gone(SHORT), "{why}");
        }
    }

    /// A connection, and its other end, which takes little before it reads.
    async fn connection() -> (TcpStream, TcpStream) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        socket.listen(1).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    async fn tunnel(pod: DuplexStream, near: &TcpStream) -> io::Result<()> {
        let (from_pod, to_pod) = split(pod);
        both_ways(from_pod, to_pod, near, SHORT).await
    }

    async fn one_that_does_not_read_keeps_its_tunnel() {
        let ((near, mut far), (mut pod, end)) = (connection().await, duplex(64));
        let sent = vec![7; 4 << 20];
        let write = async {
            pod.write_all(&sent).await.unwrap();
            pod.shutdown().await.unwrap();
        };
        let read = async {
            // Between two probes of its window it says nothing for longer than a dead one may.
            let silent = |shown: Shown| shown.unacked == 0 && shown.ack_heard >= 500;
            while !silent(getsockopt(&near, TcpInfo).unwrap()) {
                sleep(SHORT.look).await;
            }
            sleep(2 * SHORT.look).await;
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            far.shutdown().await.unwrap();
            heard.len()
        };
        let all = async { tokio::join!(write, read, tunnel(end, &near)) };
        let ((), heard, ended) = timeout(LONG, all).await.unwrap();
        assert_eq!(heard, sent.len());
        ended.unwrap();
    }

    async fn one_that_is_gone_keeps_none() {
        let ((near, mut far), (mut pod, end)) = (connection().await, duplex(64));
        let talk = async {
            pod.write_all(b"here").await.unwrap();
            far.read_exact(&mut [0; 4]).await.unwrap();
            let port = near.peer_addr().unwrap().port().to_string();
            let cut = ["-A", "INPUT", "-p", "tcp", "--dport", &port, "-j", "DROP"];
            let done = Command::new("iptables").args(cut).status().unwrap();
            assert!(done.success(), "iptables, of the package iptables");
            pod.write_all(b"gone").await.unwrap();
        };
        let all = async { tokio::join!(talk, tunnel(end, &near)) };
        let ((), ended) = timeout(LONG, all).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// Runs in a network namespace of its own, started by the test below.
    #[tokio::test]
    #[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
    async fn inside_a_namespace() {
        one_that_does_not_read_keeps_its_tunnel().await;
        one_that_is_gone_keeps_none().await;
    }

    #[test]
    fn one_that_is_gone_keeps_no_tunnel_and_one_that_does_not_read_keeps_its_own() {
        let script =
            "ip link set lo up && exec \"$0\" --exact tunnel::gone::tests::inside_a_namespace --ignored";
        let ran = Command::new("unshare")
            .args(["-rn", "sh", "-c", script])
            .arg(std::env::current_exe().unwrap())
            .output()
            .expect("unshare, of the package util-linux");
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }
}
