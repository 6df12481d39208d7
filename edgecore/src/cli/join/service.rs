//! The systemd service, where systemd runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use super::plan::Plan;
use super::{Paths, Record, step, warn};

/// The unit, as it is installed by hand too.
const UNIT: &str = include_str!("../../../../manifests/systemd/edgecore.service");
/// The program's place in that file.
const PROGRAM: &str = "/usr/local/bin/edgecore";
/// The name of the service.
pub(in crate::cli) const NAME: &str = "edgecore.service";

/// Asks systemd, in the words of `systemctl`.
pub(in crate::cli) type Systemctl<'a> = dyn Fn(&[&str]) -> anyhow::Result<()> + Sync + 'a;

/// This machine's systemd, where it runs.
pub(in crate::cli) fn manager(paths: &Paths) -> Option<&'static Systemctl<'static>> {
    systemd_runs(paths).then_some(&systemctl as &Systemctl<'_>)
}

/// Whether services of this machine can be started and stopped.
pub(in crate::cli) fn systemd_runs(paths: &Paths) -> bool {
    paths.is_machine() && paths.at("run/systemd/system").is_dir()
}

/// Writes the unit and starts it. That it does not start is told, and does not undo the join.
pub(super) fn install(plan: &Plan, record: &mut Record, paths: &Paths) -> anyhow::Result<()> {
    if !plan.with_service {
        step("the service was not asked for; start the node with `edgecore run`");
        return Ok(());
    }
    if !systemd_runs(paths) {
        step("systemd does not run here; start the node with `edgecore run`");
        return Ok(());
    }
    let program = std::env::current_exe().context("the place of this program")?;
    record.service(&paths.unit(), unit(&program.display().to_string()).as_bytes())?;
    let started = systemctl(&["daemon-reload"])
        .and_then(|()| systemctl(&["enable", NAME]))
        .and_then(|()| systemctl(&["restart", NAME]));
    match started {
        Ok(()) => step("the service edgecore is started, and will be at every boot"),
        Err(error) => warn(&format!("the service edgecore did not start: {error:#}")),
    }
    Ok(())
}

/// Stops the service and keeps it from starting again.
pub(in crate::cli) fn disable(systemctl: &Systemctl<'_>, unit: &Path) -> anyhow::Result<()> {
    if unit.exists() {
        return systemctl(&["disable", "--now", NAME]);
    }
    // An earlier reset was cut short, or someone removed it: systemd may still have it loaded, or say that it never
    // heard of it.
    let _ = systemctl(&["stop", NAME]);
    Ok(())
}

/// Makes systemd forget a unit that was removed.
pub(in crate::cli) fn forget(systemctl: &Systemctl<'_>) -> anyhow::Result<()> {
    systemctl(&["daemon-reload"])
}

fn unit(program: &str) -> String {
    UNIT.replace(PROGRAM, program)
}

fn systemctl(args: &[&str]) -> anyhow::Result<()> {
    let shown = format!("systemctl {}", args.join(" "));
    let output = Command::new("systemctl")
        .args(args)
        .output()
        .with_context(|| shown.clone())?;
    if !output.status.success() {
        bail!("{shown}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_starts_the_program_that_joined() {
        let unit = unit("/opt/tombolo/edgecore");
        assert!(unit.contains("ExecStart=/opt/tombolo/edgecore run\n"), "{unit}");
        assert!(!unit.contains(PROGRAM));
    }
}
