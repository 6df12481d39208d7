//! Pulls, back-offs and what is said of them, against the runtime in memory.

use super::super::spec::testing::{container, pod};
use super::*;
use crate::runtime::fake::FakeRuntime;
use crate::store::Db;

struct World {
    images: Images,
    told: Mutex<Vec<(&'static str, String)>>,
    secrets: Vec<Arc<Secret>>,
}

impl World {
    async fn with(present: &[&str]) -> (Self, Arc<FakeRuntime>) {
        Self::on(Db::in_memory(), present).await
    }

    async fn on(db: Db, present: &[&str]) -> (Self, Arc<FakeRuntime>) {
        let runtime = Arc::new(FakeRuntime::with_images(present));
        (
            Self {
                images: Images::new(runtime.clone(), 1, PullRecords::open(db).await),
                told: Mutex::default(),
                secrets: Vec::new(),
            },
            runtime,
        )
    }

    async fn ensure(&self, image: &str, policy: &str) -> Result<PresentImage, ImageError> {
        let container = container(&format!(
            r#"{{"name":"c","image":"{image}","imagePullPolicy":"{policy}"}}"#
        ));
        let (pod, sandbox) = (pod("{}"), PodSandboxConfig::default());
        let tell = |event: ImageEvent| self.told.lock().push((event.reason, event.message));
        self.images
            .ensure(
                ImageWish {
                    pod: &pod,
                    container: &container,
                    sandbox: &sandbox,
                    secrets: &self.secrets,
                },
                &tell,
            )
            .await
    }

    fn reasons(&self) -> Vec<&'static str> {
        self.told.lock().iter().map(|(reason, _)| *reason).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_on_the_device_is_not_pulled_unless_always() {
    let (world, _) = World::with(&["busybox:1"]).await;
    world.ensure("busybox:1", "IfNotPresent").await.unwrap();
    world.ensure("busybox:1", "Never").await.unwrap();
    assert_eq!(world.reasons(), ["Pulled", "Pulled"]);
    assert_eq!(
        world.told.lock()[0].1,
        "Container image \"busybox:1\" already present on machine and can be accessed by the pod"
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist_backs_off_and_says_why() {
    let (world, _) = World::with(&[]).await;
    let first = world.ensure("nowhere:1", "IfNotPresent").await.unwrap_err();
    assert_eq!(first.reason(), "ErrImagePull");
    let second = world.ensure("nowhere:1", "IfNotPresent").await.unwrap_err();
    assert_eq!(second.reason(), "ImagePullBackOff");
    assert!(
        second
            .to_string()
            .starts_with("Back-off pulling image \"nowhere:1\": ErrImagePull: ")
    );
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(
        world
            .ensure("nowhere:1", "IfNotPresent")
            .await
            .unwrap_err()
            .reason(),
        "ErrImagePull"
    );
    assert_eq!(
        world.reasons(),
        ["Pulling", "Failed", "BackOff", "Pulling", "Failed"]
    );
}

#[tokio::test(start_paused = true)]
async fn an_image_that_turns_up_is_pulled() {
    let (world, runtime) = World::with(&[]).await;
    world.ensure("late:1", "IfNotPresent").await.unwrap_err();
    runtime.publish("late:1");
    tokio::time::advance(Duration::from_secs(11)).await;
    world.ensure("late:1", "IfNotPresent").await.unwrap();
    assert!(
        world
            .told
            .lock()
            .last()
            .unwrap()
            .1
            .starts_with("Successfully pulled image \"late:1\" in ")
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_with_policy_never_and_a_bad_name_say_so() {
    let (world, _) = World::with(&[]).await;
    let never = world.ensure("none:1", "Never").await.unwrap_err();
    assert_eq!(never.reason(), "ErrImageNeverPull");
    assert_eq!(
        never.to_string(),
        "Container image \"none:1\" is not present with pull policy of Never"
    );
    let bad = world.ensure("Not Valid", "Always").await.unwrap_err();
    assert_eq!(bad.reason(), "InvalidImageName");
}

const CUT: &str = "failed to resolve reference: failed to do request: Head: dial tcp 192.0.2.1:443: connect: network is unreachable";

#[tokio::test(start_paused = true)]
async fn an_image_on_the_device_stands_in_for_a_registry_that_cannot_be_reached() {
    let (world, runtime) = World::with(&["app:latest"]).await;
    runtime.fail_next("PullImage", CUT);
    let there = world.ensure("app:latest", "Always").await.unwrap();
    assert_eq!(world.reasons(), ["Pulling", "RegistryUnreachable"]);
    assert!(world.told.lock()[1].1.ends_with("network is unreachable"));
    let again = world.ensure("app:latest", "Always").await.unwrap();
    assert_eq!(
        (again, runtime.count("PullImage")),
        (there, 1),
        "nor is it asked in vain at every start"
    );
    tokio::time::advance(Duration::from_secs(11)).await;
    runtime.fail_next("PullImage", "pull access denied");
    let refused = world.ensure("app:latest", "Always").await.unwrap_err();
    assert_eq!(refused.reason(), "ErrImagePull", "an answer is one");
    let (world, runtime) = World::with(&[]).await;
    runtime.fail_next("PullImage", CUT);
    assert_eq!(
        world.ensure("app:latest", "Always").await.unwrap_err().reason(),
        "ErrImagePull"
    );
}

#[tokio::test]
async fn an_image_on_the_device_is_used_where_a_pull_cannot_be_kept() {
    let (db, full) = Db::fillable();
    full.store(true, std::sync::atomic::Ordering::Relaxed);
    let (world, runtime) = World::on(db, &["app:latest"]).await;
    runtime.publish("other:1");
    for _ in 0..2 {
        world.ensure("app:latest", "Always").await.unwrap();
    }
    let refused = world.ensure("other:1", "Always").await.unwrap_err();
    assert!(refused.to_string().contains("cannot be kept"), "{refused}");
    assert_eq!(runtime.count("PullImage"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_image_pulled_with_a_secret_stands_in_only_for_those_who_have_it() {
    let app = "r.example.com/app:1";
    let (mut world, runtime) = World::with(&[]).await;
    runtime.publish_for(app, "robot");
    world.secrets = vec![pull_secret("robot")];
    world.ensure(app, "Always").await.unwrap();
    runtime.fail_next("PullImage", CUT);
    world.ensure(app, "Always").await.unwrap();
    assert_eq!(*world.reasons().last().unwrap(), "RegistryUnreachable");
    tokio::time::advance(Duration::from_secs(11)).await;
    world.secrets.clear();
    runtime.fail_next("PullImage", CUT);
    assert_eq!(
        world.ensure(app, "Always").await.unwrap_err().reason(),
        "ErrImagePull"
    );
}

fn pull_secret(user: &str) -> Arc<Secret> {
    let auths = serde_json::json!({"auths": {"r.example.com": {"username": user, "password": "hunter2"}}});
    let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, auths.to_string());
    let secret = serde_json::json!({"metadata": {"name": user}, "type": "kubernetes.io/dockerconfigjson",
        "data": {".dockerconfigjson": data}});
    Arc::new(serde_json::from_value(secret).unwrap())
}

#[tokio::test(start_paused = true)]
async fn one_login_after_another_is_shown_until_one_is_let_in() {
    let (mut world, runtime) = World::with(&[]).await;
    runtime.publish_for("r.example.com/app:1", "second");
    world.secrets = vec![pull_secret("first"), pull_secret("second"), pull_secret("third")];
    world.ensure("r.example.com/app:1", "IfNotPresent").await.unwrap();
    assert_eq!(runtime.count("PullImage"), 2);
}

#[tokio::test(start_paused = true)]
async fn logins_that_are_all_refused_say_why_and_nothing_of_themselves() {
    let (mut world, runtime) = World::with(&[]).await;
    runtime.publish_for("r.example.com/app:1", "somebody");
    world.secrets = vec![pull_secret("first"), pull_secret("second")];
    let error = world
        .ensure("r.example.com/app:1", "IfNotPresent")
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let told = format!("{error:?} {:?}", world.told.lock());
    assert!(!told.contains("hunter2"), "{told}");
    // Nobody's login is shown to another registry.
    world
        .ensure("q.example.com/app:1", "IfNotPresent")
        .await
        .unwrap_err();
    assert_eq!(runtime.count("PullImage"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_image_pulled_with_a_secret_is_no_others_until_the_registry_says_so() {
    let app = "r.example.com/app:1";
    let db = Db::in_memory();
    let (mut world, runtime) = World::on(db.clone(), &[]).await;
    runtime.publish_for(app, "robot");
    world.secrets = vec![pull_secret("robot")];
    world.ensure(app, "IfNotPresent").await.unwrap();
    world.secrets.clear();
    let error = world.ensure(app, "IfNotPresent").await.unwrap_err();
    assert_eq!(error.reason(), "ErrImagePull");
    assert!(error.to_string().contains("pull access denied"), "{error}");
    let never = world.ensure(app, "Never").await.unwrap_err();
    assert_eq!(never.reason(), "ErrImageNeverPull", "as if it were not there");
    // After a restart without the registry, the secret is still enough and nothing is still not.
    let (mut world, runtime) = World::on(db, &[app]).await;
    assert_eq!(
        world.ensure(app, "IfNotPresent").await.unwrap_err().reason(),
        "ErrImagePull"
    );
    world.secrets = vec![pull_secret("robot")];
    world.ensure(app, "Never").await.unwrap();
    assert_eq!(runtime.count("PullImage"), 1);
}
