//! The flags of the control plane's programs.

use std::path::Path;

use super::{Age, Patience, SHORT_TOLERATION, Style};
use crate::network::Network;

/// Where the API server serves.
pub(super) const API_PORT: u16 = 6443;

/// Who wrote what, without bodies: enough to count writes.
pub(super) const AUDIT_POLICY: &str = r#"{
  "apiVersion": "audit.k8s.io/v1",
  "kind": "Policy",
  "omitStages": ["RequestReceived"],
  "rules": [{ "level": "Metadata" }]
}"#;

pub(super) fn etcd(network: &Network, dir: &Path, age: Age) -> Vec<String> {
    let host = network.host();
    let (client, peer) = (format!("http://{host}:2379"), format!("http://{host}:2380"));
    let mut flags = vec![
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--log-level=warn".into(),
    ];
    flags.push(match age {
        Age::New => "--unsafe-no-fsync".into(),
        // Its other logger knows no levels.
        Age::Old => "--logger=zap".into(),
    });
    flags
}

pub(super) fn api_server(network: &Network, dir: &Path, style: Style) -> Vec<String> {
    let host = network.host();
    let file = |name: &str| dir.join(name).display().to_string();
    let mut flags = vec![
        format!("--advertise-address={host}"),
        format!("--bind-address={host}"),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers=http://{host}:2379"),
        format!("--service-cluster-ip-range={}", network.service_range()),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--tls-cert-file={}", file("apiserver.crt")),
        format!("--tls-private-key-file={}", file("apiserver.key")),
        format!("--kubelet-client-certificate={}", file("kubelet-client.crt")),
        format!("--kubelet-client-key={}", file("kubelet-client.key")),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
        format!("--service-account-key-file={}", file("service-accounts.pub")),
        format!(
            "--service-account-signing-key-file={}",
            file("service-accounts.key")
        ),
        format!("--audit-policy-file={}", file("audit-policy.json")),
        format!("--audit-log-path={}", file("audit.log")),
        "--authorization-mode=Node,RBAC".into(),
        // The second asks more rights of cloudcore than most clusters do.
        "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement".into(),
        "--kubelet-preferred-address-types=InternalIP,Hostname".into(),
        "--allow-privileged=true".into(),
        "--profiling=false".into(),
    ];
    if style.age == Age::Old {
        flags.push("--feature-gates=ConstrainedImpersonation=false".into());
    }
    if style.patience == Patience::Short {
        let seconds = SHORT_TOLERATION.as_secs();
        flags.extend([
            format!("--default-not-ready-toleration-seconds={seconds}"),
            format!("--default-unreachable-toleration-seconds={seconds}"),
        ]);
    }
    flags
}

pub(super) fn controllers(network: &Network, dir: &Path, patience: Patience) -> Vec<String> {
    let file = |name: &str| dir.join(name).display().to_string();
    let mut flags = vec![
        format!("--kubeconfig={}", file("controllers.kubeconfig")),
        format!("--root-ca-file={}", file("ca.crt")),
        format!(
            "--service-account-private-key-file={}",
            file("service-accounts.key")
        ),
        format!("--cluster-signing-cert-file={}", file("ca.crt")),
        format!("--cluster-signing-key-file={}", file("ca.key")),
        format!("--bind-address={}", network.host()),
        "--controllers=*".into(),
        "--use-service-account-credentials=true".into(),
        "--leader-elect=false".into(),
    ];
    if patience == Patience::Short {
        flags.extend([
            "--node-monitor-grace-period=16s".into(),
            "--node-monitor-period=1s".into(),
        ]);
    }
    flags
}

pub(super) fn scheduler(network: &Network, dir: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", dir.join("scheduler.kubeconfig").display()),
        format!("--bind-address={}", network.host()),
        "--leader-elect=false".into(),
    ]
}
