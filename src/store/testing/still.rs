//! Time that stands still while a database works.
//!
//! A clock that a test has paused moves by itself to the next timer when nothing else is to be done, and tokio does not see
//! what a database does. Its blocking tasks it does see: while one runs, time does not move by itself.

use std::sync::mpsc;

/// Keeps time where it is until it is dropped, unless a test moves it.
pub(crate) struct Still {
    _running: mpsc::Sender<()>,
}

impl Still {
    pub(crate) fn begin() -> Self {
        let (running, ended) = mpsc::channel();
        tokio::task::spawn_blocking(move || ended.recv());
        Self { _running: running }
    }
}
