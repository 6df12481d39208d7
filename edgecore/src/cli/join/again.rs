//! A device that joins the cluster that it has joined already: nothing is to do, unless its certificate has ended,
//! or the cluster does not take its key any more.
//!
//! What the cluster says is asked for as a renewal is: with the certificate that is held, and without the token,
//! which may be one that was used long ago.
//!
//! **Invariant:** nothing but the certificate is written; the key, the configuration and the pods stay.

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use protocol::join::{NodeKey, RefusalCode};

use super::super::record::replace;
use super::plan::Plan;
use super::{Paths, enrol, step, warn};
use crate::identity::{Files, Identity};
use crate::uplink::enrolment::{self, RenewError};

/// What the cluster says of the node.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// It takes it.
    Taken,
    /// The name has no key any more, or another one: a token can change that.
    NotTaken(&'static str),
    /// It does not take it, and no token changes that.
    Refused(String),
    /// Nobody could be asked.
    Unknown(String),
}

/// Enrols the device again, with the key that it has, if that is needed.
pub(super) async fn again(plan: &Plan, ended: bool, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    if ended {
        step("the certificate of this device has ended; another is asked for, with the key that it has");
        return certify(plan, paths, clock).await;
    }
    let name = &plan.config.node_name;
    let here = format!("this device has already joined this cluster as {name}; nothing is changed");
    match asked(plan, paths, clock).await {
        Word::Taken => step(&here),
        Word::NotTaken(why) => {
            warn(&format!("the cluster does not take this device any more: {why}"));
            step("it is enrolled again, with the key that it has");
            return certify(plan, paths, clock).await;
        }
        Word::Refused(why) => bail!("the cluster does not take this device: {why}"),
        Word::Unknown(why) => {
            step(&here);
            warn(&format!(
                "whether the cluster still takes it could not be asked: {why}"
            ));
        }
    }
    Ok(())
}

/// The certificate alone is made anew, for the same name and key.
async fn certify(plan: &Plan, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    let file = paths.key();
    let pem = std::fs::read_to_string(&file).with_context(|| format!("the key {}", file.display()))?;
    let enrolled = enrol::enrol(plan, &NodeKey::from_pem(&pem)?, clock).await?;
    replace(&paths.certificate(), enrolled.certificate.as_bytes(), 0o600)?;
    step("the new certificate is there; a running edgecore uses it from its next attempt on");
    Ok(())
}

/// What the first address says that answers.
async fn asked(plan: &Plan, paths: &Paths, clock: &Clock) -> Word {
    let files = Files {
        key: paths.key(),
        certificate: paths.certificate(),
        authority: paths.authority(),
    };
    let config = &plan.config;
    let identity = match Identity::open(config.node_name.clone(), files, clock.clone()) {
        Ok(identity) => identity,
        Err(fault) => return Word::Unknown(crate::identity::told(&fault)),
    };
    let mut misses = Vec::new();
    for address in &config.addresses {
        match enrolment::ask(address, config.proxy.as_ref(), &identity, clock).await {
            Ok(_) => return Word::Taken,
            Err(RenewError::Refused { code, text }) => return word(code, text),
            Err(error) => misses.push(format!("{address}: {error}")),
        }
    }
    Word::Unknown(misses.join("; "))
}

/// What a refusal to renew means for one who has a token. Pure.
fn word(code: RefusalCode, text: String) -> Word {
    if code == RefusalCode::NotEnrolled {
        Word::NotTaken("it was removed in the cluster")
    } else if code == RefusalCode::KeyDiffers {
        Word::NotTaken("another one was enrolled under its name")
    } else if matches!(code, RefusalCode::Banned | RefusalCode::NameTaken) {
        Word::Refused(text)
    } else {
        // A bad request is what an older cloudcore calls every renewal.
        Word::Unknown(text)
    }
}
