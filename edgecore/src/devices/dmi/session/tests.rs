//! One mapper that obeys, refuses, hangs or ends, on a paused clock.

use std::path::PathBuf;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Status;

use super::super::rows::tests::MemoryRows;
use super::super::testing::{FakeTwins, device, hall, model};
use super::*;

/// A mapper in memory.
#[derive(Clone, Default)]
struct Mapper(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    calls: Vec<(Call, Instant)>,
    ended: bool,
    hangs: bool,
    slow: bool,
    refuses: Option<&'static str>,
}

impl Mapper {
    /// What was called since this was last asked.
    fn take(&self) -> Vec<String> {
        let calls = std::mem::take(&mut self.0.lock().calls);
        calls.iter().map(|(call, _)| short(call)).collect()
    }
}

fn short(call: &Call) -> String {
    match call {
        Call::CreateModel(model) => format!("create {}", model.name),
        Call::UpdateModel(model) => format!("update model {}", model.name),
        Call::RemoveModel(name) => format!("remove model {}", name.name),
        Call::Register(device) => format!("register {}", device.name),
        Call::Update(device) => {
            let desired = device.spec.as_ref().unwrap().properties[0]
                .desired
                .as_ref()
                .unwrap();
            format!("update {} {:?}", device.name, desired.value)
        }
        Call::Remove(name) => format!("remove {}", name.name),
    }
}

impl Caller for Mapper {
    fn call(&self, call: Call) -> BoxFuture<'_, Result<(), CallError>> {
        Box::pin(async move {
            let (ended, hangs, slow, refuses) = {
                let mut state = self.0.lock();
                state.calls.push((call.clone(), Instant::now()));
                (state.ended, state.hangs, state.slow, state.refuses)
            };
            if ended {
                return Err(CallError::Unreachable(std::io::ErrorKind::NotFound.into()));
            }
            if hangs {
                sleep(Duration::from_secs(10)).await;
                return Err(CallError::Silent);
            }
            if slow {
                sleep(Duration::from_secs(1)).await;
            }
            match refuses {
                Some(what) if short(&call).contains(what) => {
                    Err(CallError::Refused(Box::new(Status::internal("no"))))
                }
                Some(_) | None => Ok(()),
            }
        })
    }

    fn answers(&self) -> BoxFuture<'_, bool> {
        Box::pin(async { !self.0.lock().ended })
    }
}

struct World {
    twins: Arc<FakeTwins>,
    mapper: Mapper,
    rows: MemoryRows,
    _tasks: JoinSet<()>,
}

fn registration() -> Registration {
    Registration {
        protocol: "modbus".to_owned(),
        address: PathBuf::from("/run/m.sock"),
        name: "m".to_owned(),
        version: "1".to_owned(),
        mark: 7,
    }
}

async fn world(devices: &[&str]) -> World {
    let twins = Arc::new(FakeTwins::default());
    for name in devices {
        twins.put(&device(name, 502), Some(&model(90)));
    }
    let (mapper, rows) = (Mapper::default(), MemoryRows::default());
    rows::register(&rows, &registration(), &Accepted::default())
        .await
        .unwrap();
    let session = Session::new(
        registration(),
        Accepted::default(),
        twins.clone(),
        Arc::new(rows.clone()),
        Box::new(mapper.clone()),
    );
    let mut tasks = JoinSet::new();
    tasks.spawn(session.run(CancellationToken::new()));
    World {
        twins,
        mapper,
        rows,
        _tasks: tasks,
    }
}

async fn a_moment() {
    sleep(Duration::from_millis(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_mapper_is_brought_to_what_it_should_have_and_then_left_alone() {
    let world = world(&["s1", "s2"]).await;
    a_moment().await;
    assert_eq!(
        world.mapper.take(),
        ["create sensor", "register s1", "register s2"]
    );

    world.twins.wish("s1", "temperature", "30");
    a_moment().await;
    assert_eq!(world.mapper.take(), ["update s1 \"30\""]);

    world.twins.put(&device("s1", 502), Some(&model(80)));
    world.twins.put(&device("s2", 502), Some(&model(80)));
    a_moment().await;
    assert_eq!(
        world.mapper.take(),
        ["update model sensor", "update s1 \"30\"", "update s2 \"\""]
    );

    world.twins.drop_device("s1");
    world.twins.drop_device("s2");
    a_moment().await;
    assert_eq!(
        world.mapper.take(),
        ["remove s1", "remove s2", "remove model sensor"]
    );
    sleep(Duration::from_mins(10)).await;
    assert!(world.mapper.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_accepted_is_known_after_a_restart() {
    let world = world(&["s1"]).await;
    a_moment().await;
    let found = rows::load(&world.rows).await.unwrap();
    let [(registration, accepted)] = &found[..] else {
        panic!("one is registered")
    };
    assert_eq!(*registration, self::registration());
    assert!(plan(&wanted(registration, &*world.twins), accepted).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_device_that_is_refused_holds_up_no_other_and_is_tried_with_the_newest_state() {
    let world = world(&["s1", "s2"]).await;
    world.mapper.0.lock().refuses = Some("register s1");
    a_moment().await;
    assert_eq!(
        world.mapper.take(),
        ["create sensor", "register s1", "register s2"]
    );
    sleep(Duration::from_mins(5)).await;
    let again = world.mapper.take();
    assert!((5..25).contains(&again.len()), "{again:?}");

    // What is new need not wait for the pause to end.
    world.mapper.0.lock().refuses = None;
    world.twins.put(&device("s1", 503), Some(&model(90)));
    a_moment().await;
    assert_eq!(world.mapper.take(), ["register s1"]);
    sleep(Duration::from_mins(5)).await;
    assert!(world.mapper.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mapper_that_opens_its_socket_late_is_told_soon_after() {
    let world = world(&["s1"]).await;
    world.mapper.0.lock().ended = true;
    sleep(Duration::from_secs(1)).await;
    assert!(world.mapper.take().is_empty());
    world.mapper.0.lock().ended = false;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(world.mapper.take(), ["create sensor", "register s1"]);
    assert!(world.twins.states.lock().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_devices_of_a_mapper_that_ended_are_unknown_after_ten_seconds_and_once() {
    let world = world(&["s1"]).await;
    a_moment().await;
    world.mapper.0.lock().ended = true;
    sleep(Duration::from_secs(9)).await;
    assert!(world.twins.states.lock().is_empty());
    sleep(Duration::from_secs(10)).await;
    assert_eq!(*world.twins.states.lock(), [(hall("s1"), DeviceState::Unknown)]);
    sleep(Duration::from_mins(10)).await;
    assert_eq!(world.twins.states.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mapper_that_hangs_is_called_again_and_is_not_gone() {
    let world = world(&["s1"]).await;
    world.mapper.0.lock().hangs = true;
    sleep(Duration::from_mins(1)).await;
    assert!(world.mapper.take().len() > 2);
    assert!(world.twins.states.lock().is_empty());
    world.mapper.0.lock().hangs = false;
    sleep(Duration::from_mins(2)).await;
    let calls = world.mapper.take();
    assert_eq!(calls[calls.len() - 2..], ["create sensor", "register s1"]);
}

#[tokio::test(start_paused = true)]
async fn what_changes_while_a_mapper_takes_its_time_counts_at_the_next_call() {
    let world = world(&["s1", "s2"]).await;
    world.mapper.0.lock().slow = true;
    sleep(Duration::from_millis(500)).await;
    world.twins.drop_device("s1");
    sleep(Duration::from_mins(1)).await;
    assert_eq!(world.mapper.take(), ["create sensor", "register s2"]);
}
