//! `cloudcore token`: what lets a device join.

use std::io::{Write, stdout};

use anyhow::bail;
use clap::{Args, Subcommand};
use protocol::clock::Clock;
use protocol::join::TokenId;
use protocol::name::NodeName;

use super::table::{between, span, table};
use crate::config::Span;
use crate::enroll::{Authority, TokenInfo, TokenSpec};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token and print it; it cannot be shown again
    Create(CreateArgs),
    /// List the tokens that there are, without their secrets
    List,
    /// End a token at once; devices that it enrolled stay
    Revoke {
        /// Id of the token, the part between the two dots
        id: TokenId,
    },
}

#[derive(Args, Debug)]
pub(super) struct CreateArgs {
    /// How long the token is good for: a whole number with s, m, h or d, at most 30d
    #[arg(long, value_name = "SPAN", default_value = "1h")]
    ttl: Span,
    /// How many devices may join with it, at most 1000
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    uses: u32,
    /// The one node name that it is good for
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Let a new device take over the name given by --node, whose old key is refused from then on
    #[arg(long, requires = "node")]
    replace_key: bool,
}

pub(super) async fn main(command: TokenCommand, authority: &Authority, clock: &Clock) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(args, authority).await,
        TokenCommand::List => list(authority, clock).await,
        TokenCommand::Revoke { id } => revoke(&id, authority).await,
    }
}

async fn create(args: CreateArgs, authority: &Authority) -> anyhow::Result<()> {
    let CreateArgs {
        ttl: Span(life),
        uses,
        node,
        replace_key,
    } = args;
    let token = authority
        .create_token(TokenSpec {
            life,
            uses,
            node,
            replace_key,
        })
        .await?;
    // The token alone on standard output, so that scripts can take it; the rest is for people.
    writeln!(stdout(), "{}", token.expose())?;
    let devices = if uses == 1 {
        "one device".to_owned()
    } else {
        format!("{uses} devices")
    };
    eprintln!("Good for {devices}, for {}. On the device, as root:", span(life));
    eprintln!("  edgecore join ADDRESS --token-file FILE");
    Ok(())
}

async fn list(authority: &Authority, clock: &Clock) -> anyhow::Result<()> {
    let mut tokens = authority.tokens().await?;
    tokens.sort_by_key(|token| token.expires);
    let rows: Vec<_> = tokens.iter().map(|token| row(token, clock)).collect();
    write!(
        stdout(),
        "{}",
        table(["ID", "USED", "EXPIRES IN", "NODE", "REPLACES KEY"], &rows)
    )?;
    Ok(())
}

fn row(token: &TokenInfo, clock: &Clock) -> [String; 5] {
    let expires = if token.expires <= clock.now() {
        "expired".into()
    } else {
        between(clock.now(), token.expires)
    };
    [
        token.id.to_string(),
        format!("{}/{}", token.used, token.uses),
        expires,
        token
            .node
            .as_ref()
            .map_or_else(|| "any".into(), ToString::to_string),
        if token.replace_key { "yes" } else { "no" }.into(),
    ]
}

async fn revoke(id: &TokenId, authority: &Authority) -> anyhow::Result<()> {
    if !authority.revoke_token(id).await? {
        bail!("there is no token {id}: see cloudcore token list");
    }
    eprintln!("token {id} is revoked");
    Ok(())
}
