//! Volumes of a pod from mount to unmount, on a real disk.

use std::time::SystemTime;

use futures::future::BoxFuture;

use super::super::spec::testing::{FakeObjects, facts, pod};
use super::testing::{Scratch, is_root};
use super::tokens::{TokenError, TokenSource, TokenStore};
use super::*;

struct Always;

impl TokenSource for Always {
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>> {
        Box::pin(async move { Ok(format!("token of {}", request.pod_name)) })
    }
}

impl TokenStore for Always {
    fn load(&self) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async { Vec::new() })
    }

    fn keep<'a>(&'a self, _key: &'a str, _value: Option<Vec<u8>>) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

async fn volumes(scratch: &Scratch, objects: &Arc<FakeObjects>) -> Volumes {
    let facts = NodeFacts {
        root_dir: scratch.path().to_owned(),
        ..facts()
    };
    let tokens = TokenCache::open(Arc::new(Always), Arc::new(Always), Arc::new(SystemTime::now)).await;
    Volumes::new(Arc::new(facts), objects.clone(), Arc::new(tokens))
}

const EVERYTHING: &str = r#"{"serviceAccountName":"sa","securityContext":{"fsGroup":2000},"volumes":[
    {"name":"disk","emptyDir":{}},
    {"name":"shm","emptyDir":{"medium":"Memory","sizeLimit":"1Mi"}},
    {"name":"cfg","configMap":{"name":"settings"}},
    {"name":"sec","secret":{"secretName":"keys"}},
    {"name":"dev","hostPath":{"path":"/dev"}},
    {"name":"who","downwardAPI":{"items":[{"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}}]}},
    {"name":"kube-api-access-1","projected":{"sources":[{"serviceAccountToken":{"path":"token"}},{"configMap":{"name":"settings"}}]}}]}"#;

#[tokio::test]
async fn every_type_stands_where_the_kubelet_puts_it_and_is_taken_down_whole() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new("volumes-all");
    let objects = Arc::new(
        FakeObjects::default()
            .config_map("ns", "settings", &[("a", "1")])
            .secret("ns", "keys", &[("k", b"v")]),
    );
    let volumes = volumes(&scratch, &objects).await;
    let mounted = volumes.mount(&pod(EVERYTHING)).await.unwrap();

    let base = scratch.path().join("pods/u-1/volumes");
    for (name, place, read_only) in [
        ("disk", "kubernetes.io~empty-dir/disk", false),
        ("shm", "kubernetes.io~empty-dir/shm", false),
        ("cfg", "kubernetes.io~configmap/cfg", true),
        ("sec", "kubernetes.io~secret/sec", true),
        ("who", "kubernetes.io~downward-api/who", true),
        (
            "kube-api-access-1",
            "kubernetes.io~projected/kube-api-access-1",
            true,
        ),
    ] {
        assert_eq!(
            mounted.volumes[name],
            MountedVolume {
                host_path: base.join(place),
                read_only
            }
        );
    }
    assert_eq!(mounted.volumes["dev"].host_path, PathBuf::from("/dev"));
    let read = |path: &str| std::fs::read_to_string(base.join(path)).unwrap();
    assert_eq!(read("kubernetes.io~secret/sec/k"), "v");
    assert_eq!(
        read("kubernetes.io~projected/kube-api-access-1/token"),
        "token of web-0"
    );
    for secret in [
        "kubernetes.io~secret/sec",
        "kubernetes.io~projected/kube-api-access-1",
    ] {
        let place = nix::sys::statfs::statfs(&base.join(secret)).unwrap();
        assert_eq!(place.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC);
    }
    assert!(mounted.refresh_after.is_some());

    assert_eq!(volumes.on_disk().await, ["u-1"]);
    volumes.unmount("u-1").await.unwrap();
    assert_eq!(volumes.on_disk().await, Vec::<String>::new());
    volumes.unmount("u-1").await.unwrap();
    assert!(Path::new("/dev/null").exists());
}

#[tokio::test]
async fn a_changed_config_map_arrives_in_the_mounted_file() {
    let scratch = Scratch::new("volumes-change");
    let objects = Arc::new(FakeObjects::default().config_map("ns", "settings", &[("a", "1")]));
    let volumes = volumes(&scratch, &objects).await;
    let pod = pod(r#"{"volumes":[{"name":"cfg","configMap":{"name":"settings"}}]}"#);
    let mounted = volumes.mount(&pod).await.unwrap();
    let file = mounted.volumes["cfg"].host_path.join("a");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    objects.put_config_map("ns", "settings", &[("a", "2")]);
    volumes.mount(&pod).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "2");
}

#[tokio::test]
async fn a_missing_object_and_a_hostile_key_are_told_in_the_kubelets_words() {
    let scratch = Scratch::new("volumes-missing");
    let objects = Arc::new(FakeObjects::default().config_map("ns", "evil", &[("../../x", "1")]));
    let volumes = volumes(&scratch, &objects).await;
    let of = |map: &str| {
        pod(&format!(
            r#"{{"volumes":[{{"name":"cfg","configMap":{{"name":"{map}"}}}}]}}"#
        ))
    };
    let missing = volumes.mount(&of("none")).await.unwrap_err();
    assert_eq!(
        missing.to_string(),
        r#"MountVolume.SetUp failed for volume "cfg" : configmap "none" not found"#
    );
    assert!(volumes.mount(&of("evil")).await.is_err());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_volume_that_cannot_be_refreshed_keeps_no_other_from_it() {
    let scratch = Scratch::new("volumes-refresh");
    let objects = FakeObjects::default().config_map("ns", "gone", &[("a", "1")]);
    let objects = Arc::new(objects.config_map("ns", "kept", &[("a", "1")]));
    let volumes = volumes(&scratch, &objects).await;
    let pod = pod(
        r#"{"volumes":[{"name":"first","configMap":{"name":"gone"}},{"name":"second","configMap":{"name":"kept"}}]}"#,
    );
    let mounted = volumes.mount(&pod).await.unwrap();
    objects.remove_config_map("ns", "gone");
    objects.put_config_map("ns", "kept", &[("a", "2")]);
    let (refreshed, trouble) = volumes.refresh(&pod, Some(&mounted)).await;
    assert_eq!(trouble.unwrap().volume, "first");
    assert_eq!(refreshed.volumes, mounted.volumes);
    let read = |volume: &str| std::fs::read_to_string(mounted.volumes[volume].host_path.join("a")).unwrap();
    assert_eq!((read("first"), read("second")), ("1".to_owned(), "2".to_owned()));
    let (found, trouble) = volumes.refresh(&pod, None).await;
    assert_eq!(found.volumes.keys().collect::<Vec<_>>(), ["second"]);
    assert!(trouble.is_some());
}

#[tokio::test]
async fn names_that_are_no_directory_names_are_refused() {
    let scratch = Scratch::new("volumes-names");
    let volumes = volumes(&scratch, &Arc::default()).await;
    let climbing = pod(r#"{"volumes":[{"name":"../../x","emptyDir":{}}]}"#);
    assert!(volumes.mount(&climbing).await.is_err());
    assert!(
        volumes
            .mount(&pod(
                r#"{"volumes":[{"name":"d","hostPath":{"path":"/a/../b"}}]}"#
            ))
            .await
            .is_err()
    );
    assert!(volumes.unmount("..").await.is_err());
    assert!(volumes.unmount("").await.is_err());
}
