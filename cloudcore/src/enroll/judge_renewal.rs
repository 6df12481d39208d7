//! Judges renewals: whether who holds a certificate gets the next one. Pure: reads no clock and writes
//! nothing.
//!
//! **Invariant:** nobody gets a certificate for a name or a key that a handshake would not take.

use std::time::{Duration, SystemTime};

use protocol::{
    join::{NodeRequest, RefusalCode},
    name::NodeName,
    tls::{Certified, KeyHash, PeerIdentity, human},
};

use super::judge::{NodeSeen, Refused};

/// For so long after its end a certificate still says who a device was: a season in a container, a
/// machine in for repair.
const GRACE: Duration = Duration::from_hours(90 * 24);

/// The certificate that a renewal rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) node: NodeName,
    pub(super) key: KeyHash,
    pub(super) ends: SystemTime,
}

impl From<&PeerIdentity> for Held {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            node: peer.node.clone(),
            key: peer.key,
            ends: peer.expires,
        }
    }
}

impl From<&Certified> for Held {
    fn from(certified: &Certified) -> Self {
        Self {
            node: certified.node.clone(),
            key: certified.key,
            ends: certified.expires,
        }
    }
}

/// What the cluster says of the name and the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) banned: bool,
    pub(super) accepted: Option<KeyHash>,
    pub(super) seen: NodeSeen,
}

/// Whether the holder of a certificate may ask at all; costs no look at the cluster.
pub(super) fn judge_request(held: &Held, request: &NodeRequest, now: SystemTime) -> Result<(), Refused> {
    let node = &held.node;
    if request.node != *node || request.key != held.key {
        let text = format!(
            "the request is not for node {node} and the key of its certificate; only these are renewed"
        );
        return Err(Refused::new(RefusalCode::BadRequest, text));
    }
    let past = now.duration_since(held.ends).unwrap_or_default();
    if past > GRACE {
        let text = format!(
            "the certificate of node {node} ended {} ago, and renews by itself for {} only; on the device: \
             edgecore join ADDRESS --token-file FILE, with a token made by: cloudcore token create",
            human(past),
            human(GRACE)
        );
        return Err(Refused::new(RefusalCode::EndedTooLongAgo, text));
    }
    Ok(())
}

/// Whether the cluster still takes the name and the key of a certificate.
pub(super) fn judge_standing(held: &Held, standing: &Standing) -> Result<(), Refused> {
    let node = &held.node;
    let again = format!(
        "edgecore join ADDRESS --token-file FILE, with a token made by: cloudcore token create --node {node}"
    );
    let (code, text) = match standing.accepted {
        _ if standing.banned => {
            let text = format!(
                "the key of node {node} is banned; the ban is ended by: cloudcore node unban {node}; or, with a new \
                 key, on the device: edgecore reset, then {again} --replace-key"
            );
            (RefusalCode::Banned, text)
        }
        None => {
            let text = format!("node {node} is not enrolled (any more); on the device: {again}");
            (RefusalCode::NotEnrolled, text)
        }
        Some(key) if key != held.key => {
            let text = format!(
                "another device was enrolled as node {node}; if this one takes its place: {again} --replace-key"
            );
            (RefusalCode::KeyDiffers, text)
        }
        Some(_) if standing.seen == NodeSeen::Ordinary => {
            let text = format!("a node named {node} exists that is not an edge node; choose another name");
            (RefusalCode::NameTaken, text)
        }
        Some(_) => return Ok(()),
    };
    Err(Refused::new(code, text))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    const END: Duration = Duration::from_hours(24 * 20_000);
    const KEY: KeyHash = KeyHash([1; 32]);
    const OTHER: KeyHash = KeyHash([2; 32]);

    fn held() -> Held {
        Held {
            node: "pump-7".parse().unwrap(),
            key: KEY,
            ends: UNIX_EPOCH + END,
        }
    }

    fn request(node: &str, key: KeyHash) -> NodeRequest {
        NodeRequest {
            node: node.parse().unwrap(),
            public_key: vec![1],
            key,
        }
    }

    fn good() -> Standing {
        Standing {
            banned: false,
            accepted: Some(KEY),
            seen: NodeSeen::Ours,
        }
    }

    fn refusal(judged: Result<(), Refused>) -> RefusalCode {
        judged.unwrap_err().code
    }

    #[test]
    fn only_the_name_and_the_key_of_the_certificate_are_renewed() {
        let now = held().ends;
        assert_eq!(judge_request(&held(), &request("pump-7", KEY), now), Ok(()));
        for other in [request("pump-8", KEY), request("pump-7", OTHER)] {
            assert_eq!(
                refusal(judge_request(&held(), &other, now)),
                RefusalCode::BadRequest
            );
        }
    }

    #[test]
    fn ninety_days_after_its_end_a_certificate_renews_no_more_and_the_way_back_is_named() {
        let asked = request("pump-7", KEY);
        let last = held().ends + GRACE;
        assert_eq!(judge_request(&held(), &asked, last), Ok(()));
        let refused = judge_request(&held(), &asked, last + Duration::from_secs(1)).unwrap_err();
        assert_eq!(refused.code, RefusalCode::EndedTooLongAgo);
        for part in ["pump-7", "90d 1s ago", "edgecore join", "cloudcore token create"] {
            assert!(refused.text.contains(part), "{}", refused.text);
        }
    }

    #[test]
    fn a_ban_a_removal_another_key_and_an_ordinary_node_end_it() {
        assert_eq!(judge_standing(&held(), &good()), Ok(()));
        let gone = Standing {
            seen: NodeSeen::None,
            ..good()
        };
        assert_eq!(judge_standing(&held(), &gone), Ok(()), "cloudcore makes it again");
        for (standing, code) in [
            (
                Standing {
                    banned: true,
                    ..good()
                },
                RefusalCode::Banned,
            ),
            (
                Standing {
                    accepted: None,
                    ..good()
                },
                RefusalCode::NotEnrolled,
            ),
            (
                Standing {
                    accepted: Some(OTHER),
                    ..good()
                },
                RefusalCode::KeyDiffers,
            ),
            (
                Standing {
                    seen: NodeSeen::Ordinary,
                    ..good()
                },
                RefusalCode::NameTaken,
            ),
        ] {
            assert_eq!(refusal(judge_standing(&held(), &standing)), code);
        }
    }

    proptest! {
        #[test]
        fn who_passes_is_accepted_not_banned_and_in_time(
            banned: bool,
            key in proptest::option::of(0_u8..3),
            ordinary: bool,
            hours in 0_u64..24 * 40_000,
        ) {
            let accepted = key.map(|key| KeyHash([key; 32]));
            let seen = if ordinary { NodeSeen::Ordinary } else { NodeSeen::Ours };
            let now = UNIX_EPOCH + Duration::from_hours(hours);
            let passes = judge_request(&held(), &request("pump-7", KEY), now)
                .and_then(|()| judge_standing(&held(), &Standing { banned, accepted, seen }))
                .is_ok();
            let may = !banned && accepted == Some(KEY) && !ordinary && now <= held().ends + GRACE;
            prop_assert_eq!(passes, may);
        }
    }
}
