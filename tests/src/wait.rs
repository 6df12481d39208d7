//! Waiting for a condition with a deadline, and telling what was seen when it passes.
//!
//! Nothing in the testbed sleeps and hopes.

use std::{future::Future, time::Duration};

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep, timeout_at};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// What one look at a condition showed.
#[derive(Debug)]
pub enum Look<T> {
    /// The condition holds.
    Done(T),
    /// It does not hold yet; this is what is there instead.
    NotYet(String),
    /// It never will, and this is why.
    Hopeless(anyhow::Error),
}

impl<T> Look<T> {
    /// `Done` when there is a value, else what was seen.
    pub fn from_option(value: Option<T>, seen: impl FnOnce() -> String) -> Self {
        value.map_or_else(|| Self::NotYet(seen()), Self::Done)
    }
}

impl Look<()> {
    /// `Done` when the condition holds, else what was seen.
    pub fn when(holds: bool, seen: impl FnOnce() -> String) -> Self {
        Self::from_option(holds.then_some(()), seen)
    }
}

/// Looks until the condition holds or `limit` has passed.
///
/// An error of a look counts as "not yet": a server that is being restarted refuses connections.
pub async fn until<T, F, Fut>(what: &str, limit: Duration, mut look: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<T>>>,
{
    let deadline = Instant::now() + limit;
    let mut seen = String::from("nothing");
    while let Ok(outcome) = timeout_at(deadline, look()).await {
        match outcome {
            Ok(Look::Done(value)) => return Ok(value),
            Ok(Look::NotYet(now)) => seen = now,
            Ok(Look::Hopeless(error)) => return Err(error.context(format!("waiting for: {what}"))),
            Err(error) => seen = format!("{error:#}"),
        }
        if Instant::now() + PERIOD >= deadline {
            break;
        }
        sleep(PERIOD).await;
    }
    bail!("waited {limit:?} in vain for: {what}\n  last seen: {seen}")
}

/// Holds when the condition stays true for the whole of `span`; the first contradiction ends it.
pub async fn throughout<F, Fut>(what: &str, span: Duration, mut look: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Look<()>>>,
{
    let end = Instant::now() + span;
    while Instant::now() < end {
        if let Look::NotYet(seen) = look().await? {
            bail!("expected for {span:?}: {what}\n  but saw: {seen}");
        }
        sleep(PERIOD.min(end - Instant::now())).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_passes_tells_what_was_last_seen() {
        let waited = until::<(), _, _>("the tide", Duration::from_secs(3), || async {
            Ok(Look::NotYet(String::from("low water")))
        });
        let error = waited.await.unwrap_err().to_string();
        assert!(
            error.contains("the tide") && error.contains("low water"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_looked_at_again_until_the_condition_holds() {
        let mut looks = 0;
        let value = until("an answer", Duration::from_secs(3), || {
            looks += 1;
            let look = looks;
            async move {
                ensure!(look >= 3, "refused");
                Ok(Look::Done(look))
            }
        });
        assert_eq!(value.await.unwrap(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_hangs_does_not_outlive_the_deadline() {
        let started = Instant::now();
        let waited = until::<(), _, _>("silence", Duration::from_secs(2), std::future::pending);
        assert!(waited.await.is_err());
        assert_eq!(started.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_condition_that_breaks_is_reported_at_once() {
        let broken = throughout("calm", Duration::from_secs(9), || async {
            Ok(Look::NotYet(String::from("a storm")))
        });
        assert!(broken.await.unwrap_err().to_string().contains("a storm"));
    }
}
