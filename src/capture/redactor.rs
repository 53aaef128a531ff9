//! Keeps tokens out of captures.

use std::collections::HashSet;

use super::{Header, Packets, Side};
use crate::mux::inspect::{CallFrame, Piece};

/// Methods whose replies hold tokens; what they carry is recorded as zeros.
const SECRET_REPLIES: [&[u8]; 3] = [
    b"/coder.agent.v2.Agent/CreateSubAgent",
    b"/coder.agent.v2.Agent/ListSubAgents",
    b"/coder.tailnet.v2.Tailnet/RefreshResumeToken",
];

/// Parameters of a target that hold no token. Of others nobody knows what they hold.
const PLAIN_PARAMETERS: [&str; 2] = ["role", "version"];

/// Header lines that hold no token. Of others nobody knows what they hold.
const PLAIN_HEADERS: [&str; 14] = [
    "accept-encoding",
    "connection",
    "content-length",
    "content-type",
    "date",
    "host",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "upgrade",
    "user-agent",
    "x-coder-build-version",
];

/// What stands in the place of a value that may be a token.
const REDACTED: &str = "REDACTED";

/// The target of a request without the tokens that may be in its query.
pub(crate) fn redact(target: &str) -> String {
    with_pairs(target, |pair| {
        Some(match pair.split_once('=') {
            // What some take for the end of a pair may be followed by anything.
            Some((name, value)) if !PLAIN_PARAMETERS.contains(&name) || value.contains(';') => {
                format!("{name}={REDACTED}")
            }
            _ => pair.to_owned(),
        })
    })
}

/// The target without what was redacted, for a server that would take it for a token.
pub(crate) fn without_redacted(target: &str) -> String {
    with_pairs(target, |pair| {
        let is_redacted = pair.split_once('=').is_some_and(|(_, value)| value == REDACTED);
        (!is_redacted).then(|| pair.to_owned())
    })
}

/// The target with what `change` makes of each pair of its query.
fn with_pairs(target: &str, change: impl Fn(&str) -> Option<String>) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let pairs: Vec<_> = query.split('&').filter_map(change).collect();
    format!("{path}?{}", pairs.join("&"))
}

/// The header lines of the head of a request or an answer, without the tokens that may be in them.
pub(crate) fn headers(from: Side, head: &[u8]) -> Vec<Header> {
    let text = String::from_utf8_lossy(head);
    // What could not stand on a line of its own.
    let plain = |text: &str| text.trim().replace(char::is_control, " ");
    let header = |(name, value): (&str, &str)| Header {
        from,
        name: plain(name),
        value: if PLAIN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
            plain(value)
        } else {
            REDACTED.to_owned()
        },
    };
    let lines = text.split("\r\n").skip(1);
    lines
        .filter_map(|line| line.split_once(':').map(header))
        .collect()
}

/// Follows a session, to know which of its bytes are secret.
#[derive(Debug, Default)]
pub(crate) struct Redactor {
    agent: Packets,
    server: Packets,
    /// Streams of methods whose replies are secret.
    secret: HashSet<u32>,
}

impl Redactor {
    /// The payload of a data frame, as long as it was, with zeros for what is secret.
    pub(crate) fn redact(&mut self, from: Side, data: &[u8]) -> Vec<u8> {
        if from == Side::Agent {
            let packets = self.agent.push(data).1;
            let secret = |packet: &CallFrame| {
                packet.kind == CallFrame::INVOKE && SECRET_REPLIES.contains(&&packet.data[..])
            };
            let invoked = packets.iter().filter(|(_, packet)| secret(packet));
            self.secret.extend(invoked.map(|(stream, _)| *stream));
            return data.to_vec();
        }
        if self.agent.inspector().is_lost() || self.server.inspector().is_lost() {
            // Nobody knows what it is.
            return vec![0; data.len()];
        }
        let mut out = Vec::with_capacity(data.len());
        for mut piece in self.server.push(data).0 {
            match &mut piece {
                Piece::Call(stream, frame)
                    if self.secret.contains(stream) && frame.kind == CallFrame::MESSAGE =>
                {
                    frame.data.fill(0);
                }
                Piece::Bytes(Some(stream), bytes) if self.secret.contains(stream) => bytes.fill(0),
                _ => {}
            }
            out.extend(piece.encode());
        }
        out
    }
}
