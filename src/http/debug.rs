//! The coordinator's state as a page for operators.
//!
//! Served where metrics are, never where agents and clients come: it shows who is connected and with what addresses. What
//! peers chose themselves, names and nodes, is escaped like everything else.

use std::fmt::{self, Display, Write as _};

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use crate::coordinator::{EncodedNode, Snapshot};
use crate::store::{SharedSnapshot, StoreError, Tunnel};

/// Peers and tunnels that a page shows: what a browser shows without trouble. The rest is counted.
pub(super) const MAX_ROWS: usize = 1_000;

/// Characters of a node's text. Honest ones have a few hundred.
const MAX_NODE_TEXT: usize = 4_096;

/// Of a coordinator that shares nothing, and of one that does.
const TITLES: [&str; 2] = ["in-memory coordinator debug", "coordinator debug"];

pub(super) fn coordinator(snapshot: Result<Snapshot, StoreError>) -> Response {
    let snapshot = match snapshot {
        Ok(snapshot) => snapshot,
        Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    };
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = write(&mut page, &snapshot);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn write(out: &mut String, snapshot: &Snapshot) -> fmt::Result {
    let title = TITLES[usize::from(snapshot.shared.is_some())];
    write!(
        out,
        "<!DOCTYPE html>\n<html>\n<head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body>\n<h1>{title}</h1>\n"
    )?;
    heading(out, "peers", snapshot.total_peers, snapshot.peers.len())?;
    row(
        out,
        "th",
        &[&"id", &"name", &"age", &"last write", &"overwrites", &"node"],
    )?;
    for peer in &snapshot.peers {
        let last_write = peer
            .last_write
            .map_or_else(|| "never".to_owned(), |ago| format!("{ago:.1?}"));
        let node = peer.node.as_ref().map(|node| node_text(node)).unwrap_or_default();
        let age = format!("{:.1?}", peer.age);
        row(
            out,
            "td",
            &[&peer.id, &peer.name, &age, &last_write, &peer.overwrites, &node],
        )?;
    }
    out.push_str("</table>\n");
    heading(out, "tunnels", snapshot.total_tunnels, snapshot.tunnels.len())?;
    row(out, "th", &[&"from", &"to"])?;
    for (from, to) in &snapshot.tunnels {
        row(out, "td", &[from, to])?;
    }
    out.push_str("</table>\n");
    if let Some(shared) = &snapshot.shared {
        write_shared(out, shared)?;
    }
    out.push_str("</body>\n</html>\n");
    Ok(())
}

/// What all replicas have stored.
fn write_shared(out: &mut String, shared: &SharedSnapshot) -> fmt::Result {
    let count = shared.replicas.len();
    heading(out, "coordinators", count, count)?;
    row(out, "th", &[&"id", &"heartbeat age"])?;
    for (replica, age) in &shared.replicas {
        row(out, "td", &[replica, &format!("{age:.1?}")])?;
    }
    out.push_str("</table>\n");
    heading(out, "stored peers", shared.total_peers, shared.peers.len())?;
    row(
        out,
        "th",
        &[&"id", &"coordinator", &"status", &"write age", &"node"],
    )?;
    for (peer, age) in &shared.peers {
        let status = if peer.lost { "lost" } else { "ok" };
        let node = EncodedNode::from_stored(&peer.node);
        let node = node.map_or_else(|error| error.to_string(), |node| node_text(&node));
        let age = format!("{age:.1?}");
        row(out, "td", &[&peer.id, &peer.replica, &status, &age, &node])?;
    }
    out.push_str("</table>\n");
    heading(out, "stored tunnels", shared.total_tunnels, shared.tunnels.len())?;
    row(out, "th", &[&"from", &"to", &"coordinator", &"age"])?;
    for (stored, age) in &shared.tunnels {
        let Tunnel { from, to } = stored.tunnel;
        row(out, "td", &[&from, &to, &stored.replica, &format!("{age:.1?}")])?;
    }
    out.push_str("</table>\n");
    Ok(())
}

/// How many there are of something, and the start of their table.
fn heading(out: &mut String, what: &str, total: usize, shown: usize) -> fmt::Result {
    writeln!(out, "<h2>{what}: {total}</h2>")?;
    if shown < total {
        writeln!(out, "<p>{shown} of them are shown.</p>")?;
    }
    out.push_str("<table border=\"1\">\n");
    Ok(())
}

fn row(out: &mut String, cell: &str, values: &[&dyn Display]) -> fmt::Result {
    out.push_str("<tr>");
    for value in values {
        write!(out, "<{cell}>{}</{cell}>", Escaped(*value))?;
    }
    out.push_str("</tr>\n");
    Ok(())
}

fn node_text(node: &EncodedNode) -> String {
    let text = format!("{:?}", node.decode());
    match text.char_indices().nth(MAX_NODE_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// A text in which nothing is markup.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaping(f), "{}", self.0)
    }
}

struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match character {
                '<' => self.0.write_str("&lt;")?,
                '>' => self.0.write_str("&gt;")?,
                '&' => self.0.write_str("&amp;")?,
                '"' => self.0.write_str("&#34;")?,
                '\'' => self.0.write_str("&#39;")?,
                other => self.0.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
