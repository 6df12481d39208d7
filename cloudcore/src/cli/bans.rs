//! `cloudcore node ban`, `bans` and `unban`: keys that are refused, and keys that are refused no more.

use std::io::{Write, stdout};

use anyhow::bail;
use protocol::clock::Clock;
use protocol::name::NodeName;
use protocol::tls::KeyHash;

use super::table::{between, table};
use crate::enroll::{Authority, BannedKey, EnrolledNode};

/// So much of a key is shown.
const SHOWN: usize = 16;
/// So much of a key names it: less may be a slip.
const NAMES: usize = 8;
/// The length of a whole key.
const WHOLE: usize = 64;

/// The beginning of a key, which is enough to tell it from others.
pub(super) fn short(key: &KeyHash) -> String {
    key.to_string().chars().take(SHOWN).collect()
}

pub(super) async fn ban(name: &NodeName, authority: &Authority) -> anyhow::Result<()> {
    let key = authority.ban(name).await?;
    eprintln!("the key {key} of node {name} is banned: its session and tunnels end now");
    eprintln!("its pods stay where they are until: cloudcore node remove {name}");
    eprintln!("the ban stays until: cloudcore node unban {name}");
    Ok(())
}

pub(super) async fn list(authority: &Authority, clock: &Clock) -> anyhow::Result<()> {
    let mut bans = authority.bans().await?;
    bans.sort_by(|one, other| (&one.node, one.since).cmp(&(&other.node, other.since)));
    let enrolled = authority.enrolled().await?;
    let rows: Vec<_> = bans.iter().map(|ban| row(ban, &enrolled, clock)).collect();
    let headings = ["NODE", "KEY", "BANNED", "ENROLLED"];
    write!(stdout(), "{}", table(headings, &rows))?;
    Ok(())
}

fn row(ban: &BannedKey, enrolled: &[EnrolledNode], clock: &Clock) -> [String; 4] {
    let unknown = || "unknown".to_owned();
    let is_enrolled = enrolled.iter().any(|device| device.key == ban.key);
    [
        ban.node.as_ref().map_or_else(unknown, ToString::to_string),
        short(&ban.key),
        ban.since
            .map_or_else(unknown, |since| format!("{} ago", between(since, clock.now()))),
        if is_enrolled { "yes" } else { "no" }.to_owned(),
    ]
}

pub(super) async fn unban(what: &str, authority: &Authority) -> anyhow::Result<()> {
    let (bans, enrolled) = (authority.bans().await?, authority.enrolled().await?);
    let named: Vec<_> = bans.iter().filter(|ban| is_named(ban, what)).collect();
    match named.as_slice() {
        [] if is_known(&enrolled, what) => {
            eprintln!("{what} is not banned: nothing is changed");
            Ok(())
        }
        [] => bail!("no node and no key {what} is banned: see cloudcore node bans"),
        [ban] => end(ban, &enrolled, authority).await,
        several => bail!(
            "{what} has {} bans, of these keys; which one ends?\n{}",
            several.len(),
            commands(several)
        ),
    }
}

async fn end(ban: &BannedKey, enrolled: &[EnrolledNode], authority: &Authority) -> anyhow::Result<()> {
    // That somebody else was faster is as good.
    authority.unban(&ban.key).await?;
    eprintln!("the ban of the key {} is ended", ban.key);
    match enrolled.iter().find(|device| device.key == ban.key) {
        Some(device) => eprintln!("node {} may connect again, and does so by itself", device.node),
        None => eprintln!(
            "no node is enrolled with it: on the device, edgecore join ADDRESS --token-file FILE, with a token \
             made by: cloudcore token create"
        ),
    }
    Ok(())
}

/// Whether these words are about a ban: the node's name, or the key, or the beginning of the key.
fn is_named(ban: &BannedKey, what: &str) -> bool {
    let by_node = ban.node.as_ref().is_some_and(|node| node.as_str() == what);
    let key = what.to_ascii_lowercase();
    by_node || (key.len() >= NAMES && ban.key.to_string().starts_with(&key))
}

/// Whether there is such a node or key, so that a second try is no error and a slip is one.
fn is_known(enrolled: &[EnrolledNode], what: &str) -> bool {
    let is_key = what.len() == WHOLE && what.parse::<KeyHash>().is_ok();
    is_key || enrolled.iter().any(|device| device.node.as_str() == what)
}

fn commands(bans: &[&BannedKey]) -> String {
    let line = |ban: &&BannedKey| format!("  cloudcore node unban {}", short(&ban.key));
    bans.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn ban(node: &str, key: u8) -> BannedKey {
        BannedKey {
            key: KeyHash([key; 32]),
            node: node.parse().ok(),
            since: Some(UNIX_EPOCH),
        }
    }

    fn enrolled(node: &str, key: u8) -> EnrolledNode {
        EnrolledNode {
            node: node.parse().unwrap(),
            key: KeyHash([key; 32]),
            since: UNIX_EPOCH,
            banned: false,
        }
    }

    #[test]
    fn a_ban_is_named_by_its_node_or_by_enough_of_its_key() {
        let ban = ban("pump-7", 0xab);
        for what in ["pump-7", "abababab", "ABABABABAB", &"ab".repeat(32)] {
            assert!(is_named(&ban, what), "{what}");
        }
        for what in ["pump", "pump-8", "ababab", "abababac", "", &"ab".repeat(33)] {
            assert!(!is_named(&ban, what), "{what}");
        }
    }

    #[test]
    fn a_second_try_is_no_error_and_a_slip_is_one() {
        let all = [enrolled("pump-7", 1)];
        assert!(is_known(&all, "pump-7") && is_known(&all, &"cd".repeat(32)));
        assert!(!is_known(&all, "pump-8") && !is_known(&all, "cdcdcdcd"));
    }

    #[test]
    fn a_ban_outlives_its_node_and_a_damaged_one_is_shown_too() {
        let (clock, all) = (Clock::system(), [enrolled("pump-7", 1)]);
        let mut damaged = ban("pump-9", 2);
        (damaged.node, damaged.since) = (None, None);
        assert_eq!(row(&damaged, &all, &clock)[0], "unknown");
        assert_eq!(row(&damaged, &all, &clock)[2..], ["unknown", "no"]);
        let mut held = ban("pump-7", 1);
        held.since = Some(clock.now() - Duration::from_mins(5));
        assert_eq!(
            row(&held, &all, &clock),
            ["pump-7", "0101010101010101", "5m ago", "yes"]
        );
    }

    #[test]
    fn of_several_bans_of_one_name_each_has_a_command_of_its_own() {
        let (stolen, second) = (ban("pump-7", 1), ban("pump-7", 2));
        let told = commands(&[&stolen, &second]);
        assert_eq!(
            told,
            "  cloudcore node unban 0101010101010101\n  cloudcore node unban 0202020202020202"
        );
    }
}
