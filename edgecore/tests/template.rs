//! What a template of an operator costs at most, whatever it says and is given: a process of its own, so
//! that its peak of memory is that of the templates alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "the settings' reader uses more of it")]
#[path = "../src/devices/drivers/template/mod.rs"]
mod template;

/// Each made 50 MB to 7 GB, or took minutes, before it was bounded.
const HOSTILE: [&str; 17] = [
    "{# {{ ' #}{{ ([1] * 9000000 ~ 'x') | length }}",
    "{{ ([1] * 9000000 ~ 'x') | length }}",
    "{{ [[[1] * 999] * 999] * 999 ~ 'x' }}",
    "{{ 2 in [1] * 9000000 }}",
    "{{ [1] * 9999999 == [1] * 9999999 }}",
    "{{ ((1, 2) * 16, 1) * 32 == ((1, 2) * 16, 1) * 32 }}",
    "{{ json * 100000 }}",
    "{{ json * 100000 ~ 'x' }}",
    "{{ (json * 1000) | tojson }}",
    "{{ (json * 1000) | lower }}",
    "{{ (json * 1000) | replace('x', 'y') }}",
    "{{ [json, json, json, json, json, json, json, json, json, json, json, json, json, json] | upper }}",
    "{{ [json, json, json, json, json, json, json, json, json, json, json, json, json, json] ~ 1 }}",
    "{{ json == json * 1 }}",
    "{{ value | split('') | length }}",
    "{% for a in json * 1000 %}{{ json ~ a }}{% endfor %}",
    "{{ value * 1000 ~ value * 1000 }}",
];
/// The most that all of them together may add to the process.
const MOST_KB: u64 = 12 * 1024;

fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_template_makes_more_than_a_few_megabytes() {
    let values = [
        "1".to_owned(),
        format!("[{}]", vec!["1"; 30_000].join(",")),
        format!("[{}]", vec![format!("{:?}", "x".repeat(31)); 1500].join(",")),
        "x".repeat(60 * 1024),
    ];
    let before = peak_kb();
    for text in HOSTILE {
        for value in &values {
            let json = serde_json::from_str(value).ok();
            let made = template::Template::parse(text).and_then(|one| one.render(value, json.as_ref()));
            assert!(
                made.is_err() || made.is_ok_and(|made| made.len() <= 64 * 1024),
                "{text}"
            );
        }
    }
    let more = peak_kb() - before;
    assert!(more < MOST_KB, "{more} kB");
}
