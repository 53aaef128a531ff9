//! The URL at which agents reach the server when no setting says one.

use std::net::{Ipv4Addr, SocketAddr};

use url::Url;

/// `http://` and the address, with 127.0.0.1 for an unspecified host.
pub(super) fn default_access_url(mut listening: SocketAddr) -> Url {
    if listening.ip().is_unspecified() {
        listening.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    #[expect(
        clippy::expect_used,
        reason = "a socket address after `http://` is always a URL"
    )]
    Url::parse(&format!("http://{listening}")).expect("socket addresses form URLs")
}

/// The access URL that a bare `seed` prints: that of a server with default settings.
pub fn bare_access_url() -> Url {
    default_access_url(SocketAddr::from(([127, 0, 0, 1], 3000)))
}
