//! The command line: join, run, status, get, doctor, reset.
//!
//! Each command is a function here that prints what it does and returns what went wrong; `run`
//! alone is `main`'s, which knows all the parts of the node. [`control`] is how `status` and `get`
//! reach the running node.
//!
//! **Invariant:** whatever `join` puts on the disk is in its record first, and `reset` removes
//! what the record names and nothing else.

pub mod control;
mod doctor;
pub mod get;
pub mod join;
pub mod log;
pub mod paths;
pub mod record;
pub mod reset;
pub mod status;
#[cfg(test)]
mod testing;
mod token;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use protocol::clock::Clock;
use protocol::name::NodeName;

use crate::config::{Address, PodCidr, RuntimeEndpoint};
pub use paths::Paths;

/// `edgecore`.
#[derive(Debug, Parser)]
#[command(name = "edgecore", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct Cli {
    /// Read and write everything below this directory instead of /.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/",
        hide_default_value = true
    )]
    pub root: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const ABOUT: &str = "Makes this machine a Kubernetes node over a link that comes and goes.";
const LONG_ABOUT: &str = "\
Makes this machine a Kubernetes node over a link that comes and goes.

The node needs a container runtime (containerd or CRI-O) and one outgoing port to cloudcore in the
cluster, UDP and TCP (30100 of any cluster node, or 10000 of a load balancer). What it was told to run it keeps on disk: without a link, and after a
power cut, its pods run on and start again.";
const EXAMPLES: &str = "\
Examples:
  # in the cluster: make a token
  kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore token create

  # on the device: join, and look
  edgecore join 203.0.113.7:30100 --token-file token
  edgecore status

  # something does not work: what, and what mends it
  edgecore doctor

  # leave again: stops the pods and removes what join wrote
  edgecore reset";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enrol this device as a node of a cluster.
    Join(Box<JoinArgs>),
    /// Run the node in the foreground (what the service does).
    Run,
    /// Show the link, the pods and the health of this node.
    Status(StatusArgs),
    /// Show what the devices of this node say, also without a link.
    Get(GetArgs),
    /// Look for what keeps this node from working, and say what mends it.
    #[command(long_about = DOCTOR_ABOUT)]
    Doctor(DoctorArgs),
    /// Stop the node's pods and remove what join wrote.
    Reset(ResetArgs),
}

/// What `join` takes.
#[derive(Clone, Debug, Default, Args)]
#[command(after_help = JOIN_EXAMPLES)]
pub struct JoinArgs {
    /// Where cloudcore is reached: a cluster node and 30100, or a load balancer and 10000 (the port if left out). Several are tried in turn.
    #[arg(required = true, value_name = "ADDRESS")]
    pub addresses: Vec<Address>,
    /// The join token. Prefer --token-file or the environment: arguments are seen by every user of the machine.
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    pub token: Option<String>,
    /// A file that holds the join token.
    #[arg(long, value_name = "FILE", help = TOKEN_FILE_HELP)]
    pub token_file: Option<PathBuf>,
    /// An HTTP proxy through which cloudcore is reached: `http://user:password@host:port`. It is kept for the link.
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// A file that holds the proxy's password; it is read at each dial.
    #[arg(long, value_name = "FILE", requires = "proxy")]
    pub proxy_password_file: Option<PathBuf>,
    /// The name in the cluster; the first part of the machine's host name, in lower case, if left out.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// Labels for the node; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    pub labels: Vec<String>,
    /// The range of the default pod network; 10.86.0.0/16 if left out.
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<PodCidr>,
    /// The container runtime's socket; containerd's usual one if left out.
    #[arg(long, value_name = "SOCKET", value_parser = RuntimeEndpoint::parse)]
    pub runtime_endpoint: Option<RuntimeEndpoint>,
    /// The cgroup below which pods are put; the root if left out.
    #[arg(long, value_name = "PATH")]
    pub cgroup_root: Option<String>,
    /// Name servers for pods that ask for the cluster's DNS; may be given several times.
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub cluster_dns: Vec<std::net::IpAddr>,
    /// Leave the cluster that this device belongs to and accept another one in its place.
    #[arg(long)]
    pub replace_cluster: bool,
    /// Do not install or start the systemd service.
    #[arg(long)]
    pub no_service: bool,
}

const TOKEN_FILE_HELP: &str = "A file that holds the join token; - reads standard input. Without it TOMBOLO_TOKEN is read from the environment";

const JOIN_EXAMPLES: &str = "\
Examples:
  edgecore join 203.0.113.7:30100 --token-file /root/token
  TOMBOLO_TOKEN=... edgecore join 203.0.113.7:30100 203.0.113.8:30100 --node-name pump-7
  edgecore join cloud.example.org:10000 --token-file - --labels site=north,line=7 < token

What it does: checks that the cluster is the one the token names, makes a key (it never leaves the
device), has it certified, and writes /etc/tombolo, a pod network where there is none, and the
service. It asks the cluster before it writes, and takes back what it wrote when it fails.";

/// What `status` takes.
#[derive(Clone, Debug, Default, Args)]
pub struct StatusArgs {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What `get` takes.
#[derive(Clone, Copy, Debug, Args)]
pub struct GetArgs {
    /// What to show.
    #[arg(value_enum)]
    pub what: What,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// What `get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Devices, with their values.
    #[value(alias = "device")]
    Devices,
}

/// How `status`, `get` and `doctor` print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// What `doctor` takes.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(after_help = DOCTOR_EXAMPLES)]
pub struct DoctorArgs {
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

const DOCTOR_ABOUT: &str = "\
Looks for what keeps this node from working, and says what mends it.

For each check it says what was seen: ok, warning (the node works, and somebody should know), FAILED (it
does not work, or not for long) or unknown (it could not be looked at), and in the line below it what
mends it. It needs root, takes a quarter of a minute at most, writes nothing, and does not disturb a
node that runs. Before the device has joined it looks at what join needs.

What it looks at: the configuration; key, certificate and clock; the service, the program that it starts,
and the store; the container runtime, its network, cgroup driver and sandbox image; cgroups, disk, swap,
other agents; cloudcore by each transport; the MQTT broker and who is let in; the mappers' socket; and,
where edgecore runs, its link, conditions, pods and devices.

It ends with 0 when nothing has failed, and with 1 when something has.";
const DOCTOR_EXAMPLES: &str = "\
Examples:
  edgecore doctor
  edgecore doctor -o json | jq '.checks[] | select(.level != \"ok\")'";

/// What `reset` takes.
#[derive(Clone, Debug, Default, Args)]
pub struct ResetArgs {
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Go on where the container runtime does not answer, or something of the pods cannot be removed.
    #[arg(long)]
    pub force: bool,
}

/// Carries out every command but `run`; that one is returned to the caller.
pub async fn dispatch(cli: Cli, clock: &Clock) -> anyhow::Result<Option<Paths>> {
    let paths = Paths::below(cli.root);
    match cli.command {
        Command::Run => return Ok(Some(paths)),
        Command::Join(args) => join::join(*args, &paths, clock).await?,
        Command::Status(args) => status::show(args.output, &paths, clock).await?,
        Command::Get(args) => get::get(&args, &paths, clock).await?,
        Command::Doctor(args) => doctor::run(args.output, &paths, clock).await?,
        Command::Reset(args) => reset::reset(&args, &paths).await?,
    }
    Ok(None)
}

/// What went wrong, for people: the error, and below it each of its causes, once.
pub fn complaint(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("edgecore: {error}")];
    let told = |lines: &[String], cause: &str| lines.last().is_some_and(|line| line.ends_with(cause));
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told(&lines, &cause) {
            lines.push(format!("  because: {cause}"));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_doctors_help_says_what_is_looked_at_and_how_it_ends() {
        let told = Cli::try_parse_from(["edgecore", "doctor", "--help"]).unwrap_err();
        let told = told.to_string();
        assert!(told.contains("What it looks at: the configuration"), "{told}");
        assert!(told.contains("with 1 when something has"), "{told}");
    }

    #[test]
    fn join_takes_addresses_and_lists() {
        let cli = Cli::parse_from([
            "edgecore",
            "join",
            "a.example",
            "b.example:1",
            "--token-file",
            "-",
            "--labels",
            "a=b,c=d",
            "--cluster-dns",
            "10.96.0.10",
            "--node-name",
            "pump-7",
            "--pod-cidr",
            "10.99.0.0/24",
        ]);
        let Command::Join(args) = cli.command else {
            unreachable!("join was asked for")
        };
        assert_eq!(args.addresses.len(), 2);
        assert_eq!(args.labels, ["a=b", "c=d"]);
        assert_eq!(args.pod_cidr.unwrap().to_string(), "10.99.0.0/24");
    }

    #[test]
    fn get_names_what_it_shows() {
        let cli = Cli::parse_from(["edgecore", "get", "devices", "-o", "json"]);
        let Command::Get(args) = cli.command else {
            unreachable!("get was asked for")
        };
        assert_eq!((args.what, args.output), (What::Devices, Output::Json));
        let wrong = Cli::try_parse_from(["edgecore", "get", "pods"]).unwrap_err();
        assert!(wrong.to_string().contains("devices"), "{wrong}");
    }

    #[test]
    fn wrong_values_are_refused_with_what_would_be_right() {
        let told = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().to_string();
        assert!(told(&["edgecore", "join", "https://x"]).contains("leave out the scheme"));
        assert!(told(&["edgecore", "join", "x", "--node-name", "A_b"]).contains("is not a node name"));
        assert!(told(&["edgecore", "join", "x", "--pod-cidr", "10.1.2.3/16"]).contains("behind the prefix"));
    }

    #[test]
    fn a_complaint_names_every_cause_once() {
        let cause = std::io::Error::other("no space left");
        let error = anyhow::Error::new(cause)
            .context("cannot write x")
            .context("joining");
        assert_eq!(
            complaint(&error),
            "edgecore: joining\n  because: cannot write x\n  because: no space left"
        );
    }
}
