//! Reaching the API server, and finding out what it lets cloudcore do.
//!
//! What it is: the client, the identity of the cluster, and the check at start that every right
//! is there. What it is not: a retry loop; a replica without rights is restarted by its pod.
//!
//! **Invariant:** a missing right is named before anything is served, with the rule to add.

use std::fmt;
use std::path::{Path, PathBuf};

use futures::future::join_all;
use http::{HeaderValue, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use thiserror::Error;

use super::api::{Actor, Api, ApiError, Call, Impersonation};
use super::client::{client, watching_client};
use super::way::find_way;

const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Who asks, in the API server's logs and as the manager of whatever names no other.
const AGENT: HeaderValue = HeaderValue::from_static(concat!("cloudcore/", env!("CARGO_PKG_VERSION")));

/// Why cloudcore cannot work with the API server.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The kubeconfig file is missing or unreadable.
    #[error(
        "the kubeconfig {path} cannot be used: give an existing file to --kubeconfig, or run in a cluster"
    )]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<kube::config::KubeconfigError>,
    },
    /// Not in a cluster, and no kubeconfig was given.
    #[error("not running in a cluster: give the path of a kubeconfig with --kubeconfig")]
    NotInCluster(#[source] Box<kube::config::InClusterError>),
    /// The credentials or the TLS settings cannot be used.
    #[error("the credentials for the API server cannot be used")]
    Client(#[source] Box<kube::Error>),
    /// Rights are missing.
    #[error("cloudcore lacks rights; install the chart's RBAC, or add these rules:{}", list(.0))]
    Rights(Vec<Right>),
    /// No way of impersonation works.
    #[error(
        "cloudcore may not act for nodes. On Kubernetes 1.36 and later it needs the verb impersonate:arbitrary-node on \
         nodes.authentication.k8s.io and impersonate-on:arbitrary-node:get on nodes (chart value impersonation=constrained); \
         on older servers the verb impersonate on users, and on the group system:nodes (impersonation=classic)"
    )]
    Impersonation(#[source] ApiError),
    /// The API server does not answer, or not as it should.
    #[error(transparent)]
    Api(#[from] ApiError),
}

fn list(rights: &[Right]) -> String {
    rights
        .iter()
        .fold(String::new(), |text, right| text + "\n  - " + &right.to_string())
}

/// A right that cloudcore needs, as an RBAC rule names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    group: &'static str,
    resource: &'static str,
    verb: &'static str,
    namespace: Option<&'static str>,
    name: Option<&'static str>,
}

impl fmt::Display for Right {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            group,
            resource,
            verb,
            namespace,
            name,
        } = self;
        write!(
            out,
            "apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [\"{verb}\"]"
        )?;
        name.map_or(Ok(()), |name| write!(out, ", resourceNames: [\"{name}\"]"))?;
        namespace.map_or(Ok(()), |namespace| write!(out, ", in namespace {namespace}"))
    }
}

/// What cloudcore does under its own name, outside its own namespace.
const RIGHTS: [Right; 26] = [
    cluster_wide("", "pods", "list"),
    cluster_wide("", "pods", "watch"),
    cluster_wide("", "pods", "patch"),
    cluster_wide("", "services", "list"),
    cluster_wide("", "services", "watch"),
    cluster_wide("", "nodes", "get"),
    cluster_wide("", "nodes", "list"),
    cluster_wide("", "nodes", "watch"),
    cluster_wide("", "nodes", "create"),
    cluster_wide("node.k8s.io", "runtimeclasses", "list"),
    cluster_wide("node.k8s.io", "runtimeclasses", "watch"),
    Right {
        name: Some("kube-system"),
        ..cluster_wide("", "namespaces", "get")
    },
    Right {
        namespace: Some("kube-node-lease"),
        ..cluster_wide("coordination.k8s.io", "leases", "get")
    },
    // Rights on kinds that the cluster may lack cost nothing.
    of_devices("devicemodels", "list"),
    of_devices("devicemodels", "watch"),
    of_devices("devices", "get"),
    of_devices("devices", "list"),
    of_devices("devices", "watch"),
    of_devices("devices", "patch"),
    of_devices("devicestatuses", "get"),
    of_devices("devicestatuses", "list"),
    of_devices("devicestatuses", "watch"),
    of_devices("devicestatuses", "create"),
    of_devices("devicestatuses", "patch"),
    cluster_wide("", "events", "create"),
    cluster_wide("", "events", "patch"),
];

const fn of_devices(resource: &'static str, verb: &'static str) -> Right {
    cluster_wide(protocol::devices::GROUP, resource, verb)
}

const fn cluster_wide(group: &'static str, resource: &'static str, verb: &'static str) -> Right {
    Right {
        group,
        resource,
        verb,
        namespace: None,
        name: None,
    }
}

/// The API server, found.
#[derive(Clone)]
pub struct Found {
    /// A client with cloudcore's own credentials.
    pub client: kube::Client,
    /// What others are made by.
    config: kube::Config,
    /// Where it is, as `host:port`: what the raw tunnels of pods lead to.
    pub address: String,
}

/// Finds the API server, by a kubeconfig or by what every pod is told.
pub async fn find(kubeconfig: Option<&Path>) -> Result<Found, ConnectError> {
    let config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => kube::Config::incluster().map_err(|error| ConnectError::NotInCluster(Box::new(error)))?,
    };
    let config = of_cloudcore(config);
    let address = address_of(&config.cluster_url);
    let client = client(config.clone()).map_err(unusable)?;
    Ok(Found {
        client,
        config,
        address,
    })
}

fn unusable(error: kube::Error) -> ConnectError {
    ConnectError::Client(Box::new(error))
}

fn of_cloudcore(mut config: kube::Config) -> kube::Config {
    // Retries are decided by those who know what was asked.
    config.default_retry = false;
    config.headers.push((header::USER_AGENT, AGENT));
    config
}

fn address_of(url: &http::Uri) -> String {
    let port = url
        .port_u16()
        .unwrap_or(if url.scheme_str() == Some("http") { 80 } else { 443 });
    format!("{}:{port}", url.host().unwrap_or_default())
}

async fn from_file(path: &Path) -> Result<kube::Config, ConnectError> {
    let unusable = |error| ConnectError::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(error),
    };
    let file = Kubeconfig::read_from(path).map_err(unusable)?;
    kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(unusable)
}

/// Checks every right and chooses the way of impersonation by trying.
pub async fn examine(found: &Found) -> Result<Api, ConnectError> {
    // Here, for a replica alone has watches: each client runs a credential plugin of the kubeconfig.
    let watching = watching_client(&found.config).map_err(unusable)?;
    let api = Api::new(found.client.clone(), Impersonation::Constrained).watching_by(watching);
    let missing = missing_rights(&api).await?;
    if !missing.is_empty() {
        return Err(ConnectError::Rights(missing));
    }
    match find_way(&api).await {
        Ok(_) => Ok(api),
        Err(refusal) if refusal.is_forbidden() => Err(ConnectError::Impersonation(refusal)),
        Err(error) => Err(error.into()),
    }
}

async fn missing_rights(api: &Api) -> Result<Vec<Right>, ApiError> {
    let answers = join_all(RIGHTS.iter().map(|right| has(api, right))).await;
    let mut missing = Vec::new();
    for (right, answer) in RIGHTS.iter().zip(answers) {
        if !answer? {
            missing.push(*right);
        }
    }
    Ok(missing)
}

async fn has(api: &Api, right: &Right) -> Result<bool, ApiError> {
    let Right {
        group,
        resource,
        verb,
        namespace,
        name,
    } = right;
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": { "resourceAttributes": { "group": group, "resource": resource, "verb": verb, "namespace": namespace, "name": name } },
    });
    let call = Call::post(REVIEWS, review.to_string().into_bytes());
    let answer: Value = api.call_as(Actor::Cloudcore, call).await?;
    Ok(answer["status"]["allowed"] == json!(true))
}

/// The cluster's identity: the UID of the namespace that every cluster has, and keeps.
pub async fn cluster_id(api: &Api) -> Result<String, ApiError> {
    let found: Value = api
        .call_as(Actor::Cloudcore, Call::get("/api/v1/namespaces/kube-system"))
        .await?;
    Ok(found["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_api_server_is_whole() {
        for (url, address) in [
            ("https://10.96.0.1", "10.96.0.1:443"),
            ("https://[fd00::1]:6443/", "[fd00::1]:6443"),
            ("http://localhost", "localhost:80"),
        ] {
            assert_eq!(address_of(&url.parse().unwrap()), address);
        }
    }

    #[test]
    fn every_request_says_that_it_is_cloudcore_s() {
        let config = of_cloudcore(kube::Config::new("https://10.96.0.1".parse().unwrap()));
        let agent = config
            .headers
            .iter()
            .find(|(name, _)| *name == header::USER_AGENT);
        assert!(agent.is_some_and(|(_, agent)| agent.as_bytes().starts_with(b"cloudcore/")));
    }

    #[tokio::test]
    async fn a_command_runs_a_credential_plugin_no_more_often_than_its_one_client_needs() {
        let folder = std::env::temp_dir().join(format!("cloudcore-plugin-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (file, runs) = (folder.join("kubeconfig"), folder.join("runs"));
        let credential = r#"{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}"#;
        let script = format!("echo run >>{}; echo '{credential}'", runs.display());
        let version = "client.authentication.k8s.io/v1";
        let plugin = json!({ "apiVersion": version, "command": "sh", "args": ["-c", script], "interactiveMode": "Never" });
        // A YAML of one line.
        let kubeconfig = json!({
            "clusters": [{ "name": "c", "cluster": { "server": "https://127.0.0.1:1" } }],
            "users": [{ "name": "u", "user": { "exec": plugin } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        std::fs::write(&file, kubeconfig.to_string()).unwrap();
        find(Some(&file)).await.unwrap();
        let ran = std::fs::read_to_string(&runs).unwrap().lines().count();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(ran, 2, "for its TLS and for its requests");
    }

    #[test]
    fn missing_rights_are_named_as_the_rules_to_add() {
        let error = ConnectError::Rights(vec![RIGHTS[0], RIGHTS[12]]).to_string();
        assert!(
            error.contains(r#"resources: ["pods"], verbs: ["list"]"#),
            "{error}"
        );
        assert!(error.contains(r#"apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"], in namespace kube-node-lease"#), "{error}");
    }

    /// The rules of the chart's `ClusterRole`, without the parts that depend on a choice.
    fn chart_grants(group: &str, resource: &str, verb: &str) -> bool {
        let text = include_str!("../../../manifests/charts/cloudcore/templates/rbac.yaml");
        let rules = text.split("- apiGroups: ").skip(1).map(|rule| {
            let list = |key: &str| -> Vec<String> {
                let line = rule.lines().find_map(|line| line.trim().strip_prefix(key));
                let items = line.unwrap_or_default().trim_matches(['[', ']']);
                let items = items
                    .split(',')
                    .map(|item| item.trim().trim_matches('"').to_owned());
                items.collect()
            };
            let groups = rule.lines().next().unwrap_or_default();
            (
                groups.trim_matches(['[', ']', '"']).to_owned(),
                list("resources: "),
                list("verbs: "),
                rule,
            )
        });
        rules.into_iter().any(|(groups, resources, verbs, rule)| {
            let has = |items: &[String], wanted: &str| items.iter().any(|item| item == wanted);
            // Leases have a list of their own, one verb a line.
            let verbs_fit = has(&verbs, verb) || rule.contains(&format!("- {verb}\n"));
            groups == group && has(&resources, resource) && verbs_fit
        })
    }

    #[test]
    fn the_chart_gives_every_right_that_is_asked_for() {
        for right in RIGHTS {
            assert!(chart_grants(right.group, right.resource, right.verb), "{right}");
        }
        assert!(!chart_grants("", "nodes", "patch") && !chart_grants("", "secrets", "escalate"));
    }

    /// What is asked as a node: the reads and writes of `named`, `nodes`, `pods`, `lease`, `events` and `way`, and
    /// what the tunnel service `kube-api` lets pass.
    const AS_NODE: [(&str, &str); 14] = [
        ("configmaps", "list"),
        ("configmaps", "watch"),
        ("events", "create"),
        ("leases", "create"),
        ("leases", "get"),
        ("leases", "update"),
        ("nodes", "get"),
        ("nodes", "patch"),
        ("nodes/status", "patch"),
        ("pods", "delete"),
        ("pods/status", "patch"),
        ("secrets", "list"),
        ("secrets", "watch"),
        ("serviceaccounts/token", "create"),
    ];

    #[test]
    fn the_chart_lets_cloudcore_do_as_a_node_what_is_done_as_one_and_nothing_more() {
        let text = include_str!("../../../manifests/charts/cloudcore/templates/rbac.yaml");
        let mut granted = std::collections::BTreeSet::new();
        for rule in text.split("- apiGroups: ").skip(1) {
            let line = rule
                .lines()
                .find_map(|line| line.trim().strip_prefix("resources: "));
            for resource in line.unwrap_or_default().trim_matches(['[', ']']).split(',') {
                let verbs = rule.split("impersonate-on:arbitrary-node:").skip(1);
                let verb = |text: &'static str| text.split('"').next().unwrap_or_default();
                granted.extend(verbs.map(|text| (resource.trim(), verb(text))));
            }
        }
        assert_eq!(granted, std::collections::BTreeSet::from(AS_NODE));
    }

    #[test]
    fn a_device_s_status_may_be_given_an_owner_and_nothing_more() {
        // The admission plugin OwnerReferencesPermissionEnforcement asks for `delete` on what is given an owner, and
        // for `update` on the owner's finalizers where the owner's deletion is blocked, which it is not.
        let group = protocol::devices::GROUP;
        assert!(chart_grants(group, "devicestatuses", "delete"));
        assert!(
            !chart_grants(group, "devices", "update") && !chart_grants(group, "devices/finalizers", "update")
        );
        let policies = include_str!("../../../manifests/charts/cloudcore/templates/admission.yaml");
        let forbids = |policy: &str| {
            policy.contains("operations: [DELETE]")
                && policy.contains("resources: [devicestatuses]")
                && policy.contains(r#"expression: "false""#)
        };
        assert!(policies.split("\n---\n").any(forbids));
    }
}
