//! The edge's socket: one datagram at a time.
//!
//! quinn keeps a receive buffer as large as all datagrams that the kernel may hand over at once,
//! joined by GRO: 3 MB for each endpoint. A device that is cut off makes an endpoint for each
//! dial, and what an allocator keeps of them stays with the process. Without GRO the buffer is
//! 46 KiB, and what an edge receives does not need it.

use std::{
    fmt,
    io::{self, IoSliceMut},
    net::{SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use nix::sys::socket::{setsockopt, sockopt::UdpGroSegment};
use quinn::{
    AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller,
    udp::{RecvMeta, Transmit},
};

/// A socket whose datagrams come one by one.
pub(super) fn one_by_one(socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
    let same = socket.try_clone()?;
    let inner = TokioRuntime.wrap_udp_socket(socket)?;
    match setsockopt(&same, UdpGroSegment, &false) {
        Ok(()) => Ok(Arc::new(OneByOne(inner))),
        // A kernel before 5.0 has no GRO for UDP, and quinn asks for none.
        Err(_) if inner.max_receive_segments() == 1 => Ok(inner),
        Err(error) => Err(error.into()),
    }
}

struct OneByOne(Arc<dyn AsyncUdpSocket>);

impl fmt::Debug for OneByOne {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsyncUdpSocket for OneByOne {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.max_transmit_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[tokio::test]
    async fn the_kernel_joins_no_datagrams_and_the_buffer_is_for_one() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let same = socket.try_clone().unwrap();
        let socket = one_by_one(socket).unwrap();
        assert_eq!(socket.max_receive_segments(), 1);
        assert!(!getsockopt(&same, UdpGroSegment).unwrap());
    }
}
