//! The machine and the container runtime.

use super::*;

#[test]
fn what_is_wrong_with_the_machine_is_told_once_with_what_mends_it() {
    use Level::{Failed, Unknown, Warning};
    assert_eq!(ill_machine(|machine| machine.swap = true), one("swap", Warning));
    for servers in [&["127.0.0.53", "::1"][..], &[]] {
        let resolver = resolved(servers);
        let found = ill_machine(|machine| machine.resolver = resolver);
        assert_eq!(found, one("name servers", Warning));
    }
    let mixed = resolved(&["127.0.0.1", "192.168.1.1"]);
    assert_eq!(ill_machine(|machine| machine.resolver = mixed), []);
    let other = |by_port| {
        let name = "kubelet (process 7)".to_owned();
        ill_machine(|machine| machine.others = vec![Other { name, by_port }])
    };
    assert_eq!(other(false), one("other agents", Failed));
    assert_eq!(other(true), one("other agents", Warning));
    let no_memory = Ok(vec!["cpu".to_owned(), "pids".to_owned()]);
    assert_eq!(
        ill_machine(|machine| machine.controllers = no_memory),
        one("cgroups", Failed)
    );
    let network = |network| ill_machine(|machine| machine.network = network);
    assert_eq!(network(Network::Missing(why())), one("pod network", Failed));
    assert_eq!(network(Network::Foreign(why())), []);
    assert_eq!(network(Network::Before(why())), one("pod network", Warning));
    let ours = |missing, collides| Network::Ours { missing, collides };
    assert_eq!(network(ours(vec!["portmap"], None)), one("pod network", Failed));
    assert_eq!(network(ours(Vec::new(), Some(why()))), one("pod network", Failed));
    assert_eq!(ill(|facts| facts.machine = Err(why())), one("machine", Unknown));
}

#[test]
fn disks_are_judged_by_the_thresholds_of_the_node() {
    let disk = |change: fn(&mut Space)| ill_machine(|machine| change(&mut machine.spaces[2]));
    assert_eq!(
        disk(|space| space.disk.bytes_free = 99),
        one("disk", Level::Failed)
    );
    assert_eq!(
        disk(|space| space.disk.bytes_free = 149),
        one("disk", Level::Warning)
    );
    assert_eq!(disk(|space| space.disk.bytes_free = 151), []);
    assert_eq!(
        disk(|space| space.disk.inodes_free = 49),
        one("disk", Level::Failed)
    );
    assert_eq!(
        disk(|space| space.is_read_only = true),
        one("disk", Level::Failed)
    );
    let uncounted = |space: &mut Space| (space.disk.inodes, space.disk.inodes_free) = (0, 0);
    assert_eq!(disk(uncounted), [], "some file systems count no inodes");
}

#[test]
fn disks_are_judged_by_the_thresholds_that_the_configuration_chose() {
    let at = |free, threshold| {
        ill(|facts| {
            facts.thresholds.set(Signal::Disk, threshold);
            facts.machine.as_mut().unwrap().spaces[2].disk.bytes_free = free;
        })
    };
    assert_eq!(at(80, Threshold::Percent(5)), []);
    assert_eq!(at(74, Threshold::Percent(5)), one("disk", Level::Warning));
    assert_eq!(at(49, Threshold::Percent(5)), one("disk", Level::Failed));
    assert_eq!(at(199, Threshold::Percent(20)), one("disk", Level::Failed));
    assert_eq!(at(40, Threshold::Amount(20)), []);
    assert_eq!(at(19, Threshold::Amount(20)), one("disk", Level::Failed));
    assert_eq!(at(1, Threshold::Off), one("disk", Level::Warning));
    let mut facts = healthy();
    facts.thresholds.set(Signal::Disk, Threshold::Percent(20));
    facts.machine.as_mut().unwrap().spaces[0].disk.bytes_free = 199;
    let told = |facts: &Facts| {
        judge(facts)
            .into_iter()
            .find(|found| found.check == "disk")
            .unwrap()
    };
    let remedy = told(&facts).remedy;
    assert!(
        remedy.contains("nodefs.available 20% or nodefs.inodesFree 5%"),
        "{remedy}"
    );
}

#[test]
fn a_runtime_is_judged_by_what_it_says() {
    use Level::{Failed, Unknown, Warning};
    let silent = Runtime::Silent {
        endpoint: "unix:///run/x.sock".to_owned(),
        why: why(),
    };
    assert_eq!(ill(|facts| facts.runtime = silent), one("runtime", Failed));
    assert_eq!(
        ill_answers(|answers| answers.runtime_ready = Err(why())),
        one("runtime", Failed)
    );
    let network = ill_answers(|answers| answers.network_ready = Err(why()));
    assert_eq!(network, one("runtime network", Failed));
    let driver = |driver: Option<&str>| ill_answers(|answers| answers.driver = driver.map(str::to_owned));
    assert_eq!(
        driver(Some("cgroupfs")),
        one("cgroup driver", Failed),
        "two hands on the cgroups"
    );
    assert_eq!(driver(None), one("cgroup driver", Unknown));
    let missing = ill_answers(|answers| answers.sandbox = Sandbox::Missing(None));
    assert_eq!(missing, one("sandbox image", Warning));
}
