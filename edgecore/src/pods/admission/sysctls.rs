//! Which kernel settings a pod may have of its own.
//!
//! Those that are kept apart between pods by the kernel in use and touch nobody else. All others would need
//! an operator's consent, for which there is no setting; they are refused as the kubelet refuses them.

use k8s_openapi::api::core::v1::Pod;

use super::super::spec;
use super::Rejection;

/// A kernel's major and minor version.
pub(in crate::pods) type Kernel = (u32, u32);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

use Namespace::{Ipc, Net};

/// (name, whose namespace it belongs to, the first kernel that keeps it apart).
const SAFE: [(&str, Namespace, Kernel); 12] = [
    ("kernel.shm_rmid_forced", Ipc, (0, 0)),
    ("net.ipv4.ip_local_port_range", Net, (0, 0)),
    ("net.ipv4.tcp_syncookies", Net, (0, 0)),
    ("net.ipv4.ping_group_range", Net, (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", Net, (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", Net, (3, 16)),
    ("net.ipv4.tcp_keepalive_time", Net, (4, 5)),
    ("net.ipv4.tcp_fin_timeout", Net, (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", Net, (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", Net, (4, 5)),
    ("net.ipv4.tcp_rmem", Net, (4, 15)),
    ("net.ipv4.tcp_wmem", Net, (4, 15)),
];

/// Checks every setting the pod asks for.
pub(super) fn check(pod: &Pod, kernel: Kernel) -> Result<(), Rejection> {
    let Some(spec) = spec::spec(pod) else {
        return Ok(());
    };
    let context = spec.security_context.as_ref();
    let wanted = context.into_iter().flat_map(|c| c.sysctls.iter().flatten());
    for sysctl in wanted {
        let name = normalized(&sysctl.name);
        let shared = (spec.host_network == Some(true), spec.host_ipc == Some(true));
        judge(&name, kernel, shared).map_err(|why| Rejection {
            reason: "SysctlForbidden",
            message: format!("forbidden sysctl: {why}"),
        })?;
    }
    Ok(())
}

fn judge(name: &str, kernel: Kernel, (host_network, host_ipc): (bool, bool)) -> Result<(), String> {
    let known = SAFE
        .iter()
        .find(|(safe, _, since)| *safe == name && kernel >= *since);
    match known {
        None => Err(format!("{name:?} not allowlisted")),
        Some((_, Ipc, _)) if host_ipc => Err(format!("{name:?} not allowed with host IPC enabled")),
        Some((_, Net, _)) if host_network => Err(format!("{name:?} not allowed with host Net enabled")),
        Some(_) => Ok(()),
    }
}

/// `net/ipv4/tcp_rmem` is another way to write `net.ipv4.tcp_rmem`: what comes first is the separator.
fn normalized(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(first) if name[first..].starts_with('/') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::testing::pod;
    use super::*;

    fn told(name: &str, more: &str, kernel: Kernel) -> Result<(), String> {
        let spec = format!(r#"{{{more}"securityContext":{{"sysctls":[{{"name":"{name}","value":"1"}}]}}}}"#);
        check(&pod(&spec), kernel).map_err(|rejection| rejection.message)
    }

    #[test]
    fn settings_that_touch_nobody_else_are_allowed_where_the_kernel_keeps_them_apart() {
        assert_eq!(told("net.ipv4.tcp_syncookies", "", (6, 1)), Ok(()));
        assert_eq!(told("net/ipv4/tcp_rmem", "", (4, 15)), Ok(()));
        assert_eq!(
            told("net.ipv4.tcp_rmem", "", (4, 14)).unwrap_err(),
            r#"forbidden sysctl: "net.ipv4.tcp_rmem" not allowlisted"#
        );
    }

    #[test]
    fn all_others_are_forbidden_in_the_kubelets_words() {
        assert_eq!(
            told("kernel.msgmax", "", (6, 1)).unwrap_err(),
            r#"forbidden sysctl: "kernel.msgmax" not allowlisted"#
        );
        assert_eq!(
            told("net.ipv4.tcp_syncookies", r#""hostNetwork":true,"#, (6, 1)).unwrap_err(),
            r#"forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host Net enabled"#
        );
        assert_eq!(
            told("kernel.shm_rmid_forced", r#""hostIPC":true,"#, (6, 1)).unwrap_err(),
            r#"forbidden sysctl: "kernel.shm_rmid_forced" not allowed with host IPC enabled"#
        );
        assert_eq!(check(&pod("{}"), (6, 1)), Ok(()));
    }
}
