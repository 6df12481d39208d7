//! Who gets an image that a login was shown for.

use super::*;

const IMAGE: &str = "r.example.com/app:1";
const ID: &str = "sha256:app";

fn login(user: &str) -> AuthConfig {
    AuthConfig {
        username: user.to_owned(),
        password: "hunter2".to_owned(),
        ..AuthConfig::default()
    }
}

fn proof(secret: &str, user: &str) -> Proof {
    Proof::new(("ns", secret, "uid"), &login(user))
}

fn on_device(tags: &[&str], id: &str) -> Image {
    Image {
        id: id.to_owned(),
        repo_tags: tags.iter().map(ToString::to_string).collect(),
        ..Image::default()
    }
}

async fn pulled_with(db: &Db, proof: Option<Proof>) -> PullRecords {
    let records = PullRecords::open(db.clone()).await;
    records.begin(IMAGE, None).await.unwrap();
    records.pulled(IMAGE, ID, proof).await;
    records
}

/// Whether a pod with these secrets may use the image, before and after a restart.
async fn admits(records: &PullRecords, db: &Db, proofs: &[Proof]) -> bool {
    let now = records.may_use(IMAGE, ID, || proofs.to_vec()).await;
    let again = PullRecords::open(db.clone()).await;
    assert_eq!(again.may_use(IMAGE, ID, || proofs.to_vec()).await, now);
    now
}

#[tokio::test]
async fn an_image_that_nobody_pulled_here_is_free_for_all_and_no_secret_is_read() {
    let records = PullRecords::open(Db::in_memory()).await;
    assert!(records.may_use(IMAGE, ID, || panic!("nobody asked")).await);
}

#[tokio::test]
async fn the_records_are_free_while_a_pods_secrets_are_read() {
    let records = pulled_with(&Db::in_memory(), Some(proof("a", "u"))).await;
    let read = || {
        assert!(records.kept.try_lock().is_some());
        vec![proof("a", "u")]
    };
    assert!(records.may_use(IMAGE, ID, read).await);
}

#[tokio::test]
async fn what_was_pulled_with_a_secret_needs_that_secret_or_that_login() {
    let db = Db::in_memory();
    let records = pulled_with(&db, Some(proof("s", "robot"))).await;
    assert!(!admits(&records, &db, &[]).await);
    assert!(!admits(&records, &db, &[proof("other", "other")]).await);
    assert!(admits(&records, &db, &[proof("other", "other"), proof("s", "robot")]).await);
    // The same login in another secret.
    assert!(admits(&records, &db, &[proof("copy", "robot")]).await);
}

#[tokio::test]
async fn a_secret_that_is_rotated_keeps_its_access_and_gives_it_to_its_new_login() {
    let db = Db::in_memory();
    let records = pulled_with(&db, Some(proof("s", "old"))).await;
    assert!(!admits(&records, &db, &[proof("t", "new")]).await);
    assert!(admits(&records, &db, &[proof("s", "new")]).await);
    assert!(admits(&records, &db, &[proof("t", "new")]).await);
    assert!(!admits(&records, &db, &[proof("u", "old")]).await);
}

#[tokio::test]
async fn a_secret_made_again_under_its_name_is_another_one() {
    let db = Db::in_memory();
    let records = pulled_with(&db, Some(proof("s", "old"))).await;
    let again = Proof::new(("ns", "s", "uid-2"), &login("new"));
    assert!(!admits(&records, &db, &[again]).await);
}

#[tokio::test]
async fn what_a_registry_gives_to_anybody_stays_free_under_that_name_alone() {
    let db = Db::in_memory();
    let records = pulled_with(&db, None).await;
    assert!(admits(&records, &db, &[]).await);
    records.pulled(IMAGE, ID, Some(proof("s", "robot"))).await;
    assert!(admits(&records, &db, &[]).await);
    assert!(records.may_use("r.example.com/app:2", ID, Vec::new).await);
    assert!(!records.may_use("q.example.com/app:1", ID, Vec::new).await);
}

#[tokio::test]
async fn a_pull_that_failed_leaves_nothing() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    records.begin(IMAGE, None).await.unwrap();
    records.begin(IMAGE, None).await.unwrap();
    records.failed(IMAGE).await;
    assert_eq!(
        db.scan(Table::ImagePull).await.unwrap().len(),
        1,
        "one is under way"
    );
    records.failed(IMAGE).await;
    assert!(db.scan(Table::ImagePull).await.unwrap().is_empty());
    assert!(admits(&records, &db, &[]).await);
}

#[tokio::test]
async fn a_pull_that_a_crash_cut_short_is_free_for_nobody() {
    let db = Db::in_memory();
    let before = PullRecords::open(db.clone()).await;
    before.begin(IMAGE, None).await.unwrap();
    let records = PullRecords::open(db.clone()).await;
    assert_eq!(records.cut_short_ones(), [IMAGE]);
    assert!(
        !records.may_use(IMAGE, ID, Vec::new).await,
        "before it was looked at"
    );
    records.settle(IMAGE, Some(ID)).await;
    assert!(records.cut_short_ones().is_empty());
    assert!(!admits(&records, &db, &[]).await);
    assert!(
        !records.may_use("alias:1", ID, Vec::new).await,
        "under another name"
    );
}

#[tokio::test]
async fn an_image_that_was_there_before_is_free_while_pulls_of_it_go_on_and_after_a_crash() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    records.begin(IMAGE, Some(ID.to_owned())).await.unwrap();
    records
        .begin(IMAGE, Some("sha256:newer".to_owned()))
        .await
        .unwrap();
    assert!(records.may_use(IMAGE, ID, Vec::new).await);
    assert!(
        !records.may_use(IMAGE, "sha256:newer", Vec::new).await,
        "the first pull brought it"
    );
    let records = PullRecords::open(db.clone()).await;
    assert!(records.may_use(IMAGE, ID, Vec::new).await);
    records.settle(IMAGE, Some(ID)).await;
    assert!(admits(&records, &db, &[]).await);
}

#[tokio::test]
async fn what_was_there_before_a_pull_that_ended_says_nothing_of_the_next() {
    let db = Db::in_memory();
    let records = given_up(&db, Some(ID), None).await;
    records.begin(IMAGE, Some(ID.to_owned())).await.unwrap();
    records.failed(IMAGE).await;
    records.begin(IMAGE, None).await.unwrap();
    assert!(!records.may_use(IMAGE, ID, Vec::new).await);
}

/// A pull that nobody waited for: what the runtime held before it, and holds now.
async fn given_up(db: &Db, before: Option<&str>, now: Option<&str>) -> PullRecords {
    let records = PullRecords::open(db.clone()).await;
    let under_way = records.under_way(IMAGE);
    records.begin(IMAGE, before.map(str::to_owned)).await.unwrap();
    drop(under_way);
    records.next_cut().await;
    assert_eq!(records.cut_short_ones(), [IMAGE]);
    records.settle(IMAGE, now).await;
    records
}

#[tokio::test]
async fn a_pull_that_was_given_up_and_brought_nothing_leaves_nothing() {
    for held in [None, Some(ID)] {
        let db = Db::in_memory();
        let records = given_up(&db, held, held).await;
        assert!(db.scan(Table::ImagePull).await.unwrap().is_empty());
        assert!(
            admits(&records, &db, &[]).await,
            "an image that is imported later"
        );
    }
}

#[tokio::test]
async fn a_pull_that_was_given_up_and_brought_an_image_is_free_for_nobody() {
    for before in [None, Some("sha256:older")] {
        let db = Db::in_memory();
        let records = given_up(&db, before, Some(ID)).await;
        assert!(!admits(&records, &db, &[]).await);
    }
}

#[tokio::test]
async fn what_a_pull_that_was_given_up_has_brought_is_free_for_nobody_however_others_end_meanwhile() {
    for cut_first in [true, false] {
        let db = Db::in_memory();
        let records = PullRecords::open(db.clone()).await;
        let given_up = records.under_way(IMAGE);
        records.begin(IMAGE, None).await.unwrap();
        if cut_first {
            drop(given_up);
            records.begin(IMAGE, Some(ID.to_owned())).await.unwrap();
        } else {
            records.begin(IMAGE, Some(ID.to_owned())).await.unwrap();
            drop(given_up);
        }
        records.next_cut().await;
        records.settle(IMAGE, Some(ID)).await;
        assert!(records.cut_short_ones().is_empty(), "one is under way");
        records.failed(IMAGE).await;
        records.next_cut().await;
        assert!(!records.may_use(IMAGE, ID, Vec::new).await);
        assert_eq!(records.cut_short_ones(), [IMAGE]);
        records.settle(IMAGE, Some(ID)).await;
        assert!(!admits(&records, &db, &[]).await);
    }
}

#[tokio::test]
async fn a_pull_that_was_given_up_takes_nothing_from_who_was_let_in_meanwhile() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    let given_up = records.under_way(IMAGE);
    records.begin(IMAGE, None).await.unwrap();
    drop(given_up);
    records.begin(IMAGE, None).await.unwrap();
    records.pulled(IMAGE, ID, Some(proof("s", "robot"))).await;
    records.settle(IMAGE, Some(ID)).await;
    assert!(admits(&records, &db, &[proof("s", "robot")]).await);
    assert!(!admits(&records, &db, &[]).await);
    assert_eq!(db.scan(Table::ImagePull).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_there_before_a_pull_that_was_given_up_says_nothing_of_one_that_begins_over_nothing() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    for before in [Some(ID.to_owned()), None] {
        let given_up = records.under_way(IMAGE);
        records.begin(IMAGE, before).await.unwrap();
        drop(given_up);
    }
    // Nothing was settled between the two, and the second brought it.
    records.settle(IMAGE, Some(ID)).await;
    assert!(!admits(&records, &db, &[]).await);
}

#[tokio::test]
async fn images_that_left_the_device_are_forgotten_when_there_are_many() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    for nth in 0..=IMAGES {
        assert!(records.many().is_none());
        records.pulled(IMAGE, &format!("id{nth}"), None).await;
    }
    let known = records.many().unwrap();
    records.pulled(IMAGE, "later", None).await;
    records.forget_missing(known, &[on_device(&[], "id7")]).await;
    let rows = db.scan(Table::ImagePull).await.unwrap();
    let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["pulled/id7", "pulled/later"]);
}

#[tokio::test]
async fn the_secrets_of_an_image_are_bounded_and_the_oldest_goes_first() {
    let db = Db::in_memory();
    let records = PullRecords::open(db.clone()).await;
    for nth in 0..=SECRETS {
        let proof = proof(&format!("s{nth}"), &format!("u{nth}"));
        records.pulled(IMAGE, ID, Some(proof)).await;
    }
    assert!(!admits(&records, &db, &[proof("s0", "u0")]).await);
    assert!(admits(&records, &db, &[proof("s1", "u1")]).await);
}

#[tokio::test]
async fn no_row_holds_a_login() {
    let db = Db::in_memory();
    pulled_with(&db, Some(proof("s", "robot"))).await;
    for (key, row) in db.scan(Table::ImagePull).await.unwrap() {
        let text = format!("{key} {}", String::from_utf8_lossy(&row));
        assert!(!text.contains("hunter2") && !text.contains("robot"), "{text}");
    }
}
