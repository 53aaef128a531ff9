//! Where DERP maps come from: one current map for all streams, kept current with its file or URL.
//!
//! Owns when a map is read again, and that a bad one leaves the last good one. Never speaks HTTP itself: a [`FetchMap`]
//! does. Texts are those of coder/coder `tailnet/derpmap.go`, which reads its map once.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use url::Url;

use super::derp_config::{self, DerpConfigError};
use super::derp_map::{self, DefaultRegion, DerpMapError, same_map};
use crate::clock::{Clock, Instant};
use crate::proto::tailnet::DerpMap;

/// How often the file is looked at, by default; what the original compares maps at.
pub const DEFAULT_FREQUENCY: Duration = Duration::from_secs(5);

/// How often the URL is fetched. Maps change rarely, and whoever serves this one serves it to others too.
pub const FETCH_INTERVAL: Duration = Duration::from_mins(5);

/// Bytes of the largest map as an operator gives it. It goes to every agent, so a large one is a mistake.
pub const MAX_SIZE: usize = 1024 * 1024;

/// What an operator says about DERP.
#[derive(Clone, Debug)]
pub struct DerpConfig {
    /// A file in Tailscale's JSON form.
    pub path: Option<PathBuf>,
    /// The same at a URL. Without either, a map of `region` alone is served.
    pub url: Option<Url>,
    /// Where agents reach this server.
    pub access_url: Url,
    /// The region at the access URL.
    pub region: DefaultRegion,
    /// `host:port` of STUN servers; each becomes a region of its own.
    pub stun_addresses: Vec<String>,
    /// Whether there is no STUN at all, whatever the map says.
    pub without_stun: bool,
    /// How often the file is looked at; zero is [`DEFAULT_FREQUENCY`].
    pub frequency: Duration,
}

/// Gets what is at a URL.
#[async_trait]
pub trait FetchMap: fmt::Debug + Send + Sync + 'static {
    /// The bytes at `url`, at most `most`. An error is its text, which must not name the URL: it may hold a secret.
    async fn fetch(&self, url: &Url, most: usize) -> Result<Bytes, String>;
}

/// Why there is no map to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DerpError {
    /// Both a file and a URL were given.
    #[error("a remote URL or local path must be specified, not both")]
    Both,
    /// The file could not be read.
    #[error("read derpmap from {path:?}: {source}", path = path.display().to_string())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is too large to go to every agent.
    #[error("read derpmap from {path:?}: more than {MAX_SIZE} bytes", path = path.display().to_string())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// The file is not a DERP map.
    #[error("unmarshal derpmap: {0}")]
    Parse(#[source] DerpConfigError),
    /// The URL could not be fetched.
    #[error("get derpmap: {0}")]
    Get(String),
    /// What is at the URL is not a DERP map.
    #[error("fetch derpmap: {0}")]
    Fetched(#[source] DerpConfigError),
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

/// How current the map is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DerpStatus(Arc<Status>);

#[derive(Debug)]
struct Status {
    clock: Clock,
    start: Instant,
    version: AtomicU64,
    /// Microseconds from the start to when the map was last found good; [`ALWAYS`] when nothing is followed.
    good_at: AtomicU64,
}

const ALWAYS: u64 = u64::MAX;

impl DerpStatus {
    fn new(clock: Clock, follows: bool) -> Self {
        Self(Arc::new(Status {
            start: clock.monotonic(),
            clock,
            version: AtomicU64::new(1),
            good_at: AtomicU64::new(if follows { 0 } else { ALWAYS }),
        }))
    }

    /// Maps that were served since the start, the current one included.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// Time since the file or URL was last found to hold the current map; zero with neither.
    pub fn age(&self) -> Duration {
        let good_at = Duration::from_micros(self.0.good_at.load(Ordering::Relaxed));
        self.0.since_start().saturating_sub(good_at)
    }

    fn is_current(&self) {
        let now = u64::try_from(self.0.since_start().as_micros()).unwrap_or(ALWAYS);
        self.0.good_at.store(now, Ordering::Relaxed);
    }
}

impl Status {
    fn since_start(&self) -> Duration {
        self.clock.monotonic().saturating_duration_since(self.start)
    }
}

/// Keeps the current map.
#[derive(Debug)]
pub struct DerpSource {
    config: DerpConfig,
    fetch: Arc<dyn FetchMap>,
    maps: watch::Sender<Arc<DerpMap>>,
    status: DerpStatus,
    clock: Clock,
    /// The file that the current map was read from.
    seen: Option<Version>,
    /// Why the last look failed, so that it is said once.
    failed: Option<String>,
}

/// What a file looks like from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    modified: Option<SystemTime>,
    size: u64,
}

impl DerpSource {
    /// Loads the first map.
    pub async fn load(config: DerpConfig, fetch: Arc<dyn FetchMap>, clock: Clock) -> Result<Self, DerpError> {
        if config.path.is_some() && config.url.is_some() {
            return Err(DerpError::Both);
        }
        let seen = config.path.as_deref().and_then(version);
        let map = match &config.url {
            Some(url) => fetched(&config, url, &*fetch).await?,
            None => from_file(&config)?,
        };
        let (maps, _) = watch::channel(Arc::new(map));
        let follows = config.path.is_some() || config.url.is_some();
        Ok(Self {
            config,
            fetch,
            maps,
            status: DerpStatus::new(clock.clone(), follows),
            clock,
            seen,
            failed: None,
        })
    }

    /// The maps of this source.
    pub fn maps(&self) -> DerpMaps {
        DerpMaps(self.maps.subscribe())
    }

    /// How current they are.
    pub fn status(&self) -> DerpStatus {
        self.status.clone()
    }

    /// Follows the file or the URL for as long as it is polled; never returns. One that has become bad leaves the last good
    /// map.
    pub async fn run(&mut self) {
        if self.config.path.is_none() && self.config.url.is_none() {
            std::future::pending::<()>().await;
        }
        let period = if self.config.url.is_some() {
            FETCH_INTERVAL
        } else if self.config.frequency.is_zero() {
            DEFAULT_FREQUENCY
        } else {
            self.config.frequency
        };
        let mut looks = self.clock.interval(period);
        loop {
            looks.tick().await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let loaded = match &self.config.url {
            Some(url) => Some(fetched(&self.config, url, &*self.fetch).await),
            None => self.look_at_file().await,
        };
        match loaded {
            Some(Ok(map)) => self.publish(map),
            None => self.status.is_current(),
            Some(Err(error)) => {
                // The same file is looked at again: it may be unreadable for a moment only.
                self.seen = None;
                let text = error.to_string();
                if self.failed.as_ref() != Some(&text) {
                    tracing::error!(%error, "failed to reload the DERP map, the last one stays");
                    self.failed = Some(text);
                }
            }
        }
    }

    /// Reads the file again if its time or size differs from that of the current map, on a thread that may block.
    async fn look_at_file(&mut self) -> Option<Result<DerpMap, DerpError>> {
        let (config, seen) = (self.config.clone(), self.seen);
        let path = config.path.clone()?;
        let look = move || {
            let now = version(&path);
            // Without a file there is something to complain about.
            let changed = now != seen || now.is_none();
            (now, changed.then(|| from_file(&config)))
        };
        match tokio::task::spawn_blocking(look).await {
            Ok((now, loaded)) => {
                self.seen = now;
                loaded
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The runtime stops.
                Err(_) => None,
            },
        }
    }

    fn publish(&mut self, map: DerpMap) {
        self.failed = None;
        self.status.is_current();
        let regions = map.regions.len();
        let map = Arc::new(map);
        let changed = self.maps.send_if_modified(|current| {
            let changed = !same_map(current, &map);
            if changed {
                *current = map;
            }
            changed
        });
        if changed {
            self.status.0.version.fetch_add(1, Ordering::Relaxed);
            tracing::info!(regions, "DERP map changed");
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

async fn fetched(config: &DerpConfig, url: &Url, fetch: &dyn FetchMap) -> Result<DerpMap, DerpError> {
    let body = fetch.fetch(url, MAX_SIZE).await.map_err(DerpError::Get)?;
    let map = derp_config::parse(&body).map_err(DerpError::Fetched)?;
    complete(config, map, &without_secrets(url))
}

/// A URL without what may be a secret in it.
fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only for URLs that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

fn from_file(config: &DerpConfig) -> Result<DerpMap, DerpError> {
    let Some(path) = &config.path else {
        return complete(config, config.region.map(&config.access_url), "");
    };
    let failed = |source| DerpError::Read {
        path: path.clone(),
        source,
    };
    let mut text = Vec::new();
    // What is no ordinary file need not say how long it is.
    let file = File::open(path).map_err(failed)?;
    let read = file.take(MAX_SIZE as u64 + 1).read_to_end(&mut text);
    read.map_err(failed)?;
    if text.len() > MAX_SIZE {
        return Err(DerpError::TooLarge { path: path.clone() });
    }
    let map = derp_config::parse(&text).map_err(DerpError::Parse)?;
    complete(config, map, &path.display().to_string())
}

/// Adds what the settings say to a map from `origin`, and checks it.
fn complete(config: &DerpConfig, mut map: DerpMap, origin: &str) -> Result<DerpMap, DerpError> {
    if config.without_stun {
        derp_map::without_stun(&mut map);
    } else {
        let stun = derp_map::stun_regions(config.region.id, &config.stun_addresses)?;
        derp_map::add_regions(&mut map, stun, origin)?;
    }
    derp_map::check(&map)?;
    Ok(map)
}
