//! Two cores and the messages between them, in whatever order.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const EDGE: usize = 0;
const CLOUD: usize = 1;

/// Both ends, and what is on its way to each.
struct World {
    ends: [Mux; 2],
    on_way: [VecDeque<Bytes>; 2],
    /// By stream and end: what was written, read, and whether it was ended.
    written: BTreeMap<(u32, usize), (usize, bool)>,
    read: BTreeMap<(u32, usize), (usize, bool)>,
    classes: BTreeMap<u32, Class>,
    /// Streams say what they are in what is read of them first, as they do in truth; else whoever accepts
    /// one knows.
    say_what_they_are: bool,
}

/// What a stream says first is not longer.
const FIRST_WORD: usize = 100;

/// The byte that stands at a place of a stream.
fn byte(stream: u32, from: usize, place: usize) -> u8 {
    let mixed = (place * 31 + from * 7) ^ (place >> 8) ^ (stream as usize * 13);
    mixed.to_le_bytes()[0]
}

impl World {
    fn new() -> Self {
        Self {
            ends: [Mux::new(Side::Edge), Mux::new(Side::Cloud)],
            on_way: Default::default(),
            written: BTreeMap::new(),
            read: BTreeMap::new(),
            classes: BTreeMap::new(),
            say_what_they_are: false,
        }
    }

    fn open(&mut self, end: usize, class: Class) -> Option<u32> {
        let id = self.ends[end].open(class).ok()?;
        self.classes.insert(id, class);
        Some(id)
    }

    /// Writes up to `bytes`; how many were taken.
    fn write(&mut self, end: usize, id: u32, bytes: usize) -> usize {
        let (done, ended) = *self.written.entry((id, end)).or_default();
        if ended {
            return 0;
        }
        let text: Vec<_> = (done..done + bytes).map(|place| byte(id, end, place)).collect();
        let taken = self.ends[end].write(id, &text).unwrap_or(0);
        self.written.insert((id, end), (done + taken, false));
        taken
    }

    fn finish(&mut self, end: usize, id: u32) {
        self.ends[end].finish(id);
        self.written.entry((id, end)).or_default().1 = true;
    }

    /// Reads up to `bytes`, which must be the right ones; how many came.
    fn read(&mut self, end: usize, id: u32, bytes: usize) -> usize {
        let accepted = self.written.contains_key(&(id, end)) || id % 2 == u32::from(end == CLOUD);
        let mut out = vec![0; if accepted { bytes } else { bytes.min(FIRST_WORD) }];
        let (done, _) = *self.read.entry((id, end)).or_default();
        let (came, ended) = match self.ends[end].read(id, &mut out) {
            Read::Bytes(came) => (came, false),
            Read::Wait => (0, false),
            Read::End => (0, true),
            Read::Reset(code) => panic!("stream {id} was reset ({code})"),
        };
        for (place, got) in out[..came].iter().enumerate() {
            assert_eq!(
                *got,
                byte(id, 1 - end, done + place),
                "stream {id} at {}",
                done + place
            );
        }
        self.read.insert((id, end), (done + came, ended));
        if !accepted && (done + came >= FIRST_WORD || ended) {
            self.accepted(end, id);
        }
        came
    }

    /// It is known at this end what a stream of the other end's is.
    fn accepted(&mut self, end: usize, id: u32) {
        let class = self.classes[&id];
        self.ends[end].classify(id, class);
        self.written.entry((id, end)).or_default();
    }

    /// Moves one message out of an end; false when it has none.
    fn transmit(&mut self, end: usize) -> bool {
        let Some(message) = self.ends[end].poll_transmit() else {
            return false;
        };
        self.on_way[1 - end].push_back(message);
        true
    }

    /// Moves one message into an end; false when none is on its way.
    fn deliver(&mut self, end: usize) -> bool {
        let Some(message) = self.on_way[end].pop_front() else {
            return false;
        };
        self.ends[end].handle_frame(&message).unwrap();
        while let Some(id) = self.ends[end].accept() {
            if !self.say_what_they_are {
                self.accepted(end, id);
            }
        }
        let granted: u64 = self.ends[end].streams.values().map(|s| s.recv.unread()).sum();
        assert!(granted <= CONNECTION, "{granted} are granted");
        true
    }

    /// Moves messages until nothing moves.
    fn settle(&mut self) {
        while (0..2).fold(false, |moved, end| self.transmit(end) | self.deliver(end) | moved) {}
    }

    /// Whatever can be read is read, until nothing moves.
    fn drain(&mut self, streams: &[u32]) {
        loop {
            self.settle();
            let both = streams.iter().flat_map(|id| [(*id, EDGE), (*id, CLOUD)]);
            let moved: usize = both.map(|(id, end)| self.read(end, id, 64 << 10)).sum();
            if moved == 0 {
                return;
            }
        }
    }

    /// Writes `bytes` and reads them at the other end.
    fn carry(&mut self, end: usize, id: u32, bytes: usize) {
        let (mut written, mut read) = (0, 0);
        while read < bytes {
            written += self.write(end, id, (bytes - written).min(8 << 10));
            self.settle();
            let came = self.read(1 - end, id, 64 << 10);
            read += came;
            self.settle();
            assert!(
                came > 0 || self.ends[end].streams[&id].send.is_ready(),
                "stream {id} stands still at {read}"
            );
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize, usize),
    Write(usize, usize, usize),
    Read(usize, usize, usize),
    Finish(usize, usize),
    Transmit(usize),
    Deliver(usize),
    Chunk(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let end = 0..2_usize;
    let bytes = prop_oneof![1..200_usize, 1..40_000_usize];
    prop_oneof![
        1 => (end.clone(), 0..7_usize).prop_map(|(end, class)| Step::Open(end, class)),
        6 => (end.clone(), any::<usize>(), bytes.clone()).prop_map(|(end, id, n)| Step::Write(end, id, n)),
        6 => (end.clone(), any::<usize>(), bytes.clone()).prop_map(|(end, id, n)| Step::Read(end, id, n)),
        1 => (end.clone(), any::<usize>()).prop_map(|(end, id)| Step::Finish(end, id)),
        9 => end.clone().prop_map(Step::Transmit),
        9 => end.clone().prop_map(Step::Deliver),
        1 => (end, bytes).prop_map(|(end, n)| Step::Chunk(end, n)),
    ]
}

fn play(world: &mut World, streams: &mut Vec<u32>, step: &Step) {
    let pick = |streams: &[u32], which: usize| streams.get(which % streams.len().max(1)).copied();
    match *step {
        Step::Open(end, class) => streams.extend(world.open(end, Class::ALL[class])),
        Step::Write(end, which, bytes) => {
            if let Some(id) = pick(streams, which)
                && (world.written.contains_key(&(id, end)) || id % 2 == u32::from(end == CLOUD))
            {
                world.write(end, id, bytes);
            }
        }
        Step::Read(end, which, bytes) => {
            if let Some(id) = pick(streams, which)
                && world.ends[end].streams.contains_key(&id)
            {
                world.read(end, id, bytes);
            }
        }
        Step::Finish(end, which) => {
            if let Some(id) = pick(streams, which)
                && world.written.contains_key(&(id, end))
            {
                world.finish(end, id);
            }
        }
        Step::Transmit(end) => drop(world.transmit(end)),
        Step::Deliver(end) => drop(world.deliver(end)),
        Step::Chunk(end, bytes) => world.ends[end].set_chunk(bytes),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Credit is never exceeded on the way there: the receiving end would say so.
    #[test]
    fn every_stream_arrives_in_order_and_whole_whatever_happens_when(
        say_what_they_are: bool,
        steps in prop::collection::vec(step(), 1..300)
    ) {
        let (mut world, mut streams) = (World::new(), Vec::new());
        world.say_what_they_are = say_what_they_are;
        for step in &steps {
            play(&mut world, &mut streams, step);
        }
        world.drain(&streams);
        for ((id, end), written) in &world.written {
            let read = world.read.get(&(*id, 1 - end)).copied().unwrap_or_default();
            prop_assert_eq!(read, *written, "stream {} from {}", id, end);
        }
        for id in streams {
            for end in [EDGE, CLOUD] {
                world.ends[end].release_writer(id);
                world.ends[end].release_reader(id, 0);
            }
        }
        world.settle();
        for end in &world.ends {
            prop_assert!(end.streams.is_empty() && end.ready.iter().all(VecDeque::is_empty));
            prop_assert!(end.receive.is_whole() && end.send.is_whole());
        }
    }
}

#[test]
fn readers_that_stand_still_stop_no_stream_but_their_own() {
    let mut world = World::new();
    for _ in 0..40 {
        let stalled = world.open(CLOUD, Class::Interactive).unwrap();
        while world.write(CLOUD, stalled, 64 << 10) > 0 {
            world.settle();
        }
    }
    for class in Class::ALL {
        let id = world.open(CLOUD, class).unwrap();
        world.carry(CLOUD, id, 300 << 10);
        let id = world.open(EDGE, class).unwrap();
        world.carry(EDGE, id, 300 << 10);
    }
}

#[test]
fn a_reader_that_goes_on_gets_the_rest() {
    let mut world = World::new();
    let id = world.open(EDGE, Class::Bulk).unwrap();
    let mut written = 0;
    loop {
        let taken = world.write(EDGE, id, 64 << 10);
        written += taken;
        world.settle();
        if taken == 0 {
            break;
        }
    }
    world.finish(EDGE, id);
    world.drain(&[id]);
    assert_eq!(world.read[&(id, CLOUD)], (written, true));
}

#[test]
fn what_is_urgent_waits_for_one_chunk_at_most() {
    let mut world = World::new();
    let (bulk, control) = (
        world.open(EDGE, Class::Bulk).unwrap(),
        world.open(EDGE, Class::Control).unwrap(),
    );
    world.settle();
    while world.write(EDGE, bulk, 64 << 10) > 0 {}
    assert!(world.transmit(EDGE));
    world.write(EDGE, control, 10);
    for _ in 0..2 {
        world.transmit(EDGE);
    }
    while world.deliver(CLOUD) {}
    assert_eq!(world.read(CLOUD, control, 100), 10);
}

#[test]
fn each_class_that_waits_gets_two_percent_of_the_bytes() {
    for chunk in [MIN_CHUNK, MAX_CHUNK] {
        let mut world = World::new();
        world.ends[EDGE].set_chunk(chunk);
        let ids = Class::ALL.map(|class| world.open(EDGE, class).unwrap());
        let mut total = 0;
        while total < 4 << 20 {
            for id in ids {
                world.write(EDGE, id, 2 * chunk);
            }
            // One message at a time: all classes wait all the time.
            world.transmit(EDGE);
            world.deliver(CLOUD);
            for id in ids {
                total += world.read(CLOUD, id, 2 * chunk);
            }
            while world.transmit(CLOUD) {}
            while world.deliver(EDGE) {}
        }
        for id in ids {
            let (got, _) = world.read[&(id, CLOUD)];
            assert!(
                got + 2 * chunk >= total * 2 / 100,
                "chunk {chunk}: stream {id} got {got} of {total}"
            );
        }
    }
}

/// More tunnels than their pool has room for what they would have of it before they say what they are.
#[test]
fn streams_that_are_read_before_it_is_known_what_they_are_take_no_more_than_there_is() {
    let mut world = World::new();
    world.say_what_they_are = true;
    let ids: Vec<_> = std::iter::from_fn(|| world.open(EDGE, Class::Desired)).collect();
    let granted = |world: &World| -> u64 {
        let streams = world.ends[CLOUD].streams.values();
        streams.map(|stream| stream.recv.unread()).sum()
    };
    for (n, id) in ids.iter().enumerate() {
        // Every other one's first word is longer than what may come without a grant.
        let first_word = if n % 2 == 0 { 4 } else { 4 << 10 };
        let mut came = 0;
        while came < first_word {
            world.write(EDGE, *id, 4 << 10);
            world.settle();
            let mut out = vec![0; first_word - came];
            let Read::Bytes(more) = world.ends[CLOUD].read(*id, &mut out) else {
                panic!("stream {id} stands still at {came}")
            };
            came += more;
            world.settle();
            assert!(granted(&world) <= CONNECTION, "{} are granted", granted(&world));
        }
    }
    for id in &ids {
        world.ends[CLOUD].classify(*id, Class::Desired);
        world.settle();
        assert!(granted(&world) <= CONNECTION, "{} are granted", granted(&world));
    }
    for id in ids {
        for end in [CLOUD, EDGE] {
            world.ends[end].release_writer(id);
            world.ends[end].release_reader(id, 0);
        }
    }
    world.settle();
    assert!(
        world
            .ends
            .iter()
            .all(|end| end.streams.is_empty() && end.receive.is_whole())
    );
}

#[test]
fn streams_are_bounded_and_come_back_when_they_end() {
    let mut world = World::new();
    let ids: Vec<_> = std::iter::from_fn(|| world.open(EDGE, Class::Interactive)).collect();
    assert_eq!(ids.len(), STREAMS as usize);
    world.settle();
    for id in &ids[..STREAMS_AT_ONCE as usize] {
        for end in [EDGE, CLOUD] {
            world.ends[end].release_writer(*id);
            world.ends[end].release_reader(*id, 0);
        }
    }
    world.settle();
    assert_eq!(
        std::iter::from_fn(|| world.open(EDGE, Class::Interactive)).count(),
        STREAMS_AT_ONCE as usize
    );
}

#[test]
fn a_stopped_stream_ends_at_both_ends() {
    let mut world = World::new();
    let id = world.open(EDGE, Class::Bulk).unwrap();
    while world.write(EDGE, id, 64 << 10) > 0 {
        world.settle();
    }
    world.ends[CLOUD].release_reader(id, 3);
    world.ends[CLOUD].release_writer(id);
    world.settle();
    assert_eq!(world.ends[EDGE].write(id, b"more"), Err(Stopped));
    world.ends[EDGE].release_writer(id);
    world.ends[EDGE].release_reader(id, 0);
    world.settle();
    assert!(world.ends.iter().all(|end| end.streams.is_empty()));
}

#[test]
fn who_breaks_the_rules_is_caught() {
    let caught = |frames: &[MuxFrame<'_>]| {
        let mut mux = Mux::new(Side::Cloud);
        let last = frames
            .iter()
            .map(|frame| mux.handle_frame(&frame.encode()))
            .last();
        last.unwrap().unwrap_err()
    };
    let open = MuxFrame::Open { stream: 0 };
    let data = |bytes, last| MuxFrame::Data {
        stream: 0,
        bytes,
        last,
    };
    let too_many: Vec<_> = (0..=STREAMS).map(|n| MuxFrame::Open { stream: 2 * n }).collect();
    let much = vec![0; usize::try_from(BASE + 1).unwrap()];
    assert_eq!(caught(&[data(&[1], false)]), Violation::Unknown(0));
    assert_eq!(
        caught(&[MuxFrame::Credit { stream: 1, more: 1 }]),
        Violation::Unknown(1)
    );
    assert_eq!(caught(&[MuxFrame::Open { stream: 2 }]), Violation::OutOfTurn(2));
    assert_eq!(caught(&[MuxFrame::Open { stream: 1 }]), Violation::OutOfTurn(1));
    assert_eq!(caught(&[open, data(&much, false)]), Violation::OverCredit(0));
    assert_eq!(
        caught(&[open, data(&[1], true), data(&[1], false)]),
        Violation::AfterEnd(0)
    );
    assert_eq!(
        caught(&[open, data(&[], true), MuxFrame::Reset { stream: 0, code: 0 }]),
        Violation::AfterEnd(0)
    );
    assert_eq!(caught(&too_many), Violation::TooManyStreams);
}

#[test]
fn the_close_goes_before_everything_and_nothing_after_it() {
    let mut world = World::new();
    let id = world.open(EDGE, Class::Bulk).unwrap();
    world.write(EDGE, id, 100);
    world.ends[EDGE].close(CloseCode::GoingAway, "the end");
    world.settle();
    let told = world.ends[CLOUD].closed_by_peer();
    assert_eq!(told, Some(&(CloseCode::GoingAway, "the end".to_owned())));
    assert_eq!(world.ends[EDGE].poll_transmit(), None);
}
