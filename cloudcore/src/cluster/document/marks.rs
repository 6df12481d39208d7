//! The labels and annotations of a Node that its device's configuration decides, after the registration. Pure.
//!
//! An annotation of the Node has the labels as the device said them last. A label follows its configuration
//! when that changes, and only then: what a person or a controller makes of it meanwhile stays.
//!
//! ```text
//! said last ─┐
//! says now ──┼─► what is patched, as the node: NodeRestriction looks at it once more
//! the Node ──┘
//! ```
//!
//! Taints are not in it. A node may not change its own (NodeRestriction), and a kubelet does not either.
//!
//! **Invariant:** only labels are touched that the device says, or has said.

use std::collections::BTreeMap;

use protocol::labels::may_set_label;
use serde_json::{Map, Value, json};

use super::NodeDocument;
use crate::cluster::labels;

type Labels = BTreeMap<String, String>;

impl NodeDocument {
    /// The annotations that a Node gets at its registration.
    pub(super) fn first_annotations(&self) -> BTreeMap<String, String> {
        let mut annotations = self.metadata.annotations.clone();
        annotations.insert(labels::CONFIGURED.into(), written(&self.configured()));
        annotations
    }

    /// What of a Node's metadata is not as the document has it, as a merge patch of the metadata.
    pub fn differing_metadata(&self, current: &Value) -> Option<Value> {
        let metadata = &current["metadata"];
        let says = self.configured();
        // A Node that was registered before there was such an annotation is left as it is.
        let said = said_last(metadata).unwrap_or_else(|| says.clone());
        let mut annotations = self.differing_annotations(metadata);
        let text = written(&says);
        if metadata["annotations"][labels::CONFIGURED].as_str() != Some(&text) {
            annotations.insert(labels::CONFIGURED.into(), text.into());
        }
        let changed = changed_labels(&said, &says, &metadata["labels"]);
        let parts = [("annotations", annotations), ("labels", changed)];
        let differing: Map<String, Value> = parts
            .into_iter()
            .filter(|(_, part)| !part.is_empty())
            .map(|(name, part)| (name.into(), part.into()))
            .collect();
        (!differing.is_empty()).then_some(Value::Object(differing))
    }

    fn differing_annotations(&self, metadata: &Value) -> Map<String, Value> {
        let before = &metadata["annotations"];
        let differs = |(name, value): &(&String, &String)| {
            *name != labels::CONFIGURED && before[name.as_str()].as_str() != Some(value.as_str())
        };
        let annotations = self.metadata.annotations.iter().filter(differs);
        annotations
            .map(|(name, value)| (name.clone(), json!(value)))
            .collect()
    }

    /// The labels that are the device's to decide.
    fn configured(&self) -> Labels {
        of_the_device(self.metadata.labels.clone())
    }
}

/// The host name is the Node's own name, whatever a device says, and no load balancer leads to it.
fn of_the_device(mut labels: Labels) -> Labels {
    for fixed in [labels::HOSTNAME, labels::NO_LOAD_BALANCER] {
        labels.remove(fixed);
    }
    labels
}

/// What the device's labels were when they were written last.
fn said_last(metadata: &Value) -> Option<Labels> {
    let text = metadata["annotations"][labels::CONFIGURED].as_str()?;
    serde_json::from_str(text).ok().map(of_the_device)
}

fn written(labels: &Labels) -> String {
    json!(labels).to_string()
}

/// The labels to set, and with a null those to remove: what changed in the configuration, unless the Node has
/// it so already.
fn changed_labels(said: &Labels, says: &Labels, on_node: &Value) -> Map<String, Value> {
    let set = says
        .iter()
        .filter(|(name, value)| said.get(*name) != Some(value))
        .filter(|(name, value)| on_node[name.as_str()].as_str() != Some(value))
        .map(|(name, value)| (name.clone(), json!(value)));
    // A label that somebody else has given another value since is theirs.
    let removed = said
        .iter()
        .filter(|(name, value)| !says.contains_key(*name) && on_node[name.as_str()].as_str() == Some(value))
        .filter(|(name, _)| may_set_label(name))
        .map(|(name, _)| (name.clone(), Value::Null));
    set.chain(removed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(labels: &Value) -> NodeDocument {
        let status = json!({"conditions": [], "capacity": {}, "allocatable": {}, "nodeInfo": {}});
        let text = json!({"metadata": {"labels": labels}, "status": status}).to_string();
        NodeDocument::parse(&"e1".parse().unwrap(), text.as_bytes()).unwrap()
    }

    fn registered(document: &NodeDocument) -> Value {
        document.registration(&"e1".parse().unwrap(), None)
    }

    /// The labels that a patch of this Node sets or removes.
    fn patched(document: &NodeDocument, node: &Value) -> Value {
        let patch = document.differing_metadata(node).unwrap_or_default();
        patch["labels"].clone()
    }

    #[test]
    fn a_node_that_was_registered_just_now_needs_no_patch() {
        let document = says(&json!({"site": "pier", labels::ZONE: "plant-1", labels::HOSTNAME: "other"}));
        let node = registered(&document);
        assert_eq!(document.differing_metadata(&node), None);
        assert_eq!(node["metadata"]["labels"][labels::HOSTNAME], "e1");
    }

    #[test]
    fn an_edited_label_is_set_and_one_that_is_left_out_is_removed() {
        let node = registered(&says(
            &json!({"site": "pier", "line": "7", labels::ZONE: "plant-1"}),
        ));
        let edited = says(&json!({"site": "dock", "owner": "ann", labels::ZONE: "plant-2"}));
        let expected = json!({"site": "dock", "owner": "ann", "line": null, labels::ZONE: "plant-2"});
        assert_eq!(patched(&edited, &node), expected);
        let annotation = &edited.differing_metadata(&node).unwrap()["annotations"][labels::CONFIGURED];
        assert!(annotation.as_str().unwrap().contains("dock"));
    }

    #[test]
    fn what_others_made_of_a_label_stays_until_its_configuration_changes() {
        let document = says(&json!({"site": "pier", "line": "7"}));
        let mut node = registered(&document);
        node["metadata"]["labels"]["site"] = json!("by-hand");
        node["metadata"]["labels"]["line"] = json!("by-hand");
        node["metadata"]["labels"]["theirs"] = json!("x");
        assert_eq!(document.differing_metadata(&node), None);
        let edited = says(&json!({"site": "dock"}));
        assert_eq!(
            patched(&edited, &node),
            json!({"site": "dock"}),
            "line is theirs by now"
        );
    }

    #[test]
    fn a_node_of_an_older_release_keeps_its_labels_and_follows_from_then_on() {
        let document = says(&json!({"site": "pier"}));
        let mut node = registered(&document);
        node["metadata"]["annotations"] = json!({});
        node["metadata"]["labels"]["site"] = json!("by-hand");
        let patch = document.differing_metadata(&node).unwrap();
        assert_eq!(
            patch,
            json!({"annotations": {labels::CONFIGURED: r#"{"site":"pier"}"#}})
        );
    }

    #[test]
    fn what_only_the_cluster_may_say_is_not_removed_whatever_the_annotation_claims() {
        let mut node = registered(&says(&json!({})));
        let claimed = json!({labels::OURS: "", labels::ROLE: ""}).to_string();
        node["metadata"]["annotations"][labels::CONFIGURED] = json!(claimed);
        assert_eq!(patched(&says(&json!({})), &node), Value::Null);
    }
}
