//! Join tokens for the people who carry them: made, listed, revoked.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use protocol::{
    join::{JoinToken, TokenId},
    name::NodeName,
};
use tracing::warn;

use super::{
    authority::{Authority, AuthorityError},
    records::{TOKEN, TokenRecord, token_secret},
    secrets::{Race, Stored},
};

/// The most devices that one token may enrol.
const USES_MAX: u32 = 1000;
/// The longest that a token may live.
const LIFE_MAX: Duration = Duration::from_hours(30 * 24);
/// Expired tokens are kept for a while, so that a late device hears the true reason.
const KEPT_EXPIRED: Duration = Duration::from_hours(24);

/// What a token shall be good for.
#[derive(Clone, Debug)]
pub struct TokenSpec {
    /// For how long.
    pub life: Duration,
    /// For how many devices.
    pub uses: u32,
    /// For one node name only.
    pub node: Option<NodeName>,
    /// Whether a new key may take that name over from the device that has it.
    pub replace_key: bool,
}

/// What there is to say about a token; no secret.
#[derive(Clone, Debug)]
pub struct TokenInfo {
    /// Its name.
    pub id: TokenId,
    /// When it ends, or has ended.
    pub expires: SystemTime,
    /// For how many devices it is good.
    pub uses: u32,
    /// How many have used it.
    pub used: usize,
    /// The one name it is good for.
    pub node: Option<NodeName>,
    /// Whether it lets a new key take that name over.
    pub replace_key: bool,
}

impl Authority {
    /// Makes a token. Its secret is in the answer alone; the cluster keeps a hash.
    pub async fn create_token(&self, spec: TokenSpec) -> Result<JoinToken, AuthorityError> {
        check(&spec)?;
        self.remove_old_tokens().await;
        let token = JoinToken::generate(self.pin());
        let record = TokenRecord {
            hash: token.secret.hash(&token.id),
            expires: self.settings.clock.now() + spec.life,
            uses: spec.uses,
            node: spec.node,
            replace_key: spec.replace_key,
            used: Vec::new(),
        };
        let name = token_secret(&token.id);
        let created = self
            .secrets
            .create(&name, TOKEN, record.data(), BTreeMap::new())
            .await;
        match created.map_err(AuthorityError::api(format!("create Secret {name}")))? {
            Race::Won => Ok(token),
            Race::Lost => Err(AuthorityError::Contended { secret: name }),
        }
    }

    /// Every token there is, expired ones of the last day included.
    pub async fn tokens(&self) -> Result<Vec<TokenInfo>, AuthorityError> {
        let listed = self
            .secrets
            .list(TOKEN)
            .await
            .map_err(AuthorityError::api("list the join tokens"))?;
        Ok(listed.iter().filter_map(info).collect())
    }

    /// Ends a token at once; false where there is none. Devices that it enrolled stay.
    pub async fn revoke_token(&self, id: &TokenId) -> Result<bool, AuthorityError> {
        let name = token_secret(id);
        self.secrets
            .remove(&name)
            .await
            .map_err(AuthorityError::api(format!("delete Secret {name}")))
    }

    /// Best effort: what remains is removed the next time.
    async fn remove_old_tokens(&self) {
        let now = self.settings.clock.now();
        for token in self.tokens().await.unwrap_or_default() {
            if token.expires + KEPT_EXPIRED < now
                && let Err(error) = self.revoke_token(&token.id).await
            {
                warn!(token = %token.id, error = &error as &dyn std::error::Error, "an old token stays");
            }
        }
    }
}

const fn check(spec: &TokenSpec) -> Result<(), AuthorityError> {
    if spec.replace_key && spec.node.is_none() {
        return Err(AuthorityError::Unsound(
            "--replace-key needs --node: it is good for one name only",
        ));
    }
    if spec.uses == 0 || spec.uses > USES_MAX {
        return Err(AuthorityError::Unsound("a token is good for 1 to 1000 uses"));
    }
    if spec.life.is_zero() || spec.life.as_secs() > LIFE_MAX.as_secs() {
        return Err(AuthorityError::Unsound("a token lives for at most 30 days"));
    }
    Ok(())
}

fn info(stored: &Stored) -> Option<TokenInfo> {
    let id = stored.name.strip_prefix("tombolo-token-")?.parse().ok()?;
    match TokenRecord::read(stored) {
        Ok(record) => Some(TokenInfo {
            id,
            expires: record.expires,
            uses: record.uses,
            used: record.used.len(),
            node: record.node,
            replace_key: record.replace_key,
        }),
        Err(damaged) => {
            warn!(
                error = &damaged as &dyn std::error::Error,
                "a token is passed over"
            );
            None
        }
    }
}
