//! The apps and display apps of sub agents.

use proto::create_sub_agent_request::app::Healthcheck;

use super::*;

#[tokio::test]
async fn s2_076_apps_are_stored_under_hashed_slugs_with_their_health() {
    let fixture = Fixture::new().await;
    let code_server = App {
        healthcheck: Some(Healthcheck {
            interval: 5,
            threshold: 6,
            url: "http://localhost:13337/healthz".into(),
        }),
        ..app("code-server")
    };
    let vim = App {
        command: Some("vim".into()),
        ..app("vim")
    };
    let reply = fixture
        .create(with_apps("child-agent", vec![code_server, vim]))
        .await;
    assert_eq!(app_errors(&reply), [""; 0]);
    let rows =
        "SELECT slug, health, healthcheck_interval, healthcheck_threshold, sharing_level, open_in, command
        FROM workspace_apps WHERE slug LIKE '________-%' ORDER BY slug";
    assert_eq!(
        fixture.store.query(rows).await,
        [
            "547knu0f-vim disabled 0 0 owner slim-window vim",
            "fdqf0lpd-code-server initializing 5 6 owner slim-window -",
        ]
    );
    let reply = fixture
        .create(with_apps("test-agent", vec![app("custom-app")]))
        .await;
    assert_eq!(app_errors(&reply), [""; 0]);
    assert_eq!(
        fixture
            .value("SELECT count(*) FROM workspace_apps WHERE slug = 'v4qhkq17-custom-app'")
            .await,
        "1"
    );
}

#[tokio::test]
async fn s2_077_a_bad_slug_costs_its_app_only() {
    let fixture = Fixture::new().await;
    let bad = ["", "a_b", "Upper", "-a", "a-", "a--b", "a b"];
    for (number, slug) in bad.into_iter().enumerate() {
        let reply = fixture
            .create(with_apps(&format!("child-{number}"), vec![app(slug)]))
            .await;
        let expected = match slug {
            "" => "0 slug must not be empty".to_owned(),
            slug => format!(r#"0 slug "{slug}" does not match regex "^[a-z0-9](-?[a-z0-9])*$""#),
        };
        assert_eq!(app_errors(&reply), [expected]);
    }
    assert_eq!(fixture.slugs().await, [""; 0]);
    let children = "SELECT count(*) FROM workspace_agents WHERE parent_id IS NOT NULL";
    assert_eq!(fixture.value(children).await, bad.len().to_string());
}

#[tokio::test]
async fn s2_078_and_083_and_084_errors_carry_the_places_of_their_apps() {
    let fixture = Fixture::new().await;
    for (name, slugs, errors, stored) in [
        (
            "a",
            vec!["valid-app", "Invalid_App"],
            vec!["1 slug"],
            vec!["valid-app"],
        ),
        (
            "b",
            vec!["duplicated", "duplicated"],
            vec!["1 slug"],
            vec!["duplicated"],
        ),
        (
            "c",
            vec!["x", "twice", "twice", "twice"],
            vec!["2 slug", "3 slug"],
            vec!["twice", "x"],
        ),
        (
            "d",
            vec!["", "a_b", "ok", "ok", "-a"],
            vec!["0 slug", "1 slug", "3 slug", "4 slug"],
            vec!["ok"],
        ),
    ] {
        let reply = fixture
            .create(with_apps(name, slugs.into_iter().map(app).collect()))
            .await;
        let found = app_errors(&reply);
        assert_eq!(found.iter().map(|error| &error[..6]).collect::<Vec<_>>(), errors);
        assert_eq!(
            found.iter().any(|error| error.ends_with("is already in use")),
            name > "a"
        );
        let mut slugs = fixture.slugs().await;
        slugs.sort();
        assert_eq!(slugs, stored);
        fixture
            .store
            .query("DELETE FROM workspace_apps WHERE slug LIKE '________-%' RETURNING 1")
            .await;
    }
}

#[tokio::test]
async fn s2_083_a_slug_is_kept_from_later_apps_whatever_else_is_wrong_with_the_first() {
    let fixture = Fixture::new().await;
    let bad = App {
        share: Some(77),
        ..app("x")
    };
    let reply = fixture.create(with_apps("child", vec![bad, app("x")])).await;
    assert_eq!(
        app_errors(&reply),
        [
            r#"0 share "77" is not a valid app sharing level"#,
            r#"1 slug "x" is already in use"#
        ]
    );
}

#[tokio::test]
async fn s2_079_and_080_and_081_and_082_every_field_of_an_app_is_stored() {
    let fixture = Fixture::new().await;
    let full = App {
        command: Some("run".into()),
        display_name: Some("Full".into()),
        external: Some(true),
        group: Some("Tools".into()),
        hidden: Some(true),
        icon: Some("/icon/full.svg".into()),
        open_in: Some(1),
        order: Some(7),
        share: Some(1),
        subdomain: Some(true),
        url: Some("http://localhost:1".into()),
        healthcheck: None,
        ..app("full")
    };
    let apps = vec![
        App {
            share: Some(0),
            open_in: Some(0),
            ..app("owner")
        },
        App {
            share: Some(2),
            group: Some(String::new()),
            ..app("public")
        },
        App {
            share: Some(3),
            ..app("organization")
        },
        App {
            open_in: Some(9),
            ..app("bad")
        },
        full,
    ];
    let reply = fixture.create(with_apps("child", apps)).await;
    assert_eq!(app_errors(&reply), [r#"3 open_in "9" is not an open in setting"#]);
    let rows = "SELECT substr(slug, 10), sharing_level, open_in, command, display_name, external, display_group, hidden,
            icon, display_order, subdomain, url, health, healthcheck_interval, healthcheck_threshold, tooltip
        FROM workspace_apps WHERE slug LIKE '________-%' ORDER BY 1";
    assert_eq!(
        fixture.store.query(rows).await,
        [
            "full authenticated tab run Full 1 Tools 1 /icon/full.svg 7 1 http://localhost:1 disabled 0 0 ",
            "organization organization slim-window -  0 - 0  0 0 - disabled 0 0 ",
            "owner owner slim-window -  0 - 0  0 0 - disabled 0 0 ",
            "public public slim-window -  0 - 0  0 0 - disabled 0 0 ",
        ]
    );
}

#[tokio::test]
async fn an_app_that_the_store_refuses_has_an_error_without_field() {
    let fixture = Fixture::new().await;
    let long = App {
        display_name: Some("x".repeat(65)),
        ..app("long")
    };
    let reply = fixture.create(with_apps("child", vec![long, app("good")])).await;
    let errors = app_errors(&reply);
    assert!(errors[0].starts_with("0 - insert workspace app: "), "{errors:?}");
    assert_eq!(
        (errors.len(), fixture.slugs().await),
        (1, vec!["good".to_owned()])
    );
}

#[tokio::test]
async fn s2_085_and_087_display_apps_are_stored_in_the_order_of_the_request() {
    let fixture = Fixture::new().await;
    let stored =
        "SELECT display_apps FROM workspace_agents WHERE parent_id IS NOT NULL ORDER BY rowid DESC LIMIT 1";
    for (number, (numbers, expected)) in [
        (vec![], "[]"),
        (vec![0], r#"["vscode"]"#),
        (vec![1], r#"["vscode_insiders"]"#),
        (vec![2], r#"["web_terminal"]"#),
        (vec![3], r#"["ssh_helper"]"#),
        (vec![4], r#"["port_forwarding_helper"]"#),
        (vec![3, 0, 3], r#"["ssh_helper","vscode","ssh_helper"]"#),
        (
            vec![4, 3, 2, 1, 0],
            r#"["port_forwarding_helper","ssh_helper","web_terminal","vscode_insiders","vscode"]"#,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let request = proto::CreateSubAgentRequest {
            display_apps: numbers,
            ..with_apps(&format!("child-{number}"), vec![app("x")])
        };
        assert_eq!(app_errors(&fixture.create(request).await), [""; 0]);
        assert_eq!(fixture.value(stored).await, expected);
    }
}
