//! Who serves which protocol: takes registrations, and keeps one session a mapper.
//!
//! One mapper a protocol: two masters on one bus break both. The first one keeps its place as long as its
//! socket answers; one that started again elsewhere takes it over once the old socket is dead.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message as _;
use protocol::dmi;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{info, warn};

use super::caller::{Socket, answers};
use super::plan::{Accepted, Wanted};
use super::rows::{self, Registration, Rows, RowsError};
use super::service::Registering;
use super::session::{Session, wanted};
use crate::devices::Twins;

/// What the answer to a registration may hold; grpc-go takes 4 MiB. What is over it is sent by calls.
const REPLY_LIMIT: usize = 3 << 20;
/// The longest name of a protocol.
const PROTOCOL_LIMIT: usize = 253;
/// Protocols at a time, so that nobody fills the store by registering.
const MAPPERS: usize = 64;
/// How the names of edgecore's own drivers begin.
const DRIVERS: &str = "tombolo/";

/// The mappers of this node.
pub(super) struct Roster {
    twins: Arc<dyn Twins>,
    rows: Arc<dyn Rows>,
    mappers: BTreeMap<String, Mapper>,
    sessions: JoinSet<()>,
}

struct Mapper {
    registration: Registration,
    stop: CancellationToken,
}

impl Roster {
    /// The mappers that were registered when edgecore ended.
    pub(super) async fn load(twins: Arc<dyn Twins>, rows: Arc<dyn Rows>) -> Result<Self, RowsError> {
        let mut roster = Self {
            twins,
            mappers: BTreeMap::new(),
            sessions: JoinSet::new(),
            rows: Arc::clone(&rows),
        };
        for (registration, accepted) in rows::load(&*rows).await? {
            info!(
                protocol = registration.protocol,
                name = registration.name,
                "a mapper was registered before"
            );
            roster.start(registration, accepted);
        }
        Ok(roster)
    }

    /// Takes registrations for ever; a session that panics ends it.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Registering>) -> Result<(), JoinError> {
        loop {
            tokio::select! {
                Some(ended) = self.sessions.join_next() => ended?,
                request = requests.recv() => match request {
                    Some(request) => self.register(request).await,
                    None => return Ok(()),
                }
            }
        }
    }

    async fn register(
        &mut self,
        Registering {
            mapper,
            with_data,
            reply,
        }: Registering,
    ) {
        if reply.is_closed() {
            // It did not wait.
            return;
        }
        let registration = match self.judge(mapper).await {
            Ok(registration) => registration,
            Err(status) => {
                info!(reason = status.message(), "a mapper was not registered");
                let _ = reply.send(Err(status));
                return;
            }
        };
        let wanted = wanted(&registration, &*self.twins);
        let (answer, accepted) = if with_data { told(&wanted) } else { <_>::default() };
        if let Err(error) = rows::register(&*self.rows, &registration, &accepted).await {
            warn!(error = &error as &dyn Error, "a mapper was not registered");
            let _ = reply.send(Err(Status::unavailable("the registration could not be stored")));
            return;
        }
        info!(
            protocol = registration.protocol,
            name = registration.name,
            version = registration.version,
            socket = %registration.address.display(),
            devices = accepted.devices.len(),
            "a mapper registered"
        );
        // One that does not hear the answer has accepted nothing.
        let heard = reply.send(Ok(answer)).is_ok();
        self.start(registration, if heard { accepted } else { Accepted::default() });
    }

    /// Whether a mapper may register, and as what.
    async fn judge(&self, mapper: dmi::MapperInfo) -> Result<Registration, Status> {
        let registration = read(mapper).map_err(Status::invalid_argument)?;
        let Some(first) = self
            .mappers
            .get(&registration.protocol)
            .map(|mapper| &mapper.registration)
        else {
            if self.mappers.len() >= MAPPERS {
                return Err(Status::resource_exhausted(format!(
                    "{MAPPERS} protocols have mappers already"
                )));
            }
            return Ok(registration);
        };
        if first.address != registration.address && answers(&first.address).await {
            return Err(Status::already_exists(format!(
                "{} is served by the mapper {} at {}",
                first.protocol,
                first.name,
                first.address.display()
            )));
        }
        Ok(registration)
    }

    /// Begins a session, in place of the protocol's earlier one.
    fn start(&mut self, registration: Registration, accepted: Accepted) {
        let stop = CancellationToken::new();
        let mapper = Mapper {
            registration: registration.clone(),
            stop: stop.clone(),
        };
        let protocol = registration.protocol.clone();
        let caller = Box::new(Socket(registration.address.clone()));
        let (twins, rows) = (Arc::clone(&self.twins), Arc::clone(&self.rows));
        if let Some(earlier) = self.mappers.insert(protocol, mapper) {
            earlier.stop.cancel();
        }
        let session = Session::new(registration, accepted, twins, rows, caller);
        self.sessions.spawn(session.run(stop));
    }
}

fn read(mapper: dmi::MapperInfo) -> Result<Registration, String> {
    let protocol = mapper.protocol;
    if protocol.is_empty() || protocol.len() > PROTOCOL_LIMIT {
        return Err(format!("a protocol has 1 to {PROTOCOL_LIMIT} characters"));
    }
    if protocol.starts_with(DRIVERS) {
        return Err(format!("{protocol} is served by edgecore itself"));
    }
    let address = String::from_utf8(mapper.address).map_err(|_| "its address is not UTF-8")?;
    // Some write it as gRPC names sockets.
    let address = PathBuf::from(address.strip_prefix("unix://").unwrap_or(&address));
    if !address.is_absolute() {
        return Err(format!("{:?} is no path of a socket", address.display()));
    }
    Ok(Registration {
        protocol,
        address,
        name: mapper.name,
        version: mapper.version,
        mark: rand::random(),
    })
}

/// The answer with models and devices, as many as fit, and what the mapper accepts with it.
fn told(wanted: &Wanted) -> (dmi::MapperRegisterResponse, Accepted) {
    let (mut answer, mut accepted) = <(dmi::MapperRegisterResponse, Accepted)>::default();
    let mut room = REPLY_LIMIT;
    let mut fits = |length: usize| {
        // The field's tag and length besides.
        let left = room.checked_sub(length + 8);
        room = left.unwrap_or(room);
        left.is_some()
    };
    for (name, model) in &wanted.models {
        if fits(model.message.encoded_len()) {
            answer.model_list.push(model.message.clone());
            accepted.models.insert(name.clone(), model.digest.clone());
        }
    }
    for (name, device) in &wanted.devices {
        if accepted.models.contains_key(&device.model) && fits(device.message.encoded_len()) {
            answer.device_list.push(device.message.clone());
            let held = (device.digest.clone(), device.model.clone());
            accepted.devices.insert(name.clone(), held);
        }
    }
    (answer, accepted)
}

#[cfg(test)]
mod tests;
