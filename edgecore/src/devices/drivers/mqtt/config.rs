//! The settings of a `tombolo/mqtt` device. Pure.
//!
//! ```yaml
//! protocol:
//!   protocolName: tombolo/mqtt
//!   configData:
//!     baseTopic: zigbee2mqtt/lamp
//!     availability: {topic: ~/availability, path: $.state}
//! properties:
//! - name: power
//!   visitors:
//!     configData:
//!       read: {topic: ~, path: $.state}
//!       map: {ON: true, OFF: false}
//!       write: {topic: ~/set, template: '{"state": {{ value | tojson }}}'}
//! ```

use std::collections::BTreeMap;

use crate::devices::drivers::driver::{self, Mistake, Reading};
use crate::devices::drivers::extract::{Find, Path, Shape};
use crate::devices::drivers::settings::Settings;
use crate::devices::drivers::template::Template;
use crate::devices::drivers::writing::Manner;
use crate::devices::{Access, Broker, Served, ServedProperty};

use super::topics::{Allowed, resolve};

/// A broker, and as whom it is spoken to. Devices of all namespaces share a connection: brokers that
/// take user names for client ids end the older one of two.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// The broker; none for the node's own.
    pub(crate) broker: Option<Broker>,
    /// The name of the credentials.
    pub(crate) credentials: Option<String>,
}

/// What a device asks for.
#[derive(Debug)]
pub(crate) struct Settled {
    /// Whether the device is there.
    pub(crate) availability: Option<Availability>,
    /// By name.
    pub(crate) properties: BTreeMap<String, Property>,
}

/// Where a device says that it is there.
#[derive(Debug)]
pub(crate) struct Availability {
    /// The topic.
    pub(crate) topic: String,
    /// Where in the payload.
    pub(crate) find: Find,
    /// The text that means that it is.
    pub(crate) online: String,
    /// The text that means that it is not.
    pub(crate) offline: String,
}

/// One property.
#[derive(Debug)]
pub(crate) struct Property {
    /// Where it is read.
    pub(crate) sources: Vec<Source>,
    /// What is made of the text.
    pub(crate) shape: Shape,
    /// Where it is set.
    pub(crate) write: Option<Write>,
    /// How it is set.
    pub(crate) manner: Manner,
}

/// One place where a property is read.
#[derive(Debug)]
pub(crate) struct Source {
    /// The topic.
    pub(crate) topic: String,
    /// Where in the payload.
    pub(crate) find: Find,
    /// Where in the payload the device's own time is.
    pub(crate) time: Option<Path>,
}

/// Where a property is set.
#[derive(Debug)]
pub(crate) struct Write {
    /// The topic.
    pub(crate) topic: String,
    /// What is sent; the value itself by default.
    pub(crate) template: Option<Template>,
    /// From the twin's value to the device's; the inverse of the property's own map by default.
    pub(crate) map: Vec<(String, String)>,
    /// The quality of service.
    pub(crate) qos: u8,
    /// Whether the broker keeps it.
    pub(crate) retain: bool,
    /// The device does not say what it was set to: what was sent counts as reported.
    pub(crate) optimistic: bool,
}

/// Reads the settings of a device.
pub(crate) fn read(served: &Served, allowed: &Allowed) -> Reading<Endpoint, Settled> {
    let namespace = served.identity.namespace.as_str();
    let mut settings = Settings::new("protocol.configData", served.config.clone());
    settings.refuse_secrets();
    let broker = broker(&mut settings);
    let credentials = settings.text("credentials");
    let base = settings.text("baseTopic");
    let mut topics = Topics {
        namespace,
        allowed,
        base: base.as_deref(),
    };
    let availability = availability(&mut settings, &mut topics);
    let mut mistakes: Vec<Mistake> = Mistake::of_device(settings.finish()).collect();
    let unusable = !mistakes.is_empty();
    let mut properties = driver::properties(served, &mut mistakes, |property| {
        read_property(property, &mut topics)
    });
    mistakes.extend(echoes(&mut properties, availability.as_ref()));
    let settled = Settled {
        availability,
        properties,
    };
    Reading {
        good: (!unusable).then_some((Endpoint { broker, credentials }, settled)),
        mistakes,
    }
}

fn broker(settings: &mut Settings) -> Option<Broker> {
    let address = settings.text("broker")?;
    match address.parse() {
        Ok(broker) => Some(broker),
        Err(error) => settings.blame("broker", &format!("is {error}")),
    }
}

/// Checks topics where they are read.
struct Topics<'a> {
    namespace: &'a str,
    allowed: &'a Allowed,
    base: Option<&'a str>,
}

impl Topics<'_> {
    fn take(&mut self, settings: &mut Settings, default: Option<&str>) -> Option<String> {
        let Some(written) = settings.text("topic").or_else(|| default.map(str::to_owned)) else {
            return settings.missing("topic");
        };
        let topic = resolve(&written, self.base).and_then(|topic| {
            self.allowed.check(self.namespace, &topic)?;
            Ok(topic)
        });
        match topic {
            Ok(topic) => Some(topic),
            Err(why) => settings.blame("topic", &why),
        }
    }
}

fn availability(settings: &mut Settings, topics: &mut Topics<'_>) -> Option<Availability> {
    let mut below = settings.below("availability")?;
    let topic = topics.take(&mut below, None);
    let find = Find::read(&mut below);
    let online = below.text("online").unwrap_or_else(|| "online".to_owned());
    let offline = below.text("offline").unwrap_or_else(|| "offline".to_owned());
    settings.also(below);
    Some(Availability {
        topic: topic?,
        find,
        online,
        offline,
    })
}

fn read_property(property: &ServedProperty, topics: &mut Topics<'_>) -> Result<Property, Vec<String>> {
    let mut settings = Settings::new("visitors.configData", property.visitor.clone());
    settings.refuse_secrets();
    let shape = Shape::read(&mut settings);
    let optimistic = settings.flag("optimistic").unwrap_or(false);
    let mut sources = Vec::new();
    for mut below in settings.each("read") {
        let base = topics.base.map(|_| "~");
        let topic = topics.take(&mut below, base);
        let find = Find::read(&mut below);
        let time = below.text("timePath").and_then(|path| match Path::parse(&path) {
            Ok(path) => Some(path),
            Err(why) => below.blame("timePath", &why),
        });
        settings.also(below);
        sources.extend(topic.map(|topic| Source { topic, find, time }));
    }
    let write = write(&mut settings, topics, optimistic);
    if sources.is_empty() && write.is_none() {
        let () = settings
            .blame("read", "and write are both missing")
            .unwrap_or_default();
    }
    let wrong = settings.finish();
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Ok(Property {
        sources,
        shape,
        write: write.filter(|_| property.access == Access::ReadWrite),
        manner: Manner {
            confirm_timeout: property.confirm_timeout,
            enforce: property.enforce,
        },
    })
}

fn write(settings: &mut Settings, topics: &mut Topics<'_>, optimistic: bool) -> Option<Write> {
    let mut below = settings.below("write")?;
    let topic = topics.take(&mut below, None);
    let template = below
        .text("template")
        .and_then(|text| match Template::parse(&text) {
            Ok(template) => Some(template),
            Err(why) => below.blame("template", &why),
        });
    let map = below.pairs("map").unwrap_or_default();
    let qos = below
        .whole("qos", 0, 2)
        .and_then(|qos| u8::try_from(qos).ok())
        .unwrap_or(1);
    let retain = below.flag("retain").unwrap_or(false);
    settings.also(below);
    Some(Write {
        topic: topic?,
        template,
        map,
        qos,
        retain,
        optimistic,
    })
}

/// A device that hears itself would be set by its own reports: such properties are not served.
fn echoes(properties: &mut BTreeMap<String, Property>, availability: Option<&Availability>) -> Vec<Mistake> {
    let of_reads = properties.values().flat_map(|property| &property.sources);
    let read: Vec<String> = of_reads
        .map(|source| source.topic.clone())
        .chain(availability.map(|availability| availability.topic.clone()))
        .collect();
    let echoing = |property: &Property| {
        let topic = property.write.as_ref().map(|write| &write.topic)?;
        read.contains(topic).then(|| topic.clone())
    };
    let found: Vec<(String, String)> = properties
        .iter()
        .filter_map(|(name, property)| Some((name.clone(), echoing(property)?)))
        .collect();
    let blame = |(name, topic): (String, String)| {
        properties.remove(&name);
        let text = format!("visitors.configData.write.topic is \"{topic}\", which is read as well");
        Mistake {
            property: Some(name),
            text,
        }
    };
    found.into_iter().map(blame).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{allowed, lamp, served};
    use super::*;

    fn wrong(manifest: Value) -> String {
        let mistakes = read(&served(manifest), &allowed()).mistakes;
        let told = |mistake: &Mistake| format!("{:?}: {}", mistake.property, mistake.text);
        mistakes.iter().map(told).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_whole_device_is_read() {
        let Reading { good, mistakes } = read(&served(lamp()), &allowed());
        assert_eq!(mistakes, []);
        let (endpoint, settled) = good.unwrap();
        assert_eq!(
            endpoint,
            Endpoint {
                broker: None,
                credentials: None
            }
        );
        let availability = settled.availability.unwrap();
        assert_eq!(availability.topic, "zigbee2mqtt/lamp/availability");
        let power = &settled.properties["power"];
        assert_eq!(power.sources[0].topic, "zigbee2mqtt/lamp");
        let write = power.write.as_ref().unwrap();
        assert_eq!(
            (write.topic.as_str(), write.qos, write.retain),
            ("zigbee2mqtt/lamp/set", 1, false)
        );
    }

    #[test]
    fn each_mistake_names_property_and_key_and_the_other_properties_are_served() {
        let mut manifest = lamp();
        let properties = &mut manifest["spec"]["properties"];
        properties[0]["visitors"]["configData"]["write"]["topic"] = json!("~");
        let reading = read(&served(manifest.clone()), &allowed());
        assert_eq!(
            reading.good.unwrap().1.properties.into_keys().collect::<Vec<_>>(),
            ["level"]
        );
        manifest["spec"]["properties"][1]["visitors"]["configData"]["read"]["path"] = json!("$[");
        let wrong = wrong(manifest);
        for part in [
            "Some(\"power\"): visitors.configData.write.topic is \"zigbee2mqtt/lamp\", which is read as well",
            "Some(\"level\"): visitors.configData.read[0].path \"$[\" is no JSON path",
        ] {
            assert!(wrong.contains(part), "{part} in {wrong}");
        }
    }

    #[test]
    fn what_a_device_must_not_have_is_refused() {
        for (key, value, part) in [
            (
                "password",
                json!("x"),
                "None: protocol.configData.password is not read",
            ),
            ("token", json!("x"), "None: protocol.configData.token is not read"),
            ("baseTopic", json!("other/lamp"), "does not give namespace hall"),
            ("baseTopic", json!("zigbee2mqtt/+"), "without + and #"),
            ("baseTopic", json!("$SYS"), "topics that begin with $"),
            ("broker", json!("ftp://x"), "protocol.configData.broker is"),
            ("topcs", json!("x"), "protocol.configData.topcs is not known"),
        ] {
            let mut manifest = lamp();
            manifest["spec"]["protocol"]["configData"][key] = value;
            let wrong = wrong(manifest);
            assert!(wrong.contains(part), "{part} in {wrong}");
        }
    }
}
