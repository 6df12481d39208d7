//! A broker that delivers what it is told to, when it is told to: MQTT 5, one connection.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A topic and what is said on it.
pub(crate) type Said = (&'static str, &'static str);

/// A broker that has a session of whoever connects. Every message of it is one that was delivered before.
pub(crate) struct Pretender {
    pub(crate) port: u16,
    acknowledged: Arc<Mutex<Vec<u16>>>,
    _task: JoinSet<()>,
}

impl Pretender {
    /// One that delivers these messages before it answers the first subscription, and those after it.
    pub(crate) async fn start(before: &'static [Said], after: &'static [Said]) -> Self {
        Self::after(None, before, after).await
    }

    /// One that does so after it hung up on the first subscription of all, which it refused or did not answer.
    pub(crate) async fn hanging_up(refuses: bool, after: &'static [Said]) -> Self {
        Self::after(Some(refuses), &[], after).await
    }

    async fn after(hangs_up: Option<bool>, before: &'static [Said], after: &'static [Said]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (acknowledged, mut task) = (Arc::default(), JoinSet::new());
        let seen = Arc::clone(&acknowledged);
        task.spawn(async move {
            if let Some(refuses) = hangs_up {
                hang_up(listener.accept().await.unwrap().0, refuses).await;
            }
            let (stream, _) = listener.accept().await.unwrap();
            converse(stream, before, after, &seen).await;
        });
        Self {
            port,
            acknowledged,
            _task: task,
        }
    }

    /// Waits until these messages were acknowledged, counted from 1.
    pub(crate) async fn until_acknowledged(&self, numbers: &[u16]) {
        for _ in 0..1000 {
            if *self.acknowledged.lock() == numbers {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}, not {numbers:?}", self.acknowledged.lock());
    }
}

/// Lets a client in, and refuses its subscription or leaves it unanswered.
async fn hang_up(mut stream: TcpStream, refuses: bool) {
    while let Some((kind, body)) = packet(&mut stream).await {
        match kind {
            1 => stream.write_all(&[0x20, 3, 1, 0, 0]).await.unwrap(),
            8 if refuses => {
                let answer = answer(&body, 0x87);
                return stream.write_all(&answer).await.unwrap();
            }
            8 => return,
            _ => {}
        }
    }
}

async fn converse(mut stream: TcpStream, before: &[Said], after: &[Said], acknowledged: &Mutex<Vec<u16>>) {
    let mut numbers = 1..;
    let mut after = after.iter();
    while let Some((kind, body)) = packet(&mut stream).await {
        let mut out = Vec::new();
        match kind {
            // CONNECT: the session is there.
            1 => {
                out.extend([0x20, 3, 1, 0, 0]);
                for (said, number) in before.iter().zip(&mut numbers) {
                    out.extend(again(said, number));
                }
            }
            4 => acknowledged.lock().push(u16::from_be_bytes([body[0], body[1]])),
            // SUBSCRIBE: all of it is granted.
            8 => {
                out.extend(answer(&body, 1));
                for (said, number) in after.by_ref().zip(&mut numbers) {
                    out.extend(again(said, number));
                }
            }
            12 => out.extend([0xd0, 0]),
            _ => {}
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
    }
}

/// The kind of the next packet, and what is behind its length; none when there are no more.
async fn packet(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()? >> 4;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}

/// The SUBACK to a SUBSCRIBE: the same for each filter.
fn answer(body: &[u8], code: u8) -> Vec<u8> {
    let filters = filters(body);
    let length = u8::try_from(filters + 3).unwrap();
    let mut answer = vec![0x90, length, body[0], body[1], 0];
    answer.resize(answer.len() + filters, code);
    answer
}

/// How many filters a SUBSCRIBE has, behind its number and its properties, of which there are few.
fn filters(body: &[u8]) -> usize {
    let mut rest = &body[3 + usize::from(body[2])..];
    let mut count = 0;
    while let [high, low, topic @ ..] = rest {
        rest = &topic[usize::from(u16::from_be_bytes([*high, *low])) + 1..];
        count += 1;
    }
    count
}

/// A PUBLISH of `QoS` 1 that is delivered once more.
fn again((topic, payload): &Said, number: u16) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(number.to_be_bytes());
    body.push(0);
    body.extend(payload.as_bytes());
    let mut packet = vec![0x3a, u8::try_from(body.len()).unwrap()];
    assert!(packet[1] < 0x80, "its length takes one byte");
    packet.extend(body);
    packet
}
