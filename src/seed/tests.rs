//! Reading seed files: what is accepted, and how each kind of bad input is told.

use std::fmt::Write as _;

use super::{DisplayApp, MAX_DOCUMENTS, MAX_FILE_BYTES, OpenIn, Seed, SeedError, SharingLevel};
use crate::store::ApiKeyScope;

const EXAMPLE: &str = include_str!("../../examples/seed.yaml");
const TOKEN: &str = "0b8a35b2-4a5c-4c8e-9d5e-6f1f2f3f4f5f";

/// A document whose agent has `fields` besides its name.
fn agent(fields: &str) -> String {
    format!("owner: {{ username: ada }}\nworkspace: {{ name: dev }}\nagents:\n  - name: main\n    {fields}\n")
}

fn error(text: &str) -> String {
    match Seed::parse("dir/seed.yaml", text) {
        Ok(seed) => panic!("accepted: {seed:?}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn the_example_is_accepted() {
    let seed = Seed::parse("seed.yaml", EXAMPLE).unwrap();
    assert_eq!(seed.documents.len(), 1);
    let document = &seed.documents[0];
    assert_eq!(&*document.owner.username, "ada");
    assert_eq!(document.workspace.ttl.unwrap().0, 28_800_000_000_000);
    let agent = &document.agents[0];
    assert_eq!(agent.token, None);
    assert_eq!(
        agent.display_apps,
        [DisplayApp::Vscode, DisplayApp::WebTerminal, DisplayApp::SshHelper]
    );
    assert_eq!(agent.apps[0].sharing_level, SharingLevel::Owner);
    assert_eq!(agent.apps[1].open_in, OpenIn::SlimWindow);
    assert_eq!(agent.api_key_scope, ApiKeyScope::All);
}

#[test]
fn bad_input_names_the_file_the_key_and_the_value() {
    for (text, expected) in [
        (
            agent("apps: [[a, A]]"),
            vec!["agents[0].apps[0]", "sequence, expected a mapping"],
        ),
        (
            agent("").replace("{ name: dev }", "[dev, docker]"),
            vec!["workspace", "expected a mapping"],
        ),
        (
            agent("apps: [{ slug: a, healthcheck: [x] }]"),
            vec!["agents[0].apps[0].healthcheck", "a mapping"],
        ),
        (agent("colour: red"), vec!["agents[0]", "colour", "unknown field"]),
        (
            agent("apps: [{ slug: a }, { slug: b, hiden: true }]"),
            vec!["agents[0].apps[1]", "hiden"],
        ),
        (
            agent("apps: [{ slug: a }, { slug: Bad_Slug }]"),
            vec!["agents[0].apps[1].slug", "Bad_Slug"],
        ),
        (
            agent("apps: [{ slug: a, sharing_level: all }]"),
            vec!["apps[0].sharing_level", "all", "public"],
        ),
        (
            agent("apps: [{ slug: a, open_in: moon }]"),
            vec!["agents[0].apps[0].open_in", "moon"],
        ),
        (
            agent("apps: [{ slug: a, subdomain: maybe }]"),
            vec!["agents[0].apps[0].subdomain", "maybe"],
        ),
        (
            agent("apps: [{ slug: a }, { slug: a }]"),
            vec!["agents[0].apps[1].slug", "\"a\" is in the list already"],
        ),
        (agent("apps: { slug: a }"), vec!["agents[0].apps", "map"]),
        (
            agent("display_apps: [vscode, emacs]"),
            vec!["agents[0].display_apps[1]", "emacs"],
        ),
        (
            agent("api_key_scope: some"),
            vec!["agents[0].api_key_scope", "some", "no_user_data"],
        ),
        (
            agent("connection_timeout_seconds: -1"),
            vec!["agents[0].connection_timeout_seconds", "-1"],
        ),
        (
            agent("connection_timeout_seconds: 2147483648"),
            vec!["connection_timeout_seconds", "2147483648"],
        ),
        (
            agent("connection_timeout_seconds: soon"),
            vec!["connection_timeout_seconds", "soon"],
        ),
        (agent("directory: 5"), vec!["agents[0].directory", "5", "string"]),
        (
            agent(&format!("directory: {}", "d".repeat(4_097))),
            vec!["agents[0].directory", "4097", "4096"],
        ),
        (agent("motd_file: \"a\\0b\""), vec!["agents[0].motd_file", "NUL"]),
        (
            agent("environment_variables: { A: 1 }"),
            vec!["agents[0].environment_variables", "1"],
        ),
        (
            agent("scripts: [{ display_name: a }]"),
            vec!["agents[0].scripts[0]", "script"],
        ),
        (
            agent("scripts: [{ display_name: a, script: x }, { display_name: a, script: y }]"),
            vec!["agents[0].scripts[1].display_name", "\"a\""],
        ),
        (
            agent("metadata: [{ key: k, script: x }, { key: k, script: y }]"),
            vec!["agents[0].metadata[1].key", "\"k\""],
        ),
        (
            agent(&format!("metadata: [{{ key: {}, script: x }}]", "k".repeat(128))),
            vec!["metadata[0].key", "128"],
        ),
        (
            agent("resources_monitoring: { memory: { threshold: 101 } }"),
            vec!["agents[0].resources_monitoring.memory.threshold", "101"],
        ),
        (
            agent(
                "resources_monitoring: { volumes: [{ path: /, threshold: 1 }, { path: /, threshold: 1 }] }",
            ),
            vec!["agents[0].resources_monitoring.volumes[1].path", "\"/\""],
        ),
        (
            agent("devcontainers: [{ name: a, workspace_folder: x }, { name: a, workspace_folder: y }]"),
            vec!["agents[0].devcontainers[1].name", "\"a\""],
        ),
        (
            agent("order: 1\n  - name: main"),
            vec!["agents[1].name", "\"main\""],
        ),
        (agent("").replace("ada", "'a b'"), vec!["owner.username", "a b"]),
        (
            agent("").replace("name: dev", "name: ''"),
            vec!["workspace.name", "\"\""],
        ),
        (
            agent("").replace("name: dev", "name: dev, ttl: 8"),
            vec!["workspace.ttl", "8"],
        ),
        (
            agent("").replace("name: dev", "name: dev, ttl: 8 hours"),
            vec!["workspace.ttl", "8 hours"],
        ),
        (
            agent("").replace("name: dev", "name: dev, autostart_schedule: daily"),
            vec!["workspace.autostart_schedule", "daily"],
        ),
        (agent("").replace("owner:", "ownr:"), vec!["ownr", "owner"]),
        ("workspace: { name: dev }\n".to_owned(), vec!["owner", "missing"]),
        (
            format!("{}banners: [{{ mesage: x }}]\n", agent("")),
            vec!["banners[0]", "mesage"],
        ),
        ("- a\n".to_owned(), vec!["document"]),
        (
            format!("{}---\n{}", agent(""), agent("")),
            vec!["document 2: workspace.name", "\"dev\""],
        ),
        (
            format!("{}---\n{}", agent(""), agent("x: y").replace("dev", "two")),
            vec!["document 2: agents[0]", "x"],
        ),
    ] {
        let message = error(&text);
        assert!(message.starts_with("dir/seed.yaml: "), "{message}");
        for part in expected {
            assert!(
                message.contains(part),
                "{part:?} is not in {message:?} for\n{text}"
            );
        }
    }
}

#[test]
fn no_error_shows_a_secret() {
    let secret = "5ecre7";
    let link = |fields: &str| {
        agent("").replace(
            "username: ada",
            &format!("username: ada, external_auth_links: [{{ {fields} }}]"),
        )
    };
    for (text, key) in [
        (agent(&format!("token: {secret}")), "agents[0].token"),
        (agent("token: 5318008"), "agents[0].token"),
        (agent(&format!("token: [{secret}]")), "agents[0].token"),
        (
            agent("token: 00000000-0000-0000-0000-000000000000"),
            "agents[0].token",
        ),
        (
            agent(&format!("token: {TOKEN}\n  - {{ name: b, token: {TOKEN} }}")),
            "agents[1].token",
        ),
        (agent(&format!("tokn: {secret}")), "tokn"),
        (
            link(&format!("provider_id: a, oauth_access_token: [{secret}]")),
            "external_auth_links[0].oauth_access_token",
        ),
        (
            link("provider_id: a, oauth_access_token: 5318008"),
            "oauth_access_token",
        ),
        (
            link(&format!(
                "provider_id: a, oauth_access_token: t, oauth_extra: {secret}"
            )),
            "oauth_extra",
        ),
        (
            link(&format!("provider_id: a, oauth_access_token: {secret}, x: 1")),
            "x",
        ),
        // Not YAML at all, next to a secret.
        (agent(&format!("token: \"{secret}")), "line"),
        (agent(&format!("token: *{secret}")), "line"),
        (agent(&format!("token: {secret}: [")), "line"),
    ] {
        let message = error(&text);
        assert!(message.contains(key), "{key:?} is not in {message:?}");
        for hidden in [secret, TOKEN, "5318008"] {
            assert!(!message.contains(hidden), "{message:?} shows a secret of\n{text}");
        }
    }
}

#[test]
fn debug_of_a_seed_shows_no_secret() {
    let text = agent(&format!("token: {TOKEN}")).replace(
        "username: ada",
        "username: ada, external_auth_links: \
         [{ provider_id: a, oauth_access_token: 5ecre7, oauth_refresh_token: 5ecre7, oauth_extra: { k: 5ecre7 } }]",
    );
    let shown = format!("{:?}", Seed::parse("f", &text).unwrap());
    assert!(!shown.contains("5ecre7") && !shown.contains(TOKEN), "{shown}");
}

#[test]
fn yaml_errors_name_the_place() {
    let message = error("owner: { username: ada\nworkspace: x\n");
    assert!(
        message.starts_with("dir/seed.yaml: not valid YAML at line "),
        "{message}"
    );
    let message = error(&format!("{}owner: {{ username: bob }}\n", agent("")));
    assert!(message.contains("line 6"), "a key twice: {message}");
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        writeln!(text, "a{level}: &a{level} [{alias}]").unwrap();
    }
    assert!(error(&text).contains("not valid YAML"));
}

#[test]
fn a_file_without_a_document_is_refused() {
    for text in ["", "# nothing\n", "---\n---\n"] {
        assert!(
            matches!(Seed::parse("f", text), Err(SeedError::Empty { .. })),
            "{text:?}"
        );
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("absent.yaml");
    let message = Seed::read(&path).unwrap_err().to_string();
    assert!(
        message.contains("absent.yaml") && message.contains("No such file"),
        "{message}"
    );
    std::fs::write(&path, EXAMPLE).unwrap();
    let seed = Seed::read(&path).unwrap();
    assert_eq!(seed.source, path.display().to_string());
    std::fs::write(&path, b"owner: \xff").unwrap();
    assert!(Seed::read(&path).unwrap_err().to_string().contains("absent.yaml"));
}

#[test]
fn ten_thousand_documents_are_read() {
    let mut text = String::new();
    for number in 0..10_000 {
        let workspace = format!("workspace: {{ name: w{number} }}");
        writeln!(
            text,
            "---\nowner: {{ username: ada }}\n{workspace}\nagents: [{{ name: main }}]"
        )
        .unwrap();
    }
    assert_eq!(Seed::parse("f", &text).unwrap().documents.len(), 10_000);
}

#[test]
fn files_and_documents_are_read_up_to_the_limits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("large.yaml");
    for (size, too_large) in [
        (MAX_FILE_BYTES - 1, false),
        (MAX_FILE_BYTES, false),
        (MAX_FILE_BYTES + 1, true),
    ] {
        // Wrong from its first byte, so that no more than its size is looked at.
        let mut text = vec![b' '; usize::try_from(size).unwrap()];
        text[0] = b'@';
        std::fs::write(&path, text).unwrap();
        let error = Seed::read(&path).unwrap_err();
        assert_eq!(matches!(error, SeedError::TooLarge { .. }), too_large, "{error}");
    }
    for (documents, too_many) in [
        (MAX_DOCUMENTS - 1, false),
        (MAX_DOCUMENTS, false),
        (MAX_DOCUMENTS + 1, true),
    ] {
        let error = Seed::parse("f", &"--- {}\n".repeat(documents)).unwrap_err();
        assert_eq!(matches!(error, SeedError::Syntax { .. }), too_many, "{error}");
    }
}
