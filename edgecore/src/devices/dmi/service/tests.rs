//! What becomes of a mapper's calls.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tokio::time::Instant;
use tonic::Code;

use super::*;
use crate::devices::dmi::testing::{FakeTwins, device, hall, model};

fn service() -> (Service, Arc<FakeTwins>, mpsc::Receiver<Registering>) {
    let twins = Arc::new(FakeTwins::default());
    twins.put(&device("s1", 502), Some(&model(90)));
    let (registering, requests) = mpsc::channel(1);
    let service = Service {
        twins: twins.clone(),
        registering,
        room: Semaphore::new(CALLS),
    };
    (service, twins, requests)
}

fn value(value: &str) -> dmi::TwinProperty {
    dmi::TwinProperty {
        value: value.to_owned(),
        metadata: BTreeMap::from([
            ("timestamp".to_owned(), "17".to_owned()),
            ("type".to_owned(), String::new()),
        ]),
    }
}

fn reporting(name: &str, twins: Vec<dmi::Twin>) -> Request<dmi::ReportDeviceStatusRequest> {
    Request::new(dmi::ReportDeviceStatusRequest {
        device_name: name.to_owned(),
        device_namespace: "hall".to_owned(),
        reported_device: Some(dmi::DeviceStatus {
            twins,
            ..Default::default()
        }),
    })
}

#[tokio::test]
async fn a_report_is_taken_whatever_of_it_is_absent() {
    let (service, twins, _requests) = service();
    let whole = dmi::Twin {
        property_name: "temperature".to_owned(),
        observed_desired: Some(value("99")),
        reported: Some(value("21")),
    };
    let without_echo = dmi::Twin {
        observed_desired: None,
        ..whole.clone()
    };
    let without_value = dmi::Twin {
        reported: None,
        ..whole.clone()
    };
    let report = reporting("s1", vec![whole, without_value.clone(), without_echo]);
    service.report_device_status(report).await.unwrap();
    service
        .report_device_status(reporting("s1", vec![without_value]))
        .await
        .unwrap();
    let nothing = dmi::ReportDeviceStatusRequest {
        device_name: "s1".to_owned(),
        device_namespace: "hall".to_owned(),
        reported_device: None,
    };
    service.report_device_status(Request::new(nothing)).await.unwrap();

    let reports = twins.reports.lock();
    let [report] = &reports[..] else {
        panic!("{reports:?}")
    };
    assert_eq!((&report.device, report.origin), (&hall("s1"), Origin::Mapper));
    assert_eq!(report.seen.len(), 2);
    for seen in &report.seen {
        // What the mapper holds for desired is an echo: no wish comes of it.
        assert_eq!(seen.observation, Observation::Value("21".to_owned()));
        assert_eq!(seen.clue.device_timestamp.as_deref(), Some("17"));
        assert_eq!(seen.clue.type_, None);
    }
}

#[tokio::test]
async fn what_cannot_be_taken_is_said() {
    let (service, _twins, _requests) = service();
    let code = |answer: Result<_, Status>| answer.map(drop).unwrap_err().code();
    let reported = dmi::Twin {
        reported: Some(value("1")),
        ..Default::default()
    };
    let unknown = service
        .report_device_status(reporting("s9", vec![reported]))
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let unknown = service.report_device_status(reporting("s9", vec![])).await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);

    let register = dmi::MapperRegisterRequest::default();
    let answer = service.mapper_register(Request::new(register)).await.map(drop);
    assert_eq!(code(answer), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_is_not_durable_in_time_is_unavailable_and_no_reply_comes_late() {
    let (service, twins, _requests) = service();
    twins.stuck.store(true, Ordering::SeqCst);
    let started = Instant::now();
    let twin = dmi::Twin {
        reported: Some(value("1")),
        ..Default::default()
    };
    let answer = service.report_device_status(reporting("s1", vec![twin])).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    assert_eq!(started.elapsed(), REPLY_WITHIN);

    let register = dmi::MapperRegisterRequest {
        mapper: Some(dmi::MapperInfo::default()),
        with_data: true,
    };
    let answer = service.mapper_register(Request::new(register)).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn states_come_in_the_names_that_mappers_use() {
    let (service, twins, _requests) = service();
    for (said, state) in [
        ("ok", DeviceState::Ok),
        ("Online", DeviceState::Online),
        ("disconnected", DeviceState::Offline),
        ("unhealthy", DeviceState::Unhealthy),
    ] {
        let request = dmi::ReportDeviceStatesRequest {
            device_name: "s1".to_owned(),
            device_namespace: "hall".to_owned(),
            state: said.to_owned(),
        };
        service.report_device_states(Request::new(request)).await.unwrap();
        assert_eq!(twins.states.lock().pop(), Some((hall("s1"), state)));
    }
    let odd = dmi::ReportDeviceStatesRequest {
        device_name: "s1".to_owned(),
        device_namespace: "hall".to_owned(),
        state: "asleep".to_owned(),
    };
    let answer = service.report_device_states(Request::new(odd)).await;
    assert_eq!(answer.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn many_reports_in_a_second_are_all_taken() {
    let (service, twins, _requests) = service();
    for count in 0..1000 {
        let twin = dmi::Twin {
            reported: Some(value(&count.to_string())),
            ..Default::default()
        };
        service
            .report_device_status(reporting("s1", vec![twin]))
            .await
            .unwrap();
    }
    assert_eq!(twins.reports.lock().len(), 1000);
}
