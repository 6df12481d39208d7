//! One connection to the broker, over MQTT 5 or, where the broker knows no better, 3.1.1.
//!
//! A connection lives once: after a loss another is made, and what has to be said again the bridge
//! knows. Of the library it takes the packets alone: its own loop makes a system call for each packet,
//! and at ten thousand updates a second that is most of the work. Here all that is ready goes out with
//! one write, and what has come is read in large pieces.

use std::collections::HashSet;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures::future::{BoxFuture, FutureExt, poll_fn};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::io::poll_read_buf;

use super::credentials::Access;
use super::message::{Filter, Message, Publish};
use super::packets::{Incoming, refuses_five};
use super::terms::{KEEP_ALIVE, Terms};
use super::version::{Greeting, Lost, Session, Version};

/// How long a broker, which may be far away, may take to answer a connection.
const ANSWER: Duration = Duration::from_secs(10);
/// How much is read at once.
const READ: usize = 32 << 10;
/// So much waits to be written at most, so that acknowledgements do not wait behind it for long.
const WRITE: usize = 256 << 10;
/// How long a farewell may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// What happens on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It stands.
    Up {
        /// Whether the broker has subscriptions and messages of an earlier one.
        session_present: bool,
        /// The largest packet that the broker takes.
        largest: usize,
    },
    /// A message came.
    Message(Message),
    /// The broker answered subscriptions.
    Subscribed {
        /// Under which number they were asked for.
        packet: u16,
        /// Of each filter, whether it was granted.
        granted: Vec<bool>,
    },
    /// The broker has what was sent under this number.
    Acknowledged(u16),
    /// The broker will not have what was sent under this number: it goes to nobody.
    Refused {
        /// Its number.
        packet: u16,
        /// The name of the reason, as MQTT 5 calls it.
        why: String,
    },
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection.
pub(crate) struct Wire {
    state: State,
}

enum State {
    Opening(BoxFuture<'static, Result<Box<Open>, Lost>>),
    Open(Box<Open>),
    Ended,
}

/// A connection that stands.
struct Open {
    version: Version,
    stream: Box<dyn Stream>,
    input: BytesMut,
    /// So much is still to come of a message that was too large.
    skip: usize,
    output: BytesMut,
    /// What was written may still lie in the encryption.
    unflushed: bool,
    number: u16,
    in_flight: HashSet<u16>,
    terms: Terms,
    beat: Interval,
    /// How many beats ago it was asked for a sign of life, if it gave none since.
    silent: u32,
}

impl Wire {
    /// Begins to connect; the first event says how it went.
    pub(crate) fn connect(greeting: Greeting, access: &Access) -> Self {
        let access = access.clone();
        let opening = async move {
            let open = Open::begin(greeting, &access);
            let late = || Err(Lost::Broken("the broker does not answer".to_owned()));
            timeout(ANSWER, open).await.unwrap_or_else(|_| late())
        };
        Self {
            state: State::Opening(opening.boxed()),
        }
    }

    /// What happened next; writes what there is to write meanwhile. Loses nothing when it is dropped.
    pub(crate) async fn next(&mut self) -> Result<Event, Lost> {
        let next = self.advance().await;
        if next.is_err() {
            self.state = State::Ended;
        }
        next
    }

    async fn advance(&mut self) -> Result<Event, Lost> {
        if let State::Opening(opening) = &mut self.state {
            // Kept before the next pause: the rest of the broker's answer may be on its way still.
            self.state = State::Open(opening.await?);
        }
        match &mut self.state {
            State::Open(open) => open.next().await,
            State::Opening(_) | State::Ended => Err(Lost::HungUp),
        }
    }

    /// Whether another message may be published now.
    pub(crate) fn has_room(&self) -> bool {
        matches!(&self.state, State::Open(open) if open.in_flight.len() < usize::from(open.terms.most) && open.output.len() < WRITE)
    }

    /// Publishes a message as well as the broker can, and returns its number, which is 0 where it is not
    /// acknowledged.
    pub(crate) fn publish(&mut self, mut publish: Publish) -> Result<u16, Lost> {
        let open = self.open()?;
        publish.qos = publish.qos.min(open.terms.qos);
        publish.retain &= open.terms.retains;
        let packet = if publish.qos == 0 { 0 } else { open.number() };
        open.version.publish(packet, publish, &mut open.output)?;
        Ok(packet)
    }

    /// Acknowledges a message.
    pub(crate) fn acknowledge(&mut self, packet: u16) -> Result<(), Lost> {
        let open = self.open()?;
        open.version.acknowledge(packet, &mut open.output)
    }

    /// Subscribes, and returns the number of what the broker is asked.
    pub(crate) fn subscribe(&mut self, filters: impl Iterator<Item = Filter>) -> Result<u16, Lost> {
        let open = self.open()?;
        let packet = open.number();
        open.version.subscribe(packet, filters, &mut open.output)?;
        Ok(packet)
    }

    /// Takes a subscription back.
    pub(crate) fn unsubscribe(&mut self, topic: &str) -> Result<(), Lost> {
        let open = self.open()?;
        let packet = open.number();
        open.version.unsubscribe(packet, topic, &mut open.output)
    }

    /// Takes leave, within bounds; the session stays, and with it what was not acknowledged.
    pub(crate) async fn close(mut self) {
        let left = self.open().and_then(|open| open.version.leave(&mut open.output));
        if left.is_ok() {
            let gone = async { while self.next().await.is_ok() {} };
            let _ = timeout(FAREWELL, gone).await;
        }
    }

    fn open(&mut self) -> Result<&mut Open, Lost> {
        match &mut self.state {
            State::Open(open) => Ok(open),
            State::Opening(_) | State::Ended => Err(Lost::HungUp),
        }
    }
}

impl Open {
    /// Asks for a connection, and returns when the broker has begun to answer.
    async fn begin(greeting: Greeting, access: &Access) -> Result<Box<Self>, Lost> {
        let Greeting { version, session } = greeting;
        if (version, session) == (Version::Three, Session::Clean) {
            // There a session that begins clean is never kept: it is dropped by one that ends at once,
            // and what is published while the one after it is away is kept again.
            let mut clean = Self::ask(greeting, access).await?;
            while !matches!(clean.next().await?, Event::Up { .. }) {}
            version.leave(&mut clean.output)?;
            let left = poll_fn(|context| clean.poll_write(context)).await;
            left.map_err(|error| Lost::of_system(&error))?;
            let session = Session::Resumed;
            return Self::ask(Greeting { version, session }, access).await;
        }
        Self::ask(greeting, access).await
    }

    async fn ask(greeting: Greeting, access: &Access) -> Result<Box<Self>, Lost> {
        let Greeting { version, session } = greeting;
        let stream = dial(access).await;
        let stream = stream.map_err(|error| Lost::Broken(error.to_string()))?;
        let mut open = Box::new(Self::over(version, stream));
        version.connect(session, access, &mut open.output)?;
        while open.input.len() < 4 {
            poll_fn(|context| open.poll_move(context)).await?;
        }
        if version == Version::Five && refuses_five(&open.input) {
            return Err(Lost::Version);
        }
        Ok(open)
    }

    fn over(version: Version, stream: Box<dyn Stream>) -> Self {
        Self {
            version,
            stream,
            input: BytesMut::new(),
            skip: 0,
            output: BytesMut::new(),
            unflushed: false,
            number: 0,
            in_flight: HashSet::new(),
            terms: Terms::default(),
            beat: beat(KEEP_ALIVE),
            silent: 0,
        }
    }

    async fn next(&mut self) -> Result<Event, Lost> {
        loop {
            while let Some(incoming) = self.read()? {
                if let Some(event) = self.take(incoming)? {
                    return Ok(event);
                }
            }
            let is_due = poll_fn(|context| {
                if self.beat.poll_tick(context).is_ready() {
                    return Poll::Ready(Ok(true));
                }
                self.poll_move(context).map_ok(|()| false)
            });
            if !is_due.await? {
                // A large message may take longer than a beat, and no answer overtakes it.
                self.silent = 0;
                continue;
            }
            // That it wants to hear of the node more often does not make its answers faster.
            if self.beat.period() * self.silent >= KEEP_ALIVE {
                return Err(Lost::Broken("the broker is silent".to_owned()));
            }
            self.silent += 1;
            self.version.ping(&mut self.output)?;
        }
    }

    fn read(&mut self) -> Result<Option<Incoming>, Lost> {
        let here = self.skip.min(self.input.len());
        self.input.advance(here);
        self.skip -= here;
        if self.skip > 0 {
            return Ok(None);
        }
        self.version.read(&mut self.input)
    }

    fn take(&mut self, incoming: Incoming) -> Result<Option<Event>, Lost> {
        Ok(Some(match incoming {
            Incoming::Up {
                session_present,
                terms,
            } => {
                self.terms = terms;
                self.beat = beat(terms.keep_alive);
                Event::Up {
                    session_present,
                    largest: terms.largest,
                }
            }
            Incoming::Message { message, left } => {
                self.skip = left;
                Event::Message(message)
            }
            Incoming::Subscribed { packet, granted } => {
                self.in_flight.remove(&packet);
                Event::Subscribed { packet, granted }
            }
            Incoming::Unsubscribed(packet) => {
                self.in_flight.remove(&packet);
                return Ok(None);
            }
            Incoming::Received(packet) => {
                self.version.release(packet, &mut self.output)?;
                return Ok(None);
            }
            Incoming::Acknowledged(packet) => {
                self.in_flight.remove(&packet);
                Event::Acknowledged(packet)
            }
            Incoming::Refused { packet, why } => {
                self.in_flight.remove(&packet);
                Event::Refused { packet, why }
            }
            Incoming::Alive => return Ok(None),
        }))
    }

    /// Writes what there is, and is ready when something was read.
    fn poll_move(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        if let Poll::Ready(Err(error)) = self.poll_write(context) {
            return Poll::Ready(Err(Lost::of_system(&error)));
        }
        self.input.reserve(READ);
        let read = poll_read_buf(Pin::new(&mut *self.stream), context, &mut self.input);
        Poll::Ready(match ready!(read) {
            Ok(0) => Err(Lost::HungUp),
            Ok(_) => Ok(()),
            Err(error) => Err(Lost::of_system(&error)),
        })
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut *self.stream).poll_write(context, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut *self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// A number that is not in use: a broker need not acknowledge in order.
    fn number(&mut self) -> u16 {
        loop {
            self.number = self.number.checked_add(1).unwrap_or(1);
            if self.in_flight.insert(self.number) {
                return self.number;
            }
        }
    }
}

/// Beats every so often, the first time after that time.
fn beat(every: Duration) -> Interval {
    let mut beat = interval_at(Instant::now() + every, every);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

pub(super) async fn dial(access: &Access) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(format!("{}:{}", access.host, access.port)).await?;
    stream.set_nodelay(true)?;
    let Some(config) = access.tls() else {
        return Ok(Box::new(stream));
    };
    let host = access.host.trim_start_matches('[').trim_end_matches(']');
    let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(host, stream).await?))
}

#[cfg(test)]
mod tests;
