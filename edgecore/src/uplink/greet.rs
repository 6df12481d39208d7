//! Hello and its answer: from a connection to a session that the cloud has taken.

use std::sync::Arc;
use std::time::Duration;

use protocol::name::shown;
use protocol::transport::{ByteReader, ByteWriter, Connection, Stream, counted};
use protocol::wire::{
    FrameReader, FrameWriter, Hello, Open, Reject, SessionDown, SessionUp, VERSIONS, Welcome, session_down,
    session_up,
};
use tokio::time::timeout;

use super::ended::{Ended, pause};
use super::{Address, Uplink};

/// How long the cloud may take to answer Hello: it makes a write to the Lease first.
const WELCOME_WITHIN: Duration = Duration::from_secs(15);

/// A connection that breaks says why within a moment.
const REASON_WITHIN: Duration = Duration::from_millis(200);

/// A connection on which the cloud has said Welcome.
pub(super) struct Greeted {
    pub(super) address: Address,
    pub(super) connection: Arc<dyn Connection>,
    pub(super) ears: Ears,
    pub(super) mouth: Mouth,
    pub(super) welcome: Welcome,
}

/// What the cloud says on the session stream.
pub(super) struct Ears(FrameReader<ByteReader>);

/// What is said to it there.
pub(super) struct Mouth(FrameWriter<ByteWriter>);

impl Uplink {
    /// Dials and says Hello.
    pub(super) async fn meet(&self, address: &Address) -> Result<Greeted, Ended> {
        self.certify(address).await?;
        let connection = self.dialer.dial(address).await.map_err(Ended::NotDialled)?;
        self.greet(address, connection).await
    }

    /// A certificate that has ended is renewed before it is dialled with. Where nobody answers to that,
    /// it is dialled with all the same: this machine's clock may be ahead.
    async fn certify(&self, address: &Address) -> Result<(), Ended> {
        if !self.identity.has_ended() {
            return Ok(());
        }
        let Err(error) = self.dialer.renew(address).await else {
            return Ok(());
        };
        self.identity.not_renewed(error.to_string(), None);
        if error.is_verdict() {
            return Err(Ended::NotRenewed(error));
        }
        Ok(())
    }

    /// Says Hello: from here on the cloud may end the session that was before.
    pub(super) async fn greet(
        &self,
        address: &Address,
        connection: Arc<dyn Connection>,
    ) -> Result<Greeted, Ended> {
        let connection = counted(connection, self.link.budgets.traffic());
        let (ways, transport) = (self.dialer.ways(), connection.transport());
        let greeted = timeout(WELCOME_WITHIN, self.hello(&*connection)).await;
        match greeted.unwrap_or(Err(Ended::Silent { good: false })) {
            Ok((ears, mouth, welcome)) => {
                ways.welcomed(transport);
                Ok(Greeted {
                    address: address.clone(),
                    connection,
                    ears,
                    mouth,
                    welcome,
                })
            }
            Err(ended) => {
                let ended = gone(&*connection, ended).await;
                if matches!(ended, Ended::Silent { .. }) {
                    ways.fell_silent(transport, Duration::ZERO);
                }
                connection.close(ended.close_code(), "there is no session");
                Err(ended)
            }
        }
    }

    async fn hello(&self, connection: &dyn Connection) -> Result<(Ears, Mouth, Welcome), Ended> {
        let lost = |source| Ended::Lost { source, good: false };
        let Stream { recv, send } = connection.open(Open::session()).await.map_err(lost)?;
        let (mut ears, mut mouth) = (Ears(FrameReader::new(recv)), Mouth(FrameWriter::new(send)));
        let (cluster_id, epoch) = self.desired.cluster();
        let hello = Hello {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            boot_id: self.boot_id.to_vec().into(),
            software: concat!("edgecore/", env!("CARGO_PKG_VERSION")).to_owned(),
            cluster_id,
            epoch,
            ..Hello::default()
        };
        mouth.say(session_up::Kind::Hello(hello)).await?;
        match ears.hear().await? {
            session_down::Kind::Welcome(welcome) => {
                self.server_time.told(welcome.server_time_ms);
                Ok((ears, mouth, welcome))
            }
            session_down::Kind::Reject(reject) => {
                self.server_time.told(reject.server_time_ms);
                Err(rejected(&reject))
            }
            session_down::Kind::BeatAck(_)
            | session_down::Kind::Goodbye(_)
            | session_down::Kind::Degraded(_)
            | session_down::Kind::Superseded(_)
            | session_down::Kind::Renewed(_)
            | session_down::Kind::RenewRefused(_) => Err(Ended::Protocol("Welcome or Reject was expected")),
        }
    }
}

/// A stream that breaks because the whole connection does: the connection knows why.
async fn gone(connection: &dyn Connection, ended: Ended) -> Ended {
    if !matches!(ended, Ended::Wire(_) | Ended::Protocol(_)) {
        return ended;
    }
    match timeout(REASON_WITHIN, connection.closed()).await {
        Ok(source) => Ended::Lost { source, good: false },
        Err(_) => ended,
    }
}

fn rejected(reject: &Reject) -> Ended {
    Ended::Rejected {
        code: reject.code.into(),
        text: shown(&reject.text),
        retry_after: pause(reject.retry_after_ms),
    }
}

impl Ears {
    /// The next word of the cloud's.
    ///
    /// # Cancel safety
    ///
    /// Safe.
    pub(super) async fn hear(&mut self) -> Result<session_down::Kind, Ended> {
        loop {
            let frame = self.0.read::<SessionDown>().await?;
            let frame = frame.ok_or(Ended::Protocol("the session stream was closed"))?;
            // A newer cloudcore may say what this version does not know.
            if let Some(kind) = frame.kind {
                return Ok(kind);
            }
        }
    }
}

impl Mouth {
    pub(super) async fn say(&mut self, kind: session_up::Kind) -> Result<(), Ended> {
        Ok(self.0.write(&SessionUp { kind: Some(kind) }).await?)
    }
}
