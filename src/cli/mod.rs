//! The command line: one verb per file.
//!
//! Owns arguments, exit codes, and what stands on stdout, which scripts read; everything else goes to stderr. Must
//! never do a verb's work itself.

mod capture;
mod db;
mod migrate;
mod seed;
mod server;
mod token;
mod version;

use std::ffi::OsString;
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{self, ConfigError, ConfigFile};
use crate::server::{OpenStoreError, StartError};

/// The server that Go workspace agents connect to.
#[derive(Debug, Parser)]
#[command(name = "drpcd", version = version::LINE, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Server(Box<server::ServerArgs>),
    Seed(seed::SeedArgs),
    Token(token::TokenArgs),
    Migrate(migrate::MigrateArgs),
    Db(db::DbArgs),
    Capture(capture::CaptureArgs),
    Version(version::VersionArgs),
}

/// Why a verb did not do what it was asked to.
#[derive(Debug)]
enum Failure {
    /// It was tried and failed: exit code 1.
    Failed(String),
    /// It was asked for in a way that cannot be: exit code 2.
    Usage(String),
    /// What was looked at is not as it has to be: exit code 4.
    Unhealthy(String),
}

impl Failure {
    fn failed(error: impl Display) -> Self {
        Self::Failed(error.to_string())
    }

    fn report(&self) -> ExitCode {
        let (text, code) = match self {
            Self::Failed(text) => (text, 1),
            Self::Usage(text) => (text, 2),
            Self::Unhealthy(text) => (text, 4),
        };
        // Whoever cannot be told still has the code.
        let _ = writeln!(io::stderr(), "drpcd: {text}");
        ExitCode::from(code)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Unreadable { .. } => Self::failed(error),
            _ => Self::Usage(error.to_string()),
        }
    }
}

impl From<OpenStoreError> for Failure {
    fn from(error: OpenStoreError) -> Self {
        match error {
            OpenStoreError::NotNamed(_) => Self::Usage(error.to_string()),
            _ => Self::failed(error),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Store(error) => error.into(),
            _ => Self::failed(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// The only I/O that verbs do themselves.
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("cannot write to stdout: {error}"))
    }
}

/// Runs the program with `args`, the first being its name.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<_> = args.into_iter().collect();
    let parsed = parse(&args);
    let result = match parsed {
        Ok(cli) => match cli.verb {
            Verb::Server(args) => server::run(*args),
            Verb::Seed(args) => seed::run(&args),
            Verb::Token(args) => token::run(&args),
            Verb::Migrate(args) => migrate::run(&args),
            Verb::Db(args) => db::run(&args),
            Verb::Capture(args) => capture::run(&args),
            Verb::Version(_) => version::run(),
        },
        Err(ParseError::Clap(error)) => {
            // Help and version are no errors to clap; it knows which stream is whose.
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => ExitCode::from(2),
            };
        }
        Err(ParseError::Config(failure)) => Err(failure),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// What a verb runs in. A write that would pass the process's limit of file size fails from here on, instead of ending the
/// process.
fn runtime(mut builder: Builder) -> Result<Runtime, Failure> {
    let runtime = builder.enable_all().build().map_err(Failure::failed)?;
    {
        let _entered = runtime.enter();
        // The handler stays when its receiver is dropped.
        let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
        drop(listen(kind)?);
    }
    Ok(runtime)
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::Failed(format!("cannot listen for signals: {error}")))
}

/// The signals that ask a verb to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one that ends the server.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Form of what a verb prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// A line for each item, its parts separated by tabs; `seed` has lines that a shell can read.
    Table,
    /// One JSON value.
    Json,
}

enum ParseError {
    Clap(clap::Error),
    Config(Failure),
}

fn parse(args: &[OsString]) -> Result<Cli, ParseError> {
    let command = Cli::command();
    let file = config_path(&command, args)
        .map(|path| ConfigFile::read(&path))
        .transpose();
    let file = file.map_err(|error| ParseError::Config(error.into()))?;
    let command = config::layer(command, file.as_ref()).map_err(|error| ParseError::Config(error.into()))?;
    let matches = command
        .clone()
        .try_get_matches_from(args)
        .and_then(|mut matches| Cli::from_arg_matches_mut(&mut matches));
    matches.map_err(|error| match config::describe(&error, &command, file.as_ref()) {
        Some(text) => ParseError::Config(Failure::Usage(text)),
        None => ParseError::Clap(error),
    })
}

/// The configuration file that the arguments or the environment name, whatever else may be wrong with them.
fn config_path(command: &clap::Command, args: &[OsString]) -> Option<PathBuf> {
    let matches = command
        .clone()
        .ignore_errors(true)
        .try_get_matches_from(args)
        .ok()?;
    let (_, mut verb) = matches.subcommand()?;
    while let Some((_, inner)) = verb.subcommand() {
        verb = inner;
    }
    let path = verb.try_get_one::<PathBuf>("config").ok().flatten()?;
    (!path.as_os_str().is_empty()).then(|| path.clone())
}

/// A URL as people write it: a bare host without the slash.
fn url_text(url: &url::Url) -> &str {
    let text = url.as_str();
    if url.path() == "/" {
        text.strip_suffix('/').unwrap_or(text)
    } else {
        text
    }
}
