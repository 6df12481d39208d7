//! The device's own address: the one from which packets to cloudcore leave, where that is written as an address,
//! else the default route's, of either family.
//!
//! A line network without a gateway has none of these; there the way to the connected peer tells it. That comes
//! last, for it comes and goes with the link, and pods must not hear of a cut by another address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::UdpSocket;

/// Documentation addresses (RFC 5737, RFC 3849): never local, so the default route answers for them.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Where cloudcore is, as far as that is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peers {
    /// As the configuration says, when that is an address.
    pub configured: Option<IpAddr>,
    /// The other end of the link.
    pub connected: Option<IpAddr>,
}

/// The device's address now; none without a network.
pub async fn of_device(
    Peers {
        configured,
        connected,
    }: Peers,
) -> Option<IpAddr> {
    // A proxy on the device itself says nothing.
    let connected = connected.filter(|ip| !ip.to_canonical().is_loopback());
    for target in configured.into_iter().chain(ANYWHERE).chain(connected) {
        if let Some(address) = towards(target).await {
            return Some(address);
        }
    }
    None
}

/// Connecting a UDP socket sends nothing; the kernel only chooses a route.
async fn towards(target: IpAddr) -> Option<IpAddr> {
    let target = target.to_canonical();
    let any = if target.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect((target, 9)).await.ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::network::testing::in_a_namespace;

    fn ip(line: &str) {
        let words = line.split_whitespace();
        assert!(
            Command::new("ip").args(words).status().unwrap().success(),
            "{line}"
        );
    }

    /// Runs in a network namespace of its own, started by the test below.
    #[tokio::test]
    #[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
    async fn inside_a_namespace() {
        let own = async |configured: Option<&str>, connected: Option<&str>| {
            let parse = |text: &str| text.parse().unwrap();
            let address = of_device(Peers {
                configured: configured.map(parse),
                connected: connected.map(parse),
            });
            address
                .await
                .map(|address| address.to_string())
                .unwrap_or_default()
        };
        assert_eq!(own(None, None).await, "");
        for line in [
            "link add line0 type bridge",
            "link set line0 up",
            "address add 10.7.0.9/24 dev line0",
        ] {
            ip(line);
        }
        assert_eq!(own(None, None).await, "", "there is no default route");
        assert_eq!(own(None, Some("127.0.0.1")).await, "", "a proxy on the device");
        assert_eq!(own(None, Some("10.7.0.1")).await, "10.7.0.9");
        assert_eq!(own(None, Some("::ffff:10.7.0.1")).await, "10.7.0.9");
        ip("-6 address add fd00:7::9/64 dev line0 nodad");
        ip("-6 route add default via fd00:7::1 dev line0");
        assert_eq!(own(None, None).await, "fd00:7::9");
        assert_eq!(own(Some("10.7.0.1"), None).await, "10.7.0.9");
        ip("route add default via 10.7.0.1 dev line0");
        for connected in [None, Some("fd00:7::1"), Some("127.0.0.1"), Some("10.7.0.1")] {
            assert_eq!(own(None, connected).await, "10.7.0.9", "whatever the link does");
        }
    }

    #[test]
    fn a_line_without_a_gateway_and_one_with_ipv6_alone_have_an_address() {
        in_a_namespace("node::address::tests::inside_a_namespace");
    }
}
