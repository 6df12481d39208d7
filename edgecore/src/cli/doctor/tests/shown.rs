//! How findings are shown.

use super::*;

#[test]
fn what_others_say_is_one_line_of_a_bounded_length() {
    assert_eq!(one_line(" a\n  b\u{1b}[0m\t c "), "a; b[0m c");
    let long = one_line(&"ä".repeat(LONGEST + 1));
    assert_eq!(long.chars().count(), LONGEST + 1);
    assert!(long.ends_with('…'));
}

#[test]
fn no_password_is_shown_wherever_it_stands() {
    let wrong = "node_name: pump-7\naddresses: [a]\nproxy: https://user:geheim@proxy:3128\n";
    let shown = |text: &str| {
        let mistakes = crate::config::Config::parse(text).unwrap_err();
        let finding = Finding::failed("configuration", mistakes.to_string(), "mend it");
        assert!(!finding.seen.contains("geheim"), "{finding:?}");
    };
    shown(wrong);
    shown(&wrong.replace("[a]", "[a"));
    shown(&wrong.replace("https://user:geheim@proxy:3128", "[\"user:geheim@proxy:3128\"]"));
    assert_eq!(
        one_line("at http://user:geheim@proxy:3128/ x"),
        "at http://…@proxy:3128/ x"
    );
    assert_eq!(one_line("at user:geheim@proxy"), "at …@proxy");
}

#[test]
fn a_finding_is_a_line_and_its_remedy_another() {
    let checks = [
        Finding::ok("clock", "is right"),
        Finding::failed("swap", "is on", "swapoff -a"),
    ];
    let report = Report {
        version: "1",
        failed: 1,
        warnings: 0,
        unknown: 0,
        checks: &checks,
    };
    let text = render::table(&report);
    let expected = "ok       clock  is right\nFAILED   swap   is on\n                -> swapoff -a\n\n\
        1 ok, 0 warnings, 1 failed, 0 unknown\n";
    assert_eq!(text, expected);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["checks"][1]["level"], "failed");
}
