//! What is found again after a restart.

use std::sync::Arc;

use parking_lot::Mutex;

use super::*;
use crate::devices::dmi::message::tests::digest;

/// Rows in memory, which can be told to fail.
#[derive(Clone, Default)]
pub(in crate::devices::dmi) struct MemoryRows(Arc<Mutex<BTreeMap<String, Bytes>>>);

impl Rows for MemoryRows {
    fn load(&self) -> BoxFuture<'_, Result<Vec<(String, Bytes)>, RowsError>> {
        let rows = self.0.lock().clone();
        Box::pin(async move { Ok(rows.into_iter().collect()) })
    }

    fn write(&self, rows: Vec<(String, Option<Bytes>)>) -> BoxFuture<'_, Result<(), RowsError>> {
        assert!(rows.len() <= 512, "the store takes no more at once");
        for (key, value) in rows {
            match value {
                Some(value) => drop(self.0.lock().insert(key, value)),
                None => drop(self.0.lock().remove(&key)),
            }
        }
        Box::pin(async { Ok(()) })
    }
}

fn registration(protocol: &str, mark: u64) -> Registration {
    Registration {
        protocol: protocol.to_owned(),
        address: PathBuf::from("/run/m.sock"),
        name: "m".to_owned(),
        version: "1".to_owned(),
        mark,
    }
}

fn accepted(count: usize) -> Accepted {
    let model = ModelName::new("hall", "sensor");
    let device = |number| DeviceName::new("hall", format!("s{number}"));
    Accepted {
        models: BTreeMap::from([(model.clone(), digest("m"))]),
        devices: (0..count)
            .map(|number| (device(number), (digest("d"), model.clone())))
            .collect(),
    }
}

#[tokio::test]
async fn a_registration_is_found_again_with_what_was_accepted_since() {
    let rows = MemoryRows::default();
    let (modbus, opcua) = (registration("modbus", 1), registration("opcua|x", 2));
    let mut had = accepted(700);
    register(&rows, &modbus, &had).await.unwrap();
    register(&rows, &opcua, &Accepted::default()).await.unwrap();

    let gone = DeviceName::new("hall", "s3");
    had.devices.remove(&gone);
    let step = Step {
        verb: Verb::Remove,
        name: gone,
    };
    accept(&rows, &modbus, &had, &step).await.unwrap();

    let found = load(&rows).await.unwrap();
    assert_eq!(found, [(modbus, had), (opcua, Accepted::default())]);
}

#[tokio::test]
async fn what_an_earlier_registration_had_accepted_counts_for_nothing() {
    let rows = MemoryRows::default();
    register(&rows, &registration("modbus", 1), &accepted(3))
        .await
        .unwrap();
    // Cut off before the row of the registration itself: rows of a mark that nobody has.
    let torn = registration("modbus", 2);
    let (key, value) = device_row(&torn, &accepted(3), &DeviceName::new("hall", "s1"));
    rows.write(vec![(key, value)]).await.unwrap();
    let mut left = accepted(3);
    left.devices.remove(&DeviceName::new("hall", "s1"));
    assert_eq!(load(&rows).await.unwrap(), [(registration("modbus", 1), left)]);

    let later = registration("modbus", 3);
    register(&rows, &later, &Accepted::default()).await.unwrap();
    assert_eq!(load(&rows).await.unwrap(), [(later, Accepted::default())]);
    assert_eq!(rows.0.lock().len(), 1);
}
