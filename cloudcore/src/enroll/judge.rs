//! Judges enrolments and handshakes. Pure: reads no clock and writes nothing.
//!
//! **Invariant:** no token lets anybody take a name that an ordinary node has.

use std::time::SystemTime;

use protocol::{
    join::{NodeRequest, RefusalCode, SecretHash},
    name::NodeName,
    tls::{KeyHash, PeerIdentity},
    wire::RejectCode,
};
use thiserror::Error;

use super::records::{KeyRecord, TokenRecord, Use};

/// Why an enrolment was refused, for the one who carries the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: RefusalCode,
    pub(super) text: String,
}

impl Refused {
    pub(super) fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}

/// What a good token asks for next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenUse {
    /// Write this record, then go on.
    Record(TokenRecord),
    /// This key's use for this name is recorded: a lost reply is asked for again.
    Recorded,
}

/// Whether a token is good for a request.
///
/// An unknown token and a wrong secret get the same answer: nobody may find out which tokens exist.
pub(super) fn judge_token(
    record: Option<&TokenRecord>,
    offered: &SecretHash,
    request: &NodeRequest,
    now: SystemTime,
) -> Result<TokenUse, Refused> {
    let Some(record) = record.filter(|record| record.hash == *offered) else {
        let text = "there is no such join token, or it was revoked; make one with: cloudcore token create";
        return Err(Refused::new(RefusalCode::TokenUnknown, text));
    };
    if now >= record.expires {
        let text = "the join token has expired; make another with: cloudcore token create";
        return Err(Refused::new(RefusalCode::TokenExpired, text));
    }
    if let Some(node) = record.node.as_ref().filter(|node| **node != request.node) {
        let text = format!(
            "the join token is good for the node name {node} only, not for {}",
            request.node
        );
        return Err(Refused::new(RefusalCode::TokenForOtherName, text));
    }
    let this = Use {
        node: request.node.clone(),
        key: request.key,
    };
    if record.used.contains(&this) {
        return Ok(TokenUse::Recorded);
    }
    if record.used.len() >= usize::try_from(record.uses).unwrap_or(usize::MAX) {
        let text = "the join token was used as often as it may be; make another with: cloudcore token create";
        return Err(Refused::new(RefusalCode::TokenUsedUp, text));
    }
    let mut recorded = record.clone();
    recorded.used.push(this);
    Ok(TokenUse::Record(recorded))
}

/// What the cluster has under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeSeen {
    /// No Node.
    None,
    /// A Node with the label that only cloudcore sets.
    Ours,
    /// A Node without it.
    Ordinary,
}

/// What to do with the key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyStep {
    /// It is the accepted one.
    Keep,
    /// Accept it: the name has none.
    Accept,
    /// Accept it instead of the present one.
    Replace,
}

/// Whether a name may have the key of a request.
pub(super) fn judge_name(
    request: &NodeRequest,
    seen: NodeSeen,
    accepted: Option<&KeyRecord>,
    token: &TokenRecord,
    token_use: &TokenUse,
) -> Result<KeyStep, Refused> {
    let NodeRequest { node, key, .. } = request;
    if seen == NodeSeen::Ordinary {
        let text = format!("a node named {node} exists that is not an edge node; choose another name");
        return Err(Refused::new(RefusalCode::NameTaken, text));
    }
    if accepted.is_some_and(|accepted| accepted.key == *key) {
        return Ok(KeyStep::Keep);
    }
    if accepted.is_none() && seen == NodeSeen::None {
        return Ok(KeyStep::Accept);
    }
    // A token that was used by a key since replaced does not bring that key back.
    let comes_back =
        *token_use == TokenUse::Recorded && accepted.is_some_and(|accepted| accepted.replaced.contains(key));
    let may_replace = token.replace_key && token.node.as_ref() == Some(node) && !comes_back;
    match (may_replace, accepted) {
        (true, Some(_)) => Ok(KeyStep::Replace),
        (true, None) => Ok(KeyStep::Accept),
        (false, _) => Err(Refused::new(RefusalCode::KeyDiffers, key_differs(node))),
    }
}

fn key_differs(node: &NodeName) -> String {
    format!(
        "the node name {node} belongs to another device; choose another name, or if this device takes its \
         place, make a token with: cloudcore token create --node {node} --replace-key"
    )
}

/// Why a device's session is not taken, or ends.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejected {
    /// Its key is banned.
    #[error("the key of node {node} is banned; the ban is ended by: cloudcore node unban {node}")]
    Banned {
        /// The name it used.
        node: NodeName,
    },
    /// The name has no accepted key.
    #[error(
        "node {node} is not enrolled (any more); on the device: edgecore join ADDRESS --token-file FILE, with a \
         token made by: cloudcore token create"
    )]
    NotEnrolled {
        /// The name.
        node: NodeName,
    },
    /// The name has another accepted key.
    #[error(
        "another device was enrolled as node {node}; if this one takes its place: edgecore join ADDRESS \
         --token-file FILE, with a token made by: cloudcore token create --node {node} --replace-key"
    )]
    KeyReplaced {
        /// The name.
        node: NodeName,
    },
}

impl Rejected {
    /// The code on the wire.
    pub const fn code(&self) -> RejectCode {
        match self {
            Self::Banned { .. } => RejectCode::Banned,
            Self::NotEnrolled { .. } | Self::KeyReplaced { .. } => RejectCode::KeyNotAccepted,
        }
    }
}

/// Whether a peer is who its name says.
pub(super) fn judge_peer(
    peer: &PeerIdentity,
    accepted: Option<KeyHash>,
    banned: bool,
) -> Result<(), Rejected> {
    let node = peer.node.clone();
    match accepted {
        _ if banned => Err(Rejected::Banned { node }),
        None => Err(Rejected::NotEnrolled { node }),
        Some(key) if key != peer.key => Err(Rejected::KeyReplaced { node }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
