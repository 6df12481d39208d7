//! Who owns the tasks of edgecore, and what the end of each means.
//!
//! A closed list of tasks, a set that runs them, and a shutdown ladder: stop, grace period,
//! abort. Nothing is restarted here: a node that cannot go on ends, and its service manager
//! starts it again; its containers outlive it and are adopted.
//!
//! **Invariant:** nothing that was spawned here outlives [`Supervisor::run`].

use std::fmt;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

/// Any error, when the caller can only show it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The tasks of edgecore. One that is not listed does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The pods.
    Pods,
    /// The link to cloudcore.
    Uplink,
    /// Looks at the device and reports the node.
    Node,
    /// Lets pods reach the API server.
    PodApi,
    /// The twins of devices, and who speaks with them.
    Devices,
    /// Answers `edgecore status`.
    Control,
    /// Watches the stores' writers.
    Store,
}

impl fmt::Display for Task {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Pods => "pods",
            Self::Uplink => "uplink",
            Self::Node => "node",
            Self::PodApi => "pod-api",
            Self::Devices => "devices",
            Self::Control => "control",
            Self::Store => "store",
        })
    }
}

/// What the end of a task means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// The node cannot go on.
    StopNode,
    /// The rest goes on.
    CarryOn,
}

impl Task {
    /// What becomes of the node when this task ends.
    pub const fn on_exit(self) -> OnExit {
        match self {
            Self::Pods | Self::Uplink | Self::Node | Self::Devices | Self::Store => OnExit::StopNode,
            Self::PodApi | Self::Control => OnExit::CarryOn,
        }
    }
}

/// Why the node stopped.
#[derive(Debug)]
pub enum Cause {
    /// It was told to.
    Signal,
    /// A task that it cannot do without ended.
    Lost(Task, Result<(), BoxError>),
    /// A task panicked.
    Panicked(JoinError),
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
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<(Task, Result<(), BoxError>)>,
    stop: CancellationToken,
    grace: Duration,
}

impl Supervisor {
    /// A supervisor that gives tasks so long to end.
    pub fn new(grace: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            stop: CancellationToken::new(),
            grace,
        }
    }

    /// Starts a task; it is told to stop through the token.
    ///
    /// Never inlined: a caller that starts all tasks would hold each of them on its stack for as long as they run.
    #[inline(never)]
    pub fn spawn<F>(&mut self, task: Task, run: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let body = run(self.stop.child_token());
        let named = async move { (task, body.await) };
        self.tasks.spawn(named.instrument(info_span!("task", %task)));
    }

    /// Runs until `signal` fires or a vital task ends; then stops the rest.
    ///
    /// Tasks get the grace period to finish. Dropping the set aborts what remains, so nothing
    /// outlives this call.
    pub async fn run(mut self, signal: impl Future<Output = ()>) -> Outcome {
        let cause = tokio::select! {
            () = signal => Cause::Signal,
            cause = self.first_fatal_exit() => cause,
        };
        info!(?cause, "stopping; the containers go on");
        self.stop.cancel();
        let drained = timeout(self.grace, async {
            while self.tasks.join_next().await.is_some() {}
        });
        let clean = drained.await.is_ok();
        Outcome { cause, clean }
    }

    async fn first_fatal_exit(&mut self) -> Cause {
        loop {
            match self.tasks.join_next().await {
                None => std::future::pending().await,
                Some(Err(panic)) => return Cause::Panicked(panic),
                Some(Ok((task, result))) if task.on_exit() == OnExit::StopNode => {
                    return Cause::Lost(task, result);
                }
                Some(Ok((task, result))) => warn!(%task, ?result, "a task ended; the node goes on"),
            }
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
        let mut node = Supervisor::new(Duration::from_secs(5));
        node.spawn(Task::Uplink, |stop| async move {
            stop.cancelled().await;
            Ok(())
        });
        node.spawn(Task::Pods, |_| pending());
        let started = Instant::now();
        let outcome = node.run(async {}).await;
        assert!(matches!(outcome.cause, Cause::Signal) && !outcome.clean);
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_vital_task_stops_the_node_and_another_does_not() {
        let mut node = Supervisor::new(Duration::from_secs(5));
        node.spawn(Task::Control, |_| async { Err("gone".into()) });
        node.spawn(Task::Store, |_| async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            Err("the disk is gone".into())
        });
        let outcome = node.run(pending()).await;
        assert!(matches!(outcome.cause, Cause::Lost(Task::Store, Err(_))) && outcome.clean);
    }
}
