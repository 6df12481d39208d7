//! The address translation that all pods of the device share, as rules of iptables(8).
//!
//! - **Masquerade**: what leaves the pod range for other machines has the device's address. One rule holds for
//!   a whole range. The bridge plugin can do it by itself (`ipMasq`), with a chain for each pod: that is several
//!   runs of iptables at each start and again at each end, and chains that a firewall's reload takes away
//!   are not made again while the pod lives.
//! - **The API server's address** is on `lo`, so it is one of the device's own. A web server of the device that
//!   listens on all addresses at 443 and a listener of ours at that address and port exclude each other:
//!   whoever comes first wins. So ours has a port of its own, and connections are sent there. That comes
//!   before portmap, which sends every address of the device to the pod that publishes the port.
//! - **A firewall** sees the port of ours. Our rule that lets pods through comes before all of its own, for many end
//!   with one that refuses the rest; it speaks of pods' addresses, and of one address and port of the device.
//! - **Another network** than that of join may pass by these tables, or filter what its pods send: there the
//!   port is the Service's, as its makers expect. Whether it is another is seen from the pods' range.
//!
//! Which rules there are is decided here; [`super::iptables`] has the kernel hold them.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::api::ApiEndpoint;
use super::pod_cidr::PodCidr;

/// Our chain behind `POSTROUTING`.
const MASQUERADE: &str = "TOMBOLO-MASQ";
/// Our chain before `PREROUTING` and `OUTPUT`, and in the table of filters before `INPUT`.
const API: &str = "TOMBOLO-API";
const NAT: &str = "nat";
const FILTER: &str = "filter";

/// Where the connections of pods to the API server are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    /// Where pods expect the API server.
    pub endpoint: ApiEndpoint,
    /// The port of ours on the same address; none where only the Service's own port is listened on.
    pub own: Option<u16>,
}

/// Whether connections come to the port of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translation {
    /// Nobody has tried yet. What an earlier agent set up may still hold.
    #[default]
    Untold,
    /// The kernel holds the rules.
    Holds,
    /// It does not, or is not asked to: the Service's own port is to be listened on.
    Fails,
}

/// What the device translates for its pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nat {
    /// The ranges whose pods leave with the device's address; none where the network does it itself.
    pub masquerade: Vec<PodCidr>,
    /// The range of all pods; none where their network is not that of join, or has several.
    pub pods: Option<PodCidr>,
    /// Where the API server's connections go; none before it is open.
    pub door: Option<Door>,
}

/// How a chain of ours is entered from one of the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    table: &'static str,
    /// `-A` or `-I`: behind what is there, or before it.
    add: &'static str,
    from: &'static str,
    to: &'static str,
}

impl Jump {
    /// The arguments which ask whether it is there: [`super::iptables`] reads the exit code.
    pub fn check(&self) -> [&'static str; 6] {
        ["-t", self.table, "-C", self.from, "-j", self.to]
    }

    /// The arguments which add it.
    pub fn add(&self) -> [&'static str; 6] {
        ["-t", self.table, self.add, self.from, "-j", self.to]
    }

    /// The arguments which take it away.
    pub fn remove(&self) -> [&'static str; 6] {
        ["-t", self.table, "-D", self.from, "-j", self.to]
    }
}

/// All chains that there may be of ours, each with its table, for taking them away.
pub const CHAINS: [(&str, &str); 3] = [(NAT, MASQUERADE), (NAT, API), (FILTER, API)];

/// Every jump of ours, whether wanted now or not.
pub fn jumps() -> [Jump; 4] {
    let jump = |table, add, from, to| Jump { table, add, from, to };
    [
        jump(NAT, "-A", "POSTROUTING", MASQUERADE),
        jump(NAT, "-I", "PREROUTING", API),
        jump(NAT, "-I", "OUTPUT", API),
        pass(),
    ]
}

/// The jump by which pods come past a firewall.
pub const fn pass() -> Jump {
    Jump {
        table: FILTER,
        add: "-I",
        from: "INPUT",
        to: API,
    }
}

impl Nat {
    /// Whether there is anything to translate.
    pub fn is_empty(&self) -> bool {
        self.masquerade.is_empty() && self.door().is_none()
    }

    /// The same without a port of ours: what is left where the kernel does not send connections there.
    #[must_use]
    pub fn without_own_port(self) -> Self {
        let door = self.door.map(|door| Door { own: None, ..door });
        Self { door, ..self }
    }

    /// Whether connections are sent to a port of ours.
    pub fn has_own_port(&self) -> bool {
        self.door().is_some_and(|door| door.own.is_some())
    }

    /// The jumps that this needs.
    pub fn jumps(&self) -> impl Iterator<Item = Jump> {
        let (masquerade, door, passes) = (
            !self.masquerade.is_empty(),
            self.door().is_some(),
            self.passes().is_some(),
        );
        jumps().into_iter().filter(move |jump| match jump.table {
            FILTER => passes,
            _ if jump.to == MASQUERADE => masquerade,
            _ => door,
        })
    }

    /// Our chains with their rules, for `iptables-restore --noflush`: chains that are named are emptied first,
    /// all others stay as they are, and all of a table counts at once.
    pub fn restore(&self) -> String {
        let mut text = String::from("*nat\n");
        if !self.masquerade.is_empty() {
            let _ = writeln!(text, ":{MASQUERADE} - [0:0]");
        }
        // Pods among themselves keep their addresses, and multicast would come back to nobody.
        for range in &self.masquerade {
            let _ = writeln!(text, "-A {MASQUERADE} -d {range} -j RETURN");
        }
        for range in &self.masquerade {
            let _ = writeln!(text, "-A {MASQUERADE} -s {range} ! -d 224.0.0.0/4 -j MASQUERADE");
        }
        if let Some(door) = self.door() {
            let ApiEndpoint { address, port } = door.endpoint;
            // Either ends the table for this connection: portmap's rules come later. REDIRECT would send it to
            // the address of the bridge.
            let to = door.own.map_or_else(
                || "ACCEPT".to_owned(),
                |own| format!("DNAT --to-destination {address}:{own}"),
            );
            let _ = write!(
                text,
                ":{API} - [0:0]\n-A {API} -d {address}/32 -p tcp --dport {port} -j {to}\n"
            );
        }
        text.push_str("COMMIT\n");
        if let Some((range, address, own)) = self.passes() {
            let _ = write!(
                text,
                "*filter\n:{API} - [0:0]\n\
                 -A {API} -s {range} -d {address}/32 -p tcp --dport {own} -j ACCEPT\nCOMMIT\n"
            );
        }
        text
    }

    /// The default pod network has IPv4 only, and so has portmap in it. The port of ours is for that network alone.
    fn door(&self) -> Option<Door> {
        let door = self.door.filter(|door| door.endpoint.address.is_ipv4())?;
        let own = door.own.filter(|_| self.pods.is_some());
        Some(Door { own, ..door })
    }

    /// From where, and to which address and port, pods come past a firewall that does not speak of them.
    fn passes(&self) -> Option<(PodCidr, IpAddr, u16)> {
        let door = self.door()?;
        Some((self.pods?, door.endpoint.address, door.own?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(address: &str, own: Option<u16>) -> Door {
        let address = address.parse().unwrap();
        let endpoint = ApiEndpoint { address, port: 443 };
        Door { endpoint, own }
    }

    fn adds(nat: &Nat) -> Vec<String> {
        nat.jumps().map(|jump| jump.add().join(" ")).collect()
    }

    const BEFORE: [&str; 2] = [
        "-t nat -I PREROUTING -j TOMBOLO-API",
        "-t nat -I OUTPUT -j TOMBOLO-API",
    ];

    #[test]
    fn one_rule_masquerades_the_whole_range_but_not_pods_among_themselves() {
        let nat = Nat {
            masquerade: vec![PodCidr::DEFAULT],
            pods: Some(PodCidr::DEFAULT),
            door: None,
        };
        assert_eq!(
            nat.restore(),
            "*nat\n:TOMBOLO-MASQ - [0:0]\n\
             -A TOMBOLO-MASQ -d 10.86.0.0/16 -j RETURN\n\
             -A TOMBOLO-MASQ -s 10.86.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE\nCOMMIT\n"
        );
        assert_eq!(adds(&nat), ["-t nat -A POSTROUTING -j TOMBOLO-MASQ"]);
    }

    #[test]
    fn pods_of_one_range_keep_their_addresses_towards_those_of_another() {
        let nat = Nat {
            masquerade: ["10.99.0.0/24", "10.98.0.0/24"]
                .map(|range| range.parse().unwrap())
                .to_vec(),
            ..Nat::default()
        };
        let rules = "-A TOMBOLO-MASQ -d 10.99.0.0/24 -j RETURN\n\
             -A TOMBOLO-MASQ -d 10.98.0.0/24 -j RETURN\n\
             -A TOMBOLO-MASQ -s 10.99.0.0/24 ! -d 224.0.0.0/4 -j MASQUERADE\n\
             -A TOMBOLO-MASQ -s 10.98.0.0/24 ! -d 224.0.0.0/4 -j MASQUERADE\n";
        assert!(nat.restore().contains(rules), "{}", nat.restore());
    }

    #[test]
    fn connections_to_the_api_server_go_to_the_port_of_ours_before_anything_else() {
        let nat = Nat {
            pods: Some(PodCidr::DEFAULT),
            door: Some(door("10.96.0.1", Some(61_443))),
            ..Nat::default()
        };
        let rules = "*nat\n:TOMBOLO-API - [0:0]\n\
             -A TOMBOLO-API -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 10.96.0.1:61443\nCOMMIT\n";
        assert!(nat.restore().starts_with(rules), "{}", nat.restore());
        assert_eq!(adds(&nat)[..2], BEFORE);
        assert!(nat.has_own_port());
    }

    #[test]
    fn pods_whose_range_is_known_come_past_a_firewall_that_does_not_speak_of_them() {
        let nat = Nat {
            pods: Some(PodCidr::DEFAULT),
            door: Some(door("10.96.0.1", Some(61_443))),
            ..Nat::default()
        };
        let filters = "*filter\n:TOMBOLO-API - [0:0]\n\
             -A TOMBOLO-API -s 10.86.0.0/16 -d 10.96.0.1/32 -p tcp --dport 61443 -j ACCEPT\nCOMMIT\n";
        assert!(nat.restore().ends_with(filters), "{}", nat.restore());
        assert_eq!(adds(&nat)[2..], ["-t filter -I INPUT -j TOMBOLO-API"]);
    }

    #[test]
    fn without_a_port_of_ours_or_in_another_network_the_address_is_let_through_as_it_is() {
        let join_s = Nat {
            masquerade: Vec::new(),
            pods: Some(PodCidr::DEFAULT),
            door: Some(door("10.96.0.1", Some(61_443))),
        };
        let other = Nat {
            pods: None,
            ..join_s.clone()
        };
        for nat in [join_s.without_own_port(), other] {
            assert_eq!(
                nat.restore(),
                "*nat\n:TOMBOLO-API - [0:0]\n\
                 -A TOMBOLO-API -d 10.96.0.1/32 -p tcp --dport 443 -j ACCEPT\nCOMMIT\n"
            );
            assert_eq!(adds(&nat), BEFORE);
            assert!(!nat.has_own_port());
        }
    }

    #[test]
    fn an_address_of_ipv6_needs_no_rule() {
        let nat = Nat {
            door: Some(door("fd00::1", None)),
            ..Nat::default()
        };
        assert!(nat.is_empty());
        assert_eq!(nat.jumps().count(), 0);
        assert!(!nat.restore().contains("fd00"));
    }
}
