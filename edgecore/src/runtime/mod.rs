//! The container runtime: CRI over a unix socket.
