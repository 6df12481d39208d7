//! Carries an enrolment out, as `judge` says.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use protocol::{
    clock::millis,
    join::{EnrollAnswer, EnrollRefusal, EnrollRequest, NodeRequest, RefusalCode, TokenId},
    name::NodeName,
};
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{
    authority::{Authority, AuthorityError},
    ca::CaError,
    judge::{KeyStep, NodeSeen, Refused, TokenUse, judge_name, judge_token},
    records::{KeyRecord, NODE, TokenRecord, node_secret, token_secret},
    secrets::{Race, Stored, within},
};

/// Set by cloudcore alone: NodeRestriction forbids it to nodes.
const OURS: &str = "node-restriction.kubernetes.io/tombolo";
/// Races lost before a device is told to come back.
const TRIES: usize = 5;

pub(super) fn too_many() -> Refused {
    Refused::new(RefusalCode::Busy, "too many devices ask right now; try again")
}

/// Who asked for a certificate, for the log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked<'a> {
    /// A device that joins.
    Enrolment(&'a TokenId),
    /// A node.
    Renewal(&'a NodeName),
    /// Who could not show what it is.
    Nobody,
}

impl fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enrolment(token) => write!(f, "the enrolment with token {token}"),
            Self::Renewal(node) => write!(f, "the renewal of node {node}"),
            Self::Nobody => f.write_str("the renewal of an unknown device"),
        }
    }
}

/// Why a certificate was not signed.
pub(super) enum Fault {
    Refused(Refused),
    Authority(AuthorityError),
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<AuthorityError> for Fault {
    fn from(error: AuthorityError) -> Self {
        Self::Authority(error)
    }
}

impl Authority {
    /// Enrols a device, or says why not.
    ///
    /// # Cancel safety
    ///
    /// A request that was cut short may be made again with the same key.
    pub async fn enroll(&self, request: &EnrollRequest) -> Result<EnrollAnswer, EnrollRefusal> {
        let answer = match NodeRequest::parse(&request.csr) {
            Ok(_) if !self.pace.admits(Instant::now()) => Err(too_many().into()),
            Ok(csr) => self.enroll_node(request, &csr).await,
            Err(bad) => Err(Refused::new(RefusalCode::BadRequest, bad.to_string()).into()),
        };
        answer.map_err(|fault| self.refusal(Asked::Enrolment(&request.token), fault))
    }

    async fn enroll_node(&self, request: &EnrollRequest, csr: &NodeRequest) -> Result<EnrollAnswer, Fault> {
        if self.read_ban(&csr.key).await? {
            let text = format!(
                "this device's key is banned; the ban is ended by: cloudcore node unban {}",
                csr.key
            );
            return Err(Refused::new(RefusalCode::Banned, text).into());
        }
        for _ in 0..TRIES {
            if self.take_steps(request, csr).await? == Race::Won {
                self.known.learn(&csr.node, csr.key);
                info!(node = %csr.node, key = %csr.key, token = %request.token, "enrolled");
                return Ok(self.sign(csr)?);
            }
        }
        Err(Refused::new(
            RefusalCode::Busy,
            "others enrol with this token or name right now; try again",
        )
        .into())
    }

    /// Token, name, use, key: judged on what is there now. A lost race means to look again.
    async fn take_steps(&self, request: &EnrollRequest, csr: &NodeRequest) -> Result<Race, Fault> {
        let read = self.secrets.read(&token_secret(&request.token)).await;
        let stored = read.map_err(AuthorityError::api("read the join token"))?;
        let record = stored
            .as_ref()
            .map(TokenRecord::read)
            .transpose()
            .map_err(AuthorityError::from)?;
        let offered = request.secret.hash(&request.token);
        let token_use = judge_token(record.as_ref(), &offered, csr, self.settings.clock.now())?;
        let (Some(stored), Some(record)) = (stored, record) else {
            return Ok(Race::Lost);
        };

        let seen = self.look_at_node(&csr.node).await?;
        let accepted = self.read_key(&csr.node).await?;
        let step = judge_name(csr, seen, accepted.as_ref(), &record, &token_use)?;
        if self.record_use(&stored, &token_use).await? == Race::Lost {
            return Ok(Race::Lost);
        }
        self.take_key_step(csr, step).await.map_err(Fault::from)
    }

    async fn record_use(&self, stored: &Stored, token_use: &TokenUse) -> Result<Race, AuthorityError> {
        let TokenUse::Record(record) = token_use else {
            return Ok(Race::Won);
        };
        let replaced = self.secrets.replace(stored, record.data()).await;
        replaced.map_err(AuthorityError::api("record the use of the join token"))
    }

    async fn take_key_step(&self, csr: &NodeRequest, step: KeyStep) -> Result<Race, AuthorityError> {
        match step {
            KeyStep::Keep => Ok(Race::Won),
            KeyStep::Accept => self.accept_key(csr).await,
            KeyStep::Replace => self.replace_key(csr).await,
        }
    }

    async fn accept_key(&self, csr: &NodeRequest) -> Result<Race, AuthorityError> {
        let since = self.settings.clock.now();
        let record = KeyRecord {
            node: csr.node.clone(),
            key: csr.key,
            since,
            replaced: Vec::new(),
        };
        let name = node_secret(&csr.node);
        let created = self
            .secrets
            .create(&name, NODE, record.data(), BTreeMap::new())
            .await;
        created.map_err(AuthorityError::api(format!("create Secret {name}")))
    }

    async fn replace_key(&self, csr: &NodeRequest) -> Result<Race, AuthorityError> {
        let name = node_secret(&csr.node);
        let read = self.secrets.read(&name).await;
        let Some(stored) = read.map_err(AuthorityError::api(format!("read Secret {name}")))? else {
            return Ok(Race::Lost);
        };
        let old = KeyRecord::read(&stored)?;
        if old.key == csr.key {
            return Ok(Race::Won);
        }
        warn!(node = %csr.node, old = %old.key, new = %csr.key, "the node's key is replaced");
        let data = old.replaced_by(csr.key, self.settings.clock.now()).data();
        let replaced = self.secrets.replace(&stored, data).await;
        replaced.map_err(AuthorityError::api(format!("replace Secret {name}")))
    }

    pub(super) async fn look_at_node(&self, node: &NodeName) -> Result<NodeSeen, AuthorityError> {
        let nodes: Api<Node> = Api::all(self.settings.client.clone());
        let read = within(nodes.get_metadata_opt(node.as_str())).await;
        let found = read.map_err(AuthorityError::api(format!("read node {node}")))?;
        Ok(
            match found.map(|found| found.metadata.labels.unwrap_or_default()) {
                None => NodeSeen::None,
                Some(labels) if labels.contains_key(OURS) => NodeSeen::Ours,
                Some(_) => NodeSeen::Ordinary,
            },
        )
    }

    fn sign(&self, csr: &NodeRequest) -> Result<EnrollAnswer, AuthorityError> {
        let (now, life) = (self.settings.clock.now(), self.settings.node_life.whole());
        let (certificate, _) = self.ca.sign_node(csr, now, life).map_err(CaError::from)?;
        Ok(self.answer(certificate))
    }

    /// What a device gets whose certificate was signed.
    pub(super) fn answer(&self, certificate: String) -> EnrollAnswer {
        EnrollAnswer {
            certificate,
            authority: self.ca.certificate_pem.clone(),
            cluster_id: self.settings.cluster_id.clone(),
            server_time_ms: millis(self.settings.clock.now()),
        }
    }

    /// Tells the log why, and gives what the device is told.
    pub(super) fn refusal(&self, asked: Asked<'_>, fault: Fault) -> EnrollRefusal {
        let server_time_ms = self.settings.clock.now_millis();
        match fault {
            Fault::Refused(Refused { code, text }) => {
                warn!(%asked, ?code, text, "a certificate was refused");
                EnrollRefusal {
                    code,
                    text,
                    server_time_ms,
                }
            }
            Fault::Authority(source) => {
                error!(%asked, error = &source as &dyn std::error::Error, "a certificate could not be signed");
                let text = "cloudcore cannot sign just now; its log says why; try again".to_owned();
                EnrollRefusal {
                    code: RefusalCode::Unavailable,
                    text,
                    server_time_ms,
                }
            }
        }
    }
}
