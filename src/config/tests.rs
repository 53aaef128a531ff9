use super::*;

use clap::{Command, FromArgMatches as _};

#[derive(clap::Subcommand, Debug)]
enum Verb {
    Server(Box<Config>),
}

fn command() -> Command {
    use clap::Subcommand as _;
    Verb::augment_subcommands(Command::new("drpcd").no_binary_name(true))
}

fn parse(file: Option<&str>, flags: &[&str]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("drpcd.yaml");
    let file = file.map(|text| {
        std::fs::write(&path, text).unwrap();
        ConfigFile::read(&path).map_err(|error| error.to_string())
    });
    let file = file.transpose()?;
    let command = layer(command(), file.as_ref()).map_err(|error| error.to_string())?;
    let args = ["server"].iter().chain(flags);
    let matches = command
        .clone()
        .try_get_matches_from(args)
        .map_err(|error| describe(&error, &command, file.as_ref()).unwrap_or_else(|| error.to_string()))?;
    let matches = matches.subcommand_matches("server").unwrap();
    Ok(Config::from_arg_matches(matches).unwrap())
}

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let file = "networking:\n  http:\n    httpAddress: 127.0.0.1:1\ndrpcd:\n  dataDir: /from/file\n";
    let config = parse(Some(file), &[]).unwrap();
    assert_eq!(config.http_address, "127.0.0.1:1");
    assert_eq!(config.common.data_dir, Some(PathBuf::from("/from/file")));
    let config = parse(Some(file), &["--http-address", "127.0.0.1:2"]).unwrap();
    assert_eq!(config.http_address, "127.0.0.1:2");
    assert_eq!(
        parse(None, &["--data-dir", "/d"]).unwrap().http_address,
        "127.0.0.1:3000"
    );
}

#[test]
fn lists_numbers_and_flags_of_the_file_are_read() {
    let file = "experiments: [a, b]\nnetworking: {derp: {blockDirect: true, stunAddresses: [s:1]}}\n\
                drpcd: {dataDir: /d, drainTime: 1m, apiMaxMinor: 11}\n";
    let config = parse(Some(file), &["--derp-force-websockets"]).unwrap();
    assert_eq!(config.experiments, ["a", "b"]);
    assert_eq!(config.api_max_minor, 11);
    assert_eq!(config.derp_server_stun_addresses, ["s:1"]);
    assert!(config.block_direct_connections && config.derp_force_websockets);
    assert_eq!(config.drain_time, Duration::from_mins(1));
}

#[test]
fn idle_connections_are_a_number_or_a_third() {
    let config = |flags: &[&str]| parse(Some("drpcd: {dataDir: /d}"), flags);
    for (flags, expected) in [
        (&[][..], [1, 1, 3, 33]),
        (&["--postgres-conn-max-idle", "auto"], [1, 1, 3, 33]),
        (&["--postgres-conn-max-idle", "5"], [5; 4]),
        (&["--postgres-conn-max-idle", "0"], [0; 4]),
    ] {
        let idle = config(flags).unwrap().common.postgres_conn_max_idle;
        assert_eq!([2, 3, 10, 100].map(|open| idle.of(open)), expected, "{flags:?}");
    }
    let file = "drpcd: {dataDir: /d, postgresConnMaxIdle: 7}";
    let idle = parse(Some(file), &[]).unwrap().common.postgres_conn_max_idle;
    assert_eq!(idle, MaxIdle::Count(7));
    for wrong in ["-1", "many", ""] {
        let error = config(&[&format!("--postgres-conn-max-idle={wrong}")]).unwrap_err();
        assert!(error.contains("must be auto or a number"), "{error}");
    }
}

#[test]
fn an_unknown_key_is_named() {
    for (file, key) in [
        (
            "networking: {http: {httpAdress: x}}",
            "networking.http.httpAdress",
        ),
        ("nonsense: 1", "nonsense"),
        ("config: other.yaml", "config"),
    ] {
        let error = parse(Some(file), &["--data-dir", "/d"]).unwrap_err();
        assert!(error.ends_with(&format!("unknown key {key}")), "{error}");
    }
}

#[test]
fn a_bad_value_is_shown_with_its_flag_variable_and_key() {
    let error = parse(Some("drpcd: {dataDir: /d, drainTime: soon}"), &[]).unwrap_err();
    assert!(error.starts_with(
        "invalid value \"soon\" for --drain-time (env DRPCD_DRAIN_TIME, key drpcd.drainTime of /"
    ));
    assert!(error.ends_with("write it like 30s, 1h30m or 500ms"), "{error}");
    let error = parse(None, &["--data-dir", "/d", "--sqlite-synchronous", "off"]).unwrap_err();
    assert_eq!(
        error,
        "invalid value \"off\" for --sqlite-synchronous (env DRPCD_SQLITE_SYNCHRONOUS): must be one of normal, full"
    );
}

#[test]
fn the_store_is_where_a_setting_says_and_postgres_where_both_do() {
    let place = |file, flags: &[&str]| {
        let config = parse(file, flags).unwrap();
        match config.common.store_place() {
            Ok(StorePlace::Directory(path)) => format!("{}", path.display()),
            Ok(StorePlace::Postgres { url, expected }) => format!("{} {expected:?}", url.reveal()),
            Err(error) => error.to_string(),
        }
    };
    let file = Some("drpcd: {postgresURL: postgres://x}");
    assert_eq!(place(None, &["--data-dir", "/d"]), "/d");
    assert_eq!(place(file, &["--data-dir", "/d"]), "postgres://x None");
    assert_eq!(place(file, &["--data-dir", "/d", "--store", "sqlite"]), "/d");
    assert_eq!(place(file, &["--store", "postgres"]), "postgres://x Some(Own)");
    assert_eq!(place(file, &["--store", "coder"]), "postgres://x Some(Coder)");
    for (flags, missing) in [
        (
            &[][..],
            "missing --data-dir (env DRPCD_DATA_DIR), or --postgres-url (env CODER_PG_CONNECTION_URL)",
        ),
        (
            &["--store", "coder", "--data-dir", "/d"],
            "--store postgres or coder (env DRPCD_STORE) needs --postgres-url (env CODER_PG_CONNECTION_URL)",
        ),
        (
            &["--store", "sqlite"],
            "--store sqlite (env DRPCD_STORE) needs --data-dir (env DRPCD_DATA_DIR)",
        ),
    ] {
        assert_eq!(place(None, flags), missing);
    }
    let both = parse(file, &["--data-dir", "/d"]).unwrap();
    assert!(!format!("{both:?}").contains("postgres://x"));
}

#[test]
fn values_of_the_wrong_form_are_refused() {
    for (flag, value) in [
        ("--access-url", "ftp://example.com"),
        ("--access-url", "example.com"),
        ("--http-address", "127.0.0.1"),
        ("--http-address", "127.0.0.1:99999"),
        ("--wildcard-access-url", "example.com"),
        ("--agent-connection-update-frequency", "0s"),
        ("--api-max-minor", "-1"),
        ("--log-filter", "("),
        ("--max-agent-connections", "many"),
        ("--prometheus-collect-agent-stats", "maybe"),
        ("--postgres-conn-max-open", "1"),
        ("--postgres-conn-max-open", "262144"),
    ] {
        let error = parse(None, &["--data-dir", "/d", &format!("{flag}={value}")]).unwrap_err();
        assert!(
            error.starts_with(&format!("invalid value {value:?} for {flag} (env ")),
            "{error}"
        );
    }
}

#[test]
fn s2_116_labels_to_sum_up_by_are_known_ones() {
    let parsed = |flag| {
        parse(None, &["--data-dir", "/d", flag]).map(|config| config.prometheus_aggregate_agent_stats_by)
    };
    let labels = parsed("--prometheus-aggregate-agent-stats-by=username,agent_name");
    assert_eq!(labels, Ok(vec![AgentLabel::Username, AgentLabel::AgentName]));
    let error = parsed("--prometheus-aggregate-agent-stats-by=agent_name,colour").unwrap_err();
    assert_eq!(
        error,
        "invalid value \"colour\" for --prometheus-aggregate-agent-stats-by (env \
        CODER_PROMETHEUS_AGGREGATE_AGENT_STATS_BY): must be one of username, workspace_name, agent_name, template_name"
    );
    let mut all = Config::with_defaults("/d").prometheus_aggregate_agent_stats_by;
    all.sort_unstable();
    assert_eq!(all, AgentLabel::ALL);
}

#[test]
fn yaml_that_is_no_mapping_is_refused() {
    for file in [
        "- a\n",
        "just text",
        "a: [",
        "a: {b: 1, b: 2}",
        "experiments: [{a: 1}]",
    ] {
        assert!(parse(Some(file), &["--data-dir", "/d"]).is_err(), "{file}");
    }
    assert!(parse(Some("# nothing\n"), &["--data-dir", "/d"]).is_ok());
    assert!(parse(Some(""), &["--data-dir", "/d"]).is_ok());
}

#[test]
fn defaults_are_those_of_the_specification() {
    let config = Config::with_defaults("/d");
    assert_eq!(config.agent_connection_update_frequency, Duration::from_secs(15));
    assert_eq!(config.store_wait, Duration::from_mins(15));
    assert_eq!(config.shutdown_grace, Duration::from_secs(10));
    assert_eq!(config.api_max_minor, 8);
    assert!(!config.block_direct_connections);
}

#[test]
fn the_access_url_follows_the_listening_address() {
    let mut config = Config::with_defaults("/d");
    for (address, url) in [
        ("0.0.0.0:80", "http://127.0.0.1/"),
        ("[::]:3001", "http://127.0.0.1:3001/"),
        ("10.0.0.1:3000", "http://10.0.0.1:3000/"),
        // No URL can name a scope.
        ("[fe80::1%4]:3000", "http://[fe80::1]:3000/"),
    ] {
        assert_eq!(config.access_url_for(address.parse().unwrap()).as_str(), url);
    }
    config.common.access_url = Some(Url::parse("https://coder.example.com").unwrap());
    assert_eq!(
        config.access_url_for("0.0.0.0:80".parse().unwrap()).as_str(),
        "https://coder.example.com/"
    );
    assert_eq!(bare_access_url().as_str(), "http://127.0.0.1:3000/");
}

#[test]
fn every_setting_has_a_flag_and_an_environment_variable() {
    for arg in Config::augment_args(Command::new("drpcd")).get_arguments() {
        assert!(
            arg.get_long().is_some() && arg.get_env().is_some() && arg.get_help().is_some(),
            "{arg}"
        );
    }
}

/// The rows of the settings' table in docs/OPERATING.md.
fn documented() -> String {
    use std::fmt::Write as _;

    let mut text = String::from("| flag | variable | key | default | what |\n|---|---|---|---|---|\n");
    let command = Config::augment_args(clap::Command::new("server"));
    for arg in command.get_arguments() {
        let long = arg.get_long().unwrap();
        let env = arg.get_env().unwrap().to_string_lossy().into_owned();
        let key = match arg.get_id().as_str() {
            "config" => String::new(),
            key => format!("`{key}`"),
        };
        let defaults = arg.get_default_values().first();
        let default = match defaults.map(|value| value.to_string_lossy()) {
            Some(value) if !value.is_empty() => format!("`{value}`"),
            _ => String::new(),
        };
        let help = arg.get_help().unwrap().to_string();
        writeln!(text, "| `--{long}` | `{env}` | {key} | {default} | {help} |").unwrap();
    }
    text
}

#[test]
fn every_setting_is_documented_as_it_is() {
    let operating = include_str!("../../docs/OPERATING.md");
    assert!(
        operating.contains(&documented()),
        "the table should be:\n{}",
        documented()
    );
}
