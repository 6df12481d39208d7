//! Probes in virtual time.

use tokio::sync::mpsc;
use tokio::time::{advance, timeout};

use super::super::spec::testing::container;
use super::*;
use crate::node::host_ip::HostIp;
use crate::runtime::fake::FakeRuntime;

/// What was told of a probe.
struct Told {
    reason: String,
    message: String,
}

struct World {
    tasks: JoinSet<()>,
    stop: Stop,
    told: mpsc::Receiver<Told>,
    target: ProbeTarget,
}

/// Nobody listens on this port of the loopback.
const NOBODY: &str = r#""tcpSocket":{"port":1}"#;

async fn somebody() -> (tokio::net::TcpListener, String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = format!(
        r#""tcpSocket":{{"port":{}}}"#,
        listener.local_addr().unwrap().port()
    );
    (listener, socket)
}

fn world(container_json: &str) -> World {
    let (tell, told) = mpsc::channel(64);
    let tell = move |(_, reason, message): (Tone, &str, &str)| {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let _ = tell.try_send(Told { reason, message });
    };
    let target = ProbeTarget {
        container: container(container_json),
        container_id: "id".to_owned(),
        host: Host::Pod("127.0.0.1".to_owned()),
        running_for: Duration::ZERO,
        adopted: None,
        runtime: Arc::new(FakeRuntime::with_images(&[])),
        tell: Arc::new(tell),
    };
    World {
        tasks: JoinSet::new(),
        stop: Stop::default(),
        told,
        target,
    }
}

impl World {
    fn start(&mut self) -> watch::Receiver<ProbeResults> {
        start(&mut self.tasks, self.target.clone(), &self.stop)
    }
}

async fn eventually(
    results: &mut watch::Receiver<ProbeResults>,
    is: impl FnMut(&ProbeResults) -> bool,
) -> ProbeResults {
    timeout(Duration::from_mins(10), results.wait_for(is))
        .await
        .unwrap()
        .unwrap()
        .clone()
}

#[tokio::test]
async fn a_container_without_probes_is_started_and_ready_and_costs_no_task() {
    let mut world = world(r#"{"name":"c"}"#);
    let results = world.start();
    assert_eq!(
        *results.borrow(),
        ProbeResults {
            started: true,
            ready: true,
            kill: None
        }
    );
    assert!(world.tasks.is_empty());
}

#[tokio::test]
async fn readiness_starts_false_and_follows_its_probe() {
    let (listener, socket) = somebody().await;
    let mut world = world(&format!(
        r#"{{"name":"c","readinessProbe":{{{socket},"periodSeconds":1,"failureThreshold":1}}}}"#
    ));
    let mut results = world.start();
    assert_eq!(
        *results.borrow(),
        ProbeResults {
            started: true,
            ready: false,
            kill: None
        }
    );
    eventually(&mut results, |results| results.ready).await;
    drop(listener);
    eventually(&mut results, |results| !results.ready).await;
    let told = world.told.recv().await.unwrap();
    assert_eq!(told.reason, "Unhealthy");
    assert!(
        told.message
            .starts_with("Readiness probe failed: dial tcp 127.0.0.1:"),
        "{}",
        told.message
    );
}

#[tokio::test(start_paused = true)]
async fn a_liveness_probe_kills_once_after_its_threshold() {
    let json = format!(
        r#"{{"name":"c","livenessProbe":{{{NOBODY},"periodSeconds":10,"failureThreshold":3,"initialDelaySeconds":5,"terminationGracePeriodSeconds":7}}}}"#
    );
    let mut world = world(&json);
    let began = tokio::time::Instant::now();
    let mut results = world.start();
    let killed = eventually(&mut results, |results| results.kill.is_some())
        .await
        .kill
        .unwrap();
    assert_eq!(killed.message, "Container c failed liveness probe");
    assert_eq!(
        (killed.kind, killed.grace_seconds),
        (ProbeKind::Liveness, Some(7))
    );
    assert!(
        began.elapsed() >= Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    assert!(world.tasks.join_next().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn nothing_else_is_probed_before_startup_has_succeeded() {
    let json = format!(
        r#"{{"name":"c","startupProbe":{{{NOBODY},"periodSeconds":1,"failureThreshold":5}},"livenessProbe":{{{NOBODY},"failureThreshold":1}},"readinessProbe":{{{NOBODY}}}}}"#
    );
    let mut world = world(&json);
    let mut results = world.start();
    let failed = eventually(&mut results, |results| results.kill.is_some()).await;
    assert!(!failed.started && !failed.ready);
    assert_eq!(failed.kill.unwrap().kind, ProbeKind::Startup);
    while let Ok(told) = world.told.try_recv() {
        assert!(
            told.message.starts_with("Startup probe failed"),
            "{}",
            told.message
        );
    }
    // The waiting ones end too.
    while world.tasks.join_next().await.is_some() {}
}

#[tokio::test]
async fn a_container_that_has_started_is_ready_when_it_has_no_readiness_probe() {
    let (_listener, socket) = somebody().await;
    let mut world = world(&format!(r#"{{"name":"c","startupProbe":{{{socket}}}}}"#));
    let mut results = world.start();
    assert_eq!(
        *results.borrow(),
        ProbeResults {
            started: false,
            ready: false,
            kill: None
        }
    );
    let started = eventually(&mut results, |results| results.started).await;
    assert!(started.ready);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_container_stays_ready_until_its_probe_says_otherwise() {
    let json = format!(
        r#"{{"name":"c","startupProbe":{{{NOBODY}}},"readinessProbe":{{{NOBODY},"periodSeconds":10,"failureThreshold":3}}}}"#
    );
    let mut world = world(&json);
    world.target.adopted = Some((true, true));
    let mut results = world.start();
    assert_eq!(
        *results.borrow(),
        ProbeResults {
            started: true,
            ready: true,
            kill: None
        }
    );
    advance(Duration::from_secs(15)).await;
    assert!(results.borrow().ready);
    let later = eventually(&mut results, |results| !results.ready).await;
    assert!(later.started && later.kill.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_decides_nothing() {
    let exec =
        r#"{"name":"c","livenessProbe":{"exec":{"command":["x"]},"failureThreshold":1,"periodSeconds":1}}"#;
    let mut world = world(exec);
    let away = FakeRuntime::with_images(&[]);
    away.set_down(true);
    world.target.runtime = Arc::new(away);
    let results = world.start();
    let told = timeout(Duration::from_mins(1), world.told.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(
        told.message
            .starts_with("Liveness probe errored and resulted in unknown state: "),
        "{}",
        told.message
    );
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(results.borrow().kill, None);
}

#[tokio::test(start_paused = true)]
async fn a_port_that_the_container_does_not_have_is_told_and_decides_nothing() {
    let mut world =
        world(r#"{"name":"c","livenessProbe":{"tcpSocket":{"port":"web"},"failureThreshold":1}}"#);
    let results = world.start();
    let told = world.told.recv().await.unwrap();
    assert_eq!(
        told.message,
        "Liveness probe errored and resulted in unknown state: port web not found"
    );
    assert_eq!(results.borrow().kill, None);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_multiplies_a_variable_is_told_and_not_made() {
    let value = "x".repeat(100 << 10);
    let json = serde_json::json!({
        "name": "c",
        "env": [{"name": "A", "value": value}],
        "livenessProbe": {"exec": {"command": ["$(A)".repeat(21)]}, "failureThreshold": 1},
    });
    let mut world = world(&json.to_string());
    let results = world.start();
    let told = world.told.recv().await.unwrap();
    assert_eq!(
        told.message,
        "Liveness probe errored and resulted in unknown state: $(A) in the probe's command makes environment, \
         command and arguments longer than 2 MiB together"
    );
    assert_eq!(results.borrow().kill, None);
}

#[tokio::test]
async fn stopping_ends_every_probe() {
    let mut world = world(&format!(
        r#"{{"name":"c","livenessProbe":{{{NOBODY}}},"readinessProbe":{{{NOBODY}}}}}"#
    ));
    world.start();
    assert_eq!(world.tasks.len(), 2);
    world.stop.all.cancel();
    while world.tasks.join_next().await.is_some() {}
}

/// An address of the documentation's: no device has it.
const GONE: [u8; 4] = [192, 0, 2, 7];

#[tokio::test(start_paused = true)]
async fn a_pod_on_the_host_network_is_not_killed_for_an_address_that_the_device_lost_or_never_had() {
    for address in [None, Some(GONE.into())] {
        let json =
            format!(r#"{{"name":"c","livenessProbe":{{{NOBODY},"periodSeconds":1,"failureThreshold":2}}}}"#);
        let mut world = world(&json);
        let host_ip = HostIp::default();
        host_ip.learn(address);
        world.target.host = Host::Device(host_ip);
        let mut results = world.start();
        let killed = results.wait_for(|results| results.kill.is_some());
        assert!(
            timeout(Duration::from_mins(2), killed).await.is_err(),
            "{address:?}"
        );
        let told = world.told.recv().await.unwrap();
        assert!(told.message.contains("unknown state"), "{}", told.message);
    }
}

#[tokio::test]
async fn a_pod_on_the_host_network_is_asked_at_the_loopback_until_the_device_has_an_address_again() {
    let (listener, socket) = somebody().await;
    let probe = format!(r#"{{{socket},"periodSeconds":1,"failureThreshold":1}}"#);
    let mut world = world(&format!(r#"{{"name":"c","readinessProbe":{probe}}}"#));
    let host_ip = HostIp::default();
    host_ip.learn(Some(GONE.into()));
    world.target.host = Host::Device(host_ip.clone());
    let mut results = world.start();
    eventually(&mut results, |results| results.ready).await;
    // The device has another address, where nobody listens: that is held against the pod.
    host_ip.learn(Some([127, 0, 0, 2].into()));
    eventually(&mut results, |results| !results.ready).await;
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_the_probe_names_itself_is_asked_as_ever() {
    let json =
        r#"{"name":"c","livenessProbe":{"tcpSocket":{"host":"127.0.0.1","port":1},"periodSeconds":1}}"#;
    let mut world = world(json);
    world.target.host = Host::Device(HostIp::default());
    let mut results = world.start();
    eventually(&mut results, |results| results.kill.is_some()).await;
}
