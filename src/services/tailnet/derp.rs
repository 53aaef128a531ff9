//! Where DERP maps come from: one current map for all streams, read again when its file changes.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use url::Url;

use super::derp_config::{self, DerpConfigError};
use super::derp_map::{self, DerpMapError, same_map};
use crate::clock::Clock;
use crate::proto::tailnet::DerpMap;

/// How often the file is looked at, by default; what the original compares maps at.
pub const DEFAULT_FREQUENCY: Duration = Duration::from_secs(5);

/// Bytes of the largest file. The map goes to every agent, so a large one is a mistake.
const MAX_FILE_SIZE: u64 = 1024 * 1024;

/// What an operator says about DERP.
#[derive(Clone, Debug)]
pub struct DerpConfig {
    /// A file in Tailscale's JSON form; without one, [`derp_map::default_map`] is served.
    pub path: Option<PathBuf>,
    /// Where agents reach this server.
    pub access_url: Url,
    /// `host:port` of STUN servers; each becomes a region of its own.
    pub stun_addresses: Vec<String>,
    /// How often the file is looked at; zero is [`DEFAULT_FREQUENCY`].
    pub frequency: Duration,
}

/// Why there is no map to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DerpError {
    /// The file could not be read.
    #[error("DERP map {path}: {source}", path = path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a DERP map.
    #[error("DERP map {path}: {source}", path = path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: DerpConfigError,
    },
    /// The file is too large to go to every agent.
    #[error("DERP map {path}: has more than {MAX_FILE_SIZE} bytes", path = path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// The map cannot be served.
    #[error(transparent)]
    Map(#[from] DerpMapError),
}

/// The current map. Cheap to clone; each clone sees changes for itself.
#[derive(Clone, Debug)]
pub struct DerpMaps(watch::Receiver<Arc<DerpMap>>);

impl DerpMaps {
    /// Maps that a test changes.
    #[cfg(test)]
    pub(super) fn following(maps: watch::Receiver<Arc<DerpMap>>) -> Self {
        Self(maps)
    }

    /// A map that never changes.
    pub fn fixed(map: DerpMap) -> Self {
        let (_, receiver) = watch::channel(Arc::new(map));
        Self(receiver)
    }

    /// The map as it is now.
    pub fn current(&self) -> Arc<DerpMap> {
        Arc::clone(&self.0.borrow())
    }

    /// The map as it is now, which [`DerpMaps::changed`] then counts as seen.
    pub fn latest(&mut self) -> Arc<DerpMap> {
        Arc::clone(&self.0.borrow_and_update())
    }

    /// Waits until the map differs from the one seen last; for ever when nobody changes it any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Keeps the current map.
#[derive(Debug)]
pub struct DerpSource {
    config: DerpConfig,
    maps: watch::Sender<Arc<DerpMap>>,
    seen: Option<Version>,
}

/// What a file looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    size: u64,
}

impl DerpSource {
    /// Loads the first map.
    pub fn load(config: DerpConfig) -> Result<Self, DerpError> {
        let seen = config.path.as_deref().and_then(version);
        let (maps, _) = watch::channel(Arc::new(load(&config)?));
        Ok(Self { config, maps, seen })
    }

    /// The maps of this source.
    pub fn maps(&self) -> DerpMaps {
        DerpMaps(self.maps.subscribe())
    }

    /// Follows the file for as long as it is polled; never returns. A file that has become bad leaves the last good map.
    pub async fn run(mut self, clock: Clock) {
        if self.config.path.is_none() {
            std::future::pending::<()>().await;
        }
        let frequency = if self.config.frequency.is_zero() {
            DEFAULT_FREQUENCY
        } else {
            self.config.frequency
        };
        let mut looks = clock.interval(frequency);
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    /// Reads the file again if its time or size has changed since the last look, on a thread that may block.
    async fn look(&mut self) {
        let (config, seen) = (self.config.clone(), self.seen);
        let look = move || {
            let now = config.path.as_deref().and_then(version);
            (now, (now != seen).then(|| load(&config)))
        };
        // Fails only when the runtime stops.
        if let Ok((now, loaded)) = tokio::task::spawn_blocking(look).await {
            self.seen = now;
            if let Some(loaded) = loaded {
                self.publish(loaded);
            }
        }
    }

    fn publish(&self, loaded: Result<DerpMap, DerpError>) {
        match loaded {
            Ok(map) => {
                let map = Arc::new(map);
                let changed = self.maps.send_if_modified(|current| {
                    let changed = !same_map(current, &map);
                    if changed {
                        *current = Arc::clone(&map);
                    }
                    changed
                });
                if changed {
                    tracing::info!(regions = map.regions.len(), "DERP map changed");
                }
            }
            Err(error) => tracing::error!(%error, "failed to reload the DERP map, the last one stays"),
        }
    }
}

/// The file's time and size; `None` when there is no file.
fn version(path: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Version {
        modified: metadata.modified().ok(),
        size: metadata.len(),
    })
}

fn load(config: &DerpConfig) -> Result<DerpMap, DerpError> {
    let mut map = match &config.path {
        None => derp_map::default_map(&config.access_url),
        Some(path) => {
            let failed = |source| DerpError::Read {
                path: path.clone(),
                source,
            };
            let mut text = String::new();
            // What is no ordinary file need not say how long it is.
            let file = File::open(path).map_err(failed)?;
            let read = file.take(MAX_FILE_SIZE + 1).read_to_string(&mut text);
            if text.len() as u64 > MAX_FILE_SIZE {
                return Err(DerpError::TooLarge { path: path.clone() });
            }
            read.map_err(failed)?;
            derp_config::parse(&text).map_err(|source| DerpError::Parse {
                path: path.clone(),
                source,
            })?
        }
    };
    let stun = derp_map::stun_regions(derp_map::DEFAULT_REGION, &config.stun_addresses)?;
    derp_map::add_regions(&mut map, stun)?;
    if config.path.is_some() {
        derp_map::check(&map)?;
    }
    Ok(map)
}
