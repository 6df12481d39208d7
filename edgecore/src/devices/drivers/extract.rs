//! Values out of payloads: a path or a template, then a map, a scale, and what is ignored. Pure.
//!
//! What an operator writes here runs on the node for every message, so it is bounded: paths cannot
//! walk the whole document more than once, templates have no variables to grow, a fixed set of
//! filters, so much fuel and so much output.

use std::fmt;

use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;

use super::settings::{Settings, plain};
use super::template::Template;

/// A path longer than this is refused.
const LONGEST_PATH: usize = 512;
/// What devices say when they have nothing to say.
const IGNORED: [&str; 3] = ["", "nan", "unavailable"];

/// A payload, parsed at most once.
pub(crate) struct Payload<'a> {
    text: &'a str,
    json: Option<Value>,
}

impl<'a> Payload<'a> {
    /// Takes a payload; one that is no text is an error.
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "the payload is not UTF-8".to_owned())?;
        Ok(Self {
            text: text.trim(),
            json: serde_json::from_str(text).ok(),
        })
    }

    /// The text at a path, if there is one.
    pub(crate) fn at(&self, path: &Path) -> Option<String> {
        path.first(self.json.as_ref()?)
            .filter(|value| !value.is_null())
            .map(plain)
    }
}

/// How a text is found in a payload.
#[derive(Debug)]
pub(crate) enum Find {
    /// The payload itself.
    Whole,
    /// The first match of a path.
    Path(Path),
    /// What a template makes of it.
    Template(Box<Template>),
}

impl Find {
    /// Reads `path` or `template`.
    pub(crate) fn read(settings: &mut Settings) -> Self {
        let path = settings.text("path");
        let template = settings.text("template");
        match (path, template) {
            (None, None) => Self::Whole,
            (Some(_), Some(_)) => settings
                .blame("template", "and path exclude each other")
                .unwrap_or(Self::Whole),
            (Some(path), None) => match Path::parse(&path) {
                Ok(path) => Self::Path(path),
                Err(why) => settings.blame("path", &why).unwrap_or(Self::Whole),
            },
            (None, Some(template)) => match Template::parse(&template) {
                Ok(template) => Self::Template(Box::new(template)),
                Err(why) => settings.blame("template", &why).unwrap_or(Self::Whole),
            },
        }
    }

    /// The text; none where the payload does not have it.
    pub(crate) fn text(&self, payload: &Payload<'_>) -> Result<Option<String>, String> {
        match self {
            Self::Whole => Ok(Some(payload.text.to_owned())),
            Self::Path(path) => {
                let json = payload.json.as_ref().ok_or("the payload is not JSON")?;
                Ok(path.first(json).filter(|value| !value.is_null()).map(plain))
            }
            Self::Template(template) => {
                let json = payload.json.as_ref();
                let text = template.render(payload.text, json)?;
                Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
            }
        }
    }
}

/// A path of RFC 9535.
pub(crate) struct Path {
    text: String,
    query: JpQuery,
}

impl Path {
    /// Parses a path.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let walks = text.matches("..").count();
        let heavy = walks > 1 || (walks == 1 && text.contains('?')) || text.matches('$').count() > 1;
        if text.len() > LONGEST_PATH || heavy {
            return Err(format!(
                "\"{text}\" would cost too much on every message: at most one .. without a filter, one $, \
                 and {LONGEST_PATH} characters"
            ));
        }
        let query = parse_json_path(text).map_err(|error| format!("\"{text}\" is no JSON path: {error}"))?;
        Ok(Self {
            text: text.to_owned(),
            query,
        })
    }

    fn first<'a>(&self, json: &'a Value) -> Option<&'a Value> {
        let found = js_path_process(&self.query, json).ok()?;
        found.into_iter().next().map(jsonpath_rust::query::QueryRef::val)
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, out)
    }
}

/// What is made of a text before it is a value of the twin, and back.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    map: Vec<(String, String)>,
    scale: f64,
    offset: f64,
    ignore: Vec<String>,
}

impl Shape {
    /// Reads `map`, `scale`, `offset` and `ignore`.
    pub(crate) fn read(settings: &mut Settings) -> Self {
        let scale = settings.number("scale").unwrap_or(1.0);
        if scale == 0.0 {
            let _: Option<()> = settings.blame("scale", "must not be 0");
        }
        Self {
            map: settings.pairs("map").unwrap_or_default(),
            scale,
            offset: settings.number("offset").unwrap_or(0.0),
            ignore: settings
                .texts("ignore")
                .unwrap_or_else(|| IGNORED.map(str::to_owned).to_vec()),
        }
    }

    /// The value of a text; none where the text says nothing.
    pub(crate) fn value(&self, text: &str) -> Result<Option<String>, String> {
        if self
            .ignore
            .iter()
            .any(|ignored| ignored.eq_ignore_ascii_case(text))
        {
            return Ok(None);
        }
        if let Some((_, to)) = self.map.iter().find(|(from, _)| from == text) {
            return Ok(Some(to.clone()));
        }
        if !self.scales() {
            return Ok(Some(text.to_owned()));
        }
        let number = finite(text).ok_or_else(|| format!("{text:?} is not a number"))?;
        Ok(Some(written(number * self.scale + self.offset)))
    }

    /// The text of a value: the way back.
    pub(crate) fn text(&self, value: &str) -> Result<String, String> {
        if let Some((from, _)) = self.map.iter().find(|(_, to)| to == value) {
            return Ok(from.clone());
        }
        if !self.scales() {
            return Ok(value.to_owned());
        }
        let number = finite(value).ok_or_else(|| format!("{value:?} is not a number"))?;
        Ok(written((number - self.offset) / self.scale))
    }

    #[expect(
        clippy::float_cmp,
        reason = "these are the very constants that stand for unset"
    )]
    fn scales(&self) -> bool {
        self.scale != 1.0 || self.offset != 0.0
    }
}

fn finite(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// A number without the noise of binary fractions: 215 × 0.1 is 21.5, not 21.500000000000004.
pub(crate) fn written(number: f64) -> String {
    let rounded: f64 = format!("{number:.11e}").parse().unwrap_or(number);
    // Minus zero is nobody's temperature.
    (rounded + 0.0).to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read<T>(json: Value, read: impl Fn(&mut Settings) -> T) -> (T, Vec<String>) {
        let Value::Object(map) = json else {
            panic!("no mapping")
        };
        let mut settings = Settings::new("read[0]", map);
        let found = read(&mut settings);
        (found, settings.finish())
    }

    fn found(json: Value, payload: &str) -> Result<Option<String>, String> {
        let (find, wrong) = read(json, Find::read);
        assert_eq!(wrong, Vec::<String>::new());
        find.text(&Payload::new(payload.as_bytes())?)
    }

    #[test]
    fn a_path_finds_the_first_match_and_none_is_no_report() {
        let payload = r#"{"DS18B20": {"Temperature": 21.5}, "list": [{"id": 3, "on": true}], "gone": null}"#;
        let find = |path: &str| found(json!({"path": path}), payload);
        assert_eq!(find("$.DS18B20.Temperature"), Ok(Some("21.5".into())));
        assert_eq!(find("$.list[?@.id == 3].on"), Ok(Some("true".into())));
        assert_eq!(find("$.list[0]"), Ok(Some(r#"{"id":3,"on":true}"#.into())));
        assert_eq!(find("$..Temperature"), Ok(Some("21.5".into())));
        assert_eq!(find("$.gone"), Ok(None));
        assert_eq!(find("$.other"), Ok(None));
        assert_eq!(
            found(json!({"path": "$.a"}), "ON"),
            Err("the payload is not JSON".into())
        );
    }

    #[test]
    fn a_template_sees_the_text_and_the_json() {
        let find = |template: &str, payload: &str| found(json!({"template": template}), payload);
        assert_eq!(
            find("{{ json.a + json.b }}", r#"{"a": 1, "b": 2}"#),
            Ok(Some("3".into()))
        );
        assert_eq!(find("{{ value | upper }}", "on"), Ok(Some("ON".into())));
        assert_eq!(
            find("{% if json.p > 5 %}on{% endif %}", r#"{"p": 2}"#),
            Ok(None),
            "nothing is no report"
        );
    }

    #[test]
    fn what_would_cost_too_much_is_refused() {
        for path in [
            "$..a..b",
            "$..[?@.a]",
            "$[?$.a > 1]",
            "$.[",
            &format!("$.{}", "a".repeat(600)),
        ] {
            assert!(Path::parse(path).is_err(), "{path}");
        }
        let (_, wrong) = read(json!({"path": "$.a", "template": "x"}), Find::read);
        assert_eq!(wrong, ["read[0].template and path exclude each other"]);
    }

    #[test]
    fn bytes_that_are_no_text_are_an_error() {
        assert!(Payload::new(&[0xff, 0xfe]).is_err());
    }

    #[test]
    fn texts_become_values_and_values_texts() {
        let shape = |json| read(json, Shape::read).0;
        let switch = shape(json!({"map": {"ON": true, "OFF": false}}));
        assert_eq!(switch.value("ON"), Ok(Some("true".into())));
        assert_eq!(switch.value("TOGGLE"), Ok(Some("TOGGLE".into())));
        assert_eq!(switch.text("false"), Ok("OFF".into()));
        let scaled = shape(json!({"scale": 0.1, "offset": -40}));
        assert_eq!(scaled.value("615"), Ok(Some("21.5".into())));
        assert_eq!(scaled.text("21.5"), Ok("615".into()));
        assert_eq!(scaled.value("warm"), Err("\"warm\" is not a number".into()));
        for nothing in ["", "NaN", "unavailable"] {
            assert_eq!(scaled.value(nothing), Ok(None));
        }
        assert_eq!(shape(json!({"ignore": ["-"]})).value("-"), Ok(None));
        assert_eq!(shape(json!({"ignore": ["-"]})).value(""), Ok(Some(String::new())));
        assert_eq!(
            read(json!({"scale": 0}), Shape::read).1,
            ["read[0].scale must not be 0"]
        );
    }

    #[test]
    fn numbers_are_written_without_noise() {
        assert_eq!(written(0.1 + 0.2), "0.3");
        assert_eq!(written(-0.0), "0");
        assert_eq!(written(230.0), "230");
        assert_eq!(written(1e-7), "0.0000001");
    }
}
