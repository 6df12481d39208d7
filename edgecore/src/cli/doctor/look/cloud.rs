//! Looks whether cloudcore is reached, by each transport, and what time it has there.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::{join_all, select_ok};
use protocol::clock::{Clock, millis};
use protocol::join::EnrollRefusal;
use protocol::tls::{self, TlsFault};
use protocol::transport::TransportError;

use super::super::facts::{Cause, Miss, Seen, Way};
use super::{LONG, whole, within};
use crate::config::{Address, Config};
use crate::identity::{Held, Identity};
use crate::uplink::{DialError, Dialer, ReachError, enrolment};

/// More addresses than this are not tried.
const ADDRESSES: usize = 8;
/// Where cloudcore has nothing; it says so with its time, and does nothing else.
const NOTHING: &str = "/v1/time";

fn addresses(config: &Config) -> &[Address] {
    &config.addresses[..config.addresses.len().min(ADDRESSES)]
}

/// Each transport to each address; without an identity none is tried.
pub(super) async fn ways(config: &Config, held: Option<&Held>, clock: &Clock) -> Vec<Way> {
    let identity = held.and_then(|held| {
        let (credentials, authority) = (held.credentials.clone(), held.authority.clone());
        Identity::fixed(config.node_name.clone(), credentials, authority, clock.clone()).ok()
    });
    let dialer = identity.map(|own| Dialer::new(Arc::new(own), clock.clone(), config.proxy.clone()));
    let tries = addresses(config)
        .iter()
        .map(|address| both(dialer.as_ref(), address));
    join_all(tries).await.into_iter().flatten().collect()
}

async fn both(dialer: Option<&Dialer>, address: &Address) -> [Way; 2] {
    let all = |miss: &Miss| [true, false].map(|is_quic| way(address, is_quic, Err(miss.clone())));
    let Some(dialer) = dialer else {
        return all(&Miss {
            why: "not tried: the node's identity cannot be used".to_owned(),
            cause: Cause::Identity,
        });
    };
    let [quic, websocket] = dialer.each_way(address);
    let (quic, websocket) = tokio::join!(within(LONG, quic), within(LONG, websocket));
    let made = |tried: Seen<Result<(), DialError>>| {
        let tried = tried.map_err(|why| Miss {
            why,
            cause: Cause::Silence,
        });
        tried.and_then(|tried| {
            tried.map_err(|error| Miss {
                why: whole(&error),
                cause: cause(&error),
            })
        })
    };
    [
        way(address, true, made(quic)),
        way(address, false, made(websocket)),
    ]
}

fn way(address: &Address, is_quic: bool, made: Result<(), Miss>) -> Way {
    Way {
        address: address.to_string(),
        is_quic,
        made,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is not told apart is something on the way"
)]
fn cause(error: &DialError) -> Cause {
    match error {
        DialError::Identity(_) => Cause::Identity,
        DialError::Unreached { source, .. } => match source {
            ReachError::Unresolved(_) => Cause::Name,
            ReachError::Refused(_) => Cause::Silence,
            _ => Cause::Proxy,
        },
        DialError::Transport { source, .. } => match source {
            TransportError::Tls(TlsFault::Expired { .. } | TlsFault::NotYetValid { .. }) => Cause::Clock,
            TransportError::Tls(_) => Cause::Stranger,
            TransportError::CertificateRefused(_) => Cause::Refused,
            TransportError::CertificateExpired => Cause::Ended,
            _ => Cause::Silence,
        },
        // The addresses of one name; the first that says more than silence.
        DialError::NoWay(ways) => {
            let mut causes = ways.iter().map(cause);
            causes
                .find(|cause| *cause != Cause::Silence)
                .unwrap_or(Cause::Silence)
        }
    }
}

/// Seconds by which this clock is ahead of cloudcore's, as the first address says that answers.
pub(super) async fn ahead(config: &Config, held: Option<&Held>, clock: &Clock) -> Seen<i64> {
    let held = held.ok_or("cloudcore was not asked")?;
    let asked = addresses(config)
        .iter()
        .map(|address| Box::pin(time_at(address, config, held, clock)));
    let told = within(LONG, select_ok(asked)).await??.0;
    let seconds = |time: SystemTime| i64::try_from(millis(time) / 1000).unwrap_or(i64::MAX);
    let there = i64::try_from(told / 1000).unwrap_or(i64::MAX);
    Ok(seconds(clock.machine_time().max(UNIX_EPOCH)).saturating_sub(there))
}

async fn time_at(address: &Address, config: &Config, held: &Held, clock: &Clock) -> Result<u64, String> {
    let client = tls::renewing_client(&held.authority, clock).map_err(|error| error.to_string())?;
    let stream = enrolment::greet(address, config.proxy.as_ref(), &client).await?;
    let (_, answer) = enrolment::post(stream, NOTHING, &()).await?;
    let refusal: EnrollRefusal = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    Ok(refusal.server_time_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::transport::Transport;

    fn unreached(source: ReachError) -> DialError {
        DialError::Unreached {
            transport: Transport::WebSocket,
            source,
        }
    }

    fn failed(source: TransportError) -> DialError {
        DialError::Transport {
            transport: Transport::Quic,
            remote: "192.0.2.1:1".parse().unwrap(),
            source,
        }
    }

    #[test]
    fn what_is_to_be_mended_is_told_by_the_error() {
        assert_eq!(
            cause(&unreached(ReachError::Unresolved(String::new()))),
            Cause::Name
        );
        assert_eq!(
            cause(&unreached(ReachError::Unauthorized(String::new()))),
            Cause::Proxy
        );
        assert_eq!(cause(&unreached(ReachError::Refused(Vec::new()))), Cause::Silence);
        assert_eq!(
            cause(&failed(TransportError::Tls(TlsFault::OtherName))),
            Cause::Stranger
        );
        let by = std::time::Duration::from_secs(1);
        let ahead = || failed(TransportError::Tls(TlsFault::Expired { by }));
        assert_eq!(cause(&ahead()), Cause::Clock);
        assert_eq!(cause(&failed(TransportError::CertificateExpired)), Cause::Ended);
        let silent = failed(TransportError::Reset);
        assert_eq!(cause(&DialError::NoWay(vec![silent, ahead()])), Cause::Clock);
    }
}
