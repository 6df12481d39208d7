//! Of which load the node is short of what.

use super::*;

const MEMORY: u64 = 8 << 30;

fn load(memory_available: u64, bytes_free: u64, inodes_free: u64) -> Load {
    Load {
        memory_available,
        disk: Some(Disk {
            bytes: 1000,
            bytes_free,
            inodes: 100,
            inodes_free,
        }),
        ..Load::default()
    }
}

fn free(bytes_free: u64) -> Load {
    load(u64::MAX, bytes_free, 100)
}

fn signals(policy: &Policy, load: &Load) -> Vec<Signal> {
    let shortages = History::default().look(policy, MEMORY, load, Instant::now());
    shortages.iter().map(|shortage| shortage.signal).collect()
}

/// Soft below 30 % for a minute, hard below 10 %.
fn patient() -> Policy {
    let mut policy = Policy::default();
    let soft = Soft {
        threshold: Threshold::Percent(30),
        grace: Duration::from_mins(1),
    };
    policy.soft.set(Signal::Disk, Some(soft));
    policy
}

/// The thresholds that were crossed at each look, and whether something had to be done about them.
fn looks(policy: &Policy, looks: &[(u64, u64)]) -> Vec<Vec<(Kind, bool)>> {
    let (mut history, start) = (History::default(), Instant::now());
    let look = |(second, bytes_free): &(u64, u64)| {
        let now = start + Duration::from_secs(*second);
        let found = history.look(policy, MEMORY, &free(*bytes_free), now);
        found.iter().map(|one| (one.kind, history.is_ripe(one))).collect()
    };
    looks.iter().map(look).collect()
}

#[test]
fn a_node_is_short_of_what_is_below_the_kubelets_thresholds() {
    let policy = Policy::default();
    assert_eq!(signals(&policy, &load(100 << 20, 100, 5)), []);
    assert_eq!(
        signals(&policy, &load((100 << 20) - 1, 99, 4)),
        [Signal::Memory, Signal::Disk, Signal::Inodes]
    );
    let mut unread = load(u64::MAX, 0, 0);
    unread.disk = None;
    assert_eq!(signals(&policy, &unread), []);
}

#[test]
fn images_count_where_they_lie_apart() {
    let mut load = free(1000);
    load.images = load.disk.map(|disk| Disk {
        bytes_free: 149,
        inodes_free: 4,
        ..disk
    });
    assert_eq!(
        signals(&Policy::default(), &load),
        [Signal::Images, Signal::ImageInodes]
    );
}

#[test]
fn process_ids_count_when_a_threshold_is_set() {
    let mut policy = Policy::default();
    let load = Load {
        pids_used: 96,
        pids_max: 100,
        ..free(1000)
    };
    assert_eq!(signals(&policy, &load), []);
    policy.hard.set(Signal::Pids, Threshold::Percent(5));
    assert_eq!(signals(&policy, &load), [Signal::Pids]);
}

#[test]
fn a_small_device_may_use_nine_tenths_of_its_memory() {
    let short = |available| {
        let load = load(available, 1000, 100);
        let found = History::default().look(&Policy::default(), 256 << 20, &load, Instant::now());
        !found.is_empty()
    };
    assert!(short(25 << 20) && !short(26 << 20));
}

#[test]
fn a_file_system_without_a_limit_of_inodes_is_never_short_of_them() {
    let mut load = load(u64::MAX, 1000, 0);
    load.disk = load.disk.map(|disk| Disk { inodes: 0, ..disk });
    assert_eq!(signals(&Policy::default(), &load), []);
}

#[test]
fn a_signal_that_is_off_is_not_looked_at() {
    let policy = Policy {
        hard: Thresholds::all(Threshold::Off),
        ..Policy::default()
    };
    assert_eq!(signals(&policy, &load(0, 0, 0)), []);
}

#[test]
fn below_a_soft_threshold_something_is_done_when_it_lasts() {
    let (waits, acts) = (vec![(Kind::Soft, false)], vec![(Kind::Soft, true)]);
    let seen = looks(&patient(), &[(0, 299), (59, 200), (60, 299), (70, 300)]);
    assert_eq!(seen, [waits.clone(), waits, acts, vec![]]);
}

#[test]
fn below_a_hard_threshold_something_is_done_at_once_whatever_the_soft_one_says() {
    let seen = looks(&patient(), &[(0, 99)]);
    assert_eq!(seen, [vec![(Kind::Hard, true), (Kind::Soft, false)]]);
}

#[test]
fn who_comes_back_in_time_has_all_of_the_grace_period_again() {
    let waits = vec![(Kind::Soft, false)];
    let seen = looks(&patient(), &[(0, 299), (50, 300), (60, 299), (119, 299)]);
    assert_eq!(seen, [waits.clone(), vec![], waits.clone(), waits]);
}

#[test]
fn what_something_was_done_about_lasts_until_the_minimum_is_reclaimed_too() {
    let mut policy = Policy::default();
    policy.reclaim.set(Signal::Disk, Threshold::Amount(50));
    let acts = vec![(Kind::Hard, true)];
    let seen = looks(&policy, &[(0, 149), (10, 99), (20, 149), (30, 150), (40, 149)]);
    assert_eq!(seen, [vec![], acts.clone(), acts, vec![], vec![]]);
}

#[test]
fn what_only_waited_needs_no_more_than_its_threshold() {
    let mut policy = patient();
    policy.reclaim.set(Signal::Disk, Threshold::Percent(5));
    let seen = looks(
        &policy,
        &[(0, 299), (10, 300), (20, 299), (80, 299), (90, 349), (100, 350)],
    );
    let (waits, acts) = (vec![(Kind::Soft, false)], vec![(Kind::Soft, true)]);
    assert_eq!(seen, [waits.clone(), vec![], waits, acts.clone(), acts, vec![]]);
}

#[test]
fn what_was_done_has_helped_when_the_minimum_is_reclaimed() {
    let mut policy = Policy::default();
    policy.reclaim.set(Signal::Disk, Threshold::Amount(50));
    let short = History::default().look(&policy, MEMORY, &free(99), Instant::now())[0];
    let left = |bytes_free| {
        policy
            .still(&short, MEMORY, &free(bytes_free))
            .map(|s| s.available)
    };
    assert_eq!((left(149), left(150)), (Some(149), None));
}
