//! Requests to external providers, with tokens in them.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::header;
use bytes::{Bytes, BytesMut};
use url::{Url, form_urlencoded};

use super::{Outbound, OutboundError};
use crate::secret::Secret;
use crate::services::external_auth::{
    CheckAnswer, ClientAuthentication, Provider, ProviderClient, TokenAnswer,
};

/// How long a provider may take; somebody waits for it, for 30 s at most.
const PROVIDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest answer to a request for a token; they have a few KiB.
const MAX_TOKEN_ANSWER: usize = 64 * 1024;

impl Outbound {
    /// Sends a request and reads up to `most` bytes of the answer, whatever its status.
    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        most: usize,
    ) -> Result<(reqwest::Response, Bytes), OutboundError> {
        let failed = |error: reqwest::Error| OutboundError::Request(error.without_url());
        let sent = request.timeout(PROVIDER_TIMEOUT).send().await;
        let mut answer = sent.map_err(failed)?;
        let mut body = BytesMut::new();
        while body.len() < most
            && let Some(part) = answer.chunk().await.map_err(failed)?
        {
            let room = most - body.len();
            body.extend_from_slice(&part[..part.len().min(room)]);
        }
        Ok((answer, body.freeze()))
    }
}

#[async_trait]
impl ProviderClient for Outbound {
    async fn check(&self, url: &Url, token: &Secret) -> Result<CheckAnswer, String> {
        let text = |error: OutboundError| error.to_string();
        let client = self.client().await.map_err(text)?;
        let request = client.get(url.clone()).bearer_auth(token.reveal());
        // Only the status counts.
        let (answer, _) = self.exchange(request, 0).await.map_err(text)?;
        let spent = answer
            .headers()
            .get("x-ratelimit-remaining")
            .is_some_and(|left| left == "0");
        Ok(CheckAnswer {
            status: answer.status().as_u16(),
            rate_limited: spent || answer.headers().contains_key(header::RETRY_AFTER),
        })
    }

    async fn refresh(
        &self,
        provider: &Provider,
        url: &Url,
        refresh_token: &Secret,
        authentication: ClientAuthentication,
    ) -> Result<TokenAnswer, String> {
        let text = |error: OutboundError| error.to_string();
        let post = self.client().await.map_err(text)?.post(url.clone());
        let request = renewal(post, provider, refresh_token, authentication);
        let (answer, body) = self.exchange(request, MAX_TOKEN_ANSWER).await.map_err(text)?;
        Ok(TokenAnswer {
            status: answer.status().as_u16(),
            body,
        })
    }
}

fn renewal(
    post: reqwest::RequestBuilder,
    provider: &Provider,
    refresh_token: &Secret,
    authentication: ClientAuthentication,
) -> reqwest::RequestBuilder {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", refresh_token.reveal());
    let (id, secret) = (&provider.client_id, provider.client_secret.reveal());
    let request = match authentication {
        ClientAuthentication::Basic => {
            // RFC 6749 §2.3.1: both are form-encoded first.
            let encoded = |part: &str| form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>();
            post.basic_auth(encoded(id), Some(encoded(secret)))
        }
        ClientAuthentication::Parameters => {
            form.append_pair("client_id", id)
                .append_pair("client_secret", secret);
            post
        }
    };
    request
        .header(header::ACCEPT, "application/json")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form.finish())
}
