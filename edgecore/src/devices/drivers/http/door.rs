//! Who may push for which device. Pure but for the files that tokens are read from.
//!
//! **Invariant:** a token opens one device and no other: where two have the same, it opens neither.

use std::collections::BTreeMap;
use std::path::Path;

use protocol::devices::DeviceName;

use super::config::Settled;
use crate::devices::credentials;
use crate::devices::drivers::driver::Units;

/// A shorter token could be guessed.
const SHORTEST: usize = 16;

/// The tokens of all devices that push, as digests: those compare in constant time, whatever was sent.
#[derive(Debug, Default)]
pub(super) struct Door {
    tokens: BTreeMap<DeviceName, blake3::Hash>,
    /// Devices that cannot push, and why.
    pub(super) shut: BTreeMap<DeviceName, String>,
}

impl Door {
    /// Reads the tokens anew.
    pub(super) fn read(units: &Units<Settled>, directory: &Path) -> Self {
        let mut door = Self::default();
        for (device, unit) in units.iter() {
            let Some(name) = &unit.settings.push else { continue };
            match token(directory, name, device) {
                Ok(token) => drop(door.tokens.insert(device.clone(), token)),
                Err(why) => drop(door.shut.insert(device.clone(), why)),
            }
        }
        let shared: Vec<DeviceName> = door
            .tokens
            .iter()
            .filter(|(_, token)| door.tokens.values().filter(|other| other == token).count() > 1)
            .map(|(device, _)| device.clone())
            .collect();
        for device in shared {
            door.tokens.remove(&device);
            let why = "another device has the same token; each needs a file and a token of its own";
            door.shut.insert(device, why.to_owned());
        }
        door
    }

    /// Whether this token speaks for the device.
    pub(super) fn opens(&self, device: &DeviceName, token: &str) -> bool {
        let given = blake3::hash(token.as_bytes());
        self.tokens.get(device).is_some_and(|own| *own == given)
    }
}

fn token(directory: &Path, name: &str, device: &DeviceName) -> Result<blake3::Hash, String> {
    let found = credentials::load(directory, name, &device.namespace);
    let token = found.map_err(|error| error.to_string())?.token;
    let token = token.ok_or_else(|| format!("the credentials {name} have no token"))?;
    if token.len() < SHORTEST {
        return Err(format!(
            "the token of the credentials {name} is shorter than {SHORTEST} letters"
        ));
    }
    Ok(blake3::hash(token.as_bytes()))
}
