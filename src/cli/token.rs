//! `drpcd token`: lets people reach their agents, and ends that.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::runtime::Builder;

use super::{Failure, Output};
use crate::client_token::{ClientToken, ClientTokenId};
use crate::clock::Clock;
use crate::config::CommonConfig;
use crate::server;
use crate::store::SqlStore;
use crate::store::{ClientTokenEntry, Store as _, StoreError};
use crate::telemetry::logs::{self, LogConfig};

/// Makes, lists and revokes the tokens with which people's clients reach their agents.
#[derive(Args, Debug)]
pub(super) struct TokenArgs {
    #[command(subcommand)]
    verb: TokenVerb,
}

#[derive(Debug, Subcommand)]
enum TokenVerb {
    /// Makes a token and prints it, once: only its hash is kept.
    Create {
        /// Username of whose agents it reaches.
        #[arg(long, value_name = "NAME")]
        owner: String,

        #[command(flatten)]
        common: CommonConfig,
    },
    /// Lists the tokens that are good, by their ids.
    List {
        #[command(flatten)]
        common: CommonConfig,

        /// Form of what is printed.
        #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Revokes a token; a running server closes its connections within seconds.
    Revoke {
        /// The part of the token before the hyphen.
        id: String,

        #[command(flatten)]
        common: CommonConfig,
    },
}

pub(super) fn run(args: &TokenArgs) -> Result<(), Failure> {
    logs::init(&LogConfig::default()).map_err(Failure::failed)?;
    let runtime = super::runtime(Builder::new_current_thread())?;
    let mut out = io::stdout().lock();
    match &args.verb {
        TokenVerb::Create { owner, common } => {
            let token = ClientToken::random();
            let created = runtime.block_on(with_store(common, async |store| {
                store
                    .create_client_token(owner, &token, Clock::system().now())
                    .await
            }))?;
            created.map_err(|error| match error {
                StoreError::NoRows => Failure::Failed(format!("there is no active user {owner:?}")),
                error => Failure::failed(error),
            })?;
            writeln!(out, "{}", token.reveal())?;
        }
        TokenVerb::List { common, output } => {
            let tokens = runtime.block_on(with_store(common, async |store| store.client_tokens().await))?;
            let tokens = tokens.map_err(Failure::failed)?;
            match output {
                Output::Table => write_table(&mut out, &tokens)?,
                Output::Json => write_json(&mut out, &tokens)?,
            }
        }
        TokenVerb::Revoke { id, common } => {
            let token = ClientTokenId::parse(id).ok_or_else(|| {
                // Not repeated: it may be the whole token.
                Failure::Usage("the id of a token is the ten letters and digits before its hyphen".to_owned())
            })?;
            let revoked = runtime.block_on(with_store(common, async |store| {
                store.revoke_client_token(token, Clock::system().now()).await
            }))?;
            revoked.map_err(|error| match error {
                StoreError::NoRows => Failure::Failed(format!("there is no token {token}")),
                error => Failure::failed(error),
            })?;
        }
    }
    out.flush()?;
    Ok(())
}

async fn with_store<T>(
    common: &CommonConfig,
    work: impl AsyncFnOnce(&SqlStore) -> Result<T, StoreError>,
) -> Result<Result<T, StoreError>, Failure> {
    let store = server::open_store(common, &Clock::system()).await?;
    let result = work(&store).await;
    store.close().await;
    Ok(result)
}

fn write_table(out: &mut impl Write, tokens: &[ClientTokenEntry]) -> io::Result<()> {
    for token in tokens {
        writeln!(
            out,
            "{}\t{}\t{}",
            token.id, token.owner_username, token.created_at
        )?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, tokens: &[ClientTokenEntry]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Row<'t> {
        id: ClientTokenId,
        owner: &'t str,
        created_at: String,
    }
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| Row {
            id: token.id,
            owner: &token.owner_username,
            created_at: token.created_at.to_string(),
        })
        .collect();
    serde_json::to_writer(&mut *out, &rows)?;
    writeln!(out)
}
