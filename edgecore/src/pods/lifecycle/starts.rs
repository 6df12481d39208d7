//! When a container is started, and how long that waits.

use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use tokio::time::Instant;

use super::{Place, Plan, Start, Step, View, backoff_key, earliest, is_owed};
use crate::pods::observed::{ContainerObserved, Run, SandboxObserved};

/// Plans the start of a container, now or when its back-off is over.
pub(super) fn start(view: &View<'_>, sandbox: &SandboxObserved, place: Place, plan: &mut Plan) {
    let Some(container) = place.of(view.pod) else {
        return;
    };
    let latest = view.observed.latest(&container.name);
    let Wait { follows, until } = wait(view, container);
    match until {
        Some((until, delay)) if view.now < until => {
            plan.backing_off.insert(container.name.clone(), delay.as_secs());
            plan.wake = earliest(plan.wake, Some(until));
        }
        _ => plan.steps.push(Step::Start(Start {
            place,
            sandbox: sandbox.id.clone(),
            restart_count: latest.map_or(0, |latest| latest.restart_count + 1),
            follows,
        })),
    }
}

/// How long a start waits.
#[derive(Default)]
struct Wait {
    /// The end of the instance that the start follows, for the next back-off.
    follows: Option<Instant>,
    /// When the back-off is over, and how long it is in all.
    until: Option<(Instant, Duration)>,
}

/// The back-off counts from the newest end. Of a container that was killed in order to be started anew, the
/// end before decides: only if that one's back-off was not over does the kill's own end count.
fn wait(view: &View<'_>, container: &Container) -> Wait {
    let key = backoff_key(container);
    let mut ended = view
        .observed
        .containers
        .iter()
        .filter(|c| c.name == container.name && c.run == Run::Exited);
    let end = |seen: &ContainerObserved| view.history.ended.get(&seen.id).copied().unwrap_or(view.now);
    let delay = |ended: Instant| view.history.backoff.delay(&key, ended);
    let from = |ended: Instant| Wait {
        follows: Some(ended),
        until: Some((ended + delay(ended), delay(ended))),
    };
    let Some(newest) = ended.next() else {
        return Wait::default();
    };
    let last = end(newest);
    if !is_owed(view.pod, view.observed, view.history, newest) {
        return from(last);
    }
    match ended.next().map(end) {
        Some(before) if last >= before + delay(before) => Wait {
            follows: Some(before),
            until: None,
        },
        None if delay(last).is_zero() => Wait::default(),
        Some(_) | None => from(last),
    }
}
