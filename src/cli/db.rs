//! `drpcd db`: looks at a store, and copies one into another.

use std::io::{self, Write};

use clap::{Args, Subcommand};
use tokio::runtime::Builder;

use super::{Failure, Output};
use crate::clock::Clock;
use crate::config::{CommonConfig, parse_secret};
use crate::secret::Secret;
use crate::server::{self, OpenStoreError};
use crate::store::Report;
use crate::store::copy::{self, CopiedTable, CopyError, End};
use crate::telemetry::logs::{self, LogConfig};

/// Looks at the store, or copies one into another.
#[derive(Args, Debug)]
pub(super) struct DbArgs {
    #[command(subcommand)]
    verb: DbVerb,
}

#[derive(Debug, Subcommand)]
enum DbVerb {
    /// Tells whose tables the store has, of which version, and what is missing; exit code 4 if anything is. Changes nothing.
    Check {
        #[command(flatten)]
        common: CommonConfig,

        /// Form of what is printed.
        #[arg(long, value_name = "FORM", value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Copies all that is in one store into another, which is migrated and empty, and tells the rows of each table.
    ///
    /// From SQLite to Postgres, or back. No server may run on either: what it writes meanwhile is not copied.
    Copy {
        /// Source: sqlite://DIR or postgres://USER:PASSWORD@HOST:PORT/DATABASE. It is not changed.
        #[arg(long, value_name = "URL", value_parser = parse_secret)]
        from: Secret,
        /// Target, in the same form.
        #[arg(long, value_name = "URL", value_parser = parse_secret)]
        to: Secret,
    },
}

pub(super) fn run(args: &DbArgs) -> Result<(), Failure> {
    logs::init(&LogConfig::default()).map_err(Failure::failed)?;
    let runtime = super::runtime(Builder::new_current_thread())?;
    let clock = Clock::system();
    let mut out = io::stdout().lock();
    match &args.verb {
        DbVerb::Check { common, output } => {
            let report = runtime.block_on(server::examine_store(common, &clock));
            let report = report.map_err(|error| match error {
                OpenStoreError::NotNamed(_) => Failure::from(error),
                _ => Failure::Unhealthy(error.to_string()),
            })?;
            match output {
                Output::Table => write_table(&mut out, &report)?,
                Output::Json => write_json(&mut out, &report)?,
            }
            out.flush()?;
            match report.missing.len() {
                0 => Ok(()),
                _ => Err(Failure::Unhealthy(format!(
                    "no server can work on {}",
                    report.place
                ))),
            }
        }
        DbVerb::Copy { from, to } => {
            let (from, to) = (end("--from", from)?, end("--to", to)?);
            let copied = runtime.block_on(async {
                copy::copy(&from, &to, &clock).await.map_err(|error| match error {
                    CopyError::Engines => Failure::Usage(error.to_string()),
                    _ => Failure::Failed(format!("nothing was copied: {error}")),
                })
            })?;
            write_copied(&mut out, &copied)?;
            Ok(())
        }
    }
}

/// One end of a copy. What is wrong with it is not repeated: it may hold a password.
fn end(flag: &str, text: &Secret) -> Result<End, Failure> {
    End::parse(text).ok_or_else(|| {
        Failure::Usage(format!(
            "invalid value for {flag}: must be sqlite://DIR or postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        ))
    })
}

fn write_table(out: &mut impl Write, report: &Report) -> io::Result<()> {
    writeln!(out, "store\t{}", report.place)?;
    writeln!(out, "tables\t{}", report.tables.as_str())?;
    if let Some(version) = report.version {
        writeln!(out, "version\t{version}")?;
    }
    for missing in &report.missing {
        writeln!(out, "missing\t{missing}")?;
    }
    Ok(())
}

fn write_json(out: &mut impl Write, report: &Report) -> io::Result<()> {
    let report = serde_json::json!({
        "store": report.place,
        "tables": report.tables.as_str(),
        "version": report.version,
        "missing": report.missing,
    });
    serde_json::to_writer(&mut *out, &report)?;
    writeln!(out)
}

fn write_copied(out: &mut impl Write, copied: &[CopiedTable]) -> io::Result<()> {
    for table in copied {
        writeln!(out, "{}\t{}", table.table, table.rows)?;
    }
    let rows: u64 = copied.iter().map(|table| table.rows).sum();
    writeln!(out, "all\t{rows}")?;
    out.flush()
}
