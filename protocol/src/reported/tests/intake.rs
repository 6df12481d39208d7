//! The cloud half alone: its windows, and what it never passes on.

use super::*;
use crate::wire::reported_down;

fn report(seq: u64, key: &OutboxKey, payload: &[u8]) -> ReportedUp {
    let report = Report {
        seq,
        key: Some(key.to_wire()),
        payload: Some(crate::object::Body::compress(payload).to_wire()),
    };
    ReportedUp {
        kind: Some(reported_up::Kind::Report(report)),
    }
}

#[test]
fn devices_are_written_beside_the_rest_and_within_their_own_window() {
    let mut intake = Intake::new();
    let report = |seq: usize, key: OutboxKey| report(seq as u64, &key, b"{}");
    for seq in 1..=DEVICE_WINDOW {
        intake.handle_frame(report(seq, device(seq))).unwrap();
    }
    let one_more = DEVICE_WINDOW + 1;
    assert_eq!(
        intake.handle_frame(report(one_more, device(one_more))),
        Err(IntakeViolation::Window)
    );
    assert_eq!(intake.poll_write(Class::State), None);
    assert!(intake.waits(Class::Device) && !intake.waits(Class::State));
    intake.handle_frame(report(one_more, OutboxKey::Node)).unwrap();
    let next = |intake: &mut Intake, class| intake.poll_write(class).map(|write| write.key);
    assert_eq!(next(&mut intake, Class::State), Some(OutboxKey::Node));
    assert_eq!(next(&mut intake, Class::Device), Some(device(1)));
    intake.done(Seq(1), Outcome::Committed);
    assert_eq!(intake.unanswered(), DEVICE_WINDOW);
}

#[test]
fn an_edge_that_exceeds_its_window_is_cut_off() {
    let mut intake = Intake::new();
    let report = |seq: u64| {
        let key = OutboxKey::Pod(pod(u8::try_from(seq).unwrap()));
        report(seq, &key, b"{}")
    };
    for seq in 1..=STATE_WINDOW as u64 {
        intake.handle_frame(report(seq)).unwrap();
    }
    assert_eq!(intake.handle_frame(report(65)), Err(IntakeViolation::Window));
    assert_eq!(
        intake.handle_frame(report(1)),
        Err(IntakeViolation::Unanswered { seq: 1 })
    );
}

#[test]
fn an_event_that_is_too_large_is_refused_for_good_by_its_name() {
    let event = |name: &str| OutboxKey::Event {
        namespace: "n".into(),
        name: name.into(),
    };
    let mut intake = Intake::new();
    for (seq, name, length) in [(1, "fits", MAX_EVENT), (2, "large", MAX_EVENT + 1)] {
        let report = report(seq, &event(name), &vec![b' '; length]);
        intake.handle_frame(report).unwrap();
    }
    let Some(reported_down::Kind::Refused(refused)) = intake.poll_transmit().unwrap().kind else {
        panic!("not refused")
    };
    assert!(refused.seq == 2 && refused.permanent, "{refused:?}");
    assert!(refused.text.contains("event n/large"), "{refused:?}");
    let next = intake.poll_write(Class::Event).map(|write| write.key);
    assert_eq!(next, Some(event("fits")));
    assert_eq!((intake.unanswered(), intake.poll_transmit()), (1, None));
}

#[test]
fn damaged_reports_are_refused_a_few_times_and_then_end_the_stream() {
    let damaged = |seq: u64| {
        let mut frame = report(seq, &OutboxKey::Node, &[b' '; 1_000]);
        if let Some(reported_up::Kind::Report(report)) = &mut frame.kind {
            report.payload.as_mut().unwrap().raw_len += 1;
        }
        frame
    };
    let mut intake = Intake::new();
    for seq in 1..=8 {
        intake.handle_frame(damaged(seq)).unwrap();
        let Some(reported_down::Kind::Refused(refused)) = intake.poll_transmit().unwrap().kind else {
            panic!("not refused")
        };
        assert!(refused.permanent, "an edge in order drops it: {refused:?}");
    }
    assert_eq!(intake.handle_frame(damaged(9)), Err(IntakeViolation::Damaged));
}

#[test]
fn an_older_edge_may_have_any_number_of_events_that_are_too_large() {
    let mut intake = Intake::new();
    for seq in 1..=100 {
        let report = report(seq, &event(seq), &[b' '; MAX_EVENT + 1]);
        intake.handle_frame(report).unwrap();
    }
    assert_eq!(intake.unanswered(), 0);
}

#[test]
fn nothing_is_opened_that_has_no_place() {
    let damaged = |seq: u64, key: &OutboxKey| {
        let mut frame = report(seq, key, b"{}");
        if let Some(reported_up::Kind::Report(report)) = &mut frame.kind {
            report.payload.as_mut().unwrap().raw_len = 1;
        }
        frame
    };
    let mut intake = Intake::carrying(Carries::Events);
    for seq in 1..=9 {
        intake
            .handle_frame(damaged(seq, &OutboxKey::Pod(pod(1))))
            .unwrap();
        let Some(reported_down::Kind::Refused(refused)) = intake.poll_transmit().unwrap().kind else {
            panic!("not refused")
        };
        assert!(!refused.permanent, "{refused:?}");
    }
    for seq in 10..10 + EVENT_WINDOW as u64 {
        intake.handle_frame(report(seq, &event(seq), b"{}")).unwrap();
    }
    assert_eq!(
        intake.handle_frame(damaged(1_000, &event(1))),
        Err(IntakeViolation::Window)
    );
}
