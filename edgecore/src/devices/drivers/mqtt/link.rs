//! One connection to a broker: MQTT 5, pumped by a task of its own, so that whoever waits for something
//! else never holds up a keep-alive.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, RetainForwardRule};
use rumqttc::v5::{AsyncClient, Event as Raw, EventLoop, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::encode::Message;
use crate::devices::Broker;
use crate::devices::drivers::credentials::Credentials;

/// Larger messages are refused by the broker, which knows this number.
const MAX_PACKET: u32 = 256 * 1024;
/// How long the broker keeps what came while edgecore was away.
const SESSION_EXPIRY: u32 = 3600;
/// How many messages wait here before the socket is left to fill.
const WAITING: usize = 512;
/// How many requests wait to be sent.
const REQUESTS: usize = 4096;
/// The most topics of one SUBSCRIBE.
const TOPICS: usize = 100;
/// Where Debian, Alpine and most others keep the authorities of the system.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What happens on a connection.
#[derive(Debug)]
pub(crate) enum Event {
    /// The broker answered; whether it had kept the session.
    Up {
        /// Whether the broker had kept the session.
        session_present: bool,
    },
    /// A message came.
    Message(Publish),
    /// The connection is gone, and why.
    Down(String),
}

/// Why a connection cannot even be tried.
#[derive(Debug, Error)]
#[error("TLS to the broker: {0}")]
pub(crate) struct NoTls(String);

/// One connection; ends with [`Event::Down`].
pub(crate) struct Link {
    client: AsyncClient,
    events: mpsc::Receiver<Event>,
    _pump: JoinSet<()>,
}

impl Link {
    /// Begins to connect.
    pub(crate) fn open(
        broker: &Broker,
        client_id: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Self, NoTls> {
        let mut options = MqttOptions::new(client_id, &broker.host, broker.port);
        options.set_clean_start(false);
        options.set_session_expiry_interval(Some(SESSION_EXPIRY));
        options.set_max_packet_size(Some(MAX_PACKET));
        options.set_keep_alive(Duration::from_secs(20));
        options.set_connection_timeout(10);
        if let Some((user, password)) = login(credentials) {
            options.set_credentials(user, password);
        }
        if broker.tls {
            let tls = tls(credentials)?;
            options.set_transport(Transport::Tls(TlsConfiguration::Rustls(Arc::new(tls))));
        }
        let (client, event_loop) = AsyncClient::new(options, REQUESTS);
        let (sender, events) = mpsc::channel(WAITING);
        let mut pump = JoinSet::new();
        pump.spawn(run(event_loop, sender));
        Ok(Self {
            client,
            events,
            _pump: pump,
        })
    }

    /// What happens next.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn next(&mut self) -> Event {
        let event = self.events.recv().await;
        event.unwrap_or_else(|| Event::Down("the connection ended".to_owned()))
    }

    /// Subscribes to topics; each with whether its retained message is wanted even where the broker has
    /// the subscription already. False if they have to be tried again.
    pub(crate) fn subscribe(&self, topics: &[(&str, bool)]) -> bool {
        let filter = |(topic, always): &(&str, bool)| {
            let mut filter = Filter::new(*topic, QoS::AtLeastOnce);
            filter.retain_forward_rule = if *always {
                RetainForwardRule::OnEverySubscribe
            } else {
                RetainForwardRule::OnNewSubscribe
            };
            filter
        };
        topics
            .chunks(TOPICS)
            .all(|chunk| self.client.try_subscribe_many(chunk.iter().map(filter)).is_ok())
    }

    /// Takes a subscription back.
    pub(crate) fn unsubscribe(&self, topic: &str) {
        if self.client.try_unsubscribe(topic).is_err() {
            tracing::debug!(topic, "a subscription stays for now: too much waits to be sent");
        }
    }

    /// Publishes; false if there is no room now.
    pub(crate) fn publish(&self, message: Message) -> bool {
        let qos = match message.qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        self.client
            .try_publish(message.topic, qos, message.retain, message.payload)
            .is_ok()
    }

    /// Says good-bye, and waits until it was sent, within bounds.
    pub(crate) async fn close(mut self) {
        if self.client.try_disconnect().is_ok() {
            let down = async { while !matches!(self.next().await, Event::Down(_)) {} };
            let _ = tokio::time::timeout(Duration::from_millis(500), down).await;
        }
    }
}

fn login(credentials: Option<&Credentials>) -> Option<(String, String)> {
    let credentials = credentials?;
    let user = credentials.username.clone()?;
    Some((user, credentials.password.clone().unwrap_or_default()))
}

async fn run(mut event_loop: EventLoop, events: mpsc::Sender<Event>) {
    loop {
        let event = match event_loop.poll().await {
            Ok(Raw::Incoming(Packet::ConnAck(answer))) => Event::Up {
                session_present: answer.session_present,
            },
            Ok(Raw::Incoming(Packet::Publish(publish))) => Event::Message(publish),
            Ok(Raw::Incoming(Packet::Disconnect(disconnect))) => {
                Event::Down(format!("the broker ended it: {:?}", disconnect.reason_code))
            }
            Ok(_) => continue,
            Err(error) => Event::Down(error.to_string()),
        };
        let last = matches!(event, Event::Down(_));
        if events.send(event).await.is_err() || last {
            return;
        }
    }
}

fn tls(credentials: Option<&Credentials>) -> Result<ClientConfig, NoTls> {
    let authorities = credentials
        .and_then(|credentials| credentials.ca.as_deref())
        .unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(authorities)?);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| NoTls(error.to_string()))?
        .with_root_certificates(roots);
    let own = credentials.and_then(|own| Some((own.certificate.as_deref()?, own.key.as_deref()?)));
    let Some((certificate, key)) = own else {
        return Ok(config.with_no_client_auth());
    };
    let key =
        PrivateKeyDer::from_pem_file(key).map_err(|error| NoTls(format!("{}: {error}", key.display())))?;
    config
        .with_client_auth_cert(certificates(certificate)?, key)
        .map_err(|error| NoTls(error.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, NoTls> {
    let wrong = |error: String| NoTls(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(error.to_string()))?;
    CertificateDer::pem_reader_iter(BufReader::new(file))
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(error.to_string()))
}
