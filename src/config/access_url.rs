//! The URL at which agents reach the server when no setting says one.

use std::net::{Ipv4Addr, SocketAddr};

use url::Url;

/// `http://` and the address, with 127.0.0.1 for an unspecified host and without the scope of a link-local one, which no URL
/// can name.
pub(super) fn default_access_url(listening: SocketAddr) -> Url {
    let ip = if listening.ip().is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        listening.ip()
    };
    let host = SocketAddr::new(ip, listening.port());
    #[expect(
        clippy::expect_used,
        reason = "an address without a scope, and a port, after `http://` are always a URL"
    )]
    Url::parse(&format!("http://{host}")).expect("an address and a port form a URL")
}

/// The access URL that a bare `seed` prints: that of a server with default settings.
pub fn bare_access_url() -> Url {
    default_access_url(SocketAddr::from(([127, 0, 0, 1], 3000)))
}
