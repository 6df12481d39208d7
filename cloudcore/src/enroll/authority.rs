//! Holds the CA and the Secrets together.

use std::{collections::BTreeMap, sync::Arc};

use kube::Client;
use protocol::{
    clock::Clock,
    tls::{KeyHash, PeerIdentity},
};
use rustls::server::ResolvesServerCert;
use rustls_pki_types::CertificateDer;
use thiserror::Error;

use super::{
    ca::{Ca, CaError, CaPem},
    judge::{Rejected, judge_peer},
    known::Known,
    life::NodeLife,
    pace::{KeyPace, Pace},
    records::{
        BanRecord, CA_SECRET, Damaged, EPOCH, FIRST_EPOCH, KeyRecord, NODE, ban_secret, epoch_of, node_secret,
    },
    secrets::{CA, Data, Race, Secrets},
    serving::Serving,
};
use protocol::name::NodeName;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";

/// What the authority needs from outside.
#[derive(Clone)]
pub struct Settings {
    /// cloudcore's own client.
    pub client: Client,
    /// The release's namespace.
    pub namespace: String,
    /// The cluster's identity, told to devices.
    pub cluster_id: String,
    /// The program's clock.
    pub clock: Clock,
    /// How long a node's certificate lives.
    pub node_life: NodeLife,
}

/// Why the authority could not do something.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum AuthorityError {
    /// The API server did not do it.
    #[error("could not {what}")]
    Api {
        /// What was tried.
        what: String,
        /// The cause.
        source: Box<kube::Error>,
    },
    /// A Secret is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The CA cannot be used.
    #[error("the CA in Secret {CA_SECRET} cannot be used")]
    Ca(#[from] CaError),
    /// There is no CA, and this is not who makes one.
    #[error(
        "there is no Secret {CA_SECRET} in namespace {namespace}: is cloudcore installed there (--namespace), and has \
         it started? It makes that at its first start (kubectl -n {namespace} get pods); nothing was changed"
    )]
    NoCa {
        /// Where it was looked for.
        namespace: String,
    },
    /// There is no CA any more.
    #[error(
        "there is no Secret {CA_SECRET} in namespace {namespace}, and {devices} enrolled there trust the CA that it had: \
         with another one none of them could connect, so none is made. Restore the Secret from a backup \
         (docs/operate.md, Back up and restore). If there is none, begin anew: kubectl -n {namespace} delete secrets -l \
         tombolo.dev/kind=node; every device must join anew then. Nothing was changed",
        devices = devices(*.nodes)
    )]
    LostCa {
        /// Where it was looked for.
        namespace: String,
        /// How many devices are enrolled.
        nodes: usize,
    },
    /// Others were faster, again and again.
    #[error("Secret {secret} changes too fast; try again")]
    Contended {
        /// The Secret.
        secret: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Unsound(&'static str),
    /// Edges would refuse the cluster.
    #[error(
        "the epoch is {held} already, and edges refuse one that goes down to {wanted}; leave the number away, or \
         give a higher one"
    )]
    EpochFalls {
        /// What it is.
        held: u64,
        /// What was asked for.
        wanted: u64,
    },
    /// There is no such node.
    #[error("no device is enrolled as node {0}")]
    NoSuchNode(NodeName),
}

fn devices(number: usize) -> String {
    match number {
        1 => "the device that is".to_owned(),
        more => format!("the {more} devices that are"),
    }
}

impl AuthorityError {
    pub(super) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api {
            what,
            source: Box::new(source),
        }
    }
}

/// Decides who is a node. Give [`Authority::run`] to the supervisor.
pub struct Authority {
    pub(super) settings: Settings,
    pub(super) secrets: Secrets,
    pub(super) ca: Arc<Ca>,
    pub(super) known: Known,
    pub(super) pace: Pace,
    /// Nodes whose certificates are due together do not wait behind a flood of strangers.
    pub(super) renewals: Pace,
    pub(super) renewing: KeyPace,
    serving: Arc<Serving>,
    epoch: u64,
}

impl Authority {
    /// Reads the CA, or makes it where there is none and no device trusts one: a replica's way.
    pub async fn open(settings: Settings) -> Result<Arc<Self>, AuthorityError> {
        let secrets = Secrets::new(settings.client.clone(), &settings.namespace);
        let held = read_or_make_ca(&secrets, &settings).await?;
        Self::holding(settings, secrets, held)
    }

    /// Reads the CA: an operator's way. One that is made where no replica looks would be nobody's, and so would the
    /// tokens that name it.
    pub async fn open_existing(settings: Settings) -> Result<Arc<Self>, AuthorityError> {
        let secrets = Secrets::new(settings.client.clone(), &settings.namespace);
        match read_ca(&secrets).await? {
            Some(held) => Self::holding(settings, secrets, held),
            None => Err(AuthorityError::NoCa {
                namespace: settings.namespace,
            }),
        }
    }

    fn holding(
        settings: Settings,
        secrets: Secrets,
        (pem, epoch): (CaPem, u64),
    ) -> Result<Arc<Self>, AuthorityError> {
        let ca = Arc::new(Ca::read(pem, settings.clock.now())?);
        let serving = Arc::new(Serving::new(Arc::clone(&ca), settings.clock.clone())?);
        Ok(Arc::new(Self {
            settings,
            secrets,
            ca,
            known: Known::default(),
            pace: Pace::default(),
            renewals: Pace::default(),
            renewing: KeyPace::default(),
            serving,
            epoch,
        }))
    }

    /// Keeps what is known of keys and bans up to date, until dropped.
    pub async fn run(&self) {
        self.known.follow(self.secrets.api().clone()).await;
    }

    /// Waits until keys and bans have been read once.
    pub async fn synced(&self) {
        self.known.synced().await;
    }

    /// The CA's certificate: what edges trust, and what cloudcore trusts of edges.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.ca.certificate
    }

    /// The SHA-256 of the CA's certificate, as join tokens carry it.
    pub fn pin(&self) -> [u8; 32] {
        self.ca.pin()
    }

    /// What this replica speaks for; raised by an operator after the cluster was restored from a backup.
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The cluster's identity.
    pub fn cluster_id(&self) -> &str {
        &self.settings.cluster_id
    }

    /// What is left of a node's certificate when the edge asks for the next one.
    pub fn renew_before(&self) -> std::time::Duration {
        self.settings.node_life.renew_before()
    }

    /// The key of stateless resets: the same for all replicas.
    pub fn reset_key(&self) -> [u8; 32] {
        self.ca.reset_key()
    }

    /// This replica's own certificate, renewed by itself.
    pub fn server_certificates(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.serving) as Arc<dyn ResolvesServerCert>
    }

    /// Whether a peer is who its name says, as far as is known here. Costs nothing.
    pub fn check(&self, peer: &PeerIdentity) -> Result<(), Rejected> {
        judge_peer(
            peer,
            self.known.accepted(&peer.node),
            self.known.is_banned(&peer.key),
        )
    }

    /// As [`check`](Self::check), but where the answer would be no, the Secrets are read first: a
    /// device may dial one replica a moment after another has enrolled it.
    pub async fn admit(&self, peer: &PeerIdentity) -> Result<Result<(), Rejected>, AuthorityError> {
        match self.check(peer) {
            Err(Rejected::NotEnrolled { .. } | Rejected::KeyReplaced { .. }) => {
                let key = self.read_key(&peer.node).await?.map(|record| record.key);
                let banned = self.read_ban(&peer.key).await?;
                Ok(judge_peer(peer, key, banned).inspect(|()| self.known.learn(&peer.node, peer.key)))
            }
            known => Ok(known),
        }
    }

    /// Whether a name has an accepted key that is not banned, as far as is known here.
    pub fn is_enrolled(&self, node: &NodeName) -> bool {
        self.known
            .accepted(node)
            .is_some_and(|key| !self.known.is_banned(&key))
    }

    /// The same, read from the cluster.
    pub async fn confirm(&self, node: &NodeName) -> Result<bool, AuthorityError> {
        let Some(record) = self.read_key(node).await? else {
            return Ok(false);
        };
        Ok(!self.read_ban(&record.key).await?)
    }

    /// When the CA's certificate ends, and every node's with it.
    pub fn ca_ends(&self) -> std::time::SystemTime {
        self.ca.ends()
    }

    /// Changes whenever keys or bans do: sessions check themselves anew.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.known.changes()
    }

    pub(super) async fn read_key(&self, node: &NodeName) -> Result<Option<KeyRecord>, AuthorityError> {
        let name = node_secret(node);
        let read = self.secrets.read(&name).await;
        let read = read.map_err(AuthorityError::api(format!("read Secret {name}")))?;
        Ok(read.as_ref().map(KeyRecord::read).transpose()?)
    }

    pub(super) async fn read_ban(&self, key: &KeyHash) -> Result<bool, AuthorityError> {
        let name = ban_secret(key);
        let read = self
            .secrets
            .read(&name)
            .await
            .map_err(AuthorityError::api("read the bans"))?;
        if let Some(damaged) = read.as_ref().and_then(|ban| BanRecord::read(ban).err()) {
            tracing::warn!(error = %damaged, "a damaged ban still holds");
        }
        Ok(read.is_some())
    }
}

async fn read_or_make_ca(secrets: &Secrets, settings: &Settings) -> Result<(CaPem, u64), AuthorityError> {
    // A device that enrols between the two looks does so with a CA that another replica has made.
    let mut orphans = 0;
    for _ in 0..3 {
        if let Some(held) = read_ca(secrets).await? {
            return Ok(held);
        }
        if orphans > 0 {
            return Err(AuthorityError::LostCa {
                namespace: settings.namespace.clone(),
                nodes: orphans,
            });
        }
        let listed = secrets.list(NODE).await;
        orphans = listed
            .map_err(AuthorityError::api("list the enrolled devices"))?
            .len();
        if orphans == 0 && make_ca(secrets, &settings.clock).await? == Race::Won {
            tracing::info!("made the cluster's CA");
        }
    }
    Err(AuthorityError::Contended {
        secret: CA_SECRET.to_owned(),
    })
}

/// The CA and the epoch, where there are any.
async fn read_ca(secrets: &Secrets) -> Result<Option<(CaPem, u64)>, AuthorityError> {
    let read = secrets.read(CA_SECRET).await;
    let read = read.map_err(AuthorityError::api(format!("read Secret {CA_SECRET}")))?;
    let Some(stored) = read else {
        return Ok(None);
    };
    let text = |field: &'static str| {
        let missing = Damaged {
            secret: CA_SECRET.to_owned(),
            field,
        };
        stored.data.get(field).cloned().ok_or(missing)
    };
    let pem = CaPem {
        certificate: text(CERTIFICATE)?,
        key: text(KEY)?,
    };
    Ok(Some((pem, epoch_of(&stored))))
}

async fn make_ca(secrets: &Secrets, clock: &Clock) -> Result<Race, AuthorityError> {
    let made = Ca::generate(clock.now()).map_err(CaError::from)?;
    let data = Data::from([
        (CERTIFICATE.to_owned(), made.certificate),
        (KEY.to_owned(), made.key),
    ]);
    let epoch = BTreeMap::from([(EPOCH.to_owned(), FIRST_EPOCH.to_string())]);
    let created = secrets.create(CA_SECRET, CA, data, epoch).await;
    created.map_err(AuthorityError::api(format!("create Secret {CA_SECRET}")))
}
