//! What is counted on the API server's side.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use protocol::object::Kind;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfKind {
    kind: &'static str,
}

/// Counters, shared by all clones.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    lists: Family<OfKind, Counter>,
    watch_failures: Family<OfKind, Counter>,
    /// Nodes that were deleted while enrolled and made again.
    pub(super) rebirths: Counter,
}

impl Metrics {
    pub(super) fn listed(&self, kind: Kind) {
        self.lists.get_or_create(&OfKind { kind: kind.name() }).inc();
    }

    pub(super) fn watch_failed(&self, kind: Kind) {
        self.watch_failures
            .get_or_create(&OfKind { kind: kind.name() })
            .inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let scope = registry.sub_registry_with_prefix("cluster");
        scope.register("lists", "Full lists of a kind", self.lists.clone());
        scope.register(
            "watch_failures",
            "Watches that failed and were tried again",
            self.watch_failures.clone(),
        );
        let help = "Nodes that were deleted while enrolled and made again";
        scope.register("node_rebirths", help, self.rebirths.clone());
    }
}
