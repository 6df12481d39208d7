//! The settings of a `tombolo/http` device. Pure.
//!
//! ```yaml
//! protocol:
//!   protocolName: tombolo/http
//!   configData: {url: "http://10.0.0.8", credentials: shelly}
//! properties:
//! - name: power
//!   collectCycle: 5000
//!   visitors:
//!     configData:
//!       read: {url: "/rpc/Switch.GetStatus?id=0", path: $.output}
//!       write: {url: /rpc/Switch.Set, template: '{"id": 0, "on": {{ json }}}'}
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderValue, Method};

use super::place::{Place, refuse_secrets, target};
use crate::devices::drivers::driver::{self, Mistake};
use crate::devices::drivers::extract::{Find, Path, Shape};
use crate::devices::drivers::settings::Settings;
use crate::devices::drivers::template::Template;
use crate::devices::drivers::writing::Manner;
use crate::devices::{Access, Served, ServedProperty};

/// How often a property is read that does not say.
const CYCLE: Duration = Duration::from_secs(10);
/// How often a property is read at most.
const SHORTEST_CYCLE: Duration = Duration::from_millis(100);
/// How long an answer may take, in ms, unless the device says otherwise.
const TIMEOUT: u64 = 5_000;

/// Whom a connection is made to, and as whom. Each namespace has its own: what it may use of the
/// credentials is its affair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// The server.
    pub(crate) place: Place,
    /// Whose devices are behind it.
    pub(crate) namespace: String,
    /// The name of the credentials.
    pub(crate) credentials: Option<String>,
}

/// What was read of a manifest.
#[derive(Debug)]
pub(crate) struct Found {
    /// Where the device is asked; none if it only pushes.
    pub(crate) endpoint: Option<Endpoint>,
    /// What it asks for; none if nothing of it can be served.
    pub(crate) settled: Option<Settled>,
    /// What is wrong.
    pub(crate) mistakes: Vec<Mistake>,
}

/// What a device asks for.
#[derive(Debug)]
pub(crate) struct Settled {
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// The name of the credentials with which it pushes; none if it does not.
    pub(crate) push: Option<String>,
    /// Whether it is asked.
    pub(crate) asked: bool,
    /// By name.
    pub(crate) properties: BTreeMap<String, Property>,
}

/// One property.
#[derive(Debug)]
pub(crate) struct Property {
    /// Where it is read.
    pub(crate) reads: Vec<(PathAndQuery, Source)>,
    /// How often.
    pub(crate) cycle: Duration,
    /// Where it is in what the device pushes.
    pub(crate) pushed: Option<Source>,
    /// What is made of the text.
    pub(crate) shape: Shape,
    /// How it is set.
    pub(crate) write: Option<Write>,
    /// How it wants to be set.
    pub(crate) manner: Manner,
}

/// Where a property is in a body.
#[derive(Debug)]
pub(crate) struct Source {
    /// Where the value is.
    pub(crate) find: Find,
    /// Where the device's own time is.
    pub(crate) time: Option<Path>,
}

/// How a property is set.
#[derive(Debug)]
pub(crate) struct Write {
    /// The method.
    pub(crate) method: Method,
    /// The path, with the value where one is asked for.
    pub(crate) url: Template,
    /// The body; none by default.
    pub(crate) body: Option<Template>,
    /// What the body is.
    pub(crate) content_type: HeaderValue,
    /// From the twin's value to the device's; the inverse of the property's own map by default.
    pub(crate) map: Vec<(String, String)>,
    /// The device does not say what it was set to: what was sent counts as reported.
    pub(crate) optimistic: bool,
}

/// Reads the settings of a device.
pub(crate) fn read(served: &Served) -> Found {
    let mut settings = Settings::new("protocol.configData", served.config.clone());
    settings.refuse_secrets();
    let place = place(&mut settings);
    let credentials = settings.text("credentials");
    let timeout = settings.whole("timeout", 100, 60_000).unwrap_or(TIMEOUT);
    let push = push(&mut settings);
    let asked = place.is_some();
    if !served.config.contains_key("url") && push.is_none() {
        let () = settings.missing("url").unwrap_or_default();
    }
    let mut mistakes: Vec<Mistake> = Mistake::of_device(settings.finish()).collect();
    let usable = mistakes.is_empty();
    let ways = (asked, push.is_some());
    let properties = driver::properties(served, &mut mistakes, |property| read_property(property, ways));
    let settled = Settled {
        timeout: Duration::from_millis(timeout),
        push,
        asked,
        properties,
    };
    Found {
        endpoint: place.filter(|_| usable).map(|place| Endpoint {
            place,
            namespace: served.identity.namespace.clone(),
            credentials,
        }),
        settled: usable.then_some(settled),
        mistakes,
    }
}

fn place(settings: &mut Settings) -> Option<Place> {
    let text = settings.text("url")?;
    match text.parse() {
        Ok(place) => Some(place),
        Err(error) => settings.blame("url", &format!("is {error}")),
    }
}

fn push(settings: &mut Settings) -> Option<String> {
    let mut below = settings.below("push")?;
    below.refuse_secrets();
    let name = below.text("credentials").or_else(|| below.missing("credentials"));
    settings.also(below);
    name
}

/// `ways` says whether the device is asked, and whether it pushes.
fn read_property(property: &ServedProperty, ways: (bool, bool)) -> Result<Property, Vec<String>> {
    let mut settings = Settings::new("visitors.configData", property.visitor.clone());
    settings.refuse_secrets();
    let shape = Shape::read(&mut settings);
    let optimistic = settings.flag("optimistic").unwrap_or(false);
    let mut reads = Vec::new();
    for mut below in settings.each("read") {
        let url = url(&mut below);
        let source = source(&mut below);
        settings.also(below);
        reads.extend(url.map(|url| (url, source)));
    }
    let pushed = settings.below("push").map(|mut below| {
        let source = source(&mut below);
        settings.also(below);
        source
    });
    let write = write(&mut settings, optimistic);
    for (key, there, way, needs) in [
        ("read", !reads.is_empty(), ways.0, "url"),
        ("write", write.is_some(), ways.0, "url"),
        ("push", pushed.is_some(), ways.1, "push"),
    ] {
        if there && !way {
            let why = format!("needs protocol.configData.{needs}, which is missing or wrong");
            let () = settings.blame(key, &why).unwrap_or_default();
        }
    }
    if reads.is_empty() && pushed.is_none() && write.is_none() {
        let () = settings
            .blame("read", "push and write are all missing")
            .unwrap_or_default();
    }
    let wrong = settings.finish();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Property {
        reads,
        cycle: property.collect_cycle.unwrap_or(CYCLE).max(SHORTEST_CYCLE),
        pushed,
        shape,
        write: write.filter(|_| property.access == Access::ReadWrite),
        manner: Manner {
            confirm_timeout: property.confirm_timeout,
            enforce: property.enforce,
        },
    })
}

fn source(settings: &mut Settings) -> Source {
    let find = Find::read(settings);
    let time = settings
        .text("timePath")
        .and_then(|path| match Path::parse(&path) {
            Ok(path) => Some(path),
            Err(why) => settings.blame("timePath", &why),
        });
    Source { find, time }
}

fn url(settings: &mut Settings) -> Option<PathAndQuery> {
    let Some(text) = settings.text("url") else {
        return settings.missing("url");
    };
    match target(&text) {
        Ok(url) => Some(url),
        Err(why) => settings.blame("url", &why),
    }
}

fn write(settings: &mut Settings, optimistic: bool) -> Option<Write> {
    let mut below = settings.below("write")?;
    let method = match below
        .text("method")
        .map(|text| text.to_ascii_uppercase())
        .as_deref()
    {
        None | Some("POST") => Method::POST,
        Some("GET") => Method::GET,
        Some("PUT") => Method::PUT,
        Some("PATCH") => Method::PATCH,
        Some(_) => below
            .blame("method", "must be GET, POST, PUT or PATCH")
            .unwrap_or(Method::POST),
    };
    let url = write_url(&mut below);
    let body = below
        .text("template")
        .and_then(|text| match Template::parse(&text) {
            Ok(template) => Some(template),
            Err(why) => below.blame("template", &why),
        });
    let content_type = below
        .text("contentType")
        .unwrap_or_else(|| "application/json".to_owned());
    let content_type = HeaderValue::try_from(content_type)
        .ok()
        .or_else(|| below.blame("contentType", "is no media type"));
    let map = below.pairs("map").unwrap_or_default();
    settings.also(below);
    Some(Write {
        method,
        url: url?,
        body,
        content_type: content_type?,
        map,
        optimistic,
    })
}

/// The path of a write may have the value in it; what stands around it is looked at now.
fn write_url(settings: &mut Settings) -> Option<Template> {
    let Some(text) = settings.text("url") else {
        return settings.missing("url");
    };
    let read = if text.contains("{{") || text.contains("{%") {
        let begins = text.starts_with('/');
        let begins = begins.then_some(()).ok_or_else(|| "must begin with /".to_owned());
        begins.and_then(|()| refuse_secrets(&text))
    } else {
        target(&text).map(drop)
    };
    match read.and_then(|()| Template::parse(&text)) {
        Ok(template) => Some(template),
        Err(why) => settings.blame("url", &why),
    }
}

#[cfg(test)]
mod tests;
