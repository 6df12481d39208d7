//! The runtime and the machine. Pure.

use super::super::Finding;
use super::super::facts::{Answers, Machine, Network, Other, Resolved, Runtime, Sandbox, Seen, Space};
use crate::network::plugin;
use crate::node::thresholds::{Signal, Threshold, Thresholds};
use crate::pods::resolver::is_here_only;

/// What pods' limits are made of.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];
/// What is free of a disk is worth a word below so many halves of what the node keeps free.
const TIGHT_HALVES: u64 = 3;

/// The runtime, and what it says of itself.
pub(super) fn runtime(runtime: &Runtime, has_joined: bool) -> Vec<Finding> {
    const CHECK: &str = "runtime";
    match runtime {
        Runtime::Answers(answers) => told(answers, has_joined),
        Runtime::Silent { endpoint, why } => {
            let seen = format!("does not answer at {endpoint}: {why}");
            let remedy = if has_joined {
                "systemctl start containerd, or set runtime_endpoint in edgecore.yaml to its socket; Docker's packages \
                 switch CRI off (disabled_plugins in /etc/containerd/config.toml)"
            } else {
                "apt install containerd, and start it; or name its socket with edgecore join --runtime-endpoint"
            };
            vec![Finding::failed(CHECK, seen, remedy)]
        }
    }
}

fn told(answers: &Answers, has_joined: bool) -> Vec<Finding> {
    let runtime = match &answers.runtime_ready {
        Ok(()) => Finding::ok("runtime", format!("{} is ready", answers.version)),
        Err(why) => Finding::failed(
            "runtime",
            format!("{} is not ready: {why}", answers.version),
            "journalctl -u containerd; then systemctl restart containerd",
        ),
    };
    let network = match &answers.network_ready {
        Ok(()) => Some(Finding::ok("runtime network", "is ready")),
        // Before the join nobody has written one.
        Err(_) if !has_joined => None,
        Err(why) => Some(Finding::failed(
            "runtime network",
            why,
            "see the line of the pod network; the runtime reads it where crictl info says (confDir, binDirs)",
        )),
    };
    let cgroups = match &answers.driver {
        Some(driver) if *driver != answers.used => Finding::failed(
            "cgroup driver",
            format!("the runtime uses {driver}, edgecore {}", answers.used),
            "set cgroup_driver in /etc/tombolo/edgecore.yaml to the runtime's, and restart edgecore",
        ),
        Some(driver) => Finding::ok("cgroup driver", format!("both use {driver}")),
        None => Finding::unknown(
            "cgroup driver",
            format!("the runtime does not tell; edgecore uses {}", answers.used),
            "compare cgroup_driver in edgecore.yaml with SystemdCgroup (or cgroup_manager) of the runtime",
        ),
    };
    let sandbox = sandbox(&answers.sandbox);
    [Some(runtime), network, Some(cgroups), Some(sandbox)]
        .into_iter()
        .flatten()
        .collect()
}

fn sandbox(image: &Sandbox) -> Finding {
    const CHECK: &str = "sandbox image";
    const PULL: &str = "let the device reach its registry for the first pod, or import it: ctr -n k8s.io images \
         import FILE (CRI-O: podman load -i FILE)";
    match image {
        Sandbox::Here(name) => Finding::ok(CHECK, format!("{name} is on the device")),
        Sandbox::Missing(Some(name)) => Finding::warning(
            CHECK,
            format!("{name} is not on the device: the first pod pulls it"),
            PULL,
        ),
        Sandbox::Missing(None) => Finding::warning(
            CHECK,
            "the runtime has not kept one (pinned image): the first pod pulls it",
            PULL,
        ),
        Sandbox::Unknown(why) => Finding::unknown(CHECK, why, "crictl images"),
    }
}

/// The machine itself.
pub(super) fn machine(machine: &Seen<Machine>, thresholds: &Thresholds, has_joined: bool) -> Vec<Finding> {
    match machine {
        Err(why) => vec![Finding::unknown(
            "machine",
            format!("the kernel's files and the file systems were not read: {why}"),
            "does a mount hang? dmesg, and df",
        )],
        Ok(machine) => vec![
            network(&machine.network, has_joined),
            cgroups(&machine.controllers),
            disk(&machine.spaces, thresholds),
            name_servers(&machine.resolver),
            swap(machine.swap),
            others(&machine.others),
        ],
    }
}

fn network(network: &Network, has_joined: bool) -> Finding {
    const CHECK: &str = "pod network";
    match network {
        Network::Missing(dir) if has_joined => Finding::failed(
            CHECK,
            format!("there is no network configuration in {dir}"),
            "copy 90-tombolo.conflist there from a device with the same pod_cidr; or edgecore reset and join, which \
             writes one",
        ),
        Network::Missing(_) => Finding::ok(CHECK, "there is none yet: join writes one"),
        Network::Ours { missing, .. } if missing[..] == [plugin::NAME] => Finding::failed(
            CHECK,
            format!(
                "the link {} to this program is missing where the runtime has its plugins",
                plugin::NAME
            ),
            "systemctl restart edgecore, which makes it; if bin_dir in /etc/containerd/config.toml was changed since \
             this device joined: edgecore reset and join",
        ),
        Network::Ours { missing, .. } if !missing.is_empty() => Finding::failed(
            CHECK,
            format!("plugins are missing: {}", missing.join(", ")),
            "apt install containernetworking-plugins iptables; bin_dir in /etc/containerd/config.toml must be their directory",
        ),
        Network::Ours {
            collides: Some(route),
            ..
        } => Finding::failed(
            CHECK,
            format!("the addresses of pods collide with {route}"),
            "choose another range: edgecore reset, and edgecore join --pod-cidr RANGE",
        ),
        Network::Ours { .. } => Finding::ok(CHECK, "is configured by join, and its plugins are there"),
        Network::Before(file) => Finding::warning(
            CHECK,
            format!("{file} comes before the network that join wrote, and pods use it"),
            "if a DaemonSet of the cluster wrote it, keep that away from edge nodes (docs/install.md), remove the file, \
             give 90-tombolo.conflist its name back where it was put aside, and restart the container runtime; if it is \
             yours, remove 90-tombolo.conflist",
        ),
        Network::Foreign(file) => Finding::ok(CHECK, format!("is configured in {file}, which is not ours")),
        Network::Unread(why) => Finding::unknown(CHECK, why, "ls -l /etc/cni/net.d"),
    }
}

fn cgroups(controllers: &Seen<Vec<String>>) -> Finding {
    const CHECK: &str = "cgroups";
    let there = match controllers {
        Ok(there) => there,
        Err(why) => return Finding::unknown(CHECK, why, "mount | grep cgroup"),
    };
    let missing = CONTROLLERS
        .into_iter()
        .filter(|needed| !there.iter().any(|name| name == needed));
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Finding::ok(
            CHECK,
            format!("the controllers {} are there", CONTROLLERS.join(", ")),
        );
    }
    Finding::failed(
        CHECK,
        format!("controllers are missing: {}", missing.join(", ")),
        "switch them on in the kernel's command line and reboot; on a Raspberry Pi cgroup_enable=memory in \
         cmdline.txt",
    )
}

fn disk(spaces: &[Space], thresholds: &Thresholds) -> Finding {
    const CHECK: &str = "disk";
    if let Some(space) = spaces.iter().find(|space| space.is_read_only) {
        return Finding::failed(
            CHECK,
            format!(
                "{} ({}) is on a file system that is read-only",
                space.of, space.path
            ),
            "dmesg says why the kernel made it so; often the card or disk is dying",
        );
    }
    let worst = spaces
        .iter()
        .min_by_key(|space| (!is_short(space, thresholds), free(space)));
    let Some((space, (percent, what))) = worst.map(|space| (space, free(space))) else {
        return Finding::unknown(CHECK, "no file system was found to measure", "df");
    };
    let seen = format!("{percent} % of {what} are free for {} ({})", space.of, space.path);
    if is_short(space, thresholds) {
        Finding::failed(CHECK, seen, &room(thresholds))
    } else if is_tight(space, thresholds) {
        Finding::warning(CHECK, seen, &room(thresholds))
    } else {
        Finding::ok(CHECK, seen)
    }
}

/// Where the node says `DiskPressure`.
fn is_short(space: &Space, thresholds: &Thresholds) -> bool {
    let disk = &space.disk;
    let below = |threshold: Threshold, free, all| threshold.of(all).is_some_and(|least| free < least);
    below(thresholds.get(Signal::Disk), disk.bytes_free, disk.bytes)
        || below(thresholds.get(Signal::Inodes), disk.inodes_free, disk.inodes)
}

/// Where it is not far from that; nobody evicts anything where that is off, and then the default counts.
fn is_tight(space: &Space, thresholds: &Thresholds) -> bool {
    let disk = &space.disk;
    let least = |thresholds: &Thresholds| thresholds.get(Signal::Disk).of(disk.bytes);
    let least = least(thresholds).or_else(|| least(&Thresholds::default()));
    least.is_some_and(|least| disk.bytes_free.saturating_mul(2) < least.saturating_mul(TIGHT_HALVES))
}

/// How there will be room, and what comes if not.
fn room(thresholds: &Thresholds) -> String {
    const FREE: &str = "remove what is not needed (du, journalctl --vacuum-size)";
    let bounds = [Signal::Disk, Signal::Inodes].map(|signal| (signal, thresholds.get(signal)));
    let bounds = bounds
        .iter()
        .filter(|(_, threshold)| *threshold != Threshold::Off);
    let bounds: Vec<_> = bounds
        .map(|(signal, threshold)| format!("{} {threshold}", signal.name()))
        .collect();
    if bounds.is_empty() {
        return format!("{FREE}: eviction is off in edgecore.yaml, and nothing else makes room");
    }
    format!(
        "{FREE}: below {} the node says DiskPressure, and evicts pods",
        bounds.join(" or ")
    )
}

/// How much is free, in percent, of what is scarcer. Some file systems count no inodes.
fn free(space: &Space) -> (u64, &'static str) {
    let percent = |free: u64, all: u64| free.saturating_mul(100).checked_div(all).unwrap_or(100);
    let disk = &space.disk;
    let bytes = (percent(disk.bytes_free, disk.bytes), "bytes");
    // Inodes are short at half of what bytes are.
    let inodes = (percent(disk.inodes_free, disk.inodes), "inodes");
    if inodes.0 * 2 < bytes.0 { inodes } else { bytes }
}

fn name_servers(Resolved { file, servers }: &Resolved) -> Finding {
    const CHECK: &str = "name servers";
    if servers.is_empty() {
        return Finding::warning(
            CHECK,
            format!(
                "there is none in {file}: a pod that starts now resolves no names for as long as it lives"
            ),
            "connect the device's network; then delete the pods that started before",
        );
    }
    if is_here_only(servers) {
        return Finding::warning(
            CHECK,
            format!(
                "{file} names only {}, which in a pod is the pod itself",
                servers.join(", ")
            ),
            "write a file with servers that pods reach, and name it as resolv_conf in edgecore.yaml",
        );
    }
    Finding::ok(CHECK, format!("pods get {} of {file}", servers.join(", ")))
}

fn swap(is_on: bool) -> Finding {
    if is_on {
        return Finding::warning(
            "swap",
            "is on: pods without a memory limit may be swapped out, and become slow instead of ending",
            "swapoff -a, and remove it from /etc/fstab",
        );
    }
    Finding::ok("swap", "is off")
}

fn others(others: &[Other]) -> Finding {
    const CHECK: &str = "other agents";
    let names: Vec<&str> = others.iter().map(|other| other.name.as_str()).collect();
    let names = names.join(", ");
    if others.is_empty() {
        Finding::ok(CHECK, "no other kubelet or edgecore runs here")
    } else if others.iter().all(|other| other.by_port) {
        Finding::warning(
            CHECK,
            format!("{names} listens on the kubelet's port 10250"),
            "if it is a node agent, stop it; edgecore itself needs no port",
        )
    } else {
        Finding::failed(
            CHECK,
            format!("{names}: two agents would end each other's pods"),
            "stop it and keep it from starting: systemctl disable --now kubelet (or k3s, KubeEdge's edgecore)",
        )
    }
}
