//! What an agent asked of the runtime for one pod.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use tests::cri_proxy::{Call, Recorder};

/// Requests by method, each under a name that is the same on every node.
pub(crate) fn tree(recorder: &Recorder, uid: &str) -> Value {
    let calls = recorder.calls();
    let of_pod = |call: &&Call| {
        let sandboxes = ["config", "sandbox_config"].map(|key| &call.request[key]["metadata"]["uid"]);
        sandboxes.into_iter().any(|other| other == uid)
    };
    let mine: Vec<&Call> = calls.iter().filter(of_pod).collect();
    let named = containers(&mine);
    let mut tree: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for call in &mine {
        let (key, request) = match call.method {
            "RunPodSandbox" => (attempt(&call.request["config"]), call.request.clone()),
            "CreateContainer" => (container(call), creation(call, &mine)),
            "PullImage" => (call.request["image"]["image"].to_string(), pull(call)),
            _ => continue,
        };
        let refused = call.status != "0";
        let entry = json!({ "request": request, "refused": refused });
        tree.entry(call.method).or_default().insert(key, entry);
    }
    for call in &calls {
        let id = call.request["container_id"].as_str().unwrap_or_default();
        let Some(name) = named.get(id) else { continue };
        let said = match call.method {
            "StopContainer" => format!("{name}, timeout {}", call.request["timeout"]),
            "ExecSync" => format!(
                "{name}: {}, timeout {}",
                call.request["cmd"], call.request["timeout"]
            ),
            "UpdateContainerResources" => format!("{name}: {}", call.request["linux"]),
            _ => continue,
        };
        tree.entry(call.method).or_default().insert(said, json!("asked"));
    }
    json!(tree)
}

fn attempt(config: &Value) -> String {
    config["metadata"]["attempt"].to_string()
}

/// `name/attempt` of the container that a call creates.
fn container(call: &Call) -> String {
    let config = &call.request["config"];
    let name = config["metadata"]["name"].as_str().unwrap_or_default();
    format!("{name}/{}", attempt(config))
}

/// Created containers by their ids, without the attempt: how often something is restarted is told elsewhere.
fn containers(calls: &[&Call]) -> BTreeMap<String, String> {
    let created = calls.iter().filter(|call| call.method == "CreateContainer");
    created
        .filter_map(|call| {
            let id = call.answer["container_id"].as_str()?;
            let name = call.request["config"]["metadata"]["name"].as_str()?;
            Some((id.to_owned(), name.to_owned()))
        })
        .collect()
}

/// A container's configuration; of the sandbox's it is enough that it is the sandbox's own.
fn creation(call: &Call, all: &[&Call]) -> Value {
    let sandbox = &call.request["sandbox_config"];
    let same =
        |other: &&&Call| other.method == "RunPodSandbox" && strip(&other.request["config"]) == strip(sandbox);
    json!({ "config": call.request["config"], "its sandbox's config": all.iter().any(|other| same(&other)) })
}

/// A sandbox's configuration without the attempt.
fn strip(config: &Value) -> Value {
    let mut config = config.clone();
    config["metadata"]["attempt"] = Value::Null;
    config
}

fn pull(call: &Call) -> Value {
    json!({ "image": call.request["image"], "auth": call.request["auth"] })
}
