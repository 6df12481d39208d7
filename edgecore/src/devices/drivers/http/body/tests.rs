//! What a wish becomes on its way to a device.

use serde_json::{Value, json};

use super::super::config::read;
use super::*;
use crate::devices::merge;

fn asked(visitor: &Value, value: &str) -> Result<Question, String> {
    let manifest = json!({
        "metadata": {"name": "plug", "namespace": "hall", "uid": "u"},
        "spec": {
            "protocol": {"protocolName": "tombolo/http", "configData": {"url": "http://x"}},
            "properties": [{"name": "p", "visitors": {"configData": visitor}}]
        }
    });
    let found = read(&merge(&serde_json::from_value(manifest).unwrap(), None));
    assert_eq!(found.mistakes, []);
    let settled = found.settled.unwrap();
    let property = &settled.properties["p"];
    question(property, property.write.as_ref().unwrap(), value)
}

#[test]
fn a_wish_goes_into_the_body_or_into_the_path() {
    let body = json!({"write": {"url": "/rpc", "template": "{\"on\": {{ json }}}"}});
    let question = asked(&body, "true").unwrap();
    assert_eq!(
        (question.method, question.target.as_str()),
        (Method::POST, "/rpc")
    );
    assert_eq!(question.body.unwrap().1, "{\"on\": true}");
    let path =
        json!({"map": {"ON": true}, "write": {"method": "get", "url": "/cm?cmnd=Power%20{{ value }}"}});
    let question = asked(&path, "true").unwrap();
    assert_eq!(
        (question.method, question.target.as_str(), question.body),
        (Method::GET, "/cm?cmnd=Power%20ON", None)
    );
}

#[test]
fn a_value_stays_one_piece_of_the_path_whatever_it_is() {
    for url in ["/set?v={{ value }}", "/set?v={{ json }}", "/set/{{ value }}"] {
        let question = asked(&json!({"write": {"url": url}}), "1&admin=/..\r\nHost: y #ä").unwrap();
        let target = question.target.as_str();
        assert!(
            target.ends_with("1%26admin%3D%2F..%0D%0AHost%3A%20y%20%23%C3%A4"),
            "{target}"
        );
    }
}

#[test]
fn a_template_that_makes_no_path_is_refused() {
    let odd = json!({"write": {"url": "/{% if value == 'x' %} {% endif %}y z"}});
    assert!(asked(&odd, "x").unwrap_err().contains("write.url"));
}
