//! Why a container that may run is ended although its pod goes on.

use k8s_openapi::api::core::v1::{Container, Pod};

use super::{Kill, RestartPolicy, View, kill, spec_grace};
use crate::pods::container_config::container_hash;
use crate::pods::observed::ContainerObserved;
use crate::pods::probes::ProbeKind;

/// Which kind of container it is, for the kubelet's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A sidecar, or another init container.
    Init,
    /// One of the pod's main containers.
    Main,
}

impl What {
    const fn word(self) -> &'static str {
        match self {
            Self::Init => "Init container",
            Self::Main => "Container",
        }
    }
}

/// The runtime does not know whether it runs.
pub(super) fn kill_unknown(pod: &Pod, what: What, seen: &ContainerObserved) -> Kill {
    let what = what.word();
    let message = format!("{what} is in \"unknown\" state, try killing it before restart");
    kill(seen, spec_grace(pod), message, true)
}

/// What its definition, its size or its probes ask for, if anything.
pub(super) fn reason_to_kill(
    view: &View<'_>,
    what: What,
    wanted: &Container,
    seen: &ContainerObserved,
) -> Option<Kill> {
    let (name, grace) = (&wanted.name, spec_grace(view.pod));
    let then = |restart: bool| match what {
        What::Main if restart => ", will be restarted",
        What::Main | What::Init => "",
    };
    if changed(wanted, seen) {
        let message = format!("{} {name} definition changed{}", what.word(), then(true));
        return Some(kill(seen, grace, message, true));
    }
    if view.history.outgrown.contains(&seen.id) {
        let message = format!("Container {name} resize requires restart");
        return Some(kill(seen, grace, message, true));
    }
    let failed = view.history.unhealthy.get(&seen.id)?;
    let probe = match failed.kind {
        ProbeKind::Startup => "startup",
        ProbeKind::Liveness => "liveness",
        ProbeKind::Readiness => return None,
    };
    let restart = RestartPolicy::of_container(view.pod, wanted) != RestartPolicy::Never;
    let message = format!("{} {name} failed {probe} probe{}", what.word(), then(restart));
    let grace = failed.grace_seconds.unwrap_or(grace);
    Some(kill(seen, grace, message, restart))
}

/// Whether it was made from another definition.
fn changed(wanted: &Container, seen: &ContainerObserved) -> bool {
    let other = |hash: &String| *hash != container_hash(wanted);
    seen.hash.as_ref().is_some_and(other)
}
