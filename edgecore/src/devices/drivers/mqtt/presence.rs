//! Whether each device is there. Pure.
//!
//! What a device says of its availability wins. One that says nothing is there while the broker is.

use std::collections::BTreeMap;

use protocol::devices::{DeviceName, DeviceState};

/// What is known of the devices behind one broker.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    /// None until the broker answered, or did not for long enough.
    up: Option<bool>,
    devices: BTreeMap<DeviceName, Known>,
}

#[derive(Debug, Default)]
struct Known {
    tells: bool,
    faulty: bool,
    said: Option<bool>,
}

impl Presence {
    /// These devices are served: whether each tells of its availability, and whether its manifest is
    /// faulty.
    pub(crate) fn serve(&mut self, devices: impl IntoIterator<Item = (DeviceName, bool, bool)>) {
        let mut before = std::mem::take(&mut self.devices);
        for (name, tells, faulty) in devices {
            let said = before
                .remove(&name)
                .and_then(|known| known.said)
                .filter(|_| tells);
            self.devices.insert(name, Known { tells, faulty, said });
        }
    }

    /// The broker answers, or has not for a while.
    pub(crate) fn broker(&mut self, up: bool) {
        self.up = Some(up);
    }

    /// A device said that it is there, or that it is not.
    pub(crate) fn said(&mut self, device: &DeviceName, present: bool) {
        if let Some(known) = self.devices.get_mut(device) {
            known.said = Some(present);
        }
    }

    /// A device spoke; one that says nowhere whether it is there is, then.
    pub(crate) fn spoke(&mut self, device: &DeviceName) {
        if let Some(known) = self.devices.get_mut(device) {
            known.said.get_or_insert(true);
        }
    }

    /// Whether the device said that it is there, or that it is not; none while one that tells has not.
    pub(crate) fn present(&self, device: &DeviceName) -> Option<bool> {
        let known = self.devices.get(device)?;
        known.said.or((!known.tells).then_some(true))
    }

    /// How each device is, where that is known.
    pub(crate) fn states(&self) -> Vec<(DeviceName, DeviceState)> {
        let state = |(name, known): (&DeviceName, &Known)| Some((name.clone(), self.state(known)?));
        self.devices.iter().filter_map(state).collect()
    }

    fn state(&self, known: &Known) -> Option<DeviceState> {
        let present = if self.up? {
            known.said.or((!known.tells).then_some(true))?
        } else {
            false
        };
        Some(match (present, known.faulty) {
            (false, _) => DeviceState::Offline,
            (true, true) => DeviceState::Unhealthy,
            (true, false) => DeviceState::Online,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(presence: &Presence) -> Option<DeviceState> {
        presence.states().first().map(|(_, state)| *state)
    }

    #[test]
    fn a_device_that_tells_is_as_it_says_also_after_the_broker_was_away() {
        let device = DeviceName::new("hall", "lamp");
        let mut presence = Presence::default();
        presence.serve([(device.clone(), true, false)]);
        presence.broker(true);
        assert_eq!(state(&presence), None);
        presence.said(&device, true);
        assert_eq!(state(&presence), Some(DeviceState::Online));
        presence.broker(false);
        assert_eq!(state(&presence), Some(DeviceState::Offline));
        presence.broker(true);
        assert_eq!(state(&presence), Some(DeviceState::Online));
        presence.said(&device, false);
        presence.spoke(&device);
        assert_eq!(state(&presence), Some(DeviceState::Offline));
        assert_eq!(presence.present(&device), Some(false));
    }

    #[test]
    fn a_device_that_tells_nothing_is_there_while_the_broker_is() {
        let device = DeviceName::new("hall", "lamp");
        let mut presence = Presence::default();
        presence.serve([(device.clone(), false, true)]);
        assert_eq!(state(&presence), None);
        presence.broker(true);
        assert_eq!(state(&presence), Some(DeviceState::Unhealthy));
        presence.serve([(device, false, false)]);
        assert_eq!(state(&presence), Some(DeviceState::Online));
    }
}
