//! Tokens in the store's table `token`.

use futures::future::BoxFuture;
use tracing::warn;

use super::TokenStore;
use crate::store::{Batch, Db, Table};

/// Keeps tokens in the node's store.
#[derive(Clone, Debug)]
pub struct StoredTokens(Db);

impl StoredTokens {
    /// Tokens of this store.
    pub fn new(db: Db) -> Self {
        Self(db)
    }
}

impl TokenStore for StoredTokens {
    fn load(&self) -> BoxFuture<'_, Vec<(String, Vec<u8>)>> {
        Box::pin(async {
            let kept = self.0.scan(Table::Token).await;
            let kept = kept
                .inspect_err(|error| warn!(%error, "cannot read the kept tokens"))
                .unwrap_or_default();
            kept.into_iter()
                .map(|(key, value)| (key, value.to_vec()))
                .collect()
        })
    }

    fn keep<'a>(&'a self, key: &'a str, value: Option<Vec<u8>>) -> BoxFuture<'a, ()> {
        let batch = match value {
            Some(value) => Batch::new().put(Table::Token, key, value),
            None => Batch::new().delete(Table::Token, key),
        };
        Box::pin(async move {
            if let Err(error) = self.0.commit(batch).await {
                warn!(%error, "cannot keep a token; after a restart it must be asked for again");
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kept_token_is_found_again_and_a_forgotten_one_is_not() {
        let tokens = StoredTokens::new(Db::in_memory());
        tokens.keep("u/1", Some(b"one".to_vec())).await;
        tokens.keep("u/2", Some(b"two".to_vec())).await;
        tokens.keep("u/1", None).await;
        assert_eq!(tokens.load().await, [("u/2".to_owned(), b"two".to_vec())]);
    }
}
