//! The steps of the demo, in the order of a user's first hour.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use tests::{
    EdgeMachine, Testbed, cloudcore,
    control_plane::Patience,
    machine::Cable,
    pods,
    programs::workspace,
    testbed::{node_back, node_ready},
    wait::{Look, throughout, until},
};

use crate::{
    show::{output, step},
    thermostat,
};

/// The edge node's name.
const EDGE: &str = "e1";
/// The pods of examples/hello.
const HELLO: &str = "app=hello";
/// How many of them the example wants.
const REPLICAS: usize = 3;
/// What a healthy machine is given for anything.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) async fn cluster() -> Result<Testbed> {
    step(
        "starting a control plane and one ordinary node, w1",
        Testbed::start(Patience::Default),
    )
    .await
}

pub(crate) async fn join(testbed: &Testbed) -> Result<EdgeMachine> {
    step("helm install cloudcore manifests/charts/cloudcore", async {
        cloudcore::load_image(testbed).await?;
        cloudcore::install(testbed, &[]).await?;
        cloudcore::available(testbed).await
    })
    .await?;
    let token = step("cloudcore token create", cloudcore::token(testbed, &[])).await?;
    let starting = EdgeMachine::start(testbed, EDGE);
    let edge = step(
        "booting a device that can reach cloudcore's port and nothing else",
        starting,
    )
    .await?;
    let said = step("edgecore join", edge.join(&token, &[])).await?;
    output("edgecore join", &said);
    step("both nodes Ready", node_ready(&testbed.client(), EDGE, PATIENCE)).await?;
    show_nodes(testbed).await?;
    Ok(edge)
}

async fn show_nodes(testbed: &Testbed) -> Result<()> {
    let nodes = testbed.kubectl(["get", "nodes", "-o", "wide"]).await?;
    output("kubectl get nodes -o wide", &nodes);
    let edge = nodes
        .lines()
        .find(|line| line.starts_with(EDGE))
        .unwrap_or_default();
    ensure!(
        edge.split_whitespace().nth(2) == Some("edge"),
        "the role of {EDGE} is not edge"
    );
    Ok(())
}

async fn show_pods(testbed: &Testbed) -> Result<()> {
    let words = ["get", "pods", "-l", HELLO, "-o", "wide"];
    output(
        "kubectl get pods -l app=hello -o wide",
        &testbed.kubectl(words).await?,
    );
    Ok(())
}

async fn ready(testbed: &Testbed, count: usize) -> Result<Vec<Pod>> {
    pods::until_ready(&testbed.client(), HELLO, count, PATIENCE).await
}

fn example() -> PathBuf {
    workspace().join("examples/hello")
}

pub(crate) async fn hello(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    output(
        "kubectl apply -f examples/hello/",
        &testbed.apply(&example()).await?,
    );
    step("3 replicas Running on the edge", ready(testbed, REPLICAS)).await?;
    show_pods(testbed).await?;
    step("each replica serves its page", pages(testbed, edge, "version 1")).await
}

/// Waits until every replica serves a page that contains `text`, at the address that it shows.
async fn pages(testbed: &Testbed, edge: &EdgeMachine, text: &str) -> Result<()> {
    until(&format!("{text} from every replica"), PATIENCE, || async {
        for pod in ready(testbed, REPLICAS).await? {
            let page = edge
                .fetch(&format!("http://{}:8080/index.html", pods::address(&pod)))
                .await?;
            if !page.contains(text) {
                return Ok(Look::NotYet(format!(
                    "{} serves: {}",
                    pods::name(&pod),
                    page.trim()
                )));
            }
        }
        Ok(Look::Done(()))
    })
    .await
}

pub(crate) async fn changes(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    let before = pods::identity(&ready(testbed, REPLICAS).await?);
    let patch = r#"{"data":{"index.html":"hello from the edge, version 2\n"}}"#;
    testbed
        .kubectl(["patch", "configmap", "hello-page", "--patch", patch])
        .await?;
    step(
        "a ConfigMap's change arrives in the mounted file",
        pages(testbed, edge, "version 2"),
    )
    .await?;
    let after = pods::identity(&ready(testbed, REPLICAS).await?);
    ensure!(
        before == after,
        "the ConfigMap's change restarted a pod: {before:?} became {after:?}"
    );

    testbed
        .kubectl(["set", "env", "deployment/hello", "GREETING=again"])
        .await?;
    step("a rolling update", rollout(testbed)).await?;
    ready(testbed, REPLICAS).await?;
    show_pods(testbed).await
}

async fn rollout(testbed: &Testbed) -> Result<()> {
    testbed
        .kubectl(["rollout", "status", "deployment/hello", "--timeout=110s"])
        .await?;
    ready(testbed, REPLICAS).await.map(drop)
}

pub(crate) async fn neighbours(testbed: &Testbed) -> Result<()> {
    let client = testbed.client();
    let asked = until("the pod neighbours to end", PATIENCE, || async {
        let pods = pods::list(&client, "default", "app=neighbours").await?;
        let ended = pods.iter().find(|pod| pods::phase(pod) == "Succeeded");
        let state = ended.and_then(|pod| pods::containers(pod).first()?.state.clone()?.terminated);
        Ok(Look::from_option(state, || pods::table(&pods)))
    });
    let ended = step(
        "a pod asks the API server with its own service-account token",
        asked,
    )
    .await?;
    let count = ended.message.unwrap_or_default();
    ensure!(
        count.trim().parse::<usize>().is_ok_and(|count| count >= REPLICAS),
        "it counted {count:?} pods"
    );
    output("its termination message, the number of pods that it saw", &count);
    Ok(())
}

pub(crate) async fn cut(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    let before = pods::identity(&ready(testbed, REPLICAS).await?);
    let running = edge.running("web").await?;
    edge.machine.cut()?;
    thermostat::change_its_mind(testbed).await?;
    let span = Duration::from_secs(30);
    let untouched = throughout("the containers that ran before the cut", span, || async {
        let now = edge.running("web").await?;
        Ok(Look::when(now == running, || {
            format!("{now:?} instead of {running:?}")
        }))
    });
    step("the link cut for 30 s, the pods untouched", untouched).await?;
    edge.machine.restore().await?;
    step("the link back, everything Ready", back(testbed)).await?;
    let after = pods::identity(&ready(testbed, REPLICAS).await?);
    ensure!(
        before == after,
        "the cut changed pods: {before:?} became {after:?}"
    );
    Ok(())
}

async fn back(testbed: &Testbed) -> Result<()> {
    node_back(&testbed.client(), EDGE, PATIENCE).await?;
    ready(testbed, REPLICAS).await.map(drop)
}

pub(crate) async fn power(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    let before = uids(&ready(testbed, REPLICAS).await?);
    edge.machine.power_off()?;
    step("the device's power cut; booting with no network", async {
        edge.machine.boot(Cable::Unplugged).await?;
        edge.runtime_ready().await
    })
    .await?;
    let running = until("the pods' containers", PATIENCE, || async {
        let now = edge.running("web").await?;
        Ok(Look::when(now.len() == REPLICAS, || format!("running: {now:?}")))
    });
    step("the pods run again from the device's own store", running).await?;
    edge.machine.plug().await?;
    step("the network back, everything Ready", async {
        back(testbed).await?;
        pages(testbed, edge, "version 2").await
    })
    .await?;
    let after = uids(&ready(testbed, REPLICAS).await?);
    ensure!(
        before == after,
        "other pods after the power cut: {before:?} became {after:?}"
    );
    show_pods(testbed).await
}

fn uids(pods: &[Pod]) -> Vec<String> {
    pods::identity(pods).into_keys().collect()
}

pub(crate) async fn scale_down(testbed: &Testbed, edge: &EdgeMachine) -> Result<()> {
    testbed
        .kubectl(["scale", "deployment/hello", "--replicas=0"])
        .await?;
    step("a scale to 0, the containers gone from containerd", async {
        pods::until_gone(&testbed.client(), HELLO, PATIENCE).await?;
        until("no container left", PATIENCE, || async {
            let left = edge.containers("web").await?;
            Ok(Look::when(left.is_empty(), || format!("{left:?}")))
        })
        .await
    })
    .await
}
