//! A private registry on a device, with one image in it and one user who may pull it.
//!
//! It listens on the device itself: pods name it `localhost:5000`, for which runtimes speak plain HTTP, and
//! whether it answers does not depend on the device's network.

use std::{fs, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    cache::{Archive, Cache},
    command::run,
    edge_machine::EdgeMachine,
    machine::Service,
    wait::{Look, until},
};

/// The image that only [`USER`] may pull.
pub const IMAGE: &str = "localhost:5000/private/app:1";
/// Whom the registry lets in.
pub const USER: &str = "robot";
const SERVICE: &str = "registry";

/// The user's passwords, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Password {
    /// In the beginning.
    First,
    /// After it was changed.
    Second,
}

impl Password {
    /// What the user types.
    pub const fn text(self) -> &'static str {
        match self {
            Self::First => "first-password",
            Self::Second => "second-password",
        }
    }

    /// Its bcrypt hash, the only kind that the registry reads.
    const fn hash(self) -> &'static str {
        match self {
            Self::First => "$2b$05$abcdefghijklmnopqrstuuM3sQey8DZviRRkMjmk7wGr.7zlb4loC",
            Self::Second => "$2b$05$abcdefghijklmnopqrstuuQQ3svipWaDLu5Kgwa3hvLrUP0FshBnK",
        }
    }
}

/// Starts the registry and puts the image into it; the device itself does not have the image afterwards.
pub async fn start(edge: &EdgeMachine, cache: &Cache) -> Result<()> {
    accept(edge, Password::First)?;
    let (dir, config) = (edge.machine.dir(), edge.machine.dir().join("registry.json"));
    fs::write(&config, configuration(&dir).to_string())?;
    let args = [String::from("serve"), config.display().to_string()];
    let service = Service::new(SERVICE, &cache.program("registry")?, args);
    edge.machine
        .install(service.with_env("OTEL_TRACES_EXPORTER", "none"))?;
    let archive = private_image(edge, cache)?;
    edge.ctr(&["images", "import", &archive.path.display().to_string()])
        .await?;
    let login = format!("{USER}:{}", Password::First.text());
    let push = ["images", "push", "--plain-http", "--user", &login, IMAGE];
    until("the image in the registry", Duration::from_secs(30), || async {
        edge.ctr(&push).await.map(|_| Look::Done(()))
    })
    .await?;
    edge.ctr(&["images", "remove", "--sync", IMAGE]).await.map(drop)
}

/// Lets the user in with this password, and with no other.
pub fn accept(edge: &EdgeMachine, password: Password) -> Result<()> {
    let line = format!("{USER}:{}\n", password.hash());
    fs::write(edge.machine.dir().join("htpasswd"), line).map_err(Into::into)
}

/// Switches the registry off, until it is switched on or the device boots.
pub fn stop(edge: &EdgeMachine) -> Result<()> {
    edge.machine.stop(SERVICE)
}

/// Switches it on again.
pub fn resume(edge: &EdgeMachine) -> Result<()> {
    edge.machine.start(SERVICE)
}

/// What Docker writes into its configuration for the user with a password.
pub fn docker_config(password: &str) -> Value {
    json!({ "auths": { "localhost:5000": { "username": USER, "password": password } } })
}

fn configuration(dir: &std::path::Path) -> Value {
    json!({
        "version": "0.1",
        "log": { "level": "warn" },
        "storage": { "filesystem": { "rootdirectory": dir.join("registry") } },
        "http": { "addr": "127.0.0.1:5000" },
        "auth": { "htpasswd": { "realm": "testbed", "path": dir.join("htpasswd") } },
    })
}

/// busybox under another name, and with another configuration: a runtime takes two names of one
/// configuration for one image.
fn private_image(edge: &EdgeMachine, cache: &Cache) -> Result<Archive> {
    let stage = edge.machine.dir().join("private-image");
    fs::create_dir_all(&stage)?;
    let dir = stage.display().to_string();
    let busybox = cache.image("busybox")?.path.display().to_string();
    run("tar", ["-C", &dir, "-xf", &busybox])?;
    let config = stage.join("config.json");
    let mut object: Value = serde_json::from_slice(&fs::read(&config)?)?;
    object["author"] = json!("testbed");
    fs::write(&config, object.to_string())?;
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(stage.join("manifest.json"), manifest.to_string())?;
    let path = edge.machine.dir().join("private.tar");
    let archive = path.display().to_string();
    run(
        "tar",
        [
            "-C",
            &dir,
            "-cf",
            &archive,
            "manifest.json",
            "config.json",
            "layer.tar",
        ],
    )?;
    let tag = IMAGE.to_owned();
    Ok(Archive { path, tag })
}
