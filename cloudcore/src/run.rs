//! One replica, put together: the one place that knows every part.
//!
//! What it is: two stages. The base (watches, enrolment, autonomy, health) is there before the
//! first edge may come and stays until the last one has been sent away; the hub stands on it.
//!
//! **Invariant:** everything that can fail for want of something (a right, a port, a readable CA)
//! fails before anything is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use futures::future::BoxFuture;
use prometheus_client::registry::Registry;
use protocol::clock::Clock;
use protocol::name::NodeName;
use protocol::tls::human;
use protocol::transport::ReceiveBudget;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::autonomy::Autonomy;
use crate::cluster::{self, BoxError, Cluster, Enrolment, Found, cluster_id, examine};
use crate::config::Config;
use crate::devices::Devices;
use crate::enroll::{self, Authority};
use crate::flows::Flows;
use crate::gauges::Gauges;
use crate::hub::{self, ClusterLeases, Hub};
use crate::observe::{Observe, Readiness};
use crate::supervise::{Cause, Outcome, Supervisor, Task};
use crate::tunnel::Tunnels;

/// How long the base may take to end, once no edge stands on it.
const BASE_GRACE: Duration = Duration::from_secs(2);
/// The command that raised the epoch may run in this replica's own container, and is to have its say.
const WORD_OUT: Duration = Duration::from_secs(3);
/// A CA that ends so soon is told of at each start: every device must join anew before.
const CA_SOON: Duration = Duration::from_hours(365 * 24);

impl Enrolment for Authority {
    fn is_enrolled(&self, node: &NodeName) -> bool {
        Self::is_enrolled(self, node)
    }

    fn confirm<'a>(&'a self, node: &'a NodeName) -> BoxFuture<'a, Result<bool, BoxError>> {
        Box::pin(async move { Ok(Self::confirm(self, node).await?) })
    }
}

/// Runs a replica until it is told to stop.
pub async fn run(config: Config, found: Found, clock: Clock) -> anyhow::Result<()> {
    let parts = Parts::build(&config, found, clock).await?;
    let authority = Arc::clone(&parts.authority);
    let (base, edge) = parts.start(&config);
    // The base outlives the hub, and the hub does not outlive the base.
    let (edge_over, base_over) = (CancellationToken::new(), CancellationToken::new());
    let stopped = async {
        tokio::select! {
            () = told_to_stop() => {}
            () = base_over.cancelled() => {}
            () = outdated(&authority) => {}
        }
    };
    let (edge, base) = tokio::join!(
        async {
            let _over = edge_over.clone().drop_guard();
            edge.run(stopped, told_to_stop()).await
        },
        async {
            let _over = base_over.clone().drop_guard();
            base.run(edge_over.cancelled(), std::future::pending()).await
        },
    );
    judge(base).and_then(|()| judge(edge))
}

/// Everything, bound to its ports, and not yet running.
struct Parts {
    authority: Arc<Authority>,
    autonomy: Arc<Autonomy>,
    cluster: Cluster,
    devices: Devices,
    hub: Hub,
    observe: Observe,
    synced: Arc<AtomicBool>,
}

impl Parts {
    async fn build(config: &Config, found: Found, clock: Clock) -> anyhow::Result<Self> {
        let api = examine(&found).await?;
        let cluster_id = cluster_id(&api).await?;
        info!(cluster_id, impersonation = ?api.impersonation(), "the API server answers");
        let authority = Authority::open(enroll::Settings {
            client: found.client,
            namespace: config.namespace.clone(),
            cluster_id,
            clock: clock.clone(),
            node_life: config.node_life,
        })
        .await
        .context("the certificate authority cannot be opened")?;
        if let Some(told) = ca_end(authority.ca_ends(), clock.now()) {
            warn!("{told}");
        }
        let autonomy = Autonomy::new(config.default_toleration_seconds);
        let cluster = Cluster::new(cluster::Settings {
            api,
            clock: clock.clone(),
            enrolment: authority.clone(),
            bindings: autonomy.clone(),
            advertise: config.advertise,
        });
        let devices = Devices::new(cluster.clone());
        let tunnels = Tunnels::new(cluster.clone(), found.address);
        let hub = Hub::bind(hub::Settings {
            listen: config.listen,
            replica: config.replica.clone(),
            tunnel_grace: config.grace,
            receive_budget: ReceiveBudget::new(config.receive_budget),
            clock,
            authority: authority.clone(),
            leases: Arc::new(ClusterLeases(cluster.clone())),
            services: Arc::new(Flows::new(cluster.clone(), devices.clone(), tunnels)),
        })
        .await?;
        let synced = Arc::new(AtomicBool::new(false));
        let observe = bind_observe(config, &cluster, (&hub, authority.ca_ends()), &synced).await?;
        Ok(Self {
            authority,
            autonomy,
            cluster,
            devices,
            hub,
            observe,
            synced,
        })
    }

    /// Starts the base, and the hub as soon as every view is complete.
    fn start(self, config: &Config) -> (Supervisor, Supervisor) {
        let Self {
            authority,
            autonomy,
            cluster,
            devices,
            hub,
            observe,
            synced,
        } = self;
        let mut base = Supervisor::new(BASE_GRACE);
        base.spawn(Task::Observe, |stop| async move {
            observe.serve(stop).await;
            Ok(())
        });
        let enrolment = authority.clone();
        forever(&mut base, Task::Enrolment, async move { enrolment.run().await });
        let watches = cluster.clone();
        forever(
            &mut base,
            Task::Cluster,
            async move { Box::pin(watches.run()).await },
        );
        forever(&mut base, Task::Devices, async move { devices.run().await });
        let api = cluster.api().clone();
        forever(&mut base, Task::Autonomy, async move { autonomy.run(&api).await });

        let mut edge = Supervisor::new(config.grace);
        edge.spawn(Task::Hub, |stop| async move {
            let complete = async {
                authority.synced().await;
                cluster.synced().await;
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = complete => {}
            }
            synced.store(true, Ordering::Relaxed);
            info!("ready for edges");
            Ok(hub.run(stop).await?)
        });
        (base, edge)
    }
}

async fn bind_observe(
    config: &Config,
    cluster: &Cluster,
    (hub, ca_ends): (&Hub, SystemTime),
    synced: &Arc<AtomicBool>,
) -> anyhow::Result<Observe> {
    let mut registry = Registry::with_prefix("cloudcore");
    cluster.register_metrics(&mut registry);
    registry.register_collector(Box::new(Gauges {
        hub: hub.view(),
        cluster: cluster.clone(),
        ca_ends,
    }));
    let ready = Ready {
        cluster: cluster.clone(),
        synced: Arc::clone(synced),
    };
    Ok(Observe::bind(config.observe, registry, Arc::new(ready)).await?)
}

/// What is said of a CA that ends soon.
fn ca_end(ends: SystemTime, now: SystemTime) -> Option<String> {
    let left = ends.duration_since(now).unwrap_or_default();
    (left < CA_SOON).then(|| {
        let left = human(left);
        format!("the CA ends in {left}, and every certificate with it; what to do before: docs/operate.md, Certificates")
    })
}

/// Whether this replica can serve edges: once it knows all, it does so for as long as it lives.
///
/// An API server that is away is no reason to take it out of its Service. All replicas would leave it together, and
/// kube-proxy forgets the UDP sessions of an endpoint that left: edges whose links are sound would lose them. Those that
/// may do better elsewhere are told in their sessions.
struct Ready {
    cluster: Cluster,
    synced: Arc<AtomicBool>,
}

impl Readiness for Ready {
    fn obstacle(&self) -> Option<&'static str> {
        if !self.synced.load(Ordering::Relaxed) {
            return Some("the first lists from the API server are not complete yet");
        }
        None
    }

    fn trouble(&self) -> Option<&'static str> {
        self.cluster.health().obstacle()
    }
}

/// Runs a part that never ends by itself, until told to stop.
fn forever(supervisor: &mut Supervisor, task: Task, body: impl Future<Output = ()> + Send + 'static) {
    supervisor.spawn(task, |stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = body => {}
        }
        Ok(())
    });
}

fn judge(outcome: Outcome) -> anyhow::Result<()> {
    match outcome.cause {
        Cause::Signal => Ok(()),
        Cause::Lost {
            task,
            error: Some(error),
        } => Err(anyhow::anyhow!(error)).context(format!("{task} failed")),
        Cause::Lost { task, error: None } => bail!("{task} ended by itself"),
    }
}

/// Ends when the cluster's epoch was raised: this replica speaks for an older one, which edges refuse, and is
/// started again with the new one by its pod.
async fn outdated(authority: &Authority) {
    let raised = authority.outdated().await;
    warn!(
        from = authority.epoch(),
        to = raised,
        "the epoch was raised; this replica ends, and starts again with it"
    );
    sleep(WORD_OUT).await;
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

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::json;
    use tokio::time::timeout;

    use super::*;
    use crate::cluster::testing;

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_was_synced_once_stays_ready_while_the_api_server_is_away_and_says_so() {
        let away = |_| (StatusCode::SERVICE_UNAVAILABLE, json!({ "code": 503 }));
        let cluster = testing::cluster(away);
        let synced = Arc::new(AtomicBool::new(false));
        let ready = Ready {
            cluster: cluster.clone(),
            synced: Arc::clone(&synced),
        };
        let _ended = timeout(Duration::from_mins(1), cluster.probe()).await;
        assert!(ready.obstacle().is_some_and(|why| why.contains("first lists")));
        synced.store(true, Ordering::Relaxed);
        assert_eq!(ready.obstacle(), None);
        assert_eq!(ready.trouble(), Some("the API server does not answer"));
    }

    #[test]
    fn the_end_of_the_ca_is_told_of_in_its_last_year_and_not_before() {
        let (now, day) = (SystemTime::UNIX_EPOCH + CA_SOON, Duration::from_hours(24));
        assert_eq!(ca_end(now + 366 * day, now), None);
        let told = ca_end(now + 364 * day, now).unwrap();
        assert!(
            told.contains("ends in 364d") && told.contains("docs/operate.md"),
            "{told}"
        );
        assert!(ca_end(now - day, now).is_some());
    }
}
