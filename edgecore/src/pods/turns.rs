//! A turn at what only a few may do at a time: given back by whoever waits long.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// Waits for `work` to its end, with the turn for at most `patience`.
pub(super) async fn keeping<P, T>(
    turn: &mut Option<P>,
    patience: Duration,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    if let Ok(done) = timeout(patience, &mut work).await {
        return done;
    }
    *turn = None;
    work.await
}
