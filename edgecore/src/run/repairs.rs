//! Tells the cluster what had to be done to open the store: events of the Node.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Parts;
use crate::pods::status;
use crate::reported::Reporter;
use crate::store::{Incident, Rung, Stores};
use crate::supervise::BoxError;

/// Keeps one event for each incident; they cross the link when there is one.
pub(super) async fn tell(parts: &Parts) {
    if parts.stores.incidents.is_empty() {
        return;
    }
    let (node, now) = (parts.config.node_name.to_string(), parts.clock.now());
    let events = parts.stores.incidents.iter().enumerate();
    let events = events.map(|(number, incident)| repaired(&node, now, number, incident));
    if let Err(error) = told(&parts.stores, &parts.reporter, events).await {
        tracing::warn!(
            error = &*error,
            "the cluster is told at the next start that the store was repaired"
        );
    }
}

/// Forgets the incidents when all of their events are in the outbox, and not before. One that is refused waits in memory
/// and is sent from there, as the others are: none is left out.
async fn told(
    stores: &Stores,
    reporter: &Reporter,
    events: impl Iterator<Item = Event>,
) -> Result<(), BoxError> {
    let mut refused = None;
    for event in events {
        refused = reporter.event(&event).await.err().or(refused);
    }
    if let Some(error) = refused {
        return Err(error.into());
    }
    stores.told()?;
    Ok(())
}

fn repaired(node: &str, now: SystemTime, number: usize, incident: &Incident) -> Event {
    let reason = match incident.rung {
        Rung::Snapshots | Rung::Rows | Rung::Stale | Rung::Salvaged | Rung::Log => "StoreRepaired",
        Rung::Emptied => "StoreLost",
    };
    event(node, now, number, ("Warning", reason, &incident.to_string()))
}

/// An event of the Node: its type, its reason and what it says.
pub(super) fn event(
    node: &str,
    now: SystemTime,
    number: usize,
    (tone, reason, message): (&str, &str, &str),
) -> Event {
    let nanoseconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
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
        message: Some(message.chars().take(1000).collect()),
        type_: Some(tone.to_owned()),
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
    use crate::store::{Db, open_stores};
    use std::sync::atomic::Ordering;

    #[test]
    fn a_store_that_started_empty_is_told_in_the_name_of_the_node() {
        let incident = Incident {
            database: "meta".to_owned(),
            rung: Rung::Emptied,
            detail: "no conf".to_owned(),
        };
        let told = repaired("pump-7", UNIX_EPOCH, 1, &incident);
        assert_eq!(told.metadata.name.as_deref(), Some("pump-7.1"));
        assert_eq!(told.involved_object.name.as_deref(), Some("pump-7"));
        assert_eq!(told.reason.as_deref(), Some("StoreLost"));
        assert_eq!(
            told.message.as_deref(),
            Some("the store meta: it was put aside, and started empty: no conf")
        );
    }
    #[tokio::test]
    async fn an_incident_is_forgotten_when_its_event_is_kept_and_not_before() {
        let root = std::env::temp_dir().join(format!("tombolo-repairs-{}", std::process::id()));
        drop(open_stores(&root).unwrap());
        let incident = Incident {
            database: "meta".to_owned(),
            rung: Rung::Stale,
            detail: "old".to_owned(),
        };
        let line = serde_json::to_string(&incident).unwrap();
        std::fs::write(root.join("meta.untold"), line).unwrap();
        let stores = open_stores(&root).unwrap();
        assert_eq!(stores.incidents, std::slice::from_ref(&incident));
        let events = || (0..2).map(|number| repaired("pump-7", UNIX_EPOCH, number, &incident));

        let (full, is_full) = Db::fillable();
        let reporter = Reporter::load(full).await.unwrap();
        is_full.store(true, Ordering::Relaxed);
        told(&stores, &reporter, events()).await.unwrap_err();
        assert_eq!(
            reporter.pending_events(),
            2,
            "both are sent while there is a link"
        );
        assert!(root.join("meta.untold").exists());

        let reporter = Reporter::load(stores.outbox.clone()).await.unwrap();
        told(&stores, &reporter, events()).await.unwrap();
        assert_eq!(reporter.pending_events(), 2);
        assert!(!root.join("meta.untold").exists());
        std::fs::remove_dir_all(root).unwrap();
    }
}
