//! Whose word counts, and the safe defaults.

use super::super::spec::testing::{container as container_of, facts, pod};
use super::*;
use NamespaceMode::{Container as OwnEach, Node, Pod as Shared};

fn image(uid: Option<i64>, username: &str) -> PresentImage {
    PresentImage {
        image_ref: "sha256:1".to_owned(),
        uid,
        username: username.to_owned(),
    }
}

fn context(
    pod_spec: &str,
    container_json: &str,
    image: &PresentImage,
) -> Result<LinuxContainerSecurityContext, ConfigError> {
    container(&facts(), &pod(pod_spec), &container_of(container_json), image)
}

#[test]
fn the_containers_word_counts_before_the_pods_before_the_images() {
    let pod = r#"{"securityContext":{"runAsUser":1,"runAsGroup":2,"fsGroup":3,"supplementalGroups":[4,5],"seccompProfile":{"type":"RuntimeDefault"}}}"#;
    let own = r#"{"name":"c","securityContext":{"runAsUser":9,"seccompProfile":{"type":"Unconfined"}}}"#;
    let of_pod = context(pod, r#"{"name":"c"}"#, &image(Some(7), "")).unwrap();
    assert_eq!(
        (of_pod.run_as_user, of_pod.run_as_group),
        (Some(number(1)), Some(number(2)))
    );
    assert_eq!(of_pod.supplemental_groups, [3, 4, 5]);
    assert_eq!(of_pod.seccomp, Some(profile(ProfileType::RuntimeDefault)));
    let of_container = context(pod, own, &image(Some(7), "")).unwrap();
    assert_eq!(of_container.run_as_user, Some(number(9)));
    assert_eq!(of_container.seccomp, Some(profile(ProfileType::Unconfined)));
    let of_image = context("{}", r#"{"name":"c"}"#, &image(Some(7), "")).unwrap();
    assert_eq!(of_image.run_as_user, Some(number(7)));
    let by_name = context("{}", r#"{"name":"c"}"#, &image(None, "web")).unwrap();
    assert_eq!(
        (by_name.run_as_user, by_name.run_as_username.as_str()),
        (None, "web")
    );
}

#[test]
fn privileges_are_what_the_container_says() {
    let json = r#"{"name":"c","securityContext":{"privileged":true,"readOnlyRootFilesystem":true,
        "allowPrivilegeEscalation":false,"capabilities":{"add":["NET_ADMIN"],"drop":["ALL"]}}}"#;
    let context = context("{}", json, &image(Some(0), "")).unwrap();
    assert!(context.privileged && context.readonly_rootfs && context.no_new_privs);
    let capabilities = context.capabilities.unwrap();
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_ADMIN".to_owned()], vec!["ALL".to_owned()])
    );
    assert!(context.masked_paths.contains(&"/proc/kcore".to_owned()));
    assert!(context.readonly_paths.contains(&"/proc/sys".to_owned()));
}

#[test]
fn run_as_non_root_is_verified_in_the_kubelets_words() {
    let pod = r#"{"securityContext":{"runAsNonRoot":true}}"#;
    let told =
        |json: &str, image: &PresentImage| context(pod, json, image).err().map(|error| error.to_string());
    let plain = r#"{"name":"c"}"#;
    let place = "(pod: \"web-0_ns(u-1)\", container: c)";
    assert_eq!(
        told(plain, &image(Some(0), "")),
        Some(format!(
            "container has runAsNonRoot and image will run as root {place}"
        ))
    );
    assert_eq!(
        told(plain, &image(None, "web")),
        Some(format!(
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {place}"
        ))
    );
    assert_eq!(
        told(
            r#"{"name":"c","securityContext":{"runAsUser":0}}"#,
            &image(Some(5), "")
        ),
        Some(format!("container's runAsUser breaks non-root policy {place}"))
    );
    assert_eq!(told(plain, &image(Some(5), "")), None);
    assert_eq!(
        told(
            r#"{"name":"c","securityContext":{"runAsUser":5}}"#,
            &image(Some(0), "")
        ),
        None
    );
    assert_eq!(
        told(
            r#"{"name":"c","securityContext":{"runAsNonRoot":false}}"#,
            &image(Some(0), "")
        ),
        None
    );
}

#[test]
fn namespaces_are_the_pods_unless_it_asks_for_the_devices() {
    let modes = |spec: &str| {
        let option = namespaces(&pod(spec));
        (option.network(), option.ipc(), option.pid())
    };
    assert_eq!(modes("{}"), (Shared, Shared, OwnEach));
    assert_eq!(
        modes(r#"{"shareProcessNamespace":true}"#),
        (Shared, Shared, Shared)
    );
    assert_eq!(
        modes(r#"{"hostNetwork":true,"hostPID":true,"hostIPC":true}"#),
        (Node, Node, Node)
    );
}

#[test]
fn a_sandbox_is_privileged_when_a_container_is() {
    let spec = r#"{"securityContext":{"fsGroup":3},"containers":[{"name":"a"},{"name":"b","securityContext":{"privileged":true}}]}"#;
    let context = sandbox(&pod(spec));
    assert!(context.privileged);
    assert_eq!(context.supplemental_groups, [3]);
    assert_eq!(context.seccomp, Some(profile(ProfileType::RuntimeDefault)));
}

#[test]
fn profiles_of_the_device_are_named_as_the_runtime_finds_them() {
    let json = r#"{"name":"c","securityContext":{
        "seccompProfile":{"type":"Localhost","localhostProfile":"audit.json"},
        "appArmorProfile":{"type":"Localhost","localhostProfile":"my-profile"}}}"#;
    let built = context("{}", json, &image(Some(0), "")).unwrap();
    assert_eq!(
        built.seccomp,
        Some(localhost("/nonexistent/kubelet/seccomp/audit.json".to_owned()))
    );
    assert_eq!(built.apparmor, Some(localhost("my-profile".to_owned())));
    #[expect(deprecated, reason = "old runtimes read it")]
    let old = built.apparmor_profile;
    assert_eq!(old, "localhost/my-profile");
    let nameless = r#"{"name":"c","securityContext":{"seccompProfile":{"type":"Localhost"}}}"#;
    assert_eq!(
        context("{}", nameless, &image(Some(0), "")).unwrap_err().0,
        "localhostProfile must be set if seccompProfile type is Localhost."
    );
    let of_pod =
        r#"{"securityContext":{"seccompProfile":{"type":"Localhost","localhostProfile":"a/b.json"}}}"#;
    let built = context(of_pod, r#"{"name":"c"}"#, &image(Some(0), "")).unwrap();
    assert_eq!(
        built.seccomp.unwrap().localhost_ref,
        "/nonexistent/kubelet/seccomp/a/b.json"
    );
}

#[test]
fn labels_and_strict_groups_reach_sandbox_and_container() {
    let of_pod = r#"{"securityContext":{"supplementalGroupsPolicy":"Strict","seLinuxOptions":{"level":"s0:c1","type":"t"}}}"#;
    let built = context(of_pod, r#"{"name":"c"}"#, &image(Some(0), "")).unwrap();
    assert_eq!(
        built.supplemental_groups_policy(),
        SupplementalGroupsPolicy::Strict
    );
    let label = built.selinux_options.unwrap();
    assert_eq!((label.level.as_str(), label.r#type.as_str()), ("s0:c1", "t"));
    let own = r#"{"name":"c","securityContext":{"seLinuxOptions":{"level":"s0:c9"}}}"#;
    let label = context(of_pod, own, &image(Some(0), ""))
        .unwrap()
        .selinux_options
        .unwrap();
    assert_eq!((label.level.as_str(), label.r#type.as_str()), ("s0:c9", ""));
    let sandbox = sandbox(&pod(of_pod));
    assert_eq!(
        sandbox.supplemental_groups_policy(),
        SupplementalGroupsPolicy::Strict
    );
    assert_eq!(sandbox.selinux_options.unwrap().level, "s0:c1");
}

#[test]
fn an_unmasked_proc_hides_and_protects_nothing() {
    let json = r#"{"name":"c","securityContext":{"procMount":"Unmasked"}}"#;
    let built = context("{}", json, &image(Some(0), "")).unwrap();
    assert!(built.masked_paths.is_empty() && built.readonly_paths.is_empty());
}
