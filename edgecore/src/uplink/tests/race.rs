//! Which way wins a dial, by what is known of the ways.

use protocol::transport::{Connection, TransportError};

use super::super::dial::raced;
use super::super::{DialError, Dialling, Ways};
use super::*;

/// A way that takes so long, and leads there or does not.
fn way(transport: Transport, takes: Duration, leads: bool) -> Dialling<'static> {
    Box::pin(async move {
        sleep(takes).await;
        if leads {
            let (here, _) = Memory::pair(transport);
            return Ok(Arc::new(here) as Arc<dyn Connection>);
        }
        Err(DialError::Transport {
            transport,
            remote: ([127, 0, 0, 1], 10_000).into(),
            source: TransportError::ClosedHere,
        })
    })
}

/// What wins against a QUIC handshake of a second, and after how many.
async fn against_quic(ways: &Ways, websocket: Dialling<'static>) -> (Transport, u64) {
    let quic = way(Transport::Quic, Duration::from_secs(1), true);
    let began = Instant::now();
    let won = raced(ways, quic, websocket).await.unwrap();
    (won.transport(), began.elapsed().as_secs())
}

fn struck() -> Ways {
    let ways = Ways::default();
    (0..2).for_each(|_| ways.fell_silent(Transport::Quic, Duration::from_secs(40)));
    ways
}

#[tokio::test(start_paused = true)]
async fn where_quic_is_struck_out_a_slow_websocket_wins_all_the_same() {
    let slow = || way(Transport::WebSocket, Duration::from_secs(8), true);
    assert_eq!(against_quic(&struck(), slow()).await, (Transport::WebSocket, 8));
    // One that only won last has the usual head start.
    let ways = Ways::default();
    ways.dialled(Some(Transport::WebSocket));
    assert_eq!(against_quic(&ways, slow()).await, (Transport::Quic, 3));
}

#[tokio::test(start_paused = true)]
async fn quic_that_is_struck_out_begins_when_the_websocket_fails_or_has_had_its_time() {
    let failed = way(Transport::WebSocket, Duration::ZERO, false);
    assert_eq!(against_quic(&struck(), failed).await, (Transport::Quic, 1));
    let swallowed = way(Transport::WebSocket, Duration::from_hours(1), true);
    assert_eq!(against_quic(&struck(), swallowed).await, (Transport::Quic, 21));
}
