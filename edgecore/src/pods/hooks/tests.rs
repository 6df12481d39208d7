//! Hooks, against servers and commands of the test's own.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::spec::testing::{container, pod};
use super::*;
use crate::runtime::fake::FakeRuntime;

async fn run_hook(runtime: &FakeRuntime, hook: &Value, ips: &[&str]) -> Result<Hooked, HookFailed> {
    let (pod, container) = (
        pod("{}"),
        container(r#"{"name":"c","ports":[{"name":"web","containerPort":1}]}"#),
    );
    let pod_ips: Vec<String> = ips.iter().map(ToString::to_string).collect();
    let target = HookTarget {
        pod: &pod,
        container: &container,
        id: "id",
        pod_ips: &pod_ips,
        runtime,
    };
    run(&serde_json::from_value(hook.clone()).unwrap(), target).await
}

/// A server that answers once for each of `times`, without TLS; it tells what it was asked.
async fn server(status: &'static str, times: usize) -> (u16, JoinSet<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut served = JoinSet::new();
    served.spawn(async move {
        let mut asked = Vec::new();
        for _ in 0..times {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = vec![0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            asked.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    });
    (port, served)
}

#[tokio::test]
async fn a_command_that_fails_is_told_with_its_exit_code() {
    let runtime = FakeRuntime::with_images(&[]);
    let hook = json!({"exec": {"command": ["warm-up", "$(HOME)"]}});
    assert_eq!(run_hook(&runtime, &hook, &[]).await, Ok(Hooked::Plainly));
    runtime.commands("warm-up", 3, Duration::ZERO);
    let failed = run_hook(&runtime, &hook, &[]).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "Exec lifecycle hook ([warm-up $(HOME)]) for Container \"c\" in Pod \"web-0_ns(u-1)\" failed - error: \
         command 'warm-up $(HOME)' exited with 3: , message: \"\""
    );
}

#[tokio::test]
async fn any_answer_over_http_is_a_success_and_none_is_a_failure() {
    let runtime = FakeRuntime::with_images(&[]);
    let (port, mut served) = server("500 Internal Server Error", 1).await;
    let hook = json!({"httpGet": {"path": "/stop?now", "port": port}});
    assert_eq!(
        run_hook(&runtime, &hook, &["127.0.0.1"]).await,
        Ok(Hooked::Plainly)
    );
    let asked = served
        .join_next()
        .await
        .unwrap()
        .unwrap()
        .remove(0)
        .to_lowercase();
    assert!(asked.starts_with("get /stop?now "), "{asked}");
    assert!(asked.contains("user-agent: kube-lifecycle/1.36"), "{asked}");

    let nobody = json!({"httpGet": {"path": "/x", "port": "web"}});
    let failed = run_hook(&runtime, &nobody, &["127.0.0.1"]).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "HTTP lifecycle hook (/x) for Container \"c\" in Pod \"web-0_ns(u-1)\" failed - error: \
         Get \"http://127.0.0.1:1/x\": dial tcp 127.0.0.1:1: connect: connection refused"
    );
    let nowhere = run_hook(&runtime, &nobody, &[]).await.unwrap_err();
    assert!(
        nowhere
            .to_string()
            .ends_with("failed to find networking container"),
        "{nowhere}"
    );
}

#[tokio::test]
async fn a_server_without_tls_is_asked_again_and_not_shown_the_credentials() {
    let runtime = FakeRuntime::with_images(&[]);
    let (port, mut served) = server("200 OK", 2).await;
    let headers = json!([{"name": "Authorization", "value": "Bearer x"}, {"name": "X-Y", "value": "z"}]);
    let hook = json!({"httpGet": {"path": "/", "port": port, "scheme": "HTTPS", "httpHeaders": headers}});
    let hooked = run_hook(&runtime, &hook, &["127.0.0.1"]).await;
    assert_eq!(hooked, Ok(Hooked::WithoutTls(format!("127.0.0.1:{port}"))));
    let plain = served
        .join_next()
        .await
        .unwrap()
        .unwrap()
        .remove(1)
        .to_lowercase();
    assert!(
        plain.contains("x-y: z") && !plain.contains("authorization"),
        "{plain}"
    );
}

#[tokio::test(start_paused = true)]
async fn sleep_sleeps_and_a_socket_always_fails() {
    let runtime = FakeRuntime::with_images(&[]);
    let began = Instant::now();
    let sleep = json!({"sleep": {"seconds": 7}});
    assert_eq!(run_hook(&runtime, &sleep, &[]).await, Ok(Hooked::Plainly));
    assert_eq!(began.elapsed(), Duration::from_secs(7));
    let socket = json!({"tcpSocket": {"port": 80}});
    assert!(run_hook(&runtime, &socket, &["127.0.0.1"]).await.is_err());
}
