//! What the program writes of its work: lines on the standard error, as `RUST_LOG` asks.

use std::io::IsTerminal as _;

use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Begins to write. What cannot be read is told and leaves the level at info.
pub fn show() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    let read = targets(&asked);
    let fault = read.as_ref().err().map(ToString::to_string);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    tracing_subscriber::registry()
        .with(lines)
        .with(read.unwrap_or_else(|_| usual()))
        .init();
    if let Some(fault) = fault {
        tracing::warn!(
            RUST_LOG = asked,
            fault,
            "RUST_LOG cannot be read, so the level is info: write a level, or targets with theirs, \
             such as info,edgecore::uplink=debug"
        );
    }
}

/// A level, or `target=level` pairs, with commas between. Nothing here looks at spans or fields: what reads such
/// patterns is half a megabyte of code, a thirtieth of an agent at rest.
fn targets(asked: &str) -> Result<Targets, ParseError> {
    match asked {
        "" => Ok(usual()),
        asked => asked.parse(),
    }
}

fn usual() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn without_a_wish_the_level_is_info() {
        let targets = targets("").unwrap();
        assert!(targets.would_enable("edgecore::uplink", &Level::INFO));
        assert!(!targets.would_enable("edgecore::uplink", &Level::DEBUG));
    }

    #[test]
    fn a_target_has_a_level_of_its_own() {
        let targets = targets("info,edgecore::uplink=debug").unwrap();
        assert!(targets.would_enable("edgecore::uplink::dial", &Level::DEBUG));
        assert!(targets.would_enable("edgecore::pods", &Level::INFO));
        assert!(!targets.would_enable("edgecore::pods", &Level::DEBUG));
    }

    #[test]
    fn what_cannot_be_read_is_a_fault() {
        assert!(targets("edgecore=debug=trace").is_err());
        assert!(targets("edgecore=loud").is_err());
    }
}
