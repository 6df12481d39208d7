//! Events of a node: what may be one, and writing it in the node's name.
//!
//! The Node authorizer lets a node write Events anywhere and about anything: a stolen key would put its words
//! beside the pods of the whole cluster. So an event must concern what is the node's own, or was a moment ago, and
//! is made anew from what it says: its place follows from what it is about, and it names its author.
//!
//! **Invariant:** nothing is written about an object that is not the node's.

use protocol::name::NodeName;
use protocol::object::{Kind, ObjectKey};
use serde_json::{Map, Value, json};

use super::Cluster;
use super::api::Call;
use super::document::DocumentError;
use super::pods::is_path_segment;
use super::write::WriteError;

/// Where events about what has no namespace are.
const DEFAULT: &str = "default";

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct About {
    kind: String,
    namespace: String,
    name: String,
    uid: String,
}

/// An event as a node says it.
#[derive(Debug)]
struct NodeEvent {
    said: Map<String, Value>,
    name: String,
    about: About,
}

impl NodeEvent {
    fn parse(text: &[u8]) -> Result<Self, DocumentError> {
        let said: Map<String, Value> = serde_json::from_slice(text).map_err(DocumentError::Malformed)?;
        let about = |field| text_at(&said, "involvedObject", field);
        let about = About {
            kind: about("kind"),
            namespace: about("namespace"),
            name: about("name"),
            uid: about("uid"),
        };
        let name = text_at(&said, "metadata", "name");
        let event = Self { said, name, about };
        for name in [event.namespace(), &event.name] {
            if !is_path_segment(name) {
                return Err(DocumentError::Name(printable(name)));
            }
        }
        Ok(event)
    }

    fn namespace(&self) -> &str {
        match self.about.namespace.as_str() {
            "" => DEFAULT,
            namespace => namespace,
        }
    }

    /// The event as it is written.
    fn by(mut self, node: &NodeName) -> Value {
        let component = text_at(&self.said, "source", "component");
        let metadata = json!({ "name": self.name, "namespace": self.namespace() });
        let source = json!({ "component": component, "host": node.as_ref() });
        self.said.insert("metadata".into(), metadata);
        self.said.insert("source".into(), source);
        self.said.insert("reportingInstance".into(), json!(node.as_ref()));
        // A second object, which nobody has looked at.
        self.said.remove("related");
        Value::Object(self.said)
    }
}

fn text_at(said: &Map<String, Value>, part: &str, field: &str) -> String {
    let text = said.get(part).and_then(|part| part[field].as_str());
    text.unwrap_or_default().to_owned()
}

fn printable(text: &str) -> String {
    text.escape_default().take(256).collect()
}

impl Cluster {
    /// Writes an event of the node. One that exists already is as good.
    ///
    /// # Assumptions
    ///
    /// A session of the node listens here, and [its pods were listed](Self::consistent_pods) for it: before that
    /// each of them would be a stranger's.
    pub async fn create_event(&self, node: &NodeName, event: &[u8]) -> Result<(), WriteError> {
        let refused = |source| WriteError::Document {
            node: node.clone(),
            source,
        };
        let event = NodeEvent::parse(event).map_err(refused)?;
        if !self.is_own(node, &event.about)? {
            let About {
                kind,
                namespace,
                name,
                ..
            } = &event.about;
            let foreign = printable(&format!("{kind} {namespace}/{name}"));
            return Err(refused(DocumentError::Foreign(foreign)));
        }
        let path = format!("/api/v1/namespaces/{}/events", event.namespace());
        let call = Call::post(path, event.by(node).to_string().into_bytes());
        match self.request_as_node(node, call).await {
            Err(WriteError::Api(error)) if error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// Whether something is the node's own.
    fn is_own(&self, node: &NodeName, about: &About) -> Result<bool, WriteError> {
        let About {
            kind,
            namespace,
            name,
            uid,
        } = about;
        Ok(match kind.as_str() {
            "Node" => name == node.as_ref() && ["", DEFAULT].contains(&namespace.as_str()),
            "Pod" => {
                let pod = ObjectKey::new(Kind::Pod, namespace, name);
                self.inner.index.read().has_or_had(node, &pod, uid)
            }
            "Device" if !self.has_devices() => return Err(WriteError::Unlisted { what: "the devices" }),
            "Device" => self.is_at(node, namespace, name),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(change: impl FnOnce(&mut Value)) -> Result<NodeEvent, DocumentError> {
        let mut event = json!({
            "metadata": { "name": "web-0.1", "namespace": "shop" },
            "involvedObject": { "kind": "Pod", "namespace": "shop", "name": "web-0", "uid": "u" },
            "source": { "component": "kubelet", "host": "w1" }, "reportingInstance": "w1", "reason": "Started",
        });
        change(&mut event);
        NodeEvent::parse(event.to_string().as_bytes())
    }

    fn written(change: impl FnOnce(&mut Value)) -> Value {
        event(change).unwrap().by(&"e1".parse().unwrap())
    }

    #[test]
    fn an_event_is_in_the_nodes_own_name_and_beside_what_it_is_about() {
        let made = written(|event| {
            event["metadata"] = json!({ "name": "web-0.1", "namespace": "kube-system", "labels": { "a": "b" },
                "finalizers": ["x/y"], "ownerReferences": [{}] });
            event["related"] = json!({ "kind": "Secret", "name": "s" });
        });
        assert_eq!(
            made["metadata"],
            json!({ "name": "web-0.1", "namespace": "shop" })
        );
        assert_eq!(made["source"], json!({ "component": "kubelet", "host": "e1" }));
        assert_eq!(
            (&made["reportingInstance"], &made["reason"]),
            (&json!("e1"), &json!("Started"))
        );
        assert!(made.get("related").is_none());
        let made = written(|event| event["involvedObject"] = json!({ "kind": "Node", "name": "e1" }));
        assert_eq!(made["metadata"]["namespace"], DEFAULT);
    }

    #[test]
    fn an_event_of_any_form_is_refused_or_written_never_a_panic() {
        for part in ["source", "metadata", "involvedObject", "related"] {
            for value in [json!(5), json!("x"), json!([]), json!(null)] {
                let text = value.to_string();
                let made = event(|event| event[part] = value);
                assert_eq!(
                    made.is_ok(),
                    ["source", "related", "involvedObject"].contains(&part),
                    "{part} {text}"
                );
                drop(made.map(|event| event.by(&"e1".parse().unwrap())));
            }
        }
        for text in ["[]", "5", "null", "{", "{}"] {
            assert!(NodeEvent::parse(text.as_bytes()).is_err(), "{text}");
        }
        for namespace in ["../kube-system", "a/b", "A"] {
            let refused = event(|event| event["involvedObject"]["namespace"] = json!(namespace));
            assert!(matches!(refused, Err(DocumentError::Name(_))), "{namespace}");
        }
    }
}
