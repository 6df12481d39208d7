//! What a join is going to do, and whether there is anything to do.

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use protocol::join::JoinToken;
use protocol::name::NodeName;
use sha2::{Digest as _, Sha256};

use super::super::token;
use super::ignored::Ignored;
use super::{JoinArgs, Paths};
use crate::config::{Config, ConfigError, Proxy, check_label};

/// What is to be done, complete and checked.
#[derive(Debug)]
pub(super) struct Plan {
    /// The configuration that will be written.
    pub(super) config: Config,
    /// What proves the right to join.
    pub(super) token: JoinToken,
    /// Whether whatever cluster the store is of is left for this one.
    pub(super) replaces: bool,
    /// Whether the device has this name at this cluster already, so that its key is the one for it.
    pub(super) keeps_key: bool,
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
        /// What was asked for and is not what the device has.
        ignored: Ignored,
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
    let at_same = is_of(&token, paths);
    match held {
        Some(held) if !args.replace_cluster => {
            // Without a CA to read nothing says that it is another cluster; the store knows, and refuses one.
            let at_same = at_same.unwrap_or(true);
            already(args, (paths, clock), held, (token, at_same))
        }
        held => {
            let held = held.map(|held| held.node_name);
            let mut plan = plan(args, token, held.clone())?;
            plan.keeps_key = at_same == Some(true) && held.as_ref() == Some(&plan.config.node_name);
            Ok(Standing::Free(Box::new(plan)))
        }
    }
}

/// Whether the CA of this device is the one that the token names; nothing where there is none to read.
fn is_of(token: &JoinToken, paths: &Paths) -> Option<bool> {
    let pem = std::fs::read(paths.authority()).unwrap_or_default();
    let authority = protocol::tls::authority_from_pem(&pem).ok()?;
    Some(Sha256::digest(&authority).as_slice() == token.pin)
}

/// The same cluster and the same name, or anything else, which must be said.
fn already(
    args: &JoinArgs,
    (paths, clock): (&Paths, &Clock),
    held: Config,
    (token, at_same): (JoinToken, bool),
) -> anyhow::Result<Standing> {
    let same_name = args.node_name.as_ref().is_none_or(|name| *name == held.node_name);
    let (name, file) = (&held.node_name, paths.config());
    if same_name && at_same {
        let unfit = match paths.identity().read(name) {
            Ok(own) if clock.now() > own.ends => Some("it has ended".to_owned()),
            Ok(_) => None,
            Err(fault) => Some(crate::identity::told(&fault)),
        };
        let asked = proxy(args)?;
        let ignored = Ignored::of(args, asked.as_ref(), &held);
        let config = Config {
            addresses: args.addresses.clone(),
            proxy: asked.or(held.proxy),
            ..held
        };
        let plan = Box::new(Plan {
            config,
            token,
            replaces: false,
            keeps_key: true,
            with_service: false,
        });
        return Ok(Standing::Here { plan, unfit, ignored });
    }
    bail!(
        "this device has already joined a cluster as {name} ({file})\n\
         \x20 to change its settings: edit that file and restart edgecore\n\
         \x20 to leave that cluster for this one: add --replace-cluster\n\
         \x20 to begin anew: edgecore reset",
        file = file.display()
    )
}

fn plan(args: &JoinArgs, token: JoinToken, held: Option<NodeName>) -> anyhow::Result<Plan> {
    let name = match (args.node_name.clone(), held) {
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => host_name()?,
    };
    Ok(Plan {
        config: config(args, name)?,
        token,
        // Also without a configuration that can be read: the store outlives it.
        replaces: args.replace_cluster,
        keeps_key: false,
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
