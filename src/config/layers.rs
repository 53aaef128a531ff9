//! Precedence: flag, environment, file, default, all through one clap command.
//!
//! The file's values become the command's defaults, so that one parser checks every source.

use std::error::Error as _;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Args as _, Command, FromArgMatches as _};

use super::{Config, ConfigError, ConfigFile};

/// Puts the values of `file` under those of flags and environment, in `command` and its verbs.
///
/// Fails when the file has a key that no verb knows. Environment variables that are set but empty count as not set,
/// as in the original (coder/serpent `option.go`).
pub fn layer(command: Command, file: Option<&ConfigFile>) -> Result<Command, ConfigError> {
    if let Some(file) = file {
        let known = |key: &str| key != "config" && arguments(&command).any(|arg| arg.get_id() == key);
        file.check_keys(known)?;
    }
    Ok(command.mut_subcommands(|verb| layer_verb(verb, file)))
}

fn layer_verb(verb: Command, file: Option<&ConfigFile>) -> Command {
    let verb = verb.mut_args(|arg| {
        let arg = if env_is_empty(&arg) {
            arg.env(Resettable::Reset)
        } else {
            arg
        };
        match file.and_then(|file| file.get(arg.get_id().as_str())) {
            Some(value) => arg.default_value(value.to_owned()).required(false),
            None => arg,
        }
    });
    verb.mut_subcommands(|verb| layer_verb(verb, file))
}

fn env_is_empty(arg: &Arg) -> bool {
    arg.get_env()
        .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()))
}

/// The arguments of all verbs, and of the verbs of verbs.
fn arguments(command: &Command) -> Box<dyn Iterator<Item = &Arg> + '_> {
    let verbs = command.get_subcommands();
    Box::new(verbs.flat_map(|verb| verb.get_arguments().chain(arguments(verb))))
}

/// What is wrong with a setting, naming its flag, its environment variable, its key in the file, and the value.
///
/// `None` when the error is not about the value of a setting; clap's own text is good then.
pub fn describe(error: &clap::Error, command: &Command, file: Option<&ConfigFile>) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    let shown = context(ContextKind::InvalidArg)?;
    let long = shown.strip_prefix("--")?.split([' ', '=', '[']).next()?;
    let arg = arguments(command).find(|arg| arg.get_long() == Some(long))?;
    let value = context(ContextKind::InvalidValue);
    let mut text = match (error.kind(), &value) {
        (ErrorKind::ValueValidation | ErrorKind::InvalidValue, Some(value)) => {
            format!("invalid value {value:?} for --{long}")
        }
        (ErrorKind::MissingRequiredArgument, _) => format!("missing --{long}"),
        _ => return None,
    };
    let mut sources = Vec::new();
    if let Some(env) = arg.get_env() {
        sources.push(format!("env {}", env.to_string_lossy()));
    }
    if let Some(file) = file {
        sources.push(format!("key {} of {}", arg.get_id(), file.path().display()));
    }
    if !sources.is_empty() {
        // Writing into a String cannot fail.
        let _ = write!(text, " ({})", sources.join(", "));
    }
    if let Some(reason) = error.source() {
        let _ = write!(text, ": {reason}");
    } else if let Some(ContextValue::Strings(valid)) = error.get(ContextKind::ValidValue) {
        let _ = write!(text, ": must be one of {}", valid.join(", "));
    }
    Some(text)
}

#[expect(
    clippy::expect_used,
    reason = "defaults are constants, and a test parses them"
)]
pub(super) fn defaults(data_dir: PathBuf) -> Config {
    let command = Config::augment_args(Command::new("drpcd")).mut_args(|arg| arg.env(Resettable::Reset));
    let matches = command
        .try_get_matches_from(["drpcd"])
        .expect("defaults are valid");
    let mut config = Config::from_arg_matches(&matches).expect("every setting is optional or has a default");
    config.common.data_dir = Some(data_dir);
    config
}
