//! From a file to a checked [`Seed`].

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::Value;

use super::{Agent, Document, Seed};

/// Bytes of a seed file; some tens of thousands of agents.
pub(crate) const MAX_FILE_BYTES: u64 = 64 << 20;

/// Documents of a seed file, YAML nodes in all, and the parser's events: what a file of the size above needs.
pub(crate) const MAX_DOCUMENTS: usize = 100_000;
const MAX_NODES: usize = 8_000_000;
const MAX_EVENTS: usize = 16_000_000;

/// Parser's events that aliases may repeat in all: a few shared lists, and no file that grows while it is read.
const MAX_REPLAYED_EVENTS: usize = 100_000;

/// Why a seed file is refused. The text names the file and, where there is one, the key and the value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The file could not be read.
    #[error("{file}: {source}")]
    File {
        /// Its name.
        file: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The file is larger than 64 MiB.
    #[error("{file}: larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// Its name.
        file: String,
    },
    /// It is not YAML.
    #[error("{file}: {reason}")]
    Syntax {
        /// Its name.
        file: String,
        /// What is wrong and where, without any of the text.
        reason: String,
    },
    /// It holds no document.
    #[error("{file}: no document in it")]
    Empty {
        /// Its name.
        file: String,
    },
    /// A key is unknown or missing, or its value is of the wrong type or out of bounds.
    #[error("{file}: {key}: {reason}")]
    Value {
        /// Its name.
        file: String,
        /// Path of the key, such as `agents[0].apps[1].slug`.
        key: String,
        /// What is wrong, with the value unless it is a secret.
        reason: String,
    },
}

impl Seed {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> Result<Self, SeedError> {
        let file = path.display().to_string();
        let mut text = String::new();
        let size = fs::File::open(path)
            .and_then(|opened| opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|source| SeedError::File {
                file: file.clone(),
                source,
            })?;
        if size as u64 > MAX_FILE_BYTES {
            return Err(SeedError::TooLarge { file });
        }
        Self::parse(&file, &text)
    }

    /// Checks the text of a file named `file`.
    pub fn parse(file: &str, text: &str) -> Result<Self, SeedError> {
        // A tree first: its values know their path, and the parser's own errors, which may quote the file, cannot
        // come from our types.
        let values: Vec<Value> =
            serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| SeedError::Syntax {
                file: file.to_owned(),
                reason: syntax_reason(&error),
            })?;
        if values.is_empty() {
            return Err(SeedError::Empty {
                file: file.to_owned(),
            });
        }
        let several = values.len() > 1;
        let mut documents = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let refused = |path: &str, reason: String| SeedError::Value {
                file: file.to_owned(),
                key: key_in(several, index, path),
                reason,
            };
            if !value.is_object() {
                return Err(refused(".", "must be a mapping".to_owned()));
            }
            let document: Document = serde_path_to_error::deserialize(value)
                .map_err(|error| refused(&error.path().to_string(), error.inner().to_string()))?;
            documents.push(document);
        }
        let seed = Self {
            source: file.to_owned(),
            documents,
        };
        seed.check_duplicates()?;
        Ok(seed)
    }

    /// The path of a key of a document, with the document's number when there are several.
    pub(crate) fn key(&self, document: usize, path: &str) -> String {
        key_in(self.documents.len() > 1, document, path)
    }

    fn check_duplicates(&self) -> Result<(), SeedError> {
        let mut workspaces = HashSet::new();
        let mut tokens = HashSet::new();
        for (index, document) in self.documents.iter().enumerate() {
            let duplicate = |path: &str, what: String| SeedError::Value {
                file: self.source.clone(),
                key: self.key(index, path),
                reason: what,
            };
            let owner = document.owner.username.to_ascii_lowercase();
            let workspace = &*document.workspace.name;
            if !workspaces.insert((owner, workspace.to_ascii_lowercase())) {
                let reason = format!("workspace {workspace:?} of this owner is in the file already");
                return Err(duplicate("workspace.name", reason));
            }
            let links = document.owner.external_auth_links.as_deref().unwrap_or_default();
            unique(links.iter().map(|link| &*link.provider_id)).map_err(|(at, value)| {
                duplicate(
                    &format!("owner.external_auth_links[{at}].provider_id"),
                    twice(value),
                )
            })?;
            unique(document.agents.iter().map(|agent| &*agent.name))
                .map_err(|(at, value)| duplicate(&format!("agents[{at}].name"), twice(value)))?;
            for (at, agent) in document.agents.iter().enumerate() {
                if let Some(token) = &agent.token
                    && !tokens.insert(*token.reveal())
                {
                    let reason =
                        "another agent of the file has this token (the value is a secret and not shown)";
                    return Err(duplicate(&format!("agents[{at}].token"), reason.to_owned()));
                }
                check_lists(agent)
                    .map_err(|(list, value)| duplicate(&format!("agents[{at}].{list}"), twice(value)))?;
            }
        }
        Ok(())
    }
}

/// Every list of an agent is matched by a key, which must be unique.
fn check_lists(agent: &Agent) -> Result<(), (String, &str)> {
    let key =
        |list: &'static str, key: &'static str| move |(at, value)| (format!("{list}[{at}].{key}"), value);
    unique(agent.apps.iter().map(|app| &*app.slug)).map_err(key("apps", "slug"))?;
    unique(agent.scripts.iter().map(|script| &*script.display_name))
        .map_err(key("scripts", "display_name"))?;
    unique(agent.metadata.iter().map(|item| &*item.key)).map_err(key("metadata", "key"))?;
    unique(
        agent
            .resources_monitoring
            .volumes
            .iter()
            .map(|volume| &*volume.path),
    )
    .map_err(key("resources_monitoring.volumes", "path"))?;
    unique(agent.devcontainers.iter().map(|container| &*container.name)).map_err(key("devcontainers", "name"))
}

/// The place and value of the first repeated key.
fn unique<'t>(keys: impl Iterator<Item = &'t str>) -> Result<(), (usize, &'t str)> {
    let mut seen = HashSet::new();
    for (at, key) in keys.enumerate() {
        if !seen.insert(key) {
            return Err((at, key));
        }
    }
    Ok(())
}

fn twice(value: &str) -> String {
    format!("{value:?} is in the list already")
}

fn key_in(several: bool, document: usize, path: &str) -> String {
    let path = if path == "." { "document" } else { path };
    if several {
        format!("document {}: {path}", document + 1)
    } else {
        path.to_owned()
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: MAX_DOCUMENTS,
            max_nodes: MAX_NODES,
            max_events: MAX_EVENTS,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_REPLAYED_EVENTS,
        },
        with_snippet: false,
        strict_booleans: true,
    }
}

/// The parser's reason by place and kind; its own text may quote the file, in which secrets stand.
fn syntax_reason(error: &serde_saphyr::Error) -> String {
    match error.location() {
        Some(at) => format!("not valid YAML at line {}, column {}", at.line(), at.column()),
        None => "not valid YAML".to_owned(),
    }
}
