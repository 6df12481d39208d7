//! Sixty pods at once, on the edge node, on the stock kubelet's, and by the runtime alone.

use std::time::Duration;

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};

use crate::{
    figures::{Figure, Unit, milliseconds, percentile},
    floor::Floor,
    follow::{Milestone, times},
    show::step,
    stage::{EDGE, Stage},
    starts::pod,
};

/// The label of the pods of a burst.
const APP: &str = "bench-burst";
/// How many pods a burst has.
const BURST: u16 = 60;
/// Requests to the API server side by side, as controllers send them.
const REQUESTS: usize = 8;

/// How long a burst took to run, pod by pod in order, and to be gone.
struct Burst {
    running: Vec<Duration>,
    deleted: Duration,
}

pub(crate) async fn measure(stage: &Stage<'_>) -> Result<Vec<Figure>> {
    let what = |who: &str| format!("a burst of {BURST} pods, {who}");
    let ours = step(&what("edge node"), burst(stage, EDGE)).await?;
    let node = stage.testbed.node.machine.name();
    let kubelet = step(&what("stock kubelet"), burst(stage, node)).await?;
    let floor = step(&what("the runtime alone"), alone(stage)).await?;
    let figure = |name, of: fn(&Burst) -> Option<Duration>| Figure {
        name,
        unit: Unit::Milliseconds,
        ours: of(&ours).map(milliseconds),
        kubelet: of(&kubelet).map(milliseconds),
        floor: of(&floor).map(milliseconds),
    };
    Ok(vec![
        figure("burst60.median", |burst| percentile(&burst.running, 50)),
        figure("burst60.last", |burst| burst.running.last().copied()),
        figure("burst60.deleted", |burst| Some(burst.deleted)),
    ])
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
    let gone = times(&api, (APP, count), Milestone::Gone, delete(&api, APP)).await?;
    Ok(Burst {
        running,
        deleted: gone.last().copied().unwrap_or_default(),
    })
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
