//! The numbers, and quinn's view of them.

use std::{sync::Arc, time::Duration};

use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

use super::{control::Controls, gate::Gate, window::STREAM};
use crate::transport::SESSION;

/// What this end may have unacknowledged.
const SEND_WINDOW: u64 = 1 << 20;
/// 256 tunnels, four flows, and some room for what ends while something else begins.
const STREAMS: u32 = 270;
/// NATs forget a UDP path after 30 s (RFC 9308).
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Three missed beats and a little.
const IDLE: Duration = Duration::from_secs(90);
/// After so long is asked again whether larger datagrams fit now. Where a whole Ethernet packet does not,
/// each end loses some six probes of 1.4 kB each time: with quinn's ten minutes 2.5 MB a day on a link
/// where nothing happens. Those that fit no more are noticed at once, and a new path is asked at once.
const LARGER: Duration = Duration::from_hours(6);
/// In the cloud, as quinn wants it: one stream's window, and a connection's with one flow.
const CLOUD_STREAM: u32 = 12 << 10;
const CLOUD_CONNECTION: u32 = 16 << 10;
const _: () = assert!(CLOUD_STREAM as u64 == STREAM && CLOUD_CONNECTION as u64 == SESSION);
const CONNECTION_ID_LEN: usize = 8;
/// Between two resets: a restarted replica has thousands of edges to tell.
const RESET_PAUSE: Duration = Duration::from_millis(1);
/// Handshakes waiting for our verdict.
const INCOMING: usize = 4096;
const INCOMING_BYTES: u64 = 64 << 10;
const ALL_INCOMING_BYTES: u64 = 32 << 20;

/// Whether this end sends keep-alives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Edge,
    Cloud,
}

impl Side {
    /// What one stream may have unread here. Edges receive objects over long round trips; cloudcore
    /// receives reports, from many edges.
    const fn stream_window(self) -> u32 {
        match self {
            Self::Edge => 64 << 10,
            Self::Cloud => CLOUD_STREAM,
        }
    }

    /// What all streams together may have unread. On the edge as much as they could, so that streams
    /// that nobody reads never stop the others; in the cloud it grows with the streams (`window`).
    const fn connection_window(self) -> u32 {
        match self {
            Self::Edge => self.stream_window() * STREAMS,
            Self::Cloud => CLOUD_CONNECTION,
        }
    }
}

fn transport(side: Side, gate: Arc<Gate>) -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    let mut sizes = MtuDiscoveryConfig::default();
    sizes.interval(LARGER);
    config
        .mtu_discovery_config(Some(sizes))
        .stream_receive_window(VarInt::from_u32(side.stream_window()))
        .receive_window(VarInt::from_u32(side.connection_window()))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(Arc::new(Controls(gate)))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(IdleTimeout::try_from(IDLE).ok())
        .keep_alive_interval((side == Side::Edge).then_some(KEEP_ALIVE));
    Arc::new(config)
}

pub(super) fn client(
    tls: Arc<rustls::ClientConfig>,
    gate: Arc<Gate>,
) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(Side::Edge, gate));
    Ok(config)
}

pub(super) fn server(tls: Arc<rustls::ServerConfig>) -> Result<ServerConfig, NoInitialCipherSuite> {
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config
        .max_incoming(INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(ALL_INCOMING_BYTES);
    Ok(config)
}

/// What each connection has for itself.
pub(super) fn gated(server: &ServerConfig, gate: Arc<Gate>) -> Arc<ServerConfig> {
    let mut config = server.clone();
    config.transport_config(transport(Side::Cloud, gate));
    Arc::new(config)
}

/// With a key that all replicas share, each can tell an edge that its connection is no more.
///
/// The price, which is accepted (RFC 9000, section 21.11, wants it otherwise): behind a balancer that spreads by
/// source address, whoever sees an edge's packets can ask another replica about its connection, and with that
/// answer end it. That is what a forged RST does to TCP; nothing can be read or changed by it.
pub(super) fn endpoint(reset_key: [u8; 32]) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config
        .cid_generator(|| Box::new(RandomIds))
        .min_reset_interval(RESET_PAUSE);
    config
}

/// Connection ids without a mark of their maker: quinn's own drops in silence what another process
/// made, and an edge of a replica that was restarted would wait for its idle timeout.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; CONNECTION_ID_LEN]>())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct ResetKey([u8; 32]);

impl quinn::crypto::HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature: &mut [u8]) {
        let hash = blake3::keyed_hash(&self.0, data);
        let most = signature.len().min(blake3::OUT_LEN);
        signature[..most].copy_from_slice(&hash.as_bytes()[..most]);
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), quinn::crypto::CryptoError> {
        let signature: [u8; 32] = signature.try_into().map_err(|_| quinn::crypto::CryptoError)?;
        // Compares in constant time.
        if blake3::keyed_hash(&self.0, data) == signature {
            Ok(())
        } else {
            Err(quinn::crypto::CryptoError)
        }
    }
}
