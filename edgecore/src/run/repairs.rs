//! Tells the cluster what had to be done to open the store: events of the Node.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Parts;
use crate::pods::status;
use crate::store::{Incident, Rung};

/// Keeps one event for each incident; they cross the link when there is one.
pub(super) async fn tell(parts: &Parts) {
    let (node, now) = (parts.config.node_name.to_string(), parts.clock.now());
    for (number, incident) in parts.stores.incidents.iter().enumerate() {
        if let Err(error) = parts.reporter.event(&event(&node, now, number, incident)).await {
            tracing::warn!(%error, %incident, "the cluster is not told that the store was repaired");
        }
    }
}

fn event(node: &str, now: SystemTime, number: usize, incident: &Incident) -> Event {
    let nanoseconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let reason = match incident.rung {
        Rung::Snapshots | Rung::Rows | Rung::Stale | Rung::Salvaged => "StoreRepaired",
        Rung::Emptied => "StoreLost",
    };
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{node}.{:x}", nanoseconds + number as u128)),
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        // A kubelet names its node so, UID and all.
        involved_object: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        },
        reason: Some(reason.to_owned()),
        message: Some(incident.to_string().chars().take(1000).collect()),
        type_: Some("Warning".to_owned()),
        count: Some(1),
        first_timestamp: Some(status::time(now)),
        last_timestamp: Some(status::time(now)),
        source: Some(EventSource {
            component: Some("kubelet".to_owned()),
            host: Some(node.to_owned()),
        }),
        reporting_component: Some("kubelet".to_owned()),
        reporting_instance: Some(node.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_started_empty_is_told_in_the_name_of_the_node() {
        let incident = Incident {
            database: "meta".to_owned(),
            rung: Rung::Emptied,
            detail: "no conf".to_owned(),
        };
        let told = event("pump-7", UNIX_EPOCH, 1, &incident);
        assert_eq!(told.metadata.name.as_deref(), Some("pump-7.1"));
        assert_eq!(told.involved_object.name.as_deref(), Some("pump-7"));
        assert_eq!(told.reason.as_deref(), Some("StoreLost"));
        assert_eq!(
            told.message.as_deref(),
            Some("the store meta: it was put aside, and started empty: no conf")
        );
    }
}
