//! Templates of operators, bounded in time and size.
//!
//! minijinja without statements that bind names (`set`, `with`, `macro`): without a name nothing can be
//! doubled over and over. Fuel bounds the steps and all that they make, 64 bytes for each; what would be
//! too large is not even begun. A writer bounds the output.
//!
//! Two things cost no fuel: a list that is repeated (`[1] * 999`), for it is made only when it is written
//! out, and whatever is constant, for it is computed while the template is read. One alone is harmless,
//! together with `~` they made gigabytes; [`blocks`] keeps them apart. Filters that need text take no
//! lists, and what `tojson` writes is bounded like the output. So one template costs some 3 MB
//! at most, whatever it is given (`tests/template.rs` measures it).

mod blocks;

use std::fmt;
use std::io::{self, Write};

use minijinja::value::{ArgType, Serde, ValueKind};
use minijinja::{
    Environment, Error, ErrorKind, Output, State, UndefinedBehavior, context, escape_formatter, filters,
};
use serde_json::Value;

/// A longer template is refused.
const LONGEST: usize = 2048;
/// The most steps of one rendering, and with them some 320 kB of everything that it makes on its way.
const FUEL: u64 = 5_000;
/// The most bytes that one rendering makes.
const MOST: usize = 64 * 1024;
/// The statements that a template may have.
const STATEMENTS: [&str; 6] = ["if", "elif", "else", "endif", "for", "endfor"];

/// One template.
pub(crate) struct Template {
    text: String,
    environment: Environment<'static>,
}

impl Template {
    /// Parses a template.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("is longer than {LONGEST} bytes"));
        }
        if let Some(other) = statements(text).find(|statement| !STATEMENTS.contains(statement)) {
            return Err(format!(
                "has the statement {other:?}; allowed are {}",
                STATEMENTS.join(", ")
            ));
        }
        blocks::check(text)?;
        let mut environment = environment();
        environment
            .add_template_owned("t", text.to_owned())
            .map_err(|error| format!("is no template: {error}"))?;
        Ok(Self {
            text: text.to_owned(),
            environment,
        })
    }

    /// What the template makes of a value; `json` is undefined where there is none.
    pub(crate) fn render(&self, value: &str, json: Option<&Value>) -> Result<String, String> {
        let template = self.environment.get_template("t").map_err(told)?;
        let mut out = Bounded(Vec::new());
        let json = json.map_or(minijinja::Value::UNDEFINED, |json| {
            minijinja::Value::from(Serde(json))
        });
        template
            .render_captured_to(context! { value => value, json => json }, &mut out)
            .map_err(told)?;
        String::from_utf8(out.0).map_err(|error| error.to_string())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn told(error: Error) -> String {
    format!("the template failed: {error}")
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_formatter(as_json);
    environment.add_filter("abs", filters::abs);
    environment.add_filter("bool", filters::bool);
    environment.add_filter("default", filters::default);
    environment.add_filter("float", filters::float);
    environment.add_filter("int", filters::int);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", |Text(text): Text| text.to_lowercase());
    environment.add_filter("replace", replace);
    environment.add_filter("round", filters::round);
    environment.add_filter(
        "split",
        |Text(text): Text, by: Option<Text>, most: Option<i64>| {
            filters::split(&text.into(), by.map(|Text(by)| by.into()), most)
        },
    );
    environment.add_filter("tojson", tojson);
    environment.add_filter("trim", |Text(text): Text, letters: Option<Text>| match letters {
        Some(Text(letters)) => text.trim_matches(|letter| letters.contains(letter)).to_owned(),
        None => text.trim().to_owned(),
    });
    environment.add_filter("upper", |Text(text): Text| text.to_uppercase());
    environment
}

/// Switches, nothing, lists and maps are written as JSON has them: `True`, as by default, no device
/// understands.
fn as_json(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &minijinja::Value) -> Result<(), Error> {
    let word = match (value.kind(), value.is_true()) {
        (ValueKind::Bool, true) => "true",
        (ValueKind::Bool, false) => "false",
        (ValueKind::None, _) => "null",
        (ValueKind::Seq | ValueKind::Iterable | ValueKind::Map, _) => {
            return Ok(out.write_str(&json_of(value)?)?);
        }
        (_, _) => return escape_formatter(out, state, value),
    };
    Ok(out.write_str(word)?)
}

/// What filters take that need text: text, a number or a switch. Of a list or a map the text may be of any length.
struct Text(String);

impl<'a> ArgType<'a> for Text {
    type Output = Self;

    fn from_value(value: Option<&'a minijinja::Value>) -> Result<Self, Error> {
        let is_text = |value: &&minijinja::Value| {
            matches!(
                value.kind(),
                ValueKind::String
                    | ValueKind::Number
                    | ValueKind::Bool
                    | ValueKind::None
                    | ValueKind::Undefined
            )
        };
        let value = value.filter(is_text);
        value
            .map(|value| Self(value.to_string()))
            .ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "text is needed here"))
    }
}

/// As the usual one, within bounds.
#[expect(clippy::needless_pass_by_value, reason = "filters take their arguments so")]
fn tojson(value: minijinja::Value) -> Result<String, Error> {
    json_of(&value)
}

/// Ends as soon as it is too long, however long the rest would be.
fn json_of(value: &minijinja::Value) -> Result<String, Error> {
    let mut out = Bounded(Vec::new());
    let wrong = |error: &dyn fmt::Display| Error::new(ErrorKind::BadSerialization, error.to_string());
    serde_json::to_writer(&mut out, value).map_err(|error| wrong(&error))?;
    String::from_utf8(out.0).map_err(|error| wrong(&error))
}

/// As the usual one, within bounds.
fn replace(Text(value): Text, Text(from): Text, Text(to): Text) -> Result<String, Error> {
    let times = if from.is_empty() {
        value.len() + 1
    } else {
        value.matches(&from).count()
    };
    if value.len() + times.saturating_mul(to.len()) > MOST {
        return Err(Error::new(ErrorKind::InvalidOperation, "the result is too long"));
    }
    Ok(value.replace(&from, &to))
}

/// The first word of each statement.
fn statements(text: &str) -> impl Iterator<Item = &str> {
    text.split("{%").skip(1).map(|after| {
        let after = after.trim_start_matches(['-', '+']).trim_start();
        let end = after
            .find(|letter: char| !letter.is_alphanumeric())
            .unwrap_or(after.len());
        &after[..end]
    })
}

struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST {
            return Err(io::Error::other("it makes too much"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, out)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn render(template: &str, value: &str) -> Result<String, String> {
        Template::parse(template)?.render(value, serde_json::from_str(value).ok().as_ref())
    }

    #[test]
    fn a_template_makes_json_that_a_value_cannot_break() {
        let template =
            Template::parse(r#"{"state": {{ value | tojson }}, "level": {{ json | default(0) }}}"#).unwrap();
        let text = template.render("a\"b", None).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"state": "a\"b", "level": 0})
        );
    }

    #[test]
    fn time_and_size_are_bounded() {
        let big = "x".repeat(60 * 1024);
        for (template, value) in [
            (
                "{% for a in json %}{% for b in json %}{{ a * b }}{% endfor %}{% endfor %}",
                format!("[{}]", vec!["1"; 9999].join(",")),
            ),
            ("{{ value ~ value }}", big.clone()),
            ("{{ value | replace('x', value) }}", big),
            ("{{ 'x' * 900000 }}", String::new()),
            ("{{ ('x' * 90000000) | length }}", String::new()),
            (
                "{{ [value ~ 1, value ~ 2, value ~ 3, value ~ 4, value ~ 5, value ~ 6] | length }}",
                "x".repeat(60 * 1024),
            ),
        ] {
            assert!(render(template, &value).is_err(), "{template}");
        }
    }

    #[test]
    fn what_binds_names_or_is_not_known_is_refused() {
        for template in [
            "{% set a = value ~ value %}{{ a }}",
            "{%- with a = value %}{{ a }}{% endwith %}",
            "{% macro m() %}{% endmacro %}",
            "{% include 'x' %}",
            "{{ value | nosuch }}",
            "{{ range(10) }}",
            "{{ value",
        ] {
            assert!(render(template, "1").is_err(), "{template}");
        }
        assert!(Template::parse(&"x".repeat(3000)).is_err());
    }

    #[test]
    fn what_operators_write_works() {
        assert_eq!(
            render("{{ (value | float * 1.8 + 32) | round(1) }}", "21.5").as_deref(),
            Ok("70.7")
        );
        assert_eq!(render("{{ json }}", "true").as_deref(), Ok("true"));
        assert_eq!(render("{{ json.a }}", r#"{"a": null}"#).as_deref(), Ok("null"));
        assert_eq!(render("{{ (value | split(','))[1] }}", "1,2").as_deref(), Ok("2"));
        assert_eq!(
            render("{{ json }}", r#"["a", {"b": 1.5}]"#).as_deref(),
            Ok(r#"["a",{"b":1.5}]"#)
        );
        assert_eq!(render("{{ value | trim | upper }}", " a ").as_deref(), Ok("A"));
        assert_eq!(
            render("{{ json.n | trim('0') }}", r#"{"n": 100}"#).as_deref(),
            Ok("1")
        );
        assert_eq!(
            render("{% if json.on %}ON{% else %}OFF{% endif %}", r#"{"on": false}"#).as_deref(),
            Ok("OFF")
        );
    }
}
