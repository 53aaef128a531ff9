//! Time that stands still while a database works.
//!
//! A clock that a test has paused moves by itself to the next timer when nothing else is to be done, and tokio does not see
//! what a database does. Its blocking tasks it does see: while one runs, time does not move by itself.

use std::sync::mpsc;
use std::time::Duration;

/// Longer than anything takes; only a failing test waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

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

/// Runs a test whose time stands still unless it is moved by `tokio::time::advance`, whatever real work takes.
pub(crate) async fn driven<T>(test: impl Future<Output = T>) -> T {
    tokio::time::pause();
    let (_running, ended) = mpsc::channel::<()>();
    // Ends a test that hangs too.
    let watchdog = tokio::task::spawn_blocking(move || ended.recv_timeout(PATIENCE));
    tokio::select! {
        result = test => result,
        _ = watchdog => panic!("the test hangs"),
    }
}
