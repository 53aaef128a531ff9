//! Recording and replaying sessions: the WebSocket and HTTP below [`crate::capture`].
//!
//! Owns a proxy that passes everything on unchanged, and a client that says again what a recorded agent said. Neither serves
//! agents; both are for tests and operators.

mod frames;
mod player;
mod recorder;
#[cfg(test)]
mod tests;

use std::net::ToSocketAddrs as _;

pub use player::{ReplayError, replay};
pub use recorder::record;

/// Where a server listens that is reached without TLS.
pub fn address_of(url: &url::Url) -> Result<std::net::SocketAddr, String> {
    if url.scheme() != "http" {
        return Err(format!(
            "{url}: only http is spoken here; stand behind what ends TLS"
        ));
    }
    let host = url.host_str().ok_or_else(|| format!("{url} has no host"))?;
    let port = url.port_or_known_default().unwrap_or(80);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("{url}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{url} has no address"))
}
