//! The first frames: Hello in; Welcome, or Reject, out.

use std::{sync::Arc, time::Duration};

use protocol::{
    desired::MAX_INVENTORY,
    name::NodeName,
    reported::{EVENT_WINDOW, STATE_WINDOW},
    tls::PeerIdentity,
    transport::{ByteReader, ByteWriter, CloseCode, Connection, HANDSHAKE_LIMIT, Stream, Transport},
    wire::{
        FrameReader, FrameWriter, Hello, Limits, Reject, RejectCode, SessionDown, SessionUp, Welcome, open,
        session_down, session_up,
    },
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Shared,
    admission::Place,
    greeting::{judge, reject},
    registry::Registered,
    seams::{Lease, SessionInfo},
};
use crate::{
    cluster::{LeaseError, WriteError},
    gcra::Rate,
    tunnel::TUNNELS_MAX,
};

/// How often one key may ask for a session: each asks the API server twice, and one of that is a write. An honest
/// edge backs off by itself.
pub(super) const GREETINGS: Rate = Rate {
    every: Duration::from_secs(2),
    burst: 20,
};
/// How long an edge may take to take its Welcome, or to read its rejection and hang up.
const LISTEN_LIMIT: Duration = Duration::from_secs(3);
/// How long the cluster may take over a greeting. An edge waits a little longer for its Welcome; a
/// Lease taken after it has gone could be its newer session's.
const WELCOME_LIMIT: Duration = Duration::from_secs(14);
/// After this an API server that was away may be back.
const API_PAUSE: Duration = Duration::from_secs(5);
/// Edges that were told to come back do so spread over this time: mostly they were told together.
const COME_BACK_SPREAD_MS: u64 = 3000;

/// A session that was taken.
pub(super) struct Greeted {
    pub(super) info: SessionInfo,
    pub(super) registered: Registered,
    pub(super) lease: Box<dyn Lease>,
    pub(super) reader: FrameReader<ByteReader>,
    pub(super) writer: FrameWriter<ByteWriter>,
    /// What has become of keys and bans since this one was looked at.
    pub(super) changes: watch::Receiver<u64>,
}

/// Takes a session, or says why not: to the edge, and in words for the log.
pub(super) async fn greet(
    shared: &Arc<Shared>,
    connection: &dyn Connection,
    peer: &PeerIdentity,
    place: &Place,
) -> Result<Greeted, String> {
    let first = timeout(HANDSHAKE_LIMIT, first_words(connection)).await;
    let (hello, reader, mut writer) = match first.unwrap_or_else(|_| Err("no Hello came in time".to_owned()))
    {
        Ok(first) => first,
        Err(why) => {
            connection.close(CloseCode::Protocol, &why);
            return Err(why);
        }
    };
    place.asked();
    // Before the key is looked at: a ban that comes while the Lease is taken is the session's to notice.
    let changes = shared.settings.authority.changes();
    let welcomed = tokio::select! {
        welcomed = timeout(WELCOME_LIMIT, welcome(shared, peer, &hello, connection.transport())) => {
            welcomed.unwrap_or_else(|_| Err(away("the cluster's API server is too slow just now")))
        }
        gone = connection.closed() => return Err(format!("the edge left before its Welcome: {gone}")),
    };
    place.answered();
    match welcomed {
        Ok((info, lease, welcome)) => {
            let registered = shared.registry.enter(peer, &info.session);
            let said = SessionDown {
                kind: Some(session_down::Kind::Welcome(welcome)),
            };
            // An edge that gives no credit for it would stay for ever, and nobody would look at its key again.
            let Ok(written) = timeout(LISTEN_LIMIT, writer.write(&said)).await else {
                let why = "the edge does not take its Welcome";
                connection.close(CloseCode::Silent, why);
                return Err(why.to_owned());
            };
            written.map_err(|error| error.to_string())?;
            Ok(Greeted {
                info,
                registered,
                lease,
                reader,
                writer,
                changes,
            })
        }
        Err(mut reject) => {
            reject.server_time_ms = shared.settings.clock.now_millis();
            let why = reject.text.clone();
            turn_away(connection, writer, reject).await;
            Err(why)
        }
    }
}

type FirstWords = (Hello, FrameReader<ByteReader>, FrameWriter<ByteWriter>);

async fn first_words(connection: &dyn Connection) -> Result<FirstWords, String> {
    let (open, stream) = connection.accept().await.map_err(|error| error.to_string())?;
    if !matches!(open.kind, Some(open::Kind::Session(_))) {
        return Err("the first stream is not the session's".to_owned());
    }
    let Stream { recv, send } = stream;
    let mut reader = FrameReader::new(recv);
    match reader.read::<SessionUp>().await {
        Ok(Some(SessionUp {
            kind: Some(session_up::Kind::Hello(hello)),
        })) => Ok((hello, reader, FrameWriter::new(send))),
        Ok(_) => Err("the first frame is not a Hello".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Judges the edge, and takes its Lease.
async fn welcome(
    shared: &Shared,
    peer: &PeerIdentity,
    hello: &Hello,
    transport: Transport,
) -> Result<(SessionInfo, Box<dyn Lease>, Welcome), Reject> {
    let settings = &shared.settings;
    let cluster_id = settings.authority.cluster_id();
    let version = judge(hello, cluster_id)?;
    let now = Instant::now();
    if let Err(opens) = shared.greetings.take(&peer.key, now) {
        let text = "this device asks for a session too often";
        return Err(retry(RejectCode::Busy, text, opens - now));
    }
    match settings.authority.admit(peer).await {
        Ok(Ok(())) => {}
        Ok(Err(rejected)) => return Err(reject(rejected.code(), rejected.to_string())),
        Err(error) => {
            warn!(
                error = &error as &dyn std::error::Error,
                "keys could not be checked"
            );
            return Err(away("cloudcore cannot check this device's key just now"));
        }
    }
    let session = new_session(&settings.replica, &peer.node);
    let lease = settings
        .leases
        .take(&peer.node, &session)
        .await
        .map_err(|error| no_lease(&error))?;
    let welcome = Welcome {
        version,
        cluster_id: cluster_id.to_owned(),
        epoch: settings.authority.epoch(),
        replica: settings.replica.clone(),
        keepalive_ms: millis(transport.keepalive()),
        limits: Some(limits()),
        api_reachable: settings.leases.reachable(),
        server_time_ms: settings.clock.now_millis(),
        session_id: session.clone(),
        renew_before_ms: millis(settings.authority.renew_before()),
        takes_events: true,
    };
    let info = SessionInfo {
        peer: peer.clone(),
        session,
        boot_id: hello.boot_id.to_vec(),
        version,
        lost: CancellationToken::new(),
    };
    Ok((info, lease, welcome))
}

fn limits() -> Limits {
    let number = |limit: usize| u32::try_from(limit).unwrap_or(u32::MAX);
    Limits {
        tunnels: number(TUNNELS_MAX),
        inventory: number(MAX_INVENTORY),
        report_window: number(STATE_WINDOW),
        event_window: number(EVENT_WINDOW),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn new_session(replica: &str, node: &NodeName) -> String {
    let mut random = [0_u8; 8];
    rand::fill(&mut random);
    format!("{replica}/{node}/{}", hex::encode(random))
}

fn no_lease(error: &LeaseError) -> Reject {
    warn!(
        error = error as &dyn std::error::Error,
        "the lease could not be taken"
    );
    match error {
        LeaseError::Write {
            source: WriteError::NotEnrolled { .. },
            ..
        } => reject(RejectCode::KeyNotAccepted, error_text(error)),
        LeaseError::Write {
            source: WriteError::NotOurs { .. },
            ..
        } => reject(RejectCode::NameTaken, error_text(error)),
        LeaseError::Contended { .. } => retry(RejectCode::Busy, &error_text(error), API_PAUSE),
        LeaseError::Superseded { .. } | LeaseError::Write { .. } => {
            away("cloudcore cannot write this node's lease just now")
        }
    }
}

fn error_text(error: &dyn std::error::Error) -> String {
    error
        .source()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

fn away(text: &str) -> Reject {
    retry(RejectCode::ApiUnreachable, text, API_PAUSE)
}

/// A rejection that says when to come back; not to all the same, or they would come in step for ever.
fn retry(code: RejectCode, text: &str, after: Duration) -> Reject {
    Reject {
        retry_after_ms: millis(after) + rand::random_range(0..COME_BACK_SPREAD_MS),
        ..reject(code, text)
    }
}

/// Says why, waits until that was read, and closes.
async fn turn_away(connection: &dyn Connection, mut writer: FrameWriter<ByteWriter>, reject: Reject) {
    let text = reject.text.clone();
    let said = SessionDown {
        kind: Some(session_down::Kind::Reject(reject)),
    };
    let tell = async {
        writer.write(&said).await.ok()?;
        writer.finish().await.ok()?;
        Some(connection.closed().await)
    };
    // However that went, the connection is closed next.
    let _ = timeout(LISTEN_LIMIT, tell).await;
    connection.close(CloseCode::Forbidden, &text);
}
