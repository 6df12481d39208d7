//! The listener on a loopback port, with an in-memory tunnel behind it.

use super::*;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A dialer whose far ends come out of a channel; without one it is offline.
fn dialer(far: Option<mpsc::Sender<DuplexStream>>) -> Dial {
    Arc::new(move || {
        let far = far.clone();
        Box::pin(async move {
            let far = far.ok_or(DialError::Offline)?;
            let (near, end) = duplex(1024);
            far.send(end)
                .await
                .map_err(|error| DialError::Refused(error.into()))?;
            let (recv, send) = tokio::io::split(near);
            Ok(Stream {
                recv: Box::new(recv),
                send: Box::new(send),
            })
        })
    })
}

async fn served(dial: Dial) -> (SocketAddr, CancellationToken, JoinSet<()>) {
    served_by(Arc::new(ahead(dial))).await
}

fn ahead(dial: Dial) -> Ahead {
    let refusals = Refusals::new(Arc::new(|_| None));
    let range: Range = Arc::new(|| None);
    Ahead {
        dial,
        refusals,
        range,
    }
}

async fn served_by(ahead: Arc<Ahead>) -> (SocketAddr, CancellationToken, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let ends = stop.clone();
    tasks.spawn(async move {
        let (doors, mut traffic) = (doors::plain(listener), Traffic::new(&ahead));
        tokio::select! {
            () = traffic.carry(&doors) => {}
            () = ends.cancelled() => {}
        }
    });
    (address, stop, tasks)
}

#[tokio::test]
async fn a_connection_that_cloudcore_refuses_is_told_of_and_one_without_a_link_is_not() {
    let refuses: Dial = Arc::new(|| Box::pin(async { Err(DialError::Refused("too often".into())) }));
    for (dial, told) in [(refuses, true), (dialer(None), false)] {
        let ahead = Arc::new(ahead(dial));
        let (address, _stop, _tasks) = served_by(Arc::clone(&ahead)).await;
        let mut pod = TcpStream::connect(address).await.unwrap();
        let from = pod.local_addr().unwrap();
        assert!(matches!(pod.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        let was_told = ahead.refusals.tell(from, Instant::now()).is_none();
        assert_eq!(was_told, told);
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_a_half_close_is_kept() {
    let (far, mut ends) = mpsc::channel(1);
    let (address, _stop, _tasks) = served(dialer(Some(far))).await;
    let mut pod = TcpStream::connect(address).await.unwrap();
    let mut end = ends.recv().await.unwrap();

    pod.write_all(b"client hello").await.unwrap();
    pod.shutdown().await.unwrap();
    let mut heard = Vec::new();
    end.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"client hello");

    end.write_all(b"server hello").await.unwrap();
    end.shutdown().await.unwrap();
    let mut answer = Vec::new();
    pod.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"server hello");
}

#[tokio::test]
async fn a_connection_made_while_offline_is_closed_at_once() {
    let (address, _stop, _tasks) = served(dialer(None)).await;
    let mut pod = TcpStream::connect(address).await.unwrap();
    let read = tokio::time::timeout(Duration::from_secs(5), pod.read(&mut [0; 8]))
        .await
        .unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test]
async fn what_is_over_an_addresss_share_is_closed_and_told_and_the_rest_lives() {
    const SHARE: usize = 128;
    let (far, mut ends) = mpsc::channel(MAX_CONNECTIONS);
    let ahead = Arc::new(ahead(dialer(Some(far))));
    let (address, _stop, _tasks) = served_by(Arc::clone(&ahead)).await;
    let (mut pods, mut tunnels) = (Vec::new(), Vec::new());
    for _ in 0..SHARE {
        pods.push(TcpStream::connect(address).await.unwrap());
        tunnels.push(ends.recv().await.unwrap());
    }
    let mut late = TcpStream::connect(address).await.unwrap();
    assert!(matches!(late.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    let from = late.local_addr().unwrap();
    assert_eq!(ahead.refusals.tell(from, Instant::now()), None, "it was told");
    tunnels[0].write_all(b"x").await.unwrap();
    let mut first = [0];
    pods[0].read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"x");
}

#[tokio::test]
async fn stopping_ends_every_connection() {
    let (far, mut ends) = mpsc::channel(1);
    let (address, stop, mut tasks) = served(dialer(Some(far))).await;
    let mut pod = TcpStream::connect(address).await.unwrap();
    let _end = ends.recv().await.unwrap();
    stop.cancel();
    tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(pod.read(&mut [0; 1]).await, Ok(0) | Err(_)));
}

#[test]
fn the_endpoint_is_the_services_own_address_and_port() {
    let service: Service = serde_json::from_value(json!({
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}
    }))
    .unwrap();
    assert_eq!(ApiEndpoint::of(&service).unwrap().to_string(), "10.96.0.1:443");
    let headless: Service = serde_json::from_value(json!({"spec": {"clusterIP": "None"}})).unwrap();
    assert_eq!(ApiEndpoint::of(&headless), None);
}
