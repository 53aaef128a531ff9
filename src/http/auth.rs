//! Who an agent is: where its token stands in a request, and what each failure answers.
//!
//! Must never let a token reach a log or an answer. The rules are those of coder/coder
//! `coderd/httpmw/workspaceagent.go` and `apikey.go` (`APITokenFromRequest`).

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use uuid::Uuid;

use super::error::ApiError;
use super::{App, SessionHost, query};
use crate::clock::Clock;
use crate::ids::AgentToken;
use crate::services::patience::SHORT_STORE_WAIT;
use crate::store::{ApiKeyScope, Authenticated, StoreError};

/// Cookie and query parameter that may hold the token.
pub(super) const TOKEN_COOKIE: &str = "coder_session_token";

/// Header that holds it in requests of agents since 2.31.
const TOKEN_HEADER: &str = "coder-session-token";

/// Query parameter of OAuth2 clients.
const ACCESS_TOKEN: &str = "access_token";

/// Who asks, by one statement.
pub(super) async fn authenticate<H: SessionHost>(
    app: &App<H>,
    host: &H,
    request: &Parts,
) -> Result<Authenticated, ApiError> {
    let token = token(request)?;
    authorized(in_time(&app.clock, host.authenticate(&token)).await)
}

/// What the store answers, if it does within [`SHORT_STORE_WAIT`].
pub(super) async fn in_time<T>(
    clock: &Clock,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::select! {
        answer = asked => answer,
        () = clock.sleep(SHORT_STORE_WAIT) => {
            Err(StoreError::Unavailable("context deadline exceeded".to_owned()))
        }
    }
}

/// Whether an agent's token gives access to what is its owner's: keys, and tokens of external providers. The answer is
/// that of coder/coder `coderd/httpapi/httpapi.go` (`Forbidden`).
pub(super) fn user_data(authenticated: &Authenticated) -> Result<(), ApiError> {
    match authenticated.agent.api_key_scope {
        ApiKeyScope::All => Ok(()),
        ApiKeyScope::NoUserData => Err(ApiError::new(StatusCode::FORBIDDEN, "Forbidden.").detail(
            "You don't have permission to view this content. If you believe this is a mistake, please contact your \
             administrator or try signing in with different credentials.",
        )),
    }
}

/// The token of a request.
fn token(request: &Parts) -> Result<AgentToken, ApiError> {
    let text = find(request).ok_or_else(|| {
        let message = format!("Cookie \"{TOKEN_COOKIE}\" must be provided.");
        ApiError::new(StatusCode::UNAUTHORIZED, message)
    })?;
    parse_uuid(&text).map(AgentToken::new).ok_or_else(|| {
        ApiError::new(StatusCode::UNAUTHORIZED, "Workspace agent token invalid.").detail(format!(
            "An agent token must be a valid UUIDv4. (len {})",
            text.len()
        ))
    })
}

/// What the store's answer means for the agent.
fn authorized(found: Result<Option<Authenticated>, StoreError>) -> Result<Authenticated, ApiError> {
    match found {
        Ok(Some(authenticated)) => Ok(authenticated),
        Ok(None) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "Workspace agent not authorized.").detail(
            "The agent cannot authenticate until the workspace provision job has been completed. If the job is no \
             longer running, this agent is invalid.",
        )),
        Err(error) => {
            let message = "Internal error checking workspace agent authorization.";
            Err(ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).detail(error.to_string()))
        }
    }
}

/// The first place that holds anything wins.
pub(super) fn find(request: &Parts) -> Option<Vec<u8>> {
    let (headers, url) = (&request.headers, request.uri.query());
    let from_query = |name| query::first_non_empty(url, name).map(|value| value.into_owned().into_bytes());
    let non_empty = |value: &[u8]| (!value.is_empty()).then(|| value.to_vec());
    cookie(headers, TOKEN_COOKIE)
        .and_then(non_empty)
        .or_else(|| from_query(TOKEN_COOKIE))
        .or_else(|| {
            headers
                .get(TOKEN_HEADER)
                .and_then(|value| non_empty(value.as_bytes()))
        })
        .or_else(|| bearer(headers).and_then(non_empty))
        .or_else(|| from_query(ACCESS_TOKEN))
}

/// The first cookie of that name, as Go's `http.Request.Cookie` finds it.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b';'))
        .find_map(|pair| {
            let pair = pair.trim_ascii();
            let equals = pair.iter().position(|&byte| byte == b'=')?;
            let (key, value) = (&pair[..equals], &pair[equals + 1..]);
            (key.trim_ascii() == name.as_bytes()).then(|| unquoted(value))
        })
}

/// A cookie's value without the quotes that may stand around it.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        value => value,
    }
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"bearer ";
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

/// Reads a UUID in every form that Go's google/uuid `uuid.go` (`ParseBytes`) takes: 36 characters, 32 hex digits, behind
/// `urn:uuid:`, or in braces. Like there, what stands in the places of the braces is not looked at.
pub(super) fn parse_uuid(text: &[u8]) -> Option<Uuid> {
    const URN: &[u8] = b"urn:uuid:";
    let hyphenated: &[u8] = match text.len() {
        32 => return Some(Uuid::from_u128(hex(text.iter().copied())?)),
        36 => text,
        38 => &text[1..37],
        45 => {
            let (urn, rest) = text.split_at(URN.len());
            if !urn.eq_ignore_ascii_case(URN) {
                return None;
            }
            rest
        }
        _ => return None,
    };
    if [8, 13, 18, 23].into_iter().any(|at| hyphenated[at] != b'-') {
        return None;
    }
    let digits = hyphenated.iter().enumerate();
    let digits = digits
        .filter(|(at, _)| !matches!(at, 8 | 13 | 18 | 23))
        .map(|(_, &digit)| digit);
    Some(Uuid::from_u128(hex(digits)?))
}

fn hex(digits: impl Iterator<Item = u8>) -> Option<u128> {
    digits
        .map(|digit| char::from(digit).to_digit(16))
        .try_fold(0, |number, digit| Some(number << 4 | u128::from(digit?)))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    const ID: &str = "c42fdf75-3097-471c-8c33-fb52454d81c0";

    fn request(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let builder = headers.iter().fold(Request::get(uri), |builder, (name, value)| {
            builder.header(*name, *value)
        });
        builder.body(()).unwrap().into_parts().0
    }

    fn found(uri: &str, headers: &[(&str, &str)]) -> Option<String> {
        find(&request(uri, headers)).map(|token| String::from_utf8(token).unwrap())
    }

    #[test]
    fn every_place_for_a_token_is_looked_at_in_order() {
        let all = [
            ("cookie", "x=1; coder_session_token=a"),
            ("coder-session-token", "c"),
            ("authorization", "Bearer d"),
        ];
        let uri = "/?coder_session_token=b&access_token=e";
        assert_eq!(found(uri, &all).as_deref(), Some("a"));
        assert_eq!(found(uri, &all[1..]).as_deref(), Some("b"));
        assert_eq!(found("/?access_token=e", &all[1..]).as_deref(), Some("c"));
        assert_eq!(found("/?access_token=e", &all[2..]).as_deref(), Some("d"));
        assert_eq!(found("/?access_token=e", &[]).as_deref(), Some("e"));
        assert_eq!(found("/", &[]), None);
    }

    #[test]
    fn an_empty_place_is_passed_over() {
        let headers = [
            ("cookie", "coder_session_token="),
            ("coder-session-token", ""),
            ("authorization", "bearer t"),
        ];
        assert_eq!(found("/?coder_session_token=", &headers).as_deref(), Some("t"));
    }

    #[test]
    fn cookies_are_read_as_go_reads_them() {
        for (line, token) in [
            ("coder_session_token=\"quoted\"", Some("quoted")),
            (
                "a=b;coder_session_token=first; coder_session_token=second",
                Some("first"),
            ),
            ("xcoder_session_token=no", None),
            ("coder_session_token", None),
            ("other", None),
        ] {
            assert_eq!(found("/", &[("cookie", line)]).as_deref(), token, "{line}");
        }
    }

    #[test]
    fn only_the_bearer_scheme_is_taken() {
        for (value, token) in [
            ("BEARER x", Some("x")),
            ("Basic x", None),
            ("Bearer", None),
            ("Bearer ", None),
        ] {
            assert_eq!(
                found("/", &[("authorization", value)]).as_deref(),
                token,
                "{value}"
            );
        }
    }

    #[test]
    fn a_token_is_read_in_every_form_of_go() {
        let plain = ID.replace('-', "");
        let forms = [
            ID.to_owned(),
            ID.to_uppercase(),
            plain.clone(),
            plain.to_uppercase(),
            format!("urn:uuid:{ID}"),
            format!("URN:UUID:{ID}"),
            format!("{{{ID}}}"),
        ];
        for form in forms {
            assert_eq!(parse_uuid(form.as_bytes()), Some(ID.parse().unwrap()), "{form}");
        }
    }

    #[test]
    fn what_is_no_uuid_is_refused_with_its_length() {
        let urn = format!("urn:xxxx:{ID}");
        let spaced = format!(" {ID}");
        for text in [
            "abc",
            "",
            "gggggggggggggggggggggggggggggggg",
            "c42fdf75x3097-471c-8c33-fb52454d81c0",
            &urn,
            &spaced,
        ] {
            assert_eq!(parse_uuid(text.as_bytes()), None, "{text}");
        }
        let error = token(&request("/", &[("coder-session-token", "abc")])).unwrap_err();
        let expected = ApiError::new(StatusCode::UNAUTHORIZED, "Workspace agent token invalid.")
            .detail("An agent token must be a valid UUIDv4. (len 3)");
        assert_eq!(error, expected);
    }
}
