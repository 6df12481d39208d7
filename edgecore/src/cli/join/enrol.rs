//! The enrolment exchange: TLS to cloudcore, the CA checked against the token, one request.
//!
//! The addresses are tried in turn until one answers. A refusal is the cluster's word and ends
//! it; that an address is wrong, silent or somebody else's is told for each of them.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use protocol::clock::Clock;
use protocol::join::{
    ENROLL_PATH, EnrollAnswer, EnrollRefusal, EnrollRequest, NodeKey, NodeRequest, RefusalCode,
};
use protocol::tls::{self, Credentials};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::plan::Plan;
use super::{step, warn};
use crate::config::Address;
use crate::uplink::enrolment::{self, ANSWER_LIMIT};

/// How often a busy cloudcore is asked again.
const BUSY_TRIES: u32 = 5;
/// A clock that is off by more than this is worth a word.
const CLOCK_SLACK: Duration = Duration::from_mins(5);

/// What an enrolled device has.
#[derive(Clone, Debug)]
pub(super) struct Enrolled {
    /// The node's certificate, PEM.
    pub(super) certificate: String,
    /// The cluster's CA, PEM.
    pub(super) authority: String,
    /// The cluster.
    pub(super) cluster_id: String,
}

/// Why the device was not enrolled.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(super) enum EnrolError {
    /// Nobody fit to enrol with was found.
    #[error("cloudcore was not reached:\n{}", .0.join("\n"))]
    Unreached(Vec<String>),
    /// The cluster says no.
    #[error("cloudcore refused to enrol this device: {text}")]
    Refused {
        /// Why, for programs.
        code: RefusalCode,
        /// Why, in the server's words.
        text: String,
    },
    /// The request may have been carried out, but nobody knows.
    #[error(
        "the request was sent to {address}, but the answer was lost ({why}); run the same command again: \
         the key is kept, and only the same key may use the token again"
    )]
    AnswerLost {
        /// Where it was sent.
        address: Address,
        /// What happened.
        why: String,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {address} cannot be used: {why}")]
    BadAnswer {
        /// Who answered.
        address: Address,
        /// What is wrong with it.
        why: String,
    },
    /// The request could not be made.
    #[error("the request could not be made: {0}")]
    Request(String),
}

impl EnrolError {
    /// Whether the token's use may have been recorded for this key.
    pub(super) fn may_have_counted(&self) -> bool {
        match self {
            Self::AnswerLost { .. } | Self::BadAnswer { .. } => true,
            Self::Refused { code, .. } => code.is_temporary(),
            Self::Unreached(_) | Self::Request(_) => false,
        }
    }
}

/// One address that did not work.
enum Miss {
    /// Nothing was sent; the next address may do.
    Try(String),
    /// It is over.
    End(EnrolError),
}

/// Has the key certified.
pub(super) async fn enrol(plan: &Plan, key: &NodeKey, clock: &Clock) -> Result<Enrolled, EnrolError> {
    let wrong = |error: &dyn std::fmt::Display| EnrolError::Request(error.to_string());
    let csr = key.request(&plan.config.node_name).map_err(|e| wrong(&e))?;
    let token = &plan.token;
    let request = EnrollRequest {
        token: token.id.clone(),
        secret: token.secret.clone(),
        csr,
    };
    for again in 1..=BUSY_TRIES {
        match any_address(plan, &request, clock).await {
            Err(EnrolError::Refused { code, text }) if code.is_temporary() && again < BUSY_TRIES => {
                warn(&format!("{text}; trying again"));
                tokio::time::sleep(Duration::from_secs(1 << again)).await;
            }
            Err(error) => return Err(error),
            Ok((address, answer)) => {
                let checked = check(plan, &request.csr, key, &answer, clock);
                return checked.map_err(|why| EnrolError::BadAnswer { address, why });
            }
        }
    }
    Err(EnrolError::Unreached(vec!["  cloudcore stayed busy".to_owned()]))
}

async fn any_address(
    plan: &Plan,
    request: &EnrollRequest,
    clock: &Clock,
) -> Result<(Address, EnrollAnswer), EnrolError> {
    let mut misses = Vec::new();
    for address in &plan.config.addresses {
        match one_address(address, plan, request, clock).await {
            Ok(answer) => return Ok((address.clone(), answer)),
            Err(Miss::End(error)) => return Err(error),
            Err(Miss::Try(why)) => misses.push(format!("  {address}: {why}")),
        }
    }
    Err(EnrolError::Unreached(misses))
}

async fn one_address(
    address: &Address,
    plan: &Plan,
    request: &EnrollRequest,
    clock: &Clock,
) -> Result<EnrollAnswer, Miss> {
    println!("     connecting to {address}");
    let (stream, authority) = greet(address, plan, clock).await.map_err(Miss::Try)?;
    step(&format!("{address} is the cluster that the token names"));
    let sent = timeout(ANSWER_LIMIT, enrolment::post(stream, ENROLL_PATH, request)).await;
    let lost = |why: String| {
        Miss::End(EnrolError::AnswerLost {
            address: address.clone(),
            why,
        })
    };
    let (status, body) = match sent {
        Err(_) => return Err(lost(format!("no answer within {} s", ANSWER_LIMIT.as_secs()))),
        Ok(Err(why)) => return Err(lost(why)),
        Ok(Ok(answer)) => answer,
    };
    let bad = |why: String| {
        Miss::End(EnrolError::BadAnswer {
            address: address.clone(),
            why,
        })
    };
    if !status.is_success() {
        return Err(refusal(&body, clock).map_or_else(|| bad(format!("HTTP {status}")), Miss::End));
    }
    let answer: EnrollAnswer = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    let shown =
        tls::authority_from_pem(answer.authority.as_bytes()).map_err(|error| bad(error.to_string()))?;
    if shown.as_ref() != authority {
        return Err(bad("it names another CA than the one it showed".to_owned()));
    }
    Ok(answer)
}

fn refusal(body: &[u8], clock: &Clock) -> Option<EnrolError> {
    let EnrollRefusal {
        code,
        text,
        server_time_ms,
    } = serde_json::from_slice(body).ok()?;
    clock.saw_server_millis(server_time_ms);
    Some(EnrolError::Refused { code, text })
}

/// Reaches an address and checks that it has the CA of the token.
async fn greet(
    address: &Address,
    plan: &Plan,
    clock: &Clock,
) -> Result<(TlsStream<TcpStream>, Vec<u8>), String> {
    let (client, pinned) = tls::joining_client(plan.token.pin, clock).map_err(|error| error.to_string())?;
    let stream = enrolment::greet(address, plan.config.proxy.as_ref(), &client).await?;
    let authority = pinned.authority().ok_or("the CA was not checked")?;
    Ok((stream, authority.to_vec()))
}

/// The certificate must be ours: our name, our key, valid now and usable.
fn check(
    plan: &Plan,
    csr: &str,
    key: &NodeKey,
    answer: &EnrollAnswer,
    clock: &Clock,
) -> Result<Enrolled, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    tell_clock(answer.server_time_ms, clock);
    clock.saw_server_millis(answer.server_time_ms);
    let ours = NodeRequest::parse(csr).map_err(|e| told(&e))?;
    let pem = answer.certificate.as_bytes();
    let credentials = Credentials::from_pem(pem, key.expose_pem().as_bytes()).map_err(|e| told(&e))?;
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let named = tls::peer_identity(&credentials.chain, nowhere, clock.now()).map_err(|e| told(&e))?;
    if named.node != plan.config.node_name || named.key != ours.key {
        return Err(format!(
            "the certificate is for node {} or for another key",
            named.node
        ));
    }
    let authority = tls::authority_from_pem(answer.authority.as_bytes()).map_err(|e| told(&e))?;
    tls::client(&authority, &credentials, clock).map_err(|e| told(&e))?;
    step(&format!(
        "enrolled as {} until {}",
        named.node,
        date(named.expires)
    ));
    Ok(Enrolled {
        certificate: answer.certificate.clone(),
        authority: answer.authority.clone(),
        cluster_id: answer.cluster_id.clone(),
    })
}

/// Names a clock that is off: certificates end by it, and logs are dated by it.
fn tell_clock(server_ms: u64, clock: &Clock) {
    let server = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(server_ms));
    let Some(server) = server.filter(|_| server_ms > 0) else {
        return;
    };
    let here = clock.now();
    let (off, how) = here
        .duration_since(server)
        .map_or_else(|e| (e.duration(), "behind"), |off| (off, "ahead of"));
    if off > CLOCK_SLACK {
        warn(&format!(
            "this machine's clock is {} {how} the cluster's: set it",
            tls::human(off)
        ));
    }
}

fn date(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(
        |_| "an unknown date".to_owned(),
        |t| t.strftime("%Y-%m-%d").to_string(),
    )
}
