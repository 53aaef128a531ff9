//! A seed in an empty store: every key lands in its column.

use super::{EXAMPLE, Kit, NOW, SMALL};
use crate::clock::Timestamp;
use crate::ids::UserId;
use crate::store::{Monitor, MonitorState, Monitors, Store};

/// Every key that the example leaves out, and every default the other way round.
const FULL: &str = r##"
owner:
  username: grace
  name: Grace
  email: grace@example.com
  external_auth_links:
    - provider_id: github
      oauth_access_token: access-secret
      oauth_refresh_token: refresh-secret
      oauth_expiry: 2026-03-20T12:00:00Z
      oauth_extra: { scope: repo }
    - { provider_id: gitlab, oauth_access_token: other-secret }
workspace: { name: Box, template: k8s, autostart_schedule: "CRON_TZ=US/Central 30 9 * * 1-5", ttl: 1h30m }
banners:
  - { message: one, background_color: "#111111" }
  - { message: two, background_color: "#222222", enabled: false }
agents:
  - name: first
    token: 6f6e6c79-2d61-4d74-8573-742d746f6b31
    architecture: arm64
    operating_system: darwin
    api_key_scope: no_user_data
    order: 3
    display_apps: []
    apps:
      - slug: web
        display_name: Web
        icon: /icon/web.svg
        command: serve
        url: http://localhost:1
        subdomain: true
        sharing_level: organization
        external: true
        hidden: true
        order: 4
        open_in: tab
        group: tools
        tooltip: a tip
        healthcheck: { url: http://localhost:1/h, interval_seconds: 7, threshold: 8 }
    scripts:
      - display_name: every
        script: date
        cron: "0 0 22 * * *"
        log_path: /tmp/every.log
        icon: /icon/clock.svg
    metadata:
      - { key: up, display_name: Up, script: uptime, interval_seconds: 1, timeout_seconds: 2, order: 9 }
    resources_monitoring:
      memory: { enabled: false, threshold: 0 }
      volumes: [{ path: /b, enabled: false, threshold: 100 }, { path: /a, threshold: 50 }]
  - name: second
"##;

#[tokio::test]
async fn the_example_lands_in_the_tables() {
    let (mut kit, agents) = Kit::seeded(EXAMPLE).await;
    assert_eq!(agents.len(), 1);
    assert_eq!(
        (&*agents[0].owner, &*agents[0].workspace, &*agents[0].agent),
        ("ada", "dev", "main")
    );
    assert_eq!(
        kit.table("SELECT name, is_default FROM organizations").await,
        ["coder|1"]
    );
    assert_eq!(
        kit.table("SELECT username, name, email, status, is_system FROM users")
            .await,
        ["ada|Ada Lovelace|ada@example.com|active|0"]
    );
    assert_eq!(
        kit.table("SELECT t.name, v.name, t.active_version_id = v.id FROM templates t, template_versions v")
            .await,
        ["docker|seed|1"]
    );
    assert_eq!(
        kit.table("SELECT name, autostart_schedule, ttl, template_name, task_id FROM workspaces_expanded")
            .await,
        ["dev|NULL|28800000000000|docker|NULL"]
    );
    let deadline = NOW.as_micros() + 8 * 3_600 * 1_000_000;
    assert_eq!(
        kit.table(
            "SELECT build_number, transition, reason, deadline, job_status FROM workspace_latest_builds"
        )
        .await,
        [format!("1|start|initiator|{deadline}|succeeded")]
    );
    assert_eq!(
        kit.table("SELECT type, job_status FROM provisioner_jobs ORDER BY type")
            .await,
        ["template_version_import|succeeded", "workspace_build|succeeded"]
    );
    assert_eq!(kit.integer("SELECT count(*) FROM workspace_resources").await, 1);
    assert_eq!(
        kit.table(
            "SELECT name, architecture, operating_system, directory, motd_file, connection_timeout_seconds,
                troubleshooting_url, environment_variables, display_apps, display_order, api_key_scope,
                lifecycle_state, logs_length, subsystems, deleted
            FROM workspace_agents"
        )
        .await,
        [
            "main|amd64|linux|~/src|/etc/motd|120|https://example.com/help|{\"GREETING\":\"hello\"}|\
             [\"vscode\",\"web_terminal\",\"ssh_helper\"]|0|all|created|0|[]|0"
        ]
    );
    assert_eq!(
        kit.table(
            "SELECT slug, display_name, icon, command, url, healthcheck_url, healthcheck_interval,
                healthcheck_threshold, health, subdomain, sharing_level, external, hidden, display_order, open_in,
                display_group, tooltip
            FROM workspace_apps ORDER BY slug"
        )
        .await,
        [
            "code|Code|/icon/code.svg|NULL|http://localhost:13337|http://localhost:13337/healthz|5|6|initializing\
             |1|owner|0|0|0|slim-window|NULL|",
            "vim|Vim||vim|NULL||0|0|disabled|0|owner|0|0|0|slim-window|NULL|"
        ]
    );
    assert_eq!(
        kit.table(
            "SELECT s.display_name, s.script, s.run_on_start, s.run_on_stop, s.start_blocks_login,
                s.timeout_seconds, s.cron, s.log_path, l.display_name, length(l.id)
            FROM workspace_agent_scripts s JOIN workspace_agent_log_sources l
                ON l.workspace_agent_id = s.workspace_agent_id AND l.id = s.log_source_id
            ORDER BY s.created_at"
        )
        .await,
        [
            "startup|echo starting|1|0|1|60|||startup|16",
            "shutdown|echo stopping|0|1|0|0|||shutdown|16"
        ]
    );
    assert_eq!(
        kit.table(
            "SELECT \"key\", display_name, script, \"interval\", timeout, display_order, value, error, collected_at
            FROM workspace_agent_metadata ORDER BY \"key\""
        )
        .await,
        [
            "cpu|CPU|coder stat cpu|10|5|0|||-62135596800000000",
            "mem|Memory|coder stat mem|10|5|0|||-62135596800000000"
        ]
    );
    assert_eq!(
        kit.table(
            "SELECT name, workspace_folder, config_path, subagent_id FROM workspace_agent_devcontainers"
        )
        .await,
        ["web|/workspaces/web|.devcontainer/devcontainer.json|NULL"]
    );
    assert_eq!(
        kit.store
            .site_config("announcement_banners")
            .await
            .unwrap()
            .unwrap(),
        r##"[{"enabled":true,"message":"Maintenance on Friday","background_color":"#004852"}]"##
    );
    let watched = Monitor {
        enabled: true,
        threshold: 90,
        state: MonitorState::Ok,
        debounced_until: Timestamp::ZERO,
    };
    assert_eq!(
        kit.store.monitors(agents[0].agent_id).await.unwrap(),
        Monitors {
            memory: Some(watched.clone()),
            volumes: vec![("/home".to_owned(), watched)]
        }
    );
}

#[tokio::test]
async fn every_optional_key_lands_in_its_column() {
    let (mut kit, agents) = Kit::seeded(FULL).await;
    assert_eq!(
        agents.iter().map(|agent| &*agent.agent).collect::<Vec<_>>(),
        ["first", "second"],
        "file order"
    );
    assert_eq!(
        agents[0].token.reveal().to_string(),
        "6f6e6c79-2d61-4d74-8573-742d746f6b31"
    );
    assert_eq!(
        kit.table(
            "SELECT provider_id, oauth_access_token, oauth_refresh_token, oauth_expiry, oauth_extra,
                oauth_access_token_key_id
            FROM external_auth_links ORDER BY provider_id"
        )
        .await,
        [
            format!(
                "github|access-secret|refresh-secret|{}|{{\"scope\":\"repo\"}}|NULL",
                NOW.as_micros()
            ),
            "gitlab|other-secret||-62135596800000000|NULL|NULL".to_owned()
        ]
    );
    assert_eq!(
        kit.table("SELECT name, autostart_schedule, ttl FROM workspaces")
            .await,
        ["Box|CRON_TZ=US/Central 30 9 * * 1-5|5400000000000"]
    );
    assert_eq!(
        kit.table(
            "SELECT name, architecture, operating_system, api_key_scope, display_order, display_apps,
                environment_variables, created_at
            FROM workspace_agents ORDER BY created_at"
        )
        .await,
        [
            format!("first|arm64|darwin|no_user_data|3|[]|NULL|{}", NOW.as_micros()),
            format!(
                "second|amd64|linux|all|0|[\"vscode\",\"vscode_insiders\",\"web_terminal\",\"ssh_helper\",\
                 \"port_forwarding_helper\"]|NULL|{}",
                NOW.as_micros() + 1
            )
        ]
    );
    assert_eq!(
        kit.table(
            "SELECT slug, command, url, healthcheck_url, healthcheck_interval, healthcheck_threshold, subdomain,
                sharing_level, external, hidden, display_order, open_in, display_group, tooltip
            FROM workspace_apps"
        )
        .await,
        ["web|serve|http://localhost:1|http://localhost:1/h|7|8|1|organization|1|1|4|tab|tools|a tip"]
    );
    assert_eq!(
        kit.table(
            "SELECT s.cron, s.log_path, l.icon FROM workspace_agent_scripts s
            JOIN workspace_agent_log_sources l ON l.id = s.log_source_id"
        )
        .await,
        ["0 0 22 * * *|/tmp/every.log|/icon/clock.svg"]
    );
    let metadata = "SELECT \"key\", \"interval\", timeout, display_order FROM workspace_agent_metadata";
    assert_eq!(kit.table(metadata).await, ["up|1|2|9"]);
    let monitors = kit.store.monitors(agents[0].agent_id).await.unwrap();
    let memory = monitors.memory.unwrap();
    assert_eq!((memory.enabled, memory.threshold), (false, 0));
    let volumes: Vec<_> = monitors
        .volumes
        .iter()
        .map(|(path, monitor)| (&**path, monitor.enabled, monitor.threshold))
        .collect();
    assert_eq!(volumes, [("/a", true, 50), ("/b", false, 100)], "by path");
    assert_eq!(
        kit.store
            .site_config("announcement_banners")
            .await
            .unwrap()
            .unwrap(),
        r##"[{"enabled":true,"message":"one","background_color":"#111111"},{"enabled":false,"message":"two","background_color":"#222222"}]"##
    );
}

#[tokio::test]
async fn a_new_owner_gets_an_ed25519_git_key_in_openssh_text() {
    let (mut kit, _) = Kit::seeded(SMALL).await;
    let private = kit.cell("SELECT private_key FROM gitsshkeys").await.unwrap();
    let public = kit.cell("SELECT public_key FROM gitsshkeys").await.unwrap();
    let private = ssh_key::PrivateKey::from_openssh(&private).unwrap();
    assert_eq!(private.algorithm(), ssh_key::Algorithm::Ed25519);
    assert!(
        public.starts_with("ssh-ed25519 ") && public.ends_with('\n'),
        "{public:?}"
    );
    let public = ssh_key::PublicKey::from_openssh(&public).unwrap();
    assert_eq!(public.key_data(), private.public_key().key_data());
}

#[tokio::test]
async fn what_is_left_out_gets_the_columns_default() {
    let (mut kit, _) = Kit::seeded(SMALL).await;
    assert_eq!(
        kit.table("SELECT name, email FROM users").await,
        ["|ada@localhost"]
    );
    assert_eq!(
        kit.table("SELECT ttl, autostart_schedule, template_name FROM workspaces_expanded")
            .await,
        ["NULL|NULL|default"]
    );
    let deadline = kit.integer("SELECT deadline FROM workspace_builds").await;
    assert_eq!(deadline, Timestamp::ZERO.as_micros(), "zero without ttl");
    assert_eq!(
        kit.integer("SELECT connection_timeout_seconds FROM workspace_agents")
            .await,
        0
    );
    assert_eq!(kit.store.site_config("announcement_banners").await.unwrap(), None);
}

#[tokio::test]
async fn owner_prebuilds_is_the_system_user() {
    let (mut kit, agents) = Kit::seeded(&SMALL.replace("ada", "prebuilds")).await;
    assert_eq!(
        kit.table("SELECT id, username, name, email, is_system FROM users")
            .await,
        [format!(
            "{}|prebuilds|Prebuilds Owner|prebuilds@coder.com|1",
            UserId::PREBUILDS.0.simple()
        )]
    );
    let found = kit.store.authenticate(&agents[0].token).await.unwrap().unwrap();
    assert!(found.workspace.is_prebuild());
}

#[tokio::test]
async fn several_documents_are_several_workspaces_of_shared_owners_and_templates() {
    let yaml = "\
owner: { username: ada, email: a@example.com }
workspace: { name: one, template: docker }
banners: [{ message: first }]
agents: [{ name: main }, { name: aux }]
---
owner: { username: ADA }
workspace: { name: two, template: Docker }
banners: [{ message: second }]
agents: [{ name: main }]
---
owner: { username: bob }
workspace: { name: one, template: docker }
";
    let (mut kit, agents) = Kit::seeded(yaml).await;
    let listed: Vec<_> = agents
        .iter()
        .map(|a| format!("{}/{}/{}", a.owner, a.workspace, a.agent))
        .collect();
    assert_eq!(listed, ["ada/one/main", "ada/one/aux", "ADA/two/main"]);
    assert_eq!(kit.integer("SELECT count(*) FROM users").await, 2);
    assert_eq!(kit.integer("SELECT count(*) FROM templates").await, 1);
    assert_eq!(kit.integer("SELECT count(*) FROM workspaces").await, 3);
    let banners = kit
        .store
        .site_config("announcement_banners")
        .await
        .unwrap()
        .unwrap();
    assert!(
        banners.contains("first") && banners.contains("second"),
        "{banners}"
    );
}

#[tokio::test]
async fn manifest_lists_come_in_their_fixed_orders() {
    let yaml = "\
owner: { username: ada }
workspace: { name: dev }
agents:
  - name: main
    apps: [{ slug: zed }, { slug: abc }]
    scripts:
      - { display_name: z, script: 'true' }
      - { display_name: a, script: 'true' }
      - { display_name: m, script: 'true', log_path: third }
    metadata:
      - { key: z, script: z, order: 1 }
      - { key: b, script: b, order: 2 }
      - { key: a, script: a, order: 2 }
    devcontainers:
      - { name: z, workspace_folder: /z }
      - { name: a, workspace_folder: /a }
";
    let (kit, agents) = Kit::seeded(yaml).await;
    let parts = kit.store.manifest_parts(agents[0].agent_id).await.unwrap();
    let slugs: Vec<_> = parts.apps.iter().map(|app| &*app.slug).collect();
    assert_eq!(slugs, ["abc", "zed"], "by slug");
    assert_eq!(parts.scripts[2].log_path, "third", "file order");
    assert_eq!(parts.scripts.len(), 3);
    let keys: Vec<_> = parts.metadata.iter().map(|item| &*item.key).collect();
    assert_eq!(keys, ["z", "a", "b"], "by order, then key");
    let names: Vec<_> = parts
        .devcontainers
        .iter()
        .map(|container| &*container.name)
        .collect();
    assert_eq!(names, ["z", "a"], "file order");
}
