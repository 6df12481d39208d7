//! Leases that know only which session took them last.

use std::{collections::HashMap, sync::Arc};

use cloudcore::{
    cluster::LeaseError,
    hub::{Lease, Leases},
};
use parking_lot::Mutex;
use protocol::{name::NodeName, transport::BoxFuture};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct FakeLeases {
    held: Arc<Mutex<HashMap<NodeName, String>>>,
    /// How many are being taken, or were.
    asked: watch::Sender<usize>,
    answers: watch::Sender<bool>,
}

impl Default for FakeLeases {
    fn default() -> Self {
        Self {
            held: Arc::default(),
            asked: watch::Sender::new(0),
            answers: watch::Sender::new(true),
        }
    }
}

impl FakeLeases {
    /// From now on whoever takes one waits, or does not.
    pub(crate) fn hold(&self, hold: bool) {
        self.answers.send_replace(!hold);
    }

    /// How often one was taken, or is being taken.
    pub(crate) fn asked(&self) -> usize {
        *self.asked.borrow()
    }
}

struct FakeLease {
    leases: FakeLeases,
    node: NodeName,
    session: String,
}

impl Leases for FakeLeases {
    fn take<'a>(
        &'a self,
        node: &'a NodeName,
        session: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Lease>, LeaseError>> {
        Box::pin(async move {
            self.asked.send_modify(|asked| *asked += 1);
            self.answers
                .subscribe()
                .wait_for(|answers| *answers)
                .await
                .unwrap();
            self.held.lock().insert(node.clone(), session.to_owned());
            Ok(Box::new(FakeLease {
                leases: self.clone(),
                node: node.clone(),
                session: session.to_owned(),
            }) as Box<dyn Lease>)
        })
    }

    fn reachable(&self) -> bool {
        true
    }
}

impl Lease for FakeLease {
    fn renew(&mut self) -> BoxFuture<'_, Result<(), LeaseError>> {
        Box::pin(async move {
            match self.leases.held.lock().get(&self.node) {
                Some(by) if *by != self.session => Err(LeaseError::Superseded {
                    node: self.node.clone(),
                    by: by.clone(),
                }),
                _ => Ok(()),
            }
        })
    }
}
