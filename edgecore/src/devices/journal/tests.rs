//! What is written is read back, and what is damaged is skipped.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::*;
use crate::devices::twin::Reported;

fn dir() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("journal-{}-{number}", std::process::id()))
}

fn kept(value: &str, version: u64) -> Kept {
    let reported = Reported {
        value: Some(value.into()),
        version,
        ..Reported::default()
    };
    Kept {
        reported: Some(Arc::new(reported)),
        ..Kept::default()
    }
}

#[test]
fn the_last_record_of_a_property_counts_and_what_is_gone_is_gone() {
    let dir = dir();
    assert!(Log::read(&dir, "b").unwrap().is_none());
    let mut log = Log::write(&dir, "b", std::iter::empty()).unwrap();
    let (old, new) = (kept("1", 1), kept("line\nbreak", 2));
    let lines = [
        Line::anchor(7),
        Line::property("u", "a", Some(&old)),
        Line::property("u", "a", Some(&new)),
        Line::property("u", "b", Some(&old)),
        Line::property("u", "b", None),
        Line::property("v", "a", Some(&old)),
        Line::gone("v"),
    ];
    log.append(lines.into_iter()).unwrap();
    let recalled = Log::read(&dir, "b").unwrap().unwrap();
    assert_eq!((recalled.anchor, recalled.skipped), (Some(7), 0));
    assert_eq!(recalled.devices.keys().collect::<Vec<_>>(), ["u"]);
    let expected: BTreeMap<Arc<str>, Kept> = BTreeMap::from([("a".into(), new)]);
    assert_eq!(recalled.devices["u"].kept, expected);
    assert!(Log::read(&dir, "another boot").unwrap().is_none());
    assert!(
        Log::read(&dir, "b").unwrap().is_none(),
        "the log of a boot that is over is gone"
    );
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_log_that_has_grown_is_written_anew_and_small() {
    let dir = dir();
    let mut log = Log::write(&dir, "b", std::iter::empty()).unwrap();
    let large = kept(&"x".repeat(64 * 1024), 1);
    while !log.has_grown() {
        log.append([Line::property("u", "a", Some(&large))].into_iter())
            .unwrap();
    }
    let log = Log::write(&dir, "b", [Line::property("u", "a", Some(&large))].into_iter()).unwrap();
    assert!(!log.has_grown());
    assert!(std::fs::metadata(dir.join("b.log")).unwrap().len() < 100 * 1024);
    assert_eq!(
        Log::read(&dir, "b").unwrap().unwrap().devices["u"].kept["a"],
        large
    );
    let lost = log.lose();
    let recalled = Log::read(&dir, "b").unwrap().unwrap();
    assert!(recalled.is_behind && recalled.devices["u"].kept["a"] == large);
    lost.remove();
    assert!(Log::read(&dir, "b").unwrap().is_none());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_log_that_was_lost_is_not_read_beside_a_new_one() {
    let dir = dir();
    let (old, new) = (kept("1", 1), kept("2", 2));
    let log = Log::write(&dir, "b", [Line::property("u", "a", Some(&old))].into_iter()).unwrap();
    drop(log.lose());
    Log::write(&dir, "b", [Line::property("u", "a", Some(&new))].into_iter()).unwrap();
    let recalled = Log::read(&dir, "b").unwrap().unwrap();
    assert!(!recalled.is_behind && recalled.devices["u"].kept["a"] == new);
    assert!(!dir.join("b.lost").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn of_log_and_flash_the_higher_version_counts() {
    let of = |rows: [(&str, u64); 2]| {
        let kept = rows.map(|(name, version)| (name.into(), kept(name, version)));
        let rows = Rows {
            kept: BTreeMap::from(kept),
            stood: None,
        };
        Recalled {
            devices: BTreeMap::from([("u".to_owned(), rows)]),
            ..Recalled::default()
        }
    };
    let mut log = of([("a", 1), ("b", 4)]);
    log.fill(of([("a", 3), ("b", 2)]));
    let versions = log.devices["u"].kept.values().map(Kept::version);
    assert_eq!(versions.collect::<Vec<_>>(), [3, 4]);
}

#[test]
fn rows_of_flash_are_stale_and_recalled_and_bad_ones_are_counted() {
    let rows = vec![
        (property_key("u", "a/b"), property_row(&kept("1", 1)).unwrap()),
        (standing_key("u"), standing_row(Stood::default()).unwrap()),
        (property_key("u", "c"), "no json".into()),
        ("x".to_owned(), "{}".into()),
    ];
    let recalled = read_rows(rows);
    assert_eq!(recalled.skipped, 2);
    let reported = recalled.devices["u"].kept["a/b"].reported.clone().unwrap();
    assert!(reported.recalled.is_some() && reported.quality == crate::devices::twin::Quality::Stale);
    assert_eq!(recalled.devices["u"].stood, Some(Stood::default()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever happens to the file, what is read was written, and the records beside the damage are there.
    #[test]
    fn damage_costs_only_the_records_that_it_hits(values in proptest::collection::vec("\\PC{0,12}", 1..12), at: usize, byte: u8) {
        let mut bytes = Vec::new();
        let all: Vec<Kept> = values.iter().enumerate().map(|(version, value)| kept(value, version as u64)).collect();
        let mut starts = Vec::new();
        for (index, kept) in all.iter().enumerate() {
            starts.push(bytes.len());
            Line::property("u", &index.to_string(), Some(kept)).encode(&mut bytes).unwrap();
        }
        let at = at % bytes.len();
        bytes[at] = byte;
        let mut recalled = Recalled::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            match record::Line::decode(line) {
                Some(line) => recalled.fold(line),
                None => recalled.skipped += 1,
            }
        }
        let read = recalled.devices.remove("u").unwrap_or_default().kept;
        for (name, kept) in &read {
            let index: usize = name.parse().unwrap();
            prop_assert_eq!(kept, &all[index]);
        }
        // A line end that is lost joins two records.
        prop_assert!(read.len() + 2 >= all.len());
    }
}
