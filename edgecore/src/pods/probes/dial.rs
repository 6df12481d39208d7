//! Where a probe knocks, and what is said where nobody opens, in the kubelet's words.

use std::io;

pub(super) fn valid_port(number: i64) -> Result<u16, String> {
    u16::try_from(number)
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}

/// A failed connection as the kubelet words it.
pub(super) fn dial_error(host: &str, port: u16, error: &io::Error) -> String {
    let known = [
        (io::ErrorKind::ConnectionRefused, "connect: connection refused"),
        (io::ErrorKind::HostUnreachable, "connect: no route to host"),
        (
            io::ErrorKind::NetworkUnreachable,
            "connect: network is unreachable",
        ),
    ];
    let words = known.into_iter().find(|(kind, _)| *kind == error.kind());
    let why = words.map_or_else(|| error.to_string(), |(_, words)| words.to_owned());
    format!("dial tcp {}: {why}", join(host, port))
}

/// `host:port`, with brackets where an IPv6 address needs them.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}
