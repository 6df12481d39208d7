//! Who may use an image that this node pulled: those whose login the registry has let in before.
//!
//! An image on the device is the whole device's, but a secret that was shown for it is one pod's. So what was
//! pulled with a login is given only to pods that bring the same secret or the same login; everybody else
//! must ask the registry. An image that nobody pulled through this node (imported, or from before) is free
//! for all, and so is one that the registry gave to nobody in particular.
//!
//! Rows outlive a restart, so a pod starts again without network. That a pull is under way is a row too:
//! when it is found after a crash, the image may be there and nobody knows who was let in. The same holds for
//! a pull that nobody waits for any more, because its pod is to end ([`UnderWay`]).
//!
//! **Invariant:** no row holds a login, only the digest of one.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use k8s_cri::v1::{AuthConfig, Image};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tracing::warn;

use super::name;
use crate::store::{Batch, Db, MAX_OPS, StoreError, Table};

/// Secrets that are remembered for one repository; who comes later takes the place of the oldest.
const SECRETS: usize = 100;
/// Images that are remembered before those that left the device are forgotten.
const IMAGES: usize = 100;
/// How the keys of the two kinds of rows begin.
const PULLED: &str = "pulled/";
const PULLING: &str = "pulling/";

/// A login as it is remembered: whose secret held it, and its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Proof {
    namespace: String,
    name: String,
    uid: String,
    digest: String,
}

impl Proof {
    /// A login of the secret with that namespace, name and UID.
    pub(super) fn new((namespace, name, uid): (&str, &str, &str), login: &AuthConfig) -> Self {
        let mut digest = Sha256::new();
        for part in [&login.username, &login.password] {
            digest.update(part.len().to_le_bytes());
            digest.update(part);
        }
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            digest: hex::encode(digest.finalize()),
        }
    }

    fn same_secret(&self, other: &Self) -> bool {
        (&self.namespace, &self.name, &self.uid) == (&other.namespace, &other.name, &other.uid)
    }
}

/// Who may use an image under one of its names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Access {
    everyone: bool,
    secrets: Vec<Proof>,
}

impl Access {
    fn grant(&mut self, proof: Option<Proof>) {
        let Some(proof) = proof else {
            self.secrets.clear();
            self.everyone = true;
            return;
        };
        if self.everyone {
            return;
        }
        self.secrets.retain(|known| !known.same_secret(&proof));
        let over = (self.secrets.len() + 1).saturating_sub(SECRETS);
        self.secrets.drain(..over);
        self.secrets.push(proof);
    }

    /// The first of `proofs` that counts here.
    fn admits<'a>(&self, proofs: &'a [Proof]) -> Option<&'a Proof> {
        let counts = |proof: &&Proof| {
            let known = |known: &Proof| known.digest == proof.digest || known.same_secret(proof);
            self.secrets.iter().any(known)
        };
        proofs.iter().find(counts)
    }
}

/// By the repository as pods name it.
type Record = BTreeMap<String, Access>;

#[derive(Default)]
struct Kept {
    /// By the runtime's own name of the image.
    pulled: BTreeMap<String, Record>,
    /// Images as pods name them, and what pulls of each there are.
    pulling: BTreeMap<String, Pulls>,
    /// What the runtime held of those before the first of them began: that was not brought by a pull.
    before: BTreeMap<String, String>,
}

impl Kept {
    /// Whether a pod that names `image` may use `id`, where that does not depend on what it can show.
    fn may_use_without_proof(&self, image: &str, id: &str) -> Option<bool> {
        let Some(record) = self.pulled.get(id) else {
            let before = self.before.get(image);
            let brought = self.pulling.contains_key(image) && before.is_none_or(|before| before != id);
            return Some(!brought);
        };
        match record.get(name::repository(image)) {
            None => Some(false),
            Some(access) => access.everyone.then_some(true),
        }
    }
}

/// The pulls of one image.
#[derive(Clone, Copy, Default)]
struct Pulls {
    /// So many are under way.
    running: usize,
    /// One was cut short. What it has left is looked at when none is under way, however the others end.
    cut: bool,
}

impl Pulls {
    const CUT: Self = Self {
        running: 0,
        cut: true,
    };

    /// One is no longer under way; whether none is.
    const fn less(&mut self) -> bool {
        self.running = self.running.saturating_sub(1);
        self.running == 0
    }
}

/// What was pulled, and with which secrets.
pub struct PullRecords {
    db: Db,
    kept: Mutex<Kept>,
    cut: Notify,
}

/// A pull, while it is under way. Dropped before its end is noted, it was cut short.
pub(super) struct UnderWay<'a> {
    records: &'a PullRecords,
    image: &'a str,
    noted: bool,
}

impl UnderWay<'_> {
    /// Its end is being noted.
    pub(super) fn noted(mut self) {
        self.noted = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if !self.noted {
            self.records.cut_short(self.image);
        }
    }
}

impl PullRecords {
    /// Reads what is kept. What cannot be read is as if it had been pulled by nobody knows whom.
    pub async fn open(db: Db) -> Self {
        let rows = db.scan(Table::ImagePull).await;
        let rows = rows.inspect_err(|error| warn!(%error, "cannot read which images were pulled"));
        let mut kept = Kept::default();
        for (key, row) in rows.unwrap_or_default() {
            if let Some(image) = key.strip_prefix(PULLED) {
                let record = serde_json::from_slice(&row).unwrap_or_default();
                kept.pulled.insert(image.to_owned(), record);
            } else if let Some(image) = key.strip_prefix(PULLING) {
                kept.pulling.insert(image.to_owned(), Pulls::CUT);
                let before = String::from_utf8_lossy(&row).into_owned();
                if !before.is_empty() {
                    kept.before.insert(image.to_owned(), before);
                }
            }
        }
        Self {
            db,
            kept: Mutex::new(kept),
            cut: Notify::new(),
        }
    }

    /// The images whose last pull was cut short.
    pub(super) fn cut_short_ones(&self) -> Vec<String> {
        let kept = self.kept.lock();
        let cut = kept.pulling.iter().filter(|(_, pulls)| pulls.running == 0);
        cut.map(|(image, _)| image.clone()).collect()
    }

    /// Waits until a pull is cut short.
    pub(super) async fn next_cut(&self) {
        self.cut.notified().await;
    }

    /// To be held from before a pull begins until its end is noted.
    pub(super) const fn under_way<'a>(&'a self, image: &'a str) -> UnderWay<'a> {
        UnderWay {
            records: self,
            image,
            noted: false,
        }
    }

    fn cut_short(&self, image: &str) {
        {
            let mut kept = self.kept.lock();
            let Some(pulls) = kept.pulling.get_mut(image) else {
                return;
            };
            pulls.cut = true;
            pulls.less();
        }
        self.cut.notify_one();
    }

    /// A pull was cut short, and the runtime holds `id` under that name, or nothing. Where it brought an image,
    /// somebody was let in, and nobody knows who.
    pub(super) async fn settle(&self, image: &str, id: Option<&str>) {
        let mut batch = Batch::new().delete(Table::ImagePull, format!("{PULLING}{image}"));
        {
            let mut kept = self.kept.lock();
            if kept.pulling.get(image).is_none_or(|pulls| pulls.running > 0) {
                return;
            }
            kept.pulling.remove(image);
            let before = kept.before.remove(image);
            if let Some(id) = id.filter(|id| before.as_deref() != Some(*id)) {
                let record = row(kept.pulled.entry(id.to_owned()).or_default());
                batch = batch.put(Table::ImagePull, format!("{PULLED}{id}"), record);
            }
        }
        self.write(batch).await;
    }

    /// Whether a pod that names `image` may use what the runtime holds under `id`. `proofs` is asked only
    /// where it matters, and while nobody waits for the records: reading secrets takes its time.
    pub(super) async fn may_use(&self, image: &str, id: &str, proofs: impl FnOnce() -> Vec<Proof>) -> bool {
        let without_proof = self.kept.lock().may_use_without_proof(image, id);
        if let Some(answer) = without_proof {
            return answer;
        }
        let proofs = proofs();
        let repository = name::repository(image);
        let (proof, record) = {
            let mut kept = self.kept.lock();
            if let Some(answer) = kept.may_use_without_proof(image, id) {
                return answer;
            }
            let Some(record) = kept.pulled.get_mut(id) else {
                return false;
            };
            let Some(access) = record.get_mut(repository) else {
                return false;
            };
            let Some(proof) = access.admits(&proofs) else {
                return false;
            };
            if access.secrets.contains(proof) {
                return true;
            }
            // The secret or the login is new: both count from now on.
            access.grant(Some(proof.clone()));
            (proof.clone(), row(record))
        };
        tracing::debug!(repository, secret = proof.name, "one more secret gives access");
        let batch = Batch::new().put(Table::ImagePull, format!("{PULLED}{id}"), record);
        self.write(batch).await;
        true
    }

    /// A pull begins over what the runtime holds. It must not where this cannot be kept: a crash would make the
    /// image free for all, or one that was there before free for nobody.
    pub(super) async fn begin(&self, image: &str, holds: Option<String>) -> Result<(), StoreError> {
        let before = {
            let mut kept = self.kept.lock();
            let pulls = kept.pulling.get(image).copied();
            let one_more = kept.pulling.entry(image.to_owned()).or_default();
            one_more.running += 1;
            match (pulls, holds) {
                (None, Some(id)) => drop(kept.before.insert(image.to_owned(), id)),
                // One that was cut short may have brought what is there now.
                (Some(Pulls { running: 0, .. }), holds) if kept.before.get(image) != holds.as_ref() => {
                    kept.before.remove(image);
                }
                (_, _) => {}
            }
            kept.before.get(image).cloned().unwrap_or_default()
        };
        let batch = Batch::new().put(Table::ImagePull, format!("{PULLING}{image}"), before);
        let kept = self.db.commit(batch).await;
        if kept.is_err() {
            self.ended(image);
        }
        kept
    }

    /// A pull failed.
    pub(super) async fn failed(&self, image: &str) {
        if self.ended(image) {
            let batch = Batch::new().delete(Table::ImagePull, format!("{PULLING}{image}"));
            self.write(batch).await;
        }
    }

    /// A pull brought the image `id`, with a secret or without.
    pub(super) async fn pulled(&self, image: &str, id: &str, proof: Option<Proof>) {
        let record = {
            let mut kept = self.kept.lock();
            let record = kept.pulled.entry(id.to_owned()).or_default();
            let access = record.entry(name::repository(image).to_owned()).or_default();
            access.grant(proof);
            row(record)
        };
        let mut batch = Batch::new().put(Table::ImagePull, format!("{PULLED}{id}"), record);
        if self.ended(image) {
            batch = batch.delete(Table::ImagePull, format!("{PULLING}{image}"));
        }
        self.write(batch).await;
    }

    /// The images that are remembered, when they are so many that it is time to look which are left.
    pub(super) fn many(&self) -> Option<BTreeSet<String>> {
        let kept = self.kept.lock();
        (kept.pulled.len() > IMAGES).then(|| kept.pulled.keys().cloned().collect())
    }

    /// Forgets those of `known` that are not among `images`, which were listed later.
    pub(super) async fn forget_missing(&self, known: BTreeSet<String>, images: &[Image]) {
        let there: BTreeSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        let mut batch = Batch::new();
        let missing = known.iter().filter(|id| !there.contains(id.as_str()));
        for id in missing.take(MAX_OPS) {
            self.kept.lock().pulled.remove(id);
            batch = batch.delete(Table::ImagePull, format!("{PULLED}{id}"));
        }
        self.write(batch).await;
    }

    /// Whether nothing is left to be known of pulls of the image: none is under way, and none was cut short.
    fn ended(&self, image: &str) -> bool {
        let mut kept = self.kept.lock();
        let Some(pulls) = kept.pulling.get_mut(image) else {
            return true;
        };
        let (last, cut) = (pulls.less(), pulls.cut);
        if last && cut {
            self.cut.notify_one();
        } else if last {
            kept.pulling.remove(image);
            kept.before.remove(image);
        }
        last && !cut
    }

    async fn write(&self, batch: Batch) {
        if !batch.is_empty()
            && let Err(error) = self.db.commit(batch).await
        {
            warn!(%error, "cannot keep who may use an image; after a restart it may have to be pulled again");
        }
    }
}

/// A row's bytes. Names and digests always make JSON.
fn row(record: &Record) -> Bytes {
    serde_json::to_vec(record).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
