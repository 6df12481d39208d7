//! Image references: `[host[:port]/]path[:tag][@digest]`.
//!
//! Pure. Names are checked, not resolved: a short name stays short, the runtime knows its registries.

/// The reference with `:latest` where it has neither tag nor digest.
pub(in crate::pods) fn with_default_tag(image: &str) -> Result<String, &'static str> {
    let (named, digest) = image
        .split_once('@')
        .map_or((image, None), |(named, digest)| (named, Some(digest)));
    let (repository, tag) = split_tag(named);
    if !is_repository(repository) {
        let lower = repository.to_lowercase();
        let only_case = repository != lower && is_repository(&lower);
        return Err(if only_case {
            "invalid reference format: repository name must be lowercase"
        } else {
            MALFORMED
        });
    }
    if !tag.is_none_or(is_tag) || !digest.is_none_or(is_digest) {
        return Err(MALFORMED);
    }
    Ok(if tag.is_none() && digest.is_none() {
        format!("{image}:latest")
    } else {
        image.to_owned()
    })
}

/// The reference without tag and digest, as it is written.
pub(super) fn repository(image: &str) -> &str {
    let named = image.split_once('@').map_or(image, |(named, _)| named);
    split_tag(named).0
}

const MALFORMED: &str = "invalid reference format";

/// A colon after the last slash starts a tag; one before it, a port.
fn split_tag(named: &str) -> (&str, Option<&str>) {
    match named.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (named, None),
    }
}

fn is_repository(repository: &str) -> bool {
    if repository.len() > 255 {
        return false;
    }
    let (host, path) = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, repository),
    };
    host.is_none_or(is_host) && path.split('/').all(is_component)
}

fn is_host(host: &str) -> bool {
    let (name, port) = host
        .split_once(':')
        .map_or((host, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        let inner = label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !label.is_empty() && inner && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case words joined by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(|byte| word(*byte));
    let bytes = component.as_bytes();
    let joints = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let joint =
        |joint: &str| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-');
    ends(bytes.first()) && ends(bytes.last()) && joints.into_iter().all(joint)
}

fn is_tag(tag: &str) -> bool {
    let first = tag
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    first
        && tag.len() <= 128
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, hex)) = digest.split_once(':') else {
        return false;
    };
    let named = algorithm
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    named && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latest_stands_for_no_tag_and_nothing_else_changes() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        for (image, full) in [
            ("busybox", "busybox:latest"),
            ("busybox:1.36", "busybox:1.36"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("a_b/c__d/e--f.g", "a_b/c__d/e--f.g:latest"),
            (&digest, &digest),
        ] {
            assert_eq!(with_default_tag(image).unwrap(), full);
        }
    }

    #[test]
    fn a_repository_is_what_stands_before_tag_and_digest() {
        let digest = format!("localhost:5000/a:1@sha256:{}", "a".repeat(64));
        for image in ["localhost:5000/a", "localhost:5000/a:1", &digest] {
            assert_eq!(repository(image), "localhost:5000/a");
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for bad in [
            "",
            ":",
            "a:",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a@",
            "a@sha256:12",
            "http://a/b",
            "a:$x",
            "a___b",
        ] {
            assert_eq!(with_default_tag(bad), Err(MALFORMED), "{bad:?}");
        }
        assert!(
            with_default_tag("BusyBox")
                .unwrap_err()
                .ends_with("must be lowercase")
        );
    }
}
