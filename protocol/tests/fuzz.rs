//! Every decoder, fed with whatever a fuzzer finds.
//!
//! Under `cargo test` these are property tests over random bytes; under `cargo bolero` the same
//! targets run with a coverage-guided fuzzer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bolero::check;
use protocol::{
    class::Class,
    join::{EnrollRefusal, EnrollRequest, JoinToken, NodeRequest, RenewRequest},
    name::{NodeName, ServiceName, shown},
    tls::{certified, peer_identity},
    transport::mux::{Mux, MuxFrame, Read, Side},
    wire::{
        DesiredDown, DesiredUp, DialReply, Frame, FrameReader, Open, ReportedDown, ReportedUp, SessionDown,
        SessionUp,
    },
};

fn read_all<M: Frame>(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut reader = FrameReader::new(bytes);
        while let Ok(Some(_)) = reader.read::<M>().await {}
    });
}

/// The same bytes as one frame of the right length: garbage that gets past the prefix.
fn read_one<M: Frame>(bytes: &[u8]) {
    let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    read_all::<M>(&framed);
}

#[test]
fn frames() {
    check!().with_iterations(512).for_each(|bytes| {
        read_all::<Open>(bytes);
        read_one::<Open>(bytes);
        read_one::<DialReply>(bytes);
        read_one::<SessionUp>(bytes);
        read_one::<SessionDown>(bytes);
        read_one::<DesiredUp>(bytes);
        read_one::<DesiredDown>(bytes);
        read_one::<ReportedUp>(bytes);
        read_one::<ReportedDown>(bytes);
    });
}

#[test]
fn tokens_and_names() {
    check!().with_iterations(1000).for_each(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = text.parse::<JoinToken>();
        let _ = text.parse::<NodeName>();
        let _ = text.parse::<ServiceName>();
        assert!(shown(&text).len() <= 300);
    });
}

#[test]
fn enrolment() {
    check!().with_iterations(1000).for_each(|bytes| {
        let _ = serde_json::from_slice::<EnrollRequest>(bytes);
        let _ = serde_json::from_slice::<EnrollRefusal>(bytes);
        let _ = serde_json::from_slice::<RenewRequest>(bytes);
        let _ = NodeRequest::parse(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn certificates() {
    check!().with_iterations(1000).for_each(|bytes| {
        let shown = rustls::pki_types::CertificateDer::from(bytes.to_vec());
        let _ = certified(&shown, &shown);
        let _ = peer_identity(&[shown], "192.0.2.1:1".parse().unwrap(), std::time::UNIX_EPOCH);
    });
}

#[test]
fn multiplexed_messages() {
    check!().with_iterations(1000).for_each(|bytes| {
        let _ = MuxFrame::decode(bytes);
    });
}

/// A peer that says whatever it likes, in frames that mostly read, to an end whose streams are used.
#[test]
fn a_multiplexed_connection() {
    check!().with_iterations(1000).for_each(|bytes| {
        let mut mux = Mux::new(Side::Cloud);
        let own = mux.open(Class::Interactive).unwrap();
        let mut out = [0; 100];
        for chunk in bytes.chunks(4) {
            let &[kind, stream, ref rest @ ..] = chunk else {
                continue;
            };
            let mut message = vec![kind % 8, stream % 8];
            message.extend_from_slice(rest);
            if mux.handle_frame(&message).is_err() {
                break;
            }
            if let Some(id) = mux.accept() {
                mux.classify(id, Class::Desired);
                let _ = mux.write(id, rest);
            }
            let _ = mux.write(own, rest);
            assert_ne!(mux.read(own, &mut out), Read::Bytes(0));
            while mux.poll_wake().is_some() {}
            if stream % 2 == 0 {
                let _ = mux.poll_transmit();
            }
        }
    });
}
