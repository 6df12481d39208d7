//! A broker of before MQTT 5, for the bridge's tests and the drivers': mosquitto with something in front
//! of it that refuses the newer version.

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

/// A port where this broker speaks 3.1.1 alone: what asks for more is told so and shut out.
pub(crate) async fn only_3_1_1(broker: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut connections = tokio::task::JoinSet::new();
    let accept = async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                // Fixed header (a short packet), length and name of the protocol, level.
                let mut head = [0; 9];
                let mut read = 0;
                while read < head.len() {
                    read += client.peek(&mut head).await.unwrap();
                }
                if head[8] == 5 {
                    let _ = client.write_all(&[0x20, 2, 0, 1]).await;
                    return;
                }
                let mut upstream = TcpStream::connect(("127.0.0.1", broker)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            });
        }
    };
    // Ends with the test's runtime.
    let mut owner = tokio::task::JoinSet::new();
    owner.spawn(accept);
    owner.detach_all();
    port
}
