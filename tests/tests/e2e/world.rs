//! What the tests share: one testbed, and one edge node on it.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::Result;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tests::{
    EdgeMachine, Testbed, cloudcore,
    control_plane::Patience,
    pods,
    registry::{self, Password},
    testbed::node_ready,
    vm::{Driver, Vm},
    wait::{Look, until},
};
use tokio::sync::OnceCell;

/// How long anything may take that is not about time.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);
/// The shared edge node.
pub(crate) const EDGE: &str = "e1";

/// The shared testbed, started when a test asks for it.
#[derive(Default)]
pub(crate) struct World {
    testbed: OnceCell<Testbed>,
    cloudcore: OnceCell<()>,
    edge: OnceCell<EdgeMachine>,
    registry: OnceCell<()>,
    vm: OnceCell<Vm>,
    named: AtomicUsize,
}

impl World {
    /// The control plane and the ordinary node.
    pub(crate) async fn testbed(&self) -> Result<&Testbed> {
        self.testbed
            .get_or_try_init(|| Testbed::start(Patience::Default))
            .await
    }

    /// The same with cloudcore installed.
    pub(crate) async fn with_cloudcore(&self) -> Result<&Testbed> {
        let testbed = self.testbed().await?;
        let install = || async {
            cloudcore::load_image(testbed).await?;
            cloudcore::install(testbed, &[]).await?;
            cloudcore::available(testbed).await
        };
        self.cloudcore.get_or_try_init(install).await?;
        Ok(testbed)
    }

    /// The testbed and the edge node that joined it, Ready.
    pub(crate) async fn with_edge(&self) -> Result<(&Testbed, &EdgeMachine)> {
        let testbed = self.with_cloudcore().await?;
        let join = || async {
            let token = cloudcore::token(testbed, &[]).await?;
            let edge = EdgeMachine::start(testbed, EDGE).await?;
            edge.join(&token, &[]).await?;
            Ok::<_, anyhow::Error>(edge)
        };
        let edge = self.edge.get_or_try_init(join).await?;
        node_ready(&testbed.client(), EDGE, PATIENCE).await?;
        Ok((testbed, edge))
    }

    /// The same with a private registry on the edge node, which lets in with the first password.
    pub(crate) async fn with_registry(&self) -> Result<(&Testbed, &EdgeMachine)> {
        let (testbed, edge) = self.with_edge().await?;
        let start = || registry::start(edge, &testbed.cache);
        self.registry.get_or_try_init(start).await?;
        registry::accept(edge, Password::First)?;
        Ok((testbed, edge))
    }

    /// The testbed and the node that is a virtual machine, Ready; it is booted by the first test that asks for it.
    pub(crate) async fn with_vm(&self) -> Result<(&Testbed, &Vm)> {
        let testbed = self.with_cloudcore().await?;
        let vm = self
            .vm
            .get_or_try_init(|| crate::vm::join(testbed, Driver::Systemd))
            .await?;
        Ok((testbed, vm))
    }

    /// A device of a test's own, on, not joined.
    pub(crate) async fn device(&self) -> Result<EdgeMachine> {
        let testbed = self.with_cloudcore().await?;
        EdgeMachine::start(testbed, &self.name("d")).await
    }

    /// Takes a device that joined out of the cluster again, as an operator would.
    pub(crate) async fn retire(&self, device: EdgeMachine) -> Result<()> {
        let name = device.machine.name().to_owned();
        device.machine.power_off()?;
        cloudcore::exec(self.testbed().await?, &["node", "remove", &name])
            .await
            .map(drop)
    }

    /// A name that no other test uses.
    pub(crate) fn name(&self, stem: &str) -> String {
        format!("{stem}{}", self.named.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Tears the testbed down; the logs stay when a test failed.
    pub(crate) fn end(&self, failed: bool) -> Result<()> {
        let Some(testbed) = self.testbed.get() else {
            return Ok(());
        };
        if failed {
            testbed.ground.keep_logs();
            println!(
                "the logs of all programs are kept in {}",
                testbed.ground.logs().display()
            );
        }
        testbed.ground.leave()
    }
}

/// Works on a testbed of a test's own, and takes it down; its logs stay when the work failed.
pub(crate) async fn apart(testbed: Testbed, work: impl AsyncFnOnce(&Testbed) -> Result<()>) -> Result<()> {
    let outcome = work(&testbed).await;
    if outcome.is_err() {
        testbed.ground.keep_logs();
    }
    outcome.and(testbed.ground.leave())
}

/// Installs cloudcore with these values on a testbed of a test's own, and joins the edge node.
pub(crate) async fn joined(testbed: &Testbed, values: &[&str]) -> Result<EdgeMachine> {
    cloudcore::load_image(testbed).await?;
    cloudcore::install(testbed, values).await?;
    cloudcore::available(testbed).await?;
    let edge = EdgeMachine::start(testbed, EDGE).await?;
    edge.join(&cloudcore::token(testbed, &[]).await?, &[]).await?;
    node_ready(&testbed.client(), EDGE, PATIENCE).await?;
    Ok(edge)
}

/// Applies an object, given as JSON.
pub(crate) async fn apply(testbed: &Testbed, object: &Value) -> Result<()> {
    // Tests of other lanes apply theirs meanwhile.
    static NTH: AtomicUsize = AtomicUsize::new(0);
    let nth = NTH.fetch_add(1, Ordering::Relaxed);
    let file = testbed.ground.dir().join(format!("apply-{nth}.json"));
    std::fs::write(&file, object.to_string())?;
    testbed.apply(&file).await.map(drop)
}

/// Deletes objects and does not wait for their end.
pub(crate) async fn delete(testbed: &Testbed, words: &[&str]) -> Result<()> {
    testbed
        .kubectl(
            ["delete", "--wait=false", "--ignore-not-found"]
                .iter()
                .chain(words),
        )
        .await
        .map(drop)
}

/// A Deployment of sleeping pods on the edge, with a ConfigMap mounted and the default token.
pub(crate) fn sleepers(name: &str, node: &str, replicas: usize) -> Value {
    let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name },
                         "data": { "greeting": "hello" } });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": name } },
            "template": { "metadata": { "labels": { "app": name } }, "spec": sleeper_spec(name, node) },
        },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [config, deployment] })
}

fn sleeper_spec(config: &str, node: &str) -> Value {
    json!({
        "nodeSelector": { "kubernetes.io/hostname": node },
        "tolerations": [{ "key": "node-role.kubernetes.io/edge", "operator": "Exists", "effect": "NoSchedule" }],
        "terminationGracePeriodSeconds": 1,
        "containers": [{
            "name": config, "image": "docker.io/library/busybox:1.35", "imagePullPolicy": "IfNotPresent",
            "command": ["busybox", "sh", "-c",
                "trap 'exit 0' TERM; test \"$(cat /config/greeting)\" = hello || exit 1; \
                 test -s /var/run/secrets/kubernetes.io/serviceaccount/token || exit 2; \
                 while true; do sleep 1; done"],
            "volumeMounts": [{ "name": "config", "mountPath": "/config" }],
        }],
        "volumes": [{ "name": "config", "configMap": { "name": config } }],
    })
}

/// A pod bound to a node's name by its selector, with one container from JSON.
pub(crate) fn pod(name: &str, node: &str, container: Value) -> Value {
    let mut spec = sleeper_spec(name, node);
    let mut container = container;
    container["name"] = json!("main");
    spec["containers"] = json!([container]);
    spec["volumes"] = json!([]);
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
}

/// A container that sleeps.
pub(crate) fn sleeping() -> Value {
    json!({ "image": "docker.io/library/busybox:1.35", "imagePullPolicy": "IfNotPresent",
            "command": ["busybox", "sh", "-c", "trap 'exit 0' TERM; while true; do sleep 1; done"] })
}

/// The named pod, once it looks as it should.
pub(crate) async fn until_pod(testbed: &Testbed, name: &str, is: impl Fn(&Pod) -> bool) -> Result<Pod> {
    let (client, selector) = (testbed.client(), format!("app={name}"));
    until(&format!("{name} as expected"), PATIENCE, || async {
        let found = pods::list(&client, "default", &selector).await?;
        let table = pods::table(&found);
        let pod = found.into_iter().find(|pod| is(pod));
        Ok(Look::from_option(pod, || table.clone()))
    })
    .await
}
