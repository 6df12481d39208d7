//! This replica's own certificate: in memory, made again at two thirds of its life.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::RwLock;
use protocol::{clock::Clock, tls::certified_key};
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tracing::{error, info};

use super::ca::{Ca, CaError, SERVER_LIFE};

/// Serves the certificate, and makes a new one when a handshake finds it old.
pub(super) struct Serving {
    ca: Arc<Ca>,
    clock: Clock,
    current: RwLock<(Arc<CertifiedKey>, SystemTime)>,
}

impl Serving {
    pub(super) fn new(ca: Arc<Ca>, clock: Clock) -> Result<Self, CaError> {
        let current = RwLock::new(make(&ca, &clock)?);
        Ok(Self { ca, clock, current })
    }

    fn certificate(&self) -> Arc<CertifiedKey> {
        {
            let current = self.current.read();
            if self.clock.now() < current.1 {
                return Arc::clone(&current.0);
            }
        }
        self.renew()
    }

    fn renew(&self) -> Arc<CertifiedKey> {
        let mut current = self.current.write();
        if self.clock.now() >= current.1 {
            match make(&self.ca, &self.clock) {
                Ok(made) => {
                    info!("made a new server certificate");
                    *current = made;
                }
                Err(source) => {
                    // The old one is good for a third of its life yet.
                    error!(
                        error = &source as &dyn std::error::Error,
                        "no new server certificate could be made"
                    );
                    current.1 += Duration::from_mins(1);
                }
            }
        }
        Arc::clone(&current.0)
    }
}

/// A certificate, and when it is to be made again.
fn make(ca: &Ca, clock: &Clock) -> Result<(Arc<CertifiedKey>, SystemTime), CaError> {
    let now = clock.now();
    let credentials = ca.sign_server(now)?;
    Ok((Arc::new(certified_key(&credentials)?), now + SERVER_LIFE * 2 / 3))
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Serving")
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_made_again_at_two_thirds_of_its_life_and_not_before() {
        let clock = Clock::system();
        let ca = Arc::new(Ca::read(Ca::generate(clock.now()).unwrap(), clock.now()).unwrap());
        let serving = Serving::new(ca, clock.clone()).unwrap();
        let first = serving.certificate();
        clock.saw_server_time(clock.now() + SERVER_LIFE * 2 / 3 - Duration::from_mins(1));
        assert!(Arc::ptr_eq(&first, &serving.certificate()));
        clock.saw_server_time(clock.now() + Duration::from_mins(2));
        let second = serving.certificate();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &serving.certificate()));
    }
}
