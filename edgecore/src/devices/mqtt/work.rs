//! Carries out what is to be done with the twins.

use std::sync::Arc;

use protocol::devices::DeviceName;

use super::answers::{Done, Outcome, Wishes};
use super::arrivals::Arrival;
use super::lanes::{Batch, Job, Message, Work};
use super::payload::Member;
use crate::devices::{Origin, Refused, Report, Seen, Told, Twins};

/// Does a job and says what became of it.
pub(super) async fn carry_out(twins: Arc<dyn Twins>, job: Job) -> Done {
    let Job { device, work } = job;
    let outcomes = match work {
        Work::Update(batch) => update(&*twins, &device, batch).await,
        Work::State(arrival, state) => {
            let stated = twins.state(device.clone(), state).await;
            vec![(arrival, Outcome::Stated(state, stated, wishes(&*twins, &device)))]
        }
        Work::Get(arrival, event_id) => {
            let twin = twins.twin(&device);
            vec![(arrival, Outcome::Got(event_id, twin, wishes(&*twins, &device)))]
        }
    };
    Done { device, outcomes }
}

/// Every device of the node.
pub(super) fn members(twins: &dyn Twins) -> Vec<Member> {
    let devices = twins.devices();
    let member = |device: &DeviceName| Member {
        device: device.clone(),
        standing: twins.standing(device),
    };
    devices.keys().map(member).collect()
}

async fn update(twins: &dyn Twins, device: &DeviceName, batch: Batch) -> Vec<(Arrival, Outcome)> {
    let event_id = batch.messages.last().map(|message| message.event_id.clone());
    let report = report(device, event_id.unwrap_or_default(), batch.seen.clone());
    match twins.report(report).await {
        Ok(told) => {
            let last = batch.messages.last().map(|message| message.arrival);
            let taken = |message: Message| {
                let is_last = Some(message.arrival) == last;
                let wishes = is_last.then(|| wishes_after(twins, &told));
                reported(message, wishes, Arc::clone(&told))
            };
            batch.messages.into_iter().map(taken).collect()
        }
        // One of several is to blame: each is answered for itself.
        Err(Refused::TooLarge { .. }) if batch.messages.len() > 1 => one_by_one(twins, device, batch).await,
        Err(refused) => {
            let refused = |message: Message| {
                (
                    message.arrival,
                    Outcome::Refused(message.event_id, refused.clone()),
                )
            };
            batch.messages.into_iter().map(refused).collect()
        }
    }
}

async fn one_by_one(twins: &dyn Twins, device: &DeviceName, batch: Batch) -> Vec<(Arrival, Outcome)> {
    let mut outcomes = Vec::with_capacity(batch.messages.len());
    for message in &batch.messages {
        let report = report(device, message.event_id.clone(), batch.of(message));
        outcomes.push(match twins.report(report).await {
            Ok(told) => reported(message.clone(), Some(wishes_after(twins, &told)), told),
            Err(refused) => (
                message.arrival,
                Outcome::Refused(message.event_id.clone(), refused),
            ),
        });
    }
    outcomes
}

fn report(device: &DeviceName, event_id: String, seen: Vec<Seen>) -> Report {
    Report {
        device: device.clone(),
        seen,
        event_id,
        origin: Origin::Mqtt,
    }
}

fn reported(message: Message, wishes: Option<Wishes>, told: Arc<Told>) -> (Arrival, Outcome) {
    let Message {
        arrival,
        event_id,
        properties,
    } = message;
    let outcome = Outcome::Reported {
        event_id,
        properties,
        wishes,
        told,
    };
    (arrival, outcome)
}

/// What a device should be, now that this was told of it.
pub(super) fn wishes_after(twins: &dyn Twins, told: &Told) -> Wishes {
    if told.delta.is_empty() {
        // What was wished since is told after this.
        return Wishes::default();
    }
    wishes(twins, &told.device)
}

/// What a device should be.
pub(super) fn wishes(twins: &dyn Twins, device: &DeviceName) -> Wishes {
    let unmet = twins.wishes(device).into_iter().filter(|(_, wish)| !wish.met);
    let delta: std::collections::BTreeMap<_, _> = unmet.map(|(name, wish)| (name, wish.value)).collect();
    if delta.is_empty() {
        return Wishes::default();
    }
    let twin = twins.twin(device).unwrap_or_default();
    let wished = twin
        .into_iter()
        .filter(|(_, view)| view.expected.is_some())
        .collect();
    Wishes { wished, delta }
}
