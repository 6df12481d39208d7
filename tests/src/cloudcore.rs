//! cloudcore as a user installs it: an image, `helm install`, a join token from `kubectl exec`.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::ListParams};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::process::Command;

use crate::{
    cache::Archive,
    command::{run, run_within},
    containerd,
    programs::workspace,
    testbed::Testbed,
    wait::{Look, until},
};

/// The release's namespace.
pub const NAMESPACE: &str = "tombolo-system";
/// The port of the cluster's node on which edges dial.
pub const NODE_PORT: u16 = 30100;
/// The image, as the chart names it by default.
const IMAGE: &str = concat!("docker.io/tombolo/cloudcore:", env!("CARGO_PKG_VERSION"));

/// Packs the static binary as an image and gives it to the cluster's node.
pub async fn load_image(testbed: &Testbed) -> Result<()> {
    let stage = testbed.ground.dir().join("cloudcore-image");
    let archive = pack(&testbed.programs.cloudcore, &stage)?;
    containerd::import(&testbed.node.machine, &testbed.cache, &archive).await
}

/// A docker archive of one layer that holds one program.
fn pack(program: &Path, stage: &Path) -> Result<Archive> {
    let bin = stage.join("root/usr/local/bin");
    fs::create_dir_all(&bin)?;
    fs::copy(program, bin.join("cloudcore"))?;
    let stage_name = stage.display().to_string();
    let owner = ["--owner=0", "--group=0", "--numeric-owner"];
    run(
        "tar",
        [
            "-C",
            &format!("{stage_name}/root"),
            "-cf",
            &format!("{stage_name}/layer.tar"),
        ]
        .into_iter()
        .chain(owner)
        .chain(["."]),
    )?;
    let layer = hex::encode(Sha256::digest(fs::read(stage.join("layer.tar"))?));
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/usr/local/bin/cloudcore"], "Env": ["PATH=/usr/local/bin"], "User": "65532:65532" },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(stage.join("config.json"), config.to_string())?;
    fs::write(stage.join("manifest.json"), manifest.to_string())?;
    let image = stage.join("image.tar");
    run(
        "tar",
        [
            "-C",
            &stage_name,
            "-cf",
            &image.display().to_string(),
            "manifest.json",
            "config.json",
            "layer.tar",
        ],
    )?;
    Ok(Archive {
        path: image,
        tag: IMAGE.to_owned(),
    })
}

/// `helm install` of the chart, with more `--set` values if wanted.
pub async fn install(testbed: &Testbed, values: &[&str]) -> Result<String> {
    helm(testbed, &["install", "--create-namespace"], values).await
}

async fn helm(testbed: &Testbed, words: &[&str], values: &[&str]) -> Result<String> {
    let mut command = Command::new(testbed.cache.program("helm")?);
    command.env("KUBECONFIG", testbed.plane.admin_kubeconfig());
    // Helm keeps caches at home; the testbed leaves nothing there.
    command.env("HELM_CACHE_HOME", testbed.ground.dir().join("helm"));
    command
        .args(words)
        .arg("cloudcore")
        .arg(workspace().join("manifests/charts/cloudcore"));
    command.args(["--namespace", NAMESPACE]);
    command.args(values.iter().flat_map(|value| ["--set", value]));
    run_within(Duration::from_mins(1), command).await
}

/// Waits until every replica is available.
pub async fn available(testbed: &Testbed) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(testbed.client(), NAMESPACE);
    let what = "cloudcore available";
    let waited = until(what, Duration::from_mins(2), || async {
        let status = deployments.get("cloudcore").await?.status.unwrap_or_default();
        let (ready, wanted) = (
            status.available_replicas.unwrap_or(0),
            status.replicas.unwrap_or(0),
        );
        let done = wanted > 0 && ready == wanted;
        let pods = if done {
            String::new()
        } else {
            crate::pods::table(&pods(testbed).await?)
        };
        Ok(Look::when(done, || {
            format!("{ready} of {wanted} replicas available\n{pods}")
        }))
    })
    .await;
    if let Err(error) = waited {
        let words = ["-n", NAMESPACE, "logs", "deploy/cloudcore", "--tail=30"];
        let log = testbed.kubectl(words).await;
        return Err(error.context(log.unwrap_or_else(|error| format!("{error:#}"))));
    }
    Ok(())
}

/// cloudcore's pods.
pub async fn pods(testbed: &Testbed) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(testbed.client(), NAMESPACE);
    Ok(pods.list(&ListParams::default()).await?.items)
}

/// Runs a command of cloudcore's in its pod, as an operator would.
pub async fn exec(testbed: &Testbed, words: &[&str]) -> Result<String> {
    let exec = ["-n", NAMESPACE, "exec", "deploy/cloudcore", "--", "cloudcore"];
    testbed.kubectl(exec.iter().chain(words)).await
}

/// A join token.
pub async fn token(testbed: &Testbed, words: &[&str]) -> Result<String> {
    let printed = exec(testbed, &[&["token", "create"], words].concat()).await?;
    let token = printed
        .split_whitespace()
        .find(|word| word.split('.').count() == 3 && word.len() > 64);
    token
        .map(str::to_owned)
        .with_context(|| format!("no token in what cloudcore printed: {printed}"))
}
