//! Refusals as clients get them: JSON in the form that Go's encoder gives it.
//!
//! The form is coder/coder `codersdk/client.go` (`Response`), written by `coderd/httpapi/httpapi.go` (`Write`).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The content type of every JSON body.
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    body: Body,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Body {
    message: Cow<'static, str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    detail: Cow<'static, str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    validations: Vec<Validation>,
}

/// A request parameter that is not good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Validation {
    /// Name of the parameter.
    pub field: &'static str,
    /// What is wrong with it.
    pub detail: String,
}

impl ApiError {
    /// A refusal without detail.
    pub fn new(status: StatusCode, message: impl Into<Cow<'static, str>>) -> Self {
        let body = Body {
            message: message.into(),
            detail: Cow::Borrowed(""),
            validations: Vec::new(),
        };
        Self { status, body }
    }

    /// A refusal after which agents and clients come again.
    pub(super) fn unavailable(message: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }

    /// The refusal of a server that is not open yet, or not any more.
    pub(super) fn not_open() -> Self {
        Self::unavailable("The server is starting or stopping.")
    }

    /// The refusal of a server that could not do what was asked.
    pub(super) fn internal(message: &'static str, detail: &impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message).detail(detail.to_string())
    }

    /// Adds what the message does not say.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.body.detail = detail.into();
        self
    }

    /// Adds a bad parameter.
    #[must_use]
    pub fn validation(mut self, validation: Validation) -> Self {
        self.body.validations.push(validation);
        self
    }

    /// Its HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, [(header::CONTENT_TYPE, JSON)], go_json(&self.body)).into_response()
    }
}

/// What a route answers that does not exist.
pub(super) async fn route_not_found() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "Route not found.")
}

/// What a route answers to a method that it does not have.
pub(super) async fn method_not_allowed() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed.")
}

/// A JSON answer with status 200.
pub(super) fn json(body: &impl Serialize) -> Response {
    json_with(StatusCode::OK, body)
}

/// A JSON answer.
pub(super) fn json_with(status: StatusCode, body: &impl Serialize) -> Response {
    (status, [(header::CONTENT_TYPE, JSON)], go_json(body)).into_response()
}

/// A refusal in plain text, as Go's `http.Error` writes it.
pub(super) fn plain(status: StatusCode, text: &str) -> Response {
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
    ];
    (status, headers, format!("{text}\n")).into_response()
}

/// JSON as Go's `json.Encoder` writes it: `<`, `>`, `&` and the two line separators escaped, a line feed at the end.
fn go_json(value: &impl Serialize) -> String {
    // Our bodies are structs of strings and JSON, which always serialize; an empty object would still be JSON.
    let plain = serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned());
    let mut escaped = String::with_capacity(plain.len() + 1);
    // None of these occurs in JSON outside of strings.
    for character in plain.chars() {
        match character {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            other => escaped.push(other),
        }
    }
    escaped.push('\n');
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_the_order_of_go_and_empty_ones_are_left_out() {
        let error = ApiError::new(StatusCode::BAD_REQUEST, "m");
        assert_eq!(go_json(&error.body), "{\"message\":\"m\"}\n");
        let error = error.detail("d").validation(Validation {
            field: "version",
            detail: "v".to_owned(),
        });
        assert_eq!(
            go_json(&error.body),
            "{\"message\":\"m\",\"detail\":\"d\",\"validations\":[{\"field\":\"version\",\"detail\":\"v\"}]}\n"
        );
    }

    #[test]
    fn characters_are_escaped_as_go_escapes_them() {
        let error = ApiError::new(
            StatusCode::BAD_REQUEST,
            "<a> & \"b\" \\ \n\r\t\u{8}\u{c}\u{1}\u{2028}\u{2029}\u{7f}é",
        );
        assert_eq!(
            go_json(&error.body),
            "{\"message\":\"\\u003ca\\u003e \\u0026 \\\"b\\\" \\\\ \\n\\r\\t\\b\\f\\u0001\\u2028\\u2029\u{7f}é\"}\n"
        );
    }
}
