//! What is measured when it is asked for: nothing has to be kept up to date.

use std::fmt;

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
        ];
        for (name, help, value) in measured {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
