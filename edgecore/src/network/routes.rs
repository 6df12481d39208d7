//! The routes that the machine has, and which of them a pod range would collide with.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use super::pod_cidr::PodCidr;

/// One route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The device the packets leave by.
    pub device: String,
    /// Where they go.
    pub to: PodCidr,
}

/// Reads the kernel's IPv4 routes.
pub fn read(proc: &Path) -> io::Result<Vec<Route>> {
    Ok(parse(&std::fs::read_to_string(proc.join("net/route"))?))
}

/// The first route that `range` would collide with. The default route collides with nothing,
/// and neither does the bridge `own`, which an earlier run of ours may have left.
pub fn collision<'a>(routes: &'a [Route], range: PodCidr, own: &str) -> Option<&'a Route> {
    routes
        .iter()
        .find(|route| route.device != own && !route.to.is_everything() && route.to.overlaps(&range))
}

/// Reads `Iface Destination Gateway Flags RefCnt Use Metric Mask …`, addresses in hex in the
/// machine's byte order.
fn parse(text: &str) -> Vec<Route> {
    let line = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = |field: usize| {
            u32::from_str_radix(fields.get(field)?, 16)
                .ok()
                .map(u32::to_ne_bytes)
        };
        let prefix = u32::from_be_bytes(address(7)?).leading_ones();
        let to = PodCidr::around(Ipv4Addr::from(address(1)?), u8::try_from(prefix).ok()?);
        Some(Route {
            device: (*fields.first()?).to_owned(),
            to,
        })
    };
    text.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
wg0\t0000560A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
";

    fn collides(range: &str, own: &str) -> Option<String> {
        let routes = parse(TABLE);
        collision(&routes, range.parse().unwrap(), own).map(|route| format!("{} {}", route.device, route.to))
    }

    #[test]
    fn routes_are_read_from_the_kernels_table() {
        let shown: Vec<_> = parse(TABLE)
            .iter()
            .map(|r| format!("{} {}", r.device, r.to))
            .collect();
        assert_eq!(
            shown,
            ["eth0 0.0.0.0/0", "eth0 192.168.0.0/24", "wg0 10.86.0.0/16"]
        );
    }

    #[test]
    fn a_range_collides_with_the_route_that_it_overlaps() {
        assert_eq!(
            collides("10.86.4.0/24", "tombolo0").as_deref(),
            Some("wg0 10.86.0.0/16")
        );
        assert_eq!(collides("10.87.0.0/16", "tombolo0"), None);
    }

    #[test]
    fn neither_the_default_route_nor_our_own_bridge_is_in_the_way() {
        assert_eq!(collides("172.20.0.0/16", "tombolo0"), None);
        assert_eq!(collides("10.86.0.0/16", "wg0"), None);
    }
}
