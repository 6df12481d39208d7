//! `edgecore get devices`: what the devices of this node say, at the node, with or without a link.
//!
//! The running node is asked; when it does not run, what its journal holds is shown, and that is said.

mod offline;
mod table;

use std::collections::BTreeMap;

use protocol::clock::Clock;
use protocol::devices::TwinValue;
use serde::{Deserialize, Serialize};

use super::control::{self, ControlError};
use super::{GetArgs, Output, Paths, What};
use crate::devices::{Served, Standing, TwinView};

/// A longer value is cut: all values of all devices must fit one answer.
const VALUE: usize = 1_024;

/// One device. Times are RFC 3339; what is not known is empty or absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its model.
    pub model: String,
    /// The mapper's protocol or the driver's name; empty for one that speaks MQTT topics itself.
    pub protocol: String,
    /// `online`, `offline`, `unknown`, …
    pub state: String,
    /// When it was last seen.
    pub last_seen: Option<String>,
    /// Every property that has a value, or that anybody wants something of.
    pub properties: Vec<PropertyView>,
}

/// One property of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PropertyView {
    /// Its name.
    pub name: String,
    /// What the device said.
    pub value: Option<String>,
    /// `good`, `stale` or `error`.
    pub quality: String,
    /// Why it is an error.
    pub reason: String,
    /// When the node took it.
    pub at: Option<String>,
    /// Seconds since then, by the node's clock.
    pub age_seconds: Option<u64>,
    /// What it should be.
    pub desired: Option<String>,
}

impl DeviceView {
    /// A device as its twin is at that time, in ms since 1970.
    pub fn of(
        served: &Served,
        standing: Option<Standing>,
        twin: BTreeMap<String, TwinView>,
        now: u64,
    ) -> Self {
        let state = standing.map_or("unknown", |standing| standing.state.name());
        let properties = twin.into_iter().map(|(name, view)| property(name, view, now));
        Self {
            namespace: served.identity.namespace.clone(),
            name: served.identity.name.clone(),
            model: served.model.clone(),
            protocol: served.protocol.clone(),
            state: state.to_owned(),
            last_seen: standing.and_then(|standing| standing.last_online).and_then(time),
            properties: properties.collect(),
        }
    }
}

fn property(name: String, view: TwinView, now: u64) -> PropertyView {
    let desired = view.expected.map(|expected| cut(&expected.value));
    let Some(TwinValue { value, metadata }) = view.actual else {
        return PropertyView {
            name,
            desired,
            ..PropertyView::default()
        };
    };
    let of = |key: &str| metadata.get(key).cloned().unwrap_or_default();
    let at = of("timestamp").parse::<i64>().ok();
    let age = at
        .and_then(|at| u64::try_from(at).ok())
        .map(|at| now.saturating_sub(at) / 1000);
    PropertyView {
        name,
        value: Some(cut(&value)),
        quality: of("quality"),
        reason: of("reason"),
        at: at.and_then(time),
        age_seconds: age,
        desired,
    }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(VALUE) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

fn time(ms: i64) -> Option<String> {
    let time = jiff::Timestamp::from_second(ms / 1000).ok()?;
    Some(time.to_string())
}

/// Prints what was asked for. Fails when the daemon does not run, after saying what is known.
pub(super) async fn get(args: &GetArgs, paths: &Paths, clock: &Clock) -> anyhow::Result<()> {
    let What::Devices = args.what;
    super::join::must_be_root(paths)?;
    let (devices, trouble) = match control::devices(&paths.control_socket()).await {
        Ok(devices) => (devices, None),
        Err(error @ ControlError::NotRunning(_)) => {
            let (devices, warnings) = offline::read(paths, clock).await?;
            // Programs read the other output.
            for warning in warnings {
                eprintln!("warning: {warning}");
            }
            (devices, Some(error))
        }
        Err(error) => return Err(error.into()),
    };
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&devices)?),
        Output::Table => print!("{}", table::render(&devices, trouble.is_none())),
    }
    trouble.map_or(Ok(()), |error| Err(error.into()))
}

#[cfg(test)]
mod tests;
