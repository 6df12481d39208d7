//! Devices that post what they measure: `POST /devices/<namespace>/<name>` with a bearer token and a body.
//!
//! **Invariant:** whoever has no token of the device learns nothing, not even whether there is such a
//! device; a device hears 204 only when its values are as safe as the twins promise.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use protocol::devices::{DeviceName, DeviceState};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::body::observe;
use super::client::MOST;
use super::config::Settled;
use super::door::Door;
use crate::backoff::Backoff;
use crate::devices::drivers::driver::{Hands, Units};
use crate::devices::drivers::extract::Payload;
use crate::devices::drivers::outgoing::Outgoing;
use crate::devices::drivers::pace::pause;
use crate::devices::{Clue, Observation, Origin, Refused, Report, Seen, Twins};

/// How many devices may speak at once.
const CONNECTIONS: usize = 64;
/// How long one may take to say all, and to hear the answer.
const WHOLE: Duration = Duration::from_secs(15);
/// How often tokens are read anew.
const AGAIN: Duration = Duration::from_secs(30);
/// How long reports may take at the end.
const GRACE: Duration = Duration::from_secs(1);
/// The most bytes of a head.
const HEAD: usize = 16 * 1024;

/// What a request is judged by.
struct Desk {
    twins: Arc<dyn Twins>,
    now: RwLock<(Units<Settled>, Door)>,
}

/// Hears devices until it is told to stop.
pub(super) async fn run(
    listen: SocketAddr,
    credentials: PathBuf,
    mut units: watch::Receiver<Units<Settled>>,
    hands: Hands,
) {
    let mut outgoing = Outgoing::new(Arc::clone(&hands.twins));
    let desk = Arc::new(Desk {
        twins: Arc::clone(&hands.twins),
        now: RwLock::default(),
    });
    let mut shut = BTreeSet::new();
    let mut heard = JoinSet::new();
    heard.spawn(listen_on(listen, Arc::clone(&desk)));
    loop {
        let all = Arc::clone(&units.borrow_and_update());
        let door = Door::read(&all, &credentials);
        // What was said of one that may push again counts no more: it has spoken for itself since.
        for device in shut.iter().filter(|device| !door.shut.contains_key(device)) {
            outgoing.forget(device);
        }
        shut = door.shut.keys().cloned().collect();
        for (device, why) in &door.shut {
            tell(&mut outgoing, &all, device, why);
        }
        *desk.now.write() = (all, door);
        tokio::select! {
            () = hands.stop.cancelled() => break,
            alive = units.changed() => if alive.is_err() { break },
            () = sleep(AGAIN) => {}
            // For ever, as long as one waits for it.
            () = async { loop { outgoing.settled().await; } } => {}
            _ = heard.join_next() => break,
        }
    }
    heard.shutdown().await;
    outgoing.drain(GRACE).await;
}

/// A device that cannot push hears why on what it would have pushed.
fn tell(outgoing: &mut Outgoing, all: &Units<Settled>, device: &DeviceName, why: &str) {
    let Some(unit) = all.get(device) else { return };
    for (property, settled) in &unit.settings.properties {
        if settled.pushed.is_some() {
            let fault = Observation::Fault(format!("push: {why}"));
            outgoing.seen(device, property, fault, Clue::default());
        }
    }
    if !unit.settings.asked {
        outgoing.state(device, DeviceState::Unhealthy);
    }
}

/// Listens, and tries again when that fails: an address may come later than edgecore.
async fn listen_on(listen: SocketAddr, desk: Arc<Desk>) {
    let mut backoff = Backoff::default();
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => {
                info!(%listen, "devices may push");
                backoff.reset();
                accept(&listener, &desk).await;
            }
            Err(error) => {
                let wait = pause(&mut backoff);
                warn!(%listen, %error, ?wait, "devices cannot push: devices.http_listen cannot be listened on");
                sleep(wait).await;
            }
        }
    }
}

async fn accept(listener: &TcpListener, desk: &Arc<Desk>) {
    let mut talks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if talks.len() < CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    talks.spawn(timeout(WHOLE, talk(stream, Arc::clone(desk))));
                }
                Err(error) => {
                    warn!(%error, "a device that wants to push cannot be heard");
                    sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = talks.join_next(), if !talks.is_empty() => {}
        }
    }
}

async fn talk(stream: TcpStream, desk: Arc<Desk>) {
    let answer = |request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request).await) }
    };
    let mut http = hyper::server::conn::http1::Builder::new();
    // One request a connection: whoever hangs on to one keeps others out.
    http.keep_alive(false).max_buf_size(HEAD);
    let talked = http
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
    if let Err(error) = talked {
        tracing::debug!(%error, "a device that pushed was not heard out");
    }
}

impl Desk {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(device) = self.admitted(&request) else {
            let mut answer = said(
                StatusCode::UNAUTHORIZED,
                "a bearer token of this device is needed",
            );
            let bearer = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(WWW_AUTHENTICATE, bearer);
            return answer;
        };
        if request.method() != Method::POST {
            let mut answer = said(StatusCode::METHOD_NOT_ALLOWED, "POST is meant");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let body = match Limited::new(request.into_body(), MOST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return said(StatusCode::PAYLOAD_TOO_LARGE, "more than 65536 bytes");
            }
            Err(_) => return said(StatusCode::BAD_REQUEST, "the body breaks off"),
        };
        self.take(device, &body).await
    }

    /// The device that a request speaks for, if its token does.
    fn admitted(&self, request: &Request<Incoming>) -> Option<DeviceName> {
        let path = request.uri().path().strip_prefix("/devices/")?;
        let (namespace, name) = path.split_once('/')?;
        let device = DeviceName::new(namespace, name);
        let token = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = token.split_once(' ')?;
        let bearer = scheme.eq_ignore_ascii_case("bearer");
        (bearer && self.now.read().1.opens(&device, token.trim())).then_some(device)
    }

    async fn take(&self, device: DeviceName, body: &[u8]) -> Response<Full<Bytes>> {
        let units = Arc::clone(&self.now.read().0);
        let Some(unit) = units.get(&device) else {
            return said(
                StatusCode::SERVICE_UNAVAILABLE,
                "the device is not served any more",
            );
        };
        let seen = read(&unit.settings, body);
        let fault = seen.iter().find_map(|seen| {
            let Observation::Fault(why) = &seen.observation else {
                return None;
            };
            Some(format!("{}: {why}", seen.property))
        });
        if seen.is_empty() {
            return said(
                StatusCode::BAD_REQUEST,
                "nothing in it is a property of this device",
            );
        }
        // One that only pushes is there when it does.
        if !unit.settings.asked
            && let Err(error) = self
                .twins
                .state(device.clone(), state(unit.faulty || fault.is_some()))
                .await
        {
            return refused(&error);
        }
        let report = Report {
            device,
            seen,
            event_id: String::new(),
            origin: Origin::Driver,
        };
        match (self.twins.report(report).await, fault) {
            (Ok(_), None) => Response::builder()
                .status(StatusCode::NO_CONTENT)
                .body(Full::default())
                .unwrap_or_default(),
            (Ok(_), Some(why)) => said(StatusCode::BAD_REQUEST, &why),
            (Err(error), _) => refused(&error),
        }
    }
}

const fn state(bad: bool) -> DeviceState {
    if bad {
        DeviceState::Unhealthy
    } else {
        DeviceState::Online
    }
}

/// What a body says of the device's properties.
fn read(settled: &Settled, body: &[u8]) -> Vec<Seen> {
    let payload = Payload::new(body);
    let properties = settled.properties.iter();
    properties
        .filter_map(|(name, property)| {
            let (observation, clue) = observe(property, property.pushed.as_ref()?, &payload)?;
            Some(Seen {
                property: name.clone(),
                observation,
                clue,
            })
        })
        .collect()
}

fn refused(error: &Refused) -> Response<Full<Bytes>> {
    let status = match error {
        Refused::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Refused::BadWish { .. } => StatusCode::BAD_REQUEST,
        Refused::UnknownDevice(_) | Refused::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut answer = said(status, &error.to_string());
    if status == StatusCode::SERVICE_UNAVAILABLE {
        answer
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("5"));
    }
    answer
}

fn said(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}
