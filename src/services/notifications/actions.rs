//! The links of a notification: a template's list with the placeholders filled in.
//!
//! Knows the placeholders that templates of links use, of the much larger language of Go's `text/template` in which
//! they are written. A list is taken apart before it is filled in, so no name can break its JSON.

use serde::{Deserialize, Serialize};

use super::Notice;
use crate::store::NotificationRecipient;

/// What Go shows in place of an entry that a map does not have.
const NO_VALUE: &str = "<no value>";

/// A labelled link.
#[derive(Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(super) struct Action {
    #[serde(default)]
    pub(super) label: String,
    #[serde(default)]
    pub(super) url: String,
}

/// A template's links cannot be filled in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActionsError {
    /// They are no JSON list of labels and URLs.
    #[error("render actions: {0}")]
    Json(#[from] serde_json::Error),
    /// A placeholder without an end.
    #[error("render actions: unclosed placeholder")]
    Unclosed,
    /// A placeholder that is not known.
    #[error("render actions: unknown placeholder {0:?}")]
    Unknown(String),
}

/// The links of `notice`; `None` when its template has none.
pub(super) fn render(
    base_url: &str,
    notice: &Notice,
    recipient: &NotificationRecipient,
) -> Result<Option<Vec<Action>>, ActionsError> {
    let Some(template) = &recipient.actions else {
        return Ok(None);
    };
    let Some(mut actions) = serde_json::from_str::<Option<Vec<Action>>>(template)? else {
        return Ok(None);
    };
    let value = |name: &str| -> Option<&str> {
        match name {
            "base_url" => Some(base_url),
            ".NotificationName" => Some(&recipient.template_name),
            ".UserEmail" => Some(&recipient.user_email),
            ".UserName" => Some(&recipient.user_name),
            ".UserUsername" => Some(&recipient.user_username),
            _ => {
                let label = name.strip_prefix(".Labels.")?;
                Some(notice.labels.get(label).map_or(NO_VALUE, String::as_str))
            }
        }
    };
    for action in &mut actions {
        for text in [&mut action.label, &mut action.url] {
            *text = fill_in(text, value)?;
        }
    }
    Ok(Some(actions))
}

fn fill_in<'v>(template: &str, value: impl Fn(&str) -> Option<&'v str>) -> Result<String, ActionsError> {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or(ActionsError::Unclosed)?;
        let name = name.trim();
        filled.push_str(before);
        filled.push_str(value(name).ok_or_else(|| ActionsError::Unknown(name.to_owned()))?);
        rest = after;
    }
    filled.push_str(rest);
    Ok(filled)
}
