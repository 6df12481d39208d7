//! One pod from create to Running, on the edge node, on the stock kubelet's, and by the runtime alone.
//!
//! The three take turns, so that whatever else the machine does meanwhile hits all of them alike,
//! and pauses are random, so that no agent's period is met at the same phase each time. The control
//! plane has only the processor that the nodes leave: else what it makes of a new pod delays the runtime
//! of whoever has an agent, and the floor's not.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use rand::seq::SliceRandom;
use serde_json::{Value, json};
use tests::pods;
use tokio::time::sleep;

use crate::{
    figures::{Figure, Unit, milliseconds, percentile},
    floor::Floor,
    follow::{Milestone, times},
    show::{note, step},
    stage::{EDGE, PATIENCE, Stage},
    stolen::Stolen,
};

/// The label of a pod that is timed.
const APP: &str = "bench-start";
/// The image of all pods of the bench; every machine has it.
pub(crate) const IMAGE: &str = "docker.io/library/busybox:1.35";
/// A process that sleeps, and goes when it is told to.
pub(crate) const SLEEP: [&str; 4] = ["busybox", "sh", "-c", "trap 'exit 0' TERM; sleep 100000 & wait"];

/// Who starts a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    Ours,
    Kubelet,
    Floor,
}

impl Contender {
    /// All of them, in random order.
    pub(crate) fn shuffled() -> [Self; 3] {
        let mut order = [Self::Ours, Self::Kubelet, Self::Floor];
        order.shuffle(&mut rand::rng());
        order
    }

    /// As progress names it.
    pub(crate) const fn called(self) -> &'static str {
        match self {
            Self::Ours => "edge node",
            Self::Kubelet => "stock kubelet",
            Self::Floor => "the runtime alone",
        }
    }
}

/// How long each start of each contender took.
type Samples = BTreeMap<Contender, Vec<Duration>>;

pub(crate) async fn measure(stage: &Stage<'_>, rounds: u16) -> Result<Vec<Figure>> {
    let floor = Floor::on(&stage.bare).await?;
    // One round that does not count: caches and code are warm for all of them afterwards.
    step("one start of each to warm up", round(stage, &floor, 0)).await?;
    let what = format!("{rounds} single pods on each node, in turn");
    stage.testbed.plane.step_aside(true)?;
    let stolen = Stolen::now()?;
    let samples = step(&what, async {
        let mut samples = Samples::new();
        for index in 1..=rounds {
            for (contender, took) in round(stage, &floor, index).await? {
                samples.entry(contender).or_default().push(took);
            }
        }
        Ok(samples)
    })
    .await?;
    stage.testbed.plane.step_aside(false)?;
    note(&format!(
        "{}\n  {}",
        listed(&samples),
        Stolen::now()?.since(stolen)
    ));
    Ok(vec![
        figure("pod_start.p50", &samples, 50),
        figure("pod_start.p90", &samples, 90),
    ])
}

/// One start by each contender, in random order.
async fn round(stage: &Stage<'_>, floor: &Floor, index: u16) -> Result<Vec<(Contender, Duration)>> {
    let mut round = Vec::new();
    for contender in Contender::shuffled() {
        sleep(Duration::from_secs_f64(0.5 + rand::random::<f64>())).await;
        let took = match contender {
            Contender::Ours => one(stage, EDGE, index).await?,
            Contender::Kubelet => one(stage, stage.testbed.node.machine.name(), index).await?,
            Contender::Floor => floor.start(index).await?,
        };
        round.push((contender, took));
    }
    Ok(round)
}

/// Starts a pod on `node`, and returns when it is gone again.
async fn one(stage: &Stage<'_>, node: &str, index: u16) -> Result<Duration> {
    let client = stage.testbed.client();
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let name = format!("start-{node}-{index}");
    let pod = serde_json::from_value(pod(&name, node, APP))?;
    let create = async {
        api.create(&PostParams::default(), &pod).await?;
        Ok(())
    };
    let took = times(&api, (APP, 1), Milestone::Running, create).await?;
    api.delete(&name, &DeleteParams::default()).await?;
    pods::until_gone(&client, &format!("app={APP}"), PATIENCE).await?;
    Ok(took.first().copied().unwrap_or_default())
}

/// A sleeping pod, bound to a node from the beginning.
pub(crate) fn pod(name: &str, node: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": app } },
        "spec": {
            "nodeName": node,
            "tolerations": [{ "key": "node-role.kubernetes.io/edge", "operator": "Exists" }],
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent", "command": SLEEP }],
        },
    })
}

fn figure(name: &'static str, samples: &Samples, rank: usize) -> Figure {
    let of = |contender| percentile(&samples[&contender], rank).map(milliseconds);
    Figure {
        name,
        unit: Unit::Milliseconds,
        ours: of(Contender::Ours),
        kubelet: of(Contender::Kubelet),
        floor: of(Contender::Floor),
    }
}

/// Every single sample, for whoever doubts a percentile.
fn listed(samples: &Samples) -> String {
    let line = |(contender, took): (&Contender, &Vec<Duration>)| {
        let mut sorted = took.clone();
        sorted.sort_unstable();
        let sorted: Vec<_> = sorted.iter().map(|took| took.as_millis().to_string()).collect();
        format!("{:<8}{} ms", format!("{contender:?}"), sorted.join(" "))
    };
    samples.iter().map(line).collect::<Vec<_>>().join("\n  ")
}
