//! Reads the machine and the runtime. The only part of `node` that touches either.
//!
//! Everything read is a small file of the kernel or one call to the runtime. What cannot be
//! read stays empty or absent: a device with an odd firmware is still a node.

use std::path::Path;

use k8s_cri::v1 as cri;

use super::{Disk, Handler, Image, Load, Machine, RuntimeCondition, RuntimeFacts};
use crate::runtime::{Runtime, RuntimeError};

/// Reads what does not change while the machine runs. `root` is `/` but in tests.
pub fn machine(root: &Path) -> Machine {
    let machine_id = first(root, &["etc/machine-id", "var/lib/dbus/machine-id"]);
    Machine {
        system_uuid: system_uuid(root).unwrap_or_else(|| machine_id.clone()),
        machine_id,
        boot_id: first(root, &["proc/sys/kernel/random/boot_id"]),
        kernel_version: first(root, &["proc/sys/kernel/osrelease"]),
        os_image: os_image(&first_raw(root, &["etc/os-release", "usr/lib/os-release"])),
        cpus: cpus(&first(root, &["sys/devices/system/cpu/online"])),
        memory: meminfo(root, "MemTotal:").unwrap_or_default(),
        swap: meminfo(root, "SwapTotal:").unwrap_or_default(),
        huge_pages: huge_pages(&root.join("sys/kernel/mm/hugepages")),
    }
}

/// The major and minor number of `uname -r`.
pub fn kernel_numbers(version: &str) -> (u32, u32) {
    let mut numbers = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether the kernel enforces profiles of `AppArmor`.
pub fn app_armor(root: &Path) -> bool {
    root.join("sys/kernel/security/apparmor").exists()
        && first(root, &["sys/module/apparmor/parameters/enabled"]).starts_with('Y')
}

/// Whether `SELinux` is on.
pub fn selinux(root: &Path) -> bool {
    root.join("sys/fs/selinux/enforce").exists()
}

/// Whether memory may be swapped out. The first line of the list is its heading.
pub(crate) fn swap(root: &Path) -> bool {
    std::fs::read_to_string(root.join("proc/swaps")).is_ok_and(|swaps| swaps.lines().count() > 1)
}

/// Reads what is used and what is left; `pods` is the directory whose file system pods fill, `images` that of the
/// images where they lie on another one.
pub fn load(root: &Path, pods: &Path, images: Option<&Path>) -> Load {
    Load {
        // Where it cannot be read nothing is known to be short.
        memory_available: meminfo(root, "MemAvailable:").unwrap_or(u64::MAX),
        disk: disk(pods),
        images: images.and_then(disk),
        pids_used: threads(&first(root, &["proc/loadavg"])),
        pids_max: number(root, "proc/sys/kernel/pid_max").min(number(root, "proc/sys/kernel/threads-max")),
    }
}

/// Asks the runtime what it is and what it has.
pub async fn runtime(runtime: &dyn Runtime) -> Result<RuntimeFacts, RuntimeError> {
    let version = runtime.version().await?;
    let status = runtime.status(false).await?;
    let images = runtime.list_images().await?;
    Ok(facts(version, status, images))
}

fn facts(
    version: cri::VersionResponse,
    status: cri::StatusResponse,
    images: Vec<cri::Image>,
) -> RuntimeFacts {
    let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
    let find = |kind: &str| {
        conditions
            .iter()
            .find(|found| found.r#type == kind)
            .map(condition)
    };
    RuntimeFacts {
        name: version.runtime_name,
        version: version.runtime_version.trim_start_matches('v').to_owned(),
        runtime_ready: find("RuntimeReady"),
        network_ready: find("NetworkReady"),
        handlers: status.runtime_handlers.into_iter().map(handler).collect(),
        supplemental_groups_policy: status.features.map(|known| known.supplemental_groups_policy),
        images: images.into_iter().map(image).collect(),
    }
}

fn condition(found: &cri::RuntimeCondition) -> RuntimeCondition {
    RuntimeCondition {
        status: found.status,
        reason: found.reason.clone(),
        message: found.message.clone(),
    }
}

fn handler(found: cri::RuntimeHandler) -> Handler {
    let features = found.features.unwrap_or_default();
    Handler {
        name: found.name,
        recursive_read_only_mounts: features.recursive_read_only_mounts,
        user_namespaces: features.user_namespaces,
    }
}

fn image(found: cri::Image) -> Image {
    let names = found.repo_digests.into_iter().chain(found.repo_tags).collect();
    Image {
        names,
        size: found.size,
    }
}

/// How full the file system is that holds `path`.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    // Before the first pod the directory may not exist; its parent's file system will hold it.
    let existing = path.ancestors().find(|part| part.exists())?;
    let stat = nix::sys::statvfs::statvfs(existing).ok()?;
    let unit = stat.fragment_size();
    Some(Disk {
        bytes: stat.blocks() * unit,
        bytes_free: stat.blocks_available() * unit,
        inodes: stat.files(),
        inodes_free: stat.files_available(),
    })
}

fn system_uuid(root: &Path) -> Option<String> {
    let places = [
        "sys/class/dmi/id/product_uuid",
        "proc/device-tree/system-id",
        "proc/device-tree/vm,uuid",
    ];
    Some(first(root, &places)).filter(|uuid| !uuid.is_empty())
}

fn os_image(os_release: &str) -> String {
    let value = os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    value.map_or_else(
        || "Linux".to_owned(),
        |value| value.trim().trim_matches(['"', '\'']).to_owned(),
    )
}

/// Counts the processors of a kernel list such as `0-3,6`.
fn cpus(online: &str) -> u32 {
    let span = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        Some((to + 1).saturating_sub(from))
    };
    online.split(',').filter_map(span).sum::<u32>().max(1)
}

fn meminfo(root: &Path, field: &str) -> Option<u64> {
    let text = first_raw(root, &["proc/meminfo"]);
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|kib| kib.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
}

fn huge_pages(dir: &Path) -> Vec<(u64, u64)> {
    let read = |entry: std::fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kib: u64 = name
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let count: u64 = std::fs::read_to_string(entry.path().join("nr_hugepages"))
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some((kib * 1024, count * kib * 1024))
    };
    let entries = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let mut found: Vec<_> = entries.filter_map(read).collect();
    found.sort_unstable();
    found
}

/// The number of threads, from `0.5 0.4 0.3 2/345 6789`.
fn threads(loadavg: &str) -> u64 {
    let field = loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/'));
    field.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

fn number(root: &Path, path: &str) -> u64 {
    first(root, &[path]).parse().unwrap_or(u64::MAX)
}

fn first(root: &Path, places: &[&str]) -> String {
    first_raw(root, places)
        .trim_matches(|c: char| c.is_whitespace() || c == '\0')
        .to_owned()
}

fn first_raw(root: &Path, places: &[&str]) -> String {
    places
        .iter()
        .find_map(|place| std::fs::read_to_string(root.join(place)).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_counted_from_the_kernels_list() {
        assert_eq!(cpus("0"), 1);
        assert_eq!(cpus("0-3,6"), 5);
        assert_eq!(cpus(""), 1);
    }

    #[test]
    fn the_name_of_the_system_is_what_os_release_calls_pretty() {
        assert_eq!(
            os_image("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(os_image(""), "Linux");
    }

    #[test]
    fn kernel_versions_are_compared_by_their_numbers() {
        for (text, numbers) in [
            ("6.1.0-18-amd64", (6, 1)),
            ("5.15", (5, 15)),
            ("4.4-rc1", (4, 4)),
            ("", (0, 0)),
        ] {
            assert_eq!(kernel_numbers(text), numbers, "{text}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = machine(Path::new("/"));
        assert!(machine.cpus >= 1 && machine.memory > 0);
        assert!(!machine.kernel_version.is_empty() && !machine.boot_id.is_empty());
        let load = load(Path::new("/"), Path::new("/var/lib/kubelet/pods/none"), None);
        assert!(load.memory_available > 0 && load.pids_used > 0 && load.pids_max > load.pids_used);
        assert!(load.disk.is_some_and(|disk| disk.bytes > 0));
    }

    #[test]
    fn a_machine_of_which_nothing_can_be_read_is_still_described() {
        let machine = machine(Path::new("/nowhere"));
        assert_eq!((machine.cpus, machine.os_image.as_str()), (1, "Linux"));
    }

    #[test]
    fn what_the_runtime_says_is_taken_over() {
        let condition = |kind: &str, status| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status,
            ..cri::RuntimeCondition::default()
        };
        let status = cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", false)],
            }),
            ..cri::StatusResponse::default()
        };
        let version = cri::VersionResponse {
            runtime_name: "containerd".to_owned(),
            runtime_version: "v2.4.2".to_owned(),
            ..cri::VersionResponse::default()
        };
        let facts = facts(version, status, Vec::new());
        assert_eq!(facts.version, "2.4.2");
        assert!(facts.runtime_ready.is_some_and(|ready| ready.status));
        assert!(facts.network_ready.is_some_and(|ready| !ready.status));
    }
}
