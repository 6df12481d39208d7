//! How pod cgroups are called under both drivers, as the kubelet calls them.
//!
//! Pure naming, no I/O. **Invariant:** a name is made of the configured root, `kubepods`, the class of service and
//! the pod's UID, and of nothing that a pod can choose.

use std::str::FromStr;

use thiserror::Error;

use super::super::resources::Qos;

/// systemd's name for the top of the tree.
const ROOT_SLICE: &str = "-.slice";

/// Who makes cgroups: we ourselves, or systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupDriver {
    /// Plain directories.
    Cgroupfs,
    /// Slices.
    Systemd,
}

impl CgroupDriver {
    /// As the configuration and the kubelet's write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// A driver of another name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("\"{0}\" is no cgroup driver: write cgroupfs or systemd")]
pub struct UnknownDriver(String);

impl FromStr for CgroupDriver {
    type Err = UnknownDriver;

    fn from_str(text: &str) -> Result<Self, UnknownDriver> {
        let known = [Self::Cgroupfs, Self::Systemd];
        let named = known.into_iter().find(|driver| driver.as_str() == text);
        named.ok_or_else(|| UnknownDriver(text.to_owned()))
    }
}

/// The configured root and the driver: enough to name any pod's cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupLayout {
    root: Vec<String>,
    driver: CgroupDriver,
}

impl CgroupLayout {
    /// A layout below `root` (`/` or `/a/b`).
    pub fn new(root: &str, driver: CgroupDriver) -> Self {
        let root = root
            .split('/')
            .filter(|part| !part.is_empty() && *part != "..")
            .map(str::to_owned)
            .collect();
        Self { root, driver }
    }

    /// The driver.
    pub fn driver(&self) -> CgroupDriver {
        self.driver
    }

    /// What the runtime is told as `cgroup_parent` of a pod.
    pub fn pod_parent(&self, qos: Qos, uid: &str) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => format!("/{}", self.pod_path(qos, uid)),
            CgroupDriver::Systemd => last_slice(&self.pod_path(qos, uid)),
        }
    }

    /// The path of the pod's cgroup below a controller's mount, without a leading slash.
    pub fn pod_path(&self, qos: Qos, uid: &str) -> String {
        let mut parts = self.qos_parts(qos);
        parts.push(format!("pod{uid}"));
        self.render(&parts)
    }

    /// The path of a class's cgroup (Guaranteed: of `kubepods` itself).
    pub fn qos_path(&self, qos: Qos) -> String {
        self.render(&self.qos_parts(qos))
    }

    /// The UID of the pod whose cgroup is called `name` below its class.
    pub(super) fn pod_uid(&self, qos: Qos, name: &str) -> Option<String> {
        let pod = match self.driver {
            CgroupDriver::Cgroupfs => name.to_owned(),
            CgroupDriver::Systemd => {
                let class = last_slice(&self.qos_path(qos));
                let prefix = format!("{}-", class.trim_end_matches(".slice"));
                name.strip_suffix(".slice")?
                    .strip_prefix(&prefix)?
                    .replace('_', "-")
            }
        };
        pod.strip_prefix("pod")
            .filter(|uid| !uid.is_empty())
            .map(str::to_owned)
    }

    fn qos_parts(&self, qos: Qos) -> Vec<String> {
        let mut parts = self.root.clone();
        parts.push("kubepods".to_owned());
        match qos {
            Qos::Guaranteed => {}
            Qos::Burstable => parts.push("burstable".to_owned()),
            Qos::BestEffort => parts.push("besteffort".to_owned()),
        }
        parts
    }

    fn render(&self, parts: &[String]) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => parts.join("/"),
            CgroupDriver::Systemd => slices(parts),
        }
    }
}

/// `[a, b-c]` becomes `a.slice/a-b_c.slice`: systemd reads a dash as a level.
fn slices(parts: &[String]) -> String {
    let mut prefix = String::new();
    let mut path = Vec::with_capacity(parts.len());
    for part in parts {
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(&part.replace('-', "_"));
        path.push(format!("{prefix}.slice"));
    }
    path.join("/")
}

/// The last step of a path of slices and the slice that it stands in.
pub(super) fn ancestry(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some((above, slice)) => (above.rsplit('/').next().unwrap_or(above), slice),
        None => (ROOT_SLICE, path),
    }
}

fn last_slice(path: &str) -> String {
    ancestry(path).1.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_equal_the_kubelets_under_cgroupfs() {
        let layout = CgroupLayout::new("/", CgroupDriver::Cgroupfs);
        assert_eq!(
            layout.pod_parent(Qos::Burstable, "ab-cd"),
            "/kubepods/burstable/podab-cd"
        );
        assert_eq!(layout.pod_parent(Qos::Guaranteed, "ab-cd"), "/kubepods/podab-cd");
        let nested = CgroupLayout::new("/lab/edge-1/", CgroupDriver::Cgroupfs);
        assert_eq!(
            nested.pod_parent(Qos::BestEffort, "u"),
            "/lab/edge-1/kubepods/besteffort/podu"
        );
    }

    #[test]
    fn names_equal_the_kubelets_under_systemd() {
        let layout = CgroupLayout::new("/", CgroupDriver::Systemd);
        assert_eq!(
            layout.pod_parent(Qos::Burstable, "ab-cd"),
            "kubepods-burstable-podab_cd.slice"
        );
        assert_eq!(
            layout.pod_path(Qos::Burstable, "ab-cd"),
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice"
        );
        assert_eq!(layout.qos_path(Qos::Guaranteed), "kubepods.slice");
        assert_eq!(ancestry("kubepods.slice"), ("-.slice", "kubepods.slice"));
        assert_eq!(
            ancestry("a.slice/a-b.slice/a-b-c.slice"),
            ("a-b.slice", "a-b-c.slice")
        );
    }

    #[test]
    fn a_pod_is_known_by_its_cgroup() {
        for driver in [CgroupDriver::Cgroupfs, CgroupDriver::Systemd] {
            let layout = CgroupLayout::new("/a-b", driver);
            let path = layout.pod_path(Qos::Burstable, "ab-cd");
            let name = path.rsplit('/').next().unwrap();
            assert_eq!(layout.pod_uid(Qos::Burstable, name).as_deref(), Some("ab-cd"));
            assert_eq!(layout.pod_uid(Qos::Burstable, "burstable"), None);
        }
    }

    #[test]
    fn a_root_cannot_climb() {
        let layout = CgroupLayout::new("/../../a", CgroupDriver::Cgroupfs);
        assert_eq!(layout.qos_path(Qos::Guaranteed), "a/kubepods");
    }
}
