//! The WebSocket handshake: what a request must look like, and the answer to it.
//!
//! Checks, their order and their texts are those of coder/websocket `accept.go` (`verifyClientRequest`,
//! `authenticateOrigin`), which the original serves agents with. No subprotocol and no extension is ever chosen.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tungstenite::handshake::derive_accept_key;

use super::error::plain;
use crate::mux::quote;

/// The one version of the protocol (RFC 6455 §4.1).
const PROTOCOL_VERSION: HeaderValue = HeaderValue::from_static("13");
const UPGRADE: HeaderValue = HeaderValue::from_static("Upgrade");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// The answer that accepts a request, or the one that refuses it.
pub(super) fn accept(request: &Parts) -> Result<Response<Body>, Response<Body>> {
    let key = verify(request)?;
    authenticate_origin(request).map_err(|text| plain(StatusCode::FORBIDDEN, &text))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

/// The key of a request that is a WebSocket handshake.
fn verify(request: &Parts) -> Result<&[u8], Response<Body>> {
    let headers = &request.headers;
    let violation = |rest: String| format!("WebSocket protocol violation: {rest}");
    if request.version < Version::HTTP_11 {
        let text = format!(
            "handshake request must be at least HTTP/1.1: {}",
            quote(format!("{:?}", request.version))
        );
        return Err(plain(StatusCode::UPGRADE_REQUIRED, &violation(text)));
    }
    for (name, token) in [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "websocket")] {
        if !has_token(headers, &name, token) {
            let (title, value) = (
                if token == "Upgrade" {
                    "Connection"
                } else {
                    "Upgrade"
                },
                first(headers, &name),
            );
            let text = violation(format!(
                "{title} header {} does not contain {token}",
                quote(value)
            ));
            let mut response = plain(StatusCode::UPGRADE_REQUIRED, &text);
            response.headers_mut().insert(header::CONNECTION, UPGRADE);
            response.headers_mut().insert(header::UPGRADE, WEBSOCKET);
            return Err(response);
        }
    }
    if request.method != Method::GET {
        let text = format!(
            "handshake request method is not GET but {}",
            quote(request.method.as_str())
        );
        return Err(plain(StatusCode::METHOD_NOT_ALLOWED, &violation(text)));
    }
    let version = first(headers, &header::SEC_WEBSOCKET_VERSION);
    if version != PROTOCOL_VERSION.as_bytes() {
        let text = format!(
            "unsupported WebSocket protocol version (only 13 is supported): {}",
            quote(version)
        );
        let mut response = plain(StatusCode::BAD_REQUEST, &text);
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_VERSION, PROTOCOL_VERSION);
        return Err(response);
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
            format!(
                "invalid Sec-WebSocket-Key {}, must be a 16 byte base64 encoded string",
                quote(key)
            )
        }
    };
    Err(plain(StatusCode::BAD_REQUEST, &violation(text)))
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
