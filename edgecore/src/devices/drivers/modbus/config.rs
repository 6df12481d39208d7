//! The settings of a `tombolo/modbus` device; the key names of `KubeEdge` are read as well. Pure.
//!
//! ```yaml
//! protocol:
//!   protocolName: tombolo/modbus
//!   configData: {ip: 10.0.0.7, port: 502, slaveID: 1}
//! properties:
//! - name: temperature
//!   collectCycle: 1000
//!   visitors:
//!     configData: {register: HoldingRegister, offset: 2, type: int16, scale: 0.1}
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use protocol::devices::PropertyType;

use super::codec::{Kind, Layout};
use crate::devices::drivers::driver::{self, Mistake, Reading};
use crate::devices::drivers::settings::Settings;
use crate::devices::drivers::writing::Manner;
use crate::devices::{Access, Served, ServedProperty};

/// How often a property is read that does not say.
const CYCLE: Duration = Duration::from_secs(10);
/// How often a property is read at most.
const SHORTEST_CYCLE: Duration = Duration::from_millis(20);

/// What devices share: a connection or a bus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    /// A server or a gateway.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A serial line.
    Rtu(Line),
}

/// A serial line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    /// The device file.
    pub(crate) path: String,
    /// Bits a second.
    pub(crate) baud: u32,
    /// 7 or 8.
    pub(crate) data_bits: u8,
    /// Whether and how a parity is sent.
    pub(crate) parity: Parity,
    /// 1 or 2.
    pub(crate) stop_bits: u8,
}

/// Whether and how a parity is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Parity {
    /// None is.
    None,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => write!(out, "{host}:{port}"),
            Self::Rtu(line) => out.write_str(&line.path),
        }
    }
}

/// What a device asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settled {
    /// Its unit id.
    pub(crate) unit: u8,
    /// How it is spoken to.
    pub(crate) timing: Timing,
    /// By name.
    pub(crate) properties: BTreeMap<String, Property>,
}

/// How a device is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timing {
    /// How long an answer may take.
    pub(crate) timeout: Duration,
    /// How often a request is repeated that was not answered.
    pub(crate) retries: u8,
    /// The silence before each request.
    pub(crate) delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(1),
            retries: 1,
            delay: Duration::ZERO,
        }
    }
}

/// One property.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Property {
    /// The table.
    pub(crate) table: Table,
    /// The first address, counted from 0.
    pub(crate) address: u16,
    /// What stands there.
    pub(crate) layout: Layout,
    /// How often it is read.
    pub(crate) cycle: Duration,
    /// Whether it may be read together with others.
    pub(crate) merge: bool,
    /// How it is set; none if it cannot be.
    pub(crate) write: Option<Write>,
    /// How it wants to be written.
    pub(crate) manner: Manner,
}

/// How a property is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Write {
    /// With the functions for many (15, 16) even where it is one.
    pub(crate) many: bool,
    /// It is not read back: what was sent counts as reported.
    pub(crate) optimistic: bool,
}

/// A table of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Bits that are set.
    Coil,
    /// Bits that are read alone.
    Discrete,
    /// Registers that are set.
    Holding,
    /// Registers that are read alone.
    Input,
}

impl Table {
    /// Whether it holds bits.
    pub(crate) const fn is_bits(self) -> bool {
        matches!(self, Self::Coil | Self::Discrete)
    }

    fn parse(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase();
        Some(
            match name
                .strip_suffix("register")
                .unwrap_or(&name)
                .trim_end_matches(['-', '_', ' '])
            {
                "coil" => Self::Coil,
                "discrete" | "discreteinput" => Self::Discrete,
                "holding" => Self::Holding,
                "input" => Self::Input,
                _ => return None,
            },
        )
    }
}

/// Reads the settings of a device.
pub(crate) fn read(served: &Served) -> Reading<Endpoint, Settled> {
    let mut settings = Settings::new("protocol.configData", served.config.clone());
    settings.refuse_secrets();
    let endpoint = endpoint(&mut settings);
    let unit = either(&mut settings, "slaveID", "unit", |settings, key| {
        settings.whole(key, 0, 255)
    });
    let unit = unit.and_then(|unit| u8::try_from(unit).ok()).unwrap_or(1);
    let timing = Timing {
        timeout: milliseconds(&mut settings, "timeout", 1000),
        retries: settings
            .whole("retries", 0, 10)
            .and_then(|count| u8::try_from(count).ok())
            .unwrap_or(1),
        delay: milliseconds(&mut settings, "interframeDelay", 0),
    };
    let mut mistakes: Vec<Mistake> = Mistake::of_device(settings.finish()).collect();
    let usable = mistakes.is_empty();
    let properties = driver::properties(served, &mut mistakes, read_property);
    let settled = Settled {
        unit,
        timing,
        properties,
    };
    Reading {
        good: endpoint.filter(|_| usable).map(|endpoint| (endpoint, settled)),
        mistakes,
    }
}

fn endpoint(settings: &mut Settings) -> Option<Endpoint> {
    let host = either(settings, "ip", "host", Settings::text);
    let path = settings.text("serialPort");
    let port = settings
        .whole("port", 1, 65_535)
        .and_then(|port| u16::try_from(port).ok());
    let line = line(settings);
    match (host, path) {
        (Some(host), None) => Some(Endpoint::Tcp {
            host,
            port: port.unwrap_or(502),
        }),
        (None, Some(path)) if path.starts_with("/dev/") && !path.contains("..") => {
            Some(Endpoint::Rtu(Line { path, ..line }))
        }
        (None, Some(_)) => settings.blame("serialPort", "must be a file below /dev"),
        (Some(_), Some(_)) => settings.blame("serialPort", "and ip exclude each other"),
        (None, None) => settings.blame("ip", "and serialPort are both missing"),
    }
}

fn line(settings: &mut Settings) -> Line {
    let baud = settings
        .whole("baudRate", 300, 4_000_000)
        .and_then(|baud| u32::try_from(baud).ok());
    let small = |settings: &mut Settings, key, least, most| {
        settings
            .whole(key, least, most)
            .and_then(|number| u8::try_from(number).ok())
    };
    let parity = settings.text("parity").map(|text| text.to_ascii_lowercase());
    let parity = match parity.as_deref() {
        None | Some("none" | "n") => Some(Parity::None),
        Some("even" | "e") => Some(Parity::Even),
        Some("odd" | "o") => Some(Parity::Odd),
        Some(_) => settings.blame("parity", "must be none, even or odd"),
    };
    Line {
        path: String::new(),
        baud: baud.unwrap_or(9600),
        data_bits: small(settings, "dataBits", 7, 8).unwrap_or(8),
        parity: parity.unwrap_or(Parity::None),
        stop_bits: small(settings, "stopBits", 1, 2).unwrap_or(1),
    }
}

fn milliseconds(settings: &mut Settings, key: &'static str, default: u64) -> Duration {
    Duration::from_millis(settings.whole(key, 0, 60_000).unwrap_or(default))
}

fn either<T>(
    settings: &mut Settings,
    theirs: &'static str,
    ours: &'static str,
    read: impl Fn(&mut Settings, &'static str) -> Option<T>,
) -> Option<T> {
    let (theirs, ours) = (read(settings, theirs), read(settings, ours));
    theirs.or(ours)
}

fn read_property(property: &ServedProperty) -> Result<Property, Vec<String>> {
    let mut settings = Settings::new("visitors.configData", property.visitor.clone());
    settings.refuse_secrets();
    let table = match settings.text("register") {
        None => settings.missing("register"),
        Some(text) => Table::parse(&text).or_else(|| {
            settings.blame(
                "register",
                "must be CoilRegister, DiscreteInputRegister, HoldingRegister or InputRegister",
            )
        }),
    };
    let address = if property.visitor.contains_key("offset") {
        settings.whole("offset", 0, 65_535)
    } else {
        settings.missing("offset")
    };
    let address = address.and_then(|address| u16::try_from(address).ok());
    let layout = layout(&mut settings, property, table.unwrap_or(Table::Holding));
    let many = settings.flag("multiple").unwrap_or(false);
    let optimistic = settings.flag("optimistic").unwrap_or(false);
    let merge = settings.flag("merge").unwrap_or(true);
    if address.is_some_and(|address| u32::from(address) + u32::from(layout.kind.width()) > 65_536) {
        let () = settings
            .blame("offset", "and the width lead beyond 65535")
            .unwrap_or_default();
    }
    let wrong = settings.finish();
    let (Some(table), Some(address), true) = (table, address, wrong.is_empty()) else {
        return Err(wrong);
    };
    let settable = property.access == Access::ReadWrite && matches!(table, Table::Coil | Table::Holding);
    Ok(Property {
        table,
        address,
        layout,
        cycle: property.collect_cycle.unwrap_or(CYCLE).max(SHORTEST_CYCLE),
        merge,
        write: settable.then_some(Write { many, optimistic }),
        manner: Manner {
            confirm_timeout: property.confirm_timeout,
            enforce: property.enforce,
        },
    })
}

fn layout(settings: &mut Settings, property: &ServedProperty, table: Table) -> Layout {
    let limit = settings
        .whole("limit", 1, 125)
        .and_then(|limit| u16::try_from(limit).ok());
    let bit = settings
        .whole("bit", 0, 15)
        .and_then(|bit| u8::try_from(bit).ok());
    let scale = settings.number("scale").unwrap_or(1.0);
    if scale == 0.0 {
        let () = settings.blame("scale", "must not be 0").unwrap_or_default();
    }
    let written = settings.text("type");
    let kind = if table.is_bits() {
        Some(Kind::Switch)
    } else if let Some(bit) = bit {
        Some(Kind::Bit(bit))
    } else {
        match written {
            Some(text) => named(&text.to_ascii_lowercase(), limit),
            None => unnamed(property.type_, limit),
        }
    };
    let kind = kind.or_else(|| {
        settings.blame(
            "type",
            "and limit do not fit: int16 to int64, uint16 to uint64, float32, float64, bit or string",
        )
    });
    Layout {
        kind: kind.unwrap_or(Kind::Unsigned(1)),
        scale,
        swap_bytes: settings.flag("isSwap").unwrap_or(false),
        swap_words: settings.flag("isRegisterSwap").unwrap_or(false),
        numeric: !matches!(property.type_, Some(PropertyType::Boolean) | None),
    }
}

fn named(name: &str, limit: Option<u16>) -> Option<Kind> {
    let kind = match name {
        "int16" => Kind::Signed(1),
        "int32" => Kind::Signed(2),
        "int64" => Kind::Signed(4),
        "uint16" => Kind::Unsigned(1),
        "uint32" => Kind::Unsigned(2),
        "uint64" => Kind::Unsigned(4),
        "float32" => Kind::Float(2),
        "float64" => Kind::Float(4),
        "bit" => Kind::Bit(0),
        "string" => Kind::Text(limit?),
        _ => return None,
    };
    limit.is_none_or(|limit| limit == kind.width()).then_some(kind)
}

/// What existing manifests mean, which have no type of their own: the model's type and the number of
/// registers decide, and whole numbers have no sign.
fn unnamed(type_: Option<PropertyType>, limit: Option<u16>) -> Option<Kind> {
    match (type_, limit) {
        (Some(PropertyType::String), limit) => Some(Kind::Text(limit?)),
        (Some(PropertyType::Boolean), None | Some(1)) => Some(Kind::Bit(0)),
        (Some(PropertyType::Float | PropertyType::Double), Some(2)) | (Some(PropertyType::Float), None) => {
            Some(Kind::Float(2))
        }
        (Some(PropertyType::Double), Some(4) | None) => Some(Kind::Float(4)),
        (Some(PropertyType::Int | PropertyType::Float | PropertyType::Double) | None, None | Some(1)) => {
            Some(Kind::Unsigned(1))
        }
        (Some(PropertyType::Int) | None, Some(2)) => Some(Kind::Unsigned(2)),
        (Some(PropertyType::Int) | None, Some(4)) => Some(Kind::Unsigned(4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
