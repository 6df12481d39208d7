//! Which of several ways answers first.
//!
//! Pure but for the timer: the ways are futures, and the losers are dropped.

use std::net::SocketAddr;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{StreamExt, future::BoxFuture};
use tokio::time::{Instant, sleep_until};

/// A name with more addresses than this is a mistake.
const ADDRESSES: usize = 8;

/// Begins one way after the other, the next `pause` after the last or as soon as one fails; the
/// first success wins. A failure for which `is_final` holds ends the race. All failures otherwise,
/// in the order in which they came.
pub(super) async fn staggered<T, E>(
    ways: Vec<BoxFuture<'_, Result<T, E>>>,
    pause: Duration,
    is_final: impl Fn(&E) -> bool,
) -> Result<T, Vec<E>> {
    let (mut running, mut failed) = (FuturesUnordered::new(), Vec::new());
    let mut waiting = ways.into_iter();
    let mut next = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some(ended) = running.next(), if !running.is_empty() => match ended {
                Ok(won) => return Ok(won),
                Err(error) => {
                    let over = is_final(&error);
                    failed.push(error);
                    if over || (running.is_empty() && waiting.len() == 0) {
                        return Err(failed);
                    }
                    next = Instant::now();
                }
            },
            () = sleep_until(next), if waiting.len() > 0 => {
                running.extend(waiting.next());
                next = Instant::now() + pause;
            }
            else => return Err(failed),
        }
    }
}

/// The addresses of a name, the families in turn: where one of them leads nowhere, the other is
/// tried next.
pub(super) fn interleaved(found: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (mut first, mut other): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    for address in found {
        let like_first = first
            .first()
            .is_none_or(|known: &SocketAddr| known.is_ipv4() == address.is_ipv4());
        if like_first { &mut first } else { &mut other }.push(address);
    }
    let mut other = other.into_iter();
    let mut mixed = Vec::new();
    for address in first {
        mixed.push(address);
        mixed.extend(other.next());
    }
    mixed.extend(other);
    mixed.truncate(ADDRESSES);
    mixed
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(2);

    fn after(seconds: u64, result: Result<u8, u8>) -> BoxFuture<'static, Result<u8, u8>> {
        Box::pin(async move {
            sleep(Duration::from_secs(seconds)).await;
            result
        })
    }

    /// Who won, and after how many seconds.
    async fn won(ways: Vec<BoxFuture<'static, Result<u8, u8>>>) -> (Result<u8, Vec<u8>>, u64) {
        let began = Instant::now();
        let won = staggered(ways, PAUSE, |error| *error == 99).await;
        (won, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_way_begins_only_when_the_first_is_late() {
        assert_eq!(won(vec![after(1, Ok(1)), after(0, Ok(2))]).await, (Ok(1), 1));
        assert_eq!(won(vec![Box::pin(pending()), after(1, Ok(2))]).await, (Ok(2), 3));
        assert_eq!(won(vec![after(3, Ok(1)), after(5, Ok(2))]).await, (Ok(1), 3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_way_that_fails_lets_the_next_begin_at_once() {
        assert_eq!(won(vec![after(0, Err(1)), after(1, Ok(2))]).await, (Ok(2), 1));
        assert_eq!(
            won(vec![after(1, Err(1)), after(1, Err(2))]).await,
            (Err(vec![1, 2]), 2)
        );
        assert_eq!(won(vec![]).await, (Err(vec![]), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_ends_the_race() {
        assert_eq!(
            won(vec![after(1, Err(99)), after(1, Ok(2))]).await,
            (Err(vec![99]), 1)
        );
    }

    #[test]
    fn the_families_of_addresses_take_turns() {
        let all = ["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"];
        let mixed = interleaved(all.iter().map(|text| text.parse().unwrap()));
        let mixed: Vec<_> = mixed.iter().map(ToString::to_string).collect();
        assert_eq!(mixed, ["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]);
    }
}
