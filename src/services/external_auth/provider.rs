//! What an operator says of a provider, made ready for use.
//!
//! Patterns that are left out follow from the type, as in coder/coder `coderd/externalauth/externalauth.go`
//! (`applyDefaultsToConfig`); URLs do not: nobody is asked whom the operator did not name.

use regex::Regex;
use url::Url;

use crate::secret::Secret;

/// A provider.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Unique among the providers; part of URLs.
    pub id: String,
    /// Which product it is, such as `github`.
    pub kind: String,
    /// Who this server is to it.
    pub client_id: String,
    /// And the proof of it.
    pub client_secret: Secret,
    /// Where access tokens are renewed; without it they are not.
    pub token_url: Option<Url>,
    /// Where it is asked whether a token is good; without it every token is, until it expires.
    pub validate_url: Option<Url>,
    /// The URLs that belong to it; without it, it is found by id only.
    pub regex: Option<Regex>,
    /// Tokens are not renewed.
    pub no_refresh: bool,
    /// What is kept of what comes along with a token.
    pub extra_token_keys: Vec<String>,
}

/// What is wrong with what an operator says of a provider.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// Neither id nor type.
    #[error("an id or a type must be given")]
    NoId,
    /// The id cannot be part of a URL.
    #[error("must be letters, digits and single hyphens between them")]
    Id,
    /// The pattern does not compile.
    #[error("{0}")]
    Regex(String),
}

/// Longest id, as for the original's names.
const MAX_ID: usize = 32;

impl Provider {
    /// A provider without URLs. An empty id is the type; the pattern follows from the type, and from the host of
    /// `auth_url` where the product runs at many.
    pub fn new(
        id: &str,
        kind: &str,
        auth_url: Option<&Url>,
        regex: Option<&str>,
    ) -> Result<Self, ProviderError> {
        let id = if id.is_empty() { kind } else { id };
        if id.is_empty() {
            return Err(ProviderError::NoId);
        }
        let label = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if id.len() > MAX_ID || !id.split('-').all(label) {
            return Err(ProviderError::Id);
        }
        let pattern = match regex {
            Some(regex) if !regex.is_empty() => Some(regex.to_owned()),
            _ => default_pattern(kind, auth_url.and_then(Url::host_str)),
        };
        let compile =
            |pattern: String| Regex::new(&pattern).map_err(|error| ProviderError::Regex(error.to_string()));
        Ok(Self {
            id: id.to_owned(),
            kind: kind.to_owned(),
            client_id: String::new(),
            client_secret: Secret::default(),
            token_url: None,
            validate_url: None,
            regex: pattern.map(compile).transpose()?,
            no_refresh: false,
            extra_token_keys: Vec::new(),
        })
    }

    /// Whether a URL, or another text that git asks with, belongs to it.
    pub fn matches(&self, text: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(text))
    }

    /// Whether it is a host of git repositories; coder/coder `codersdk/externalauth.go`
    /// (`EnhancedExternalAuthProvider.Git`).
    pub fn is_git(&self) -> bool {
        matches!(
            self.kind.as_str(),
            "github"
                | "gitlab"
                | "bitbucket"
                | "bitbucket-cloud"
                | "bitbucket-server"
                | "azure-devops"
                | "azure-devops-entra"
                | "gitea"
        )
    }
}

fn default_pattern(kind: &str, host: Option<&str>) -> Option<String> {
    let host = match kind {
        "github" => "github.com",
        "gitlab" => host.unwrap_or("gitlab.com"),
        "gitea" => host.unwrap_or("gitea.com"),
        "bitbucket" | "bitbucket-cloud" => "bitbucket.org",
        "bitbucket-server" => host?,
        "azure-devops" | "azure-devops-entra" => "dev.azure.com",
        _ => return None,
    };
    Some(format!("^(https?://)?{}(/.*)?$", regex::escape(host)))
}
