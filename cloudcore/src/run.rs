//! One replica, put together: the one place that knows every part.
//!
//! Everything that can fail for want of something (a right, a port, a damaged CA) fails before
//! anything is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use protocol::clock::Clock;
use protocol::name::NodeName;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::autonomy::Autonomy;
use crate::cluster::{BoxError, Cluster, Enrolment, Settings, cluster_id, examine};
use crate::config::Config;
use crate::enroll::{self, Authority};
use crate::observe::{Observe, Readiness};
use crate::supervise::{Cause, Supervisor, Task};

impl Enrolment for Authority {
    fn is_enrolled(&self, node: &NodeName) -> bool {
        Self::is_enrolled(self, node)
    }

    fn confirm<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
        Box::pin(async move { Ok(Self::confirm(self, node).await?) })
    }
}

/// Whether this replica can serve edges.
struct Ready {
    cluster: Cluster,
    synced: Arc<AtomicBool>,
}

impl Readiness for Ready {
    fn obstacle(&self) -> Option<&'static str> {
        if !self.synced.load(Ordering::Relaxed) {
            return Some("the first lists from the API server are not complete yet");
        }
        (!self.cluster.health().is_reachable()).then_some("the API server does not answer")
    }
}

/// Runs a replica until it is told to stop.
pub async fn run(config: Config, client: kube::Client, clock: Clock) -> anyhow::Result<()> {
    let api = examine(client.clone()).await?;
    let cluster_id = cluster_id(&api).await?;
    info!(cluster_id, impersonation = ?api.impersonation(), "the API server answers");
    let authority = Authority::open(enroll::Settings {
        client,
        namespace: config.namespace.clone(),
        cluster_id,
        clock: clock.clone(),
    })
    .await
    .context("the certificate authority cannot be opened")?;
    let autonomy = Autonomy::new(config.default_toleration_seconds);
    let cluster = Cluster::new(Settings {
        api,
        clock,
        enrolment: authority.clone(),
        bindings: autonomy.clone(),
        advertise: config.advertise,
    });
    let mut registry = Registry::with_prefix("cloudcore");
    cluster.register_metrics(&mut registry);
    let synced = Arc::new(AtomicBool::new(false));
    let ready = Arc::new(Ready {
        cluster: cluster.clone(),
        synced: synced.clone(),
    });
    let observe = Observe::bind(config.observe, registry, ready).await?;

    let mut supervisor = Supervisor::new(config.grace);
    supervisor.spawn(Task::Observe, |stop| async move {
        observe.serve(stop).await;
        Ok(())
    });
    supervise(
        &mut supervisor,
        Task::Enrolment,
        authority.clone(),
        |authority| async move { authority.run().await },
    );
    supervise(
        &mut supervisor,
        Task::Cluster,
        cluster.clone(),
        |cluster| async move { cluster.run().await },
    );
    let api = cluster.api().clone();
    supervise(&mut supervisor, Task::Autonomy, autonomy, |autonomy| async move {
        autonomy.run(&api).await;
    });
    authority.synced().await;
    cluster.synced().await;
    synced.store(true, Ordering::Relaxed);
    info!("ready");
    finish(supervisor).await
}

/// Runs a part that never ends by itself, until told to stop.
fn supervise<P, F>(supervisor: &mut Supervisor, task: Task, part: P, run: impl FnOnce(P) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let body = run(part);
    supervisor.spawn(task, |stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = body => {}
        }
        Ok(())
    });
}

async fn finish(supervisor: Supervisor) -> anyhow::Result<()> {
    let outcome = supervisor.run(told_to_stop).await;
    match outcome.cause {
        Cause::Signal => Ok(()),
        Cause::Lost {
            task,
            error: Some(error),
        } => Err(anyhow::anyhow!(error)).context(format!("{task} failed")),
        Cause::Lost { task, error: None } => bail!("{task} ended by itself"),
    }
}

/// Ends with SIGTERM or SIGINT.
async fn told_to_stop() {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without signals only the parts' own ends count.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}
