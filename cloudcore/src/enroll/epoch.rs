//! The cluster's epoch: a number on the CA's Secret that goes up after etcd was restored from a backup.
//!
//! What edges saw since that backup would otherwise count as newer than what the cluster has now. A replica
//! speaks for the epoch that it read when it started, and ends when it sees a higher one.
//!
//! **Invariant:** nothing here lowers it: edges refuse a replica whose epoch is lower than one that they saw.

use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    authority::{Authority, AuthorityError},
    records::{CA_SECRET, EPOCH, epoch_of},
    secrets::{Race, Stored},
};

/// Races lost before an operator is told to try again.
const TRIES: usize = 5;

/// What an epoch was, and what it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Before.
    pub from: u64,
    /// Now; the same where it was high enough already.
    pub to: u64,
}

/// What the epoch becomes: the number that is wanted, or else the time, which is higher than any that was set
/// by it before and is not in the backup. Pure.
fn raise(held: u64, wanted: Option<u64>, now: SystemTime) -> Result<Raised, AuthorityError> {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let to = wanted.unwrap_or_else(|| seconds.max(held.saturating_add(1)));
    if to < held {
        return Err(AuthorityError::EpochFalls { held, wanted: to });
    }
    Ok(Raised { from: held, to })
}

impl Authority {
    /// The epoch as the cluster has it now; [`Authority::epoch`] is what this replica speaks for.
    pub async fn read_epoch(&self) -> Result<u64, AuthorityError> {
        Ok(epoch_of(&self.read_ca().await?))
    }

    /// Raises the epoch: to `wanted`, or where nothing is wanted to a number that was never used. Replicas
    /// that run see it, and end.
    pub async fn raise_epoch(&self, wanted: Option<u64>) -> Result<Raised, AuthorityError> {
        for _ in 0..TRIES {
            let read = self.read_ca().await?;
            let raised = raise(epoch_of(&read), wanted, self.settings.clock.now())?;
            if raised.from == raised.to {
                return Ok(raised);
            }
            let written = self.secrets.annotate(&read, EPOCH, &raised.to.to_string()).await;
            let what = format!("annotate Secret {CA_SECRET}");
            if written.map_err(AuthorityError::api(what))? == Race::Won {
                return Ok(raised);
            }
        }
        let secret = CA_SECRET.to_owned();
        Err(AuthorityError::Contended { secret })
    }

    /// Waits until the cluster's epoch is higher than the one that this replica speaks for, and says it.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub async fn outdated(&self) -> u64 {
        self.known.epoch_above(self.epoch()).await
    }

    async fn read_ca(&self) -> Result<Stored, AuthorityError> {
        let read = self.secrets.read(CA_SECRET).await;
        let read = read.map_err(AuthorityError::api(format!("read Secret {CA_SECRET}")))?;
        let gone = || AuthorityError::Unsound("the Secret tombolo-ca was removed meanwhile; try again");
        read.ok_or_else(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::records::FIRST_EPOCH;
    use super::*;

    const NOW: u64 = 1_790_000_000;

    fn raised(held: u64, wanted: Option<u64>) -> Result<u64, String> {
        let now = UNIX_EPOCH + Duration::from_secs(NOW);
        raise(held, wanted, now)
            .map(|raised| raised.to)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_epoch_is_the_time_and_higher_than_what_was_there() {
        assert_eq!(raised(FIRST_EPOCH, None), Ok(NOW));
        assert_eq!(raised(NOW, None), Ok(NOW + 1), "twice in a second");
        assert_eq!(raised(NOW * 2, None), Ok(NOW * 2 + 1), "somebody set it by hand");
    }

    #[test]
    fn an_epoch_that_is_asked_for_is_never_a_lower_one() {
        assert_eq!(raised(5, Some(7)), Ok(7));
        assert_eq!(raised(7, Some(7)), Ok(7), "asking twice is asking once");
        let refused = raised(7, Some(6)).unwrap_err();
        assert!(
            refused.contains("is 7 already") && refused.contains("goes down"),
            "{refused}"
        );
    }
}
