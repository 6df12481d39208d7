//! Judges a Hello. Pure.

use protocol::{
    name::shown,
    wire::{Hello, Reject, RejectCode, VERSIONS, common_version},
};

/// One start of edgecore is named by a few random bytes.
const BOOT_ID_MAX: usize = 64;

/// Which version to speak, or why not to.
pub(super) fn judge(hello: &Hello, cluster_id: &str) -> Result<u32, Reject> {
    let Some(version) = common_version((hello.version_min, hello.version_max)) else {
        let text = format!(
            "cloudcore speaks versions {} to {} of the link, the edge ({}) {} to {}: update the older one",
            VERSIONS.0,
            VERSIONS.1,
            shown(&hello.software),
            hello.version_min,
            hello.version_max
        );
        return Err(reject(RejectCode::Version, text));
    };
    if hello.boot_id.is_empty() || hello.boot_id.len() > BOOT_ID_MAX {
        return Err(reject(RejectCode::Protocol, "the Hello has no boot id"));
    }
    if !hello.cluster_id.is_empty() && hello.cluster_id != cluster_id {
        let text = format!(
            "this device belongs to cluster {}, and this is cluster {cluster_id}; to move it, with a token of this \
             one: edgecore join ADDRESS --token-file FILE --replace-cluster",
            shown(&hello.cluster_id)
        );
        return Err(reject(RejectCode::OtherCluster, text));
    }
    Ok(version)
}

/// A rejection that leaves the next attempt to the edge's own back-off.
pub(super) fn reject(code: RejectCode, text: impl Into<String>) -> Reject {
    Reject {
        code: code as u32,
        text: text.into(),
        retry_after_ms: 0,
        server_time_ms: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            boot_id: vec![1].into(),
            ..Hello::default()
        }
    }

    fn code(judged: Result<u32, Reject>) -> RejectCode {
        judged.unwrap_err().code.into()
    }

    #[test]
    fn the_highest_common_version_is_taken() {
        assert_eq!(judge(&hello(), "c"), Ok(1));
        assert_eq!(
            judge(
                &Hello {
                    version_max: 7,
                    ..hello()
                },
                "c"
            ),
            Ok(1)
        );
        assert_eq!(
            code(judge(
                &Hello {
                    version_min: 7,
                    version_max: 7,
                    ..hello()
                },
                "c"
            )),
            RejectCode::Version
        );
    }

    #[test]
    fn a_device_of_another_cluster_is_told_how_to_move() {
        assert_eq!(
            judge(
                &Hello {
                    cluster_id: "c".to_owned(),
                    ..hello()
                },
                "c"
            ),
            Ok(1)
        );
        let refused = judge(
            &Hello {
                cluster_id: "d\n".to_owned(),
                ..hello()
            },
            "c",
        )
        .unwrap_err();
        assert!(refused.text.contains("--replace-cluster") && !refused.text.contains('\n'));
    }

    #[test]
    fn a_hello_without_a_boot_id_is_no_hello() {
        assert_eq!(
            code(judge(
                &Hello {
                    boot_id: vec![].into(),
                    ..hello()
                },
                "c"
            )),
            RejectCode::Protocol
        );
        assert_eq!(
            code(judge(
                &Hello {
                    boot_id: vec![0; 65].into(),
                    ..hello()
                },
                "c"
            )),
            RejectCode::Protocol
        );
    }
}
