//! Logs: human form and JSON, each to a file or a standard stream; debug lines only when asked for.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal as _;
use std::sync::Arc;

use regex::Regex;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// A log file cannot be opened.
    #[error("cannot open log file {path}: {source}")]
    Unwritable {
        /// Which file.
        path: String,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// Logging was set up before.
    #[error("logs are set up already")]
    SetUpTwice,
}

/// Where logs go.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Path for the human form; empty for none.
    pub human: String,
    /// Path for JSON; empty for none.
    pub json: String,
    /// Debug lines to keep; `None` keeps none.
    pub filter: Option<Regex>,
}

impl Default for LogConfig {
    /// Human form to stderr, no debug lines.
    fn default() -> Self {
        Self {
            human: "/dev/stderr".to_owned(),
            json: String::new(),
            filter: None,
        }
    }
}

/// Whether a line that cannot be written is told of on stderr. The library does so by a macro that panics when stderr is
/// the file that is full, and then a full disk would end whoever has something to log.
const TELL_OF_LOST_LINES: bool = false;

/// Sets up logging for the whole process.
pub fn init(config: &LogConfig) -> Result<(), LogError> {
    let filter = || DebugFilter(config.filter.clone());
    let human = match Target::open(&config.human)? {
        Some(target) => {
            let ansi = target.is_terminal();
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(ansi)
                .log_internal_errors(TELL_OF_LOST_LINES)
                .with_writer(target.writer());
            Some(layer.with_filter(filter()))
        }
        None => None,
    };
    let json = Target::open(&config.json)?.map(|target| {
        tracing_subscriber::fmt::layer()
            .json()
            .log_internal_errors(TELL_OF_LOST_LINES)
            .with_writer(target.writer())
            .with_filter(filter())
    });
    tracing_subscriber::registry()
        .with(human)
        .with(json)
        .try_init()
        .map_err(|_| LogError::SetUpTwice)
}

enum Target {
    Stderr,
    Stdout,
    File(File),
}

impl Target {
    fn open(path: &str) -> Result<Option<Self>, LogError> {
        Ok(Some(match path {
            "" => return Ok(None),
            "/dev/stderr" => Self::Stderr,
            "/dev/stdout" => Self::Stdout,
            path => {
                let file = OpenOptions::new().create(true).append(true).open(path);
                Self::File(file.map_err(|source| LogError::Unwritable {
                    path: path.to_owned(),
                    source,
                })?)
            }
        }))
    }

    fn is_terminal(&self) -> bool {
        match self {
            Self::Stderr => std::io::stderr().is_terminal(),
            Self::Stdout => std::io::stdout().is_terminal(),
            Self::File(_) => false,
        }
    }

    fn writer(self) -> BoxMakeWriter {
        match self {
            Self::Stderr => BoxMakeWriter::new(std::io::stderr),
            Self::Stdout => BoxMakeWriter::new(std::io::stdout),
            Self::File(file) => BoxMakeWriter::new(Arc::new(file)),
        }
    }
}

/// Lets everything from info up pass, debug lines whose `target: message` matches, and no trace lines.
struct DebugFilter(Option<Regex>);

impl<S: Subscriber> Filter<S> for DebugFilter {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level()
            <= if self.0.is_some() {
                Level::DEBUG
            } else {
                Level::INFO
            }
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() <= Level::INFO {
            return true;
        }
        let Some(filter) = &self.0 else { return false };
        let mut line = Line(format!("{}: ", metadata.target()));
        event.record(&mut line);
        filter.is_match(&line.0)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.0.is_some() {
            LevelFilter::DEBUG
        } else {
            LevelFilter::INFO
        })
    }
}

/// The message of an event, behind its target.
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            // Writing into a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a filter lets pass of one info, one matching and one other debug line.
    fn logged(filter: Option<&str>) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        let target = Target::open(file.path().to_str().unwrap()).unwrap().unwrap();
        let filter = DebugFilter(filter.map(|text| Regex::new(text).unwrap()));
        let layer = tracing_subscriber::fmt::layer()
            .json()
            .with_writer(target.writer())
            .with_filter(filter);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("started");
            tracing::debug!(agent = 7, "drpc server error");
            tracing::debug!("something else");
            tracing::trace!("drpc server error in detail");
        });
        std::fs::read_to_string(file.path()).unwrap()
    }

    #[test]
    fn debug_lines_are_off_unless_the_filter_matches_them() {
        let lines = |text: String| text.lines().count();
        assert_eq!(lines(logged(None)), 1);
        assert_eq!(lines(logged(Some(".*"))), 3);
        assert_eq!(
            lines(logged(Some("^drpcd::telemetry::logs::tests: drpc server"))),
            2
        );
    }

    #[test]
    fn an_unwritable_log_file_is_named() {
        let error = Target::open("/nonexistent/drpcd.log").err().unwrap();
        assert!(
            error
                .to_string()
                .starts_with("cannot open log file /nonexistent/drpcd.log: ")
        );
    }
}
