//! What `get devices` prints.

use protocol::devices::DeviceState;

use super::*;
use crate::cli::testing;

const NOW: u64 = 1_700_000_100_000;

fn value(value: &str, metadata: &[(&str, &str)]) -> TwinValue {
    let metadata = metadata
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    TwinValue {
        value: value.to_owned(),
        metadata: metadata.collect(),
    }
}

fn pump() -> DeviceView {
    let device = serde_json::json!({
        "metadata": {"name": "pump", "namespace": "hall"},
        "spec": {"deviceModelRef": {"name": "pumps"}, "protocol": {"protocolName": "tombolo/modbus"}},
    });
    let served = crate::devices::merge(&serde_json::from_value(device).unwrap(), None);
    let standing = Standing {
        state: DeviceState::Online,
        last_online: Some(1_700_000_000_000),
    };
    let at = |quality| [("timestamp", "1700000055000"), ("quality", quality)];
    let broken = [at("error").as_slice(), &[("reason", "IllegalDataAddress")]].concat();
    let view = |actual, expected| TwinView {
        expected,
        actual,
        ..TwinView::default()
    };
    let twin = BTreeMap::from([
        ("flow".to_owned(), view(Some(value("", &broken)), None)),
        (
            "speed".to_owned(),
            view(Some(value("7", &at("good"))), Some(value("8", &[]))),
        ),
        ("valve".to_owned(), view(None, Some(value("open", &[])))),
    ]);
    DeviceView::of(&served, Some(standing), twin, NOW)
}

#[test]
fn an_operator_sees_each_value_with_its_quality_and_age() {
    let text = table::render(&[pump()], true);
    assert_eq!(
        text,
        "NAMESPACE  DEVICE  PROTOCOL        STATE   PROPERTY  VALUE  QUALITY                    AGE  DESIRED\n\
         hall       pump    tombolo/modbus  online  flow             error: IllegalDataAddress  45s\n\
         \x20                                          speed     7      good                       45s  8\n\
         \x20                                          valve                                            open\n"
    );
}

#[test]
fn a_device_that_has_said_nothing_is_shown_and_a_daemon_that_does_not_run_is_told() {
    let silent = DeviceView {
        namespace: "hall".to_owned(),
        name: "lamp".to_owned(),
        state: "unknown".to_owned(),
        ..DeviceView::default()
    };
    let text = table::render(&[silent], false);
    assert!(text.starts_with("edgecore does not run; "), "{text}");
    assert!(
        text.contains("\nhall       lamp    mqtt      unknown\n"),
        "{text}"
    );
    assert_eq!(table::render(&[], true), "No devices.\n");
}

#[test]
fn programs_get_times_and_long_values_are_cut() {
    let json = serde_json::to_value(pump()).unwrap();
    assert_eq!(json["lastSeen"], "2023-11-14T22:13:20Z");
    let speed = &json["properties"][1];
    assert_eq!(
        (
            &speed["value"],
            &speed["at"],
            &speed["ageSeconds"],
            &speed["desired"]
        ),
        (
            &"7".into(),
            &"2023-11-14T22:14:15Z".into(),
            &45.into(),
            &"8".into()
        )
    );
    assert_eq!(cut(&"é".repeat(2_000)).chars().count(), VALUE + 1);
}

#[tokio::test]
async fn a_damaged_store_is_told_and_left_for_the_daemon_to_repair_and_to_report() {
    let paths = testing::damaged("get-damaged").await;
    for _ in 0..2 {
        let (devices, warnings) = offline::read(&paths, &Clock::system()).await.unwrap();
        assert_eq!(devices, []);
        assert!(
            warnings.len() == 1 && warnings[0].contains("repairs it when it is started"),
            "{warnings:?}"
        );
    }
    assert_eq!(testing::told_by_the_daemon(&paths).len(), 1);
    testing::remove(&paths);
}
