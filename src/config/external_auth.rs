//! External providers: numbered groups of environment variables, `CODER_EXTERNAL_AUTH_<n>_<key>`, counted from 0.
//!
//! Names are those of coder/coder `cli/server.go` (`parseExternalAuthProvidersFromEnv`). Keys that only a login needs,
//! which is not served here, are taken and not looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;

use url::Url;

use super::{ConfigError, parse_bool};
use crate::secret::Secret;
use crate::services::external_auth::{Provider, ProviderError};

const PREFIX: &str = "CODER_EXTERNAL_AUTH_";

/// Most providers. Each is compared with every URL that git asks for.
pub(crate) const MAX_PROVIDERS: usize = 256;

/// Reads the providers among environment variables, in the order of their numbers.
pub fn read_providers(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Provider>, ConfigError> {
    let mut groups: BTreeMap<usize, Group> = BTreeMap::new();
    for (name, value) in variables {
        let Some((number, key)) = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(split)
        else {
            continue;
        };
        let group = groups.entry(number).or_insert_with(|| Group::new(number));
        let value = value
            .into_string()
            .map_err(|_| group.error(&key, "must be UTF-8"))?;
        // A variable that is set but empty counts as not set.
        if !value.is_empty() {
            group.values.insert(key, value);
        }
    }
    let mut providers: Vec<Provider> = Vec::new();
    for (place, (number, group)) in groups.into_iter().enumerate() {
        if number != place || number >= MAX_PROVIDERS {
            let reason = if number == place {
                format!("there may be at most {MAX_PROVIDERS} providers")
            } else {
                format!("provider {place} is left out")
            };
            return Err(group.error("ID", &reason));
        }
        let provider = group.provider()?;
        if providers.iter().any(|other| other.id == provider.id) {
            return Err(group.error("ID", &format!("another provider has the id {:?}", provider.id)));
        }
        providers.push(provider);
    }
    Ok(providers)
}

/// The number and the key in what follows the prefix.
fn split(rest: &str) -> Option<(usize, String)> {
    let (number, key) = rest.split_once('_')?;
    Some((number.parse().ok()?, key.to_owned()))
}

/// The variables of one provider.
struct Group {
    number: usize,
    values: BTreeMap<String, String>,
}

impl Group {
    fn new(number: usize) -> Self {
        Self {
            number,
            values: BTreeMap::new(),
        }
    }

    fn error(&self, key: &str, reason: &str) -> ConfigError {
        ConfigError::Provider {
            variable: format!("{PREFIX}{}_{key}", self.number),
            reason: reason.to_owned(),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    fn url(&self, key: &str) -> Result<Option<Url>, ConfigError> {
        let url = self.get(key).map(Url::parse).transpose();
        match url {
            Ok(Some(url)) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
                Err(self.error(key, "must be an http or https URL"))
            }
            Ok(url) => Ok(url),
            // The value may hold a secret, and is not shown.
            Err(error) => Err(self.error(key, &error.to_string())),
        }
    }

    fn provider(&self) -> Result<Provider, ConfigError> {
        let (id, kind) = (self.get("ID").unwrap_or(""), self.get("TYPE").unwrap_or(""));
        let auth_url = self.url("AUTH_URL")?;
        let regex = self.get("REGEX");
        let mut provider = Provider::new(id, kind, auth_url.as_ref(), regex).map_err(|error| {
            let key = match error {
                ProviderError::Regex(_) => "REGEX",
                _ => "ID",
            };
            self.error(key, &error.to_string())
        })?;
        let words = |key| {
            let words = self.get(key).unwrap_or("").split_whitespace();
            words.map(str::to_owned).collect()
        };
        if let Some(client_id) = self.get("CLIENT_ID") {
            client_id.clone_into(&mut provider.client_id);
        }
        provider.client_secret = Secret::new(self.get("CLIENT_SECRET").unwrap_or(""));
        provider.token_url = self.url("TOKEN_URL")?;
        provider.validate_url = self.url("VALIDATE_URL")?;
        provider.extra_token_keys = words("EXTRA_TOKEN_KEYS");
        provider.no_refresh = self
            .get("NO_REFRESH")
            .map_or(Ok(false), parse_bool)
            .map_err(|reason| self.error("NO_REFRESH", &reason))?;
        if provider.token_url.is_some() && provider.client_id.is_empty() {
            return Err(self.error("CLIENT_ID", "must be given with a TOKEN_URL"));
        }
        Ok(provider)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Vec<Provider>, String> {
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        read_providers(variables).map_err(|error| error.to_string())
    }

    #[test]
    fn providers_come_in_the_order_of_their_numbers() {
        let mut variables = vec![("HOME".to_owned(), "/".to_owned())];
        for number in (0..12).rev() {
            variables.push((format!("{PREFIX}{number}_ID"), format!("p{number}")));
        }
        let variables: Vec<_> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let ids: Vec<_> = read(&variables)
            .unwrap()
            .into_iter()
            .map(|provider| provider.id)
            .collect();
        assert_eq!(
            ids,
            (0..12).map(|number| format!("p{number}")).collect::<Vec<_>>()
        );
    }

    #[test]
    fn providers_are_taken_up_to_the_limit() {
        for (count, taken) in [
            (MAX_PROVIDERS - 1, true),
            (MAX_PROVIDERS, true),
            (MAX_PROVIDERS + 1, false),
        ] {
            let variables = (0..count).map(|number| (format!("{PREFIX}{number}_ID"), format!("p{number}")));
            let variables: Vec<_> = variables.collect();
            let variables: Vec<_> = variables.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            match read(&variables) {
                Ok(providers) => assert!(taken && providers.len() == count, "{count}"),
                Err(error) => assert!(!taken && error.contains("at most 256 providers"), "{error}"),
            }
        }
    }

    #[test]
    fn every_key_is_read() {
        let mut providers = read(&[
            ("CODER_EXTERNAL_AUTH_0_TYPE", "github"),
            ("CODER_EXTERNAL_AUTH_0_CLIENT_ID", "us"),
            ("CODER_EXTERNAL_AUTH_0_CLIENT_SECRET", "hunter2"),
            (
                "CODER_EXTERNAL_AUTH_0_TOKEN_URL",
                "https://github.example.com/token",
            ),
            (
                "CODER_EXTERNAL_AUTH_0_VALIDATE_URL",
                "https://github.example.com/user",
            ),
            ("CODER_EXTERNAL_AUTH_0_REGEX", "example"),
            ("CODER_EXTERNAL_AUTH_0_NO_REFRESH", "true"),
            ("CODER_EXTERNAL_AUTH_0_EXTRA_TOKEN_KEYS", "a b"),
            ("CODER_EXTERNAL_AUTH_0_SCOPES", "repo"),
            ("CODER_EXTERNAL_AUTH_0_DISPLAY_NAME", ""),
        ])
        .unwrap();
        let provider = providers.remove(0);
        assert_eq!(
            (provider.id.as_str(), provider.kind.as_str()),
            ("github", "github")
        );
        assert_eq!(provider.client_id, "us");
        assert_eq!(provider.client_secret.reveal(), "hunter2");
        assert_eq!(provider.token_url.as_ref().unwrap().path(), "/token");
        assert_eq!(provider.validate_url.as_ref().unwrap().path(), "/user");
        assert!(provider.matches("an example") && !provider.matches("github.com"));
        assert!(provider.no_refresh);
        assert_eq!(provider.extra_token_keys, ["a", "b"]);
        assert!(!format!("{provider:?}").contains("hunter2"));
    }

    #[test]
    fn what_is_wrong_is_named_without_its_value() {
        for (variables, text) in [
            (
                &[("CODER_EXTERNAL_AUTH_0_CLIENT_ID", "us")] as &[_],
                "invalid value of CODER_EXTERNAL_AUTH_0_ID: an id or a type must be given",
            ),
            (
                &[("CODER_EXTERNAL_AUTH_1_ID", "a")],
                "invalid value of CODER_EXTERNAL_AUTH_1_ID: provider 0 is left out",
            ),
            (
                &[("CODER_EXTERNAL_AUTH_0_ID", "a b")],
                "invalid value of CODER_EXTERNAL_AUTH_0_ID: must be letters, digits and single hyphens between them",
            ),
            (
                &[
                    ("CODER_EXTERNAL_AUTH_0_ID", "a"),
                    ("CODER_EXTERNAL_AUTH_1_TYPE", "a"),
                ],
                "invalid value of CODER_EXTERNAL_AUTH_1_ID: another provider has the id \"a\"",
            ),
            (
                &[
                    ("CODER_EXTERNAL_AUTH_0_ID", "a"),
                    ("CODER_EXTERNAL_AUTH_0_TOKEN_URL", "secret"),
                ],
                "invalid value of CODER_EXTERNAL_AUTH_0_TOKEN_URL: relative URL without a base",
            ),
            (
                &[
                    ("CODER_EXTERNAL_AUTH_0_ID", "a"),
                    ("CODER_EXTERNAL_AUTH_0_VALIDATE_URL", "ftp://secret"),
                ],
                "invalid value of CODER_EXTERNAL_AUTH_0_VALIDATE_URL: must be an http or https URL",
            ),
            (
                &[
                    ("CODER_EXTERNAL_AUTH_0_ID", "a"),
                    ("CODER_EXTERNAL_AUTH_0_TOKEN_URL", "http://secret"),
                ],
                "invalid value of CODER_EXTERNAL_AUTH_0_CLIENT_ID: must be given with a TOKEN_URL",
            ),
            (
                &[
                    ("CODER_EXTERNAL_AUTH_0_ID", "a"),
                    ("CODER_EXTERNAL_AUTH_0_NO_REFRESH", "maybe"),
                ],
                "invalid value of CODER_EXTERNAL_AUTH_0_NO_REFRESH: must be true or false",
            ),
        ] {
            assert_eq!(read(variables).unwrap_err(), text);
        }
        let error = read(&[
            ("CODER_EXTERNAL_AUTH_0_TYPE", "a"),
            ("CODER_EXTERNAL_AUTH_0_REGEX", "("),
        ]);
        assert!(
            error
                .unwrap_err()
                .starts_with("invalid value of CODER_EXTERNAL_AUTH_0_REGEX: regex")
        );
        assert!(read(&[]).unwrap().is_empty());
    }

    #[test]
    fn patterns_follow_from_the_type_and_the_host() {
        let pattern = |kind, auth_url: Option<&str>| {
            let mut variables = vec![("CODER_EXTERNAL_AUTH_0_TYPE", kind)];
            variables.extend(auth_url.map(|url| ("CODER_EXTERNAL_AUTH_0_AUTH_URL", url)));
            read(&variables)
                .unwrap()
                .remove(0)
                .regex
                .map(|regex| regex.as_str().to_owned())
        };
        for (kind, auth_url, host) in [
            ("github", None, Some(r"github\.com")),
            ("gitlab", None, Some(r"gitlab\.com")),
            (
                "gitlab",
                Some("https://git.example.com/auth"),
                Some(r"git\.example\.com"),
            ),
            ("bitbucket-cloud", None, Some(r"bitbucket\.org")),
            (
                "bitbucket-server",
                Some("https://bb.example.com/x"),
                Some(r"bb\.example\.com"),
            ),
            ("bitbucket-server", None, None),
            ("azure-devops", None, Some(r"dev\.azure\.com")),
            ("gitea", None, Some(r"gitea\.com")),
            ("slack", None, None),
        ] {
            let expected = host.map(|host| format!("^(https?://)?{host}(/.*)?$"));
            assert_eq!(pattern(kind, auth_url), expected, "{kind}");
        }
    }
}
