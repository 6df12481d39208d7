//! What the committing process writes, so that whoever knows the seed knows what must be there.
//!
//! Batches of a database are numbered from 1. Each is drawn from the seed and its number alone: small
//! values, values that become content files, deletes, now and then a batch of many rows.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use edgecore::store::{Batch, Db, Op, Table, open_stores};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// The databases of a node.
pub(crate) const DATABASES: [&str; 2] = ["meta", "outbox"];
/// How often the process opens its stores.
pub(crate) const ROUNDS: u64 = 6;
/// Batches of each database between two opens.
pub(crate) const BATCHES: u64 = 40;
/// The row that says which batch was the last.
const LAST: &str = "last";

/// The rows of a database.
pub(crate) type Rows = BTreeMap<(Table, String), Vec<u8>>;

/// Batch `number` of a database.
pub(crate) fn batch(seed: u64, database: &str, number: u64) -> Batch {
    let salt = database.len() as u64;
    let mut rng = StdRng::seed_from_u64(seed ^ salt << 56 ^ number << 24);
    let mut batch = Batch::new().put(Table::Meta, LAST, number.to_le_bytes().to_vec());
    let changes = if number.is_multiple_of(BATCHES) {
        60
    } else {
        rng.random_range(1..=5)
    };
    for _ in 0..changes {
        let table = [Table::Desired, Table::Token, Table::Outbox][rng.random_range(0..3_usize)];
        let key = format!("default/pod-{:02}", rng.random_range(0..30));
        let op = if rng.random_ratio(1, 5) {
            Op::Delete
        } else {
            Op::Put(value(&mut rng).into())
        };
        batch.push(table, key, op);
    }
    batch
}

fn value(rng: &mut StdRng) -> Vec<u8> {
    let len = match rng.random_range(0..20) {
        0..14 => rng.random_range(0..700),
        14..18 => rng.random_range(700..4096),
        _ => rng.random_range(4097..16_000),
    };
    (0..len).map(|_| rng.random()).collect()
}

/// What a database holds after each of its batches; the first entry is the empty one.
pub(crate) fn history(seed: u64, database: &str) -> Vec<Rows> {
    let mut states = vec![Rows::new()];
    for number in 1..=ROUNDS * BATCHES {
        let mut rows = states.last().cloned().unwrap_or_default();
        for (table, key, op) in batch(seed, database, number).ops() {
            match op {
                Op::Put(value) => rows.insert((*table, key.clone()), value.to_vec()),
                Op::Delete => rows.remove(&(*table, key.clone())),
            };
        }
        states.push(rows);
    }
    states
}

/// Commits everything, saying on stdout what was acknowledged, in one `write` each.
pub(crate) fn commit_everything(root: &Path, seed: u64) {
    tell(&format!("root {}", root.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for round in 0..ROUNDS {
            if round % 3 == 2 {
                drop(open_stores(root).unwrap()); // Opened, and nothing written.
            }
            let stores = open_stores(root).unwrap();
            assert_eq!(stores.incidents, []);
            tell(&format!("epoch meta {}", stores.epoch));
            for number in round * BATCHES + 1..=(round + 1) * BATCHES {
                tokio::join!(
                    commit(&stores.meta, seed, "meta", number),
                    commit(&stores.outbox, seed, "outbox", number)
                );
            }
        }
    });
}

async fn commit(db: &Db, seed: u64, database: &str, number: u64) {
    db.commit(batch(seed, database, number)).await.unwrap();
    tell(&format!("ack {database} {number}"));
}

fn tell(line: &str) {
    std::io::stdout()
        .lock()
        .write_all(format!("{line}\n").as_bytes())
        .unwrap();
}
