//! The YAML configuration file, read into settings by key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Why settings could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read configuration file {}: {source}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The file is not YAML, or not a mapping.
    #[error("configuration file {}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with the place if it is known.
        reason: String,
    },
    /// A variable of an external provider cannot be used.
    #[error("invalid value of {variable}: {reason}")]
    Provider {
        /// Its name. Its value may be a secret.
        variable: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file sets something that does not exist.
    #[error("configuration file {}: unknown key {key}", path.display())]
    UnknownKey {
        /// Which file.
        path: PathBuf,
        /// The key, with dots between groups.
        key: String,
    },
}

/// The values of a configuration file, as text by dotted key.
#[derive(Debug)]
pub struct ConfigFile {
    path: PathBuf,
    values: BTreeMap<String, String>,
}

/// Nested groups in a file; ours has three.
const MAX_DEPTH: usize = 8;

impl ConfigFile {
    /// Reads a file. Keys are not checked here: which ones exist depends on the verb.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let mut values = BTreeMap::new();
        if !text.trim().is_empty() {
            let root: Value = serde_saphyr::from_str(text).map_err(|error| malformed(error.to_string()))?;
            match root {
                Value::Null => {}
                Value::Object(_) => flatten("", root, 0, &mut values).map_err(malformed)?,
                _ => return Err(malformed("must be a mapping of settings".to_owned())),
            }
        }
        Ok(Self {
            path: path.to_owned(),
            values,
        })
    }

    /// Where it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key, if it is set; lists are joined with commas.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Fails at the first key for which `known` is false.
    pub fn check_keys(&self, known: impl Fn(&str) -> bool) -> Result<(), ConfigError> {
        match self.values.keys().find(|key| !known(key)) {
            Some(key) => Err(ConfigError::UnknownKey {
                path: self.path.clone(),
                key: key.clone(),
            }),
            None => Ok(()),
        }
    }
}

fn flatten(
    prefix: &str,
    value: Value,
    depth: usize,
    values: &mut BTreeMap<String, String>,
) -> Result<(), String> {
    match value {
        Value::Object(entries) if depth < MAX_DEPTH => {
            for (key, value) in entries {
                let path = if prefix.is_empty() {
                    key
                } else {
                    format!("{prefix}.{key}")
                };
                flatten(&path, value, depth + 1, values)?;
            }
        }
        Value::Object(_) => return Err(format!("{prefix} is nested too deep")),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.into_iter().map(|item| scalar(prefix, item)).collect();
            values.insert(prefix.to_owned(), items?.join(","));
        }
        Value::Null => {}
        value => {
            let text = scalar(prefix, value)?;
            values.insert(prefix.to_owned(), text);
        }
    }
    Ok(())
}

fn scalar(key: &str, value: Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            Err(format!("{key} must be a value or a list of values"))
        }
    }
}
