//! A device that joins the cluster that it has joined already: nothing is to do, unless its certificate cannot be
//! used any more, or the cluster does not take its key any more.
//!
//! What the cluster says is asked for as a renewal is: with the certificate that is held, and without the token,
//! which may be one that was used long ago.
//!
//! **Invariant:** nothing but the certificate is written, and a key only where there is none to read; the
//! configuration and the pods stay.

use std::io::ErrorKind;

use anyhow::{Context as _, bail};
use protocol::clock::Clock;
use protocol::join::{NodeKey, RefusalCode};

use super::super::record::replace;
use super::plan::Plan;
use super::{Paths, enrol, step, warn};
use crate::identity::Identity;
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
pub(super) async fn again(
    plan: &Plan,
    unfit: Option<String>,
    paths: &Paths,
    clock: &Clock,
) -> anyhow::Result<()> {
    if let Some(why) = unfit {
        warn(&format!("the certificate of this device cannot be used: {why}"));
        step("another is asked for");
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

/// The certificate alone is made anew, for the same name and key; the CA is the one that the token names.
async fn certify(plan: &Plan, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    let enrolled = enrol::enrol(plan, &key(plan, paths)?, clock).await?;
    replace(&paths.authority(), enrolled.authority.as_bytes(), 0o600)?;
    replace(&paths.certificate(), enrolled.certificate.as_bytes(), 0o600)?;
    step("the new certificate is there; a running edgecore uses it from its next attempt on");
    Ok(())
}

/// The key of this device; where the disk has lost it another one, on the disk before it is used.
fn key(plan: &Plan, paths: &Paths) -> anyhow::Result<NodeKey> {
    let file = paths.key();
    match std::fs::read_to_string(&file) {
        Ok(pem) => {
            if let Ok(key) = NodeKey::from_pem(&pem) {
                return Ok(key);
            }
        }
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {}
        Err(error) => return Err(error).with_context(|| format!("the key {}", file.display())),
    }
    warn(&format!(
        "the key {} cannot be read; another is made, which cloudcore takes with a token of \
         `cloudcore token create --node {} --replace-key`",
        file.display(),
        plan.config.node_name
    ));
    let key = NodeKey::generate()?;
    replace(&file, key.expose_pem().as_bytes(), 0o600)?;
    Ok(key)
}

/// What the first address says that answers.
async fn asked(plan: &Plan, paths: &Paths, clock: &Clock) -> Word {
    let config = &plan.config;
    let identity = match Identity::open(config.node_name.clone(), paths.identity(), clock.clone()) {
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
