//! What is left to the deployment's own servers is refused, by a text that says so, and nothing is written.

use super::kit::Deployment;
use super::support::http::{dial_at, get};
use super::support::postgres::Database;
use super::support::{EXAMPLE_SEED, drpcd};

/// Runs a verb that must fail with `code`, and gives what it says.
#[track_caller]
fn refused(deployment: &Deployment, arguments: &[&str], code: i32) -> String {
    let output = deployment.run(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    deployment.assert_untouched();
    let password = deployment.database.url().split([':', '@']).nth(2).unwrap();
    assert!(!said.contains(password), "{said}");
    said
}

#[test]
fn conn_075_a_coder_database_is_never_migrated() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    for arguments in [
        &["migrate", "up"][..],
        &["migrate", "status"],
        &["migrate", "up", "--store", "coder"],
    ] {
        let said = refused(&deployment, arguments, 1);
        assert!(
            said.contains("has the tables of a coder deployment, and wanted are those of drpcd"),
            "{arguments:?}: {said}"
        );
    }
    // Nor when a server or a check opens it.
    assert_eq!(deployment.run(&["db", "check"]).status.code(), Some(0));
    let server = deployment.serve(&["--auto-migrate"], &[]);
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
    deployment.assert_lawful();
    assert_eq!(
        deployment.value("SELECT to_regclass('drpcd_migrations') IS NULL"),
        "true"
    );
}

#[test]
fn seeding_and_tokens_are_refused() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let seed = deployment.directory().join("seed.yaml");
    std::fs::write(&seed, EXAMPLE_SEED).unwrap();
    let seed = seed.to_str().unwrap();
    for (arguments, what) in [
        (&["seed", seed][..], "seeding"),
        (
            &["server", "--http-address", "127.0.0.1:0", "--seed", seed],
            "seeding",
        ),
        (&["token", "create", "--owner", "ada"], "making tokens"),
        (&["token", "list"], "listing tokens"),
        (&["token", "revoke", "abcdefghij"], "revoking tokens"),
    ] {
        let said = refused(&deployment, arguments, 1);
        let expected =
            format!("the database is that of a coder deployment, where {what} is left to its own servers");
        assert!(said.contains(&expected), "{arguments:?}: {said}");
    }
}

#[test]
fn a_store_that_is_not_what_the_operator_says_is_refused() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let said = refused(
        &deployment,
        &["server", "--http-address", "127.0.0.1:0", "--store", "postgres"],
        1,
    );
    let expected = "has the tables of a coder deployment, and wanted are those of drpcd\n";
    assert!(said.ends_with(expected), "{said}");
    let said = refused(&deployment, &["db", "check", "--store", "postgres"], 4);
    assert!(said.contains("no server can work on"), "{said}");

    let other = Database::new().unwrap();
    let serve = |flags: &[&str]| {
        let mut command = drpcd();
        command.args([
            "server",
            "--http-address",
            "127.0.0.1:0",
            "--postgres-url",
            other.url(),
        ]);
        let output = command.args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let said = serve(&["--store", "coder"]);
    assert!(
        said.ends_with("has no tables, and wanted are those of a coder deployment\n"),
        "{said}"
    );
    other.execute("CREATE TABLE orders (); CREATE TABLE customers ()");
    let said = serve(&[]);
    let expected = "has tables of another program (customers, orders), and wanted are those of drpcd or of a coder deployment\n";
    assert!(said.ends_with(expected), "{said}");
}

#[test]
fn a_deployment_that_lacks_something_is_refused_with_a_list_of_it() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    deployment.database.execute(
        "DROP EVENT TRIGGER audit_commands;
        ALTER TABLE workspace_agents DROP COLUMN api_version;
        DROP TABLE connection_logs;
        ALTER TYPE log_level RENAME VALUE 'trace' TO 'finest'",
    );
    let missing = [
        "table workspace_agents: column api_version missing",
        "table connection_logs: missing",
        "type log_level: label trace missing",
    ];
    let said = refused(&deployment, &["server", "--http-address", "127.0.0.1:0"], 1);
    let list = format!("lacks what is needed there:\n  {}\n", missing.join("\n  "));
    assert!(said.ends_with(&list), "{said}");

    let check = deployment.run(&["db", "check"]);
    assert_eq!(check.status.code(), Some(4));
    let lines: Vec<_> = std::str::from_utf8(&check.stdout)
        .unwrap()
        .lines()
        .skip(1)
        .collect();
    let mut expected = vec!["tables\tcoder".to_owned(), "version\t440".to_owned()];
    expected.extend(missing.map(|missing| format!("missing\t{missing}")));
    assert_eq!(lines, expected);
}

#[test]
fn a_user_without_a_right_is_refused_with_its_name() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let role = deployment.role();
    let check = || role.verb(&["db", "check"]).output().unwrap();
    assert_eq!(check().status.code(), Some(0));
    role.revoke("UPDATE (last_used_at) ON workspaces");
    role.revoke("USAGE ON SEQUENCE workspace_agent_startup_logs_id_seq");
    let missing = [
        "table workspaces: right to UPDATE missing",
        "sequence public.workspace_agent_startup_logs_id_seq: right to USAGE missing",
    ];

    let check = check();
    assert_eq!(check.status.code(), Some(4));
    let said = String::from_utf8(check.stdout).unwrap();
    let expected = missing.map(|missing| format!("missing\t{missing}"));
    assert_eq!(said.lines().skip(3).collect::<Vec<_>>(), expected);

    let server = role
        .verb(&["server", "--http-address", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert_eq!(server.status.code(), Some(1));
    let said = String::from_utf8(server.stderr).unwrap();
    let list = format!("lacks what is needed there:\n  {}\n", missing.join("\n  "));
    assert!(said.ends_with(&list), "{said}");
    deployment.assert_untouched();
}

#[test]
fn clients_are_told_that_they_are_not_served() {
    let Some(deployment) = Deployment::new() else {
        return;
    };
    let server = deployment.serve(&[], &[]);
    let id = "00000009-0000-4000-8000-000000000001";
    let header = "Coder-Session-Token: abcdefghij-0123456789012345678901\r\n";
    for target in [
        "/api/v2/workspaceagents/connection".to_owned(),
        format!("/api/v2/workspaceagents/{id}/connection"),
    ] {
        let answer = get(&server.url, &target, header);
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(answer.body.contains("Clients are not served here."), "{answer:?}");
    }
    for target in [
        "/api/v2/tailnet?version=2.3".to_owned(),
        format!("/api/v2/workspaceagents/{id}/coordinate?version=2.3"),
    ] {
        let (answer, _) = dial_at(&server.url, &target, "abcdefghij-0123456789012345678901");
        assert_eq!(answer.status, 404, "{answer:?}");
        assert!(
            answer.body.contains("whose own servers serve clients"),
            "{answer:?}"
        );
    }
    assert_eq!(server.stop(), Some(0), "{}", deployment.log());
    deployment.assert_lawful();
}
