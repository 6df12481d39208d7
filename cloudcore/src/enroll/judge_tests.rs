//! Every rule of joining, one sentence each.

use std::time::{Duration, UNIX_EPOCH};

use protocol::join::JoinToken;

use super::*;

const NOW: Duration = Duration::from_secs(1_000_000);

fn now() -> SystemTime {
    UNIX_EPOCH + NOW
}

fn request(node: &str, key: u8) -> NodeRequest {
    NodeRequest {
        node: node.parse().unwrap(),
        public_key: vec![key],
        key: KeyHash([key; 32]),
    }
}

/// A token that lives for another hour, and its secret's hash.
fn token(uses: u32) -> (TokenRecord, SecretHash) {
    let token = JoinToken::generate([0; 32]);
    let hash = token.secret.hash(&token.id);
    let expires = now() + Duration::from_hours(1);
    (
        TokenRecord {
            hash,
            expires,
            uses,
            node: None,
            replace_key: false,
            used: vec![],
        },
        hash,
    )
}

fn accepted(node: &str, key: u8) -> KeyRecord {
    KeyRecord {
        node: node.parse().unwrap(),
        key: KeyHash([key; 32]),
        since: now(),
        replaced: vec![],
    }
}

fn refusal<T: std::fmt::Debug>(judged: Result<T, Refused>) -> RefusalCode {
    judged.unwrap_err().code
}

/// The record after its use, which must be allowed.
fn used(record: &TokenRecord, hash: &SecretHash, request: &NodeRequest) -> TokenRecord {
    match judge_token(Some(record), hash, request, now()).unwrap() {
        TokenUse::Record(record) => record,
        TokenUse::Recorded => panic!("was used before"),
    }
}

#[test]
fn a_wrong_secret_and_an_unknown_token_look_alike() {
    let (record, _) = token(1);
    let (_, other) = token(1);
    let wrong = judge_token(Some(&record), &other, &request("a", 1), now()).unwrap_err();
    let unknown = judge_token(None, &other, &request("a", 1), now()).unwrap_err();
    assert_eq!(wrong, unknown);
    assert_eq!(wrong.code, RefusalCode::TokenUnknown);
}

#[test]
fn a_token_ends_at_its_time() {
    let (record, hash) = token(1);
    let late = record.expires;
    assert_eq!(
        refusal(judge_token(Some(&record), &hash, &request("a", 1), late)),
        RefusalCode::TokenExpired
    );
    // A wrong secret is not told that the token existed.
    let (_, other) = token(1);
    assert_eq!(
        refusal(judge_token(Some(&record), &other, &request("a", 1), late)),
        RefusalCode::TokenUnknown
    );
}

#[test]
fn a_used_token_is_refused_to_another_key_and_open_to_the_same_one() {
    let (record, hash) = token(1);
    let spent = used(&record, &hash, &request("a", 1));
    assert_eq!(
        judge_token(Some(&spent), &hash, &request("a", 1), now()),
        Ok(TokenUse::Recorded)
    );
    assert_eq!(
        refusal(judge_token(Some(&spent), &hash, &request("a", 2), now())),
        RefusalCode::TokenUsedUp
    );
}

#[test]
fn the_same_key_cannot_take_a_second_name_with_one_use() {
    let (record, hash) = token(1);
    let spent = used(&record, &hash, &request("a", 1));
    assert_eq!(
        refusal(judge_token(Some(&spent), &hash, &request("b", 1), now())),
        RefusalCode::TokenUsedUp
    );
}

#[test]
fn a_token_for_one_name_is_refused_to_another() {
    let (mut record, hash) = token(5);
    record.node = Some("a".parse().unwrap());
    let refused = refusal(judge_token(Some(&record), &hash, &request("b", 1), now()));
    assert_eq!(refused, RefusalCode::TokenForOtherName);
}

#[test]
fn no_token_takes_the_name_of_an_ordinary_node() {
    let (mut record, hash) = token(1);
    record.node = Some("a".parse().unwrap());
    record.replace_key = true;
    let request = request("a", 1);
    let token_use = TokenUse::Record(used(&record, &hash, &request));
    for key in [None, Some(accepted("a", 1)), Some(accepted("a", 2))] {
        let judged = judge_name(&request, NodeSeen::Ordinary, key.as_ref(), &record, &token_use);
        assert_eq!(refusal(judged), RefusalCode::NameTaken);
    }
}

#[test]
fn a_free_name_takes_the_key_and_keeps_it() {
    let (record, hash) = token(1);
    let request = request("a", 1);
    let token_use = TokenUse::Record(used(&record, &hash, &request));
    assert_eq!(
        judge_name(&request, NodeSeen::None, None, &record, &token_use),
        Ok(KeyStep::Accept)
    );
    let kept = judge_name(
        &request,
        NodeSeen::Ours,
        Some(&accepted("a", 1)),
        &record,
        &token_use,
    );
    assert_eq!(kept, Ok(KeyStep::Keep));
}

#[test]
fn an_enrolled_name_changes_its_key_only_by_a_token_made_for_that() {
    let (mut record, hash) = token(1);
    let (request, held) = (request("a", 2), accepted("a", 1));
    let token_use = TokenUse::Record(used(&record, &hash, &request));
    let judged = |seen, record: &TokenRecord| judge_name(&request, seen, Some(&held), record, &token_use);
    for seen in [NodeSeen::None, NodeSeen::Ours] {
        assert_eq!(refusal(judged(seen, &record)), RefusalCode::KeyDiffers);
    }
    // A flag alone is not enough: the token must name the node.
    record.replace_key = true;
    assert_eq!(refusal(judged(NodeSeen::Ours, &record)), RefusalCode::KeyDiffers);
    record.node = Some("a".parse().unwrap());
    assert_eq!(judged(NodeSeen::Ours, &record), Ok(KeyStep::Replace));
}

#[test]
fn a_node_of_ours_without_a_key_is_not_free() {
    let (record, hash) = token(1);
    let request = request("a", 1);
    let token_use = TokenUse::Record(used(&record, &hash, &request));
    let judged = judge_name(&request, NodeSeen::Ours, None, &record, &token_use);
    assert_eq!(refusal(judged), RefusalCode::KeyDiffers);
}

#[test]
fn a_replaced_device_does_not_come_back_with_the_token_it_used() {
    let (mut record, hash) = token(1);
    record.node = Some("a".parse().unwrap());
    record.replace_key = true;
    let old = request("a", 1);
    let spent = used(&record, &hash, &old);
    let judged = |held: &KeyRecord| judge_name(&old, NodeSeen::Ours, Some(held), &spent, &TokenUse::Recorded);
    let since_replaced = accepted("a", 1).replaced_by(KeyHash([2; 32]), now());
    assert_eq!(refusal(judged(&since_replaced)), RefusalCode::KeyDiffers);
    // Between the use and the replacement a crash may lie: then the retry completes it.
    assert_eq!(judged(&accepted("a", 3)), Ok(KeyStep::Replace));
}

#[test]
fn a_peer_is_taken_by_its_key_and_a_ban_holds_under_any_name() {
    let peer = PeerIdentity {
        node: "a".parse().unwrap(),
        key: KeyHash([1; 32]),
        expires: now(),
        address: "192.0.2.1:1".parse().unwrap(),
    };
    assert_eq!(judge_peer(&peer, Some(peer.key), false), Ok(()));
    assert!(matches!(
        judge_peer(&peer, Some(peer.key), true),
        Err(Rejected::Banned { .. })
    ));
    assert!(matches!(
        judge_peer(&peer, None, true),
        Err(Rejected::Banned { .. })
    ));
    assert!(matches!(
        judge_peer(&peer, None, false),
        Err(Rejected::NotEnrolled { .. })
    ));
    let other = Some(KeyHash([2; 32]));
    assert!(matches!(
        judge_peer(&peer, other, false),
        Err(Rejected::KeyReplaced { .. })
    ));
}
