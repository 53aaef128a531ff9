//! `drpcd seed`: puts owners, workspaces and agents of a file into the store.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use tokio::runtime::Builder;
use url::Url;

use super::{Failure, Output, url_text};
use crate::clock::Clock;
use crate::config::{CommonConfig, bare_access_url};
use crate::seed::Seed;
use crate::server;
use crate::store::{SeededAgent, Store as _};
use crate::telemetry::logs::{self, LogConfig};

/// Puts what a seed file lists into the store; again gives the same ids and tokens.
#[derive(Args, Debug)]
pub(super) struct SeedArgs {
    /// The seed file.
    file: PathBuf,

    #[command(flatten)]
    common: CommonConfig,

    /// Form of what is printed.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(super) fn run(args: &SeedArgs) -> Result<(), Failure> {
    logs::init(&LogConfig::default()).map_err(Failure::failed)?;
    let seed = Seed::read(&args.file).map_err(Failure::failed)?;
    let runtime = super::runtime(Builder::new_current_thread())?;
    let agents = runtime.block_on(async {
        let clock = Clock::system();
        let store = server::open_store(&args.common, &clock).await?;
        let agents = store.seed(&seed, clock.now()).await;
        store.close().await;
        agents.map_err(|error| Failure::Failed(format!("{}: {error}", args.file.display())))
    })?;
    let url = args.common.access_url.clone().unwrap_or_else(bare_access_url);
    let mut out = io::stdout().lock();
    match args.output {
        Output::Table => write_table(&mut out, &agents, &url)?,
        Output::Json => write_json(&mut out, &agents, &url)?,
    }
    Ok(())
}

/// What a shell can `source`, agent by agent.
pub(super) fn write_table(out: &mut impl Write, agents: &[SeededAgent], url: &Url) -> io::Result<()> {
    for agent in agents {
        writeln!(out, "# {}/{}/{}", agent.owner, agent.workspace, agent.agent)?;
        writeln!(out, "CODER_AGENT_URL={}", url_text(url))?;
        writeln!(out, "CODER_AGENT_TOKEN={}", agent.token.reveal())?;
    }
    out.flush()
}

#[derive(Serialize)]
struct Row<'a> {
    workspace: &'a str,
    agent: &'a str,
    agent_id: String,
    token: String,
    url: &'a str,
}

fn write_json(out: &mut impl Write, agents: &[SeededAgent], url: &Url) -> io::Result<()> {
    let rows: Vec<_> = agents
        .iter()
        .map(|agent| Row {
            workspace: &agent.workspace,
            agent: &agent.agent,
            agent_id: agent.agent_id.to_string(),
            token: agent.token.reveal().to_string(),
            url: url_text(url),
        })
        .collect();
    serde_json::to_writer(&mut *out, &rows)?;
    writeln!(out)?;
    out.flush()
}
