//! `drpcd server`: serves agents until a signal ends it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process;

use clap::Args;
use tokio::runtime::Builder;
use tokio::signal::unix::SignalKind;

use super::{Failure, Signals, listen, seed};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::seed::Seed;
use crate::server::Server;
use crate::telemetry::logs::{self, LogConfig};

/// Serves agents.
#[derive(Args, Debug)]
pub(super) struct ServerArgs {
    #[command(flatten)]
    config: Config,

    /// Seed file to put into the store first; its agents are printed once the server is ready.
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
}

pub(super) fn run(args: ServerArgs) -> Result<(), Failure> {
    let ServerArgs { mut config, seed } = args;
    config.external_auth = config::read_providers(std::env::vars_os())?;
    logs::init(&LogConfig {
        human: config.log_human.clone(),
        json: config.log_json.clone(),
        filter: config.log_filter.clone(),
    })
    .map_err(Failure::failed)?;
    let seed = seed
        .map(|path| Seed::read(&path))
        .transpose()
        .map_err(Failure::failed)?;
    super::runtime(Builder::new_multi_thread())?.block_on(serve(config, seed))
}

async fn serve(config: Config, seed_file: Option<Seed>) -> Result<(), Failure> {
    // Before anything that a signal should end in order.
    let mut signals = Signals::new()?;
    let mut renew_coordinator = listen(SignalKind::user_defined1())?;
    let server = tokio::select! {
        server = Server::start(config, Clock::system(), seed_file.as_ref()) => server?,
        () = signals.end() => return Ok(()),
    };
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "listening on http://{}", server.address())?;
        seed::write_table(&mut out, server.seeded(), server.access_url())?;
    }
    let renewals = async {
        while renew_coordinator.recv().await.is_some() {
            server.renew_coordinator().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = signals.end() => {}
        () = renewals => {}
    }
    tracing::info!("shutting down; a second signal exits at once");
    tokio::select! {
        result = server.shutdown() => result.map_err(Failure::failed),
        () = signals.end() => process::exit(1),
    }
}
