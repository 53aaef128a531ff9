//! GetManifest and banners.

use super::*;

#[tokio::test]
async fn s1_001_to_003_and_006_to_009_every_field_of_the_manifest() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let manifest = api.get_manifest(proto::GetManifestRequest {}).await.unwrap();
    assert_eq!(manifest.agent_id, api.agent_id().as_bytes());
    assert_eq!(
        (manifest.agent_name.as_str(), manifest.owner_username.as_str()),
        ("main", "ada")
    );
    assert_eq!(
        (manifest.workspace_name.as_str(), manifest.git_auth_configs),
        ("dev", 2)
    );
    assert_eq!(manifest.environment_variables["GREETING"], "hello");
    assert_eq!(
        (manifest.directory.as_str(), manifest.motd_path.as_str()),
        ("~/src", "/etc/motd")
    );
    assert_eq!(
        manifest.vs_code_port_proxy_uri,
        "https://{{port}}--main--dev--ada--apps.example.com"
    );
    assert!(manifest.disable_direct_connections && manifest.derp_force_websockets);
    assert_eq!(manifest.parent_id, None, "s1_006");
    assert!(manifest.derp_map.unwrap().home_params.is_some());

    let [code, vim] = &manifest.apps[..] else { panic!() };
    assert_eq!(
        (code.subdomain_name.as_str(), vim.subdomain_name.as_str()),
        ("code--dev--ada", ""),
        "s1_003"
    );
    assert_eq!(code.health(), proto::workspace_app::Health::Initializing);
    let check = code.healthcheck.as_ref().unwrap();
    assert_eq!((check.interval.unwrap().seconds, check.threshold), (5, 6));
    let none = vim.healthcheck.as_ref().expect("s1_007: always present");
    assert_eq!(
        (none.url.as_str(), none.interval.unwrap().seconds, none.threshold),
        ("", 0, 0)
    );

    let script = &manifest.scripts[0];
    assert_eq!(
        (script.timeout.unwrap().seconds, script.display_name.as_str()),
        (60, ""),
        "s1_009"
    );
    assert_eq!((script.id.len(), script.log_source_id.len()), (16, 16));
    let interval = manifest.metadata[0].interval.unwrap();
    assert_eq!(
        (interval.seconds, interval.nanos),
        (0, 10),
        "s1_008: nanoseconds, unscaled"
    );
    assert_eq!(manifest.devcontainers[0].name, "web");
    assert_eq!(
        fixture.store.calls("agent") + fixture.store.calls("workspace_by_agent"),
        0,
        "copies serve it"
    );
}

#[tokio::test]
async fn s1_004_without_an_app_host_nothing_names_one() {
    let fixture = Fixture::with(
        EXAMPLE,
        AgentConfig {
            app_hostname: String::new(),
            ..config()
        },
    )
    .await;
    let manifest = fixture
        .connect()
        .await
        .get_manifest(proto::GetManifestRequest {})
        .await
        .unwrap();
    assert_eq!(manifest.vs_code_port_proxy_uri, "");
    assert!(manifest.apps.iter().all(|app| app.subdomain_name.is_empty()));
    assert!(manifest.apps[0].subdomain);
}

#[tokio::test]
async fn s1_010_the_port_of_the_access_url_is_kept_unless_the_host_has_one() {
    let cases = [
        (
            "http://a.example.com:3000",
            "*.apps.com",
            "http://{{port}}--main--dev--ada.apps.com:3000",
        ),
        (
            "http://a.example.com:3000",
            "*.apps.com:80",
            "http://{{port}}--main--dev--ada.apps.com:80",
        ),
        (
            "http://a.example.com",
            "*.apps.com",
            "http://{{port}}--main--dev--ada.apps.com",
        ),
    ];
    for (access_url, host, expected) in cases {
        let config = AgentConfig {
            access_url: access_url.parse().unwrap(),
            app_hostname: host.into(),
            ..config()
        };
        let fixture = Fixture::with(EXAMPLE, config).await;
        let manifest = fixture
            .connect()
            .await
            .get_manifest(proto::GetManifestRequest {})
            .await
            .unwrap();
        assert_eq!(manifest.vs_code_port_proxy_uri, expected);
    }
}

#[tokio::test]
async fn an_app_whose_slug_is_a_port_is_reached_through_its_agent() {
    let fixture = Fixture::with(&EXAMPLE.replacen("slug: code", "slug: 8080s", 1), config()).await;
    let manifest = fixture
        .connect()
        .await
        .get_manifest(proto::GetManifestRequest {})
        .await
        .unwrap();
    assert_eq!(manifest.apps[0].subdomain_name, "8080s--main--dev--ada");
}

#[tokio::test]
async fn s1_011_and_012_why_there_is_no_manifest() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    fixture.store.fail("manifest_parts", away());
    let error = api.get_manifest(proto::GetManifestRequest {}).await.unwrap_err();
    assert_eq!(error.text(), "fetching workspace agent data: database is locked");
    fixture.store.mend("manifest_parts");

    fixture
        .store
        .query("UPDATE workspace_agents SET environment_variables = '[1]'")
        .await;
    api.session.drop_copies();
    let error = api.get_manifest(proto::GetManifestRequest {}).await.unwrap_err();
    assert!(
        error.text().starts_with("unmarshal environment variables: "),
        "{error}"
    );

    fixture
        .store
        .query("UPDATE workspace_agents SET deleted = 1")
        .await;
    api.session.drop_copies();
    let error = api.get_manifest(proto::GetManifestRequest {}).await.unwrap_err();
    let expected = format!(
        "get workspace agent by id \"{}\": sql: no rows in result set",
        api.agent_id()
    );
    assert_eq!(error.text(), expected);
}

#[derive(Debug)]
struct Fixed(Result<Vec<Banner>, ()>);

#[async_trait::async_trait]
impl Appearance for Fixed {
    async fn banners(&self) -> Result<Arc<[Banner]>, AppearanceError> {
        self.0
            .clone()
            .map(Into::into)
            .map_err(|()| AppearanceError::Read(away()))
    }
}

fn banner(message: &str) -> Banner {
    Banner {
        enabled: true,
        message: message.into(),
        background_color: "#004852".into(),
    }
}

#[tokio::test]
async fn s1_014_to_017_and_s2_110_to_113_banners_come_from_whoever_is_asked_now() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let list = async || {
        api.get_announcement_banners(proto::GetAnnouncementBannersRequest {})
            .await
    };
    let first = async || api.get_service_banner(proto::GetServiceBannerRequest {}).await;
    assert_eq!(
        list().await.unwrap().announcement_banners[0].message,
        "Maintenance on Friday"
    );
    let service = first().await.unwrap();
    assert_eq!(
        (service.enabled, service.background_color.as_str()),
        (true, "#004852")
    );

    fixture
        .services
        .swap_appearance(Fixed(Ok(vec![banner("one"), banner("two")])));
    let messages: Vec<_> = list()
        .await
        .unwrap()
        .announcement_banners
        .into_iter()
        .map(|b| b.message)
        .collect();
    assert_eq!(messages, ["one", "two"]);
    assert_eq!(first().await.unwrap().message, "one");

    fixture.services.swap_appearance(Fixed(Ok(Vec::new())));
    assert!(list().await.unwrap().announcement_banners.is_empty());
    assert_eq!(first().await.unwrap(), proto::ServiceBanner::default());

    fixture.services.swap_appearance(Fixed(Err(())));
    let expected = "fetch appearance: get notification banners: database is locked";
    assert_eq!(list().await.unwrap_err().text(), expected);
    assert_eq!(first().await.unwrap_err().text(), expected);
}

#[tokio::test]
async fn banners_are_parsed_once_and_stay_when_the_store_is_away() {
    let fixture = Fixture::new().await;
    let api = fixture.connect().await;
    let ask = async || {
        api.get_announcement_banners(proto::GetAnnouncementBannersRequest {})
            .await
    };
    ask().await.unwrap();
    ask().await.unwrap();
    assert_eq!(fixture.store.calls("site_config"), 1);
    fixture.store.fail("site_config", away());
    fixture.services.appearance.load_full().refresh().await;
    assert_eq!(ask().await.unwrap().announcement_banners.len(), 1);
    fixture.store.mend("site_config");
    fixture
        .store
        .query("UPDATE site_configs SET value = 'x' WHERE key = 'announcement_banners'")
        .await;
    fixture.services.appearance.load_full().refresh().await;
    let error = ask().await.unwrap_err();
    let start = "fetch appearance: unmarshal announcement banners json: ";
    assert!(
        error.text().starts_with(start) && error.text().ends_with(", raw: x"),
        "{error}"
    );
}
