//! What the program writes of its work: lines on the standard error, as `RUST_LOG` asks.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What the client library logs as an error is told again, with the object, by those who asked.
const QUIET: &str = "kube_client::client::builder=off";
const USUAL: &str = "info";

/// Begins to write. What cannot be read is told and leaves the level at info.
pub fn show() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let read = filter(&asked);
    let fault = read.as_ref().err().map(ToString::to_string);
    tracing_subscriber::fmt()
        .with_env_filter(read.or_else(|_| filter(USUAL)).unwrap_or_default())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Some(fault) = fault {
        tracing::warn!(
            RUST_LOG = asked,
            fault,
            "RUST_LOG cannot be read, so the level is info: write a level, or targets with theirs, \
             such as info,cloudcore::hub=debug"
        );
    }
}

/// A level, or targets with theirs, spans and fields too, with commas between: which of thousands of nodes is
/// looked at is a field of a span here. All of it counts, or none.
fn filter(asked: &str) -> Result<EnvFilter, ParseError> {
    let asked = if asked.is_empty() { USUAL } else { asked };
    EnvFilter::try_new(format!("{QUIET},{asked}"))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn without_a_wish_the_level_is_info() {
        let filter = filter("").unwrap();
        assert_eq!(filter.max_level_hint(), Some(LevelFilter::INFO));
        assert!(filter.to_string().contains(QUIET), "{filter}");
    }

    #[test]
    fn a_target_and_one_node_s_session_have_levels_of_their_own() {
        for asked in ["info,cloudcore::hub=debug", "info,[session{node=e1}]=debug"] {
            let most = filter(asked).unwrap().max_level_hint();
            assert!(most >= Some(LevelFilter::DEBUG), "{asked}");
        }
    }

    #[test]
    fn what_cannot_be_read_in_part_is_a_fault() {
        for asked in ["cloudcore=loud", "info,cloudcore=loud", "info,[session"] {
            assert!(filter(asked).is_err(), "{asked}");
        }
    }
}
