//! Cgroups of pods, in a directory that looks like the kernel's.

use super::super::hierarchy::Mount;
use super::super::systemd::testing::FakeSystemd;
use super::*;
use crate::pods::volumes::testing::{Scratch, is_root};

const LIMITS: PodLimits = PodLimits {
    cpu_shares: 1024,
    cpu_quota_us: Some(50_000),
    memory: Some(64 << 20),
};

fn layout() -> CgroupLayout {
    CgroupLayout::new("/lab", CgroupDriver::Cgroupfs)
}

/// A v2 tree of plain files: what the kernel would put into a directory is put there first.
fn fake_v2(scratch: &Scratch) -> Cgroups {
    for path in [
        "",
        "lab",
        "lab/kubepods",
        "lab/kubepods/burstable",
        "lab/kubepods/besteffort",
        "lab/kubepods/burstable/podu",
    ] {
        let dir = scratch.path().join(path);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.controllers"), "cpuset cpu memory pids\n").unwrap();
        std::fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
    }
    Cgroups {
        layout: layout(),
        hierarchy: Hierarchy::V2(scratch.path().to_owned()),
        systemd: Systemd::default(),
    }
}

#[test]
fn a_pods_limits_are_written_under_v2_and_controllers_handed_down() {
    let scratch = Scratch::new("cgroup-v2");
    let cgroups = fake_v2(&scratch);
    cgroups.ensure_classes(&LIMITS).unwrap();
    cgroups.ensure_pod(Qos::Burstable, "u", &LIMITS).unwrap();
    let read = |path: &str| std::fs::read_to_string(scratch.path().join("lab/kubepods").join(path)).unwrap();
    assert_eq!(read("burstable/podu/cpu.weight"), "39");
    assert_eq!(read("burstable/podu/cpu.max"), "50000 100000");
    assert_eq!(read("burstable/podu/memory.max"), (64 << 20).to_string());
    assert_eq!(read("besteffort/cpu.weight"), "1");
    assert_eq!(
        (read("cpu.weight").as_str(), read("memory.max")),
        ("39", (64 << 20).to_string())
    );
    // The fake keeps the last of the four writes; the kernel adds them up.
    assert_eq!(read("burstable/cgroup.subtree_control"), "+pids");
    cgroups.weigh_burstable(500).unwrap();
    assert_eq!(read("burstable/cpu.weight"), "20");
    assert_eq!(cgroups.pods(), [(Qos::Burstable, "u".to_owned())]);
}

#[test]
fn the_memory_of_a_pod_and_of_its_containers_is_read_under_both_versions() {
    let scratch = Scratch::new("cgroup-used");
    let (v2, v1) = (scratch.path().join("v2"), scratch.path().join("v1"));
    let cgroups = |hierarchy: Hierarchy| Cgroups {
        layout: layout(),
        hierarchy,
        systemd: Systemd::default(),
    };
    let memory = Mount {
        path: v1.join("memory"),
        controllers: vec!["memory".to_owned()],
    };
    let trees = [
        (v2.clone(), "memory.current", cgroups(Hierarchy::V2(v2))),
        (
            v1.join("memory"),
            "memory.usage_in_bytes",
            cgroups(Hierarchy::V1(vec![memory])),
        ),
    ];
    for (mount, file, cgroups) in trees {
        let pod = mount.join("lab/kubepods/burstable/podu");
        for (dir, used) in [("", "300"), ("cri-containerd-abc.scope", "100"), ("def", "200")] {
            std::fs::create_dir_all(pod.join(dir)).unwrap();
            std::fs::write(pod.join(dir).join(file), format!("{used}\n")).unwrap();
        }
        let used = |container| cgroups.memory_used(Qos::Burstable, "u", container);
        assert_eq!(
            [used(None), used(Some("abc")), used(Some("def")), used(Some("x"))],
            [Some(300), Some(100), Some(200), None]
        );
        assert_eq!(cgroups.memory_used(Qos::Guaranteed, "u", None), None);
    }
}

#[test]
fn the_processes_of_a_pod_are_counted_under_both_versions() {
    for v1 in [false, true] {
        let scratch = Scratch::new("cgroup-pids");
        let cgroups = if v1 { fake_v1(&scratch) } else { fake_v2(&scratch) };
        let mount = scratch.path().join(if v1 { "pids" } else { "" });
        let pod = mount.join("lab/kubepods/burstable/podu");
        std::fs::create_dir_all(&pod).unwrap();
        std::fs::write(pod.join("pids.current"), "42\n").unwrap();
        assert_eq!(cgroups.processes(Qos::Burstable, "u"), Some(42));
        assert_eq!(cgroups.processes(Qos::Burstable, "other"), None);
    }
}

/// A v1 tree of plain directories.
fn fake_v1(scratch: &Scratch) -> Cgroups {
    let mount = |name: &str| Mount {
        path: scratch.path().join(name),
        controllers: vec![name.to_owned()],
    };
    for name in ["cpu", "cpuset", "memory", "pids"] {
        std::fs::create_dir_all(scratch.path().join(name)).unwrap();
    }
    std::fs::write(scratch.path().join("cpuset/cpuset.cpus"), "0-3\n").unwrap();
    std::fs::write(scratch.path().join("cpuset/cpuset.mems"), "0\n").unwrap();
    let mounts = ["cpu", "cpuset", "memory", "pids"].map(mount).to_vec();
    Cgroups {
        layout: layout(),
        hierarchy: Hierarchy::V1(mounts),
        systemd: Systemd::default(),
    }
}

#[test]
fn what_the_runtime_made_in_a_v2_tree_beside_v1_goes_with_the_pod() {
    let scratch = Scratch::new("cgroup-hybrid");
    let mut cgroups = fake_v1(&scratch);
    let beside = scratch.path().join("unified");
    if let Hierarchy::V1(mounts) = &mut cgroups.hierarchy {
        mounts.push(Mount {
            path: beside.clone(),
            controllers: Vec::new(),
        });
    }
    cgroups.ensure_pod(Qos::BestEffort, "other", &LIMITS).unwrap();
    assert!(!beside.exists(), "nothing is made there");
    let pod = beside.join("lab/kubepods/besteffort/podu");
    std::fs::create_dir_all(pod.join("container")).unwrap();
    assert!(cgroups.pods().contains(&(Qos::BestEffort, "u".to_owned())));
    cgroups.remove_pod("u").unwrap();
    assert!(!pod.exists());
}

#[test]
fn every_v1_controller_has_the_pod_and_cpusets_are_copied_down() {
    let scratch = Scratch::new("cgroup-v1");
    let cgroups = fake_v1(&scratch);
    cgroups.ensure_pod(Qos::Guaranteed, "u", &LIMITS).unwrap();
    cgroups.ensure_pod(Qos::Guaranteed, "u", &LIMITS).unwrap();
    let read = |path: &str| std::fs::read_to_string(scratch.path().join(path)).unwrap();
    assert_eq!(read("cpu/lab/kubepods/podu/cpu.shares"), "1024");
    assert_eq!(read("cpu/lab/kubepods/podu/cpu.cfs_quota_us"), "50000");
    assert_eq!(
        read("memory/lab/kubepods/podu/memory.limit_in_bytes"),
        (64 << 20).to_string()
    );
    assert_eq!(read("cpuset/lab/kubepods/podu/cpuset.cpus"), "0-3");
    assert!(scratch.path().join("pids/lab/kubepods/podu").is_dir());
    assert_eq!(cgroups.pods(), [(Qos::Guaranteed, "u".to_owned())]);
}

#[test]
fn removing_a_pods_cgroup_takes_what_the_runtime_left_and_nothing_else() {
    let scratch = Scratch::new("cgroup-remove");
    let cgroups = fake_v1(&scratch);
    let leaf = scratch.path().join("pids/lab/kubepods/besteffort/podu/abc/def");
    std::fs::create_dir_all(&leaf).unwrap();
    std::fs::create_dir_all(scratch.path().join("pids/lab/kubepods/besteffort/podother")).unwrap();
    cgroups.remove_pod("u").unwrap();
    cgroups.remove_pod("u").unwrap();
    assert_eq!(cgroups.pods(), [(Qos::BestEffort, "other".to_owned())]);
}

#[test]
fn of_a_node_that_is_none_any_more_no_cgroup_is_left_but_the_root() {
    let scratch = Scratch::new("cgroup-all");
    let cgroups = fake_v1(&scratch);
    for leaf in ["pids/lab/kubepods/besteffort/podu/abc", "cpu/lab/kubepods/podv"] {
        std::fs::create_dir_all(scratch.path().join(leaf)).unwrap();
    }
    let beside = scratch.path().join("pids/lab/others");
    std::fs::create_dir_all(&beside).unwrap();
    cgroups.remove_all().unwrap();
    cgroups.remove_all().unwrap();
    for mount in ["pids", "cpu"] {
        assert!(!scratch.path().join(mount).join("lab/kubepods").exists());
    }
    assert!(beside.exists());
}

#[test]
fn a_cgroup_that_is_in_use_is_not_removed() {
    let scratch = Scratch::new("cgroup-busy");
    let cgroups = fake_v1(&scratch);
    let busy = scratch.path().join("pids/lab/kubepods/podu");
    std::fs::create_dir_all(&busy).unwrap();
    std::fs::write(busy.join("stands-for-a-process"), "").unwrap();
    for refused in [cgroups.remove_pod("u"), cgroups.remove_all()] {
        let error = refused.unwrap_err();
        assert!(matches!(error, CgroupError::Io { action: "remove", .. }));
    }
}

#[test]
fn the_kernels_own_tree_takes_a_pod_and_lets_it_go() {
    let root = format!("/tombolo-test-{}", std::process::id());
    let layout = CgroupLayout::new(&root, CgroupDriver::Cgroupfs);
    let Ok(cgroups) = Cgroups::detect(layout) else {
        return;
    };
    let writable = |mount: &&Path| nix::unistd::access(*mount, nix::unistd::AccessFlags::W_OK).is_ok();
    if !is_root() || !cgroups.hierarchy.mounts().iter().all(writable) {
        return;
    }
    let made = cgroups
        .ensure_classes(&LIMITS)
        .and_then(|()| cgroups.ensure_pod(Qos::Burstable, "u", &LIMITS));
    let seen = cgroups.pods();
    let removed = cgroups.remove_pod("u");
    for mount in cgroups.hierarchy.mounts() {
        remove(&mount.join(root.trim_start_matches('/'))).unwrap();
    }
    made.unwrap();
    removed.unwrap();
    assert_eq!(seen, [(Qos::Burstable, "u".to_owned())]);
}

/// The same tree, in slices that a systemd makes which answers everything with success.
fn fake_slices(scratch: &Scratch) -> (Cgroups, FakeSystemd) {
    let systemd = FakeSystemd::start(&scratch.path().join("private"));
    let cgroups = Cgroups {
        layout: CgroupLayout::new("/", CgroupDriver::Systemd),
        hierarchy: Hierarchy::V2(scratch.path().to_owned()),
        systemd: Systemd::at(systemd.socket()),
    };
    (cgroups, systemd)
}

#[test]
fn under_systemd_slices_are_made_limited_and_stopped_by_it() {
    let scratch = Scratch::new("cgroup-slices");
    let (cgroups, systemd) = fake_slices(&scratch);
    let odd = PodLimits {
        cpu_quota_us: Some(50_001),
        ..LIMITS
    };
    cgroups.ensure_pod(Qos::Burstable, "a-b", &odd).unwrap();
    assert_eq!(cgroups.pods(), [(Qos::Burstable, "a-b".to_owned())]);
    let dir = scratch
        .path()
        .join(cgroups.layout.pod_path(Qos::Burstable, "a-b"));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!(read("cpu.max"), "51000 100000", "as systemd rounds it");
    std::fs::write(dir.join("cgroup.procs"), "7\n").unwrap();
    assert!(matches!(cgroups.remove_pod("a-b"), Err(CgroupError::InUse(_))));
    // The kernel takes its files away with the directory; the fake's are plain ones.
    for file in ["cgroup.procs", "cpu.max", "cpu.weight", "memory.max"] {
        std::fs::remove_file(dir.join(file)).unwrap();
    }
    cgroups.remove_pod("a-b").unwrap();
    let slice = "kubepods-burstable-poda_b.slice";
    let made = [
        format!("StartTransientUnit {slice}"),
        format!("SetUnitProperties {slice}"),
        format!("StopUnit {slice}"),
    ];
    assert_eq!(systemd.calls(), made);
    for class in ["", "kubepods-burstable.slice"] {
        let dir = scratch.path().join("kubepods.slice").join(class);
        std::fs::remove_file(dir.join("cgroup.subtree_control")).unwrap_or_default();
    }
    cgroups.remove_all().unwrap();
    assert_eq!(
        systemd.calls()[made.len()..],
        ["StopUnit kubepods-burstable.slice", "StopUnit kubepods.slice"]
    );
}
