//! The one HTTP client of this server: what an operator names by URL is fetched here.
//!
//! Owns the bounds of every request to the outside: time, redirects and the size of what comes back. Must never put a URL
//! into an error, since it may hold a secret. Proxies are those of the environment, as with Go's default client.

mod provider;

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Bytes, BytesMut};
use reqwest::{Client, redirect};
use rustls::crypto::{CryptoProvider, ring};
use tokio::sync::OnceCell;
use url::Url;

/// How long a connection may take to be made, TLS included; less than [`REQUEST_TIMEOUT`], so that the error says which.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request may take in all. Nothing that is fetched is large.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Redirects that are followed: as many as Go's default client follows.
const MAX_REDIRECTS: usize = 10;

/// How long a connection is kept for another request. Requests are minutes apart, so none is kept for long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why something could not be fetched. Texts name no URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboundError {
    /// The client could not be made, such as for want of root certificates.
    #[error("cannot make an HTTP client: {0}")]
    Client(#[source] reqwest::Error),
    /// There was no answer, or it broke off.
    #[error("{}", chain(.0))]
    Request(#[source] reqwest::Error),
    /// The answer is not one of success.
    #[error("unexpected status {0}")]
    Status(StatusCode),
    /// The answer is larger than the caller takes.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

/// What went wrong and why: the outermost text alone is no more than "error sending request".
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A client for requests to the outside. Cheap to clone; made at its first request, as most servers never make one.
#[derive(Clone, Debug, Default)]
pub struct Outbound(Arc<OnceCell<Client>>);

impl Outbound {
    async fn client(&self) -> Result<&Client, OutboundError> {
        let client = self.0.get_or_try_init(|| async { client() });
        client.await.map_err(OutboundError::Client)
    }

    /// The body that a URL has, if it has at most `most` bytes.
    pub async fn get(&self, url: &Url, most: usize) -> Result<Bytes, OutboundError> {
        let request = self.client().await?.get(url.clone());
        let failed = |error: reqwest::Error| OutboundError::Request(error.without_url());
        let mut answer = request.send().await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(OutboundError::Status(answer.status()));
        }
        let mut body = BytesMut::new();
        while let Some(part) = answer.chunk().await.map_err(failed)? {
            if part.len() > most - body.len() {
                return Err(OutboundError::TooLarge(most));
            }
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }
}

/// A client that trusts the certificates that the machine trusts.
fn client() -> Result<Client, reqwest::Error> {
    if CryptoProvider::get_default().is_none() {
        // Fails only when somebody else was faster, with the same one.
        let _ = ring::default_provider().install_default();
    }
    Client::builder()
        .user_agent(concat!("drpcd/", env!("CARGO_PKG_VERSION")))
        // All of these run on the same clock as ours: tokio's.
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .redirect(redirect::Policy::limited(MAX_REDIRECTS))
        .build()
}

#[cfg(test)]
mod tests;
