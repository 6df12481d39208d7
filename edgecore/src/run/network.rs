//! The pods' network: their way to the API server, and what the device translates for them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::name::ServiceName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Parts, whose};
use crate::cli::Paths;
use crate::cli::record::Record;
use crate::network::{api, conflist, iptables};

/// Serves the API server to pods where `default/kubernetes` says, following its changes, until `stop`.
pub(super) async fn run(parts: &Parts, stop: CancellationToken) {
    let (wanted, served) = watch::channel(None);
    let dial = parts.link.dialer(ServiceName::KubeApiTcp);
    let whose = whose::whose(parts.desired.clone(), Arc::clone(&parts.reporter));
    let translate = async {
        if parts.paths.is_machine() {
            let file = configuration(&parts.paths);
            // Read at each look: it may come back after it was lost.
            let masquerade = || conflist::left_to_us(&fs::read_to_string(&file).ok()?);
            iptables::keep(masquerade, served.clone(), stop.clone()).await;
        }
    };
    tokio::join!(
        api::follow(parts.desired.clone(), wanted, stop.clone()),
        api::run(served.clone(), dial, whose, stop.clone()),
        translate,
    );
}

/// Where join wrote the pod network, if it did.
fn configuration(paths: &Paths) -> PathBuf {
    let recorded = Record::open(&paths.record()).ok();
    let written = recorded.as_ref().and_then(|record| record.named(conflist::FILE));
    written.map_or_else(
        || paths.at(conflist::DEFAULT_CONF_DIR).join(conflist::FILE),
        PathBuf::from,
    )
}
