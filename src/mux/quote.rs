//! Go's `%q`.

/// Quotes `bytes` as Go's `%q` does.
pub fn quote(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
