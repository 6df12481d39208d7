//! What a device does to connections with its own API server's address.

use std::process::Command;

use tokio::net::TcpListener;

use super::*;
use crate::network::netlink;
use crate::network::testing::{Elsewhere, in_a_namespace};

const OWN: u16 = 61_443;

fn endpoint() -> ApiEndpoint {
    let address = "10.96.0.1".parse().unwrap();
    ApiEndpoint { address, port: 443 }
}

/// Runs iptables, and takes back what it did at the end.
struct Rule(&'static str);

impl Rule {
    fn new(rule: &'static str) -> Self {
        let rule = Self(rule);
        rule.run("-A");
        rule
    }

    fn run(&self, how: &str) {
        let words = self.0.replace("ADD", how);
        let ran = Command::new("iptables").args(words.split(' ')).status();
        assert!(ran.unwrap().success(), "{words}");
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        self.run("-D");
    }
}

async fn met() -> Met {
    knock(endpoint(), Duration::from_secs(2)).await.unwrap().met
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn with_what_devices_have() {
    assert_eq!(met().await, Met::NoAddress);
    netlink::add(endpoint().address).unwrap();
    assert_eq!(met().await, Met::NobodyListens);

    let own = TcpListener::bind((endpoint().address, OWN)).await.unwrap();
    assert_eq!(met().await, Met::Refusal, "nobody sends connections there");
    let sends = Rule::new(
        "-t nat ADD OUTPUT -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 10.96.0.1:61443",
    );
    let found = knock(endpoint(), Duration::from_secs(2)).await.unwrap();
    assert_eq!((found.met, found.ports), (Met::Listener, vec![OWN]));

    let untracked = Rule::new("-t raw ADD OUTPUT -o lo -j CT --notrack");
    assert_eq!(met().await, Met::Refusal);
    for all in ["0.0.0.0:443", "[::]:443"] {
        let _web = TcpListener::bind(all).await.unwrap();
        assert_eq!(met().await, Met::Stranger, "{all}");
    }
    drop(untracked);
    for (firewall, expected) in [
        ("ADD INPUT -p tcp --dport 61443 -j DROP", Met::Silence),
        ("ADD INPUT -p tcp --dport 61443 -j REJECT", Met::Refusal),
    ] {
        let _rule = Rule::new(firewall);
        assert_eq!(met().await, expected, "{firewall}");
    }
    assert_eq!(met().await, Met::Listener);
    drop(sends);
    where_a_pod_publishes_the_port().await;
    // Without translation it listens at the Service's port itself.
    drop(own);
    let _plain = TcpListener::bind((endpoint().address, endpoint().port))
        .await
        .unwrap();
    assert_eq!(met().await, Met::Listener);
}

/// With portmap's rule, where ours is lost or comes behind it.
async fn where_a_pod_publishes_the_port() {
    let pod = Elsewhere::new();
    let script = format!(
        "ip link add veth0 type veth peer name eth0 netns {id} && ip addr add 10.86.0.1/24 dev veth0 && \
         ip link set veth0 up && nsenter -t {id} -n sh -c 'ip link set eth0 up && ip addr add 10.86.0.2/24 dev eth0 && \
         ip route add default via 10.86.0.1'",
        id = pod.id()
    );
    let made = Command::new("sh").args(["-c", &script]).status();
    assert!(made.unwrap().success());
    let web = pod.inside(|| std::net::TcpListener::bind("10.86.0.2:443").unwrap());
    let _published = Rule::new(
        "-t nat ADD OUTPUT -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 10.86.0.2:443",
    );
    assert_eq!(met().await, Met::Stranger);
    drop(web);
    assert_eq!(met().await, Met::Refusal);
}

#[test]
fn what_keeps_connections_from_the_listener_is_found() {
    in_a_namespace("network::api::knock::tests::with_what_devices_have");
}

#[test]
fn the_kernel_s_table_is_read_in_both_families() {
    let header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid";
    assert_eq!(socket(header), None);
    let words = |octets: &[u8]| {
        let chunks = octets.chunks(4).map(|word| <[u8; 4]>::try_from(word).unwrap());
        let words: Vec<_> = chunks
            .map(|word| format!("{:08X}", u32::from_ne_bytes(word)))
            .collect();
        words.concat()
    };
    let v4 = words(&[10, 96, 0, 1]);
    let line = format!("   0: {v4}:F003 00000000:0000 0A 00000000:00000000 00:00000000");
    let listener = socket(&line).unwrap();
    assert_eq!(listener.local, "10.96.0.1:61443".parse().unwrap());
    assert_eq!(listeners(&[listener], endpoint().address), [OWN]);
    assert!(listeners(&[listener], "0.0.0.0".parse().unwrap()).is_empty());

    let mapped = Ipv4Addr::new(10, 96, 0, 1).to_ipv6_mapped().octets();
    let line = format!("   1: {}:01BB {}:9C40 01 0:0", words(&mapped), words(&mapped));
    let web = socket(&line).unwrap();
    assert_eq!(
        reached(&[listener, web], "10.96.0.1:40000".parse().unwrap()),
        Some(443)
    );
    assert_eq!(
        reached(&[listener, web], "10.96.0.1:40001".parse().unwrap()),
        None
    );
}

#[test]
fn an_end_that_is_nowhere_here_is_another_s_while_the_connection_is_open() {
    let client = "10.96.0.1:40000".parse().unwrap();
    let own = |state| Socket {
        local: client,
        remote: "10.96.0.1:443".parse().unwrap(),
        state,
    };
    let other = Socket {
        local: "10.96.0.1:40001".parse().unwrap(),
        ..own(IS_OPEN)
    };
    assert!(is_open(&[other, own(IS_OPEN)], client));
    // `TCP_CLOSE_WAIT` and `TCP_CLOSE`.
    for gone in [vec![other, own(0x08)], vec![other, own(0x07)], vec![other]] {
        assert!(!is_open(&gone, client), "{gone:?}");
    }
}
