//! What was said, how often, and which of it is to be written when. Pure.
//!
//! ```text
//! say ──► due ──► written ──► said again ──► due, a minute after the last
//!          ▲         `── failed ──┐
//!          └── 1, 2, 4 … minutes ─┘
//! ```
//!
//! **Invariant:** the same words about the same object are one Event; the Events of one reason about one object
//! are few, whatever the words, and what is remembered is bounded. What was taken is forgotten only once it was
//! written, or refused: of what is too much, the newest is not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use protocol::name::NodeName;
use protocol::object::{Digest, ObjectKey};
use tokio::time::Instant;

/// How often the count of an Event is written at most, and the pause after a first failure.
pub(super) const AGAIN: Duration = Duration::from_mins(1);
/// Failures in a row after which an Event is left until it is said again: half an hour.
const TRIES: u32 = 6;
/// Different Events remembered; of those with nothing new the oldest is forgotten first.
const MOST: usize = 4_096;
/// Of these, kept free by whoever can wait: what is wrong with one device is said whole.
const SPARE: usize = 32;
/// Different words of one reason about one object; what more there is goes into one Event.
const DIFFERENT: usize = 10;
/// After how long without a word an Event is not counted on: the API server has forgotten it too.
const OLD: Duration = Duration::from_hours(1);
/// The longest message.
const MESSAGE: usize = 1_000;

/// What an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) struct About {
    pub(super) api_version: &'static str,
    pub(super) kind: &'static str,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

impl About {
    pub(in super::super) fn device(key: &ObjectKey, uid: &str) -> Self {
        Self {
            api_version: protocol::devices::API_VERSION,
            kind: "Device",
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: uid.to_owned(),
        }
    }

    /// Events of a Node bear its name as their object's uid, as the kubelet's do.
    pub(in super::super) fn node(node: &NodeName) -> Self {
        Self {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: node.to_string(),
            uid: node.to_string(),
        }
    }
}

/// The words that were said of an object; none for those that are too many to have an Event each.
pub(super) type Said = (About, &'static str, Option<String>);

/// One Event: what it says, and how often it was said.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) message: String,
    pub(super) count: u64,
    pub(super) first: SystemTime,
    pub(super) last: SystemTime,
    /// Whether the API server has had it.
    pub(super) is_made: bool,
    /// When it is to be written; none while nothing is new.
    due: Option<Instant>,
    not_before: Instant,
    failures: u32,
}

/// A write of an Event.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) said: Arc<Said>,
    pub(super) series: Series,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Written,
    /// It may be taken later.
    Failed,
    /// It never will.
    Refused,
}

/// All that was said.
#[derive(Debug, Default)]
pub(super) struct Book {
    series: BTreeMap<Arc<Said>, Series>,
    /// What is to be written, and when.
    due: BTreeSet<(Instant, Arc<Said>)>,
    /// What has nothing new, by when it might be written again.
    idle: BTreeSet<(Instant, Arc<Said>)>,
}

impl Book {
    /// Takes what is said; false if there is too much that was not written yet.
    pub(super) fn say(
        &mut self,
        about: About,
        reason: &'static str,
        message: &str,
        (time, now): (SystemTime, Instant),
    ) -> bool {
        let message: String = message.chars().take(MESSAGE).collect();
        let mut said = (about, reason, Some(message.clone()));
        if !self.series.contains_key(&said) && self.different(&said, now) >= DIFFERENT {
            said.2 = None;
        }
        let shown = match said.2 {
            Some(_) => message,
            None => format!("{message} (and others like it)"),
        };
        let said = Arc::new(said);
        let is_known = self.change(&said, |series| {
            series.count += 1;
            series.last = time;
            series.message.clone_from(&shown);
            series.due.get_or_insert(series.not_before.max(now));
        });
        is_known || self.begin(said, shown, (time, now))
    }

    /// Whether there is room for something new, as seen by who can wait.
    pub(super) fn has_room(&self) -> bool {
        self.due.len() + SPARE <= MOST
    }

    fn begin(&mut self, said: Arc<Said>, message: String, (time, now): (SystemTime, Instant)) -> bool {
        if self.due.len() >= MOST {
            return false;
        }
        if self.series.len() >= MOST
            && let Some((_, oldest)) = self.idle.pop_first()
        {
            self.series.remove(&oldest);
        }
        let series = Series {
            name: event_name(&said, time),
            message,
            count: 1,
            first: time,
            last: time,
            is_made: false,
            due: Some(now),
            not_before: now,
            failures: 0,
        };
        self.due.insert((now, Arc::clone(&said)));
        self.series.insert(said, series);
        true
    }

    /// Changes what is known of something that was said, and its place; false if nothing is.
    fn change(&mut self, said: &Arc<Said>, change: impl FnOnce(&mut Series)) -> bool {
        let Some(series) = self.series.get_mut(said) else {
            return false;
        };
        let place = |series: &Series| (series.due.unwrap_or(series.not_before), Arc::clone(said));
        let before = place(series);
        self.due.remove(&before);
        self.idle.remove(&before);
        change(series);
        let places = if series.due.is_some() {
            &mut self.due
        } else {
            &mut self.idle
        };
        places.insert(place(series));
        true
    }

    /// How many other words of that reason were said of that object lately. Forgets older ones.
    fn different(&mut self, (about, reason, _): &Said, now: Instant) -> usize {
        let from = (about.clone(), *reason, Some(String::new()));
        let like = self.series.range::<Said, _>(from..);
        let like = like.take_while(|(said, _)| said.0 == *about && said.1 == *reason);
        let is_old = |series: &Series| series.due.is_none() && series.not_before + OLD < now;
        let (old, lately): (Vec<_>, Vec<_>) = like.partition(|(_, series)| is_old(series));
        let lately = lately.len();
        let old: Vec<_> = old
            .into_iter()
            .map(|(said, series)| (series.not_before, Arc::clone(said)))
            .collect();
        for place in old {
            self.series.remove(&place.1);
            self.idle.remove(&place);
        }
        lately
    }

    /// The next to write, or when there will be one.
    pub(super) fn next(&self, now: Instant) -> Result<Due, Option<Instant>> {
        let (due, said) = self.due.first().ok_or(None)?;
        match self.series.get(said) {
            Some(series) if *due <= now => Ok(Due {
                said: Arc::clone(said),
                series: series.clone(),
            }),
            _ => Err(Some(*due)),
        }
    }

    /// A write has ended.
    pub(super) fn wrote(&mut self, due: &Due, how: Ended, now: Instant) {
        self.change(&due.said, |series| {
            let is_news = series.count > due.series.count;
            series.failures = match how {
                Ended::Failed => series.failures + 1,
                Ended::Written | Ended::Refused => 0,
            };
            series.is_made |= how == Ended::Written;
            series.not_before = now + AGAIN * (1 << series.failures.saturating_sub(1));
            let is_tried_again = series.failures > 0 && series.failures < TRIES;
            series.due = (is_tried_again || is_news).then_some(series.not_before);
            if !is_tried_again {
                series.failures = 0;
            }
        });
    }
}

/// Unique among those of the object, and the same never twice.
fn event_name((about, reason, message): &Said, now: SystemTime) -> String {
    let at = protocol::clock::millis(now);
    let digest = Digest::of(format!("{about:?} {reason} {message:?} {at}").as_bytes());
    let digest = hex::encode(&digest.0[..8]);
    let most = 253 - 1 - digest.len();
    let name: String = about.name.chars().take(most).collect();
    format!("{name}.{digest}")
}

#[cfg(test)]
pub(super) mod tests {
    use protocol::object::Kind;

    use super::*;

    fn about() -> About {
        About::device(&ObjectKey::new(Kind::Device, "n", "pump"), "u")
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// What a book has to write that was told these words once.
    pub(in super::super) fn said_once(about: About) -> Due {
        let mut book = Book::default();
        let now = (at(9), Instant::now());
        book.say(about, "ReportRefused", "no", now);
        book.next(now.1).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_words_are_one_event_with_a_count() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.say(about(), "ReportRefused", "no", (at(0), start));
        let first = book.next(start).unwrap();
        book.wrote(&first, Ended::Written, start);
        assert_eq!(book.next(start).unwrap_err(), None);
        for second in 1..=9 {
            let now = start + Duration::from_secs(second);
            book.say(about(), "ReportRefused", "no", (at(second), now));
        }
        assert_eq!(book.next(start).unwrap_err(), Some(start + AGAIN));
        let again = book.next(start + AGAIN).unwrap();
        assert_eq!((again.series.count, again.series.last), (10, at(9)));
        assert!(again.series.is_made && again.series.name == first.series.name);
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_written_is_tried_again_and_not_for_ever() {
        let (mut book, start) = (Book::default(), Instant::now());
        let mut now = start;
        book.say(about(), "ReportRefused", "no", (at(0), now));
        let mut tries = 0;
        while let Some(at) = book.next(now).map_or_else(|due| due, |_| Some(now)) {
            now = at;
            let due = book.next(now).unwrap();
            book.wrote(&due, Ended::Failed, now);
            tries += 1;
        }
        assert_eq!((tries, now - start), (TRIES, AGAIN * 31));
        // Said once more, it is tried anew.
        book.say(about(), "ReportRefused", "no", (at(1), now));
        now = book.next(now).unwrap_err().unwrap();
        let due = book.next(now).unwrap();
        assert!(!due.series.is_made && due.series.count == 2);
        book.wrote(&due, Ended::Written, now);
        assert_eq!(book.next(now).unwrap_err(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_not_tried_again() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.say(about(), "ReportRefused", "no", (at(0), now));
        let due = book.next(now).unwrap();
        book.wrote(&due, Ended::Refused, now);
        assert_eq!(book.next(now).unwrap_err(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn words_that_differ_without_end_are_few_events() {
        let (mut book, mut now) = (Book::default(), Instant::now());
        for number in 0..1_000 {
            let words = number.to_string();
            book.say(about(), "ReportRefused", &words, (at(number), now));
        }
        let other = About::node(&"e1".parse().unwrap());
        book.say(other, "ReportRefused", "0", (at(0), now));
        let mut written = Vec::new();
        while let Ok(due) = book.next(now) {
            written.push((due.series.message.clone(), due.series.count));
            book.wrote(&due, Ended::Written, now);
        }
        assert_eq!(written.len(), DIFFERENT + 2);
        assert!(written.contains(&("999 (and others like it)".into(), 990)));
        assert_eq!(book.due.len() + book.idle.len(), book.series.len());
        // What is forgotten by the API server counts no more.
        now += OLD * 2;
        book.say(about(), "ReportRefused", "new", (at(2_000), now));
        assert_eq!(book.next(now).unwrap().series.message, "new");
        assert_eq!(book.due.len() + book.idle.len(), book.series.len());
    }

    fn numbered(number: usize) -> About {
        About::device(&ObjectKey::new(Kind::Device, "n", number.to_string()), "u")
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_forgotten_from_the_oldest_and_not_before_it_was_written() {
        let (mut book, now) = (Book::default(), Instant::now());
        let say = |book: &mut Book, number| book.say(numbered(number), "R", "no", (at(0), now));
        assert!((0..MOST).all(|number| say(&mut book, number)));
        assert!(!book.has_room() && !say(&mut book, MOST));
        assert!(say(&mut book, 0), "what is known is counted");

        // Each that is written makes room for one.
        for number in MOST..2 * MOST {
            let due = book.next(now).unwrap();
            book.wrote(&due, Ended::Written, now);
            assert!(say(&mut book, number) || due.series.count > 1, "{number}");
        }
        assert_eq!(book.series.len(), MOST);
        let mut written = 0;
        while let Ok(due) = book.next(now) {
            book.wrote(&due, Ended::Written, now);
            written += 1;
        }
        assert_eq!(written, MOST);
        let first = |book: &Book| book.series.first_key_value().unwrap().0.0.name.clone();
        let oldest = first(&book);
        say(&mut book, 0);
        assert_ne!(first(&book), oldest);
    }

    #[test]
    fn an_event_s_name_is_one_that_kubernetes_takes() {
        let long = About::device(&ObjectKey::new(Kind::Device, "n", "x".repeat(253)), "u");
        let name = event_name(&(long, "R", Some("m".into())), at(1));
        assert_eq!(name.len(), 253);
    }
}
