//! Handing out addresses, with cables that the tests say.

use super::*;

fn dir(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tombolo-addresses-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

/// Cables, and which of them go after they were seen.
struct Seen<'a> {
    living: Vec<(Ipv4Addr, String)>,
    gone: &'a [&'a str],
}

impl Cables for Seen<'_> {
    fn living(&self) -> io::Result<Vec<(Ipv4Addr, String)>> {
        Ok(self.living.clone())
    }

    fn is_gone(&self, cable: &str) -> bool {
        self.gone.contains(&cable)
    }
}

fn seen(living: impl IntoIterator<Item = (u8, &'static str)>) -> Seen<'static> {
    let cable = |(last, cable): (u8, &str)| (Ipv4Addr::new(10, 86, 0, last), cable.to_owned());
    Seen {
        living: living.into_iter().map(cable).collect(),
        gone: &[],
    }
}

const NOBODY: &Seen<'static> = &Seen {
    living: Vec::new(),
    gone: &[],
};

fn holder(owner: &str) -> Holder {
    Holder {
        owner: owner.to_owned(),
        cable: format!("veth-{owner}"),
    }
}

#[test]
fn an_address_is_given_again_only_after_all_others() {
    let addresses = Addresses::at(&dir("turns"));
    // .1 is the bridge's and .15 the broadcast's.
    let range = "10.86.0.0/28".parse().unwrap();
    for (pod, address) in ["a", "b", "c"]
        .into_iter()
        .zip(["10.86.0.2", "10.86.0.3", "10.86.0.4"])
    {
        assert_eq!(addresses.take(range, pod, NOBODY).unwrap().to_string(), address);
    }
    addresses.give_back(&holder("b")).unwrap();
    addresses.give_back(&holder("b")).unwrap();
    assert_eq!(addresses.of(&holder("b")).unwrap(), None);
    for last in 5..=14 {
        assert_eq!(
            addresses.take(range, "d", NOBODY).unwrap(),
            Ipv4Addr::new(10, 86, 0, last)
        );
    }
    assert_eq!(
        addresses.take(range, "e", NOBODY).unwrap(),
        Ipv4Addr::new(10, 86, 0, 3),
        "round the end, to what is free"
    );
    let full = addresses.take(range, "f", NOBODY).unwrap_err().to_string();
    assert!(
        full.contains("10.86.0.0/28") && full.contains("--pod-cidr"),
        "{full}"
    );

    addresses.give_back(&holder("d")).unwrap();
    assert_eq!(addresses.of(&holder("d")).unwrap(), None, "all that it had");
    let of_a = Ipv4Addr::new(10, 86, 0, 2);
    assert_eq!(addresses.of(&holder("a")).unwrap(), Some(of_a));
    addresses.give_back_one(&holder("e").names(), of_a).unwrap();
    assert_eq!(addresses.of(&holder("a")).unwrap(), Some(of_a), "it is not e's");
    addresses.give_back_one(&holder("a").names(), of_a).unwrap();
    assert_eq!(addresses.of(&holder("a")).unwrap(), None);
    fs::remove_dir_all(&addresses.dir).unwrap();
}

#[test]
fn pods_that_come_at_once_get_different_addresses() {
    let addresses = Addresses::at(&dir("crowd"));
    let range: PodCidr = "10.86.0.0/24".parse().unwrap();
    // The first of them to come finds no directory, and pods that live.
    let lived: Vec<_> = (2..20)
        .map(|last| (Ipv4Addr::new(10, 86, 0, last), format!("veth-{last}")))
        .collect();
    let seen = Seen {
        living: lived.clone(),
        gone: &[],
    };
    let got: std::collections::BTreeSet<Ipv4Addr> = std::thread::scope(|scope| {
        let seen = &seen;
        let one = |pod: u32| addresses.take(range, &format!("pod-{pod}"), seen).unwrap();
        let all: Vec<_> = (0..40).map(|pod| scope.spawn(move || one(pod))).collect();
        all.into_iter().map(|pod| pod.join().unwrap()).collect()
    });
    assert_eq!(got.len(), 40);
    assert!(lived.iter().all(|(address, _)| !got.contains(address)));
    assert_eq!(addresses.of(&holder("7")).unwrap(), Some(lived[5].0));
    addresses.give_back(&holder("7")).unwrap();
    assert_eq!(addresses.of(&holder("7")).unwrap(), None);
    let beside = |entry: io::Result<fs::DirEntry>| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.starts_with(&format!("{}.", addresses.dir.file_name().unwrap().display()))
    };
    let mut all = fs::read_dir(addresses.dir.parent().unwrap()).unwrap();
    assert!(!all.any(beside), "no draft is left");
    fs::remove_dir_all(&addresses.dir).unwrap();
}

struct Unknown;

impl Cables for Unknown {
    fn living(&self) -> io::Result<Vec<(Ipv4Addr, String)>> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn is_gone(&self, _: &str) -> bool {
        false
    }
}

#[test]
fn nothing_is_given_while_it_is_not_known_who_lives() {
    let addresses = Addresses::at(&dir("unknown"));
    let range = "10.86.0.0/28".parse().unwrap();
    assert!(addresses.take(range, "a", &Unknown).is_err());
    assert!(!addresses.dir.exists());
}

#[test]
fn two_cables_that_say_one_address_and_what_a_killed_process_left_keep_no_pod_from_its_own() {
    let addresses = Addresses::at(&dir("twins"));
    let draft = addresses.draft();
    fs::create_dir_all(&draft).unwrap();
    symlink("veth-killed", draft.join("10.86.0.3")).unwrap();
    let two = Ipv4Addr::new(10, 86, 0, 2);
    let twins = seen([(2, "veth-a"), (2, "veth-b")]);
    let range = "10.86.0.0/28".parse().unwrap();
    let given = addresses.take(range, "c", &twins).unwrap();
    assert_eq!(given, Ipv4Addr::new(10, 86, 0, 3));
    assert_eq!(addresses.of(&holder("a")).unwrap(), Some(two));
    assert!(!draft.exists());
    fs::remove_dir_all(&addresses.dir).unwrap();
}

#[test]
fn a_pod_that_goes_while_the_directory_is_put_in_its_place_leaves_its_address() {
    let addresses = Addresses::at(&dir("beside"));
    let range = "10.86.0.0/28".parse().unwrap();
    let beside = Seen {
        gone: &["veth-b"],
        ..seen([(2, "veth-a"), (3, "veth-b"), (4, "veth-c")])
    };
    let given = addresses.take(range, "d", &beside).unwrap();
    assert_eq!(given, Ipv4Addr::new(10, 86, 0, 3));
    let of = |owner: &str| {
        addresses
            .of(&holder(owner))
            .unwrap()
            .map(|address| address.octets()[3])
    };
    assert_eq!(["a", "b", "c", "d"].map(of), [Some(2), None, Some(4), Some(3)]);
    fs::remove_dir_all(&addresses.dir).unwrap();
}

#[test]
fn a_pod_that_got_its_cable_after_the_directory_was_lost_keeps_its_address_unless_another_has_it() {
    let addresses = Addresses::at(&dir("kept"));
    let range = "10.86.0.0/28".parse().unwrap();
    let two = addresses.take(range, "a", NOBODY).unwrap();
    let keep = |pod: &str, cables: &Seen<'_>| addresses.keep(&holder(pod), two, cables);
    keep("a", NOBODY).unwrap();
    let lose = || fs::remove_dir_all(&addresses.dir).unwrap();
    lose();
    keep("a", &seen([(2, "veth-a"), (3, "veth-b")])).unwrap();
    assert_eq!(addresses.of(&holder("a")).unwrap(), Some(two), "by its cable");
    assert!(addresses.of(&holder("b")).unwrap().is_some());

    addresses.give_back_one(&holder("a").names(), two).unwrap();
    assert_eq!(addresses.of(&holder("a")).unwrap(), None);
    keep("a", NOBODY).unwrap();
    assert_eq!(
        addresses.of(&holder("a")).unwrap(),
        Some(two),
        "the link was missing"
    );

    lose();
    assert_eq!(addresses.take(range, "c", NOBODY).unwrap(), two);
    let told = keep("a", NOBODY).unwrap_err().to_string();
    assert!(told.contains("another pod was given 10.86.0.2"), "{told}");
    assert_eq!(addresses.of(&holder("c")).unwrap(), Some(two));
    lose();
}

#[test]
fn the_search_begins_anew_in_another_range() {
    let last = Some(Ipv4Addr::new(10, 86, 0, 9));
    let first = |range: &str, last| behind(range.parse().unwrap(), last).next().unwrap().to_string();
    assert_eq!(first("10.86.0.0/28", last), "10.86.0.10");
    assert_eq!(first("10.99.0.0/28", last), "10.99.0.2");
    assert_eq!(
        first("10.86.0.0/28", Some(Ipv4Addr::new(10, 86, 0, 14))),
        "10.86.0.2"
    );
    assert_eq!(behind("10.86.0.0/28".parse().unwrap(), last).count(), 13);
}
