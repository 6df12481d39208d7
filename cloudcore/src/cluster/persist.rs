//! Trying until it works.

use std::time::Duration;

use tokio::time::sleep;

use super::watch::full_jitter;

/// The most that is waited after a first failure.
const FIRST: Duration = Duration::from_secs(2);
/// The most that is ever waited.
const MOST: Duration = Duration::from_secs(15);

/// Makes attempts until one succeeds, later and later and each at a time of its own: what one session cannot have
/// of the API server, all the others want at the same moment.
pub(crate) async fn persist<T, E, F>(mut attempt: impl FnMut() -> F, failed: impl Fn(&E)) -> T
where
    F: Future<Output = Result<T, E>>,
{
    let mut pause = FIRST;
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => failed(&error),
        }
        sleep(full_jitter(pause)).await;
        pause = (pause * 2).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;

    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_long_is_tried_later_and_later_and_soon_enough_when_it_works() {
        let (attempts, start) = (Cell::new(0), Instant::now());
        let works_at = start + Duration::from_mins(5);
        let attempt = || {
            attempts.set(attempts.get() + 1);
            ready(if Instant::now() < works_at {
                Err(())
            } else {
                Ok(())
            })
        };
        timeout(Duration::from_mins(6), persist(attempt, |()| {}))
            .await
            .unwrap();
        assert!(Instant::now() <= works_at + MOST);
        assert!((20..120).contains(&attempts.get()), "{}", attempts.get());
    }
}
