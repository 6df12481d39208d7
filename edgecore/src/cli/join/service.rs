//! The systemd service, where systemd runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use super::{Paths, Record, step};
use crate::cli::record::{self, Entry};

/// The unit, as it is installed by hand too.
const UNIT: &str = include_str!("../../../../manifests/systemd/edgecore.service");
/// The program's place in that file.
const PROGRAM: &str = "/usr/local/bin/edgecore";
/// The name of the service.
pub(in crate::cli) const NAME: &str = "edgecore.service";

/// Where a program is not after a boot, or not yet when services start, or not for services.
const PASSING: [&str; 9] = [
    "/tmp", "/var/tmp", "/run", "/dev", "/media", "/mnt", "/home", "/root", "/proc",
];

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

/// Writes the unit and starts it. That it does not start does not undo the join. It is enabled last: one that is
/// enabled tells the next join that nothing is left to do.
pub(super) fn install(
    program: &Path,
    record: &mut Record,
    paths: &Paths,
    systemctl: &Systemctl<'_>,
) -> anyhow::Result<()> {
    record.service(&paths.unit(), unit(&program.display().to_string()).as_bytes())?;
    systemctl(&["daemon-reload"])
        .and_then(|()| systemctl(&["restart", NAME]))
        .and_then(|()| systemctl(&["enable", NAME]))
        .context("the device has joined, but its service did not start; run the same command again")?;
    settle(paths);
    step("the service edgecore is started, and will be at every boot");
    Ok(())
}

/// Waits for the disk. systemd does not: a power cut would take back what it has said of the next boot.
pub(in crate::cli) fn settle(paths: &Paths) {
    if !paths.is_machine() {
        return;
    }
    // Of that file system alone: another may be a server's that is gone.
    if let Some(Ok(dir)) = paths.unit().parent().map(std::fs::File::open) {
        let _ = nix::unistd::syncfs(dir);
    }
}

/// Whether the service starts at every boot.
pub(super) fn is_enabled(systemctl: &Systemctl<'_>) -> bool {
    systemctl(&["is-enabled", "--quiet", NAME]).is_ok()
}

/// Writes the unit of this version where an earlier one's is; what it starts stays what it was. Nothing is restarted:
/// most of it counts from the next boot on.
pub(super) fn renew(paths: &Paths, systemctl: &Systemctl<'_>) -> anyhow::Result<()> {
    let path = paths.unit();
    let is_ours = |entry: &Entry| matches!(entry, Entry::Service { path: ours } if *ours == path);
    if !Record::open(&paths.record())?.entries().iter().any(is_ours) {
        return Ok(());
    }
    let old = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let Some(new) = renewed(&old) else {
        return Ok(());
    };
    record::replace(&path, new.as_bytes(), 0o644)?;
    systemctl(&["daemon-reload"])?;
    step("wrote the service's unit anew, as this version has it; it counts from the service's next start on");
    Ok(())
}

/// Refuses a place that the service would not find the program in after a boot.
pub(super) fn must_last(program: &Path) -> anyhow::Result<()> {
    if is_lasting(program) && !is_in_memory(program) {
        return Ok(());
    }
    let program = program.display();
    bail!(
        "the service would run {program}, which may not be there when the device boots; install it first:\n\
         \x20 install -m 755 {program} {PROGRAM}\n\
         \x20 {PROGRAM} join ...\n\
         \x20 (or join with --no-service)"
    )
}

fn is_lasting(program: &Path) -> bool {
    !PASSING.iter().any(|dir| program.starts_with(dir))
}

/// On a device that has all of its system in memory there is no better place.
fn is_in_memory(program: &Path) -> bool {
    let memory = |path: &Path| statfs(path).is_ok_and(|found| found.filesystem_type() == TMPFS_MAGIC);
    memory(program) && !memory(Path::new("/"))
}

/// Stops the service and keeps it from starting again.
pub(in crate::cli) fn disable(systemctl: &Systemctl<'_>, unit: &Path) -> anyhow::Result<()> {
    if unit.exists() {
        return systemctl(&["disable", "--now", NAME]);
    }
    // An earlier reset was cut short, or someone removed it: systemd may still have it loaded, or say that it never
    // heard of it.
    for verb in ["stop", "disable"] {
        let _ = systemctl(&[verb, NAME]);
    }
    Ok(())
}

/// Makes systemd forget a unit that was removed.
pub(in crate::cli) fn forget(systemctl: &Systemctl<'_>) -> anyhow::Result<()> {
    systemctl(&["daemon-reload"])
}

/// The unit of this version with what another one starts, if they differ. One that starts it in more than one line is
/// somebody's own.
fn renewed(old: &str) -> Option<String> {
    let command = |text: &str| {
        let mut lines = text.lines().filter(|line| line.starts_with("ExecStart="));
        let line = lines.next().filter(|line| !line.ends_with('\\'))?;
        lines.next().is_none().then(|| line.to_owned())
    };
    let new = UNIT.replace(&command(UNIT)?, &command(old)?);
    (new != old).then_some(new)
}

fn unit(program: &str) -> String {
    UNIT.replace(PROGRAM, &quoted(program))
}

/// A path in systemd's words: `%` begins a specifier, and a blank ends a word.
fn quoted(path: &str) -> String {
    let path = path.replace('%', "%%");
    if path.chars().all(|c| !c.is_whitespace() && !"\"'\\;".contains(c)) {
        return path;
    }
    format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
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

    #[test]
    fn a_path_with_blanks_and_percents_is_one_word_to_systemd() {
        let unit = unit("/opt/edge core/100%/edgecore");
        assert!(
            unit.contains("ExecStart=\"/opt/edge core/100%%/edgecore\" run\n"),
            "{unit}"
        );
        assert_eq!(quoted(r#"/a"b\c"#), r#""/a\"b\\c""#);
    }

    #[test]
    fn a_unit_of_another_version_becomes_this_ones_and_starts_what_it_started() {
        let own = unit("/opt/edgecore");
        assert_eq!(renewed(&own), None, "it is this version's");
        let older = own.replace("RequiresMountsFor=", "# RequiresMountsFor=");
        assert_eq!(renewed(&older), Some(own));
        assert_eq!(renewed("[Service]\n"), None, "it starts nothing that is known");
        let folded = "[Service]\nExecStart=/opt/edgecore \\\n  run\n";
        assert_eq!(renewed(folded), None, "it is in two lines");
        let several = "[Service]\nExecStart=\nExecStart=/opt/edgecore run\n";
        assert_eq!(renewed(several), None, "somebody has changed what it starts");
    }

    #[test]
    fn a_program_that_the_next_boot_may_not_find_is_not_made_a_service() {
        for passing in [
            "/tmp/edgecore",
            "/run/x/edgecore",
            "/home/pi/edgecore",
            "/media/usb/edgecore",
        ] {
            let told = must_last(Path::new(passing)).unwrap_err().to_string();
            assert!(
                told.contains(&format!("install -m 755 {passing} {PROGRAM}")),
                "{told}"
            );
        }
        for lasting in [
            "/usr/local/bin/edgecore",
            "/opt/edgecore",
            "/tmpfs-tools/edgecore",
        ] {
            must_last(Path::new(lasting)).unwrap();
        }
    }
}
