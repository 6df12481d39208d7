//! Containers, told to the runtime as the kubelet tells them.

use std::path::Path;

use k8s_cri::v1::{Mount, MountPropagation};

use super::super::spec::testing::{FakeObjects, container, facts, pod};
use super::super::volumes::MountedVolume;
use super::super::volumes::testing::{Scratch, is_root};
use super::*;

struct World {
    facts: NodeFacts,
    objects: FakeObjects,
    volumes: Mounted,
    recursive_read_only: bool,
    _scratch: Scratch,
}

impl World {
    fn new() -> Self {
        let scratch = Scratch::new("container-config");
        let (root_dir, log_dir) = (scratch.path().join("kubelet"), scratch.path().join("logs"));
        std::fs::create_dir_all(root_dir.join("pods/u-1")).unwrap();
        let data = scratch.path().join("data");
        std::fs::create_dir_all(&data).unwrap();
        let volumes = [("data", data, false), ("cfg", "/cfg".into(), true)];
        let volume = |(name, host_path, read_only): (&str, _, _)| {
            (name.to_owned(), MountedVolume { host_path, read_only })
        };
        Self {
            facts: NodeFacts {
                root_dir,
                log_dir,
                ..facts()
            },
            objects: FakeObjects::default().service("default", "kubernetes", "10.96.0.1", &[("https", 443)]),
            volumes: Mounted {
                volumes: volumes.map(volume).into(),
                refresh_after: None,
            },
            recursive_read_only: false,
            _scratch: scratch,
        }
    }

    fn build(&self, pod_spec: &str, container_json: &str) -> Result<ContainerConfig, ConfigError> {
        let image = PresentImage {
            image_ref: "sha256:1".to_owned(),
            uid: Some(0),
            username: String::new(),
        };
        build(&ContainerInput {
            facts: &self.facts,
            objects: &self.objects,
            pod: &pod(pod_spec),
            container: &container(container_json),
            attempt: 2,
            pod_ips: &["10.0.0.5".to_owned()],
            image: &image,
            volumes: &self.volumes,
            recursive_read_only: self.recursive_read_only,
        })
    }
}

fn mount<'a>(config: &'a ContainerConfig, path: &str) -> &'a Mount {
    config
        .mounts
        .iter()
        .find(|mount| mount.container_path == path)
        .unwrap()
}

#[test]
fn a_container_is_described_as_the_kubelet_describes_it() {
    let world = World::new();
    let config = world
        .build(
            r#"{"terminationGracePeriodSeconds":30}"#,
            r#"{"name":"c","image":"busybox:1","command":["run","$(A)"],"args":["$(B)"],"workingDir":"/w","tty":true,"stdin":true,
                "env":[{"name":"A","value":"one"}],"ports":[{"containerPort":80}],
                "resources":{"requests":{"cpu":"250m"},"limits":{"cpu":"500m","memory":"64Mi"}},
                "terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File"}"#,
        )
        .unwrap();
    let metadata = config.metadata.as_ref().unwrap();
    assert_eq!((metadata.name.as_str(), metadata.attempt), ("c", 2));
    let image = config.image.as_ref().unwrap();
    assert_eq!(
        (image.image.as_str(), image.user_specified_image.as_str()),
        ("sha256:1", "busybox:1")
    );
    assert_eq!(
        (config.command.join(" "), config.args.join(" ")),
        ("run one".to_owned(), "$(B)".to_owned())
    );
    assert_eq!(
        (
            config.log_path.as_str(),
            config.tty,
            config.stdin,
            config.stdin_once
        ),
        ("c/2.log", true, true, false)
    );
    assert!(world.facts.log_dir.join("ns_web-0_u-1/c").is_dir());
    let linux = config.linux.as_ref().unwrap().resources.as_ref().unwrap();
    assert_eq!(
        (
            linux.cpu_period,
            linux.cpu_quota,
            linux.cpu_shares,
            linux.memory_limit_in_bytes
        ),
        (100_000, 50_000, 256, 64 << 20)
    );
    let label = |name: &str| config.labels[name].as_str();
    assert_eq!(
        (label(CONTAINER_NAME), label("io.kubernetes.pod.uid")),
        ("c", "u-1")
    );
    let annotation = |name: &str| config.annotations[name].as_str();
    assert_eq!(
        (annotation(RESTART_COUNT), annotation(TERMINATION_GRACE)),
        ("2", "30")
    );
    assert_eq!(annotation(PATH_ANNOTATION), "/dev/termination-log");
    assert_eq!(annotation(PORTS), r#"[{"containerPort":80}]"#);
}

#[test]
fn hosts_and_last_words_have_files_of_their_own() {
    let world = World::new();
    let config = world
        .build(
            "{}",
            r#"{"name":"c","terminationMessagePath":"/dev/termination-log"}"#,
        )
        .unwrap();
    let hosts = std::fs::read_to_string(&mount(&config, "/etc/hosts").host_path).unwrap();
    assert!(hosts.contains("10.0.0.5\tweb-0\n"));
    let words = Path::new(&mount(&config, "/dev/termination-log").host_path);
    assert_eq!(words, termination_file(&world));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(words).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o666);
    // The last run's words are not this run's.
    std::fs::write(words, "old").unwrap();
    world
        .build(
            "{}",
            r#"{"name":"c","terminationMessagePath":"/dev/termination-log"}"#,
        )
        .unwrap();
    assert_eq!(std::fs::read_to_string(words).unwrap(), "");
}

fn termination_file(world: &World) -> std::path::PathBuf {
    super::super::termination::path(&world.facts, "u-1", "c", 2)
}

#[test]
fn volumes_are_mounted_where_the_container_wants_them() {
    let world = World::new();
    let config = world
        .build(
            "{}",
            r#"{"name":"c","volumeMounts":[{"name":"data","mountPath":"/d"},{"name":"cfg","mountPath":"rel"},
            {"name":"data","mountPath":"/etc/hosts","readOnly":true}]}"#,
        )
        .unwrap();
    assert!(!mount(&config, "/d").readonly);
    assert!(mount(&config, "/rel").readonly);
    assert!(mount(&config, "/etc/hosts").readonly);
    assert_eq!(config.mounts.len(), 3);
    let error = world
        .build(
            "{}",
            r#"{"name":"c","volumeMounts":[{"name":"none","mountPath":"/d"}]}"#,
        )
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"cannot find volume "none" to mount into container "c""#
    );
}

#[test]
fn sub_paths_are_bound_and_expressions_resolved() {
    let world = World::new();
    let missing = r#"{"name":"c","volumeMounts":[{"name":"data","mountPath":"/d","subPathExpr":"$(X)/y"}]}"#;
    assert_eq!(
        world.build("{}", missing).unwrap_err().to_string(),
        r#"missing value for "X""#
    );
    let climbing = r#"{"name":"c","volumeMounts":[{"name":"data","mountPath":"/d","subPath":"../x"}]}"#;
    assert!(
        world
            .build("{}", climbing)
            .unwrap_err()
            .to_string()
            .contains("must not contain '..'")
    );
    if is_root() {
        let json = r#"{"name":"c","env":[{"name":"X","value":"x"}],"volumeMounts":[{"name":"data","mountPath":"/d","subPathExpr":"$(X)/y"}]}"#;
        let config = world.build("{}", json).unwrap();
        assert!(
            mount(&config, "/d")
                .host_path
                .ends_with("volume-subpaths/data/c/0")
        );
        assert!(world.volumes.volumes["data"].host_path.join("x/y").is_dir());
    }
}

#[test]
fn only_the_name_and_the_image_make_another_version() {
    let hash = |json: &str| container_hash(&container(json));
    let first = hash(r#"{"name":"c","image":"a"}"#);
    assert_eq!(first, hash(r#"{"name":"c","image":"a","env":[{"name":"X"}]}"#));
    assert_ne!(first, hash(r#"{"name":"c","image":"b"}"#));
}

#[test]
fn what_keeps_a_container_from_being_made_is_told() {
    let world = World::new();
    let json =
        r#"{"name":"c","env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"none","key":"k"}}}]}"#;
    assert_eq!(
        world.build("{}", json).unwrap_err().to_string(),
        r#"configmap "none" not found"#
    );
    let root = r#"{"name":"c","securityContext":{"runAsNonRoot":true}}"#;
    assert!(
        world
            .build("{}", root)
            .unwrap_err()
            .to_string()
            .contains("image will run as root")
    );
}

#[test]
fn mounts_are_propagated_as_the_container_asks() {
    let world = World::new();
    let propagation = |mode: &str| {
        let json = format!(r#"{{"name":"c","volumeMounts":[{{"name":"data","mountPath":"/d"{mode}}}]}}"#);
        let config = world.build("{}", &json).unwrap();
        mount(&config, "/d").propagation()
    };
    assert_eq!(propagation(""), MountPropagation::PropagationPrivate);
    let asked = |mode: &str| propagation(&format!(r#","mountPropagation":"{mode}""#));
    assert_eq!(asked("None"), MountPropagation::PropagationPrivate);
    assert_eq!(
        asked("HostToContainer"),
        MountPropagation::PropagationHostToContainer
    );
    assert_eq!(asked("Bidirectional"), MountPropagation::PropagationBidirectional);
}

#[test]
fn what_was_made_for_the_pod_is_relabelled_where_labels_are_on() {
    let mut world = World::new();
    let spec = r#"{"volumes":[{"name":"data","hostPath":{"path":"/data"}},{"name":"cfg","configMap":{"name":"x"}}]}"#;
    let json = r#"{"name":"c","terminationMessagePath":"/w",
        "volumeMounts":[{"name":"data","mountPath":"/d"},{"name":"cfg","mountPath":"/c"}]}"#;
    let relabelled = |world: &World| {
        let config = world.build(spec, json).unwrap();
        ["/d", "/c", "/etc/hosts", "/w"].map(|path| mount(&config, path).selinux_relabel)
    };
    assert_eq!(relabelled(&world), [false; 4]);
    world.facts.selinux = true;
    assert_eq!(relabelled(&world), [false, true, true, true]);
}

#[test]
fn mounts_are_read_only_all_the_way_down_where_the_handler_can_do_it() {
    let mut world = World::new();
    let json =
        |more: &str| format!(r#"{{"name":"c","volumeMounts":[{{"name":"data","mountPath":"/d",{more}}}]}}"#);
    let asked = |world: &World, more: &str| {
        world
            .build("{}", &json(more))
            .map(|config| mount(&config, "/d").recursive_read_only)
            .map_err(|error| error.0)
    };
    let possible = r#""readOnly":true,"recursiveReadOnly":"IfPossible""#;
    let enabled = r#""readOnly":true,"recursiveReadOnly":"Enabled""#;
    assert_eq!(asked(&world, possible), Ok(false));
    assert_eq!(
        asked(&world, enabled).unwrap_err(),
        "failed to resolve recursive read-only mode: volume \"data\" requested recursive read-only mode, but it is not \
         supported by the runtime"
    );
    world.recursive_read_only = true;
    assert_eq!(asked(&world, possible), Ok(true));
    assert_eq!(asked(&world, enabled), Ok(true));
    assert_eq!(
        asked(&world, r#""readOnly":true,"recursiveReadOnly":"Disabled""#),
        Ok(false)
    );
    assert!(
        asked(&world, r#""recursiveReadOnly":"Enabled""#)
            .unwrap_err()
            .ends_with("but it is not read-only")
    );
}

#[test]
fn command_arguments_and_sub_paths_are_bounded_with_the_environment() {
    let world = World::new();
    let a = "x".repeat(100 << 10);
    let told = |field: &str, value: serde_json::Value| {
        let mut container = serde_json::json!({"name": "c", "env": [{"name": "A", "value": a}]});
        container[field] = value;
        world.build("{}", &container.to_string()).unwrap_err().0
    };
    let (many, limit) = (
        "$(A)".repeat(21),
        "makes environment, command and arguments longer than 2 MiB together",
    );
    for field in ["command", "args"] {
        let words = vec!["$(A)"; 21];
        assert_eq!(told(field, words.into()), format!("$(A) in {field} {limit}"));
    }
    let mount = serde_json::json!([{"name": "data", "mountPath": "/d", "subPathExpr": many}]);
    assert_eq!(
        told("volumeMounts", mount),
        format!("$(A) in subPathExpr of volumeMount \"data\" {limit}")
    );
}
