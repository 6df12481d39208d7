//! Without the link, without power, without both.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::{Value, json};
use tests::{
    audit::Request,
    machine::{Cable, HalfOpen},
    pods,
    testbed::node_back,
    wait::{Look, throughout, until},
};
use tokio::time::Instant;

use crate::world::{EDGE, PATIENCE, World, apply, delete, pod, sleepers, sleeping};

crate::tests![
    a_cut_past_the_grace_period_restarts_no_container,
    a_half_open_link_is_noticed_and_heals,
    a_node_deleted_while_cut_comes_back_with_its_containers,
    a_pod_deleted_while_cut_goes_when_the_link_is_back,
    pods_deleted_while_cut_that_the_node_never_had_go_when_the_link_is_back,
    ten_pods_run_again_after_a_power_cut_without_network_five_times,
];

/// Two missed beats of a WebSocket (85 s), the lease's last renewal before them, the grace period (50 s),
/// and as much again.
const SEEN_AS_GONE: Duration = Duration::from_mins(5);

/// How long after containerd's first answer the pods must run again.
const RESTART_WITHIN: Duration = Duration::from_secs(15);

/// So many ConfigMaps a pod of an edge node may not name.
const TOO_MANY: usize = 513;

async fn not_ready(world: &World) -> Result<()> {
    let nodes: Api<Node> = Api::all(world.testbed().await?.client());
    until("the node to be seen as gone", SEEN_AS_GONE, || async {
        let ready = tests::testbed::condition(&nodes.get(EDGE).await?, "Ready");
        Ok(Look::when(!ready.starts_with("True"), || ready.clone()))
    })
    .await
}

async fn a_cut_past_the_grace_period_restarts_no_container(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 3)).await?;
    let selector = format!("app={name}");
    let before = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);
    edge.machine.cut()?;
    let cut = not_ready(world).await;
    edge.machine.restore().await?;
    cut?;
    node_back(&testbed.client(), EDGE, PATIENCE).await?;
    let after = pods::identity(&pods::until_ready(&testbed.client(), &selector, 3, PATIENCE).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    delete(testbed, &["deployment", &name]).await
}

async fn a_half_open_link_is_noticed_and_heals(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    for kind in [HalfOpen::Deaf, HalfOpen::Mute] {
        edge.machine.half_open(kind).await?;
        let noticed = not_ready(world).await;
        edge.machine.restore().await?;
        noticed?;
        node_back(&testbed.client(), EDGE, PATIENCE).await?;
    }
    Ok(())
}

async fn a_node_deleted_while_cut_comes_back_with_its_containers(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 2)).await?;
    let selector = format!("app={name}");
    let before = pods::identity(&pods::until_ready(&testbed.client(), &selector, 2, PATIENCE).await?);
    edge.machine.cut()?;
    let deleted = testbed.kubectl(["delete", "node", EDGE]).await;
    let span = Duration::from_mins(1);
    let kept = throughout("the pods still there", span, || async {
        let now = pods::list(&testbed.client(), "default", &selector).await?;
        Ok(Look::when(now.len() == 2, || pods::table(&now)))
    })
    .await;
    edge.machine.restore().await?;
    deleted?;
    kept?;
    node_back(&testbed.client(), EDGE, PATIENCE).await?;
    let after = pods::identity(&pods::until_ready(&testbed.client(), &selector, 2, PATIENCE).await?);
    ensure!(before == after, "{before:?} became {after:?}");
    delete(testbed, &["deployment", &name]).await
}

async fn a_pod_deleted_while_cut_goes_when_the_link_is_back(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 1)).await?;
    let selector = format!("app={name}");
    pods::until_ready(&testbed.client(), &selector, 1, PATIENCE).await?;
    edge.machine.cut()?;
    let deleted = delete(testbed, &["deployment", &name]).await;
    let running = edge.running(&name).await?.len();
    edge.machine.restore().await?;
    deleted?;
    ensure!(running == 1, "{running} containers run while cut");
    pods::until_gone(&testbed.client(), &selector, PATIENCE).await?;
    until("no container left", PATIENCE, || async {
        let left = edge.containers(&name).await?;
        Ok(Look::when(left.is_empty(), || format!("{left:?}")))
    })
    .await
}

/// A pod bound to the edge node that names so many ConfigMaps, of which there is none.
fn naming(name: &str, maps: usize) -> Value {
    let source = |nth| json!({ "configMap": { "name": format!("{name}-{nth}"), "optional": true } });
    let sources: Vec<Value> = (0..maps).map(source).collect();
    let mut pod = pod(name, EDGE, sleeping());
    pod["spec"]["nodeName"] = json!(EDGE);
    pod["spec"]["volumes"] = json!([{ "name": "maps", "projected": { "sources": sources } }]);
    pod
}

/// Whether it is the last delete of that pod, in its node's name.
fn ends(request: &Request, name: &str) -> bool {
    let object = request.object_ref.clone().unwrap_or_default();
    let whom = request
        .impersonated_user
        .as_ref()
        .map(|user| user.username.as_str());
    request.verb == "delete"
        && (object.resource.as_str(), object.name.as_str()) == ("pods", name)
        && whom == Some(&format!("system:node:{EDGE}"))
}

/// One that is never sent, as it names too much, and one that the node gets to know only as deleted.
async fn pods_deleted_while_cut_that_the_node_never_had_go_when_the_link_is_back(
    world: &World,
) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let (unsent, unseen) = (world.name("unsent"), world.name("unseen"));
    let audit = testbed.plane.audit();
    let mark = audit.mark();
    let mut uids = Vec::new();
    edge.machine.cut()?;
    let deleted = async {
        let present = async |name| pods::list(&testbed.client(), "default", &format!("app={name}")).await;
        for (name, maps) in [(&unsent, TOO_MANY), (&unseen, 1)] {
            apply(testbed, &naming(name, maps)).await?;
            uids.extend(
                present(name)
                    .await?
                    .into_iter()
                    .filter_map(|pod| pod.metadata.uid),
            );
            delete(testbed, &["pod", name]).await?;
        }
        // The other may go at once, while the session is not known to be lost: it was never sent.
        ensure!(
            present(&unseen).await?.len() == 1,
            "{unseen} is gone while its node is away"
        );
        ensure!(uids.len() == 2, "{uids:?}");
        Ok(())
    }
    .await;
    edge.machine.restore().await?;
    deleted?;
    for name in [&unsent, &unseen] {
        pods::until_gone(&testbed.client(), &format!("app={name}"), PATIENCE).await?;
        // What was answered is written down a moment later.
        until(&format!("the one delete of {name}"), PATIENCE, || async {
            let requests = audit.since(mark)?;
            let asked = requests.iter().filter(|request| ends(request, name));
            // The API server writes the pod once more before it removes it, so that it may be asked again.
            let ended: Vec<_> = asked
                .map(Request::summary)
                .filter(|delete| !delete.ends_with("404"))
                .collect();
            Ok(match ended.as_slice() {
                [one] if one.ends_with("200") => Look::Done(()),
                _ => Look::NotYet(format!("{ended:?}")),
            })
        })
        .await?;
    }
    for uid in uids {
        let made = edge.of_pod(&uid).await?;
        ensure!(made.is_empty(), "{made:?} was made of a deleted pod");
    }
    Ok(())
}

async fn ten_pods_run_again_after_a_power_cut_without_network_five_times(world: &World) -> Result<()> {
    let (testbed, edge) = world.with_edge().await?;
    let name = world.name("sleepers");
    apply(testbed, &sleepers(&name, EDGE, 10)).await?;
    let selector = format!("app={name}");
    pods::until_ready(&testbed.client(), &selector, 10, PATIENCE).await?;
    for round in 1..=5 {
        edge.machine.power_off()?;
        edge.machine.boot(Cable::Unplugged).await?;
        edge.runtime_ready().await?;
        let started = Instant::now();
        until(
            &format!("10 pods after power cut {round}"),
            RESTART_WITHIN,
            || async {
                let running = edge.running(&name).await?.len();
                Ok(Look::when(running == 10, || format!("{running} run")))
            },
        )
        .await?;
        println!(
            "round {round}: 10 pods run {:.1?} after containerd's first answer",
            started.elapsed()
        );
    }
    edge.machine.plug().await?;
    node_back(&testbed.client(), EDGE, PATIENCE).await?;
    pods::until_ready(&testbed.client(), &selector, 10, PATIENCE).await?;
    delete(testbed, &["deployment", &name]).await
}
