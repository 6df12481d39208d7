//! The join token: made by cloudcore, carried by a person, parsed by the device.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest token that is looked at.
const TOKEN_MAX: usize = 256;
const ID_LENGTHS: std::ops::RangeInclusive<usize> = 6..=32;
const SECRET_LENGTHS: std::ops::RangeInclusive<usize> = 32..=128;

/// A whole join token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The SHA-256 of the CA certificate's DER.
    pub pin: [u8; 32],
    /// Which token; no secret.
    pub id: TokenId,
    /// What proves it.
    pub secret: Secret,
}

impl JoinToken {
    /// A new random token for the CA with this pin.
    pub fn generate(pin: [u8; 32]) -> Self {
        let mut id = [0_u8; 5];
        let mut secret = [0_u8; 32];
        rand::fill(&mut id);
        rand::fill(&mut secret);
        Self {
            pin,
            id: TokenId(hex::encode(id)),
            secret: Secret(hex::encode(secret)),
        }
    }

    /// The token as a person carries it: **secret**.
    pub fn expose(&self) -> String {
        format!("{}.{}.{}", hex::encode(self.pin), self.id, self.secret.0)
    }
}

/// What is wrong with a token. The secret is never repeated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenError {
    /// Too long to be one.
    #[error("a join token has at most {TOKEN_MAX} characters")]
    TooLong,
    /// Not three parts.
    #[error("a join token has three parts between dots: <CA pin>.<id>.<secret>; copy all of it")]
    Parts,
    /// The first part.
    #[error("the first part of the join token is not 64 hex digits")]
    Pin,
    /// The second part.
    #[error("the second part of the join token is not 6 to 32 of a-z and 0-9")]
    Id,
    /// The third part.
    #[error("the third part of the join token is not 32 to 128 letters and digits")]
    Secret,
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.len() > TOKEN_MAX {
            return Err(TokenError::TooLong);
        }
        let mut parts = text.split('.');
        let (Some(pin_text), Some(id), Some(secret), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Parts);
        };
        let mut pin = [0; 32];
        hex::decode_to_slice(pin_text, &mut pin).map_err(|_| TokenError::Pin)?;
        Ok(Self {
            pin,
            id: id.parse()?,
            secret: Secret::try_from(secret.to_owned())?,
        })
    }
}

/// Names a token: safe in the name of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

impl FromStr for TokenId {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if ID_LENGTHS.contains(&text.len()) && text.bytes().all(fits) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenError::Id)
        }
    }
}

impl TryFrom<String> for TokenId {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token's secret. `Debug` hides it; there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret(String);

impl Secret {
    /// What the cluster keeps instead. The secret has 256 random bits, so one hash is enough.
    pub fn hash(&self, id: &TokenId) -> SecretHash {
        let mut hasher = blake3::Hasher::new_derive_key("tombolo join token v1");
        hasher
            .update(id.0.as_bytes())
            .update(&[0])
            .update(self.0.as_bytes());
        SecretHash(hasher.finalize())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Secret {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        if SECRET_LENGTHS.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric()) {
            Ok(Self(text))
        } else {
            Err(TokenError::Secret)
        }
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The hash of a secret; compared in constant time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretHash(blake3::Hash);

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_hex().as_str())
    }
}

impl FromStr for SecretHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        blake3::Hash::from_hex(text)
            .map(Self)
            .map_err(|_| TokenError::Secret)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_token_survives_being_carried() {
        let token = JoinToken::generate([9; 32]);
        assert_eq!(format!("  {}\n", token.expose()).parse(), Ok(token.clone()));
        assert_ne!(JoinToken::generate([9; 32]), token);
    }

    #[test]
    fn a_hash_belongs_to_its_id_and_its_secret() {
        let (a, b) = (JoinToken::generate([0; 32]), JoinToken::generate([0; 32]));
        assert_eq!(a.secret.hash(&a.id).to_string().parse(), Ok(a.secret.hash(&a.id)));
        assert_ne!(a.secret.hash(&a.id), a.secret.hash(&b.id));
        assert_ne!(a.secret.hash(&a.id), b.secret.hash(&a.id));
    }

    #[test]
    fn each_mistake_has_its_name_and_none_repeats_the_secret() {
        let pin = "ab".repeat(32);
        let secret = "s".repeat(32);
        for (text, error) in [
            (String::new(), TokenError::Parts),
            (format!("{pin}.abcdef"), TokenError::Parts),
            (format!("{pin}.abcdef.{secret}.x"), TokenError::Parts),
            (format!("zz.abcdef.{secret}"), TokenError::Pin),
            (format!("{pin}.AB/../x.{secret}"), TokenError::Parts),
            (format!("{pin}.ABCDEF.{secret}"), TokenError::Id),
            (format!("{pin}.abcdef.short"), TokenError::Secret),
            (format!("{pin}.abcdef.{}", "s".repeat(300)), TokenError::TooLong),
        ] {
            assert_eq!(text.parse::<JoinToken>(), Err(error.clone()), "{text}");
            assert!(!error.to_string().contains(&secret));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn any_text_is_refused_or_parsed_and_then_survives(text in "\\PC{0,300}|[0-9a-f]{64}\\.[a-z0-9]{1,40}\\.[a-zA-Z0-9]{1,140}") {
            if let Ok(token) = text.parse::<JoinToken>() {
                prop_assert_eq!(token.expose().parse(), Ok(token));
            }
        }
    }
}
