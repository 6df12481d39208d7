//! Which addresses pods have, where that is known: where the runtime takes the network configuration that join wrote.

use std::fs;
use std::path::Path;

use super::conflist::{self, Found};
use super::pod_cidr::PodCidr;

/// The range of the pods in the runtime's configuration directory; none where another network is in use, or there is
/// more than one.
pub fn range(dir: &Path) -> Option<PodCidr> {
    match conflist::look(dir) {
        Ok(Found::Ours) => of(&fs::read_to_string(dir.join(conflist::FILE)).ok()?),
        Ok(Found::Nothing | Found::Before(_) | Found::Foreign(_)) | Err(_) => None,
    }
}

fn of(text: &str) -> Option<PodCidr> {
    match conflist::ranges_of(text)[..] {
        [range] => Some(range),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::conflist::Plugins;

    #[test]
    fn the_range_is_known_while_the_runtime_takes_the_network_of_join() {
        let dir = std::env::temp_dir().join(format!("tombolo-in-use-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        assert_eq!(range(&dir), None);
        let wanted = "10.99.0.0/24".parse().unwrap();
        let own = Plugins::Own {
            addresses: "/run/tombolo-addresses".into(),
        };
        let common = [true, false].map(|masquerade| Plugins::Common { masquerade });
        for plugins in common.into_iter().chain([own]) {
            fs::write(dir.join(conflist::FILE), conflist::render(wanted, &plugins)).unwrap();
            assert_eq!(range(&dir), Some(wanted));
        }
        fs::write(dir.join("10-calico.conflist"), "{}").unwrap();
        assert_eq!(range(&dir), None, "another one comes first");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_network_with_more_ranges_or_none_is_not_known() {
        let with = |ranges: &str| format!(r#"{{"plugins": [{{"ipam": {{"ranges": {ranges}}}}}]}}"#);
        assert!(of(&with(r#"[[{"subnet": "10.99.0.0/24"}]]"#)).is_some());
        assert!(
            of(&with(
                r#"[[{"subnet": "10.99.0.0/24"}], [{"subnet": "10.98.0.0/24"}]]"#
            ))
            .is_none()
        );
        for text in ["half", "{}", &with("[]"), &with(r#"[[{"subnet": "fd00::/64"}]]"#)] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
