//! Who owns the tasks of cloudcore, and what the end of each means.
//!
//! What it is: a closed list of tasks, a set that runs them, and a shutdown ladder: stop, grace
//! period, abort. What it is not: a restarter; a replica that cannot go on is restarted by its pod.
//!
//! **Invariant:** nothing that was spawned here outlives [`Supervisor::run`].

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

/// Any error, when the caller can only show it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The tasks of cloudcore. One that is not listed does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Watches of the API server, and the Nodes that were deleted while enrolled.
    Cluster,
    /// The statuses of devices, and what is wrong with them.
    Devices,
    /// Keeps the pods of cut nodes from being evicted.
    Autonomy,
    /// Join tokens, key hashes and bans.
    Enrolment,
    /// The listener and the sessions of edges.
    Hub,
    /// Health and metrics.
    Observe,
}

impl fmt::Display for Task {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Cluster => "cluster",
            Self::Devices => "devices",
            Self::Autonomy => "autonomy",
            Self::Enrolment => "enrolment",
            Self::Hub => "hub",
            Self::Observe => "observe",
        })
    }
}

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The replica cannot go on.
    StopReplica,
    /// The rest goes on.
    CarryOn,
}

impl Task {
    /// What becomes of the replica when this task ends.
    pub const fn on_exit(self) -> OnExit {
        match self {
            Self::Cluster | Self::Devices | Self::Autonomy | Self::Enrolment | Self::Hub => {
                OnExit::StopReplica
            }
            Self::Observe => OnExit::CarryOn,
        }
    }
}

/// Why the replica stopped.
#[derive(Debug)]
pub enum Cause {
    /// It was told to.
    Signal,
    /// A task that it cannot do without ended.
    Lost {
        /// The task.
        task: Task,
        /// Its error, if it had one.
        error: Option<BoxError>,
    },
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// What began it.
    pub cause: Cause,
    /// Whether every task ended within the grace period.
    pub clean: bool,
}

/// Owns every task of the program.
pub struct Supervisor {
    tasks: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, Task>,
    stop: CancellationToken,
    grace: Duration,
}

impl Supervisor {
    /// A supervisor that gives tasks so long to end.
    pub fn new(grace: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            names: HashMap::new(),
            stop: CancellationToken::new(),
            grace,
        }
    }

    /// Starts a task; it is told to stop through the token.
    pub fn spawn<F>(&mut self, task: Task, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let body = run(self.stop.child_token());
        let handle = self.tasks.spawn(body.instrument(info_span!("task", %task)));
        self.names.insert(handle.id(), task);
    }

    /// Runs until `signal` fires or a vital task ends; then stops the rest.
    ///
    /// Tasks get the grace period to finish, which `hurry` cuts short. Dropping the set aborts what
    /// remains, so nothing outlives this call.
    pub async fn run(mut self, signal: impl Future<Output = ()>, hurry: impl Future<Output = ()>) -> Outcome {
        let cause = tokio::select! {
            () = signal => Cause::Signal,
            cause = self.first_fatal_exit() => cause,
        };
        info!(?cause, "stopping");
        self.stop.cancel();
        let drained = timeout(self.grace, async {
            while self.tasks.join_next().await.is_some() {}
        });
        let clean = tokio::select! {
            drained = drained => drained.is_ok(),
            () = hurry => false,
        };
        Outcome { cause, clean }
    }

    async fn first_fatal_exit(&mut self) -> Cause {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await {
                Some(Ok((id, result))) => (id, result),
                Some(Err(error)) => (error.id(), Err(panicked(error))),
                None => std::future::pending().await,
            };
            let cause = self.names.remove(&id).and_then(|task| judge(task, result));
            if let Some(cause) = cause {
                return cause;
            }
        }
    }
}

/// A panic is a bug in one task: it ends that task, and the task's fate decides the rest.
fn panicked(error: JoinError) -> BoxError {
    Box::new(error)
}

fn judge(task: Task, result: Result<(), BoxError>) -> Option<Cause> {
    let error = result.err();
    match task.on_exit() {
        OnExit::StopReplica => Some(Cause::Lost { task, error }),
        OnExit::CarryOn => {
            let error = error.as_ref().map(|error| &**error as &dyn std::error::Error);
            warn!(%task, error, "ended");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stuck_task_costs_the_grace_period_and_no_more() {
        let mut replica = Supervisor::new(Duration::from_secs(5));
        replica.spawn(Task::Cluster, |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        replica.spawn(Task::Hub, |_| pending());
        let started = Instant::now();
        let outcome = replica.run(async {}, pending()).await;
        assert!(matches!(outcome.cause, Cause::Signal) && !outcome.clean);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_skips_the_grace_period() {
        let mut replica = Supervisor::new(Duration::from_secs(5));
        replica.spawn(Task::Hub, |_| pending());
        let started = Instant::now();
        let outcome = replica
            .run(async {}, tokio::time::sleep(Duration::from_secs(1)))
            .await;
        assert!(!outcome.clean);
        assert_eq!(started.elapsed(), Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_task_stops_the_replica_and_another_does_not() {
        let mut replica = Supervisor::new(Duration::from_secs(5));
        replica.spawn(Task::Observe, |_| async { Err("port in use".into()) });
        replica.spawn(Task::Autonomy, |_| async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            Err("gone".into())
        });
        let started = Instant::now();
        let outcome = replica.run(pending(), pending()).await;
        assert!(
            matches!(
                outcome.cause,
                Cause::Lost {
                    task: Task::Autonomy,
                    ..
                }
            ) && outcome.clean
        );
        assert_eq!(started.elapsed(), Duration::from_mins(1));
    }
}
