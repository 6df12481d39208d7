//! What ended pods leave behind: containers and logs, which stay as long as the pods' objects do, perhaps for months.
//! When the node is short of room they go before a pod that runs.
//!
//! Each worker takes its own down. **Invariant:** who asks waits only for pods that have ended, and for none whose
//! worker is gone.

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

/// Who asks for the room, and is told when it is made.
pub type Plea = oneshot::Sender<()>;

/// The pods that have ended.
#[derive(Debug, Default)]
pub struct Remains(Mutex<Vec<mpsc::Sender<Plea>>>);

impl Remains {
    /// One more pod has ended, and hears the pleas for the room that it takes.
    pub fn enlist(&self) -> mpsc::Receiver<Plea> {
        let (pleas, heard) = mpsc::channel(1);
        let mut all = self.0.lock();
        all.retain(|pleas| !pleas.is_closed());
        all.push(pleas);
        heard
    }

    /// Asks all of them for their room, and waits until it is made.
    pub async fn give_back(&self) {
        let ask = |pleas: &mpsc::Sender<Plea>| {
            let (plea, made) = oneshot::channel();
            pleas.try_send(plea).is_ok().then_some(made)
        };
        let made: Vec<_> = self.0.lock().iter().filter_map(ask).collect();
        // A worker that is gone does not answer, and has nothing to give.
        join_all(made).await;
    }
}
