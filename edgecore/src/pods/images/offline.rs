//! A registry that cannot be asked, told from one that answers and refuses.
//!
//! CRI gives no code for it: there are only the runtime's words, which end in those of Go's network library.
//!
//! **Invariant:** in doubt the registry has answered.

use super::ImageError;

/// How a connection that does not come about is told, names that cannot be looked up included.
const UNREACHABLE: [&str; 3] = ["dial tcp", "tls handshake timeout", "i/o timeout"];
/// Somebody answered, if to another login.
const ANSWERED: [&str; 7] = [
    "denied",
    "unauthorized",
    "forbidden",
    "not found",
    "unexpected status",
    "too many requests",
    "authorization failed",
];

/// How a pull is told that may not begin, because the store cannot keep that it did.
pub(super) const NOT_KEPT: &str = "the pull cannot be kept in the store";

/// Why the registry could not be asked, if that is what went wrong, now or when the pull was last tried.
pub(super) fn unreachable(error: &ImageError) -> Option<&str> {
    let (ImageError::Pull { cause, .. } | ImageError::BackOff { cause, .. }) = error else {
        return None;
    };
    let words = cause.to_lowercase();
    let says = |those: &[&str]| those.iter().any(|one| words.contains(one));
    (says(&[NOT_KEPT]) || says(&UNREACHABLE) && !says(&ANSWERED)).then_some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(cause: &str) -> bool {
        let (image, cause) = ("i".to_owned(), cause.to_owned());
        unreachable(&ImageError::Pull { image, cause }).is_some()
    }

    #[test]
    fn what_the_network_says_is_not_what_a_registry_says() {
        let head = "failed to pull and unpack image \"r.example.com/a:latest\": failed to resolve reference \"r.example.com/a:latest\": ";
        for network in [
            "failed to do request: Head \"https://r.example.com/v2/a/manifests/latest\": dial tcp: lookup r.example.com on 127.0.0.53:53: server misbehaving",
            "failed to do request: Head \"https://r.example.com/v2/a/manifests/latest\": dial tcp 192.0.2.1:443: connect: network is unreachable",
            "failed to do request: Head \"https://r.example.com/v2/a/manifests/latest\": dial tcp 192.0.2.1:443: i/o timeout",
            "failed to do request: Head \"https://r.example.com/v2/a/manifests/latest\": net/http: TLS handshake timeout",
        ] {
            assert!(told(&format!("{head}{network}")), "{network}");
        }
        for registry in [
            "pull access denied, repository does not exist or may require authorization",
            "unexpected status from HEAD request to https://r.example.com/v2/a/manifests/latest: 503 Service Unavailable",
            "r.example.com/a:latest: not found",
            "failed to do request: Head \"https://r.example.com/v2/a/manifests/latest\": tls: failed to verify certificate: x509: certificate has expired",
            "[dial tcp 192.0.2.1:443: i/o timeout, pull access denied]",
        ] {
            assert!(!told(&format!("{head}{registry}")), "{registry}");
        }
    }
}
