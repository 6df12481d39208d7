//! Writes the custom resource definitions from the Rust types, into `manifests/crds` and the chart.

#[path = "../tests/crds/definitions.rs"]
mod definitions;

use std::path::Path;

use definitions::{definitions, plain, template};

fn main() -> std::io::Result<()> {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    for definition in definitions() {
        std::fs::write(manifests.join("crds").join(definition.file), plain(&definition))?;
        let templates = manifests.join("charts/cloudcore/templates/crds");
        std::fs::write(templates.join(definition.file), template(&definition))?;
    }
    Ok(())
}
