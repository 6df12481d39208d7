//! Whether a node may report of a device. Pure.

use protocol::devices::DeviceIdentity;
use protocol::name::NodeName;

/// What is known of the device that bears a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// Its node; empty if it has none.
    pub node: &'a str,
}

/// What becomes of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is written.
    Fits,
    /// There is no such device any more.
    Gone,
    /// Another device has that name now.
    AnotherUid(String),
    /// The device is at another node, or at none.
    AnotherNode(String),
}

/// Whether this node may report of that device, given the one that bears its name.
pub fn judge(found: Option<Found<'_>>, device: &DeviceIdentity, node: &NodeName) -> Verdict {
    match found {
        None => Verdict::Gone,
        Some(found) if found.uid != device.uid => Verdict::AnotherUid(found.uid.to_owned()),
        Some(found) if found.node != node.as_ref() => Verdict::AnotherNode(found.node.to_owned()),
        Some(_) => Verdict::Fits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_of_that_very_device_may_report_of_it() {
        let device = DeviceIdentity {
            namespace: "n".into(),
            name: "d".into(),
            uid: "u".into(),
        };
        let node: NodeName = "e1".parse().unwrap();
        let verdict = |uid, at| judge(Some(Found { uid, node: at }), &device, &node);
        assert_eq!(verdict("u", "e1"), Verdict::Fits);
        assert_eq!(verdict("u", "e2"), Verdict::AnotherNode("e2".into()));
        assert_eq!(verdict("u", ""), Verdict::AnotherNode(String::new()));
        assert_eq!(verdict("v", "e1"), Verdict::AnotherUid("v".into()));
        assert_eq!(judge(None, &device, &node), Verdict::Gone);
    }
}
