//! The command line: what people type, and what they read.
//!
//! What it is: arguments and texts. What it is not: a way into a running replica; every command
//! speaks to the API server, so it works wherever a kubeconfig or the pod's own rights do.

mod bans;
mod epoch;
pub mod log;
mod node;
mod table;
mod token;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use protocol::clock::Clock;

use crate::cluster::{Actor, Api, Call, Impersonation, cluster_id, find};
use crate::config::{BadSpan, Config, LINK_PORT, OBSERVE_PORT, Size, Span};
use crate::enroll::{Authority, NodeLife, Settings, UnfitLife};
use crate::{files, run};

/// The cluster side of Tombolo: each edge node's stand-in at the API server.
#[derive(Debug, Parser)]
#[command(name = "cloudcore", version, max_term_width = 100)]
#[command(after_help = "Make a join token, then join a device with it:\n\n  \
    kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore token create\n  \
    edgecore join ADDRESS --token-file FILE     (on the device, as root)\n\n\
    After etcd was restored from a backup:\n\n  \
    kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore epoch raise")]
pub struct Cli {
    /// Kubeconfig of the cluster; in a pod its own account is used
    #[arg(long, global = true, value_name = "FILE", env = "TOMBOLO_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Namespace of the release, where the CA, tokens, keys and bans are
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "POD_NAMESPACE",
        default_value = "tombolo-system"
    )]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve edges: what the chart's Deployment runs
    Run(RunArgs),
    /// Make, list and revoke join tokens
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// List, ban, unban and remove edge nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Tell the edges that etcd was restored from a backup
    #[command(subcommand, aliases = ["restore", "restore-epoch"], after_help = epoch::WHEN)]
    Epoch(epoch::EpochCommand),
}

/// How a replica is run.
#[derive(Args, Debug)]
struct RunArgs {
    /// Where edges are listened for: UDP for QUIC, TCP for enrolment
    #[arg(long, value_name = "ADDRESS", default_value_t = any_address(LINK_PORT))]
    listen: SocketAddr,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, value_name = "ADDRESS", default_value_t = any_address(OBSERVE_PORT))]
    observe: SocketAddr,
    /// This replica's address, which edge nodes show as their `InternalIP`
    #[arg(long, value_name = "IP", env = "POD_IP")]
    advertise: Option<IpAddr>,
    /// This replica's name
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "cloudcore")]
    replica: String,
    /// Remove tolerationSeconds from the not-ready and unreachable tolerations of pods on edge
    /// nodes where they equal this
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    default_toleration_seconds: i64,
    /// How long nodes' certificates live; edges renew them at two thirds of it
    #[arg(long, value_name = "SPAN", default_value = "365d", value_parser = node_life)]
    node_certificate_life: NodeLife,
    /// How long sessions and tunnels may take to end
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    grace_seconds: u64,
    /// What edges may have sent that was not read yet, all together: 16Ki for each that is
    /// connected, and more while there is more
    #[arg(long, value_name = "SIZE", default_value = "256Mi")]
    receive_budget: Size,
}

fn node_life(text: &str) -> Result<NodeLife, String> {
    let Span(life) = text.parse().map_err(|error: BadSpan| error.to_string())?;
    life.try_into().map_err(|error: UnfitLife| error.to_string())
}

/// Both families on one socket, where the kernel has both; IPv4 where IPv6 is switched off.
fn any_address(port: u16) -> SocketAddr {
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_) => all,
        Err(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
    }
}

/// Does what the command line says.
pub async fn main(cli: Cli) -> anyhow::Result<()> {
    if matches!(cli.command, Command::Run(_)) {
        files::raise();
    }
    let clock = Clock::from_env()?;
    let found = find(cli.kubeconfig.as_deref()).await?;
    match cli.command {
        Command::Run(args) => run::run(args.config(cli.namespace), found, clock).await,
        Command::Token(command) => {
            let authority = open(found.client, cli.namespace, clock.clone()).await?;
            token::main(command, &authority, &clock).await
        }
        Command::Node(command) => {
            let authority = open(found.client.clone(), cli.namespace, clock.clone()).await?;
            node::main(command, &authority, &own(found.client), &clock).await
        }
        Command::Epoch(command) => {
            let authority = open(found.client, cli.namespace, clock).await?;
            epoch::main(command, &authority).await
        }
    }
}

impl RunArgs {
    fn config(self, namespace: String) -> Config {
        Config {
            listen: self.listen,
            observe: self.observe,
            advertise: self.advertise,
            replica: self.replica,
            namespace,
            default_toleration_seconds: self.default_toleration_seconds,
            node_life: self.node_certificate_life,
            grace: Duration::from_secs(self.grace_seconds),
            receive_budget: self.receive_budget.0,
        }
    }
}

/// Requests under one's own name: commands never act for a node.
fn own(client: kube::Client) -> Api {
    Api::new(client, Impersonation::Constrained)
}

async fn open(client: kube::Client, namespace: String, clock: Clock) -> anyhow::Result<Arc<Authority>> {
    let api = own(client.clone());
    // A look at the namespace first: its absence would otherwise show as a Secret that cannot be made.
    let list = Call::get(format!("/api/v1/namespaces/{namespace}/secrets?limit=1"));
    let hint = || {
        format!(
            "the Secrets of namespace {namespace} cannot be read: is cloudcore installed there (--namespace), \
             and may you get, list, create, patch and delete Secrets in it?"
        )
    };
    api.call(Actor::Cloudcore, list).await.with_context(hint)?;
    let cluster_id = cluster_id(&api).await?;
    Ok(Authority::open_existing(Settings {
        client,
        namespace,
        cluster_id,
        clock,
        node_life: NodeLife::default(),
    })
    .await?)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use clap::CommandFactory;
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::cluster::testing::client;

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[tokio::test]
    async fn a_command_makes_no_ca_where_no_replica_has_made_one() {
        let writes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&writes);
        let empty = client(move |asked| {
            if asked.head.method != Method::GET {
                counted.fetch_add(1, Ordering::Relaxed);
                return (StatusCode::CREATED, asked.body);
            }
            match asked.head.uri.path() {
                "/api/v1/namespaces/elsewhere/secrets" => (StatusCode::OK, json!({ "items": [] })),
                "/api/v1/namespaces/kube-system" => (StatusCode::OK, json!({ "metadata": { "uid": "u" } })),
                _ => {
                    let none =
                        json!({ "status": "Failure", "code": 404, "reason": "NotFound", "message": "none" });
                    (StatusCode::NOT_FOUND, none)
                }
            }
        });
        let opened = open(empty, "elsewhere".to_owned(), Clock::system()).await;
        let told = format!("{:#}", opened.err().unwrap());
        assert!(
            told.contains("no Secret tombolo-ca in namespace elsewhere") && told.contains("--namespace"),
            "{told}"
        );
        assert_eq!(writes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn defaults_are_what_the_chart_rests_on() {
        let cli = Cli::parse_from(["cloudcore", "run"]);
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        let config = args.config(cli.namespace);
        assert_eq!((config.listen.port(), config.observe.port()), (10_000, 10_001));
        assert_eq!(config.default_toleration_seconds, 300);
        assert_eq!(config.node_life, NodeLife::default());
        assert_eq!(config.receive_budget, 256 << 20);
    }

    #[test]
    fn the_chart_says_what_it_is_set_to_in_words_that_are_understood() {
        const DEPLOYMENT: &str =
            include_str!("../../../manifests/charts/cloudcore/templates/deployment.yaml");
        let said: Vec<_> = DEPLOYMENT
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- --")?.split_once('='))
            .collect();
        let command = Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for (flag, _) in &said {
            let known = run.get_arguments().any(|arg| arg.get_long() == Some(*flag));
            assert!(known, "--{flag}");
        }
        let grace = said.iter().find(|(flag, _)| *flag == "grace-seconds");
        assert!(grace.is_some_and(|(_, value)| value.contains(".Values.terminationGracePeriodSeconds")));
    }

    #[test]
    fn a_change_of_the_rights_to_act_for_nodes_makes_the_pods_anew() {
        const CHART: [&str; 2] = [
            include_str!("../../../manifests/charts/cloudcore/templates/rbac.yaml"),
            include_str!("../../../manifests/charts/cloudcore/templates/deployment.yaml"),
        ];
        let [rights, deployment] = CHART;
        assert!(rights.contains(".Values.impersonation"));
        let (_, pod) = deployment.split_once("\n  template:\n").unwrap();
        let (metadata, _) = pod.split_once("\n    spec:\n").unwrap();
        assert!(metadata.contains(": {{ .Values.impersonation }}\n"));
    }

    #[test]
    fn the_chart_lets_cloudcore_delete_the_leases_of_its_sessions_alone() {
        const POLICIES: &str = include_str!("../../../manifests/charts/cloudcore/templates/admission.yaml");
        let (_, leases) = POLICIES.split_once("}}-leases\n").unwrap();
        let (leases, _) = leases
            .split_once("\nkind: ValidatingAdmissionPolicyBinding\n")
            .unwrap();
        assert!(leases.contains("operations: [DELETE]") && leases.contains("resources: [leases]"));
        let rule = format!("'\"{}\" in oldObject.metadata", crate::cluster::fence::SESSION);
        assert!(leases.contains(&rule), "{leases}");
    }

    /// What of the chart's network policy stands before or after the line about the metrics' namespace.
    fn policy_ports(part: &str) -> Vec<u16> {
        let lines = part.lines().filter_map(|line| line.trim().strip_prefix("port: "));
        lines.map(|port| port.parse().unwrap()).collect()
    }

    #[test]
    fn the_chart_limits_who_reaches_cloudcore_only_when_asked_and_never_the_edges() {
        const CHART: [&str; 2] = [
            include_str!("../../../manifests/charts/cloudcore/templates/networkpolicy.yaml"),
            include_str!("../../../manifests/charts/cloudcore/values.yaml"),
        ];
        let [policy, values] = CHART;
        let asked = "{{- if .Values.networkPolicy.enabled }}\n";
        assert!(policy.starts_with(asked) && policy.ends_with("{{- end }}\n"));
        let (_, set) = values.split_once("\nnetworkPolicy:\n  enabled: ").unwrap();
        assert!(set.starts_with("false\n"));
        let (all, some) = policy
            .split_once("{{- with .Values.networkPolicy.metricsNamespace }}")
            .unwrap();
        assert_eq!(policy_ports(all), [LINK_PORT, LINK_PORT], "UDP and TCP");
        assert!(all.contains("protocol: UDP") && !all.contains("from:"));
        assert_eq!(policy_ports(some), [OBSERVE_PORT]);
        assert!(some.contains("kubernetes.io/metadata.name: {{ . | quote }}"));
    }

    #[test]
    fn whoever_looks_for_a_restore_finds_the_epoch() {
        for word in ["epoch", "restore", "restore-epoch"] {
            let told = Cli::try_parse_from(["cloudcore", word, "--help"]).unwrap_err();
            assert!(told.to_string().contains("cloudcore epoch raise"), "{told}");
        }
        assert!(Cli::try_parse_from(["cloudcore", "epoch", "raise", "--to", "0"]).is_err());
    }

    #[test]
    fn a_life_of_certificates_is_a_span_within_bounds() {
        let parse = |life: &str| Cli::try_parse_from(["cloudcore", "run", "--node-certificate-life", life]);
        assert!(parse("1m").is_ok() && parse("90d").is_ok());
        let refused = parse("5s").unwrap_err().to_string();
        assert!(refused.contains("from 1m to 3650d"), "{refused}");
        assert!(parse("soon").is_err());
    }
}
