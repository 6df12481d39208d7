//! Where the join token comes from.
//!
//! A secret in the arguments is seen by every user of the machine, so a file, standard input or
//! the environment are offered; the argument is accepted, for it is what people type first.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};

/// The environment variable that may hold the token.
pub(super) const VARIABLE: &str = "TOMBOLO_TOKEN";
/// No token is longer than this.
const MAX: u64 = 4096;

/// Finds the token: argument, file, environment, in that order.
pub(super) fn find(
    argument: Option<&str>,
    file: Option<&Path>,
    environment: Option<&str>,
) -> anyhow::Result<String> {
    let text = match (argument, file, environment) {
        (Some(token), ..) | (None, None, Some(token)) => token.to_owned(),
        (None, Some(path), _) => read(path)?,
        (None, None, None) => bail!(
            "a join token is needed: --token-file FILE, {VARIABLE} in the environment, or --token\n\
             make one with: kubectl -n tombolo-system exec deploy/cloudcore -- cloudcore token create"
        ),
    };
    let token = text.trim();
    if token.is_empty() {
        bail!("the join token is empty");
    }
    Ok(token.to_owned())
}

fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let reader: Box<dyn std::io::Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let file = std::fs::File::open(path).with_context(|| format!("the token file {}", path.display()))?;
        Box::new(file)
    };
    let read = reader.take(MAX).read_to_string(&mut text);
    read.with_context(|| format!("the token file {}", path.display()))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_wins_over_the_file_and_the_file_over_the_environment() {
        let file = std::env::temp_dir().join(format!("tombolo-token-{}", std::process::id()));
        std::fs::write(&file, " from-file\n").unwrap();
        assert_eq!(find(Some("arg"), None, Some("env")).unwrap(), "arg");
        assert_eq!(find(None, Some(&file), Some("env")).unwrap(), "from-file");
        assert_eq!(find(None, None, Some("env\n")).unwrap(), "env");
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn without_a_token_one_is_told_how_to_make_it() {
        let told = find(None, None, None).unwrap_err().to_string();
        assert!(
            told.contains("cloudcore token create") && told.contains("--token-file"),
            "{told}"
        );
        assert!(
            find(Some("  "), None, None)
                .unwrap_err()
                .to_string()
                .contains("empty")
        );
        assert!(find(None, Some(Path::new("/nowhere/token")), None).is_err());
    }
}
