//! Sixty pods at once, on the edge node, on the stock kubelet's, and by the runtime alone.
//!
//! As with single starts the three take turns in random order: who comes first has a cluster that still settles,
//! and who comes later a file system that looks for inodes which those before it have just freed. What is told
//! is the median of the rounds.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{
    figures::{Figure, Unit, milliseconds, percentile},
    floor::Floor,
    follow::{Milestone, times},
    show::{note, step},
    stage::{EDGE, Stage},
    starts::{Contender, pod},
};

/// The label of the pods of a burst.
const APP: &str = "bench-burst";
/// How many pods a burst has.
const BURST: u16 = 60;
/// Requests to the API server side by side, as controllers send them.
const REQUESTS: usize = 8;

/// Behind the half of its burst, a pod this late did not only wait for the processor.
const LATE: Duration = Duration::from_secs(15);

/// How often each has its turn.
const ROUNDS: u16 = 5;

/// How long a burst took to run, pod by pod in order, and to be gone.
struct Burst {
    running: Vec<Duration>,
    deleted: Duration,
}

pub(crate) async fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let mut bursts = BTreeMap::<Contender, Vec<Burst>>::new();
    for _ in 0..ROUNDS {
        for contender in Contender::shuffled() {
            let what = format!("a burst of {BURST} pods, {}", contender.called());
            let burst = step(&what, async {
                match contender {
                    Contender::Ours => burst(stage, EDGE).await,
                    Contender::Kubelet => burst(stage, stage.testbed.node.machine.name()).await,
                    Contender::Floor => alone(stage).await,
                }
            })
            .await?;
            bursts.entry(contender).or_default().push(burst);
        }
    }
    note(&listed(&bursts));
    let figure = |name, of: fn(&Burst) -> Duration| {
        let median = |contender| {
            let rounds: Vec<_> = bursts[&contender].iter().map(of).collect();
            percentile(&rounds, 50).map(milliseconds)
        };
        Figure {
            name,
            unit: Unit::Milliseconds,
            ours: median(Contender::Ours),
            kubelet: median(Contender::Kubelet),
            floor: median(Contender::Floor),
        }
    };
    Ok(vec![
        figure("burst60.median", Burst::median),
        figure("burst60.last", Burst::last),
        figure("burst60.deleted", |burst| burst.deleted),
    ])
}

impl Burst {
    fn median(&self) -> Duration {
        percentile(&self.running, 50).unwrap_or_default()
    }

    fn last(&self) -> Duration {
        self.running.last().copied().unwrap_or_default()
    }
}

/// Every round, for whoever doubts a median.
fn listed(bursts: &BTreeMap<Contender, Vec<Burst>>) -> String {
    let line = |(contender, rounds): (&Contender, &Vec<Burst>)| {
        let round = |burst: &Burst| {
            let [half, all, gone] =
                [burst.median(), burst.last(), burst.deleted].map(|took| took.as_millis());
            format!("{half}/{all}/{gone}")
        };
        let rounds: Vec<_> = rounds.iter().map(round).collect();
        format!("{:<8}{} ms", format!("{contender:?}"), rounds.join("  "))
    };
    bursts.iter().map(line).collect::<Vec<_>>().join("\n  ")
}

async fn burst(stage: &Stage<'_>, node: &str) -> Result<Burst> {
    let api: Api<Pod> = Api::namespaced(stage.testbed.client(), "default");
    let count = usize::from(BURST);
    let running = times(
        &api,
        (APP, count),
        Milestone::Running,
        create(&api, node, APP, BURST),
    )
    .await?;
    if let Some(late) = late(&running) {
        note(&format!(
            "{late} pods came late; warned of was:\n{}",
            warnings(stage).await?
        ));
    }
    let gone = times(&api, (APP, count), Milestone::Gone, delete(&api, APP)).await?;
    Ok(Burst {
        running,
        deleted: gone.last().copied().unwrap_or_default(),
    })
}

/// How many pods came so late that no load explains it.
fn late(running: &[Duration]) -> Option<usize> {
    let half = percentile(running, 50)?;
    let late = running.iter().filter(|took| **took > half + LATE).count();
    (late > 0).then_some(late)
}

/// Why: what is left of it when the testbed is gone.
async fn warnings(stage: &Stage<'_>) -> Result<String> {
    let api: Api<Event> = Api::namespaced(stage.testbed.client(), "default");
    let only = ListParams::default().fields("type=Warning");
    let line = |event: Event| {
        let pod = event.involved_object.name.unwrap_or_default();
        let (reason, message) = (
            event.reason.unwrap_or_default(),
            event.message.unwrap_or_default(),
        );
        format!("    {pod}: {reason}: {message}")
    };
    let lines: Vec<_> = api.list(&only).await?.into_iter().map(line).collect();
    Ok(lines.join("\n"))
}

async fn alone(stage: &Stage<'_>) -> Result<Burst> {
    let (running, deleted) = Floor::on(&stage.bare).await?.burst(BURST).await?;
    Ok(Burst { running, deleted })
}

/// Creates sleeping pods on a node, several requests at once.
pub(crate) async fn create(api: &Api<Pod>, node: &str, app: &str, count: u16) -> Result<()> {
    let create = |index: u16| async move {
        let pod = serde_json::from_value(pod(&format!("{app}-{node}-{index}"), node, app))?;
        api.create(&PostParams::default(), &pod).await?;
        anyhow::Ok(())
    };
    stream::iter(1..=count)
        .map(create)
        .buffer_unordered(REQUESTS)
        .try_collect()
        .await
}

/// Deletes all pods of a label with one request.
pub(crate) async fn delete(api: &Api<Pod>, app: &str) -> Result<()> {
    let all = ListParams::default().labels(&format!("app={app}"));
    api.delete_collection(&DeleteParams::default(), &all).await?;
    Ok(())
}
