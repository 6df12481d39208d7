//! The listeners beside a web server of the device's, with the address translation of a kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::network::api::{self, Callers, Dial, Note, Translator, Wanted};
use crate::network::conflist::{self, Plugins};
use crate::network::nat::Nat;
use crate::network::pod_cidr::PodCidr;
use crate::network::testing::{Elsewhere, in_a_namespace};
use crate::network::{in_use, iptables};

const SERVICE: (&str, u16) = ("10.96.0.1", 443);

/// Where the runtime looks for the network of pods: join's.
struct Network(PathBuf);

impl Network {
    fn of_join(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("tombolo-doors-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let own = Plugins::Own {
            addresses: dir.join("addresses"),
        };
        let text = conflist::render(PodCidr::DEFAULT, &own);
        std::fs::write(dir.join(conflist::FILE), text).unwrap();
        Self(dir)
    }

    fn other(&self) -> PathBuf {
        self.0.join("10-calico.conflist")
    }

    /// Another network comes first.
    fn changes(&self) {
        std::fs::write(self.other(), "{}").unwrap();
    }

    /// Of the address on the loopback device.
    fn note(&self) -> Note {
        Note::at(&self.0.join("api-server"))
    }

    fn changes_back(&self) {
        std::fs::remove_file(self.other()).unwrap();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An agent with the parts that matter here.
struct Agent {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Agent {
    /// With `translation` from the kernel, or with none.
    fn starts(translates: bool, network: &Network) -> Self {
        let (dir, note) = (&network.0, network.note());
        let address = SERVICE.0.parse().unwrap();
        let (wanted, served) = watch::channel(Some(ApiEndpoint {
            address,
            port: SERVICE.1,
        }));
        let (door, opened) = watch::channel(None);
        let start = if translates {
            Translation::Untold
        } else {
            Translation::Fails
        };
        let (told, translation) = watch::channel(start);
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let translator = Translator { door, translation };
        let ends = stop.clone();
        let range = |dir: &Path| {
            let dir = dir.to_owned();
            move || in_use::range(&dir)
        };
        let (of_callers, of_rules) = (range(dir), range(dir));
        tasks.spawn(async move {
            let _wanted = wanted;
            let callers = Callers {
                whose: Arc::new(|_| None),
                range: Arc::new(of_callers),
            };
            let wanted = Wanted {
                endpoint: served,
                note,
            };
            api::run(wanted, api_server(), callers, translator, ends).await;
        });
        let ends = stop.clone();
        tasks.spawn(async move {
            let ranges = || Nat {
                pods: of_rules(),
                ..Nat::default()
            };
            if translates {
                iptables::keep(ranges, opened, told, ends).await;
            } else {
                ends.cancelled().await;
            }
        });
        Self { tasks, stop }
    }

    async fn ends(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Whoever is connected to it hears "api".
fn api_server() -> Dial {
    Arc::new(|| {
        Box::pin(async {
            let (near, mut far) = tokio::io::duplex(64);
            let _ = far.write_all(b"api").await;
            let (recv, send) = tokio::io::split(near);
            Ok(protocol::transport::Stream {
                recv: Box::new(recv),
                send: Box::new(send),
            })
        })
    })
}

/// Who answers there; nobody, when none does.
async fn answers(at: (&str, u16)) -> String {
    let mut said = String::new();
    if let Ok(mut stream) = TcpStream::connect(at).await {
        let _ = stream.read_to_string(&mut said).await;
    }
    said
}

/// Waits until the API server answers.
async fn until_pods_reach_it() {
    let answer = async {
        while answers(SERVICE).await != "api" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(30), answer).await;
    answered.expect("the API server answers at its address");
}

/// The device's web server, on all of its addresses.
async fn web_server(tasks: &mut JoinSet<()>) {
    let listener = TcpListener::bind(("0.0.0.0", SERVICE.1)).await.unwrap();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"web").await;
        }
    });
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn beside_a_web_server() {
    let mut web = JoinSet::new();
    web_server(&mut web).await;
    let network = Network::of_join("web");
    let agent = Agent::starts(true, &network);
    until_pods_reach_it().await;
    assert_eq!(
        answers(("127.0.0.1", 443)).await,
        "web",
        "the device's own came first"
    );
    let noted = network.note().read().unwrap().unwrap();
    assert_eq!((noted.address.to_string().as_str(), noted.port), SERVICE);
    agent.ends().await;
    assert!(network.note().read().unwrap().is_none());
    web.shutdown().await;

    let agent = Agent::starts(true, &network);
    until_pods_reach_it().await;
    web_server(&mut web).await;
    assert_eq!(
        answers(("127.0.0.1", 443)).await,
        "web",
        "the device's own came later"
    );
    assert_eq!(answers(SERVICE).await, "api");
    agent.ends().await;
    web.shutdown().await;

    // What stays in the kernel leads to nothing else than the port that the next agent opens first.
    let agent = Agent::starts(false, &network);
    until_pods_reach_it().await;
    iptables::remove().await;
    assert_eq!(
        answers(SERVICE).await,
        "api",
        "no rule is needed for the Service's port"
    );
    agent.ends().await;

    // Another network has connections at the Service's port, whatever was there before.
    let agent = Agent::starts(true, &network);
    until_pods_reach_it().await;
    agent.ends().await;
    network.changes();
    let agent = Agent::starts(true, &network);
    let gone = async {
        while sh("iptables-save").contains("DNAT") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), gone);
    in_time.await.expect("no rule sends connections elsewhere");
    until_pods_reach_it().await;
    agent.ends().await;
}

#[test]
fn the_api_server_and_a_web_server_share_a_port_whoever_comes_first() {
    in_a_namespace("network::api::doors::tests::beside_a_web_server");
}

/// A pod: a network namespace with an address and a default route.
struct Pod(Elsewhere);

impl Pod {
    fn starts() -> Self {
        let pod = Self(Elsewhere::new());
        let id = pod.0.id();
        sh(&format!(
            "ip link add veth0 type veth peer name eth0 netns {id} && ip link set veth0 up \
             && ip addr add 10.86.0.1/16 dev veth0"
        ));
        pod.sh(
            "ip addr add 10.86.0.2/16 dev eth0 && ip link set eth0 up && ip route add default via 10.86.0.1",
        );
        pod
    }

    fn sh(&self, script: &str) -> String {
        sh(&format!(
            "timeout 10 nsenter --net={} bash -c '{script}'",
            self.0.path()
        ))
    }
}

fn sh(script: &str) -> String {
    let ran = Command::new("bash").args(["-c", script]).output().unwrap();
    assert!(
        ran.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8(ran.stdout).unwrap()
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn from_a_pod_past_a_firewall() {
    const SERVICE_FROM_POD: &str = "cat </dev/tcp/10.96.0.1/443";
    sh("iptables -A INPUT -i lo -j ACCEPT && iptables -A INPUT -j REJECT");
    let pod = Pod::starts();
    let mut web = JoinSet::new();
    web_server(&mut web).await;
    let network = Network::of_join("pod");
    let agent = Agent::starts(true, &network);
    until_pods_reach_it().await;
    assert_eq!(tokio::task::block_in_place(|| pod.sh(SERVICE_FROM_POD)), "api");

    // A neighbour on the device's network, which no firewall keeps out.
    sh("iptables -D INPUT -j REJECT && ip addr add 192.168.7.1/24 dev veth0");
    pod.sh("ip addr flush dev eth0 && ip addr add 192.168.7.2/24 dev eth0 && ip route add default via 192.168.7.1");
    let heard = || tokio::task::block_in_place(|| pod.sh(&format!("{SERVICE_FROM_POD} || true")));
    network.changes();
    assert_eq!(
        heard(),
        "api",
        "it has a way, and may be a pod of a network that is not join's"
    );
    network.changes_back();
    assert_eq!(heard(), "", "no connection of a stranger is carried");
    agent.ends().await;
    web.shutdown().await;
}

#[test]
fn a_pod_reaches_the_api_server_where_a_firewall_says_nothing_of_it() {
    in_a_namespace("network::api::doors::tests::from_a_pod_past_a_firewall");
}

/// Runs in a network namespace of its own, started by the test below.
#[tokio::test]
#[ignore = "needs a network namespace of its own; the next test makes one and runs this in it"]
async fn on_a_flushed_loopback_device() {
    let address = SERVICE.0.parse().unwrap();
    let mut doors = Doors::closed(ApiEndpoint {
        address,
        port: SERVICE.1,
    });
    doors.keep(Translation::Holds);
    let own = doors.door().unwrap().own.unwrap();
    for trouble in ["ip addr flush dev lo", "ip addr del 10.96.0.1/32 dev lo", "true"] {
        sh(trouble);
        assert_eq!(doors.keep(Translation::Holds), LOOK, "{trouble}");
        let connected = TcpStream::connect((address, own)).await.expect(trouble);
        let (_, from) = doors.accept().await.unwrap();
        assert_eq!(connected.local_addr().unwrap(), from, "{trouble}");
    }
}

#[test]
fn an_address_that_somebody_took_from_the_loopback_device_is_put_back() {
    in_a_namespace("network::api::doors::tests::on_a_flushed_loopback_device");
}

#[test]
fn the_services_port_is_left_to_others_unless_the_kernel_does_not_translate() {
    for (has_own, translation, needed) in [
        (true, Translation::Untold, false),
        (true, Translation::Holds, false),
        (true, Translation::Fails, true),
        (false, Translation::Holds, true),
    ] {
        assert_eq!(
            needs_plain(has_own, translation),
            needed,
            "{has_own} {translation:?}"
        );
    }
}
