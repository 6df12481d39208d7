//! One request at a time to one endpoint: connects, waits, repeats, and gives up.
//!
//! After a request that was not answered, or not answered sensibly, the connection is dropped: a late
//! answer to it would be taken for the answer to the next one. On a serial line that does not suffice, since
//! every connection is the same line, and no answer says what it answers: nothing is asked for as long again
//! as an answer may take.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_modbus::client::{Client, Context, rtu, tcp};
use tokio_modbus::slave::{Slave, SlaveContext};
use tokio_modbus::{ExceptionCode, Request, Response};
use tracing::{info, warn};

use super::config::{Endpoint, Table, Timing};
use super::line::Port;
use crate::backoff::Backoff;
use crate::devices::drivers::pace::pause;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How many requests in a row may fail before the endpoint is left alone for a while.
const PATIENCE: u32 = 3;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The device would not.
    Exception(u8),
    /// No answer, in time or at all; the endpoint works.
    Silent,
    /// The endpoint does not work.
    Away(String),
}

impl Failure {
    /// Whether the unit itself answered; a gateway that says that nobody did is not it.
    pub(crate) const fn is_answer(&self) -> bool {
        matches!(self, Self::Exception(code) if !matches!(*code, 10 | 11))
    }

    /// Whether the endpoint works, and the unit does not answer.
    pub(crate) const fn is_silence(&self) -> bool {
        matches!(self, Self::Silent | Self::Exception(10 | 11))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exception(code) => write!(out, "exception {code} ({})", meaning(*code)),
            Self::Silent => out.write_str("timeout"),
            Self::Away(why) => write!(out, "connection: {why}"),
        }
    }
}

const fn meaning(code: u8) -> &'static str {
    match code {
        1 => "illegal function",
        2 => "illegal data address",
        3 => "illegal data value",
        4 => "device failure",
        5 => "acknowledged, not done yet",
        6 => "device busy",
        8 => "memory parity error",
        10 => "gateway path unavailable",
        11 => "gateway target did not answer",
        _ => "unknown",
    }
}

/// What stands in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// Registers.
    Registers(Vec<u16>),
    /// Coils or discrete inputs.
    Bits(Vec<bool>),
}

/// One endpoint.
pub(crate) struct Wire {
    endpoint: Endpoint,
    context: Option<Context>,
    backoff: Backoff,
    failures: u32,
    away: Option<(Instant, String)>,
    /// Since when nobody speaks; in the future while a late answer may come.
    quiet_since: Instant,
}

impl Wire {
    /// Not connected yet.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            context: None,
            backoff: Backoff::default(),
            failures: 0,
            away: None,
            quiet_since: Instant::now(),
        }
    }

    /// Until when the endpoint is left alone.
    pub(crate) fn away_until(&self, now: Instant) -> Option<Instant> {
        self.away
            .as_ref()
            .map(|(until, _)| *until)
            .filter(|until| *until > now)
    }

    /// Reads from a table.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "an answer to another question is nonsense, whichever it is"
    )]
    pub(crate) async fn read(
        &mut self,
        unit: u8,
        table: Table,
        (address, count): (u16, u16),
        timing: Timing,
    ) -> Result<Words, Failure> {
        let request = match table {
            Table::Coil => Request::ReadCoils(address, count),
            Table::Discrete => Request::ReadDiscreteInputs(address, count),
            Table::Holding => Request::ReadHoldingRegisters(address, count),
            Table::Input => Request::ReadInputRegisters(address, count),
        };
        let words = match self.call(unit, request, timing).await? {
            Response::ReadCoils(mut bits) | Response::ReadDiscreteInputs(mut bits) => {
                // They come in whole bytes.
                bits.truncate(usize::from(count));
                (bits.len(), Words::Bits(bits))
            }
            Response::ReadHoldingRegisters(words) | Response::ReadInputRegisters(words) => {
                (words.len(), Words::Registers(words))
            }
            // The library compares the function with that of the request already.
            other => {
                let why = format!("an answer of function {}", other.function_code());
                return Err(self.nonsense(&why, timing));
            }
        };
        match words {
            (length, words) if length == usize::from(count) => Ok(words),
            (length, _) => Err(self.nonsense(&format!("{length} values for {count}"), timing)),
        }
    }

    /// Writes to a table.
    pub(crate) async fn write(
        &mut self,
        unit: u8,
        address: u16,
        (words, many): (&Words, bool),
        timing: Timing,
    ) -> Result<(), Failure> {
        let request = match words {
            Words::Bits(bits) => match bits.as_slice() {
                [bit] if !many => Request::WriteSingleCoil(address, *bit),
                bits => Request::WriteMultipleCoils(address, bits.into()),
            },
            Words::Registers(words) => match words.as_slice() {
                [word] if !many => Request::WriteSingleRegister(address, *word),
                words => Request::WriteMultipleRegisters(address, words.into()),
            },
        };
        let request = request.into_owned();
        let response = self.call(unit, request.clone(), timing).await?;
        // Over TCP the number of the request says it.
        if self.is_line() && !confirms(&request, &response) {
            return Err(self.nonsense("the answer is that to another write", timing));
        }
        Ok(())
    }

    async fn call(
        &mut self,
        unit: u8,
        request: Request<'static>,
        timing: Timing,
    ) -> Result<Response, Failure> {
        let mut last = Failure::Silent;
        for _ in 0..=timing.retries {
            if let Some((until, why)) = &self.away {
                if Instant::now() < *until {
                    return Err(Failure::Away(why.clone()));
                }
                self.away = None;
            }
            match self.attempt(unit, request.clone(), timing).await {
                Ok(response) => {
                    self.works();
                    return response.map_err(|code| Failure::Exception(code.into()));
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn attempt(
        &mut self,
        unit: u8,
        request: Request<'static>,
        timing: Timing,
    ) -> Result<Result<Response, ExceptionCode>, Failure> {
        if self.context.is_none() {
            self.context = Some(self.connect().await?);
        }
        sleep_until(self.quiet_since + timing.delay).await;
        let Some(context) = &mut self.context else {
            return Err(Failure::Silent);
        };
        context.set_slave(Slave(unit));
        let answer = timeout(timing.timeout, context.call(request)).await;
        self.quiet_since = Instant::now();
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(self.nonsense(&error.to_string(), timing)),
            // One unit's silence says nothing of the endpoint.
            Err(_) => {
                self.hang_up(timing);
                Err(Failure::Silent)
            }
        }
    }

    async fn connect(&mut self) -> Result<Context, Failure> {
        let opened = match &self.endpoint {
            Endpoint::Tcp { host, port } => {
                let stream = timeout(CONNECT, TcpStream::connect((host.as_str(), *port))).await;
                stream
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .and_then(|stream| {
                        stream.set_nodelay(true)?;
                        Ok(tcp::attach(stream))
                    })
            }
            Endpoint::Rtu(line) => Port::open(line).map(rtu::attach),
        };
        opened.map_err(|error| {
            self.failures = PATIENCE;
            self.failed(&error.to_string());
            Failure::Away(error.to_string())
        })
    }

    /// What came is no answer: the connection cannot be trusted any more.
    fn nonsense(&mut self, why: &str, timing: Timing) -> Failure {
        self.hang_up(timing);
        self.failed(why);
        Failure::Away(why.to_owned())
    }

    /// The answer to the last request may be yet to come.
    fn hang_up(&mut self, timing: Timing) {
        self.context = None;
        if self.is_line() {
            self.quiet_since = Instant::now() + timing.timeout;
        }
    }

    const fn is_line(&self) -> bool {
        matches!(self.endpoint, Endpoint::Rtu(_))
    }

    fn failed(&mut self, why: &str) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= PATIENCE {
            let wait = pause(&mut self.backoff);
            warn!(endpoint = %self.endpoint, why, ?wait, "a Modbus endpoint does not work");
            self.away = Some((Instant::now() + wait, why.to_owned()));
        }
    }

    fn works(&mut self) {
        if self.failures >= PATIENCE {
            info!(endpoint = %self.endpoint, "a Modbus endpoint works again");
        }
        self.failures = 0;
        self.backoff.reset();
    }
}

/// Whether this can be the answer to this write, by its place. The value is left to reading it back: there
/// are devices that answer with what they made of it.
fn confirms(request: &Request<'_>, response: &Response) -> bool {
    match (request, response) {
        (Request::WriteSingleCoil(asked, _), Response::WriteSingleCoil(said, _))
        | (Request::WriteSingleRegister(asked, _), Response::WriteSingleRegister(said, _)) => asked == said,
        (Request::WriteMultipleCoils(asked, bits), Response::WriteMultipleCoils(said, count)) => {
            asked == said && bits.len() == usize::from(*count)
        }
        (Request::WriteMultipleRegisters(asked, words), Response::WriteMultipleRegisters(said, count)) => {
            asked == said && words.len() == usize::from(*count)
        }
        _ => false,
    }
}
