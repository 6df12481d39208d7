//! A container runtime in memory, for unit tests.
//!
//! It keeps sandboxes, containers and images, honours label filters, and can be told to fail a
//! call or to make a container exit. It is shared: clone it and look inside while the code under
//! test runs.
//!
//! **Invariant:** [`FakeRuntime::violations`] is empty unless two instances of one container ran
//! at the same time, or a container was started in a sandbox that was not ready.

mod calls;
mod world;

use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1 as api;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use world::World;

const UID: &str = "io.kubernetes.pod.uid";
const NAME: &str = "io.kubernetes.container.name";

/// The fake; clones share one world.
#[derive(Clone, Default)]
pub(crate) struct FakeRuntime {
    world: Arc<Mutex<World>>,
}

impl FakeRuntime {
    /// A runtime that holds these images.
    pub(crate) fn with_images(images: &[&str]) -> Self {
        let fake = Self::default();
        fake.world.lock().images = images.iter().map(ToString::to_string).collect();
        fake
    }

    /// The runtime tells its cgroup driver from now on.
    pub(crate) fn uses(&self, driver: api::CgroupDriver) {
        self.world.lock().driver = Some(driver);
    }

    /// Makes an image pullable.
    pub(crate) fn publish(&self, image: &str) {
        self.world.lock().registry.insert(image.to_owned());
    }

    /// The image can be pulled, by this user alone.
    pub(crate) fn publish_for(&self, image: &str, user: &str) {
        self.publish(image);
        let private = &mut self.world.lock().private;
        private.insert(image.to_owned(), user.to_owned());
    }

    /// Brings an image to the device past everybody.
    pub(crate) fn import(&self, image: &str) {
        self.world.lock().images.insert(image.to_owned());
    }

    /// Sandboxes resist their removal, or no longer.
    pub(crate) fn removals_hang(&self, hang: bool) {
        self.world.lock().removals_hang = hang;
    }

    /// So do the stops of sandboxes.
    pub(crate) fn stops_hang(&self, hang: bool) {
        self.world.lock().stops_hang = hang;
    }

    /// So many stops, of containers and of sandboxes, succeed and change nothing.
    pub(crate) fn ignores_stops(&self, times: u32) {
        self.world.lock().ignored_stops = times;
    }

    /// Whoever makes this call panics.
    pub(crate) fn panics_at(&self, call: &'static str) {
        self.world.lock().panics = Some(call);
    }

    /// Every pull takes so long from now on.
    pub(crate) fn pulls_take(&self, takes: Duration) {
        self.world.lock().pull_takes = takes;
    }

    /// `RunPodSandbox`, `CreateContainer` or `StartContainer` takes so long from now on.
    pub(crate) fn takes(&self, call: &'static str, takes: Duration) {
        self.world.lock().takes.insert(call, takes);
    }

    /// Those calls are carried out though who asked has given up.
    pub(crate) fn goes_on_regardless(&self) {
        self.world.lock().regardless = Some(JoinSet::new());
    }

    /// How many of those calls have begun, done or not.
    pub(crate) fn begun(&self, call: &'static str) -> usize {
        self.world.lock().begun.get(call).copied().unwrap_or_default()
    }

    /// The runtime's wall clock steps back by so much.
    pub(crate) fn clock_steps_back(&self, by: Duration) {
        self.world.lock().clock -= i64::try_from(by.as_nanos()).unwrap();
    }

    /// Makes the container `name` exit with `code` as soon as it is started.
    pub(crate) fn exits_at_once(&self, name: &str, code: i32) {
        self.world.lock().exits.insert(name.to_owned(), code);
    }

    /// Containers of that name end as they are started, and the runtime says why.
    pub(crate) fn cannot_start(&self, name: &str) {
        self.world.lock().unstartable.insert(name.to_owned());
    }

    /// Lets the container `name` run when it is started next.
    pub(crate) fn keeps_running(&self, name: &str) {
        self.world.lock().exits.remove(name);
    }

    /// Adds to the end of what ran under this name that it had no memory left, as the runtime does late.
    pub(crate) fn lacked_memory(&self, name: &str) {
        let mut world = self.world.lock();
        let named = |s: &api::ContainerStatus| s.labels.get(NAME).is_some_and(|own| own == name);
        for (_, status) in world.containers.values_mut().filter(|(_, s)| named(s)) {
            "OOMKilled".clone_into(&mut status.reason);
        }
    }

    /// Makes whatever runs under this name end now.
    pub(crate) fn end(&self, name: &str, code: i32) {
        let mut world = self.world.lock();
        let named = |s: &api::ContainerStatus| s.labels.get(NAME).is_some_and(|own| own == name);
        let running = world.containers.iter().filter(|(_, (_, s))| named(s));
        for id in running.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            world.exit(&id, code);
        }
    }

    /// The containers of that name use so much memory and disk.
    pub(crate) fn uses_much(&self, name: &str, memory: u64, disk: u64) {
        self.world.lock().usage.insert(name.to_owned(), (memory, disk));
    }

    /// Images lie there.
    pub(crate) fn images_at(&self, dir: &str) {
        self.world.lock().images_at = Some(dir.to_owned());
    }

    /// Makes the command `first` of an exec end with `code` after `takes`.
    pub(crate) fn commands(&self, first: &str, code: i32, takes: Duration) {
        self.world.lock().exec.insert(first.to_owned(), (code, takes));
    }

    /// Makes the next call of this CRI method fail.
    pub(crate) fn fail_next(&self, call: &'static str, message: &str) {
        let error = World::refused(call, message);
        self.world
            .lock()
            .failures
            .entry(call)
            .or_default()
            .push_back(error);
    }

    /// Makes every call unavailable, or available again.
    pub(crate) fn set_down(&self, down: bool) {
        self.world.lock().down = down;
    }

    /// Whoever is stopped exits with 0 from now on.
    pub(crate) fn ends_well_when_stopped(&self) {
        self.world.lock().stopped_with = Some(0);
    }

    /// Every sandbox dies beneath its containers, which run on and end well when they are stopped.
    pub(crate) fn sandboxes_die(&self) {
        let mut world = self.world.lock();
        world.stopped_with = Some(0);
        for sandbox in world.sandboxes.values_mut() {
            sandbox.state = api::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// What a reboot does: every sandbox is not ready, every container has exited.
    pub(crate) fn reboot(&self) {
        let mut world = self.world.lock();
        let ids: Vec<_> = world.containers.keys().cloned().collect();
        for id in ids {
            world.exit(&id, 255);
        }
        for sandbox in world.sandboxes.values_mut() {
            sandbox.state = api::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// What some runtimes do at a reboot: nothing is known of sandboxes and containers any more.
    pub(crate) fn forget_all(&self) {
        let mut world = self.world.lock();
        world.containers.clear();
        world.sandboxes.clear();
    }

    /// The handlers of all sandboxes.
    pub(crate) fn handlers(&self) -> Vec<String> {
        let world = self.world.lock();
        world
            .sandboxes
            .values()
            .map(|s| s.runtime_handler.clone())
            .collect()
    }

    /// Names of the containers that run, sorted.
    pub(crate) fn running(&self) -> Vec<String> {
        let world = self.world.lock();
        let mut names: Vec<_> = world
            .containers
            .values()
            .filter(|(_, s)| s.state == api::ContainerState::ContainerRunning as i32)
            .filter_map(|(_, s)| s.labels.get(NAME).cloned())
            .collect();
        names.sort();
        names
    }

    /// The memory limits of the containers that run, in bytes.
    pub(crate) fn memory_limits(&self) -> Vec<i64> {
        let world = self.world.lock();
        let running = world
            .containers
            .values()
            .filter(|(_, s)| s.state == api::ContainerState::ContainerRunning as i32);
        running
            .filter_map(|(_, s)| Some(s.resources.as_ref()?.linux.as_ref()?.memory_limit_in_bytes))
            .collect()
    }

    /// Whatever containers were told, this is shown as their memory limit.
    pub(crate) fn shows_memory_limit(&self, bytes: i64) {
        self.world.lock().shown_memory = Some(bytes);
    }

    /// How many sandboxes exist, ready or not.
    pub(crate) fn sandboxes(&self) -> usize {
        self.world.lock().sandboxes.len()
    }

    /// How many containers exist, in any state.
    pub(crate) fn containers(&self) -> usize {
        self.world.lock().containers.len()
    }

    /// Every call so far, `Method subject`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.world.lock().calls.clone()
    }

    /// How many calls of this method were made.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.world
            .lock()
            .calls
            .iter()
            .filter(|c| c.split(' ').next() == Some(call))
            .count()
    }

    /// What a correct client never does.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.world.lock().violations.clone()
    }
}
