//! What is measured when it is asked for: nothing has to be kept up to date.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

use crate::cluster::Cluster;
use crate::hub::HubView;

/// The state of a replica at this moment.
pub struct Gauges {
    /// The edge side.
    pub hub: HubView,
    /// The API server's side.
    pub cluster: Cluster,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reachable = i64::from(self.cluster.health().is_reachable());
        let measured = [
            (
                "sessions",
                "Edges connected to this replica",
                count(self.hub.sessions()),
            ),
            (
                "half_open_connections",
                "Connections not yet authenticated",
                count(self.hub.half_open()),
            ),
            (
                "api_server_reachable",
                "1 while the API server answers",
                reachable,
            ),
            (
                "first_node_certificate_end_seconds",
                "When the first certificate of a connected node ends, in seconds since 1970; 0 without nodes",
                self.hub.first_certificate_end().map_or(0, seconds),
            ),
        ];
        for (name, help, value) in measured {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
