//! Templates of operators, bounded in time and size.
//!
//! minijinja without statements that bind names (`set`, `with`, `macro`): without a name nothing can be
//! doubled over and over. Fuel bounds the steps, a writer the output.

use std::fmt;
use std::io::{self, Write};

use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, context, filters};
use serde_json::Value;

/// A longer template is refused.
const LONGEST: usize = 2048;
/// The most steps of one rendering.
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
    environment.add_filter("abs", filters::abs);
    environment.add_filter("bool", filters::bool);
    environment.add_filter("default", filters::default);
    environment.add_filter("float", filters::float);
    environment.add_filter("int", filters::int);
    environment.add_filter("length", filters::length);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("replace", replace);
    environment.add_filter("round", filters::round);
    environment.add_filter("split", filters::split);
    environment.add_filter("tojson", filters::tojson);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("upper", filters::upper);
    environment
}

/// As the usual one, within bounds.
#[expect(clippy::needless_pass_by_value, reason = "filters take their arguments so")]
fn replace(value: String, from: String, to: String) -> Result<String, Error> {
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
        assert_eq!(render("{{ (value | split(','))[1] }}", "1,2").as_deref(), Ok("2"));
        assert_eq!(
            render("{% if json.on %}ON{% else %}OFF{% endif %}", r#"{"on": false}"#).as_deref(),
            Ok("OFF")
        );
    }
}
