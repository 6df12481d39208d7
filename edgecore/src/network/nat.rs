//! The address translation that all pods of the device share, as rules of iptables(8).
//!
//! - **Masquerade**: what leaves the pod range for other machines has the device's address. One rule holds for
//!   the whole range. The bridge plugin can do it by itself (`ipMasq`), with a chain for each pod: that is several
//!   runs of iptables at each start and again at each end, and chains that a firewall's reload takes away
//!   are not made again while the pod lives.
//! - **The API server's address** is on `lo`, so it is one of the device's own. portmap sends every such address
//!   to the pod that publishes the port: with a pod that has `hostPort: 443` no pod would reach the API
//!   server any more. It is let through before portmap sees it.
//!
//! Which rules there are is decided here; [`super::iptables`] has the kernel hold them.

use std::fmt::Write as _;

use super::api::ApiEndpoint;
use super::pod_cidr::PodCidr;

/// Our chain behind `POSTROUTING`.
const MASQUERADE: &str = "TOMBOLO-MASQ";
/// Our chain before `PREROUTING` and `OUTPUT`.
const API: &str = "TOMBOLO-API";

/// What the device translates for its pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The range whose pods leave with the device's address; none where the network does it itself.
    pub masquerade: Option<PodCidr>,
    /// Where pods expect the API server.
    pub api: Option<ApiEndpoint>,
}

/// How a chain of ours is entered from one of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// `-A` or `-I`: behind what is there, or before it.
    add: &'static str,
    from: &'static str,
    to: &'static str,
}

impl Jump {
    /// The arguments which ask whether it is there: [`super::iptables`] reads the exit code.
    pub fn check(&self) -> [&'static str; 4] {
        ["-C", self.from, "-j", self.to]
    }

    /// The arguments which add it.
    pub fn add(&self) -> [&'static str; 4] {
        [self.add, self.from, "-j", self.to]
    }

    /// The arguments which take it away.
    pub fn remove(&self) -> [&'static str; 4] {
        ["-D", self.from, "-j", self.to]
    }
}

/// All that there may be of ours, for taking it away.
pub const CHAINS: [&str; 2] = [MASQUERADE, API];

/// Every jump of ours, whether wanted now or not.
pub fn jumps() -> [Jump; 3] {
    let before = |from| Jump {
        add: "-I",
        from,
        to: API,
    };
    let behind = Jump {
        add: "-A",
        from: "POSTROUTING",
        to: MASQUERADE,
    };
    [behind, before("PREROUTING"), before("OUTPUT")]
}

impl Nat {
    /// Whether there is anything to translate.
    pub fn is_empty(&self) -> bool {
        self.masquerade.is_none() && self.api().is_none()
    }

    /// The jumps that this needs.
    pub fn jumps(&self) -> impl Iterator<Item = Jump> {
        let (masquerade, api) = (self.masquerade.is_some(), self.api().is_some());
        jumps().into_iter().filter(move |jump| match jump.to {
            MASQUERADE => masquerade,
            _ => api,
        })
    }

    /// Our chains with their rules, for `iptables-restore --noflush`: chains that are named are emptied first,
    /// all others stay as they are, and all of it counts at once.
    pub fn restore(&self) -> String {
        let mut text = String::from("*nat\n");
        if let Some(range) = self.masquerade {
            // Pods among themselves keep their addresses, and multicast would come back to nobody.
            let _ = write!(
                text,
                ":{MASQUERADE} - [0:0]\n\
                 -A {MASQUERADE} -d {range} -j RETURN\n\
                 -A {MASQUERADE} -s {range} ! -d 224.0.0.0/4 -j MASQUERADE\n"
            );
        }
        if let Some(ApiEndpoint { address, port }) = self.api() {
            // ACCEPT ends the table for this connection: portmap's rules come later.
            let _ = write!(
                text,
                ":{API} - [0:0]\n-A {API} -d {address}/32 -p tcp --dport {port} -j ACCEPT\n"
            );
        }
        text.push_str("COMMIT\n");
        text
    }

    /// The default pod network has IPv4 only, and so has portmap in it.
    fn api(&self) -> Option<ApiEndpoint> {
        self.api.filter(|endpoint| endpoint.address.is_ipv4())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(address: &str) -> ApiEndpoint {
        let address = address.parse().unwrap();
        ApiEndpoint { address, port: 443 }
    }

    #[test]
    fn one_rule_masquerades_the_whole_range_but_not_pods_among_themselves() {
        let nat = Nat {
            masquerade: Some(PodCidr::DEFAULT),
            api: None,
        };
        assert_eq!(
            nat.restore(),
            "*nat\n:TOMBOLO-MASQ - [0:0]\n\
             -A TOMBOLO-MASQ -d 10.86.0.0/16 -j RETURN\n\
             -A TOMBOLO-MASQ -s 10.86.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE\nCOMMIT\n"
        );
        let adds: Vec<_> = nat.jumps().map(|jump| jump.add().join(" ")).collect();
        assert_eq!(adds, ["-A POSTROUTING -j TOMBOLO-MASQ"]);
    }

    #[test]
    fn the_api_servers_address_is_let_through_before_anything_else() {
        let nat = Nat {
            masquerade: None,
            api: Some(api("10.96.0.1")),
        };
        assert_eq!(
            nat.restore(),
            "*nat\n:TOMBOLO-API - [0:0]\n\
             -A TOMBOLO-API -d 10.96.0.1/32 -p tcp --dport 443 -j ACCEPT\nCOMMIT\n"
        );
        let adds: Vec<_> = nat.jumps().map(|jump| jump.add().join(" ")).collect();
        assert_eq!(adds, ["-I PREROUTING -j TOMBOLO-API", "-I OUTPUT -j TOMBOLO-API"]);
    }

    #[test]
    fn an_address_of_ipv6_needs_no_rule() {
        let nat = Nat {
            masquerade: None,
            api: Some(api("fd00::1")),
        };
        assert!(nat.is_empty());
        assert_eq!(nat.jumps().count(), 0);
        assert!(!nat.restore().contains("fd00"));
    }
}
