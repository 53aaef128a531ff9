//! BatchUpdateMetadata: values that an agent collected.
//!
//! Source: coder/coder `coderd/agentapi/metadata.go`. Success does not mean stored: values go to the batcher.

use super::{AgentApi, required};
use crate::batch::metadata::Item;
use crate::mux::Status;
use crate::proto::agent as proto;

/// Bytes of all keys of a request.
pub(crate) const MAX_KEYS: usize = 6_144;

/// Bytes of a value, and of an error.
pub(crate) const MAX_TEXT: usize = 2_048;

/// Bytes of a value that a log line shows.
const SHOWN: usize = 16;

impl AgentApi {
    pub(super) fn report_metadata(
        &self,
        request: proto::BatchUpdateMetadataRequest,
    ) -> Result<proto::BatchUpdateMetadataResponse, Status> {
        if request.metadata.iter().any(|item| item.result.is_none()) {
            return Err(required("result"));
        }
        let parts = &self.services.parts;
        let collected_at = parts.clock.now();
        let mut keys_len = 0;
        let mut items = Vec::with_capacity(request.metadata.len());
        for metadata in request.metadata {
            let result = metadata.result.unwrap_or_default();
            keys_len += metadata.key.len();
            if keys_len > MAX_KEYS {
                tracing::warn!(
                    %collected_at,
                    all_keys_len = keys_len,
                    max_all_keys_len = MAX_KEYS,
                    "discarded extra agent metadata due to excessive key length"
                );
                break;
            }
            let item = accept(metadata.key, result.value, result.error);
            let shown = cut(&item.value, SHOWN);
            let more = if shown.len() < item.value.len() { "..." } else { "" };
            tracing::debug!(%collected_at, key = item.key, value = %format_args!("{shown}{more}"), "accepted metadata report");
            items.push(item);
        }
        parts.metadata.add(self.session.agent_id, items, collected_at);
        if keys_len > MAX_KEYS {
            let error = format!("metadata keys of {keys_len} bytes exceeded {MAX_KEYS} bytes");
            return Err(Status::message(error));
        }
        Ok(proto::BatchUpdateMetadataResponse {})
    }
}

/// Trims, and cuts what is too long. Unlike the original's, the cut leaves no half of a character behind, and there is no
/// NUL: either would fail the whole batch in Postgres.
fn accept(key: String, value: String, error: String) -> Item {
    let [value, mut error] = [value, error].map(|text| trim(without_nul(text)));
    // Of two that are too long, the error is told of.
    if error.len() > MAX_TEXT {
        error = format!("error of {} bytes exceeded {MAX_TEXT} bytes", error.len());
    } else if value.len() > MAX_TEXT {
        error = format!("value of {} bytes exceeded {MAX_TEXT} bytes", value.len());
    }
    Item {
        key: without_nul(key),
        value: if value.len() > MAX_TEXT {
            cut(&value, MAX_TEXT).to_owned()
        } else {
            value
        },
        error,
    }
}

fn trim(text: String) -> String {
    let trimmed = text.trim();
    if trimmed.len() == text.len() {
        return text;
    }
    trimmed.to_owned()
}

fn without_nul(text: String) -> String {
    if text.contains('\0') {
        text.replace('\0', "")
    } else {
        text
    }
}

/// At most `most` bytes of `text`, whole characters only.
fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(value: &str, error: &str) -> (String, String) {
        let item = accept("key".into(), value.into(), error.into());
        (item.value, item.error)
    }

    #[test]
    fn s1_069_values_and_errors_of_2048_bytes_are_kept_and_longer_ones_cut() {
        let [short, fits, long] = [2_047, 2_048, 2_049].map(|length| "x".repeat(length));
        assert_eq!(accepted(&short, &short), (short.clone(), short));
        assert_eq!(accepted(&fits, &fits), (fits.clone(), fits.clone()));
        assert_eq!(
            accepted(&long, ""),
            (fits.clone(), "value of 2049 bytes exceeded 2048 bytes".into())
        );
        assert_eq!(
            accepted("", &long),
            (String::new(), "error of 2049 bytes exceeded 2048 bytes".into())
        );
        assert_eq!(
            accepted(&long, &long),
            (fits, "error of 2049 bytes exceeded 2048 bytes".into())
        );
    }

    #[test]
    fn a_key_is_taken_as_it_is_but_for_nul() {
        assert_eq!(accept(" k\0 ".into(), String::new(), String::new()).key, " k ");
    }

    #[test]
    fn s1_071_whitespace_around_is_trimmed_before_measuring() {
        let fits = "x".repeat(2_048);
        assert_eq!(
            accepted(&format!("  {fits}\n"), "\t why \n"),
            (fits, "why".into())
        );
    }

    #[test]
    fn a_cut_leaves_whole_characters() {
        let (value, _) = accepted(&"é".repeat(1_025), "");
        assert_eq!(value.len(), 2_048);
        let (value, _) = accepted(&format!("x{}", "é".repeat(1_024)), "");
        assert_eq!(value.len(), 2_047);
    }

    #[test]
    fn nul_is_removed() {
        assert_eq!(accepted("a\0b", "\0"), ("ab".into(), String::new()));
    }
}
