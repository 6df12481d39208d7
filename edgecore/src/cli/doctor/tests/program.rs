//! Whether the service, the running edgecore and this doctor are one program.

use super::super::facts::{Program, Programs, Started};
use super::*;

/// One program everywhere.
pub(super) fn programs() -> Programs {
    Programs {
        own: installed(),
        service: Some(Started {
            program: installed(),
            root: "/".to_owned(),
            is_stale: false,
        }),
        daemon: Some(installed()),
    }
}

fn installed() -> Program {
    Program {
        path: "/usr/local/bin/edgecore".to_owned(),
        content: Some(0),
    }
}

fn other() -> Program {
    Program {
        path: "/opt/edgecore".to_owned(),
        content: Some(1),
    }
}

/// What is told of a node whose programs differ from one everywhere in this.
fn told(change: impl FnOnce(&mut Programs)) -> Option<Finding> {
    let mut programs = programs();
    change(&mut programs);
    let mut facts = healthy();
    facts.node.as_mut().unwrap().programs = Ok(programs);
    let mut ill = judge(&facts)
        .into_iter()
        .filter(|finding| finding.level != Level::Ok);
    let found = ill.next();
    assert_eq!(ill.next(), None, "it is told once");
    assert!(found.as_ref().is_none_or(|finding| finding.check == "program"));
    found
}

fn service(change: impl FnOnce(&mut Started)) -> Option<Finding> {
    told(|programs| change(programs.service.as_mut().unwrap()))
}

/// Holds that it is told with these words, and with this remedy.
fn says(found: Option<Finding>, level: Level, words: &[&str], remedy: &str) {
    let found = found.unwrap();
    assert_eq!(found.level, level, "{found:?}");
    assert!(words.iter().all(|word| found.seen.contains(word)), "{found:?}");
    assert!(found.remedy.contains(remedy), "{found:?}");
}

#[test]
fn a_service_that_would_start_nothing_or_something_else_is_told() {
    use Level::{Failed, Warning};
    let gone = service(|service| service.program.content = None);
    says(
        gone,
        Failed,
        &["/usr/local/bin/edgecore", "no such file"],
        "install -m 755",
    );
    let elsewhere = service(|service| service.root = "/data".to_owned());
    says(elsewhere, Warning, &["below /data", "looks at /"], "--root");
    let stale = service(|service| service.is_stale = true);
    says(stale, Warning, &["was changed"], "daemon-reload");
    let another = told(|programs| programs.own = other());
    says(
        another,
        Warning,
        &["/usr/local/bin/edgecore", "/opt/edgecore"],
        "systemctl restart",
    );
}

#[test]
fn an_edgecore_that_the_next_start_will_not_bring_back_is_told() {
    use Level::Warning;
    let replaced = told(|programs| {
        programs.daemon = Some(Program {
            content: Some(1),
            ..installed()
        });
    });
    says(
        replaced,
        Warning,
        &["was replaced", "still runs"],
        "systemctl restart",
    );
    let moved = told(|programs| programs.daemon = Some(other()));
    says(
        moved,
        Warning,
        &["runs from /opt/edgecore", "starts another"],
        "systemctl restart",
    );
    let without_a_service = told(|programs| {
        programs.service = None;
        programs.daemon = Some(other());
    });
    says(
        without_a_service,
        Warning,
        &["edgecore runs from", "/opt/edgecore"],
        "restart",
    );
}

#[test]
fn a_copy_is_the_same_program_and_one_alone_differs_from_none() {
    let copied = |programs: &mut Programs| programs.own.path = other().path;
    assert_eq!(told(copied), None);
    assert_eq!(told(|programs| programs.daemon = None), None);
    let alone = |programs: &mut Programs| (programs.service, programs.daemon) = (None, None);
    assert_eq!(told(alone), None);
    assert_eq!(
        ill_node(|node| node.programs = Err(why())),
        one("program", Level::Unknown)
    );
}
