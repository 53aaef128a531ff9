//! Bodies of requests, read within bounds and taken apart as JSON.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;

use super::super::error::{ApiError, Validation};
use super::super::{App, SessionHost};
use super::room::Taken;
use crate::ids::WorkspaceId;

/// Largest body. Lines of a request make at most 1 MiB, as tools send them, and hardly a byte takes more than one in JSON;
/// the agents' own calls may have as much.
pub(crate) const MAX_BODY: usize = 4 << 20;

/// How long a body may take to come. Tools wait for 30 s in all.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory that bodies may take together. Most are of a few hundred bytes; only who has a token can send one.
pub(crate) const MAX_MEMORY: usize = 64 << 20;

/// Memory is counted in pieces of this size.
pub(super) const PIECE: usize = 4 << 10;

/// A body, and its share of [`MAX_MEMORY`].
pub(super) struct Bytes {
    content: Vec<u8>,
    _memory: Taken,
}

/// Reads a body of a request of `workspace` to its end.
pub(super) async fn read<H: SessionHost>(
    app: &App<H>,
    workspace: WorkspaceId,
    body: Body,
) -> Result<Bytes, ApiError> {
    tokio::select! {
        read = collect(app, workspace, body) => read,
        () = app.clock.sleep(READ_TIMEOUT) => {
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "Request body did not come in time."))
        }
    }
}

async fn collect<H: SessionHost>(
    app: &App<H>,
    workspace: WorkspaceId,
    body: Body,
) -> Result<Bytes, ApiError> {
    let too_many = |_| ApiError::unavailable("Too many large requests are at work.");
    let mut memory = app.bounds.body_memory.take(workspace, 0).map_err(too_many)?;
    let mut parts = body.into_data_stream();
    let mut bytes: Vec<u8> = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| invalid(error.to_string()))?;
        if part.len() > MAX_BODY - bytes.len() {
            let message = "Request body is too large.";
            let detail = format!("A request body may have {MAX_BODY} bytes.");
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message).detail(detail));
        }
        let pieces = (bytes.len() + part.len()).div_ceil(PIECE);
        memory.grow_to(pieces).map_err(too_many)?;
        bytes.extend_from_slice(&part);
    }
    Ok(Bytes {
        content: bytes,
        _memory: memory,
    })
}

impl Bytes {
    /// What the JSON says. Like Go's decoder it looks at the first value only. What is no UTF-8 becomes
    /// `replacement`, one for each run of bytes, as Go's `strings.ToValidUTF8` has it.
    pub(super) fn json<T: DeserializeOwned>(&self, replacement: &str) -> Result<T, ApiError> {
        let text = valid_utf8(&self.content, replacement);
        let mut deserializer = serde_json::Deserializer::from_str(&text);
        T::deserialize(&mut deserializer).map_err(|error| {
            invalid(match error.classify() {
                serde_json::error::Category::Eof if text.trim().is_empty() => "EOF".to_owned(),
                serde_json::error::Category::Eof => "unexpected EOF".to_owned(),
                _ => error.to_string(),
            })
        })
    }
}

fn invalid(detail: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "Request body must be valid JSON.").detail(detail)
}

fn valid_utf8<'b>(bytes: &'b [u8], replacement: &str) -> std::borrow::Cow<'b, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut text = String::with_capacity(bytes.len());
    let mut in_run = false;
    for chunk in bytes.utf8_chunks() {
        if !chunk.valid().is_empty() {
            text.push_str(chunk.valid());
            in_run = false;
        }
        if !chunk.invalid().is_empty() && !std::mem::replace(&mut in_run, true) {
            text.push_str(replacement);
        }
    }
    text.into()
}

/// Refuses NUL in a text that is stored as it is.
pub(super) fn without_nul(field: &'static str, text: &str) -> Result<(), ApiError> {
    if !text.contains('\0') {
        return Ok(());
    }
    let detail = "must not contain NUL".to_owned();
    let error = ApiError::new(StatusCode::BAD_REQUEST, "Validation failed.");
    Err(error.validation(Validation { field, detail }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_bytes_that_are_no_utf8_is_replaced_once() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            (b"a\xff\xfeb\xffc", "aXbXc"),
            (b"\xe2\x82", "X"),
            ("é\u{fffd}".as_bytes(), "é\u{fffd}"),
        ] {
            assert_eq!(valid_utf8(bytes, "X"), text);
        }
    }
}
