//! Published ports: portmap, with our result as what came before it, as if it were the next in the list.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::answer::{PluginError, VERSION};
use super::call::Call;

/// The plugin of the CNI project.
const PLUGIN: &str = "portmap";

/// Publishes the pod's ports.
pub(super) fn add(call: &Call, result: &Value) -> Result<(), PluginError> {
    run(call, "ADD", Some(result))
}

/// Takes them back; fine when they are gone.
pub(super) fn del(call: &Call) -> Result<(), PluginError> {
    match run(call, "DEL", None) {
        // It never published them. Whoever removes it from a running device keeps its rules until the next boot.
        Err(PluginError::NoPortmap) => Ok(()),
        done => done,
    }
}

fn run(call: &Call, command: &str, result: Option<&Value>) -> Result<(), PluginError> {
    let program = call
        .plugins
        .iter()
        .map(|dir| dir.join(PLUGIN))
        .find(|path| path.is_file());
    let program = program.ok_or(PluginError::NoPortmap)?;
    let failed = |error| PluginError::io("cannot run portmap", error);
    // The rest of the environment says whose pod it is and where its namespace.
    let mut child = Command::new(program)
        .env("CNI_COMMAND", command)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading says why in its own words.
        let _ = stdin.write_all(configuration(call, result).to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    Err(PluginError::Portmap(words(&output.stdout)))
}

fn configuration(call: &Call, result: Option<&Value>) -> Value {
    let mut configuration = json!({
        "cniVersion": VERSION,
        "name": call.network.name,
        "type": PLUGIN,
        "capabilities": {"portMappings": true},
        "runtimeConfig": call.network.runtime_config,
    });
    if let Some(result) = result {
        configuration["prevResult"] = result.clone();
    }
    configuration
}

/// What a plugin that fails says, in its answer or in none.
fn words(stdout: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(stdout).unwrap_or(Value::Null);
    let said = ["msg", "details"].map(|part| answer[part].as_str().unwrap_or_default());
    let said = said.join(" ").trim().to_owned();
    if said.is_empty() {
        "it does not say why".to_owned()
    } else {
        said
    }
}
