//! The end of a pod, and its housekeeping.
//!
//! Where a pod of the same name waits, the erasing makes way for it: it takes no turn and gets [`ERASING`]. What
//! is left then is found by the manager, as is all that nobody wants.
//!
//! **Invariant:** nothing is taken down before the pod's last status outlives a crash, and the pod is said
//! to be gone only when no container of it can be running, unless the runtime does not tell for [`STARTING`]. (A sandbox
//! or a container that the runtime still makes after its call was given up is ended when it is seen.)

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::{Order, RETRY, Turn, Worker};
use crate::pods::gc;
use crate::pods::lifecycle::Stage;
use crate::pods::logs;
use crate::pods::observed::{ContainerObserved, Run};
use crate::pods::remains::Plea;
use crate::pods::spec;
use crate::pods::termination;
use crate::runtime::RuntimeError;

/// How long the erasing may take while a successor waits.
const ERASING: Duration = Duration::from_secs(2);

/// How long a start that was asked for may be under way in the runtime: that of a call to it.
const STARTING: Duration = Duration::from_mins(2);

/// How far a pod that ends has come.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Until when it is waited for containers that may be about to run.
    starting: Option<Instant>,
    /// What it held is taken down.
    settled: bool,
    /// It was said to be gone.
    gone: bool,
    /// It was said that its remains resist.
    resisted: bool,
    /// Where the room is asked for that its remains take; from the end on.
    pleas: Option<mpsc::Receiver<Plea>>,
    /// Who waits for that room.
    plea: Option<Plea>,
}

impl Leaving {
    /// Ends when somebody asks for the room that the pod's remains take.
    pub(super) async fn hear(&mut self) {
        let plea = match &mut self.pleas {
            Some(pleas) => pleas.recv().await,
            None => None,
        };
        if plea.is_none() {
            std::future::pending::<()>().await;
        }
        self.plea = plea;
    }
}

/// What the runtime would not remove, and why.
struct Resisted {
    what: String,
    error: RuntimeError,
}

impl Resisted {
    fn new(kind: &str, name: &str, error: RuntimeError) -> Self {
        Self {
            what: format!("{kind} {name}"),
            error,
        }
    }
}

/// Ends when the pod is forgotten by the cluster and another one of its name waits.
async fn followed(mut orders: watch::Receiver<Order>) {
    let waits = |order: &Order| order.removed && order.followed;
    if orders.wait_for(waits).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Worker {
    /// Everything has stopped: say so, take down, say that it is gone, and erase what the runtime keeps of it.
    /// The erasing comes last: nobody waits for it for long.
    pub(super) async fn settle(&mut self) -> Turn {
        if !self.none_can_start().await {
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        self.end.stopped = true;
        self.kit.ledger.release(&self.uid);
        self.ending = None;
        let told = self.publish().await;
        if told.is_none() {
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        self.keep(told);
        if !self.take_down().await {
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        let deleted = self.pod().metadata.deletion_timestamp.is_some();
        if !deleted && !self.order.removed {
            let made = self.make_room().await;
            return Turn::Wait((!made).then(|| Instant::now() + RETRY));
        }
        if !self.say_gone().await {
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        let (orders, name) = (self.orders.clone(), spec::name(self.pod()).to_owned());
        let make_way = async move {
            followed(orders).await;
            sleep(ERASING).await;
            info!(
                pod = name,
                "what is left of it is erased later: its successor waits"
            );
        };
        let erased = tokio::select! {
            erased = self.erase() => erased,
            () = make_way => {
                self.order.removed = true;
                true
            }
        };
        if !erased {
            return Turn::Wait(Some(Instant::now() + RETRY));
        }
        self.leaving.plea = None;
        if self.order.removed {
            self.kit.report.forget(&self.uid).await;
            return Turn::Done;
        }
        Turn::Wait(None)
    }

    /// Removes, of a pod that is to be gone or was evicted, what was made and never seen to run. Its start may be under way though
    /// nobody waits for it any more, after a crash too; such a container the runtime does not remove. Whether none can
    /// still come to run, as far as can be known.
    async fn none_can_start(&mut self) -> bool {
        let leaves = self.order.removed
            || self.order.evicted.is_some()
            || self.was_evicted()
            || self.pod().metadata.deletion_timestamp.is_some();
        let unstarted = self.observed.containers.iter().filter(|c| c.run == Run::Created);
        for container in unstarted.filter(|_| leaves && !self.leaving.gone) {
            let Err(error) = self.kit.runtime.remove_container(&container.id).await else {
                continue;
            };
            let until = *self
                .leaving
                .starting
                .get_or_insert_with(|| Instant::now() + STARTING);
            debug!(pod = spec::name(self.pod()), container = container.name, %error, "it may be about to run");
            return Instant::now() >= until;
        }
        true
    }

    /// Whether the cluster knows, or will be told.
    async fn say_gone(&mut self) -> bool {
        if self.leaving.gone || self.order.removed {
            return true;
        }
        match self.kit.report.gone(self.pod()).await {
            Ok(()) => self.leaving.gone = true,
            Err(error) => {
                warn!(pod = spec::name(self.pod()), %error, "cannot say yet that the pod is gone");
            }
        }
        self.leaving.gone
    }

    /// Volumes and cgroup of a pod that has ended.
    async fn take_down(&mut self) -> bool {
        if self.leaving.settled {
            return true;
        }
        if let Err(error) = self.kit.volumes.unmount(&self.uid).await {
            warn!(pod = spec::name(self.pod()), %error, "volumes resist");
            return false;
        }
        let uid = self.uid.clone();
        if let Some(cgroups) = &self.kit.cgroups
            && let Err(error) = cgroups.aside(move |cgroups| cgroups.remove_pod(&uid)).await
        {
            debug!(
                pod = spec::name(self.pod()),
                error = error.whole(),
                "the cgroup is still in use; it is removed later"
            );
        }
        self.mounted = None;
        self.leaving.settled = true;
        self.leaving.pleas = Some(self.kit.remains.enlist());
        true
    }

    /// Gives back what an ended pod's containers take, if it went for that or is asked to: nobody may ever delete its
    /// object. The logs go only where they are asked for too. Whether it could.
    async fn make_room(&mut self) -> bool {
        let asked = self.leaving.plea.is_some();
        if !asked && !self.was_evicted() {
            return true;
        }
        let endings = Arc::clone(&self.kit.endings);
        let _turn = if asked && !self.observed.containers.is_empty() {
            endings.turn().await
        } else {
            None
        };
        if !self.shed().await {
            return false;
        }
        if let Some(plea) = self.leaving.plea.take() {
            remove_logs(&self.kit.facts.pod_log_dir(self.pod()));
            // Nobody may be waiting any more.
            let _ = plea.send(());
        }
        true
    }

    /// Everything the runtime and the disk still hold of a pod that nobody wants any more.
    async fn erase(&mut self) -> bool {
        let resisted = match self.try_to_erase().await {
            Ok(()) => return true,
            Err(resisted) => resisted,
        };
        if std::mem::replace(&mut self.leaving.resisted, true) {
            debug!(what = resisted.what, error = %resisted.error, "it still resists");
        } else {
            // Once: it is tried each second.
            let (pod, namespace) = (spec::name(self.pod()), spec::namespace(self.pod()));
            let Resisted { what, error } = resisted;
            warn!(pod, namespace, uid = self.uid, what, %error, "what is left of the pod cannot be erased; it is tried again");
        }
        false
    }

    async fn try_to_erase(&self) -> Result<(), Resisted> {
        let nothing = self.observed.containers.is_empty() && self.observed.sandboxes.is_empty();
        let _turn = if nothing {
            None
        } else {
            tokio::select! {
                turn = self.kit.endings.turn() => turn,
                () = followed(self.orders.clone()) => None,
            }
        };
        let runtime = self.kit.runtime.as_ref();
        for container in &self.observed.containers {
            let removed = runtime.remove_container(&container.id).await;
            removed.map_err(|error| Resisted::new("container", &container.name, error))?;
        }
        for sandbox in &self.observed.sandboxes {
            let removed = runtime.remove_sandbox(&sandbox.id).await;
            removed.map_err(|error| Resisted::new("sandbox", &sandbox.id, error))?;
        }
        for container in &self.observed.containers {
            logs::unlink(&self.link_of(container));
        }
        remove_logs(&self.kit.facts.pod_log_dir(self.pod()));
        Ok(())
    }

    /// Brings volumes up to date when their objects changed or their tokens age; says when the next time is.
    pub(super) async fn refresh_volumes(&mut self) -> Option<Instant> {
        let lives = self.stage == Stage::Running && self.observed.sandboxes.iter().any(|s| s.ready);
        let due = |at: Instant| at <= Instant::now();
        if lives
            && (self.mounted.is_none()
                || self.refresh_at.is_some_and(due)
                || self.kit.volumes.has_due_token(self.pod()))
        {
            self.refresh_at = None;
            self.mount().await;
        }
        self.refresh_at.filter(|_| lives)
    }

    /// Removes what newer instances have replaced.
    pub(super) async fn sweep(&mut self) {
        let garbage = gc::garbage(&self.observed);
        for container in &garbage.containers {
            if self.removed(container).await {
                logs::remove(Path::new(&container.log_path));
                self.forget_last_words(container);
            }
        }
        for sandbox in &garbage.sandboxes {
            match self.kit.runtime.remove_sandbox(sandbox).await {
                Ok(()) => self.observed.sandboxes.retain(|seen| &seen.id != sandbox),
                Err(error) => debug!(%error, sandbox, "a dead sandbox resists"),
            }
        }
    }

    /// Whether a dead container could be removed, with the link to its log.
    pub(super) async fn removed(&mut self, container: &ContainerObserved) -> bool {
        if let Err(error) = self.kit.runtime.remove_container(&container.id).await {
            debug!(%error, container = container.name, "a dead container resists");
            return false;
        }
        logs::unlink(&self.link_of(container));
        self.observed.containers.retain(|seen| seen.id != container.id);
        true
    }

    /// With a container go the files of its last words and of those before it, of which some may be left from
    /// instances that the runtime lost: else each restart would leave one for as long as the pod lives.
    fn forget_last_words(&self, removed: &ContainerObserved) {
        let instances = self.observed.containers.iter();
        let kept: BTreeSet<u32> = instances
            .filter(|instance| instance.name == removed.name)
            .map(|instance| instance.restart_count)
            .collect();
        let over = |attempt: u32| attempt <= removed.restart_count && !kept.contains(&attempt);
        termination::remove(&self.kit.facts.container_dir(&self.uid, &removed.name), over);
    }

    fn link_of(&self, container: &ContainerObserved) -> PathBuf {
        let (name, namespace) = (spec::name(self.pod()), spec::namespace(self.pod()));
        let (container, id) = (&container.name, &container.id);
        self.kit
            .link_dir
            .join(format!("{name}_{namespace}_{container}-{id}.log"))
    }
}

fn remove_logs(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!(%error, path = %dir.display(), "a log directory resists");
        }
        Ok(()) | Err(_) => {}
    }
}
