//! What a join is going to do, and whether there is anything to do.

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use protocol::join::JoinToken;
use protocol::name::NodeName;
use sha2::{Digest as _, Sha256};

use super::super::token;
use super::{JoinArgs, Paths};
use crate::config::{Config, ConfigError, Proxy, check_label};

/// What is to be done, complete and checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// The configuration that will be written.
    pub(super) config: Config,
    /// What proves the right to join.
    pub(super) token: JoinToken,
    /// Whether another cluster is left for this one.
    pub(super) replaces: bool,
    /// Whether the service is to be installed.
    pub(super) with_service: bool,
}

/// Where the device stands.
#[derive(Debug)]
pub(super) enum Standing {
    /// It has joined as asked.
    Here {
        /// How it would be enrolled again.
        plan: Box<Plan>,
        /// Why its certificate cannot be used any more.
        unfit: Option<String>,
    },
    /// It can join.
    Free(Box<Plan>),
}

/// Reads the arguments against what is on the disk.
pub(super) fn standing(args: &JoinArgs, paths: &Paths, clock: &Clock) -> anyhow::Result<Standing> {
    let environment = std::env::var(token::VARIABLE).ok();
    let text = token::find(
        args.token.as_deref(),
        args.token_file.as_deref(),
        environment.as_deref(),
    )?;
    let token: JoinToken = text.parse()?;
    let held = match Config::load(&paths.config()) {
        Ok(config) => Some(config),
        Err(ConfigError::NotJoined(_)) => None,
        // Joining again is how a broken file is replaced, and only when that is said.
        Err(error) if !args.replace_cluster => return Err(error.into()),
        Err(_) => None,
    };
    match held {
        Some(held) if !args.replace_cluster => already(args, (paths, clock), held, token),
        held => Ok(Standing::Free(Box::new(plan(args, token, held.as_ref())?))),
    }
}

/// The same cluster and the same name, or anything else, which must be said.
fn already(
    args: &JoinArgs,
    (paths, clock): (&Paths, &Clock),
    held: Config,
    token: JoinToken,
) -> anyhow::Result<Standing> {
    let same_name = args.node_name.as_ref().is_none_or(|name| *name == held.node_name);
    let pem = std::fs::read(paths.authority()).unwrap_or_default();
    let pin = protocol::tls::authority_from_pem(&pem)
        .map(|authority| Sha256::digest(&authority))
        .ok();
    let (name, file) = (&held.node_name, paths.config());
    // Without a CA to read nothing says that it is another cluster; the store knows, and refuses one.
    if same_name && pin.is_none_or(|pin| pin.as_slice() == token.pin) {
        let unfit = match paths.identity().read(name) {
            Ok(own) if clock.now() > own.ends => Some("it has ended".to_owned()),
            Ok(_) => None,
            Err(fault) => Some(crate::identity::told(&fault)),
        };
        let config = Config {
            addresses: args.addresses.clone(),
            proxy: proxy(args)?.or(held.proxy),
            ..held
        };
        let plan = Box::new(Plan {
            config,
            token,
            replaces: false,
            with_service: false,
        });
        return Ok(Standing::Here { plan, unfit });
    }
    bail!(
        "this device has already joined a cluster as {name} ({file})\n\
         \x20 to change its settings: edit that file and restart edgecore\n\
         \x20 to leave that cluster for this one: add --replace-cluster\n\
         \x20 to begin anew: edgecore reset",
        file = file.display()
    )
}

fn plan(args: &JoinArgs, token: JoinToken, held: Option<&Config>) -> anyhow::Result<Plan> {
    let name = match (&args.node_name, held) {
        (Some(name), _) => name.clone(),
        (None, Some(held)) => held.node_name.clone(),
        (None, None) => host_name()?,
    };
    let replaces = held.is_some();
    Ok(Plan {
        config: config(args, name)?,
        token,
        replaces,
        with_service: !args.no_service,
    })
}

fn config(args: &JoinArgs, name: NodeName) -> anyhow::Result<Config> {
    let mut config = Config::new(name, args.addresses.clone());
    config.proxy = proxy(args)?;
    for label in &args.labels {
        let (key, value) = label
            .split_once('=')
            .with_context(|| format!("label \"{label}\": write KEY=VALUE"))?;
        check_label(key, value)?;
        config.labels.insert(key.to_owned(), value.to_owned());
    }
    config.cluster_dns.clone_from(&args.cluster_dns);
    config.pod_cidr = args.pod_cidr.unwrap_or(config.pod_cidr);
    if let Some(endpoint) = &args.runtime_endpoint {
        config.runtime_endpoint = endpoint.clone();
    }
    if let Some(root) = &args.cgroup_root {
        config.cgroup_root.clone_from(root);
    }
    // The checks of the file hold for the arguments too.
    Config::parse(&config.to_yaml())
        .map_err(|mistakes| anyhow::anyhow!("the arguments do not fit:\n{mistakes}"))
}

fn proxy(args: &JoinArgs) -> anyhow::Result<Option<Proxy>> {
    let Some(text) = &args.proxy else {
        return Ok(None);
    };
    let mut proxy: Proxy = text.parse()?;
    proxy.password_file.clone_from(&args.proxy_password_file);
    Ok(Some(proxy))
}

/// The first label of the host's name, in lower case, as `kubectl get nodes` will show it.
fn host_name() -> anyhow::Result<NodeName> {
    let full = nix::unistd::gethostname().context("the machine's host name")?;
    let full = full.to_string_lossy().to_ascii_lowercase();
    let first = full.split('.').next().unwrap_or_default();
    first.parse().with_context(|| {
        format!("the host name \"{full}\" cannot be a node's name; give one with --node-name")
    })
}
