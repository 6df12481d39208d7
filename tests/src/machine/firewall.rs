//! What a machine's cable lets through, as rules inside the machine's own namespace.
//!
//! The rules stand in a chain of their own, so that neither the kubelet's nor kube-proxy's are
//! touched, and they judge `eth0` alone: pods and loopback are never hindered.

use std::{fmt::Write, net::Ipv4Addr};

/// What the machine may reach, and be reached from, through its cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Everything.
    Everything,
    /// One port, TCP and UDP, and nothing else in either direction.
    OnePort(Ipv4Addr, u16),
    /// The same, TCP alone: a network that lets no UDP through.
    OneTcpPort(Ipv4Addr, u16),
}

/// Whether the link is broken in one direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HalfOpen {
    /// Both directions work.
    No,
    /// What the machine says still arrives, but it hears nothing any more.
    Deaf,
    /// The machine hears, but what it says is lost.
    Mute,
}

const CHAIN: &str = "testbed";

/// A line of shell that brings the rules about, whatever they were before.
pub fn script(reach: Reach, half_open: HalfOpen) -> String {
    let mut script = format!("iptables -N {CHAIN} 2>/dev/null; iptables -F {CHAIN}");
    for rule in rules(reach, half_open) {
        let _ = write!(script, " && iptables -A {CHAIN} {rule}");
    }
    for chain in ["INPUT", "OUTPUT", "FORWARD"] {
        let jump = format!("{chain} -j {CHAIN}");
        let _ = write!(
            script,
            " && {{ iptables -C {jump} 2>/dev/null || iptables -I {jump}; }}"
        );
    }
    script
}

fn rules(reach: Reach, half_open: HalfOpen) -> Vec<String> {
    let mut rules = Vec::new();
    match half_open {
        HalfOpen::No => {}
        HalfOpen::Deaf => rules.push(String::from("-i eth0 -j DROP")),
        HalfOpen::Mute => rules.push(String::from("-o eth0 -j DROP")),
    }
    let allowed: Option<(_, _, &[&str])> = match reach {
        Reach::Everything => None,
        Reach::OnePort(host, port) => Some((host, port, &["tcp", "udp"])),
        Reach::OneTcpPort(host, port) => Some((host, port, &["tcp"])),
    };
    if let Some((host, port, protocols)) = allowed {
        for protocol in protocols {
            rules.push(format!(
                "-o eth0 -d {host} -p {protocol} --dport {port} -j RETURN"
            ));
            rules.push(format!(
                "-i eth0 -s {host} -p {protocol} --sport {port} -j RETURN"
            ));
        }
        rules.extend(["-o eth0 -j DROP", "-i eth0 -j DROP"].map(String::from));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_one_port_has_two_ways_per_protocol_and_nothing_else() {
        let rules = rules(Reach::OnePort(Ipv4Addr::new(198, 18, 0, 11), 30000), HalfOpen::No);
        assert_eq!(rules.len(), 6);
        assert!(
            rules[..4]
                .iter()
                .all(|rule| rule.contains("198.18.0.11") && rule.contains("30000"))
        );
        assert!(rules[4..].iter().all(|rule| rule.ends_with("DROP")));
    }

    #[test]
    fn a_machine_without_udp_has_tcp_alone() {
        let rules = rules(Reach::OneTcpPort(Ipv4Addr::LOCALHOST, 1), HalfOpen::No);
        assert_eq!(rules.len(), 4);
        assert!(!rules.iter().any(|rule| rule.contains("udp")));
    }

    #[test]
    fn a_deaf_machine_is_deaf_before_anything_is_let_in() {
        let rules = rules(Reach::OnePort(Ipv4Addr::LOCALHOST, 1), HalfOpen::Deaf);
        assert_eq!(rules[0], "-i eth0 -j DROP");
    }
}
