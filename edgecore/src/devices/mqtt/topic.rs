//! The topics of devices, taken apart and put together. Pure.
//!
//! Segments are counted, never searched for: a namespace may be called `dev`, `device` or `events`,
//! and a device `twin`.

use protocol::devices::DeviceName;

/// What a broker delivers besides: how many messages it has dropped since its start.
pub(super) const BROKER_DROPPED: &str = "$SYS/broker/publish/messages/dropped";

/// A topic that this node reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Inbound {
    /// Values, or wishes for them, of a device.
    TwinUpdate(DeviceName),
    /// Somebody asks for a device's twin.
    TwinGet(DeviceName),
    /// How a device is.
    StateUpdate(DeviceName),
    /// Somebody asks which devices this node has.
    MembershipGet,
    /// What the broker has dropped.
    BrokerDropped,
}

/// A topic that this node writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outbound<'a> {
    /// What became of an update.
    TwinUpdateResult(&'a DeviceName),
    /// What a device should be and is not.
    TwinUpdateDelta(&'a DeviceName),
    /// A twin before and after an update.
    TwinUpdateDocument(&'a DeviceName),
    /// A whole twin.
    TwinGetResult(&'a DeviceName),
    /// How a device is now.
    StateUpdateResult(&'a DeviceName),
    /// A device's manifest has changed.
    DeviceUpdated(&'a DeviceName),
    /// Which devices a node has.
    MembershipGetResult(&'a str),
    /// A device came or went.
    MembershipUpdated(&'a str),
}

/// Every filter that this node subscribes to.
pub(super) fn filters(node: &str) -> [String; 5] {
    [
        "$hw/events/device/+/+/twin/update".to_owned(),
        "$hw/events/device/+/+/twin/get".to_owned(),
        "$hw/events/device/+/+/state/update".to_owned(),
        format!("$hw/events/node/{node}/membership/get"),
        BROKER_DROPPED.to_owned(),
    ]
}

impl Inbound {
    /// What a topic is about; none if it is nothing that this node reads.
    pub(super) fn parse(topic: &str, node: &str) -> Option<Self> {
        if topic == BROKER_DROPPED {
            return Some(Self::BrokerDropped);
        }
        // One more than the longest, so that a longer topic does not pass for it.
        let mut parts = [""; 8];
        let mut count = 0;
        for part in topic.split('/') {
            *parts.get_mut(count)? = part;
            count += 1;
        }
        match *parts.get(..count)? {
            ["$hw", "events", "device", namespace, name, subject, verb] => {
                Self::of_device(namespace, name, (subject, verb))
            }
            ["$hw", "events", "node", of, "membership", "get"] if of == node => Some(Self::MembershipGet),
            _ => None,
        }
    }

    fn of_device(namespace: &str, name: &str, what: (&str, &str)) -> Option<Self> {
        if namespace.is_empty() || name.is_empty() {
            return None;
        }
        let device = DeviceName::new(namespace, name);
        match what {
            ("twin", "update") => Some(Self::TwinUpdate(device)),
            ("twin", "get") => Some(Self::TwinGet(device)),
            ("state", "update") => Some(Self::StateUpdate(device)),
            _ => None,
        }
    }
}

impl Outbound<'_> {
    /// The topic, written out.
    pub(super) fn topic(self) -> String {
        let (device, end) = match self {
            Self::TwinUpdateResult(device) => (device, "twin/update/result"),
            Self::TwinUpdateDelta(device) => (device, "twin/update/delta"),
            Self::TwinUpdateDocument(device) => (device, "twin/update/document"),
            Self::TwinGetResult(device) => (device, "twin/get/result"),
            Self::StateUpdateResult(device) => (device, "state/update/result"),
            Self::DeviceUpdated(device) => (device, "updated"),
            Self::MembershipGetResult(node) => {
                return format!("$hw/events/node/{node}/membership/get/result");
            }
            Self::MembershipUpdated(node) => return format!("$hw/events/node/{node}/membership/updated"),
        };
        format!("$hw/events/device/{}/{}/{end}", device.namespace, device.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_namespace_called_as_a_part_of_the_topic_is_still_a_namespace() {
        for namespace in ["dev", "device", "events", "twin", "$hw", "node", "state", "e"] {
            for name in ["device", "twin", "update", "get", "events"] {
                let device = DeviceName::new(namespace, name);
                let topic = format!("$hw/events/device/{namespace}/{name}/twin/update");
                assert_eq!(
                    Inbound::parse(&topic, "n"),
                    Some(Inbound::TwinUpdate(device.clone()))
                );
                let topic = format!("$hw/events/device/{namespace}/{name}/twin/get");
                assert_eq!(
                    Inbound::parse(&topic, "n"),
                    Some(Inbound::TwinGet(device.clone()))
                );
                let topic = format!("$hw/events/device/{namespace}/{name}/state/update");
                assert_eq!(Inbound::parse(&topic, "n"), Some(Inbound::StateUpdate(device)));
            }
        }
    }

    #[test]
    fn only_this_node_s_membership_is_asked_of_it() {
        let parse = |topic| Inbound::parse(topic, "pump-7");
        assert_eq!(
            parse("$hw/events/node/pump-7/membership/get"),
            Some(Inbound::MembershipGet)
        );
        assert_eq!(parse("$hw/events/node/pump-8/membership/get"), None);
        assert_eq!(parse("$hw/events/node/pump-7/membership/get/result"), None);
        assert_eq!(parse(BROKER_DROPPED), Some(Inbound::BrokerDropped));
    }

    #[test]
    fn what_this_node_writes_it_does_not_read() {
        let device = DeviceName::new("device", "twin");
        for topic in [
            Outbound::TwinUpdateResult(&device),
            Outbound::TwinUpdateDelta(&device),
            Outbound::TwinUpdateDocument(&device),
            Outbound::TwinGetResult(&device),
            Outbound::StateUpdateResult(&device),
            Outbound::DeviceUpdated(&device),
            Outbound::MembershipGetResult("n"),
            Outbound::MembershipUpdated("n"),
        ] {
            assert_eq!(Inbound::parse(&topic.topic(), "n"), None, "{topic:?}");
        }
        assert_eq!(
            Outbound::TwinUpdateDocument(&device).topic(),
            "$hw/events/device/device/twin/twin/update/document"
        );
    }

    #[test]
    fn topics_that_are_near_misses_are_nothing() {
        for topic in [
            "",
            "/",
            "$hw/events/device/a/b/twin",
            "$hw/events/device/a/b/twin/update/",
            "$hw/events/device/a/b/twin/update/x/y/z",
            "$hw/events/device//b/twin/update",
            "$hw/events/device/a//twin/update",
            "$hw/events/device/a/twin/update",
            "hw/events/device/a/b/twin/update",
            "$ke/events/device/a/b/data/update",
        ] {
            assert_eq!(Inbound::parse(topic, "n"), None, "{topic}");
        }
    }

    proptest! {
        #[test]
        fn any_text_can_be_taken_for_a_topic(topic in ".{0,80}") {
            let _ = Inbound::parse(&topic, "n");
        }

        #[test]
        fn any_device_is_found_in_its_topic(namespace in "[a-z0-9-]{1,20}", name in "[a-z0-9.-]{1,20}") {
            let topic = format!("$hw/events/device/{namespace}/{name}/twin/update");
            let device = DeviceName::new(namespace, name);
            prop_assert_eq!(Inbound::parse(&topic, "n"), Some(Inbound::TwinUpdate(device)));
        }
    }
}
