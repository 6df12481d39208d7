//! Carries renewals out, as `judge_renewal` says: over a session, or for a device that comes back with a
//! certificate that has ended.

use std::time::SystemTime;

use protocol::{
    join::{
        ChannelValue, ENROLL_BODY_MAX, EnrollAnswer, EnrollRefusal, NodeRequest, RefusalCode, RenewRequest,
    },
    tls::{PeerIdentity, authority_from_pem, certified},
};
use tokio::time::Instant;
use tracing::info;

use super::{
    authority::Authority,
    ca::CaError,
    exchange::{Asked, Fault, too_many},
    judge::{NodeSeen, Refused},
    judge_renewal::{Held, Standing, judge_request, judge_standing},
};

/// A certificate made anew.
#[derive(Clone, Debug)]
pub struct Renewed {
    /// In PEM.
    pub certificate: String,
    /// When it ends.
    pub ends: SystemTime,
}

impl Authority {
    /// Signs anew for a node that has a session: `request` is its certificate request, in PEM.
    pub async fn renew(&self, peer: &PeerIdentity, request: &str) -> Result<Renewed, EnrollRefusal> {
        let renewed = match NodeRequest::parse(request) {
            Ok(request) => self.sign_anew(&peer.into(), &request).await,
            Err(bad) => Err(Refused::new(RefusalCode::BadRequest, bad.to_string()).into()),
        };
        renewed.map_err(|fault| self.refusal(Asked::Renewal(&peer.node), fault))
    }

    /// Signs anew for a device without a session, which proves on the connection of `channel` that it
    /// holds the key of its certificate.
    pub async fn renew_ended(
        &self,
        request: &RenewRequest,
        channel: &ChannelValue,
    ) -> Result<EnrollAnswer, EnrollRefusal> {
        let (held, proven) = self
            .prove(request, channel)
            .map_err(|refused| self.refusal(Asked::Nobody, refused.into()))?;
        match self.sign_anew(&held, &proven).await {
            Ok(renewed) => Ok(self.answer(renewed.certificate)),
            Err(fault) => Err(self.refusal(Asked::Renewal(&held.node), fault)),
        }
    }

    /// Who asks. Whoever is nobody costs two signatures and no look at the cluster.
    fn prove(&self, request: &RenewRequest, channel: &ChannelValue) -> Result<(Held, NodeRequest), Refused> {
        let bad = |why: String| Refused::new(RefusalCode::BadRequest, why);
        if request.certificate.len() > ENROLL_BODY_MAX {
            return Err(bad(format!("the certificate is over {ENROLL_BODY_MAX} bytes")));
        }
        let leaf = authority_from_pem(request.certificate.as_bytes())
            .map_err(|_| bad("the certificate is not readable PEM".to_owned()))?;
        let held = certified(self.certificate(), &leaf).map_err(|error| bad(error.to_string()))?;
        if !channel.is_proven(&held.public_key, &request.proof) {
            let why = "the proof was not made with the certificate's key on this connection";
            return Err(bad(why.to_owned()));
        }
        let asked = NodeRequest {
            node: held.node.clone(),
            public_key: held.public_key.clone(),
            key: held.key,
        };
        Ok(((&held).into(), asked))
    }

    async fn sign_anew(&self, held: &Held, request: &NodeRequest) -> Result<Renewed, Fault> {
        let now = self.settings.clock.now();
        judge_request(held, request, now)?;
        self.take_turn(held)?;
        let standing = Standing {
            banned: self.read_ban(&held.key).await?,
            accepted: self.read_key(&held.node).await?.map(|record| record.key),
            seen: self.look_at_node(&held.node).await?,
        };
        judge_standing(held, &standing)?;
        let signed = self.ca.sign_node(request, now, self.settings.node_life.whole());
        let (certificate, ends) = signed.map_err(|error| Fault::Authority(CaError::from(error).into()))?;
        info!(node = %held.node, key = %held.key, "renewed a certificate");
        Ok(Renewed { certificate, ends })
    }

    /// The pace is one for all nodes, so whoever is banned, or asks again and again, takes no turn of it.
    fn take_turn(&self, held: &Held) -> Result<(), Refused> {
        if self.known.is_banned(&held.key) {
            let banned = Standing {
                banned: true,
                accepted: Some(held.key),
                seen: NodeSeen::Ours,
            };
            judge_standing(held, &banned)?;
        }
        let now = Instant::now();
        if !self.renewing.admits(&held.key, now) || !self.renewals.admits(now) {
            return Err(too_many());
        }
        Ok(())
    }
}
