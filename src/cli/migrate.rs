//! `drpcd migrate`: the schema of the store, where it is our own.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use super::{Failure, Output};
use crate::clock::Clock;
use crate::config::CommonConfig;
use crate::server;
use crate::store::{SchemaStep, StepState};
use crate::telemetry::logs::{self, LogConfig};

/// Brings the schema of the store up to date, or tells how far it is. That of a coder deployment is left alone.
#[derive(Args, Debug)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    verb: MigrateVerb,
}

#[derive(Debug, Subcommand)]
enum MigrateVerb {
    /// Makes the migrations that are missing, and tells all.
    Up {
        #[command(flatten)]
        common: CommonConfig,

        /// Form of what is printed.
        #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Tells which migrations were made and which are missing; exit code 4 if any is. Changes nothing.
    Status {
        #[command(flatten)]
        common: CommonConfig,

        /// Form of what is printed.
        #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

pub(super) fn run(args: &MigrateArgs) -> Result<(), Failure> {
    logs::init(&LogConfig::default()).map_err(Failure::failed)?;
    let runtime = super::runtime(Builder::new_current_thread())?;
    let clock = Clock::system();
    let (common, output) = match &args.verb {
        MigrateVerb::Up { common, output } => {
            runtime.block_on(server::migrate_store(common, &clock))?;
            (common, *output)
        }
        MigrateVerb::Status { common, output } => (common, *output),
    };
    let steps = runtime.block_on(server::store_migrations(common, &clock))?;
    let mut out = io::stdout().lock();
    match output {
        Output::Table => write_table(&mut out, &steps)?,
        Output::Json => write_json(&mut out, &steps)?,
    }
    out.flush()?;
    match steps
        .iter()
        .filter(|step| step.state != StepState::Applied)
        .count()
    {
        0 => Ok(()),
        1 => Err(Failure::Unhealthy(
            "1 migration is not as this program has it".to_owned(),
        )),
        many => Err(Failure::Unhealthy(format!(
            "{many} migrations are not as this program has them"
        ))),
    }
}

fn write_table(out: &mut impl Write, steps: &[SchemaStep]) -> io::Result<()> {
    for step in steps {
        writeln!(
            out,
            "{}\t{}\t{}",
            step.version,
            step.state.as_str(),
            step.description
        )?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, steps: &[SchemaStep]) -> io::Result<()> {
    let row = |step: &SchemaStep| {
        serde_json::json!({
            "version": step.version,
            "state": step.state.as_str(),
            "description": step.description,
        })
    };
    let rows: Vec<_> = steps.iter().map(row).collect();
    serde_json::to_writer(&mut *out, &rows)?;
    writeln!(out)
}
