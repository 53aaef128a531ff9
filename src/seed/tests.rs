use super::*;

const EXAMPLE: &str = include_str!("../../examples/seed.yaml");

/// The example with one piece of text exchanged.
fn changed(from: &str, to: &str) -> Result<Seed, SeedError> {
    assert!(EXAMPLE.contains(from), "{from}");
    Seed::parse("seed.yaml", &EXAMPLE.replacen(from, to, 1))
}

#[track_caller]
fn assert_error(from: &str, to: &str, parts: &[&str]) {
    let error = changed(from, to).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{error:?} lacks {part:?}");
    }
    assert!(error.starts_with("seed.yaml: "), "{error}");
}

#[test]
fn the_example_is_accepted_key_by_key() {
    let seed = Seed::parse("seed.yaml", EXAMPLE).unwrap();
    let [document] = &seed.documents[..] else { panic!() };
    assert_eq!(document.workspace.ttl, Some(Duration::from_secs(8 * 3600)));
    let agent = &document.agents[0];
    assert_eq!(agent.environment_variables["GREETING"], "hello");
    assert_eq!(agent.display_apps.as_ref().unwrap().len(), 3);
    assert_eq!(
        (agent.apps.len(), agent.scripts.len(), agent.metadata.len()),
        (2, 2, 2)
    );
    assert_eq!(agent.resources_monitoring.volumes[0].path, "/home");
    assert!(
        document.banners.as_ref().unwrap()[0].enabled,
        "banners are enabled unless they say otherwise"
    );
}

#[test]
fn an_unknown_key_is_named_with_its_place() {
    assert_error(
        "subdomain: true",
        "subdomains: true",
        &["agents[0].apps[0].subdomains", "unknown field", "true"],
    );
    assert_error(
        "template: docker",
        "template: docker\n  tempalte: x",
        &["workspace.tempalte", "unknown field"],
    );
}

#[test]
fn a_wrong_value_is_named_with_its_key() {
    assert_error("ttl: 8h", "ttl: 8 hours", &["workspace.ttl", "8 hours"]);
    assert_error(
        "sharing_level: owner",
        "sharing_level: all",
        &["agents[0].apps[0].sharing_level", "all"],
    );
    assert_error(
        "timeout_seconds: 60",
        "timeout_seconds: -1",
        &["agents[0].scripts[0].timeout_seconds", "-1"],
    );
    assert_error(
        "threshold: 90",
        "threshold: 101",
        &["resources_monitoring.memory.threshold", "101"],
    );
    assert_error("slug: vim", "slug: Vim", &["agents[0].apps[1].slug", "\"Vim\""]);
    assert_error(
        "slug: vim",
        "slug: code",
        &["agents[0].apps[1].slug", "already used"],
    );
    assert_error("  - name: main", "  - name: a_b", &["agents[0].name", "\"a_b\""]);
}

#[test]
fn a_missing_key_is_named() {
    assert_error("username: ada, ", "", &["owner", "username"]);
}

#[test]
fn a_bad_token_is_not_repeated() {
    let error = changed("token: null", "token: very-secret")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("agents[0].token") && !error.contains("very-secret"),
        "{error}"
    );
}

#[test]
fn what_is_no_yaml_is_named_with_its_place() {
    let error = Seed::parse("seed.yaml", "owner: [").unwrap_err().to_string();
    assert!(
        error.starts_with("seed.yaml: ") && error.contains("line"),
        "{error}"
    );
    assert!(Seed::parse("seed.yaml", "").is_err());
}

#[test]
fn several_documents_are_several_workspaces() {
    let second = EXAMPLE.replacen("name: dev", "name: other", 1);
    let seed = Seed::parse("seed.yaml", &format!("{EXAMPLE}\n---\n{second}")).unwrap();
    assert_eq!(seed.documents[1].workspace.name, "other");
    let broken = second.replacen("threshold: 90", "threshold: 300", 1);
    let error = Seed::parse("seed.yaml", &format!("{EXAMPLE}\n---\n{broken}"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("document 2: agents[0].resources_monitoring.memory.threshold"),
        "{error}"
    );
}
