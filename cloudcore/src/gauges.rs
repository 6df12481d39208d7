//! What is measured when it is asked for: nothing has to be kept up to date.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use protocol::class::Class;
use protocol::transport::Traffic;

use crate::cluster::Cluster;
use crate::hub::HubView;

/// The state of a replica at this moment.
pub struct Gauges {
    /// The edge side.
    pub hub: HubView,
    /// The API server's side.
    pub cluster: Cluster,
    /// When the CA's certificate ends.
    pub ca_ends: SystemTime,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reachable = i64::from(self.cluster.health().obstacle().is_none());
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
                "1 while the API server answers, and lets cloudcore act for nodes",
                reachable,
            ),
            (
                "first_node_certificate_end_seconds",
                "When the first certificate of a connected node ends, in seconds since 1970; 0 without nodes",
                self.hub.first_certificate_end().map_or(0, seconds),
            ),
            (
                "ca_certificate_end_seconds",
                "When the CA's certificate ends, in seconds since 1970; no other outlives it",
                seconds(self.ca_ends),
            ),
            (
                "receive_budget_bytes",
                "What edges may have sent that was not read, all together",
                bytes(self.hub.receive_budget().total()),
            ),
            (
                "receive_budget_promised_bytes",
                "The part of the receive budget that edges may use now",
                bytes(self.hub.receive_budget().promised()),
            ),
        ];
        for (name, help, value) in measured {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        encode_traffic(self.hub.traffic(), encoder)
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn encode_traffic(traffic: &Traffic, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Bytes on the streams of edges, without what the transport adds";
    let mut family = encoder.encode_descriptor("link_bytes", help, None, MetricType::Counter)?;
    for class in Class::ALL {
        let bytes = traffic.of(class);
        for (direction, count) in [("received", bytes.received), ("sent", bytes.sent)] {
            let labels = [("class", class.name()), ("direction", direction)];
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn bytes(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[derive(Debug)]
    struct OnlyTraffic(Traffic);

    impl Collector for OnlyTraffic {
        fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
            encode_traffic(&self.0, encoder)
        }
    }

    #[test]
    fn every_class_is_shown_in_both_directions() {
        let mut registry = Registry::with_prefix("cloudcore");
        registry.register_collector(Box::new(OnlyTraffic(Traffic::default())));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for class in Class::ALL {
            for direction in ["received", "sent"] {
                let name = class.name();
                let line =
                    format!("cloudcore_link_bytes_total{{class=\"{name}\",direction=\"{direction}\"}} 0\n");
                assert!(text.contains(&line), "{line}not in\n{text}");
            }
        }
    }
}
