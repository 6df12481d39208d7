//! Simulated Modbus slaves, and others that only pretend to be.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};

/// The memory of a slave: holding registers and coils, of one unit or of all.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    registers: BTreeMap<u16, u16>,
    coils: BTreeMap<u16, bool>,
    silent_unit: Option<u8>,
    mute_unit: Option<u8>,
    late: VecDeque<Duration>,
    misplaces: bool,
    requests: Vec<String>,
}

impl Memory {
    pub(crate) fn with(registers: &[(u16, u16)]) -> Self {
        let memory = Self::default();
        memory.0.lock().registers.extend(registers.iter().copied());
        memory
    }

    pub(crate) fn set(&self, address: u16, word: u16) {
        self.0.lock().registers.insert(address, word);
    }

    pub(crate) fn coil(&self, address: u16, on: bool) {
        self.0.lock().coils.insert(address, on);
    }

    pub(crate) fn is_on(&self, address: u16) -> bool {
        self.0.lock().coils[&address]
    }

    pub(crate) fn holds(&self, address: u16) -> u16 {
        self.0.lock().registers[&address]
    }

    /// This unit never answers.
    pub(crate) fn silence(&self, unit: u8) {
        self.0.lock().silent_unit = Some(unit);
    }

    /// This unit answers writes alone.
    pub(crate) fn answer_no_reads(&self, unit: u8) {
        self.0.lock().mute_unit = Some(unit);
    }

    /// Waits until it was asked this.
    pub(crate) async fn until_asked(&self, what: &str) {
        for _ in 0..1000 {
            if self.requests().iter().any(|request| request.contains(what)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{what} was never asked: {:?}", self.requests());
    }

    /// The next answers take so long each, in ms.
    pub(crate) fn answer_late(&self, delays: &[u64]) {
        self.0.lock().late = delays.iter().copied().map(Duration::from_millis).collect();
    }

    /// The next write is lost, and answered with the answer to another.
    pub(crate) fn misplace(&self) {
        self.0.lock().misplaces = true;
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.0.lock().requests.clone()
    }
}

impl Service for Memory {
    type Request = SlaveRequest<'static>;
    type Response = Option<Response>;
    type Exception = ExceptionCode;
    type Future = BoxFuture<'static, Result<Option<Response>, ExceptionCode>>;

    fn call(&self, asked: SlaveRequest<'static>) -> Self::Future {
        let mut inner = self.0.lock();
        inner
            .requests
            .push(format!("{} {:?}", asked.slave, asked.request));
        let is_read = matches!(
            asked.request,
            Request::ReadCoils(..) | Request::ReadHoldingRegisters(..)
        );
        if inner.silent_unit == Some(asked.slave) || is_read && inner.mute_unit == Some(asked.slave) {
            return async { Ok(None) }.boxed();
        }
        let answer = inner.answer(asked.request).map(Some);
        let late = inner.late.pop_front().unwrap_or_default();
        async move {
            tokio::time::sleep(late).await;
            answer
        }
        .boxed()
    }
}

impl Inner {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other function is one that this slave does not have"
    )]
    fn answer(&mut self, request: Request<'static>) -> Result<Response, ExceptionCode> {
        let missing = ExceptionCode::IllegalDataAddress;
        match request {
            Request::ReadHoldingRegisters(address, count) => {
                let word = |offset| self.registers.get(&(address + offset)).copied();
                let words = (0..count).map(word).collect::<Option<_>>();
                words.map(Response::ReadHoldingRegisters).ok_or(missing)
            }
            Request::ReadCoils(address, count) => {
                let coil = |offset| self.coils.get(&(address + offset)).copied();
                (0..count)
                    .map(coil)
                    .collect::<Option<_>>()
                    .map(Response::ReadCoils)
                    .ok_or(missing)
            }
            Request::WriteSingleRegister(address, word) => {
                let held = self.registers.get_mut(&address).ok_or(missing)?;
                if std::mem::take(&mut self.misplaces) {
                    return Ok(Response::WriteSingleRegister(address + 1, word));
                }
                *held = word;
                Ok(Response::WriteSingleRegister(address, word))
            }
            Request::WriteMultipleRegisters(address, words) => {
                for (at, word) in (address..).zip(words.iter()) {
                    *self.registers.get_mut(&at).ok_or(missing)? = *word;
                }
                Ok(Response::WriteMultipleRegisters(
                    address,
                    u16::try_from(words.len()).unwrap(),
                ))
            }
            Request::WriteSingleCoil(address, on) => {
                *self.coils.get_mut(&address).ok_or(missing)? = on;
                Ok(Response::WriteSingleCoil(address, on))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

/// A slave that listens; gone when dropped.
pub(crate) struct Slave {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl Slave {
    pub(crate) async fn start(memory: &Memory) -> Self {
        Self::at(0, memory).await
    }

    pub(crate) async fn at(port: u16, memory: &Memory) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let memory = memory.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let connected = move |stream, address: SocketAddr| {
                let memory = memory.clone();
                async move { accept_tcp_connection(stream, address, move |_| Ok(Some(memory.clone()))) }
            };
            let _: io::Result<()> = Server::new(listener).serve(&connected, |_| {}).await;
        });
        Self { port, _tasks: tasks }
    }

    /// Takes every request, and answers with these bytes; none means never.
    pub(crate) async fn pretender(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut conversations = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                conversations.spawn(async move {
                    let mut request = [0; 260];
                    while let Ok(1..) = stream.read(&mut request).await {
                        if stream.write_all(answer).await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self { port, _tasks: tasks }
    }
}
