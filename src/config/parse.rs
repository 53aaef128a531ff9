//! The forms of settings' values.
//!
//! Owns what is taken and what a wrong value is told. Must never repeat a value that may be a secret.

use std::time::Duration;

use url::Url;

use super::choices::MaxIdle;
use crate::duration::parse_go_duration;
use crate::secret::Secret;
use crate::telemetry::agent_metrics::AgentLabel;

/// Takes anything, so that no error repeats it; whoever uses it finds what is wrong.
#[expect(clippy::unnecessary_wraps, reason = "what clap asks of a parser")]
pub(crate) fn parse_secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

pub(super) fn parse_http_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err("must be an http or https URL".to_owned());
    }
    Ok(url)
}

/// Go's form: `host:port`, `[v6]:port`, or `:port` for every address of the machine.
pub(super) fn parse_listen_address(text: &str) -> Result<String, String> {
    let (_, port) = text.rsplit_once(':').ok_or("must be HOST:PORT")?;
    port.parse::<u16>()
        .map_err(|_| "the port must be a number from 0 to 65535")?;
    Ok(text.to_owned())
}

pub(super) fn parse_wildcard(text: &str) -> Result<String, String> {
    if text.starts_with('*') && text.contains('.') && !text.contains('/') {
        Ok(text.to_owned())
    } else {
        Err("must be of the form *.example.com".to_owned())
    }
}

pub(super) fn parse_agent_label(text: &str) -> Result<AgentLabel, String> {
    AgentLabel::from_name(text).ok_or_else(|| {
        let names = AgentLabel::ALL.map(AgentLabel::as_str);
        format!("must be one of {}", names.join(", "))
    })
}

pub(super) fn parse_max_idle(text: &str) -> Result<MaxIdle, String> {
    if text == "auto" {
        return Ok(MaxIdle::Auto);
    }
    let count = text.parse().map(MaxIdle::Count);
    count.map_err(|_| "must be auto or a number".to_owned())
}

pub(super) fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_go_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0".to_owned()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

/// What Go's `strconv.ParseBool` takes.
pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}
