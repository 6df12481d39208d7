//! What was seen of the machine and of what it must reach. Nothing here is judged.

use crate::cli::status::Status;
use crate::devices::mqtt;
use crate::network::api::Knock;
use crate::node::Disk;
use crate::node::thresholds::Thresholds;

/// What was seen, or why it could not be looked at.
pub(super) type Seen<T> = Result<T, String>;

/// Everything that is judged.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// Whether there is a configuration.
    pub(super) joined: Joined,
    /// Below how much that is left the node says that it is short.
    pub(super) thresholds: Thresholds,
    /// The machine.
    pub(super) machine: Seen<Machine>,
    /// The container runtime.
    pub(super) runtime: Runtime,
    /// The daemon.
    pub(super) daemon: Daemon,
    /// What only a device that has joined has.
    pub(super) node: Option<Node>,
}

/// Whether this device has joined.
#[derive(Clone, Debug)]
pub(super) enum Joined {
    /// There is no configuration.
    Not,
    /// There is one that cannot be used, and why.
    Broken(String),
    /// As a node of that name.
    As(String),
}

/// The running edgecore.
#[derive(Clone, Debug)]
pub(super) enum Daemon {
    /// Nobody is at its socket.
    Absent,
    /// Somebody is, and does not answer as it should.
    Silent(String),
    /// It says how it is.
    Runs(Box<Status>),
}

/// What is looked at on every machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Whether the clock shows a time before this program was built.
    pub(super) clock_is_behind: bool,
    /// The cgroup controllers, or why they are not known.
    pub(super) controllers: Seen<Vec<String>>,
    /// What pods resolve names with that ask no name server of the cluster.
    pub(super) resolver: Resolved,
    /// Whether memory may be swapped out.
    pub(super) swap: bool,
    /// Other node agents that run here.
    pub(super) others: Vec<Other>,
    /// The file systems that are filled.
    pub(super) spaces: Vec<Space>,
    /// The network of pods.
    pub(super) network: Network,
}

/// What names are resolved with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// The file.
    pub(super) file: String,
    /// The name servers in it.
    pub(super) servers: Vec<String>,
}

/// Another node agent, or what looks like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Other {
    /// Its name and process.
    pub(super) name: String,
    /// Whether all that is known of it is that it listens on the kubelet's port.
    pub(super) by_port: bool,
}

/// One file system that is filled.
#[derive(Clone, Debug)]
pub(super) struct Space {
    /// By what.
    pub(super) of: &'static str,
    /// Where.
    pub(super) path: String,
    /// How full it is.
    pub(super) disk: Disk,
    /// Whether nothing can be written there.
    pub(super) is_read_only: bool,
}

/// The network configuration that the runtime finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Network {
    /// None, in that directory.
    Missing(String),
    /// The one that `join` wrote.
    Ours {
        /// Its plugins that are not there.
        missing: Vec<&'static str>,
        /// The route that its addresses collide with.
        collides: Option<String>,
    },
    /// The one that `join` wrote, and somebody else's, which the runtime takes in its place.
    Before(String),
    /// Somebody else's alone.
    Foreign(String),
    /// The directory cannot be read.
    Unread(String),
}

/// The container runtime.
#[derive(Clone, Debug)]
pub(super) enum Runtime {
    /// It does not answer.
    Silent {
        /// Where.
        endpoint: String,
        /// Why.
        why: String,
    },
    /// It does.
    Answers(Box<Answers>),
}

/// What the runtime says of itself.
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// Name and version.
    pub(super) version: String,
    /// Its condition `RuntimeReady`.
    pub(super) runtime_ready: Result<(), String>,
    /// Its condition `NetworkReady`.
    pub(super) network_ready: Result<(), String>,
    /// Its cgroup driver, where it tells.
    pub(super) driver: Option<String>,
    /// The one that edgecore goes by.
    pub(super) used: String,
    /// The image of every pod's sandbox: whether it is here.
    pub(super) sandbox: Sandbox,
}

/// The image of sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sandbox {
    /// It is on the device.
    Here(String),
    /// It is not; its name where it is known.
    Missing(Option<String>),
    /// The runtime does not tell its images.
    Unknown(String),
}

/// What only a device that has joined has.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Seconds that the certificate lasts yet, or why the identity cannot be used.
    pub(super) identity: Seen<Result<i64, String>>,
    /// Files with secrets that others than root may read.
    pub(super) open_files: Vec<String>,
    /// Each transport to each address of cloudcore.
    pub(super) ways: Vec<Way>,
    /// The taints of the configuration, in order.
    pub(super) taints: Vec<String>,
    /// Whether TCP goes through a proxy.
    pub(super) has_proxy: bool,
    /// Seconds by which this clock is ahead of cloudcore's.
    pub(super) ahead: Seen<i64>,
    /// The service.
    pub(super) unit: Seen<Unit>,
    /// The programs that are edgecore here.
    pub(super) programs: Seen<Programs>,
    /// The store on the disk.
    pub(super) store: Seen<Store>,
    /// The MQTT broker.
    pub(super) broker: Broker,
    /// The mappers' socket.
    pub(super) mappers: Seen<Mappers>,
    /// The API server's address, as pods have it; nothing where it is not on the device.
    pub(super) api: Seen<Option<Knock>>,
}

/// One transport to one address.
#[derive(Clone, Debug)]
pub(super) struct Way {
    /// The address.
    pub(super) address: String,
    /// Whether it is QUIC; a WebSocket otherwise.
    pub(super) is_quic: bool,
    /// Whether it leads to cloudcore.
    pub(super) made: Result<(), Miss>,
}

/// A way that leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Miss {
    /// In words.
    pub(super) why: String,
    /// What is to be mended.
    pub(super) cause: Cause,
}

/// What is to be mended on a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The name is not found.
    Name,
    /// The proxy.
    Proxy,
    /// One of the clocks.
    Clock,
    /// Somebody else answers.
    Stranger,
    /// cloudcore does not take the node's certificate.
    Refused,
    /// cloudcore says that the node's certificate has ended.
    Ended,
    /// No answer, or a useless one.
    Silence,
    /// It was not tried, for there is nothing to show.
    Identity,
}

/// The systemd unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// There is no systemd.
    NoSystemd,
    /// There is systemd, and no such unit.
    Missing,
    /// There is one.
    Installed {
        /// Whether it starts at boot.
        is_enabled: bool,
    },
}

/// The programs that are edgecore here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programs {
    /// The one that looks.
    pub(super) own: Program,
    /// The one that the service starts, where there is one.
    pub(super) service: Option<Started>,
    /// The one that runs, where one does.
    pub(super) daemon: Option<Program>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    /// Its file, by the name under which it was or will be started.
    pub(super) path: String,
    /// A number for what is in it, the same for the same; nothing where there is no such file.
    pub(super) content: Option<usize>,
}

/// What a service starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Started {
    /// The program.
    pub(super) program: Program,
    /// The directory below which it reads and writes.
    pub(super) root: String,
    /// Whether systemd goes by another text of the unit than the one on the disk.
    pub(super) is_stale: bool,
}

/// The store's files, while nobody has them open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Store {
    /// The node has not run yet.
    None,
    /// The running daemon has it.
    InUse,
    /// Every file of it can be read; databases that were given up stand beside it.
    Readable {
        /// Those.
        quarantined: Vec<String>,
    },
    /// A file of it cannot be read, and why.
    Unreadable(String),
}

/// The MQTT broker.
#[derive(Clone, Debug)]
pub(super) struct Broker {
    /// Where it is.
    pub(super) address: String,
    /// Whether the configuration says so.
    pub(super) is_named: bool,
    /// How it receives whom; an error says why the credentials cannot be used.
    pub(super) knock: Seen<Result<mqtt::Knock, String>>,
}

/// The mappers' socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mappers {
    /// Where it is.
    pub(super) socket: String,
    /// Who may use it.
    pub(super) group: String,
    /// Whether somebody answers there.
    pub(super) open: Result<(), String>,
    /// Whether there is such a group.
    pub(super) has_group: bool,
}
