//! GetAnnouncementBanners and GetServiceBanner: texts of the operator for everybody.
//!
//! Source: coder/coder `coderd/agentapi/announcement_banners.go`, `enterprise/coderd/appearance.go`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use serde::Deserialize;

use super::AgentApi;
use crate::mux::Status;
use crate::proto::agent as proto;
use crate::services::patience::{Holder, Patience};
use crate::store::{Store, StoreError};

/// How often banners are read again, beside the events that tell of a change.
pub(super) const REFRESH_INTERVAL: Duration = Duration::from_mins(1);

/// Site setting that holds the banners, as a JSON list.
const SETTING: &str = "announcement_banners";

/// A banner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Banner {
    /// Whether it is shown.
    pub enabled: bool,
    /// Its text.
    pub message: String,
    /// `#rrggbb`.
    pub background_color: String,
}

/// Why there are no banners to be had.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppearanceError {
    /// The setting could not be read.
    #[error("get notification banners: {0}")]
    Read(#[from] StoreError),
    /// The setting is not a list of banners.
    #[error("unmarshal announcement banners json: {reason}, raw: {raw}")]
    Parse {
        /// Why.
        reason: String,
        /// What it is.
        raw: String,
    },
}

/// Where banners come from.
#[async_trait]
pub trait Appearance: fmt::Debug + Send + Sync + 'static {
    /// All banners, in order.
    async fn banners(&self) -> Result<Arc<[Banner]>, AppearanceError>;

    /// Reads again what is kept.
    async fn refresh(&self) {}
}

/// Banners from the store, parsed once and kept, so that they are there when the store is not.
#[derive(Debug)]
pub struct StoreAppearance {
    store: Arc<dyn Store>,
    patience: Patience,
    kept: ArcSwapOption<Arc<[Banner]>>,
}

impl StoreAppearance {
    /// Reads from `store` when first asked, and waits for it then: agents give up without banners.
    pub fn new(store: Arc<dyn Store>, patience: Patience) -> Self {
        Self {
            store,
            patience,
            kept: ArcSwapOption::empty(),
        }
    }

    fn keep(&self, read: Result<Option<String>, StoreError>) -> Result<Arc<[Banner]>, AppearanceError> {
        let banners: Arc<[Banner]> = match read? {
            None => Arc::new([]),
            Some(raw) => match serde_json::from_str::<Vec<Banner>>(&raw) {
                Ok(banners) => banners.into(),
                Err(error) => {
                    return Err(AppearanceError::Parse {
                        reason: error.to_string(),
                        raw,
                    });
                }
            },
        };
        self.kept.store(Some(Arc::new(Arc::clone(&banners))));
        Ok(banners)
    }
}

#[async_trait]
impl Appearance for StoreAppearance {
    async fn banners(&self) -> Result<Arc<[Banner]>, AppearanceError> {
        match self.kept.load_full() {
            Some(kept) => Ok(Arc::clone(&kept)),
            None => self.keep(
                self.patience
                    .call(Holder::ALL, 0, || self.store.site_config(SETTING))
                    .await,
            ),
        }
    }

    /// A store that is away leaves what is kept; a setting that became bad is reported to whoever asks.
    async fn refresh(&self) {
        match self.keep(self.store.site_config(SETTING).await) {
            Ok(_) => {}
            Err(AppearanceError::Read(error)) => tracing::warn!(%error, "failed to refresh banners"),
            Err(error @ AppearanceError::Parse { .. }) => {
                tracing::error!(%error, "bad banners");
                self.kept.store(None);
            }
        }
    }
}

impl AgentApi {
    async fn banners(&self) -> Result<Arc<[Banner]>, Status> {
        let appearance = self.services.appearance.load_full();
        appearance
            .banners()
            .await
            .map_err(|error| Status::message(format!("fetch appearance: {error}")))
    }

    /// The first banner, for agents that know of one only.
    pub(super) async fn service_banner(&self) -> Result<proto::ServiceBanner, Status> {
        let first = self.banners().await?.first().cloned().unwrap_or_default();
        let Banner {
            enabled,
            message,
            background_color,
        } = first;
        Ok(proto::ServiceBanner {
            enabled,
            message,
            background_color,
        })
    }

    pub(super) async fn announcement_banners(&self) -> Result<proto::GetAnnouncementBannersResponse, Status> {
        let banners = self.banners().await?;
        let announcement_banners = banners.iter().cloned().map(|banner| {
            let Banner {
                enabled,
                message,
                background_color,
            } = banner;
            proto::BannerConfig {
                enabled,
                message,
                background_color,
            }
        });
        Ok(proto::GetAnnouncementBannersResponse {
            announcement_banners: announcement_banners.collect(),
        })
    }
}
