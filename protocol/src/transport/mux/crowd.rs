//! Many connections of one process, and its budget for what nobody reads.

use super::*;
use crate::transport::ReceiveBudget;

/// An edge that sends, and the end of it in a cloud that accepts and does not read.
struct Session {
    edge: Mux,
    cloud: Mux,
    streams: Vec<(u32, Class)>,
    /// So much is read of a stream before it is known what it is.
    first_word: usize,
}

impl Session {
    fn begin(budget: &ReceiveBudget, classes: &[Class]) -> Self {
        let mut edge = Mux::new(Side::Edge);
        let streams = classes
            .iter()
            .map(|class| (edge.open(*class).unwrap(), *class))
            .collect();
        let cloud = Mux::within(Side::Cloud, Some(budget.share().unwrap()));
        Self {
            edge,
            cloud,
            streams,
            first_word: 0,
        }
    }

    /// Moves whatever moves.
    fn settle(&mut self) {
        loop {
            let mut moved = false;
            while let Some(message) = self.edge.poll_transmit() {
                self.cloud.handle_frame(&message).unwrap();
                moved = true;
            }
            while let Some(id) = self.cloud.accept() {
                if self.first_word > 0 {
                    self.cloud.read(id, &mut vec![0; self.first_word]);
                }
                let (_, class) = self.streams.iter().find(|(open, _)| *open == id).unwrap();
                self.cloud.classify(id, *class);
            }
            while let Some(message) = self.cloud.poll_transmit() {
                self.edge.handle_frame(&message).unwrap();
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// Sends as much as is taken; the cloud reads the first `read` bytes of each stream, and no more.
    fn flood(&mut self, read: usize) {
        let mut left = vec![read; self.streams.len()];
        loop {
            let mut moved = 0;
            for (n, (id, _)) in self.streams.iter().enumerate() {
                moved += self.edge.write(*id, &[7; 16 << 10]).unwrap_or(0);
                let mut out = vec![0; left[n].min(16 << 10)];
                if let Read::Bytes(came) = self.cloud.read(*id, &mut out) {
                    left[n] -= came;
                    moved += came;
                }
            }
            self.settle();
            if moved == 0 {
                return;
            }
        }
    }

    /// Both ends let go of a stream.
    fn release(&mut self, id: u32) {
        for end in [&mut self.edge, &mut self.cloud] {
            end.release_writer(id);
            end.release_reader(id, 0);
        }
    }

    /// What is held: bytes, and the memory for them.
    fn held(&self) -> (usize, usize) {
        let held = self.cloud.streams.values().map(|stream| stream.recv.holds());
        held.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }
}

#[test]
fn a_thousand_sessions_that_nobody_reads_stay_within_the_budget() {
    const TOTAL: usize = 64 << 20;
    let classes: Vec<_> = [Class::Control, Class::Desired, Class::Reported]
        .into_iter()
        .chain([Class::Interactive; 6])
        .collect();
    let budget = ReceiveBudget::new(TOTAL as u64);
    let mut sessions = Vec::new();
    let (mut bytes, mut memory) = (0, 0);
    for _ in 0..1000 {
        let mut session = Session::begin(&budget, &classes);
        // Windows grow as they are used.
        session.flood(20 << 10);
        let held = session.held();
        bytes += held.0;
        memory += held.1;
        // Its own queue is the edge's.
        session.edge = Mux::new(Side::Edge);
        sessions.push(session);
    }
    println!(
        "1000 sessions hold {} KiB in {} KiB of memory; {} of {} KiB are promised; the last holds {} KiB",
        bytes >> 10,
        memory >> 10,
        budget.promised() >> 10,
        TOTAL >> 10,
        sessions[999].held().0 >> 10,
    );
    assert!(bytes as u64 <= budget.promised() && budget.promised() <= TOTAL as u64);
    assert!(memory <= TOTAL + TOTAL / 8, "{memory}");
    assert!(bytes > TOTAL / 3, "the budget is there to be used: {bytes}");
    drop(sessions);
    assert_eq!(budget.promised(), 0);
}

#[test]
fn beats_and_reports_go_on_when_the_budget_is_used_up() {
    let budget = ReceiveBudget::new(64 << 10);
    let others: Vec<_> = (0..3).map(|_| budget.share().unwrap()).collect();
    let classes = [Class::Interactive; 3].into_iter();
    let classes: Vec<_> = classes.chain([Class::Control, Class::Reported]).collect();
    let mut session = Session::begin(&budget, &classes);
    session.flood(0);
    let stalled = session.held().0;
    for (id, _) in session.streams.split_off(3) {
        let mut came = 0;
        while came < 100_000 {
            session.edge.write(id, &[7; 16 << 10]).unwrap();
            session.settle();
            let Read::Bytes(bytes) = session.cloud.read(id, &mut [0; 16 << 10]) else {
                panic!("stream {id} stands still after {came} bytes; others hold {stalled}")
            };
            came += bytes;
            session.settle();
        }
    }
    drop(others);
}

#[test]
fn a_stream_that_there_is_no_room_for_is_refused_and_its_place_comes_back() {
    let budget = ReceiveBudget::new(16 << 10);
    let mut session = Session::begin(&budget, &[Class::Interactive; 20]);
    session.flood(0);
    let refused = |session: &Session| {
        session
            .streams
            .iter()
            .filter(|(id, _)| {
                session
                    .cloud
                    .streams
                    .get(id)
                    .is_none_or(|stream| !stream.has_base)
            })
            .count()
    };
    assert_eq!(refused(&session), 12);
    assert_eq!(session.cloud.open(Class::Interactive), Err(NotOpened::NoRoom));
    for (id, _) in std::mem::take(&mut session.streams) {
        session.release(id);
    }
    session.settle();
    assert!(session.cloud.streams.is_empty() && session.cloud.receive.is_whole());
    assert_eq!(budget.promised(), 16 << 10);
}

#[test]
fn many_calls_at_once_leave_room_for_the_streams_that_come_after_them() {
    let budget = ReceiveBudget::new(64 << 20);
    let mut session = Session::begin(&budget, &[Class::Desired; 110]);
    session.first_word = 16;
    for (id, _) in &session.streams {
        session.edge.write(*id, &[7; 700]).unwrap();
    }
    session.settle();
    assert!(budget.promised() <= CONNECTION);
    for (id, _) in std::mem::take(&mut session.streams) {
        session.release(id);
        session.settle();
    }
    assert!(session.cloud.streams.is_empty() && session.cloud.receive.is_whole());
    assert_eq!(budget.promised(), 16 << 10);
    assert!(session.cloud.open(Class::Interactive).is_ok());
}
