//! Where maps come from, and who is sent which of them when.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use url::Url;

use super::coordinator;
use super::derp::{MAP, map};
use crate::clock::testing::settle;
use crate::clock::{Clock, Timestamp};
use crate::mux::testing::{Caller, call};
use crate::proto::tailnet::{DerpMap, StreamDerpMapsRequest, Tailnet};
use crate::services::tailnet::derp::{
    DEFAULT_FREQUENCY, DerpConfig, DerpError, DerpMaps, DerpSource, DerpStatus, FetchMap, MAX_SIZE,
};
use crate::services::tailnet::derp_map::{DefaultRegion, DerpMapError};
use crate::services::tailnet::{TailnetApi, TailnetServices};

fn config(path: Option<&Path>) -> DerpConfig {
    DerpConfig {
        path: path.map(PathBuf::from),
        url: None,
        access_url: "http://127.0.0.1:3000".parse().unwrap(),
        region: DefaultRegion {
            id: 999,
            code: "drpcd".to_owned(),
            name: "drpcd".to_owned(),
        },
        stun_addresses: Vec::new(),
        without_stun: false,
        frequency: Duration::ZERO,
    }
}

const URL: &str = "https://user:secret@derp.example.com/map?token=secret";

fn config_of_url() -> DerpConfig {
    DerpConfig {
        url: Some(URL.parse().unwrap()),
        ..config(None)
    }
}

/// What is at the URL, and how often it was asked for.
#[derive(Debug)]
struct Site(Mutex<(Result<Bytes, String>, usize)>);

impl Site {
    fn new(text: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new((Ok(text.to_owned().into()), 0))))
    }

    fn put(&self, body: Result<&str, &str>) {
        self.0.lock().unwrap().0 = body.map(|text| text.to_owned().into()).map_err(str::to_owned);
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

#[async_trait]
impl FetchMap for Site {
    async fn fetch(&self, url: &Url, most: usize) -> Result<Bytes, String> {
        assert_eq!((url.as_str(), most), (URL, MAX_SIZE));
        let mut site = self.0.lock().unwrap();
        site.1 += 1;
        site.0.clone()
    }
}

async fn load(config: DerpConfig, text: &str) -> Result<DerpSource, DerpError> {
    let clock = Clock::driven(Timestamp::UNIX_EPOCH);
    DerpSource::load(config, Site::new(text), clock).await
}

/// A StreamDERPMaps call that runs until it is aborted.
fn stream(
    maps: DerpMaps,
) -> (
    Caller<StreamDerpMapsRequest, DerpMap>,
    tokio::task::JoinHandle<()>,
) {
    let services = Arc::new(TailnetServices::new(Box::new(coordinator()), maps));
    let api = TailnetApi::new(services, None);
    let (_, replies, caller) = call();
    let task = tokio::spawn(async move {
        let _ = api.stream_derp_maps(StreamDerpMapsRequest {}, replies).await;
    });
    (caller, task)
}

/// A file that is followed, and a stream of its maps.
struct Followed {
    directory: tempfile::TempDir,
    caller: Caller<StreamDerpMapsRequest, DerpMap>,
    status: DerpStatus,
    _task: tokio::task::JoinHandle<()>,
}

impl Followed {
    async fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("derp.json");
        std::fs::write(&path, text).unwrap();
        let mut source = load(config(Some(&path)), "").await.unwrap();
        let (caller, task) = stream(source.maps());
        let status = source.status();
        tokio::spawn(async move { source.run().await });
        settle().await;
        Self {
            directory,
            caller,
            status,
            _task: task,
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("derp.json")
    }

    /// Writes the file and waits for two looks at it. Returns how many maps were sent.
    async fn write(&self, text: &str) -> usize {
        std::fs::write(self.path(), text).unwrap();
        self.wait().await
    }

    async fn wait(&self) -> usize {
        // Two waits, since a look may be on its thread when the first one ends.
        for _ in 0..2 {
            tokio::time::sleep(DEFAULT_FREQUENCY).await;
            settle().await;
        }
        self.caller.replies().len()
    }
}

#[tokio::test(start_paused = true)]
async fn tn_013_the_first_map_comes_at_once() {
    let followed = Followed::new(MAP).await;
    assert_eq!(followed.caller.replies(), [map(MAP)]);
}

#[tokio::test(start_paused = true)]
async fn tn_014_the_same_map_is_not_sent_again() {
    let followed = Followed::new(MAP).await;
    assert_eq!(followed.caller.replies().len(), 1);
    for _ in 0..20 {
        assert_eq!(followed.wait().await, 0);
    }
    assert_eq!(
        followed.write(&format!("{MAP} ")).await,
        0,
        "nor when its file was touched"
    );
}

#[tokio::test(start_paused = true)]
async fn tn_015_a_changed_file_is_sent_once() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    let renamed = MAP.replace("a.example.com", "elsewhere.example.com");
    assert_eq!(followed.write(&renamed).await, 1);
    let scored = renamed.replace(
        r#"{"Regions""#,
        r#"{"HomeParams": {"RegionScore": {"1": 0.5}}, "Regions""#,
    );
    assert_eq!(
        followed.write(&scored).await,
        1,
        "home parameters alone count too"
    );
}

#[tokio::test(start_paused = true)]
async fn a_file_that_has_become_bad_leaves_the_last_good_map() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    assert_eq!(followed.write("broken").await, 0);
    assert_eq!(
        followed.write(r#"{"Regions": {}}"#).await,
        0,
        "nor is one sent that cannot be served"
    );
    std::fs::remove_file(followed.path()).unwrap();
    assert_eq!(followed.wait().await, 0);
    assert_eq!(followed.write(MAP).await, 0, "mending it is no change");
    assert_eq!(followed.write(&MAP.replace("\"one\"", "\"other\"")).await, 1);
    assert!(!followed.caller.is_closed());
}

#[tokio::test]
async fn tn_017_a_stream_that_is_cancelled_leaves_nothing_behind() {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(map(MAP)));
    let (_caller, task) = stream(DerpMaps::following(receiver));
    settle().await;
    assert!(sender.receiver_count() > 0);
    task.abort();
    let _ = task.await;
    assert_eq!(sender.receiver_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn tn_018_a_period_of_zero_is_the_default() {
    let followed = Followed::new(MAP).await;
    followed.caller.replies();
    std::fs::write(followed.path(), MAP.replace("\"one\"", "\"other\"")).unwrap();
    tokio::time::sleep(DEFAULT_FREQUENCY.saturating_sub(Duration::from_millis(1))).await;
    settle().await;
    assert_eq!(followed.caller.replies().len(), 0, "nobody looks earlier");
    assert_eq!(followed.wait().await, 1);
}

#[tokio::test]
async fn a_stream_does_not_end_when_nobody_changes_the_map_any_more() {
    let (caller, task) = stream(DerpMaps::fixed(map(MAP)));
    settle().await;
    assert_eq!(caller.replies().len(), 1);
    assert!(!caller.is_closed() && !task.is_finished());
}

#[tokio::test]
async fn a_map_that_changed_and_changed_back_is_not_sent() {
    let (sender, receiver) = tokio::sync::watch::channel(Arc::new(map(MAP)));
    let (caller, _task) = stream(DerpMaps::following(receiver));
    settle().await;
    assert_eq!(caller.replies().len(), 1);
    sender.send_replace(Arc::new(map("{}")));
    sender.send_replace(Arc::new(map(MAP)));
    settle().await;
    assert_eq!(caller.replies().len(), 0);
}

#[tokio::test]
async fn a_first_map_that_cannot_be_served_is_an_error_in_the_originals_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("derp.json");
    let error = async || load(config(Some(&path)), "").await.unwrap_err();
    let start = format!("read derpmap from {:?}: ", path.display().to_string());
    assert!(error().await.to_string().starts_with(&start));
    std::fs::write(&path, "{").unwrap();
    assert!(error().await.to_string().starts_with("unmarshal derpmap: "));
    std::fs::write(&path, "{}").unwrap();
    assert!(matches!(error().await, DerpError::Map(DerpMapError::NoRegions)));
    for (size, too_large) in [(MAX_SIZE - 1, false), (MAX_SIZE, false), (MAX_SIZE + 1, true)] {
        std::fs::write(&path, " ".repeat(size)).unwrap();
        let told = matches!(error().await, DerpError::TooLarge { .. });
        assert_eq!(told, too_large, "{size}");
    }
}

#[tokio::test]
async fn what_never_ends_is_too_large() {
    let endless = load(config(Some(Path::new("/dev/zero"))), "").await.unwrap_err();
    assert!(matches!(endless, DerpError::TooLarge { .. }), "{endless}");
}

#[tokio::test]
async fn tn_020_a_file_and_a_url_exclude_each_other() {
    let both = DerpConfig {
        path: Some(PathBuf::from("/nowhere")),
        ..config_of_url()
    };
    let error = load(both, MAP).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "a remote URL or local path must be specified, not both"
    );
}

#[tokio::test]
async fn tn_020_a_first_map_of_a_url_that_cannot_be_served() {
    let site = Site::new("");
    site.put(Err("unexpected status 404 Not Found"));
    let clock = Clock::driven(Timestamp::UNIX_EPOCH);
    let error = DerpSource::load(config_of_url(), site, clock).await.unwrap_err();
    assert_eq!(error.to_string(), "get derpmap: unexpected status 404 Not Found");
    let error = async |text: &str| load(config_of_url(), text).await.unwrap_err().to_string();
    assert!(error("<html>").await.starts_with("fetch derpmap: "));
    assert!(error("{}").await.starts_with("DERP map has no regions. "));
    let clashing = DerpConfig {
        stun_addresses: vec!["stun.example.com:1".to_owned()],
        region: DefaultRegion {
            id: 0,
            ..config(None).region
        },
        ..config_of_url()
    };
    let error = load(clashing, MAP).await.unwrap_err().to_string();
    assert!(
        error.ends_with("conflicts with a remote region from \"https://derp.example.com/map\""),
        "{error}"
    );
}

#[tokio::test]
async fn tn_019_stun_regions_stand_behind_the_default_region_of_the_settings() {
    let with_stun = DerpConfig {
        stun_addresses: vec!["stun.example.com:1".to_owned()],
        region: DefaultRegion {
            id: 7,
            ..config(None).region
        },
        ..config(None)
    };
    let regions = |source: DerpSource| {
        source
            .maps()
            .current()
            .regions
            .keys()
            .copied()
            .collect::<BTreeSet<_>>()
    };
    let source = load(with_stun.clone(), "").await.unwrap();
    assert_eq!(regions(source), [7, 8].into());
    let without_stun = DerpConfig {
        without_stun: true,
        ..with_stun
    };
    assert_eq!(regions(load(without_stun, "").await.unwrap()), [7].into());
}

#[tokio::test(start_paused = true)]
async fn a_url_is_fetched_every_five_minutes_and_a_bad_answer_leaves_the_last_good_map() {
    let site = Site::new(MAP);
    let clock = Clock::driven(Timestamp::UNIX_EPOCH);
    let mut source = DerpSource::load(config_of_url(), site.clone(), clock)
        .await
        .unwrap();
    let (status, (caller, _task)) = (source.status(), stream(source.maps()));
    tokio::spawn(async move { source.run().await });
    settle().await;
    assert_eq!(caller.replies().len(), 1);
    assert_eq!(site.asked(), 1);
    let five_minutes = async || {
        tokio::time::sleep(Duration::from_mins(5)).await;
        settle().await;
        caller.replies().len()
    };
    assert_eq!(five_minutes().await, 0);
    assert_eq!(site.asked(), 2);
    assert!(status.age() < Duration::from_secs(1));

    site.put(Ok(&MAP.replace("\"one\"", "\"other\"")));
    assert_eq!(five_minutes().await, 1);
    assert_eq!(status.version(), 2);
    for bad in [
        Err("unexpected status 500 Internal Server Error"),
        Ok("{}"),
        Ok("<html>"),
    ] {
        site.put(bad);
        assert_eq!(five_minutes().await, 0);
    }
    assert_eq!(status.version(), 2);
    assert_eq!(status.age().as_secs(), 15 * 60, "known to operators");
    site.put(Ok(MAP));
    assert_eq!(five_minutes().await, 1);
    assert!(status.age() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_map_is_the_time_since_its_file_was_last_good() {
    let followed = Followed::new(MAP).await;
    // A look may be on its thread.
    let recent = 2 * DEFAULT_FREQUENCY;
    followed.wait().await;
    assert!(followed.status.age() <= recent);
    followed.write("broken").await;
    followed.wait().await;
    assert!(followed.status.age() > recent);
    followed.write(MAP).await;
    assert!(followed.status.age() <= recent);
    assert_eq!(followed.status.version(), 1);
    let settings = load(config(None), "").await.unwrap().status();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(
        settings.age(),
        Duration::ZERO,
        "what follows nothing is never old"
    );
}
