//! A toy container runtime. What runs in it outlives edgecore, and not the power.

use std::collections::BTreeMap;

use edgecore::pods::observed::{ContainerObserved, PodObserved, Run, SandboxObserved};

#[derive(Debug, Default)]
pub(crate) struct Runtime {
    /// By uid.
    pub(crate) pods: BTreeMap<String, PodObserved>,
    made: i64,
}

impl Runtime {
    pub(crate) fn observe(&self, uid: &str) -> PodObserved {
        self.pods.get(uid).cloned().unwrap_or_default()
    }

    const fn tick(&mut self) -> i64 {
        self.made += 1;
        self.made
    }

    /// As containerd does: a call that an edgecore made before its end goes on, and another one for the
    /// same attempt is refused, for the name is taken.
    pub(crate) fn make_sandbox(&mut self, uid: &str, attempt: u32) {
        let taken = |sandbox: &SandboxObserved| sandbox.attempt == attempt;
        if self.observe(uid).sandboxes.iter().any(taken) {
            return;
        }
        let at = self.tick();
        let sandbox = SandboxObserved {
            id: format!("sandbox-{at}"),
            attempt,
            ready: true,
            host_network: false,
            created_at: at,
            ips: vec!["10.86.0.9".to_owned()],
        };
        self.pods.entry(uid.to_owned()).or_default().note_sandbox(sandbox);
    }

    /// Starts a container. As with sandboxes the name holds the attempt: the call of a process that died meanwhile and
    /// that of the next one make one container.
    pub(crate) fn start(&mut self, uid: &str, sandbox: &str, container: Making<'_>) {
        let at = self.tick();
        let Some(pod) = self.pods.get_mut(uid) else { return };
        let taken =
            |c: &ContainerObserved| c.name == container.name && c.restart_count == container.restart_count;
        if pod.containers.iter().any(taken) {
            return;
        }
        let running = pod
            .containers
            .iter()
            .filter(|c| c.name == container.name && c.run.may_run());
        assert_eq!(
            running.count(),
            0,
            "two instances of a container of {uid} at once"
        );
        pod.note_container(ContainerObserved {
            id: format!("container-{at}"),
            name: container.name.to_owned(),
            sandbox: sandbox.to_owned(),
            run: Run::Running,
            created_at: at,
            started_at: at,
            image: container.image.to_owned(),
            image_ref: container.image.to_owned(),
            hash: Some(container.hash),
            restart_count: container.restart_count,
            grace: Some(30),
            ..ContainerObserved::default()
        });
    }

    /// A container ends, by itself or killed.
    pub(crate) fn end(&mut self, uid: &str, id: &str, exit_code: i32) {
        let at = self.tick();
        let containers = self
            .pods
            .get_mut(uid)
            .into_iter()
            .flat_map(|pod| &mut pod.containers);
        for container in containers.filter(|c| c.id == id && c.run.may_run()) {
            container.run = Run::Exited;
            container.exit_code = exit_code;
            container.finished_at = at;
        }
    }

    pub(crate) fn stop_sandbox(&mut self, uid: &str, id: &str) {
        let sandboxes = self
            .pods
            .get_mut(uid)
            .into_iter()
            .flat_map(|pod| &mut pod.sandboxes);
        for sandbox in sandboxes.filter(|sandbox| sandbox.id == id) {
            sandbox.ready = false;
        }
    }

    pub(crate) fn power_off(&mut self) {
        for pod in self.pods.values_mut() {
            pod.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
            for container in pod.containers.iter_mut().filter(|c| c.run.may_run()) {
                container.run = Run::Exited;
                container.exit_code = 255;
            }
        }
    }

    /// What runs: uid and container id.
    pub(crate) fn running(&self) -> Vec<(String, String)> {
        let of = |(uid, pod): (&String, &PodObserved)| {
            let alive = pod.containers.iter().filter(|c| c.run.may_run());
            alive.map(|c| (uid.clone(), c.id.clone())).collect::<Vec<_>>()
        };
        self.pods.iter().flat_map(of).collect()
    }
}

/// A container about to be made.
pub(crate) struct Making<'a> {
    pub(crate) name: &'a str,
    pub(crate) image: &'a str,
    pub(crate) hash: String,
    pub(crate) restart_count: u32,
}
