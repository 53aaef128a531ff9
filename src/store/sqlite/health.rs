//! What is known of the health of one database file.
//!
//! Owns whether writing fails now and whether damage was found, and says each once in the log, with the file's name. Must
//! never decide what a caller does about it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::is_damage;
use crate::store::StoreError;

#[derive(Debug)]
pub(super) struct Health {
    path: PathBuf,
    /// Why the last write failed, until one succeeds.
    write_error: Mutex<Option<StoreError>>,
    /// Damage stays until the file was put right, for which the server has to be stopped.
    damaged: AtomicBool,
}

impl Health {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            write_error: Mutex::default(),
            damaged: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<StoreError>> {
        // An error or none is valid whoever panicked.
        self.write_error.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of an error, and of what the store makes of it.
    pub(super) fn failed(&self, writing: bool, error: &sqlx::Error, answer: &StoreError) {
        if is_damage(error) && !self.damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(
                path = %self.path.display(), error = %answer,
                "the database file is damaged: stop the server and restore the file"
            );
        }
        if writing && answer.is_unavailable() && self.lock().replace(answer.clone()).is_none() {
            tracing::error!(path = %self.path.display(), error = %answer, "cannot write to the database");
        }
    }

    /// Takes note of a write that succeeded.
    pub(super) fn written(&self) {
        if self.lock().take().is_some() {
            tracing::info!(path = %self.path.display(), "the database is written again");
        }
    }

    pub(super) fn write_error(&self) -> Option<StoreError> {
        self.lock().clone()
    }

    pub(super) fn check_intact(&self) -> Result<(), StoreError> {
        if self.damaged.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the database file is damaged".to_owned()));
        }
        Ok(())
    }
}
