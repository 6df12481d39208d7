//! The pods' network: their way to the API server, and what the device translates for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::name::ServiceName;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Parts, whose};
use crate::cli::Paths;
use crate::cli::record::Record;
use crate::network::api::{self, Callers, Note, Translator, Wanted};
use crate::network::nat::{Nat, Translation};
use crate::network::{conflist, in_use, iptables};

/// Serves the API server to pods where `default/kubernetes` says, following its changes, until `stop`.
pub(super) async fn run(parts: &Parts, stop: CancellationToken) {
    let (wanted, served) = watch::channel(None);
    let dial = parts.link.dialer(ServiceName::KubeApiTcp);
    let file = configuration(&parts.paths);
    let of_network = file.clone();
    let callers = Callers {
        whose: whose::whose(parts.desired.clone(), Arc::clone(&parts.reporter)),
        range: Arc::new(move || of_network.parent().and_then(in_use::range)),
    };
    let is_machine = parts.paths.is_machine();
    let (door, opened) = watch::channel(None);
    let (told, translation) = watch::channel(if is_machine {
        Translation::Untold
    } else {
        Translation::Fails
    });
    let translate = async {
        if is_machine {
            // Read at each look: it may come back after it was lost.
            let ranges = || ranges(&file);
            iptables::keep(ranges, opened, told, stop.clone()).await;
        }
    };
    tokio::join!(
        api::follow(parts.desired.clone(), wanted, stop.clone()),
        api::run(
            Wanted {
                endpoint: served,
                note: Note::at(&parts.paths.api_server()),
            },
            dial,
            callers,
            Translator { door, translation },
            stop.clone()
        ),
        translate,
    );
}

/// What is to be translated by the network configuration in `file`.
fn ranges(file: &Path) -> Nat {
    Nat {
        masquerade: fs::read_to_string(file)
            .map(|text| conflist::left_to_us(&text))
            .unwrap_or_default(),
        pods: file.parent().and_then(in_use::range),
        door: None,
    }
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
