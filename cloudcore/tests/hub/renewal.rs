//! Certificates that renew: over a session, after their end, and cloudcore's own.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use protocol::{
    clock::Clock,
    join::{ChannelValue, EnrollAnswer, EnrollRefusal, RENEW_PATH, RefusalCode, RenewRequest},
    tls::{self, IdentityError, authority_from_pem, certified},
    transport::{CloseCode, Transport, TransportError},
    wire::{Beat, Renew, RenewRefused, session_down, session_up},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    ending,
    world::{Device, Edge, World, post_over},
};

const DAY: Duration = Duration::from_hours(24);
/// What a certificate lives when nothing else was set.
const LIFE: Duration = Duration::from_hours(365 * 24);

/// Moves the server's clock on to so long after `since`.
fn pass(world: &World, since: SystemTime, span: Duration) {
    world.clock.saw_server_time(since + span);
}

async fn ask(edge: &mut Edge, csr: &str) -> Result<String, RenewRefused> {
    edge.say(session_up::Kind::Renew(Renew { csr: csr.to_owned() }))
        .await;
    match edge.hear().await {
        Some(session_down::Kind::Renewed(renewed)) => Ok(renewed.certificate),
        Some(session_down::Kind::RenewRefused(refused)) => Err(refused),
        other => panic!("{other:?}"),
    }
}

async fn beats(edge: &mut Edge) -> bool {
    edge.say(session_up::Kind::Beat(Beat { seq: 1, progress: 1 }))
        .await;
    matches!(edge.hear().await, Some(session_down::Kind::BeatAck(_)))
}

/// Why a dial leads to no session. Nothing is resumed, as an edge resumes nothing.
async fn turned_away(world: &World, device: &mut Device) -> TransportError {
    let certificate = device.certificate.clone();
    device.use_certificate(world, &certificate);
    match device.try_link(world.address).await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}

pub(crate) async fn a_session_outlives_its_first_certificate_when_it_was_renewed(transport: Transport) {
    let world = World::over(transport).await;
    let (start, mut device) = (world.clock.now(), world.device("edge-1").await);
    let (mut edge, welcome) = device.dial(world.address, "").await;
    let Some(session_down::Kind::Welcome(welcome)) = welcome else {
        panic!("{welcome:?}")
    };
    assert_eq!(Duration::from_millis(welcome.renew_before_ms), LIFE / 3);
    let first_end = world.view.first_certificate_end().unwrap();

    pass(&world, start, 250 * DAY);
    let certificate = ask(&mut edge, &device.csr()).await.unwrap();
    let leaf = authority_from_pem(certificate.as_bytes()).unwrap();
    let renewed = certified(world.authority.certificate(), &leaf).unwrap();
    assert_eq!(renewed.node, device.name);
    assert_eq!(renewed.key, device.key_hash());
    assert!(renewed.expires >= first_end + 249 * DAY);
    assert_eq!(world.view.first_certificate_end(), Some(renewed.expires));

    pass(&world, start, 400 * DAY);
    assert!(beats(&mut edge).await, "past the end of the first certificate");
    let told = turned_away(&world, &mut device).await;
    assert!(matches!(told, TransportError::CertificateExpired), "{told}");
    device.use_certificate(&world, &certificate);
    let mut newer = device.connect(world.address).await;
    pass(&world, start, 620 * DAY);
    newer
        .say(session_up::Kind::Beat(Beat { seq: 1, progress: 1 }))
        .await;
    let (code, why) = ending(&newer).await;
    assert_eq!(code, CloseCode::Forbidden);
    assert!(why.contains("certificate has ended"), "{why}");
}

pub(crate) async fn a_session_renews_its_own_name_and_key_and_nothing_else(transport: Transport) {
    let world = World::over(transport).await;
    let (device, other) = (world.device("edge-1").await, Device::new("edge-1"));
    let mut edge = device.connect(world.address).await;
    let refused = ask(&mut edge, &other.csr()).await.unwrap_err();
    assert!(refused.text.contains("edge-1"), "{}", refused.text);
    let refused = ask(&mut edge, &device.csr()).await.unwrap_err();
    assert!(refused.retry_after_ms > 0, "too soon: {}", refused.text);

    for csr in ["no request", &Device::new("edge-2").csr()] {
        let mut edge = device.connect(world.address).await;
        assert_eq!(ask(&mut edge, csr).await.unwrap_err().retry_after_ms, 0);
        assert!(beats(&mut edge).await, "the session goes on");
    }
    world.api.add_node("edge-1", false);
    let mut edge = device.connect(world.address).await;
    let refused = ask(&mut edge, &device.csr()).await.unwrap_err();
    assert!(refused.text.contains("not an edge node"), "{}", refused.text);
}

/// A connection to the port that shows no certificate, by the device's clock.
async fn nameless(world: &World) -> TlsStream<TcpStream> {
    let tls = tls::renewing_client(world.authority.certificate(), &Clock::system()).unwrap();
    let socket = TcpStream::connect(world.address).await.unwrap();
    let name = tls::SERVER_NAME.try_into().unwrap();
    let connector = TlsConnector::from(Arc::clone(&tls.config));
    connector.connect(name, socket).await.unwrap()
}

fn channel(stream: &TlsStream<TcpStream>) -> ChannelValue {
    ChannelValue::of_client(stream.get_ref().1).unwrap()
}

async fn post(
    stream: TlsStream<TcpStream>,
    certificate: &str,
    proof: String,
) -> Result<EnrollAnswer, EnrollRefusal> {
    let request = RenewRequest {
        certificate: certificate.to_owned(),
        proof,
    };
    let body = serde_json::to_vec(&request).unwrap();
    let (status, answer) = post_over(stream, RENEW_PATH, &body).await.unwrap();
    if status == 200 {
        Ok(serde_json::from_slice(&answer).unwrap())
    } else {
        Err(serde_json::from_slice(&answer).unwrap())
    }
}

/// Renews as a device does that comes back.
pub(crate) async fn come_back(world: &World, device: &Device) -> Result<EnrollAnswer, EnrollRefusal> {
    let stream = nameless(world).await;
    let proof = device.prove(&channel(&stream));
    post(stream, &device.certificate, proof).await
}

pub(crate) async fn a_device_renews_by_itself_for_ninety_days_after_the_end(transport: Transport) {
    let world = World::over(transport).await;
    let (start, mut device) = (world.clock.now(), world.device("edge-1").await);
    let edge = device.connect(world.address).await;
    pass(&world, start, LIFE + 80 * DAY);
    let mut edge = edge;
    edge.say(session_up::Kind::Beat(Beat { seq: 1, progress: 1 }))
        .await;
    assert_eq!(ending(&edge).await.0, CloseCode::Forbidden);
    let told = turned_away(&world, &mut device).await;
    assert!(matches!(told, TransportError::CertificateExpired), "{told}");

    let first = device.certificate.clone();
    let answer = come_back(&world, &device).await.unwrap();
    assert_eq!(answer.cluster_id, "cluster-1");
    device.use_certificate(&world, &answer.certificate);
    device.connect(world.address).await;

    device.use_certificate(&world, &first);
    pass(&world, start, LIFE + 91 * DAY);
    let refused = come_back(&world, &device).await.unwrap_err();
    assert_eq!(refused.code, RefusalCode::EndedTooLongAgo);
    assert!(refused.text.contains("edgecore join"), "{}", refused.text);
}

#[tokio::test]
async fn a_banned_a_replaced_and_a_removed_device_do_not_come_back() {
    let world = World::start().await;
    let start = world.clock.now();
    let (banned, replaced, removed) = (
        world.device("edge-1").await,
        world.device("edge-2").await,
        world.device("edge-3").await,
    );
    world.authority.ban(&banned.name).await.unwrap();
    let token = world
        .token(|spec| (spec.node, spec.replace_key) = (Some("edge-2".parse().unwrap()), true))
        .await;
    Device::new("edge-2")
        .enrol(world.address, &token)
        .await
        .unwrap()
        .unwrap();
    assert!(world.authority.forget(&removed.name).await.unwrap());
    pass(&world, start, LIFE + DAY);
    for (device, code) in [
        (&banned, RefusalCode::Banned),
        (&replaced, RefusalCode::KeyDiffers),
        (&removed, RefusalCode::NotEnrolled),
    ] {
        let refused = come_back(&world, device).await.unwrap_err();
        assert_eq!(refused.code, code, "{}", refused.text);
        assert!(
            refused.text.contains("cloudcore token create"),
            "{}",
            refused.text
        );
    }
}

#[tokio::test]
async fn a_proof_is_good_on_its_own_connection_with_its_own_key_alone() {
    let world = World::start().await;
    let (device, thief) = (world.device("edge-1").await, Device::new("edge-1"));
    let refused = |answer: Result<EnrollAnswer, EnrollRefusal>| {
        let refused = answer.unwrap_err();
        assert_eq!(refused.code, RefusalCode::BadRequest, "{}", refused.text);
        refused.text
    };
    let (one, two) = (nameless(&world).await, nameless(&world).await);
    let proof = device.prove(&channel(&one));
    let told = refused(post(two, &device.certificate, proof.clone()).await);
    assert!(told.contains("on this connection"), "{told}");
    assert!(post(one, &device.certificate, proof).await.is_ok());

    let stream = nameless(&world).await;
    let proof = thief.prove(&channel(&stream));
    refused(post(stream, &device.certificate, proof).await);

    // The certificate of another cluster's node, with the right proof of its key.
    let elsewhere = World::start().await;
    let stranger = elsewhere.device("edge-1").await;
    let stream = nameless(&world).await;
    let proof = stranger.prove(&channel(&stream));
    let told = refused(post(stream, &stranger.certificate, proof).await);
    assert_eq!(told, IdentityError::Foreign.to_string());
    refused(post(nameless(&world).await, "no certificate", String::new()).await);
}

pub(crate) async fn a_server_certificate_is_made_anew_and_served_at_once(transport: Transport) {
    let world = World::over(transport).await;
    let (start, mut device) = (world.clock.now(), world.device("edge-1").await);
    device.connect(world.address).await;
    // By both clocks the first one has ended: whoever is still served it cannot connect.
    pass(&world, start, 100 * DAY);
    device.clock.saw_server_time(start + 100 * DAY);
    let certificate = device.certificate.clone();
    device.use_certificate(&world, &certificate);
    device.connect(world.address).await;
}
