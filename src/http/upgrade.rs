//! The WebSocket handshake: what a request must look like, and the answer to it.
//!
//! Checks, their order and their texts are those of coder/websocket `accept.go` (`verifyClientRequest`,
//! `authenticateOrigin`), which the original serves agents with. No subprotocol and no extension is ever chosen.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tungstenite::handshake::derive_accept_key;

use super::error::plain;
use crate::mux::quote;

/// The one version of the protocol (RFC 6455 §4.1).
const PROTOCOL_VERSION: HeaderValue = HeaderValue::from_static("13");
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Why a request is no good handshake, as the client is told in plain text.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    /// Headers that tell what would be good.
    advice: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    fn new(status: StatusCode, text: String) -> Self {
        Self {
            status,
            text,
            advice: Vec::new(),
        }
    }

    fn violation(status: StatusCode, text: &str) -> Self {
        Self::new(status, format!("WebSocket protocol violation: {text}"))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = plain(self.status, &self.text);
        response.headers_mut().extend(self.advice);
        response
    }
}

/// The answer that accepts a request.
pub(super) fn accept(request: &Parts) -> Result<Response, Refusal> {
    let key = verify(request)?;
    authenticate_origin(request).map_err(|text| Refusal::new(StatusCode::FORBIDDEN, text))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    // Base64 is always a header's value.
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// The key of a request that is a WebSocket handshake.
fn verify(request: &Parts) -> Result<&[u8], Refusal> {
    let headers = &request.headers;
    if request.version < Version::HTTP_11 {
        let version = quote(format!("{:?}", request.version));
        let text = format!("handshake request must be at least HTTP/1.1: {version}");
        return Err(Refusal::violation(StatusCode::UPGRADE_REQUIRED, &text));
    }
    for (title, name, token) in [
        ("Connection", header::CONNECTION, "Upgrade"),
        ("Upgrade", header::UPGRADE, "websocket"),
    ] {
        if !has_token(headers, &name, token) {
            let value = quote(first(headers, &name));
            let text = format!("{title} header {value} does not contain {token}");
            let mut refusal = Refusal::violation(StatusCode::UPGRADE_REQUIRED, &text);
            refusal.advice = vec![(header::CONNECTION, UPGRADE), (header::UPGRADE, WEBSOCKET)];
            return Err(refusal);
        }
    }
    if request.method != Method::GET {
        let method = quote(request.method.as_str());
        let text = format!("handshake request method is not GET but {method}");
        return Err(Refusal::violation(StatusCode::METHOD_NOT_ALLOWED, &text));
    }
    let version = first(headers, &header::SEC_WEBSOCKET_VERSION);
    if version != PROTOCOL_VERSION.as_bytes() {
        let version = quote(version);
        let text = format!("unsupported WebSocket protocol version (only 13 is supported): {version}");
        let mut refusal = Refusal::new(StatusCode::BAD_REQUEST, text);
        refusal.advice = vec![(header::SEC_WEBSOCKET_VERSION, PROTOCOL_VERSION)];
        return Err(refusal);
    }
    let mut keys = headers.get_all(header::SEC_WEBSOCKET_KEY).into_iter();
    let text = match (keys.next(), keys.next()) {
        (None, _) => "missing Sec-WebSocket-Key".to_owned(),
        (Some(_), Some(_)) => "multiple Sec-WebSocket-Key headers".to_owned(),
        (Some(key), None) => {
            let key = key.as_bytes().trim_ascii();
            if STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16) {
                return Ok(key);
            }
            let key = quote(key);
            format!("invalid Sec-WebSocket-Key {key}, must be a 16 byte base64 encoded string")
        }
    };
    Err(Refusal::violation(StatusCode::BAD_REQUEST, &text))
}

/// A page of another host may not connect with its visitor's cookie. Agents send no `Origin`.
fn authenticate_origin(request: &Parts) -> Result<(), String> {
    let origin = first(&request.headers, &header::ORIGIN);
    if origin.is_empty() {
        return Ok(());
    }
    let host = match request.uri.authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => first(&request.headers, &header::HOST),
    };
    let origin_host = host_of(origin);
    if origin_host.eq_ignore_ascii_case(host) {
        return Ok(());
    }
    Err(if origin_host.is_empty() {
        format!("request Origin {} is not a valid URL with a host", quote(origin))
    } else {
        format!(
            "request Origin {} is not authorized for Host {}",
            quote(origin_host),
            quote(host)
        )
    })
}

/// Host and port of a URL, as it writes them; empty when it has none.
fn host_of(url: &[u8]) -> &[u8] {
    let Some(colon) = url.windows(3).position(|window| window == b"://") else {
        return &[];
    };
    let rest = &url[colon + 3..];
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let authority = &rest[..end];
    let user = authority
        .iter()
        .rposition(|&byte| byte == b'@')
        .map_or(0, |at| at + 1);
    &authority[user..]
}

fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h [u8] {
    headers.get(name).map_or(&[], HeaderValue::as_bytes)
}

/// Whether a comma-separated header has `token`, in any case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter();
    let mut tokens = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
