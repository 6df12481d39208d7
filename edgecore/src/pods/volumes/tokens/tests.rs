//! Tokens over their life: renewed, kept, forgotten.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::*;

#[derive(Default)]
struct Cluster {
    asked: AtomicUsize,
    answers: Mutex<Vec<Result<String, TokenError>>>,
}

impl TokenSource for Cluster {
    fn request<'a>(&'a self, request: &'a TokenRequest) -> BoxFuture<'a, Result<String, TokenError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let answer = self.answers.lock().pop();
        Box::pin(async move {
            answer.unwrap_or_else(|| Err(TokenError::Unreachable(request.service_account.clone())))
        })
    }
}

#[derive(Default)]
struct Disk(Mutex<BTreeMap<String, Vec<u8>>>);

impl TokenStore for Disk {
    fn load(&self) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async { self.0.lock().clone().into_iter().collect() })
    }

    fn keep<'a>(&'a self, key: &'a str, value: Option<Vec<u8>>) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            match value {
                Some(value) => drop(self.0.lock().insert(key.to_owned(), value)),
                None => drop(self.0.lock().remove(key)),
            }
        })
    }
}

struct World {
    cluster: Arc<Cluster>,
    disk: Arc<Disk>,
    clock: Arc<AtomicU64>,
}

impl World {
    fn new() -> Self {
        Self {
            cluster: Arc::default(),
            disk: Arc::default(),
            clock: Arc::new(AtomicU64::new(1000)),
        }
    }

    async fn cache(&self) -> TokenCache {
        let clock = Arc::clone(&self.clock);
        let now = Arc::new(move || UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed)));
        TokenCache::open(self.cluster.clone(), self.disk.clone(), now).await
    }

    fn answer(&self, token: &str) {
        self.cluster.answers.lock().push(Ok(token.to_owned()));
    }

    fn asked(&self) -> usize {
        self.cluster.asked.load(Ordering::Relaxed)
    }

    fn at(&self, seconds: u64) {
        self.clock.store(seconds, Ordering::Relaxed);
    }
}

fn jwt(name: &str, iat: u64, exp: u64) -> String {
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"iat":{iat},"exp":{exp},"sub":"{name}"}}"#));
    format!("h.{claims}.s")
}

fn request(uid: &str) -> TokenRequest {
    TokenRequest {
        namespace: "ns".to_owned(),
        service_account: "sa".to_owned(),
        audiences: Vec::new(),
        expiration_seconds: 3607,
        pod_name: "web-0".to_owned(),
        pod_uid: uid.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_at_four_fifths_of_its_life_or_after_a_day() {
    assert_eq!(Span { iat: 1000, exp: 4600 }.due(), 1000 + 2880);
    assert_eq!(
        Span {
            iat: 1000,
            exp: 1000 + 365 * DAY
        }
        .due(),
        1000 + DAY
    );

    let (world, request) = (World::new(), request("u"));
    let cache = world.cache().await;
    world.answer(&jwt("first", 1000, 4600));
    let first = cache.token(&request).await.unwrap();
    assert_eq!(cache.due_in(&request), Duration::from_mins(48));
    tokio::time::advance(Duration::from_mins(50)).await;
    world.at(3879);
    assert_eq!(cache.token(&request).await.unwrap(), first);
    assert_eq!(world.asked(), 1);
    world.at(3880);
    world.answer(&jwt("second", 3880, 7480));
    assert_ne!(cache.token(&request).await.unwrap(), first);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_starts_offline_gets_its_last_token_however_old() {
    let (world, request) = (World::new(), request("u"));
    world.answer(&jwt("only", 1000, 4600));
    let token = world.cache().await.token(&request).await.unwrap();

    world.at(1_000_000_000);
    let after_reboot = world.cache().await;
    assert_eq!(after_reboot.token(&request).await.unwrap(), token);
    assert_eq!(world.asked(), 2);
    // A second container does not wait for another try.
    assert_eq!(after_reboot.token(&request).await.unwrap(), token);
    assert_eq!(world.asked(), 2);
    assert_eq!(after_reboot.due_in(&request), RETRY);
}

#[tokio::test]
async fn without_a_token_and_without_the_cluster_the_pod_waits() {
    let world = World::new();
    let error = world.cache().await.token(&request("u")).await.unwrap_err();
    assert!(matches!(error, TokenError::Unreachable(_)));
}

#[tokio::test]
async fn the_tokens_of_a_pod_that_is_gone_are_forgotten_and_no_others() {
    let world = World::new();
    let cache = world.cache().await;
    for uid in ["u", "u2"] {
        world.answer(&jwt(uid, 1000, 4600));
        cache.token(&request(uid)).await.unwrap();
    }
    cache.forget("u").await;
    let kept: Vec<_> = world.disk.load().await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with("u2/"));
}

#[tokio::test]
async fn another_audience_is_another_token() {
    let world = World::new();
    let cache = world.cache().await;
    let other = TokenRequest {
        audiences: vec!["vault".to_owned()],
        ..request("u")
    };
    world.answer(&jwt("vault", 1000, 4600));
    world.answer(&jwt("api", 1000, 4600));
    assert_ne!(
        cache.token(&request("u")).await.unwrap(),
        cache.token(&other).await.unwrap()
    );
}

#[test]
fn what_is_no_token_has_no_span() {
    for bad in ["", "x", "a.b.c", "a.e30.c", "a.!!.c"] {
        assert_eq!(Span::of(bad), None, "{bad}");
    }
}
